"""Stage two of StableSR: triples that do not depend on how they are made, and the training of fusion blocks on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.processes import one_thread, run_fork, trained_by_two
from upsr.archs.patchgan import PatchDiscriminator
from upsr.cli import main
from upsr.config.load import load_options, merged, parse_options, read_options
from upsr.data import ImageDataset, SampleId, TripleDataset
from upsr.data.datasets import ImageFolder
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import Trainer, train
from upsr.errors import UpsrError
from upsr.evaluation.triples import TripleMaker
from upsr.methods import build_training
from upsr.pipeline.files import load_model
from upsr.rng import torch_generator

pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")

CPU = Runtime(torch.device("cpu"))
FILES = Path(__file__).parents[1] / "options" / "stablesr"
FALL = 0.75
"""Of the mean loss of the first ten iterations, 30 later."""
single = pytest.fixture(autouse=True)(one_thread)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Photos, and the options of a stage one, whose networks are random but no layer is without effect."""
    root = tmp_path_factory.mktemp("cfw")
    tiny.save_pictures(root / "photos", 3)
    options = {"base": str(FILES / "tiny_sft.yml"), "name": "first"}
    (root / "random.yml").write_text(yaml.safe_dump(options))
    model, _ = load_model(root / "random.yml")
    conditioning = tiny.random_weights(model.parts()["conditioning"]).state_dict()
    save_file({name: value.contiguous() for name, value in conditioning.items()}, root / "g.safetensors")
    options["path"] = {"pretrain_network_g": str(root / "g.safetensors")}
    (root / "first.yml").write_text(yaml.safe_dump(options))
    return root


def arguments(root: Path, out: str, **changes: Any) -> list[str]:
    given = {
        "images": root / "photos", "number": 6, "steps": 2, "per_shard": 2, "dtype": "float32", "out": root / out, **changes,
    }  # fmt: skip
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    return ["stablesr", "triples", str(root / "first.yml"), *options]


@pytest.fixture(scope="module")
def triples(root) -> Path:
    """Three shards of two, made by one process in one go."""
    with one_thread():
        assert main(arguments(root, "triples")) == 0
    return root / "triples"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def items(folder: Path) -> list[dict[str, Any]]:
    dataset = TripleDataset(str(folder / "index.json"))
    return [dataset[SampleId(0, number)] for number in range(len(dataset))]


# Triples.


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(root, triples):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "upsr"]
    done = run_fork(*launcher, *arguments(root, "two"), environment={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(b"6 triples") == 1
    assert content(root / "two") == content(triples)


def test_a_stopped_run_goes_on_to_the_same_bytes(root, triples, monkeypatch):
    original = TripleMaker.sampled

    def stopping(self, lq, numbers):
        if 3 in numbers:
            raise KeyboardInterrupt
        return original(self, lq, numbers)

    monkeypatch.setattr(TripleMaker, "sampled", stopping)
    target = root / "stopped"
    assert main(arguments(root, "stopped")) == 130
    assert {path.name for path in target.iterdir()} == {"recipe.json", "triples-000000.tar"}
    (target / ".triples-000001.tar.killed.part").write_bytes(b"of a killed run")
    monkeypatch.undo()
    before = (target / "triples-000000.tar").stat().st_mtime_ns
    assert main(arguments(root, "stopped")) == 0
    assert (target / "triples-000000.tar").stat().st_mtime_ns == before
    assert content(target) == content(triples)


def test_neither_batches_nor_shards_change_a_triple(root, triples):
    assert main(arguments(root, "batched", number=5, per_shard=3, batch=2)) == 0
    for one, other in zip(items(triples), items(root / "batched"), strict=True):
        assert one["key"] == other["key"]
        assert torch.equal(one["gt"], other["gt"])
        assert torch.equal(one["lq"], other["lq"])
        torch.testing.assert_close(one["z_0"], other["z_0"], atol=2e-3, rtol=2e-3)  # float16
    assert len({item["z_0"].numpy().tobytes() for item in items(triples)}) == 6


def test_a_latent_is_what_restoring_from_the_noised_lr_latent_decodes(root, triples, monkeypatch):
    model, _ = load_model(root / "first.yml")
    method: Any = model.adjusted(steps=2, start="noised_lr", colour="none")
    maker = TripleMaker(method, load_options(root / "first.yml").degradation, ImageFolder(str(root / "photos"), 3))
    stored = items(triples)[1]
    ((gt, lq),) = maker._pairs(1, 2)
    assert torch.equal(stored["gt"], torch.from_numpy(gt).permute(2, 0, 1))
    assert torch.equal(stored["lq"], lq.half().float())
    assert not torch.equal(lq, (255 * lq).round() / 255)
    decoded = []
    original = method.autoencoder.decode
    monkeypatch.setattr(method.autoencoder, "decode", lambda z, *more: decoded.append(z.clone()) or original(z, *more))
    shape = method.facts.noise_shape(16, 16)
    with torch.inference_mode():
        method.restore(
            lq[None],
            lambda k: torch.randn(shape, generator=torch_generator(0, "triple", 1, "noise", k))[None],
        )
    torch.testing.assert_close(decoded[-1][0], stored["z_0"], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "its shards were made with another seed"),
        ({"steps": 3}, "its shards were made with another sampling"),
        ({"out": "new", "size": 32}, "size: 32; give at least 64"),
        ({"out": "new", "number": 0}, "--number: give at least 1"),
        ({"out": "new", "images": "nowhere"}, "nowhere: no such folder"),
        ({"out": "new", "opt": "nowhere.yml"}, "--opt:"),
    ],
)
def test_a_mistake_is_one_line(root, triples, capsys, tmp_path, changes, message):
    changes = {**changes, "out": tmp_path / "new"} if "out" in changes else changes
    assert main(arguments(root, **{"out": "triples", **changes})) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "new").exists()


def test_a_damaged_or_other_index_is_refused(root, triples, tmp_path):
    assert main(["data", "shards", "--input", str(root / "photos"), "--output", str(tmp_path / "photos")]) == 0
    with pytest.raises(UpsrError, match="not the index of triples"):
        TripleDataset(str(tmp_path / "photos" / "index.json"))


# Training.


def options(root: Path, name: str, **changes: Any) -> Any:
    """Options of tiny_cfw.yml; the discriminator has a part from the third iteration on."""
    data = read_options(FILES / "tiny_cfw.yml")
    own = {
        "name": name,
        "num_gpu": 0,
        "auto_resume": True,
        "datasets": {"train": {"index": str(root / "triples" / "index.json"), "batch_size_per_gpu": 2}},
        "path": {"pretrain_network_g": str(root / "g.safetensors"), "experiments_root": str(root / "runs")},
        "train": {"total_iter": 4, "warmup_iter": 0, "adversarial": {"start": 2}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2},
    }
    return merged(merged(data, own), changes)


def run(data: dict[str, Any]) -> Path:
    return train(parse_options(data, "test"), CPU)


def players(folder: Path, iteration: int) -> dict[str, Any]:
    state = torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True)
    own: dict[str, Any] = state["players"]
    return own


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(root, triples) -> Path:
    with one_thread():
        return run(options(root, "whole"))


def test_two_and_two_iterations_are_four(root, whole):
    run(options(root, "halves", train={"total_iter": 2}))
    halves = run(options(root, "halves"))
    assert "resumed from" in (halves / "train.log").read_text()
    for player, expected in players(whole, 4).items():
        found = players(halves, 4)[player]
        assert same(found["params"], expected["params"])
        for number, moments in expected["optimizer"]["state"].items():
            assert same(found["optimizer"]["state"][number], moments)


def test_the_discriminator_is_as_it_was_until_its_start(root, whole):
    fresh: Any = build_training(parse_options(options(root, "fresh"), "test"))
    begun, half, last = fresh.discriminator.state_dict(), players(whole, 2), players(whole, 4)
    assert same(half["d"]["params"], begun)
    assert not any(torch.equal(last["d"]["params"][name], begun[name]) for name in begun)
    assert not same(half["cfw"]["params"], fresh.method.autoencoder.cfw.state_dict())


def test_only_fusion_blocks_and_discriminator_are_saved(root, whole):
    training: Any = build_training(parse_options(options(root, "names"), "test"))
    own = {"cfw": training.method.autoencoder.cfw.state_dict(), "d": training.discriminator.state_dict()}
    state = players(whole, 4)
    assert {name: player["params"].keys() for name, player in state.items()} == {n: w.keys() for n, w in own.items()}
    assert all(player["params_ema"] == {} for player in state.values())


def test_everything_else_stays_to_the_bit(root, triples):
    data = options(root, "frozen", train={"adversarial": {"start": 0}})
    trainer = Trainer(parse_options(data, "test"), CPU, root / "frozen")
    trainer.resume()
    trainer.data.open(trainer.sampler)
    training: Any = trainer.training
    before = {name: value.clone() for name, value in training.state_dict().items()}
    for iteration in range(2):
        trainer.step(iteration, trainer.data.micro_batches(iteration, trainer.sampler), meanwhile=lambda: None)
    after = training.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("discriminator.", "method.autoencoder.cfw."))}


@pytest.mark.slow
def test_the_loss_falls_and_the_run_restores_with_the_weights_of_both_stages(root, triples):
    data = options(root, "learning", train={"total_iter": 40, "warmup_iter": 5}, logger={"save_checkpoint_freq": 1000})
    folder = run(data)
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    losses = [float(value) for _, tag, value in lines if tag.endswith("cfw/l_pix")]
    assert len(losses) == 40
    assert sum(losses[-10:]) < FALL * sum(losses[:10])
    weights = folder / "models" / "net_cfw_latest.safetensors"
    for source in (folder, weights):
        model, _ = load_model(source)
        assert same(model.parts()["cfw"].state_dict(), load_file(weights))
        assert same(model.parts()["conditioning"].state_dict(), load_file(root / "g.safetensors"))


@pytest.mark.slow
def test_two_processes_train_what_one_does(root, triples):
    adam = {"lr": 1e-3, "eps": 1e-2}
    steps = {"total_iter": 3, "adversarial": {"start": 1}, "optim_cfw": adam, "optim_d": adam}
    # With seed 0 the discriminator comes so near to a bend of its activations that rounding decides on its side: 4e-5 on Zen 4.
    train = {"train": steps, "manual_seed": 2}
    one = run(options(root, "one", datasets={"train": {"batch_size_per_gpu": 4}}, **train))
    two = trained_by_two(options(root, "two of them", **train))
    fresh: Any = build_training(parse_options(options(root, "of one", manual_seed=2), "test"))
    for name, begun in (("cfw", fresh.method.autoencoder.cfw), ("d", fresh.discriminator)):
        a, b = (players(folder, 3)[name]["params"] for folder in (one, two))
        assert max(float((a[n] - b[n]).abs().max()) for n in a) < 1e-6
        assert max(float((a[n] - value).abs().max()) for n, value in begun.state_dict().items()) > 1e-4


class CropsAlone(ImageDataset):
    """Triples without latents."""

    channels = 3

    def __init__(self) -> None:
        self.keys, self.gt_size = ["one"], 64

    def bind(self, seed, degradation):
        """Nothing is drawn."""

    def __getitem__(self, sample):
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        return {"gt": image, "key": "one", "unreadable": []}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 2}, "its triples are x4, but scale is 2"),
        ({"cfw": None}, "cfw: phase cfw trains the fusion blocks"),
        ({"degradation": {"usm_gt": True}}, "degradation: TripleDataset's images are degraded already"),
        ({"datasets": {"train": {"type": "tests.test_stablesr_cfw.CropsAlone"}}}, "phase cfw needs a TripleDataset"),
    ],
)
def test_what_does_not_fit_is_refused(root, triples, changes, message):
    data = options(root, "refused", **changes)
    if "datasets" in changes:
        data["datasets"]["train"] = {**changes["datasets"]["train"], "batch_size_per_gpu": 1}
    with pytest.raises(UpsrError, match=message):
        run(data)


# The discriminator.


@pytest.mark.parametrize(("norm", "parameters"), [("batch", 2_765_633), ("group", 2_765_633), ("none", 2_764_737)])
def test_the_discriminator_of_full_size(norm, parameters):
    discriminator = PatchDiscriminator(norm=norm)
    assert sum(p.numel() for p in discriminator.parameters()) == parameters
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = discriminator(images)
        assert logits.shape == (2, 1, 6, 6)
        alone = discriminator(images[:1])
    assert torch.allclose(logits[:1], alone, atol=1e-5) == (norm != "batch")


def test_a_logit_sees_a_patch_of_70():
    discriminator = PatchDiscriminator(width=8, norm="none")
    image = torch.randn(1, 3, 128, 128, requires_grad=True)
    discriminator(image)[0, 0, 7, 7].backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 70
