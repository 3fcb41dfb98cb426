"""What every method promises, whichever it is: the same tests over all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import diffsr, dmsr, resshift, stablesr, tiny
from tests.training import equal_states, tiny_options
from upsr.config.load import merged, parse_options
from upsr.config.schema import CommonOptions, TileOptions
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import Method, Seen, build_method, build_training
from upsr.methods.base import TextKnob
from upsr.methods.bicubic.method import Bicubic
from upsr.restoring import ModelRestorer
from upsr.rng import torch_generator

CPU = Runtime(torch.device("cpu"))
END_TO_END = TileOptions(size=16, overlap=8, blend="end")


@dataclass(frozen=True)
class Case:
    """A method on tiny networks.

    Attributes:
        changes: of the options of ``base``; ``None`` for a method that is not trained.
        make: such a method, in a folder for its files.
        base: options on tiny networks.
        needs: package without which there is no such method.
        learns_from_draws: its training draws, though its restoration does not.
        tiled: mean difference of tiles from the whole that random networks, whose norms see a tile alone, stay below.
    """

    draws: bool
    changes: Callable[[Path], dict[str, Any]] | None = None
    make: Callable[[Path], Method] | None = None
    base: Callable[..., dict[str, Any]] = tiny_options
    needs: str = "torch"
    learns_from_draws: bool = False
    tiled: float = 0.1


def _plain(_: Path) -> dict[str, Any]:
    return {}


def _posterior(_: Path) -> dict[str, Any]:
    return {"diffusion": {"sampler": {"type": "posterior"}}}


def _one_step(root: Path) -> dict[str, Any]:
    return {"model_type": "UPSRDistillationModel", "path": {"pretrain_network_g": str(root / "start.safetensors")}}


def _sr(_: Path) -> dict[str, Any]:
    return {
        "model_type": "AuxiliarySRModel",
        "network_g": {"type": "CompactSR", "num_feat": 8, "num_block": 1},
        "network_aux": None,
        "diffusion": None,
        "path": {"pretrain_network_aux": None},
    }


def _sinsr(root: Path) -> dict[str, Any]:
    return {"phase": "distillation", "path": {"pretrain_network_g": str(root / "start_resshift.safetensors")}}


def _alone(_: Path) -> dict[str, Any]:
    return {"train": {"adversarial": {"weight": 0}}}


def _dmsr(root: Path) -> Method:
    return build_method(options(root, "dmsr"))


def _ldm(root: Path) -> Method:
    return build_method(parse_options({"name": "x", "datasets": {}, **tiny.ldm_options(root / "ldm")}, "test"))


CASES = {
    "upsr": Case(True, _plain),
    "upsr, posterior": Case(True, _posterior),
    "upsr in one step": Case(True, _one_step),
    "sr": Case(False, _sr),
    "bicubic": Case(False, make=lambda _: Bicubic(4)),
    "ldm": Case(True, make=_ldm, needs="diffusers"),
    "ldm, new noise": Case(True, make=lambda root: _ldm(root).adjusted(eta=1), needs="diffusers"),
    "resshift": Case(True, _plain, base=resshift.tiny_options, needs="diffusers"),
    "diffsr": Case(True, _plain, base=diffsr.tiny_options, needs="diffusers"),
    "stablesr": Case(True, _plain, base=stablesr.tiny_options, needs="diffusers"),
    "dmsr": Case(False, _alone, base=dmsr.tiny_options, needs="diffusers", learns_from_draws=True, tiled=0.15),
    "dmsr, three steps": Case(False, make=lambda root: _dmsr(root).adjusted(steps=3), needs="diffusers", tiled=0.15),
    "sinsr": Case(True, _sinsr, base=resshift.tiny_options, needs="diffusers"),
}
TRAINED = [name for name, case in CASES.items() if case.changes is not None]
VARIANTS = ("upsr, posterior", "upsr in one step", "sinsr")
"""Of methods that are here anyway: their longest test is a slow one."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and weights of a denoiser that are not those of its initialisation."""
    from safetensors.torch import save_file

    from upsr.archs import ResShiftUNet, UNetModelSwin

    root = tmp_path_factory.mktemp("methods")
    tiny.save_pictures(root / "photos", 3)
    save_file(tiny.random_weights(UNetModelSwin(**tiny.UNET)).state_dict(), root / "start.safetensors")
    arguments = {key: value for key, value in resshift.OPTIONS["network_g"].items() if key != "type"}
    save_file(tiny.random_weights(ResShiftUNet(**arguments)).state_dict(), root / "start_resshift.safetensors")
    return root


def options(root: Path, case: str, **changes: Any) -> CommonOptions:
    make = CASES[case].changes
    assert make is not None
    pytest.importorskip(CASES[case].needs)
    data = merged(CASES[case].base(root, root / "photos", **make(root)), changes)
    data["path"]["allow_random_weights"] = True
    return parse_options(data, "test")


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(root: Path, name: str) -> Method:
    """The method, with weights that no initialiser leaves at zero; what a test changes it puts back."""
    pytest.importorskip(CASES[name].needs)
    if (make := CASES[name].make) is not None:
        return make(root).eval()
    method = build_method(options(root, name))
    tiny.random_weights(next(iter(method.parts().values())))
    return method.eval()


def photos(height: int, width: int, batch: int = 1) -> torch.Tensor:
    images = [torch.from_numpy(tiny.picture(height, width, seed)) for seed in range(batch)]
    return torch.stack(images).permute(0, 3, 1, 2).float() / 255


def batch() -> dict[str, torch.Tensor]:
    lq = photos(16, 16, 2)
    return {"lq": lq, "gt": torch.nn.functional.interpolate(lq, scale_factor=4)}


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (16, 24), (33, 17)])
def test_any_size_is_restored(model, size):
    out = ModelRestorer(model, seed=0)(photos(*size), ["a"])
    assert out.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert torch.isfinite(out).all()


def test_a_photo_is_a_function_of_seed_and_name(model, name):
    def restored(seed: int, title: str) -> torch.Tensor:
        return ModelRestorer(model, seed)(photos(16, 24), [title])

    assert torch.equal(restored(0, "a"), restored(0, "a"))
    for other in (restored(1, "a"), restored(0, "b")):
        assert torch.equal(other, restored(0, "a")) != CASES[name].draws
    assert model.facts.draws == CASES[name].draws


def test_a_batch_changes_no_photo(model):
    lq = photos(16, 24, 3)
    batch = ModelRestorer(model, seed=0)(lq, ["a", "b", "c"])
    assert torch.equal(batch[1:2], ModelRestorer(model, seed=0)(lq[1:2], ["b"]))
    assert not torch.equal(batch[0], batch[1])


def test_tiles_that_meet_at_every_step_depend_on_no_batch_and_are_near_the_photo(model, name):
    lq = photos(24, 24, 2)
    restorer = ModelRestorer(model, seed=0, tile=TileOptions(size=16, overlap=8, blend="step"))
    tiled = restorer(lq, ["a", "b"])
    assert torch.equal(tiled[1:], restorer(lq[1:], ["b"]))
    whole = ModelRestorer(model, seed=0)(lq[1:], ["b"])
    assert (tiled[1:] - whole).abs().mean() < CASES[name].tiled


def test_its_parts_saved_and_loaded_restore_the_same(model, tmp_path):
    expected = ModelRestorer(model, seed=0)(photos(16, 24), ["a"])
    before = {name: copy.deepcopy(part.state_dict()) for name, part in model.parts().items()}
    with torch.no_grad():
        for part in model.parts().values():
            for parameter in part.parameters():
                parameter.add_(0.5)
    for name, part in model.parts().items():
        assert not torch.equal(ModelRestorer(model, seed=0)(photos(16, 24), ["a"]), expected)
        torch.save(before[name], tmp_path / f"{name}.pth")
        part.load_state_dict(torch.load(tmp_path / f"{name}.pth", weights_only=True), strict=True)
    assert torch.equal(ModelRestorer(model, seed=0)(photos(16, 24), ["a"]), expected)


def test_a_knob_that_it_has_not_is_refused_by_name(model):
    with pytest.raises(UpsrError, match=r"^temperature: the method .* has no such setting"):
        model.adjusted(temperature=1)
    assert model.adjusted(temperature=None) is model


def test_a_knob_out_of_its_range_is_refused_by_name(model):
    for name, knob in model.knobs().items():
        if isinstance(knob, TextKnob):
            beyond = [1.0, *(["another"] if knob.choices else [])]
        else:
            beyond = [knob.low - 1, knob.high + 1, float("nan"), "1", *([knob.low + 0.5] if knob.whole else [])]
        for value in beyond:
            with pytest.raises(UpsrError, match=f"^{name} is"):
                model.adjusted(**{name: value})


def test_one_tile_is_the_photo_and_tiles_depend_on_no_batch(model):
    lq = photos(24, 16, 2)
    whole = ModelRestorer(model, seed=0, tile=TileOptions(size=64, overlap=8, blend="end"))(lq[:1], ["a"])
    assert torch.equal(whole, ModelRestorer(model, seed=0)(lq[:1], ["a"]))
    tiled = ModelRestorer(model, seed=0, tile=END_TO_END)
    assert torch.equal(tiled(lq, ["a", "b"])[1:], tiled(lq[1:], ["b"]))


def test_what_is_shown_is_a_picture_of_the_result_s_size(model):
    seen: list[Seen] = []
    out = ModelRestorer(model, seed=0)(photos(16, 24), ["a"], seen.append)
    for item in seen:
        assert item.image.shape[-2:] == out.shape[-2:], item.name
        assert 0 <= float(item.image.min()) <= float(item.image.max()) <= 1, item.name


@pytest.mark.parametrize("name", TRAINED)
def test_only_what_is_trained_has_gradients(root, name):
    training = build_training(options(root, name)).train()
    training("g", batch(), [torch_generator(0, slot) for slot in range(2)])["total"].backward()
    trained = {id(p) for player in training.players.values() for p in player.network.parameters()}
    assert {id(p) for p in training.parameters() if p.requires_grad} == trained
    assert {id(p) for p in training.parameters() if p.grad is not None} == trained


@pytest.mark.parametrize("name", TRAINED)
def test_a_loss_is_a_function_of_its_generators(root, name):
    training = build_training(options(root, name)).train()

    def total(seed: int) -> float:
        return float(training("g", batch(), [torch_generator(seed, slot) for slot in range(2)])["total"].detach())

    assert total(0) == total(0)
    assert (total(0) != total(1)) == (CASES[name].draws or CASES[name].learns_from_draws)


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x in VARIANTS else ()) for x in TRAINED])
def test_two_iterations_and_two_more_are_four(root, name):
    def run(title: str, iterations: int) -> dict[str, Any]:
        changes = {"total_iter": iterations, "warmup_iter": 1, "ema_decay": 0.9}
        folder = train(options(root, name, name=f"{name} {title}", auto_resume=True, train=changes), CPU)
        state = torch.load(folder / "training_states" / f"{iterations}.state", weights_only=True)
        return state["players"]

    whole = run("at once", 4)
    half = run("in two", 2)
    two_halves = run("in two", 4)
    for player, states in whole.items():
        assert not equal_states(half[player]["params"], states["params"])
        assert [key for key in states if not equal_states(two_halves[player][key], states[key])] == []
