"""The degradation of StableSR's training: its numbers, and a training on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import stablesr, tiny
from upsr.config import load_options
from upsr.config.load import parse_options, read_yaml
from upsr.engine.checkpoint import load_checkpoint
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train

DEGRADATION = Path(__file__).parents[1] / "options/stablesr/degradation.yml"


def test_the_degradation_is_the_released_one(shared_dir):
    settings = json.loads((shared_dir / "golden/stablesr/settings.json").read_text())
    opt, released = load_options(DEGRADATION).degradation, settings["stage1_degradation"]
    stages = {"first": opt.first, "second": opt.second}
    for name, stage in stages.items():
        own = released[name]
        assert stage.blur_prob == own.get("blur_prob", 1.0)
        assert list(stage.resize_prob) == own["up_down_keep"]
        assert list(stage.resize_range) == own["resize"]
        assert (stage.gaussian_noise_prob, stage.gray_noise_prob) == (own["gaussian_prob"], own["grey_prob"])
        assert list(stage.noise_range) == own["gaussian_sigma_255"]
        assert list(stage.poisson_scale_range) == own["poisson_scale"]
        assert list(stage.jpeg_range) == own["jpeg"]
        assert (stage.blur.kernel_prob, stage.blur.sinc_prob) == (released["kernel_mix"], released["sinc_prob"])
        assert list(stage.blur.blur_sigma) == released["sigma1" if name == "first" else "sigma2"]
        assert list(stage.blur.betag_range) == released["beta_generalized"]
        assert list(stage.blur.betap_range) == released["beta_plateau"]
    for kernels in (opt.first.blur, opt.second.blur, opt.final):
        assert kernels.kernel_sizes == released["kernel_sizes_both_and_final"]
        assert kernels.support == released["kernel_support"]
    assert opt.final.sinc_prob == released["final_sinc_prob"]
    assert opt.usm_gt == settings["stage1"]["usm"]
    assert opt.decision_group == settings["stage1"]["batch_per_gpu"]
    assert not opt.round_lq


@pytest.mark.slow
def test_a_training_on_it_goes_on_from_its_pairs_which_are_not_rounded(tmp_path):
    photos = tiny.save_pictures(tmp_path / "photos", 3, size=96)
    section = read_yaml(DEGRADATION)["degradation"]
    states = {}
    for name, totals in (("whole", [4]), ("parts", [2, 4])):
        for total in totals:
            changes = {"name": name, "degradation": section, "train": {"total_iter": total}, "auto_resume": True}
            options = stablesr.tiny_options(tmp_path, photos, **changes)
            folder = train(parse_options(options, "test"), Runtime(torch.device("cpu")))
        states[name] = load_checkpoint(folder / "training_states/4.state")
    whole, parts = states.values()
    assert whole.players["g"].params.keys() == parts.players["g"].params.keys()
    assert all(torch.equal(whole.players["g"].params[key], value) for key, value in parts.players["g"].params.items())
    for slot, pairs in whole.pool.items():
        assert (pairs["lq"].dtype, pairs["gt"].dtype) == (torch.float32, torch.uint8)
        assert not torch.equal(pairs["lq"], (pairs["lq"] * 255).round() / 255)
        assert torch.equal(pairs["lq"], parts.pool[slot]["lq"])
