"""Teacher caches: the same bytes however they are made, and training on them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from scripts.ship_weights import describe_data, describe_run
from tests import tiny
from tests.processes import REPOSITORY, taught_here, train_here
from tests.training import tiny_options
from upsr.cli import main
from upsr.config.load import merged
from upsr.config.schema_data import DegradationOptions
from upsr.data import RealESRGANDegradation, SampleId, TaughtDataset, TaughtPairsDataset
from upsr.data.image_io import to_tensor, to_uint8
from upsr.data.kernels import draw_kernels
from upsr.data.taught import KINDS, TaughtCrops
from upsr.engine.checkpoint import load_checkpoint
from upsr.engine.distributed import Runtime
from upsr.errors import UpsrError
from upsr.evaluation import teaching
from upsr.rng import numpy_generator

CPU = Runtime(torch.device("cpu"))


def recipe(root: Path, **changes) -> Path:
    """Four shards of three crops; the teacher is bicubic upsampling, which needs no weights."""
    photos = root / "photos"
    if not photos.exists():
        tiny.save_pictures(photos, 4, size=96)
    content = {
        "photos": [{"folder": str(photos)}], "teacher": "bicubic", "crops": 11, "crops_per_shard": 3, "gt_size": 64,
    }  # fmt: skip
    path = root / "recipe.yml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("teaching")


@pytest.fixture(autouse=True, scope="module")
def _without_processes():
    """One test has them, and the killed command, which is a program of its own."""
    with taught_here():
        yield


@pytest.fixture(scope="module")
def cache(root) -> Path:
    """Made by one process, in one go."""
    assert main(["data", "teach", str(recipe(root)), "--out", str(root / "cache")]) == 0
    return root / "cache"


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(root, cache, capsys, monkeypatch):
    monkeypatch.setattr(teaching, "ProcessPoolExecutor", ProcessPoolExecutor)
    assert main(["data", "teach", str(recipe(root)), "--out", str(root / "two"), "--workers", "2"]) == 0
    assert "12 crops" in capsys.readouterr().out
    assert content(root / "two") == content(cache)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes_and_leaves_no_process_behind(root, cache):
    target = root / "killed"
    command = [sys.executable, "-m", "upsr", "data", "teach", str(recipe(root)), "--out", str(target), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(target.glob("crops-*.tar")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    while time.monotonic() < deadline and _alive(process.pid):
        time.sleep(0.1)
    assert not _alive(process.pid)
    assert not (target / "index.json").exists()
    assert main(["data", "teach", str(recipe(root)), "--out", str(target)]) == 0
    assert content(target) == content(cache)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_more_crops_extend_a_cache(root, cache):
    target = root / "longer"
    shutil.copytree(cache, target)
    before = content(target)
    assert main(["data", "teach", str(recipe(root, crops=15)), "--out", str(target)]) == 0
    after = content(target)
    assert all(after[name] == data for name, data in before.items() if name != "index.json")
    assert len(TaughtCrops(str(target / "index.json")).keys) == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photos": [{"folder": "nowhere"}]}, "nowhere: no such folder"),
        ({"teacher": "no_such_teacher"}, "no_such_teacher"),
        ({"teacher": "missing.pth"}, "missing.pth: no such checkpoint"),
        ({"crops": 0}, "crops"),
        ({"gt_size": 65}, "gt_size: 65"),
        ({"gt_size": 200}, "smaller than a crop of 200"),
        ({"photos": []}, "photos"),
        ({"degradation": {"round_lq": False}}, "round_lq: a cache holds files of 8 bit"),
        ({"degradation": {"usm_gt": True}, "gt_size": 24}, "crops are of 26 pixels or more"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(tmp_path, capsys, changes, message):
    code = main(["data", "teach", str(recipe(tmp_path, **changes)), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len([line for line in error if line.startswith("error")]) == 1
    assert message in error[-1]
    assert not list((tmp_path / "out").glob("crops-*"))


def test_photos_of_a_list_are_used_or_left_out(tmp_path):
    tiny.save_pictures(tmp_path / "photos", 4, size=96)
    names = tmp_path / "names.txt"
    names.write_text("photo 1.png\n")
    for key, expected in (("only", {"photo 1.png"}), ("leave_out", {"photo 0.png", "photo 2.png", "photo 3.png"})):
        from upsr.evaluation.teaching import Crops, read_recipe

        photos = [{"folder": str(tmp_path / "photos"), key: str(names)}]
        crops = Crops(read_recipe(recipe(tmp_path, photos=photos)))
        assert {name for _, _, name in crops.photos} == expected
    names.write_text("photo 7.png\n")
    with pytest.raises(UpsrError, match=r"no photo 'photo 7\.png'"):
        Crops(read_recipe(recipe(tmp_path, photos=photos)))


def test_a_cache_of_before_an_option_was_there_goes_on(root, cache):
    target = root / "older"
    shutil.copytree(cache, target)
    written = json.loads((target / "recipe.json").read_text())
    for key in ("usm_gt", "round_lq"):
        del written["recipe"]["degradation"][key]
    (target / "recipe.json").write_text(json.dumps(written))
    assert main(["data", "teach", str(recipe(root)), "--out", str(target)]) == 0
    sharp = recipe(root, degradation={"usm_gt": True})
    assert main(["data", "teach", str(sharp), "--out", str(target)]) == 2


def test_ground_truths_of_a_cache_are_the_sharpened_crops_if_the_recipe_says_so(root):
    from upsr.evaluation.teaching import Crops, read_recipe

    def first(**changes):
        return next(Crops(read_recipe(recipe(root, **changes))).pairs(0, 1))

    (plain, _), (sharp, lq) = first(), first(degradation={"usm_gt": True})
    degradation = RealESRGANDegradation(DegradationOptions(usm_gt=True), 4)
    expected = degradation.ground_truth(to_tensor(plain)[None])
    assert np.array_equal(sharp, to_uint8(expected[0]))
    kernels = draw_kernels(DegradationOptions(), 0, "teach", 0)[None]
    assert np.array_equal(lq, to_uint8(degradation(expected, kernels, slots=[0], keys=(0, "teach", 0))[0]))


def test_a_folder_of_another_recipe_is_refused(root, cache, capsys):
    assert main(["data", "teach", str(recipe(root, manual_seed=5)), "--out", str(cache)]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(root, cache, monkeypatch, capsys):
    from upsr.evaluation import teaching

    def full(tar, name, data):
        raise OSError(28, "No space left on device")

    options, target = teaching.read_recipe(recipe(root)), root / "full"
    target.mkdir()
    monkeypatch.setattr(teaching, "_made", {})
    threads = torch.get_num_threads()
    teaching._set_up(options, target, os.getppid())
    torch.set_num_threads(threads)
    monkeypatch.setattr(teaching, "add_file", full)
    with pytest.raises(UpsrError, match="cannot be written"):
        teaching._make_shard(0)
    assert list(target.iterdir()) == []
    monkeypatch.undo()
    assert main(["data", "teach", str(recipe(root)), "--out", str(target)]) == 0
    assert content(target) == content(cache)


def test_pairs_are_a_photo_its_degradation_and_the_teachers_estimate(cache):
    crops = TaughtCrops(str(cache / "index.json"))
    lq, gt, teacher = (crops.image(0, kind).astype(float) for kind in KINDS)
    assert (lq.shape, gt.shape, teacher.shape) == ((16, 16, 3), (64, 64, 3), (64, 64, 3))
    small = torch.nn.functional.interpolate(
        torch.from_numpy(lq.transpose(2, 0, 1))[None] / 255, scale_factor=4, mode="bicubic", align_corners=False
    )
    expected = (small.clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    assert np.abs(expected - teacher).max() <= 1
    assert 0 < np.abs(gt.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3)) - lq).mean() < 60
    pairs = TaughtPairsDataset(str(cache / "index.json"))
    assert len(pairs) == 12
    assert torch.equal(pairs[3]["gt"], torch.from_numpy(crops.image(3, "gt").transpose(2, 0, 1).copy()).float() / 255)


def test_a_sample_cuts_lq_and_target_at_one_place(cache):
    dataset = TaughtDataset(str(cache / "index.json"), gt_size=32, teacher_share=1.0)
    for number in range(8):  # the teacher is bicubic: inside, what it makes of the cut LR is the cut of what it made
        item = dataset[SampleId(0, number)]
        lq = item["lq"].float()[None] / 255
        enlarged = torch.nn.functional.interpolate(lq, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)
        inside = (..., slice(12, -12), slice(12, -12))
        assert (enlarged[0][inside] * 255 - item["gt"].float()[inside]).abs().max() <= 1


def test_the_share_of_the_teacher_is_what_is_asked_for(cache):
    index = str(cache / "index.json")
    flips = {"use_hflip": False, "use_vflip": False, "use_rot": False}
    half = TaughtDataset(index, 64, 0.5, **flips)
    crops = TaughtCrops(index)
    from_teacher = 0
    for epoch in range(20):
        for number in range(12):
            target = half[SampleId(epoch, number)]["gt"].permute(1, 2, 0).numpy()
            is_teacher = np.array_equal(target, crops.image(number, "teacher"))
            assert is_teacher or np.array_equal(target, crops.image(number, "gt"))
            from_teacher += is_teacher
    assert 0.4 < from_teacher / 240 < 0.6
    for share, kind in ((0.0, "gt"), (1.0, "teacher")):
        item = TaughtDataset(index, 64, share, **flips)[SampleId(3, 5)]
        assert np.array_equal(item["gt"].permute(1, 2, 0).numpy(), crops.image(5, kind))


@pytest.fixture(scope="module")
def milder(root):
    """A second cache, of 6 crops, without the second round of degradation."""
    target = root / "milder"
    more = {"crops": 6, "crops_per_shard": 3, "manual_seed": 9, "degradation": {"second_order_prob": 0}}
    assert main(["data", "teach", str(recipe(root, **more)), "--out", str(target)]) == 0
    return target


def test_several_caches_are_one_training_set_with_a_share_each(root, cache, milder):
    indices, flips = (
        [str(folder / "index.json") for folder in (cache, milder)],
        {"use_hflip": False, "use_vflip": False},
    )
    both = TaughtDataset(indices, 64, [1.0, 0.0], use_rot=False, **flips)
    assert len(both) == 12 + 6
    for number in range(18):
        place, own, kind = (cache, number, "teacher") if number < 12 else (milder, number - 12, "gt")
        crops = TaughtCrops(str(place / "index.json"))
        item = both[SampleId(2, number)]
        assert item["key"] == crops.keys[own]
        assert np.array_equal(item["gt"].permute(1, 2, 0).numpy(), crops.image(own, kind))
        assert np.array_equal(item["lq"].permute(1, 2, 0).numpy(), crops.image(own, "lq"))
    one_share = TaughtDataset(indices, 64, 1.0, use_rot=False, **flips)
    assert np.array_equal(one_share[SampleId(2, 17)]["gt"].permute(1, 2, 0).numpy(), crops.image(5, "teacher"))
    data = {"datasets": {"train": {"index": indices, "teacher_share": [1.0, 0.0]}}}
    recorded = describe_run(train_here(stage_one(root, cache, "both", **data), CPU))["photos"]
    assert [each["crops"] for each in recorded["caches"]] == [12, 6]


def test_caches_that_do_not_go_together_are_refused(root, cache, milder):
    indices = [str(folder / "index.json") for folder in (cache, milder)]
    with pytest.raises(UpsrError, match="teacher_share: 3 shares for 2 caches"):
        TaughtDataset(indices, 32, [0.0, 0.5, 1.0])
    smaller = root / "smaller"
    assert main(["data", "teach", str(recipe(root, crops=2, gt_size=32)), "--out", str(smaller)]) == 0
    with pytest.raises(UpsrError, match=r"smaller.index\.json are 32, x4; those of .* 64, x4"):
        TaughtDataset([indices[0], str(smaller / "index.json")], 32)


def test_a_discriminator_gets_the_photo_of_a_sample_whose_target_is_the_teachers(root, cache):
    index, flips = str(cache / "index.json"), {"use_hflip": False, "use_vflip": False, "use_rot": False}
    taught, photos = (TaughtDataset(index, 32, share, with_photo=share == 1, **flips) for share in (1.0, 0.0))
    for number in range(6):
        item, own = taught[SampleId(1, number)], photos[SampleId(1, number)]
        assert torch.equal(item["photo"], own["gt"])
        assert torch.equal(item["lq"], own["lq"])
        assert not torch.equal(item["photo"], item["gt"])
    judge = {
        "network_d": {"type": "PatchDiscriminator", "width": 4, "layers": 1},
        "train": {"gan_opt": {"type": "GANLoss", "gan_type": "hinge"}, "total_iter": 1},
        "datasets": {"train": {"with_photo": True}},
    }
    train_here(stage_one(root, cache, "judged", **judge), CPU)
    with pytest.raises(UpsrError, match=r"pair_pool\.pairs_per_slot: .* set it to 0"):
        train_here(stage_one(root, cache, "pool", pair_pool={"pairs_per_slot": 2}, **judge), CPU)


def stage_one(root: Path, cache: Path, name: str, **changes) -> dict:
    options = tiny_options(root, root / "photos", name=name)
    train = {
        "type": "TaughtDataset", "index": str(cache / "index.json"), "gt_size": 32, "batch_size_per_gpu": 2,
        "teacher_share": 0.5,
    }  # fmt: skip
    del options["network_aux"], options["diffusion"]
    options["path"].pop("pretrain_network_aux")
    options |= {
        "model_type": "AuxiliarySRModel",
        "network_g": {"type": "CompactSR", "num_feat": 8, "num_block": 1},
        "pair_pool": {"pairs_per_slot": 0},
        "datasets": {"train": train},
    }
    return merged(options, changes)


def test_training_on_a_cache_resumes_exactly(root, cache):
    whole = train_here(stage_one(root, cache, "whole"), CPU)
    train_here(stage_one(root, cache, "halves", train={"total_iter": 2}), CPU)
    halves = train_here(stage_one(root, cache, "halves", auto_resume=True), CPU)
    states = [load_checkpoint(folder / "training_states/4.state") for folder in (whole, halves)]
    first, second = (state.players["g"].params for state in states)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_shipped_weights_record_the_recipe_of_their_cache(root, cache, tmp_path):
    run = train_here(stage_one(root, cache, "shipped"), CPU)
    recorded = describe_run(run)["photos"]
    assert recorded["crops"] == 12
    assert recorded == describe_data({"index": str(cache / "index.json")})
    shutil.copytree(cache, tmp_path / "other")
    recipe = tmp_path / "other/recipe.json"
    recipe.write_text(recipe.read_text().replace('"manual_seed": 0', '"manual_seed": 1'))
    assert describe_data({"index": str(recipe.with_name("index.json"))}) != recorded


def test_what_does_not_fit_is_refused(root, cache):
    with pytest.raises(UpsrError, match="degradation: TaughtDataset's pairs are degraded already"):
        train_here(stage_one(root, cache, "degraded", degradation={"second_order_prob": 0.5}), CPU)
    with pytest.raises(UpsrError, match="its pairs are x4, but scale is 2"):
        train_here(stage_one(root, cache, "scale", scale=2, network_g={"upscale": 2}), CPU)
    with pytest.raises(UpsrError, match="gt_size: 128; the crops"):
        TaughtDataset(str(cache / "index.json"), gt_size=128)
    with pytest.raises(UpsrError, match="not the index of a teacher cache"):
        _index_of_something_else(root)


def _index_of_something_else(root: Path) -> None:
    from upsr.data.shards import index_shards

    folder = root / "other"
    folder.mkdir(exist_ok=True)
    import tarfile

    Image.fromarray(tiny.picture(16, 16)).save(folder / "a.png")
    with tarfile.open(folder / "a.tar", "w") as tar:
        tar.add(folder / "a.png", "a.png")
    index_shards(folder)
    TaughtDataset(str(folder / "index.json"))


def test_the_perceptual_loss_sees_each_sample_from_its_own_place():
    from upsr.config.schema import Component
    from upsr.methods.build import Losses
    from upsr.rng import torch_generator

    losses = Losses(Component(type="MSELoss"), Component(type="L1Loss"), perceptual_shift=4)
    seen = []
    losses.perceptual.register_forward_hook(lambda module, images, loss: seen.append(images))
    ramp = torch.arange(256.0).view(1, 1, 16, 16).expand(3, 1, 16, 16)
    losses(ramp, ramp + 1, [torch_generator("slot", i) for i in range(3)])
    prediction, target = seen[0]
    assert prediction.shape == (3, 1, 13, 13)
    assert torch.equal(prediction + 1, target)
    starts = prediction[:, 0, 0, 0].tolist()
    expected = [
        numpy_generator(torch_generator("slot", i).initial_seed(), "shift").integers(4, size=2) for i in range(3)
    ]
    assert starts == [float(16 * top + left) for top, left in expected]
