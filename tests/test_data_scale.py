"""Data at the scale of ImageNet: shards, lmdb and folder are one set; decoding fast and in part is decoding."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.processes import train_here
from tests.training import tiny_options
from upsr.config.schema_data import DegradationOptions
from upsr.data import GlobalBatchSampler, RealESRGANDataset, SampleId, batches_of, build_train_loader
from upsr.data.backends import open_backend
from upsr.data.copies import make_lmdb, make_meta_info, make_shards
from upsr.data.image_io import UnreadableImageError, decode_image, decode_region, image_size
from upsr.data.packed_strings import PackedStrings
from upsr.data.shards import index_shards
from upsr.engine.distributed import Runtime
from upsr.errors import UpsrError

CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Names whose order depends on whether suffixes count, in two folders, of two formats."""
    folder = tmp_path / "photos"
    for i, name in enumerate(["a.png", "a b.jpg", "deep/a.v2.png", "deep/b.JPEG", "c.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.picture(70 + i, 90 - i, i)).save(path, quality=90)
    return folder


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def test_shards_and_lmdb_give_the_training_of_the_folder(tmp_path, photos):
    assert make_shards(photos, tmp_path / "shards", megabytes=1) == []
    assert make_lmdb(photos, tmp_path / "photos.lmdb") == []
    roots = {"folder": photos, "shards": tmp_path / "shards" / "index.json", "lmdb": tmp_path / "photos.lmdb"}
    sets = {name: RealESRGANDataset(str(root), gt_size=64) for name, root in roots.items()}
    for data in sets.values():
        data.bind(3, DegradationOptions())
    for sample in [SampleId(epoch, image) for epoch in range(2) for image in range(5)]:
        items = {name: data[sample] for name, data in sets.items()}
        for name in ("shards", "lmdb"):
            assert torch.equal(items[name]["gt"], items["folder"]["gt"])
            assert torch.equal(items[name]["kernels"], items["folder"]["kernels"])

    def weights(name):
        options = tiny_options(
            tmp_path, photos, name=name,
            datasets={"train": {"dataroot_gt": str(roots[name]), "num_worker_per_gpu": 1}}, train={"total_iter": 3},
        )  # fmt: skip
        return torch.load(train_here(options, CPU) / "models" / "net_g_latest.pth", weights_only=True)["params"]

    first = weights("folder")
    for name in ("shards", "lmdb"):
        assert all(torch.equal(value, first[key]) for key, value in weights(name).items())


def test_every_sample_is_read_once_whatever_the_ranks_and_workers(tmp_path, photos):
    """Two epochs of five images on 1 x 0, 2 x 2 and 5 x 1 ranks and workers."""
    make_shards(photos, tmp_path / "shards")
    data = RealESRGANDataset(str(tmp_path / "shards" / "index.json"), gt_size=64)
    data.bind(0, DegradationOptions())

    def read(ranks, workers):
        parts = []
        for rank in range(ranks):
            sampler = GlobalBatchSampler(5, seed=0, batch_size=10 // ranks, world_size=ranks, rank=rank, stop=1)
            loader = build_train_loader(data, sampler, num_workers=workers, pin_memory=False)
            parts.append(sorted(itertools.chain(*(batch["key"] for batch in batches_of(loader)))))
        return parts

    whole = read(1, 0)[0]
    assert whole == sorted(2 * data.folder.keys[:])
    for ranks, workers in ((2, 2), (5, 1)):
        assert sorted(itertools.chain(*read(ranks, workers))) == whole


def test_shards_are_webdatasets(tmp_path, photos):
    import webdataset

    make_shards(photos, tmp_path / "shards", megabytes=1)
    url = str(tmp_path / "shards" / "shard-000000.tar")
    samples = {s["__key__"] for s in webdataset.WebDataset(url, shardshuffle=False)}
    assert samples == {"a", "a b", "deep/a", "deep/b", "c"}
    with tarfile.open(url) as tar:
        assert tar.extractfile("deep/b.JPEG").read() == (photos / "deep" / "b.JPEG").read_bytes()


def test_several_shards_are_one_set(tmp_path):
    folder = tmp_path / "noise"
    folder.mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (400, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    make_shards(folder, tmp_path / "shards", megabytes=1, workers=2)
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 2
    backend = pickle.loads(pickle.dumps(open_backend(tmp_path / "shards" / "index.json")))
    assert backend.keys() == [f"{i}.png" for i in range(6)]
    for i in range(6):
        assert backend.read(f"{i}.png") == (folder / f"{i}.png").read_bytes()


def test_shards_in_object_storage(tmp_path, photos):
    """fsspec's memory storage stands for s3 and the like: the code path is the same."""
    import fsspec

    make_shards(photos, tmp_path / "shards")
    storage = fsspec.filesystem("memory")
    for path in (tmp_path / "shards").iterdir():
        storage.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    backend = open_backend("memory://bucket/index.json")
    keys = backend.keys()
    for key in keys:
        assert backend.read(key) == (photos / key).read_bytes()
    assert len(RealESRGANDataset("memory://bucket/index.json", gt_size=64)) == 5
    with pytest.raises(UpsrError, match="no such index of shards"):
        open_backend("memory://bucket/other.json")


def test_damaged_shards_are_told(tmp_path, photos, monkeypatch):
    make_shards(photos, tmp_path / "shards")
    index, shard = tmp_path / "shards" / "index.json", tmp_path / "shards" / "shard-000000.tar"
    with pytest.raises(UpsrError, match="exists already"):
        make_shards(photos, tmp_path / "shards")
    whole = shard.read_bytes()
    last = max((offset, key) for key, offset, _ in json.loads(index.read_text())["shards"][0]["images"])
    shard.write_bytes(whole[: last[0] + 10])
    with pytest.raises(UnreadableImageError, match="cut off"):
        open_backend(index).read(last[1])
    shard.unlink()
    with pytest.raises(UpsrError, match=r"shard-000000\.tar: the shard cannot be read"):
        open_backend(index).read("a.png")
    index.write_text("{")
    with pytest.raises(UpsrError, match="not a readable index of shards"):
        open_backend(index)
    with pytest.raises(UpsrError, match="no shards"):
        index_shards(photos)


def test_broken_images_stay_out_of_shards_and_lists(tmp_path, photos):
    (photos / "broken.jpg").write_bytes((photos / "a b.jpg").read_bytes()[:700])
    (photos / "empty.png").write_bytes(b"")
    assert [name for name, _ in make_shards(photos, tmp_path / "shards", workers=2)] == ["broken.jpg", "empty.png"]
    assert len(open_backend(tmp_path / "shards" / "index.json").keys()) == 5
    left_out = make_meta_info(photos, tmp_path / "list.txt", min_size=72, workers=2)
    assert [name for name, _ in left_out] == ["a b.jpg", "a.png", "broken.jpg", "empty.png"]


def test_two_images_of_one_name_do_not_fit_an_lmdb(tmp_path):
    folder = tiny.save_pictures(tmp_path / "p", 1)
    Image.fromarray(tiny.picture(20, 20)).save(folder / "photo 0.jpg")
    with pytest.raises(UpsrError, match="two images are named 'photo 0' but for the suffix"):
        make_lmdb(folder, tmp_path / "p.lmdb")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpegs_decode_to_what_pillow_makes_of_them(mode, options):
    image = Image.fromarray(tiny.picture(61, 83, 2)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    with Image.open(io.BytesIO(buffer.getvalue())) as file:
        expected = np.asarray(file.convert("RGB"))
    assert np.array_equal(decode_image(buffer.getvalue(), 3, "x"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos_are_upright_in_whole_and_in_part(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(tiny.picture(60, 90, 1), "JPEG", exif=exif.tobytes())
    whole = decode_image(data, 3, "x")
    assert image_size(data, "x") == whole.shape[:2]
    part = decode_region(data, 3, "x", 7, 11, 40)
    assert np.array_equal(part, whole[7:47, 11:51])


@pytest.fixture(scope="module")
def large_png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    return encoded(noise, "PNG")


def test_a_part_of_a_large_png_is_the_part_of_the_whole(large_png, monkeypatch):
    assert len(large_png) > 1 << 20
    whole = decode_image(large_png, 3, "x")

    def refuse(*_):
        raise AssertionError("the whole image was decoded")

    monkeypatch.setattr("upsr.data.image_io.decode_image", refuse)
    for top, left in ((0, 0), (344, 644), (100, 5)):
        assert np.array_equal(
            decode_region(large_png, 3, "x", top, left, 256), whole[top : top + 256, left : left + 256]
        )


@pytest.mark.parametrize("cut", [0.05, 0.5, 0.999])
def test_a_truncated_large_png_is_refused_wherever_the_part_is(large_png, cut):
    with pytest.raises(UnreadableImageError):
        decode_region(large_png[: int(len(large_png) * cut)], 3, "x", 0, 0, 64)


def test_packed_strings_are_the_strings():
    strings = ["a", "", "photo ü.png", "x/y z.jpg"]
    packed = pickle.loads(pickle.dumps(PackedStrings(strings)))
    assert list(packed) == strings
    assert packed[-1] == strings[-1]
    assert packed[1:3] == strings[1:3]
    assert len(PackedStrings([])) == 0
    with pytest.raises(IndexError):
        packed[4]


def test_a_program_ends_though_its_loader_was_never_closed():
    """Nothing but their parent's signal ends the workers of a loader that something still holds when the program exits."""
    program = """
import atexit, os, sys
from torch.utils.data import DataLoader
from upsr.data.loader import set_up_worker
loader = DataLoader(list(range(8)), num_workers=2, persistent_workers=True, worker_init_fn=set_up_worker)
batches = iter(loader)
next(batches)
workers = [worker.pid for worker in batches._workers]
for worker in workers:  # a scheduler's signal to the whole group; its sender is a process that is not their parent
    os.waitpid(os.spawnlp(os.P_NOWAIT, "kill", "kill", "-TERM", str(worker)), 0)
    os.waitpid(os.spawnlp(os.P_NOWAIT, "kill", "kill", "-USR1", str(worker)), 0)
print(len(list(batches)), [worker.is_alive() for worker in batches._workers])
sys.held = batches
atexit.unregister(type(batches)._clean_up_worker)
type(batches).__del__ = lambda self: None
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "7 [True, True]\n"
