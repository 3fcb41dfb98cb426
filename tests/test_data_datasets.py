"""Datasets and the order in which a run reads them."""

from __future__ import annotations

import os
from pathlib import Path

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
    datasets,
)
from upsr.data.backends import list_keys, names_in
from upsr.data.copies import make_lmdb, make_shards
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


def test_images_of_a_small_set_are_decoded_once_and_crops_are_the_same(tmp_path, monkeypatch):
    decoded = []

    def counted(decode):
        return lambda data, *others: decoded.append(data) or decode(data, *others)

    for name in ("decode_image", "decode_region"):
        monkeypatch.setattr(datasets, name, counted(getattr(datasets, name)))
    small = tiny.save_pictures(tmp_path / "small", 3)
    dataset = make_dataset(small)
    samples = [SampleId(epoch, image) for epoch in range(3) for image in range(3)]
    crops = [dataset[sample]["gt"] for sample in samples]
    assert len(decoded) == 3
    monkeypatch.setattr(datasets, "_FEW_IMAGES", 2)
    of_many = make_dataset(small)
    assert all(torch.equal(crop, of_many[sample]["gt"]) for crop, sample in zip(crops, samples, strict=True))
    assert len(decoded) == 3 + 9


def test_an_image_that_changes_or_goes_is_noticed_though_it_was_decoded(tmp_path):
    dataset = make_dataset(tiny.save_pictures(tmp_path, 2))
    before = dataset[SampleId(0, 0)]["gt"]
    first, second = (tmp_path / key for key in dataset.keys)
    second.rename(first)
    assert not torch.equal(before, dataset[SampleId(0, 0)]["gt"])
    first.unlink()
    with pytest.raises(UpsrError, match="could not be read"):
        dataset[SampleId(0, 0)]


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


def test_a_pipe_among_the_images_is_no_image(tmp_path):
    folder = tiny.save_pictures(tmp_path, 1)
    os.mkfifo(folder / "pipe.png")
    item = make_dataset(folder)[SampleId(0, 1)]
    assert item["key"] == "photo 0.png"
    assert item["unreadable"] == [f"{folder}/pipe.png: not a file"] * len(item["unreadable"])


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
    Image.fromarray(tiny.picture(16, 16)).save(tmp_path / "a.jpg.png")
    assert FolderDataset(str(tmp_path)).keys == ["a.jpg", "a.jpg.png", "a.png", "b"]


def kept_in_every_way(folder: Path) -> dict[str, str]:
    """A folder, an lmdb and shards of the same images."""
    make_lmdb(folder, folder.with_name(f"{folder.name}.lmdb"))
    make_shards(folder, folder.with_name(f"{folder.name} shards"))
    return {
        "folder": str(folder),
        "lmdb": str(folder.with_name(f"{folder.name}.lmdb")),
        "shards": str(folder.with_name(f"{folder.name} shards") / "index.json"),
    }


def test_an_image_has_one_name_wherever_it_is_kept(tmp_path):
    """The name is the seed of its noise and the name of its result."""
    for name in ("img_0.5", "a.1", "b..2", "v1.0/c.png"):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.picture(16, 16)).save(path)
    for root in kept_in_every_way(tmp_path / "photos").values():
        assert FolderDataset(root).keys == ["a.1", "b..2", "img_0.5", "v1.0/c.png"]


def test_pairs_are_the_same_wherever_they_are_kept(tmp_path):
    """An LR image "a" beside "a.1" is no partner of the HR image "a.1"."""
    sides = {}
    for side, size, names in (("gt", 64, ("a.1", "b.2")), ("lq", 16, ("a", "a.1", "b.2"))):
        (tmp_path / side).mkdir()
        for i, name in enumerate(names):
            Image.fromarray(tiny.picture(size, size, i)).save(tmp_path / side / f"{name}.png")
        sides[side] = kept_in_every_way(tmp_path / side)
    expected = [read_image(tmp_path / "lq" / f"{name}.png") for name in ("a.1", "b.2")]
    for gt in sides["gt"].values():
        for lq in sides["lq"].values():
            pairs = PairedFolderDataset(gt, lq)
            assert pairs.keys == ["a.1", "b.2"]
            assert all(torch.equal(pairs[i]["lq"], expected[i]) for i in range(2))


def read_image(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).transpose(2, 0, 1).copy()).float() / 255


def test_a_template_that_names_no_image_is_refused(tmp_path):
    folder = str(tiny.save_pictures(tmp_path / "photos", 2))
    with pytest.raises(UpsrError, match=r"filename_tmpl: 'x4' has no \{\}"):
        PairedFolderDataset(folder, folder, filename_tmpl="x4")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_list_of_images_in_any_unicode_encoding_is_read(tmp_path, encoding):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("写 真.png", "sub/a.png", "b.png"):
        Image.fromarray(tiny.picture(16, 16)).save(folder / name)
    listing = tmp_path / "list.txt"
    listing.write_bytes("写 真.png (16,16,3) 1\r\nsub\\a.png\r\n./b.png\r\n".encode(encoding))
    assert list_keys(folder, listing) == ["写 真.png", "sub/a.png", "b.png"]
    assert names_in(listing) == {"写 真.png", "sub\\a.png", "./b.png"}


@pytest.mark.parametrize("content", ["a.png\né.png\n".encode("latin-1"), b"a.png\0\n"])
def test_a_list_that_is_no_text_costs_one_line(tmp_path, content):
    folder = tiny.save_pictures(tmp_path / "photos", 1)
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UpsrError, match=r"list\.txt: not a text"):
        list_keys(folder, tmp_path / "list.txt")


@pytest.mark.parametrize("listed", ["photo 0.5", "photo 0.png.png", "photo 0", ".", "/", "photo 0.tga"])
def test_a_list_that_names_no_image_of_the_folder_is_refused(tmp_path, listed):
    folder = tiny.save_pictures(tmp_path / "photos", 1)
    (tmp_path / "list.txt").write_text(f"photo 0.png\n{listed}\n")
    with pytest.raises(UpsrError, match=r"list\.txt, entry 2: no image"):
        list_keys(folder, tmp_path / "list.txt")


def test_a_name_that_is_no_utf8_works_in_training_and_validation(tmp_path):
    folder = tiny.save_pictures(tmp_path / "photos", 1)
    (folder / "photo 0.png").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    assert make_dataset(folder)[SampleId(0, 0)]["key"] == r"caf\xe9.png"
    data = FolderDataset(str(folder))
    assert data.keys == [r"caf\xe9"]
    assert data[0]["lq"].shape == (3, 96, 96)


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
