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
from upsr.errors import UpsrError

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


def test_this_package_reads_its_own_folder_of_the_layout(folder, tmp_path):
    ours = UPSRPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    assert ours.digest() == UPSRPipeline.from_pretrained("tiny", device="cpu", dtype="float32").digest()
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    for weights, out in ((folder, "from folder"), ("tiny", "from tiny")):
        given = ["--steps", "1", "--device", "cpu", "--weights", str(weights), "-o", str(tmp_path / out)]
        assert main(["upscale", str(tmp_path / "photo.png"), *given]) == 0
    found, expected = (next((tmp_path / out).iterdir()) for out in ("from folder", "from tiny"))
    assert found.name == expected.name
    with Image.open(found) as one, Image.open(expected) as other:
        assert np.array_equal(one, other)
    assert main(["convert", str(folder), "-o", str(tmp_path / "back")]) == 0
    assert UPSRPipeline.from_pretrained(tmp_path / "back", device="cpu", dtype="float32").digest() == ours.digest()


def test_another_type_is_that_of_computing_and_the_weights_stay(folder):
    ours = UPSRPipeline.from_pretrained("tiny", device="cpu", dtype="bfloat16")
    expected = ours(PHOTO, steps=1).images[0]
    loaded = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, torch_dtype=torch.bfloat16)
    for pipe in (load(folder).to(torch.bfloat16), load(folder).to("cpu", torch.bfloat16), loaded):
        assert pipe.dtype == torch.bfloat16
        assert np.array_equal(pipe(PHOTO, num_inference_steps=1).images[0], expected)
        assert {value.dtype for value in pipe.restoration.parameters()} == {torch.float32}
    back = loaded.to(torch.float32)(PHOTO, num_inference_steps=1).images[0]
    exact = UPSRPipeline.from_pretrained("tiny", device="cpu", dtype="float32")(PHOTO, steps=1).images[0]
    assert np.array_equal(back, exact)
    assert not np.array_equal(back, expected)


def test_a_list_of_generators_has_one_for_each_image(folder):
    pipe = load(folder)
    ours = UPSRPipeline.from_pretrained("tiny", device="cpu", dtype="float32")
    photos, masks = [PHOTO, tiny.picture(24, 32, 1)], [np.full((24, 32), 255, np.uint8), np.zeros((24, 32), np.uint8)]
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    found = pipe(photos, num_inference_steps=1, generator=generators, mask=masks, return_intermediates=True)
    assert len(found.images) == len(found.uncertainty) == len(found.intermediates) == len(found.notes) == 2
    for photo, mask, seed, image in zip(photos, masks, (5, 6), found.images, strict=True):
        assert np.array_equal(image, ours(photo, mask=mask, steps=1, seed=seed).images[0])
    with pytest.raises(UpsrError, match=r"generator: 2 for 1 images; give one for each"):
        pipe(PHOTO, generator=generators)


def test_code_that_nobody_trusts_is_not_run(folder):
    with pytest.raises((ValueError, OSError), match="trust_remote_code"):
        diffusers.DiffusionPipeline.from_pretrained(folder)
