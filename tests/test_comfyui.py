"""The nodes of integrations/comfyui/: they load as ComfyUI loads them, upscale its images, report, and can be cancelled."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests import tiny
from tests.upscaling import save_pipeline
from upsr.errors import UpsrError
from upsr.pipeline.pipeline import UPSRPipeline

FILE = Path(__file__).parents[1] / "integrations/comfyui/__init__.py"


class CancelledError(Exception):
    """Stands for ComfyUI's exception of a cancelled run."""


@pytest.fixture(scope="module")
def nodes():
    specification = importlib.util.spec_from_file_location("custom_nodes.comfyui_upsr", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS


@pytest.fixture(scope="module")
def model(nodes, tmp_path_factory):
    folder = save_pipeline(tmp_path_factory.mktemp("model"))
    (loaded,) = call(nodes["UPSRLoader"], weights=f" {folder}\n", dtype="float32")
    return loaded


@pytest.fixture
def comfy(monkeypatch):
    """Stand-ins of ComfyUI's modules; the dictionary holds what they were asked."""
    seen = {"shown": [], "cancelled": False}

    class ProgressBar:
        def __init__(self, total):
            self.total = total

        def update_absolute(self, value, total=None, preview=None):
            seen["shown"].append((value, total))

    def throw_exception_if_processing_interrupted():
        if seen["cancelled"] and len(seen["shown"]) >= 2:
            raise CancelledError

    package, utils, management = (ModuleType(f"comfy{name}") for name in ("", ".utils", ".model_management"))
    utils.ProgressBar = ProgressBar
    management.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted
    for module in (package, utils, management):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def call(node, **given):
    """The node's result, with the values that its widgets begin with."""
    inputs = node.INPUT_TYPES()["required"]
    for name, (kind, *more) in inputs.items():
        first = kind[0] if isinstance(kind, list) else (more[0] if more else {}).get("default")
        given.setdefault(name, first)
    assert given.keys() == inputs.keys()
    result = getattr(node(), node.FUNCTION)(**given)
    assert len(result) == len(node.RETURN_TYPES)
    return result


def images(count=1):
    return torch.cat([tiny.image(16, 20, seed) for seed in range(count)]).movedim(1, -1)


def test_what_comfyui_reads_of_the_nodes_is_there(nodes):
    produced = {kind for node in nodes.values() for kind in node.RETURN_TYPES}
    widgets = {"STRING", "INT", "FLOAT", "IMAGE"}
    for node in nodes.values():
        assert node.CATEGORY
        assert node.DESCRIPTION
        for kind, *_ in node.INPUT_TYPES()["required"].values():
            assert isinstance(kind, list) or kind in widgets | produced


def test_a_batch_becomes_what_the_pipeline_makes_of_its_images(nodes, model):
    batch = images(2)
    (large,) = call(nodes["UPSRUpscale"], model=model, image=batch, seed=2**64 - 1)
    assert isinstance(model, UPSRPipeline)
    assert large.shape == (2, 64, 80, 3)
    assert large.dtype == torch.float32
    for picture, result in zip(batch, large, strict=True):
        alone = model(picture.movedim(-1, 0), seed=2**64 - 1, output_type="pt").images[0]
        assert torch.equal(result, alone.movedim(0, -1))


def test_settings_reach_the_pipeline(nodes, model):
    node, picture = nodes["UPSRUpscale"], images()
    (large,) = call(node, model=model, image=picture, outscale=2.0, tile=16, knobs="steps = 1\n\nfidelity=0.9\n")
    own = model(picture[0].movedim(-1, 0), outscale=2, tile=16, steps=1, fidelity=0.9, output_type="pt").images[0]
    assert torch.equal(large[0], own.movedim(0, -1))
    assert large.shape == (1, 32, 40, 3)
    assert not torch.equal(large, call(node, model=model, image=picture, outscale=2.0)[0])


def test_values_beyond_the_range_are_clipped(nodes, model):
    (one,) = call(nodes["UPSRUpscale"], model=model, image=images() + 0.5)
    (other,) = call(nodes["UPSRUpscale"], model=model, image=(images() + 0.5).clamp(0, 1))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ("steps", "knobs: steps; give NAME=VALUE"),
        ("steps=few", "knobs: steps=few; give a number"),
        ("steps=99", "steps is 99; give whole numbers"),
        ("seed=1", "seed: the method UPSR has no such setting"),
        ("sharpness=1", "sharpness: the method UPSR has no such setting"),
    ],
)
def test_a_mistake_is_one_line(nodes, model, knobs, said):
    with pytest.raises(UpsrError, match=said):
        call(nodes["UPSRUpscale"], model=model, image=images(), knobs=knobs)


def test_progress_runs_over_all_images(nodes, model, comfy):
    call(nodes["UPSRUpscale"], model=model, image=images(2))
    values, totals = zip(*comfy["shown"], strict=True)
    assert len(set(totals)) == 1
    assert list(values) == sorted(set(values))
    assert values[-1] == totals[0]


def test_cancel_ends_the_work_between_two_steps(nodes, model, comfy):
    comfy["cancelled"] = True
    with pytest.raises(CancelledError):
        call(nodes["UPSRUpscale"], model=model, image=images(2))
    assert len(comfy["shown"]) == 2
