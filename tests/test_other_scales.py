"""options/x2 and options/x1: trained as they are but for size, both stages, then used on a photo."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from upsr.cli import main
from upsr.config import load_options
from upsr.engine.distributed import Runtime
from upsr.engine.setup import checked_options
from upsr.engine.train_loop import train

SMALL_G = {
    2: {key: json.dumps(value) for key, value in tiny.ATD.items()},
    1: {"num_feat": "8", "num_block": "2"},
}


@pytest.mark.parametrize("scale", [2, 1])
def test_both_stages_train_from_the_option_files_and_restore_a_photo(tmp_path, scale):
    photos = tiny.save_pictures(tmp_path / "photos", 2)
    common = [
        f"path.experiments_root={tmp_path}", f"datasets.train.dataroot_gt={photos}", "datasets.train.gt_size=32",
        "datasets.train.batch_size_per_gpu=2", "datasets.train.num_worker_per_gpu=0", "pair_pool.pairs_per_slot=0",
        "num_gpu=0", "train.total_iter=2", "train.amp=fp32", "train.perceptual_opt=null", "logger.use_tb_logger=false",
    ]  # fmt: skip
    unet = [f"network_g.{key}={json.dumps(value)}" for key, value in tiny.UNET.items()]
    stages = {
        1: [f"network_g.{key}={value}" for key, value in SMALL_G[scale].items()],
        2: [*unet, *(f"network_aux.{key}={value}" for key, value in SMALL_G[scale].items()),
            f"path.pretrain_network_aux={tmp_path}/x{scale}_stage1/models/net_g_latest.safetensors"],
    }  # fmt: skip
    for stage, changes in stages.items():
        opt = checked_options(f"options/x{scale}/stage{stage}.yml", [*common, *changes], "train")
        folder = train(opt, Runtime(torch.device("cpu")))
        assert folder.name == f"x{scale}_stage{stage}"
    photo = tmp_path / "photo.png"
    Image.fromarray(tiny.picture(40, 56)).save(photo)
    whole, tiles = tmp_path / "whole.png", tmp_path / "tiles.png"
    assert main(["upscale", str(photo), "-o", str(whole), "--weights", str(folder), "--quiet"]) == 0
    assert main(["upscale", str(photo), "-o", str(tiles), "--weights", str(folder), "--quiet", "--tile", "32"]) == 0
    assert Image.open(whole).size == Image.open(tiles).size == (56 * scale, 40 * scale)
    differences = np.abs(np.asarray(Image.open(whole), dtype=int) - np.asarray(Image.open(tiles)))
    assert differences.mean() < 1  # a network of two iterations sees little beyond a tile's overlap
    assert len(np.unique(np.asarray(Image.open(whole)))) > 10


def test_they_are_the_released_training_but_for_scale():
    released, at_two = load_options("options/000_UPSR_RealSR_x4.yml"), load_options("options/x2/stage2.yml")
    assert (released.diffusion, released.uncertainty) == (at_two.diffusion, at_two.uncertainty)
    assert released.degradation == at_two.degradation
    networks = released.network_g.arguments, at_two.network_g.arguments
    changed = {key for key in networks[0] | networks[1] if networks[0].get(key) != networks[1].get(key)}
    assert changed == {"scale", "in_channels"}
