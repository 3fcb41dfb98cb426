"""Folders in diffusers' layout: loaded by diffusers itself, they restore as this package does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from upsr import UPSRPipeline
from upsr.cli import main

diffusers = pytest.importorskip("diffusers")
PHOTO = tiny.picture(24, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """UPSR-tiny's shipped weights in the layout; diffusers copies a folder's code into its cache, here one of the tests."""
    root = tmp_path_factory.mktemp("diffusers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusers.utils.dynamic_modules_utils, "HF_MODULES_CACHE", str(root / "modules"))
        patch.syspath_prepend(root / "modules")
        assert main(["convert", "tiny", "-o", str(root / "layout"), "--layout", "diffusers"]) == 0
        yield root / "layout"


def load(folder):
    return diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)


def test_diffusers_loads_it_and_restores_to_the_same_bytes(folder, tmp_path):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["restoration"] == ["restoration", "RestorationModel"]
    pipe = load(folder)
    ours = UPSRPipeline.from_pretrained("tiny", device="cpu", dtype="float32")
    found = pipe(Image.fromarray(PHOTO), num_inference_steps=2, generator=torch.Generator().manual_seed(5)).images[0]
    expected = ours(Image.fromarray(PHOTO), steps=2, seed=5).images[0]
    assert found.size == (128, 96)
    assert np.array_equal(found, expected)
    assert not np.array_equal(pipe(PHOTO, seed=6).images[0], expected)
    pipe.save_pretrained(tmp_path / "again")
    again = UPSRPipeline.from_pretrained(tmp_path / "again/restoration", device="cpu", dtype="float32")
    assert again.digest() == ours.digest()


def test_it_goes_to_another_type_as_pipelines_do(folder):
    pipe = load(folder).to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    assert pipe(PHOTO, output_type="np").images[0].shape == (96, 128, 3)


def test_code_that_nobody_trusts_is_not_run(folder):
    with pytest.raises((ValueError, OSError), match="trust_remote_code"):
        diffusers.DiffusionPipeline.from_pretrained(folder)
