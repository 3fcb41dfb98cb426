"""Datasets and the order in which a run reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from upsr.config.schema_data import DegradationOptions
from upsr.data import (
    BicubicFolderDataset,
    FolderDataset,
    GlobalBatchSampler,
    PairedFolderDataset,
    RealESRGANDataset,
    SampleId,
    build_train_loader,
)
from upsr.errors import UpsrError


def make_dataset(folder, **options) -> RealESRGANDataset:
    dataset = RealESRGANDataset(str(folder), gt_size=64, **options)
    dataset.bind(0, DegradationOptions())
    return dataset


def test_a_sample_is_a_function_of_seed_epoch_and_index(tmp_path):
    dataset = make_dataset(tiny.save_pictures(tmp_path, 3))
    item, again = dataset[SampleId(2, 1)], dataset[SampleId(2, 1)]
    assert item["gt"].shape == (3, 64, 64)
    assert all(torch.equal(item[k], again[k]) for k in ("gt", "kernels"))
    other_epoch = dataset[SampleId(3, 1)]
    assert not torch.equal(item["gt"], other_epoch["gt"])
    assert not torch.equal(item["kernels"], other_epoch["kernels"])
    dataset.bind(1, DegradationOptions())
    assert not torch.equal(item["gt"], dataset[SampleId(2, 1)]["gt"])


def test_flips_and_transposition_each_come_half_of_the_time(tmp_path):
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[0, 0], ramp[0, -1], ramp[-1, 0], ramp[-1, -1] = 10, 20, 30, 40
    Image.fromarray(ramp).save(tmp_path / "corners.png")
    dataset = make_dataset(tmp_path)
    seen = [
        tuple((dataset[SampleId(e, 0)]["gt"][0, [0, 0, -1, -1], [0, -1, 0, -1]]).int().tolist()) for e in range(160)
    ]
    assert len(set(seen)) == 8
    assert np.mean([s[0] in (10, 30) for s in seen]) == pytest.approx(0.5, abs=0.12)
    still = make_dataset(tmp_path, use_hflip=False, use_vflip=False, use_rot=False)
    assert {tuple((still[SampleId(e, 0)]["gt"][0, 0, [0, -1]]).int().tolist()) for e in range(5)} == {(10, 20)}


@pytest.mark.parametrize("size", [(5, 70), (64, 64), (100, 20), (1, 1)])
def test_small_images_are_extended(tmp_path, size):
    Image.fromarray(tiny.picture(*size)).save(tmp_path / "small.png")
    assert make_dataset(tmp_path)[SampleId(0, 0)]["gt"].shape == (3, 64, 64)


def test_unreadable_images_are_replaced_and_named(tmp_path):
    folder = tiny.save_pictures(tmp_path, 4, suffix=".jpg")
    whole = (folder / "photo 1.jpg").read_bytes()
    (folder / "photo 1.jpg").write_bytes(whole[: len(whole) // 2])
    item = make_dataset(folder)[SampleId(0, 1)]
    assert item["key"] != "photo 1.jpg"
    assert item["gt"].shape == (3, 64, 64)
    assert "photo 1.jpg" in item["unreadable"][0]
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UpsrError, match="10 images in a row could not be read"):
        make_dataset(folder)[SampleId(0, 1)]


def test_grey_channel(tmp_path):
    dataset = make_dataset(tiny.save_pictures(tmp_path, 1), channels=1)
    assert dataset[SampleId(0, 0)]["gt"].shape == (1, 64, 64)


def test_pairs_are_matched_by_name_whatever_the_suffix(tmp_path):
    gt, lq = tiny.save_pictures(tmp_path / "gt", 3), tmp_path / "lq"
    lq.mkdir()
    for path in gt.iterdir():
        Image.open(path).resize((20, 20)).save(lq / f"{path.stem}_LR4.jpg")
    pairs = PairedFolderDataset(str(gt), str(lq), filename_tmpl="{}_LR4")
    assert [pairs[i]["key"] for i in range(3)] == ["photo 0", "photo 1", "photo 2"]
    assert pairs[1]["lq"].shape == (3, 20, 20)
    assert pairs[1]["gt"].shape == (3, 101, 99)
    with pytest.raises(UpsrError, match="no 'photo 0' for 'photo 0'"):
        PairedFolderDataset(str(gt), str(lq))


def test_realsr_names_are_matched(tmp_path):
    for kind in ("HR", "LR4"):
        (tmp_path / kind).mkdir()
        Image.fromarray(tiny.picture(16, 16)).save(tmp_path / kind / f"Canon_001_{kind}.png")
    pairs = PairedFolderDataset(str(tmp_path / "HR"), str(tmp_path / "LR4"), filename_tmpl="{}_LR4", gt_suffix="_HR")
    assert len(pairs) == 1


def test_names_that_differ_in_suffix_alone_stay_apart(tmp_path):
    for suffix in ("png", "jpg"):
        Image.fromarray(tiny.picture(16, 16)).save(tmp_path / f"a.{suffix}")
    Image.fromarray(tiny.picture(16, 16)).save(tmp_path / "b.png")
    assert FolderDataset(str(tmp_path)).keys == ["a.jpg", "a.png", "b"]


def test_reduced_set_crops_and_reduces(tmp_path):
    Image.fromarray(tiny.picture(30, 41)).save(tmp_path / "a.png")
    item = BicubicFolderDataset(str(tmp_path), scale=4)[0]
    assert item["gt"].shape == (3, 28, 40)
    assert item["lq"].shape == (3, 7, 10)
    assert torch.equal(item["lq"], (item["lq"] * 255).round() / 255)


def read(n, stop, **options):
    sampler = GlobalBatchSampler(n, seed=0, stop=stop, **options)
    return list(sampler), sampler


def test_an_epoch_reads_every_image_once():
    batches, _ = read(10, 5, batch_size=4)
    stream = [sample for batch in batches for sample in batch]
    for epoch in (0, 1):
        assert sorted(s.image for s in stream if s.epoch == epoch) == list(range(10))
    orders = [[s.image for s in stream if s.epoch == epoch] for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_every_split_of_a_global_batch_reads_the_same_samples_into_the_same_slots():
    def by_slot(**options):
        result = {}
        for rank in range(options["world_size"]):
            batches, sampler = read(7, 3, rank=rank, **options)
            for number, batch in enumerate(batches):
                iteration, micro = divmod(number, options.get("accumulate", 1))
                result |= {(iteration, slot): sample for slot, sample in zip(sampler.slots(micro), batch, strict=True)}
        return result

    one = by_slot(batch_size=8, world_size=1)
    assert len(one) == 24
    assert by_slot(batch_size=4, world_size=2) == one
    assert by_slot(batch_size=2, world_size=2, accumulate=2) == one
    assert by_slot(batch_size=1, world_size=1, accumulate=8) == one


def test_a_resumed_run_reads_on():
    whole, _ = read(7, 6, batch_size=4, accumulate=2)
    rest, _ = read(7, 6, batch_size=4, accumulate=2, start=4)
    assert rest == whole[8:]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_stacked_tensors_in_order_with_any_number_of_workers(tmp_path, workers):
    dataset = make_dataset(tiny.save_pictures(tmp_path, 5))
    sampler = GlobalBatchSampler(5, seed=0, batch_size=2, stop=3)
    batches = list(build_train_loader(dataset, sampler, num_workers=workers, pin_memory=False))
    assert len(batches) == 3
    assert batches[0]["gt"].shape == (2, 3, 64, 64)
    assert batches[0]["unreadable"] == [[], []]
    expected = [dataset[sample] for sample in list(sampler)[2]]
    assert torch.equal(batches[2]["gt"], torch.stack([item["gt"] for item in expected]))
