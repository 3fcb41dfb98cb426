"""`upsr convert`: weights of any method as a folder that restores the same to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests import diffsr, tiny, training
from tests.test_cli import ended
from tests.test_method_contract import CASES, options, root  # noqa: F401  (a fixture)
from tests.test_weights_verify import NET, network
from upsr.config.schema import CommonOptions
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train
from upsr.methods import Method, build_method
from upsr.pipeline.files import load_model
from upsr.restoring import ModelRestorer
from upsr.weights.catalogue import FOLDER, Entry, File, Source

TRAINED = [name for name, case in CASES.items() if case.changes is not None]


def restored(method: Method) -> Tensor:
    lq = torch.rand(1, method.facts.channels, 16, 24, generator=torch.Generator().manual_seed(0))
    return ModelRestorer(method.eval(), seed=0)(lq, ["a"])


def same(folder: Path, method: Method) -> bool:
    """The saved folder restores as the method, to the bit."""
    return torch.equal(restored(load_model(folder)[0]), restored(method))


def files_of(method: Method, folder: Path) -> dict[str, Path]:
    """Weights of the parts that have files, in BasicSR's layout."""
    found = {}
    for part in method.weight_keys:
        if part in method.parts():
            found[part] = folder / f"net_{part}_7.pth"
            torch.save({"params": method.parts()[part].state_dict()}, found[part])
    return found


def random_method(opt: CommonOptions) -> Method:
    method = build_method(opt)
    for seed, part in enumerate(method.parts().values()):
        tiny.random_weights(part, seed)
    if method.folder_keys:  # those in the folder stay
        frozen = build_method(opt)
        for part in method.folder_keys:
            method.parts()[part].load_state_dict(frozen.parts()[part].state_dict())
    return method


@pytest.mark.parametrize("name", TRAINED)
def test_weights_under_an_option_file_restore_the_same_from_the_folder(root: Path, name: str, tmp_path: Path, capsys):  # noqa: F811
    opt = options(root, name)
    method = random_method(opt)
    files = files_of(method, tmp_path)
    data = opt.model_dump(mode="json", exclude_unset=True)
    data["path"] = {"allow_random_weights": False}
    Path(tmp_path / "plain.yml").write_text(yaml.safe_dump(data))
    data["path"] |= {method.weight_keys[part]: str(file) for part, file in files.items()}
    Path(tmp_path / "named.yml").write_text(yaml.safe_dump(data))
    first, *others = files
    parts = [argument for part in others for argument in ("--part", f"{part}={files[part]}")]
    ways = {"under": (files[first], "--opt", tmp_path / "plain.yml", *parts), "named": (tmp_path / "named.yml",)}
    for way, arguments in ways.items():
        assert ended("convert", *map(str, arguments), "-o", str(tmp_path / way)) == 0, capsys.readouterr().err
        assert same(tmp_path / way, method)
        for part in files:
            assert (tmp_path / way / f"{part}.safetensors").is_file()


def test_a_run_s_checkpoint_restores_the_same(tmp_path):
    tiny.save_pictures(tmp_path / "photos", 2)
    data = training.tiny_options(tmp_path, tmp_path / "photos", train={"total_iter": 1, "warmup_iter": 1})
    data["logger"]["save_checkpoint_freq"] = 1
    from upsr.config.load import parse_options

    run = train(parse_options(data, "test"), Runtime(torch.device("cpu")))
    for source in (run, run / "models/net_g_1.pth"):
        out = tmp_path / f"out-{source.name}"
        assert ended("convert", str(source), "-o", str(out)) == 0
        assert same(out, load_model(source)[0])


def test_folders_of_diffusers_restore_the_same(tmp_path):
    tiny.ldm_options(tmp_path / "ldm-sr")
    import diffusers

    arguments = {key: value for key, value in diffsr.UNET.items() if key != "type"}
    kinds = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    diffusers.UNet2DModel(in_channels=3, out_channels=3, **arguments, **kinds).save_pretrained(tmp_path / "ddpm")
    for name, method in (("ldm-sr", "ldm"), ("ddpm", "diffsr")):
        out = tmp_path / f"{method}-out"
        assert ended("convert", str(tmp_path / name), "--method", method, "-o", str(out)) == 0
        assert same(out, load_model(tmp_path / name, method=method)[0])


def test_a_network_that_spandrel_knows_restores_the_same_and_half_as_large(tmp_path, capsys):
    torch.save({"params": network()}, tmp_path / "net.pth")
    method = load_model(tmp_path / "net.pth")[0]
    assert ended("convert", str(tmp_path / "net.pth"), "-o", str(tmp_path / "out")) == 0
    assert "g 0.0" in capsys.readouterr().out
    assert same(tmp_path / "out", method)
    assert ended("convert", str(tmp_path / "net.pth"), "--dtype", "float16", "-o", str(tmp_path / "half")) == 0
    sizes = [(tmp_path / name / "g.safetensors").stat().st_size for name in ("half", "out")]
    assert sizes[0] < 0.7 * sizes[1]
    assert {value.dtype for value in load_file(tmp_path / "half/g.safetensors").values()} == {torch.float16}
    assert not same(tmp_path / "half", method)
    assert (restored(load_model(tmp_path / "half")[0]) - restored(method)).abs().max() < 0.01
    assert ended("convert", str(tmp_path / "half"), "--dtype", "float16", "-o", str(tmp_path / "again")) == 0
    assert same(tmp_path / "again", load_model(tmp_path / "half")[0])


def test_the_released_upsr_restores_the_same(root, tmp_path, monkeypatch):  # noqa: F811
    import upsr.methods.upsr.files as released

    opt = options(root, "upsr")
    sections = opt.model_dump(mode="json", exclude_unset=True)
    of_model = {key: sections[key] for key in ("model_type", "network_g", "network_aux", "diffusion")}
    monkeypatch.setattr(released, "RELEASED", of_model)  # the released shapes are too large for a test
    method = random_method(opt)
    files = files_of(method, tmp_path)
    for source in (str(files["denoiser"]), "UPSR"):
        if source == "UPSR":  # by its name, where the command fetches to
            monkeypatch.chdir(tmp_path)
            FOLDER.mkdir(parents=True)
            files["denoiser"].rename(FOLDER / "upsr.pth")
            files["g"].rename(FOLDER / "atd_real.pth")
        parts = ["--part", f"g={files['g']}"] if source != "UPSR" else []
        out = tmp_path / f"out-{Path(source).stem}"
        assert ended("convert", source, *parts, "-o", str(out)) == 0
        assert same(out, method)


def test_an_autoencoder_in_the_released_layout_restores_the_same(root, tmp_path):  # noqa: F811
    opt = options(root, "sinsr")
    method = random_method(opt)
    files = files_of(method, tmp_path)
    torch.save(
        {n: v.clone() for n, v in method.parts()["autoencoder"].other_layouts()[1].items()}, files["autoencoder"]
    )
    data = opt.model_dump(mode="json", exclude_unset=True) | {"path": {}}
    Path(tmp_path / "mine.yml").write_text(yaml.safe_dump(data))
    arguments = (
        "--opt",
        tmp_path / "mine.yml",
        "--part",
        f"autoencoder={files['autoencoder']}",
        "-o",
        tmp_path / "out",
    )
    assert ended("convert", str(files["denoiser"]), *map(str, arguments)) == 0
    assert same(tmp_path / "out", method)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a network's file and an option file for it."""
    monkeypatch.chdir(tmp_path)
    torch.save({"params": network()}, "net.pth")
    mine = {"name": "x", "datasets": {}, "method": "sr", "scale": 4, "path": {}}
    Path("mine.yml").write_text(
        yaml.safe_dump(mine | {"network_g": {"type": "CompactSR", "num_feat": 8, "num_block": 1}})
    )
    Path("own.yml").write_text(yaml.safe_dump(mine | {"network_g": {"type": "SpandrelSR", "path": "net.pth"}}))
    torch.save({"w": torch.nn.Linear}, "program.pth")
    weights = network()
    weights["body.0.bias"][0] = 1e6
    torch.save({"params": weights}, "large.pth")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("absent.pth",), ("absent.pth: no such file or folder",)),
        (("net.pth", "--opt", "mine.yml"), ("net.pth", "missing")),
        (("net.pth", "--opt", "absent.yml"), ("absent.yml: no such option file",)),
        (("net.pth", "--opt", "own.yml"), ("own.yml", "g names a file of its own")),
        (("net.pth", "--opt", "mine.yml", "--part", "h=net.pth"), ("h", "would not be read", "mine.yml")),
        ((".", "--opt", "mine.yml"), ("goes with weight files",)),
        (("program.pth",), ("program.pth", "run as a program")),
        (("large.pth", "--dtype", "float16"), ("large.pth", "g holds values that are not finite in float16")),
        (("UPSR",), ("upsr weights fetch UPSR",)),
        (("sr", "net.pth"), ("upsr convert WEIGHTS --method sr",)),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(place, arguments, words, capsys):
    assert ended("convert", *arguments, "-o", "out") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert error.count("\n") == 1
    assert not list(place.glob("*out*"))


def test_a_folder_with_something_in_it_is_not_written_to(place, capsys):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert ended("convert", "net.pth", "-o", "out") == 2
    assert "out: exists already" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


def test_a_fetched_entry_goes_by_its_name(place, monkeypatch):
    entries = {"Net": Entry(files={"net.pth": File()}, sources=[Source(address="http://127.0.0.1:9/x")], method="sr")}
    monkeypatch.setattr("upsr.pipeline.files.read_catalogue", lambda: entries)
    FOLDER.mkdir(parents=True)
    Path("net.pth").rename(FOLDER / "net.pth")
    assert ended("convert", "Net", "-o", "out") == 0
    assert same(Path("out"), load_model(FOLDER / "net.pth")[0])
    assert NET["upscale"] == load_model("Net")[0].facts.scale
