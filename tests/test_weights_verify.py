"""Weights put to the test: strict loading, counts, a restoration compared with the first; fetching alone; hints of errors."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
import yaml

from tests import dmsr, resshift, stablesr, tiny
from tests.upscaling import save_pipeline
from upsr.archs.lpips_network import _backbone
from upsr.atomic import held
from upsr.cli import main
from upsr.compat import LOSS_REGISTRY
from upsr.config.load import parse_options
from upsr.config.methods import method_names
from upsr.engine.setup import checked_options
from upsr.errors import UpsrError
from upsr.evaluation.entries import ENTRIES
from upsr.losses import LatentLPIPSLoss
from upsr.methods import build_method, build_training
from upsr.methods.resshift.files import released_options
from upsr.pipeline.files import load_model
from upsr.pipeline.verification import TOLERANCE, restored_values
from upsr.weights.catalogue import FOLDER, Entry, File, Source, entries_of, fetch_hint, read_catalogue
from upsr.weights.fetch import Network, fetch_file
from upsr.weights.lock import Lock

NET = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_conv": 2, "upscale": 4}
SOURCES = [Source(address="http://127.0.0.1:9/net.pth")]


def network(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a network that spandrel knows."""
    from basicsr.archs.srvgg_arch import SRVGGNetCompact

    return dict(tiny.random_weights(SRVGGNetCompact(**NET), seed).state_dict())


COUNT = sum(value.numel() for value in network().values())


@pytest.fixture
def catalogue(monkeypatch):
    """Puts entries in the place of the published ones."""

    def put(**entries: Entry) -> None:
        monkeypatch.setattr("upsr.commands.weights.read_catalogue", lambda: entries)
        monkeypatch.setattr("upsr.weights.catalogue.read_catalogue", lambda: entries)

    return put


def entry(**facts: object) -> Entry:
    return Entry(**{"files": {"net.pth": File()}, "sources": SOURCES, "method": "sr", **facts})


@pytest.fixture
def folder(tmp_path, catalogue):
    catalogue(Net=entry(parameters={"g": COUNT}))
    torch.save({"params": network()}, tmp_path / "net.pth")
    return tmp_path


def verify(folder: Path, *arguments: str, name: str = "Net") -> int:
    return main(["weights", "verify", name, "--to", str(folder), *arguments])


def test_the_first_time_is_recorded_and_the_next_compared_with_it(folder, capsys):
    assert verify(folder) == 0
    said = capsys.readouterr().out
    assert f"loads (g {COUNT:,} parameters); its restoration is recorded" in said
    assert Lock(folder).digest("net.pth") is not None
    assert len(json.loads((folder / "weights.lock.json").read_text())["restored"]["Net"]) == 192
    assert verify(folder) == 0
    assert "median difference 0.000 grey levels" in capsys.readouterr().out


def flipped(weights, name):
    weights[f"{name[1::-1]}{name[2:]}"] = weights.pop(name)


def reshaped(weights, name):
    weights[name] = weights[name][:-1]


def unsound(weights, name):
    weights[name].flatten()[3] = torch.nan


def one_too_many(weights, name):
    weights[f"{name}.extra"] = torch.zeros(3)


@pytest.mark.parametrize("damage", [flipped, reshaped, unsound, one_too_many])
def test_a_tensor_out_of_place_is_one_line_and_nothing_is_recorded(folder, damage, capsys):
    weights = network()
    damage(weights, "body.2.bias")
    torch.save({"params": weights}, folder / "net.pth")
    assert verify(folder, "--quick") == 0  # the digest is not known
    capsys.readouterr()
    assert verify(folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Net: ")
    assert error.count("\n") == 1
    assert not (folder / "weights.lock.json").exists()


@pytest.mark.parametrize("damage", [flipped, reshaped, unsound, one_too_many])
def test_a_registered_network_is_filled_strictly(folder, damage, catalogue, capsys):
    codec = resshift.released_vq(**resshift.VQ_TINY)
    weights = {name: value.clone() for name, value in codec.other_layouts()[1].items()}
    count = sum(p.numel() for p in codec.parameters())
    catalogue(
        Net=entry(method=None, network={"type": "VQAutoencoder", **resshift.VQ_TINY}, parameters={"network": count})
    )
    torch.save(weights, folder / "net.pth")
    assert verify(folder) == 0
    assert f"network {count:,} parameters" in capsys.readouterr().out
    (folder / "weights.lock.json").unlink()
    damage(weights, next(iter(weights)))
    torch.save(weights, folder / "net.pth")
    assert verify(folder) == 2
    assert "net.pth: " in capsys.readouterr().err


def test_a_changed_file_is_another_one(folder, capsys):
    assert verify(folder) == 0
    weights = network()
    weights["body.2.bias"][3] += 1e-3
    torch.save({"params": weights}, folder / "net.pth")
    for arguments in ((), ("--quick",)):
        assert verify(folder, *arguments) == 2
        assert "sha256" in capsys.readouterr().err


def test_another_restoration_than_the_first_is_refused_with_the_remedy(folder, capsys):
    assert verify(folder) == 0
    lock = folder / "weights.lock.json"
    data = json.loads(lock.read_text())
    data["restored"]["Net"] = [value + 2 * TOLERANCE for value in data["restored"]["Net"]]
    lock.write_text(json.dumps(data))
    capsys.readouterr()
    assert verify(folder) == 2
    error = capsys.readouterr().err
    assert "differs by 0.06 grey levels from that of weights.lock.json" in error
    assert "remove 'Net' under 'restored'" in error
    assert verify(folder, "--quick") == 0


def test_arithmetic_of_other_machines_is_tolerated_and_other_weights_are_not(folder):
    values = restored_values(load_model(folder / "net.pth")[0])
    method = load_model(folder / "net.pth")[0].double()
    with torch.no_grad():
        for parameter in method.parameters():  # as far apart as float32 and its neighbour
            parameter.mul_(1 + 2**-23)
    near = restored_values(method.float())
    assert max(abs(a - b) for a, b in zip(values, near, strict=True)) <= TOLERANCE / 2
    torch.save({"params": network(1)}, folder / "net.pth")
    other = restored_values(load_model(folder / "net.pth")[0])
    assert sum(abs(a - b) > 10 * TOLERANCE for a, b in zip(values, other, strict=True)) > 150


def test_the_catalogue_s_own_record_goes_before(folder, catalogue, capsys):
    values = restored_values(load_model(folder / "net.pth")[0])
    catalogue(Net=entry(restored=values))
    assert verify(folder) == 0
    assert "restores as in the catalogue" in capsys.readouterr().out
    catalogue(Net=entry(restored=[value + 1 for value in values]))
    assert verify(folder) == 2
    assert "from that of the catalogue" in capsys.readouterr().err
    catalogue(Net=entry(restored=values[:64]))
    assert verify(folder) == 2
    assert "192 values" in capsys.readouterr().err


def test_the_number_of_parameters_is_the_published_one(folder, catalogue, capsys):
    catalogue(Net=entry(parameters={"g": COUNT + 1}))
    assert verify(folder) == 2
    assert f"g has {COUNT:,} parameters in place of {COUNT + 1:,}" in capsys.readouterr().err


def test_what_nothing_loads_is_compared_by_digest_alone(folder, catalogue, capsys):
    catalogue(Net=entry(method=None))
    assert verify(folder) == 0
    assert "digests only" in capsys.readouterr().out


def test_what_is_converted_is_loaded_from_there_and_its_files_recorded(folder, catalogue, capsys):
    command = "upsr convert upsr net.pth -o experiments/pretrained_models/made/"
    catalogue(Net=entry(method="upsr", then=command))
    assert verify(folder) == 0
    assert f"to load it: {command}" in capsys.readouterr().out
    save_pipeline(folder / "made")
    assert verify(folder) == 0
    assert "loads (denoiser" in capsys.readouterr().out
    assert verify(folder) == 0
    assert "median difference 0.000" in capsys.readouterr().out
    file = folder / "made/g.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert verify(folder) == 2
    assert f"error: {file}: sha256" in capsys.readouterr().err


def test_a_repository_s_networks_are_loaded_strictly(tmp_path, catalogue, capsys):
    from safetensors.torch import load_file, save_file

    stablesr.tiny_backbone(tmp_path / "sd")
    catalogue(Net=Entry(repository="someone/sd", folder="sd"))
    assert verify(tmp_path) == 0
    assert "loads (unet 1,6" in capsys.readouterr().out
    (file,) = (tmp_path / "sd/vae").glob("*.safetensors")
    good = load_file(file)
    first = next(iter(good))
    bad_ones = [{f"x{name}" if name == first else name: value for name, value in good.items()},
                {**good, first: torch.full_like(good[first], torch.nan)}]  # fmt: skip
    for bad in bad_ones:
        save_file(bad, file)
        (tmp_path / "weights.lock.json").unlink()
        assert verify(tmp_path) == 2
        assert capsys.readouterr().err.startswith("error: Net: ")
        save_file(good, file)
        assert verify(tmp_path) == 0
        capsys.readouterr()


def test_a_loss_reads_its_file(tmp_path, catalogue, capsys):
    import torchvision

    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "net.pth")
    catalogue(Net=entry(method=None, loss={"type": "LPIPSLoss", "net": "squeeze", "backbone_path": "net.pth"}))
    assert verify(tmp_path) == 0
    assert "loads (loss 724,736 parameters)" in capsys.readouterr().out
    torch.save(network(), tmp_path / "net.pth")
    (tmp_path / "weights.lock.json").unlink()
    assert verify(tmp_path) == 2
    assert "features.0.weight is missing" in capsys.readouterr().err


def test_the_catalogue_says_what_its_files_are_as_the_entries_do():
    for name, known in read_catalogue().items():
        assert known.method is None or known.method in method_names(), name
        assert set(known.parts.values()) <= set(known.files), name
        if known.loss is not None:
            assert known.loss["type"] in LOSS_REGISTRY, name
            assert set(known.loss.values()) & set(known.files), name
        assert known.made is None or known.method is not None, name
        for used in (used for used in known.used_by if used in ENTRIES.names()):
            expected = ENTRIES.read(used).expected
            if known.parameters and expected.parameters:
                first, *others = known.parameters.values()
                assert first == expected.parameters, used
                assert sum(others) == (expected.aux_parameters or 0), used


def test_a_second_fetch_of_a_file_waits_and_finds_it(tmp_path):
    said, waiting, results = [], threading.Event(), []

    def report(line: str) -> None:
        said.append(line)
        waiting.set()

    def fetch() -> None:
        results.append(fetch_file("net.pth", File(), SOURCES, tmp_path, Network(attempts=1), report))

    second = threading.Thread(target=fetch)
    with held(tmp_path / "net.pth"):
        second.start()
        assert waiting.wait(30)
        torch.save(network(), tmp_path / "net.pth")
    second.join(30)
    assert said == ["net.pth: another process is fetching it; waiting for it"]
    assert results
    assert results[0].startswith("is here already")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pth", "weights.lock.json"]


def test_one_holds_at_a_time_though_each_removes_the_file(tmp_path):
    inside, most = [], []

    def work() -> None:
        for _ in range(50):
            with held(tmp_path / "x"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 200
    assert set(most) == {1}
    assert list(tmp_path.iterdir()) == []


def test_records_of_two_processes_do_not_replace_each_other(tmp_path):
    one, other = Lock(tmp_path), Lock(tmp_path)
    one.add("a.pth", "0" * 64, 1, "here")
    other.add("b.pth", "1" * 64, 1, "there")
    other.accept("Net")
    one.add_restored("Net", [1.0])
    both = Lock(tmp_path)
    assert (both.digest("a.pth"), both.digest("b.pth")) == ("0" * 64, "1" * 64)
    assert both.accepted("Net")
    assert both.restored("Net") == [1.0]


def test_a_digest_may_be_known_by_its_first_digits(folder, catalogue, capsys):
    from upsr.provenance import file_digest

    first = file_digest(folder / "net.pth")[:8]
    catalogue(Net=entry(files={"net.pth": File(sha256=first)}))
    assert verify(folder, "--quick") == 0
    Lock(folder).add("net.pth", first + "0" * 56, 1, "another of the same beginning")
    assert verify(folder, "--quick") == 2
    assert "(weights.lock.json)" in capsys.readouterr().err
    catalogue(Net=entry(files={"net.pth": File(sha256="0" * 8 if first != "0" * 8 else "1" * 8)}))
    assert verify(folder, "--quick") == 2
    assert "(catalogue)" in capsys.readouterr().err


def test_hints_name_the_folder_of_a_known_file():
    assert fetch_hint(["/data/upsr.pth"]).endswith("upsr weights fetch UPSR --to /data")
    assert fetch_hint([FOLDER / "ldm-sr/unet"]).endswith("upsr weights fetch LDM-SR")
    assert fetch_hint(["stabilityai/sd-turbo"]).endswith("upsr weights fetch SD-Turbo")
    assert fetch_hint(["mine/last.ckpt"]) == ""
    assert fetch_hint([FOLDER / "upsr.pth", FOLDER / "atd_real.pth"]).endswith("upsr weights fetch UPSR")


def test_missing_files_outside_the_entries_name_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    upscaler = {
        "name": "x", "datasets": {"val": {"type": "FolderDataset", "dataroot_lq": str(tmp_path)}}, "method": "sr", "scale": 4,
        "network_g": {"type": "SpandrelSR", "path": str(FOLDER / "RealESRGAN_x4plus.pth")}, "path": {},
    }  # fmt: skip
    with pytest.raises(UpsrError, match=r"upsr weights fetch RealESRGAN$"):
        build_method(parse_options(upscaler, "test"))
    Path("mine.yml").write_text(yaml.safe_dump(upscaler))
    with pytest.raises(UpsrError, match=r"network_g.path: no such file: .*fetch RealESRGAN"):
        checked_options("mine.yml", [], "test")
    with pytest.raises(UpsrError, match=r"no such file or folder.*upsr weights fetch RealESRGAN$"):
        load_model(FOLDER / "RealESRGAN_x4plus.pth")
    codec = resshift.tiny_options(tmp_path, tmp_path)
    codec["autoencoder"] = {"type": "KLAutoencoder", "path": str(FOLDER / "ldm-sr")}
    with pytest.raises(UpsrError, match=r"no autoencoder of diffusers.*upsr weights fetch LDM-SR$"):
        build_method(parse_options(codec, "test"))
    backbone = {"name": "x", "datasets": {}, "method": "ldm", "backbone": str(FOLDER / "ldm-sr")}
    with pytest.raises(UpsrError, match=r"no such folder.*upsr weights fetch LDM-SR$"):
        build_method(parse_options(backbone, "test"))
    with pytest.raises(
        UpsrError, match=r"--part autoencoder=FILE\); fetch them: upsr weights fetch ResShift-autoencoder"
    ):
        released_options(FOLDER / "SinSR_v1.pth", ["input_blocks.0.0.weight", "out.2.weight"], None)
    latent = {"type": "LatentLPIPSLoss", "weights": str(FOLDER / "vgg16_sdturbo_lpips.pth")}
    training = dmsr.tiny_options(tmp_path, tmp_path, train={"perceptual_opt": latent})
    with pytest.raises(UpsrError, match=r"LatentLPIPSLoss.weights: .*upsr weights fetch InvSR-latent-LPIPS$"):
        build_training(parse_options(training, "test"))
    with pytest.raises(UpsrError, match="upsr weights fetch InvSR-latent-LPIPS"):
        LatentLPIPSLoss()


def test_imagenet_backbones_that_messages_name_are_in_the_catalogue():
    from torchvision.models import VGG19_Weights

    for weights in (*(_backbone(net) for net in ("vgg", "alex", "squeeze")), VGG19_Weights.IMAGENET1K_V1):
        name = Path(weights.url).name
        (found,) = entries_of(name).values()
        assert str(found.sources[0]) == f"address {weights.url}"
        assert f"-{found.files[name].sha256}." in name
