"""The weights that come with the package: small, found by name, better than bicubic on photos that they have not seen."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from scripts import demo
from scripts.export_weights import export
from upsr.config import load_options
from upsr.data.backends import list_keys
from upsr.data.image_io import decode_image
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import ValidationSet, evaluate
from upsr.engine.setup import checked_model_options
from upsr.errors import UpsrError
from upsr.inference import ModelRestorer
from upsr.metrics import PSNR, SSIM
from upsr.models import build_model
from upsr.models.bicubic import Bicubic
from upsr.weights import find_weights, shipped_names, weight_files

OPTIONS = "options/tiny/test_tiny.yml"


def test_weights_are_small_and_whole():
    assert shipped_names() == ["tiny"]
    paths = [find_weights("tiny", "denoiser"), find_weights("tiny", "g")]
    assert sum(path.stat().st_size for path in paths) <= 12e6
    for path in paths:
        with safe_open(path, "pt") as content:
            assert {content.get_tensor(name).dtype for name in content.keys()} == {torch.float16}  # noqa: SIM118
    card = files("upsr.weights").joinpath("tiny/README.md").read_text()
    assert all(word in card for word in ("BSDS500", "seed", "What it is not"))


def test_a_name_stands_for_weights_and_a_path_for_itself():
    assert find_weights("elsewhere/net.pth", "g") == Path("elsewhere/net.pth")
    named = weight_files(load_options(OPTIONS))
    assert {key: path.name for key, path in named.items()} == {
        "path.pretrain_network_g": "denoiser.safetensors", "path.pretrain_network_aux": "g.safetensors"
    }  # fmt: skip


def test_it_beats_bicubic_on_photos_that_it_has_not_seen(tmp_path):
    opt = checked_model_options(OPTIONS)
    demo.degrade_photos(demo.UNSEEN_PHOTOS, tmp_path, opt)
    pairs = demo.PairedFolderDataset(str(tmp_path / "gt"), str(tmp_path / "lq"))
    data, run = ValidationSet("photos", pairs, 1, 0), Runtime(torch.device("cpu"))
    metrics = {"psnr": PSNR(), "ssim": SSIM()}
    bicubic = evaluate(ModelRestorer(Bicubic(4), 0), data, metrics, run).means
    tiny = evaluate(ModelRestorer(build_model(opt, "test").eval(), 0), data, metrics, run).means
    assert tiny["psnr"] > bicubic["psnr"] + 0.5
    assert tiny["ssim"] > bicubic["ssim"]


def digests(folder: Path) -> tuple[set[str], np.ndarray]:
    """sha256 of the pixels of all images, and a coarse signature of each: signs of the differences of a 9 x 8 thumbnail."""
    exact, coarse = set(), []
    for key in list_keys(folder):
        pixels = decode_image((folder / key).read_bytes(), 3, key)
        exact.add(hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest())
        thumbnail = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=int)
        coarse.append((thumbnail[:, 1:] > thumbnail[:, :-1]).ravel())
    return exact, np.array(coarse)


def test_no_benchmark_photo_was_trained_on(shared_dir):
    trained, signatures = digests(shared_dir / "data/train/BSDS500")
    assert len(trained) == 399
    for name in ("Set5/HR", "Set14/HR", "BSD100/HR", "Urban100/HR", "Val_SR/gt"):
        exact, coarse = digests(shared_dir / "data/benchmarks" / name)
        assert not trained & exact
        distances = (coarse[:, None] != signatures[None]).sum(axis=-1)
        assert distances.min() > 3, name  # a resized or recompressed copy differs in no or a few of 64 signs


def test_exported_weights_are_the_checkpoint_in_half_precision(tmp_path):
    torch.save({"params": {"a": torch.ones(2) / 3}, "params_ema": {"a": torch.ones(2) / 7}}, tmp_path / "net.pth")
    export(tmp_path / "net.pth", tmp_path / "half.safetensors")
    with safe_open(tmp_path / "half.safetensors", "pt") as content:
        assert torch.equal(content.get_tensor("a"), (torch.ones(2) / 7).half())
    torch.save({"a": torch.full((2,), 1e6)}, tmp_path / "large.pth")
    with pytest.raises(UpsrError, match="too large for float16"):
        export(tmp_path / "large.pth", tmp_path / "large.safetensors")
