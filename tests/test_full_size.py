"""The full-size model on real benchmark photos: sizes, padding, tiles, metrics and files fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_dry_run_restores_a_photo_of_each_kind_of_benchmark(shared_dir, tmp_path):
    data = shared_dir / "data" / "benchmarks"
    folders = {
        "datasets.val_1.dataroot_gt": data / "Val_SR" / "gt",
        "datasets.val_1.dataroot_lq": data / "Val_SR" / "lq",
        "datasets.val_4.dataroot_gt": data / "BSD100" / "HR",
        "path.results_root": tmp_path,
    }
    # One network call instead of five and small tiles: the same path, in test time. The other sets differ in size only.
    shorter = ["diffusion.sampler.steps=1", "val.tile={size: 64, overlap: 16}", "num_gpu=0"]
    shorter += [f"datasets.val_{i}=null" for i in (2, 3, 5, 6, 7)]
    overrides = [*(f"{key}={value}" for key, value in folders.items()), *shorter]
    result = subprocess.run(
        [sys.executable, "test.py", "-opt", "options/004_dry_run_x4.yml", "--force-yml", *overrides],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    results = tmp_path / "004_dry_run_x4"
    for name, source in (("imagenet256", "Val_SR/gt"), ("BSD100", "BSD100/HR")):
        summary = json.loads((results / name / "summary.json").read_text())
        assert summary["images"] == 1
        assert 0 < summary["means"]["psnr"] < 50
        assert -1 < summary["means"]["ssim"] < 1
        (picture,) = (results / "visualization" / name).glob("*.png")
        with Image.open(picture) as restored, Image.open(data / source / picture.name) as original:
            assert all(r == o // 4 * 4 for r, o in zip(restored.size, original.size, strict=True))
