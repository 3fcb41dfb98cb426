"""Benchmark datasets: made the same everywhere, recognised, and refused where numbers would mean nothing."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.evaluations import describe_dataset
from upsr.cli import main
from upsr.config.schema import Component
from upsr.data.benchmark_degradation import IMAGENET_TEST, degrade
from upsr.evaluation.benchmarks import BENCHMARKS, check
from upsr.evaluation.prepare import drawn_photos, prepare

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def save_pairs(
    folder: Path, count: int, gt: str = "gt/{}.png", lq: str = "lq/{}.png", size: int = 64, scale: int = 4
) -> None:
    for i in range(count):
        for pattern, side in ((gt, size), (lq, size // scale)):
            path = folder / pattern.format(f"{i:03d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tiny.picture(side, side, i)).save(path)


def pairs_of(place: Path, count: int, **files: str) -> None:
    arguments = {"type": "PairedFolderDataset", "dataroot_gt": "gt", "dataroot_lq": "lq", **files}
    describe_dataset(place, "Pairs", arguments, count)


PREPARE = ["data", "prepare", "ImageNet-Test", "--source", "photos"]


@pytest.mark.slow
def test_imagenet_test_is_byte_identical_whatever_the_machine(place):
    """Another processor is simulated: no vector instructions in torch, oneDNN and NumPy, another number of threads."""
    rng = np.random.default_rng(0)
    for i in range(6):
        height, width = rng.integers(260, 420, 2)
        (place / "photos").mkdir(exist_ok=True)
        Image.fromarray(tiny.picture(int(height), int(width), i)).save(
            place / "photos" / f"val_{i:08d}.JPEG", quality=95
        )
    plain = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX2 FMA3",
             "OMP_NUM_THREADS": "1"}  # fmt: skip
    for name, seed in (("one", "7"), ("other", "8")):
        assert main([*PREPARE, "--seed", seed, "--datasets-root", name]) == 0
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "upsr", *PREPARE, "--seed", "7", "--datasets-root", "two"],
        cwd=place, env={**os.environ, "PYTHONPATH": str(REPOSITORY), **plain}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    one, two, other = (contents(place / name) for name in ("one", "two", "other"))
    assert len(one) == 12
    assert one == two
    assert {k: v for k, v in one.items() if "/gt/" in k} == {k: v for k, v in other.items() if "/gt/" in k}
    assert all(one[k] != other[k] for k in one if "/lq/" in k)
    with (
        Image.open(place / "one/imagenet256/lq/val_00000003.png") as lq,
        Image.open(place / "one/imagenet256/gt/val_00000003.png") as gt,
    ):
        assert (lq.size, gt.size) == ((64, 64), (256, 256))


def test_the_draws_of_an_image_are_its_own():
    image = tiny.picture(64, 64)
    assert np.array_equal(degrade(image, 4, 0, "a"), degrade(image, 4, 0, "a"))
    assert not np.array_equal(degrade(image, 4, 0, "a"), degrade(image, 4, 0, "b"))
    lq = np.mean([degrade(np.full((64, 64, 3), 128, np.uint8), 4, 0, i) for i in range(40)])
    assert abs(lq - 128) < 4  # noise and JPEG do not shift the level
    assert IMAGENET_TEST.second_order_prob == 0


def test_centre_crops_are_the_centres_and_small_images_stay_whole(place):
    describe_dataset(place, "Crops", {"type": "FolderDataset", "dataroot_lq": "."}, 2)
    benchmark = BENCHMARKS.read("Crops").model_copy(update={"prepare": Component(type="CentreCrops", size=24)})
    large, small = tiny.picture(40, 61), tiny.picture(20, 30)
    (place / "photos").mkdir()
    Image.fromarray(large).save(place / "photos/large.png")
    Image.fromarray(small).save(place / "photos/small.jpg", quality=100, subsampling=0)
    assert prepare(benchmark, place / "photos", place / "datasets", seed=0) == 2
    with Image.open(place / "datasets/Crops/large.png") as image:
        assert np.array_equal(image, large[8:32, 18:42])
    with Image.open(place / "datasets/Crops/small.png") as image:
        assert image.size == (24, 20)


@pytest.mark.parametrize("name", ["RealSR-128", "DRealSR-128"])
def test_centre_crops_of_pairs_are_of_the_same_part_and_released_ones_stay(place, name):
    benchmark = BENCHMARKS.read(name)
    full = BENCHMARKS.read(name.removesuffix("-128"))
    lq, large = tiny.picture(201, 140), tiny.picture(804, 560)
    for key, image in (("dataroot_gt", large), ("dataroot_lq", lq)):
        folder = full.root(place) / full.files.arguments[key]
        folder.mkdir(parents=True)
        Image.fromarray(image).save(folder / "a.png")
    assert prepare(benchmark, full.root(place), place / "datasets", seed=0) == 1
    made = {side: np.asarray(Image.open(place / f"datasets/{name}/{side}/a.png")) for side in ("gt", "lq")}
    assert np.array_equal(made["lq"], lq[36:164, 6:134])
    assert np.array_equal(made["gt"], large[144:656, 24:536])

    archive = place / "released"
    for side, image in (("test_HR", made["gt"][::-1]), ("test_LR", made["lq"][::-1])):
        folder = archive / "StableSR_testsets" / benchmark.prepare.arguments["gt"][0].split("/")[1] / side
        folder.mkdir(parents=True)
        Image.fromarray(image).save(folder / "a.png")
    assert prepare(benchmark, archive, place / "datasets", seed=0) == 1
    assert np.array_equal(np.asarray(Image.open(place / f"datasets/{name}/gt/a.png")), made["gt"][::-1])
    assert np.array_equal(np.asarray(Image.open(place / f"datasets/{name}/lq/a.png")), made["lq"][::-1])


def test_a_set_of_unknown_number_is_neither_doubted_nor_called_published(place, capsys):
    for i in range(2):
        (place / "photos").mkdir(exist_ok=True)
        Image.fromarray(tiny.picture(160, 200, i)).save(place / "photos" / f"{i}.png")
    assert main(["data", "prepare", "DPED-iPhone-128", "--source", "photos"]) == 0
    assert main(["data", "check", "DPED-iPhone-128"]) == 0
    assert "DPED-iPhone-128: whole, for all that is known here" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    assert re.search(r"DPED-iPhone-128 +here +\? images", capsys.readouterr().out)


def test_photos_are_drawn_as_resshift_drew_them():
    import random

    names = [f"{i:05d}" for i in range(500)]
    rng = random.Random(10000)
    rng.shuffle(names.copy())
    assert drawn_photos(list(reversed(names)), 30) == sorted(rng.sample(names, 30))
    assert drawn_photos(names, 1000) == names


def test_a_preparation_that_fails_leaves_no_folder_that_counts_as_the_set(place, capsys):
    assert main(["data", "prepare", "Set14", "--source", "Downloads/Set14"]) == 2
    assert main(["data", "list"]) == 0
    assert re.search(r"Set14 +absent", capsys.readouterr().out)
    assert main(["evaluate", "--methods", "bicubic", "--datasets", "Set14"]) == 2
    assert "upsr data list Set14" in capsys.readouterr().err
    (place / "datasets/Set14").mkdir(parents=True)
    (place / "datasets/Set14/mine.png").touch()
    assert main(["data", "prepare", "Set14", "--source", "Downloads/Set14"]) == 2
    assert (place / "datasets/Set14/mine.png").is_file()


def test_realsr_is_made_from_the_download_and_earlier_versions_are_refused(place, capsys):
    download = place / "RealSR(V3)"
    for camera in ("Canon", "Nikon"):
        for part in ("Train", "Test"):
            pattern = f"{camera}/{part}/4/{camera}_{{}}"
            save_pairs(download, 50, f"{pattern}_HR.png", f"{pattern}_LR4.png", size=16)
    archive = shutil.make_archive(str(place / "RealSR"), "zip", place, download.name)
    assert main(["data", "prepare", "RealSR", "--source", archive]) == 0
    assert "RealSR: 100 images in datasets/RealSRV3" in capsys.readouterr().out
    assert (
        len(list((place / "datasets/RealSRV3/HR").iterdir()))
        == len(list((place / "datasets/RealSRV3/LR/4").iterdir()))
        == 100
    )
    findings = check(BENCHMARKS.read("RealSR"), place / "datasets", decode=True)
    assert (findings.problems, findings.doubts) == ([], [])
    for i in range(15, 50):
        for camera in ("Canon", "Nikon"):
            for side in ("HR", "LR/4"):
                (place / f"datasets/RealSRV3/{side}/{camera}_{i:03d}.png").unlink()
    assert main(["data", "check", "RealSR"]) == 2
    assert "30 images: this is the test part of RealSR version 1 or 2" in capsys.readouterr().out
    shutil.rmtree(place / "datasets/RealSRV3/LR")
    shutil.copytree(place / "datasets/RealSRV3/HR", place / "datasets/RealSRV3/LR/4")
    assert main(["data", "check", "RealSR"]) == 2
    assert "the LR images are as large as the HR images: this is RealSR as versions 1 and 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "files", "made"),
    [
        ("DRealSR", ("Test_x4/test_HR/p{}_x4.png", "Test_x4/test_LR/p{}_x1.png"), ("HR/p000.png", "LR/p000.png")),
        ("DIV2K-Valid", ("DIV2K_valid_HR/{}.png", "DIV2K_valid_LR_bicubic/X4/{}x4.png"), ("HR/000.png", "LR/000.png")),
        (
            "DIV2K-Valid-128",
            ("testsets/DIV2K_V2_val/gt/{}.png", "testsets/DIV2K_V2_val/lq/{}.png"),
            ("gt/000.png", "lq/000.png"),
        ),
        ("Val_SR", ("testdata/Val_SR/gt/{}.png", "testdata/Val_SR/lq/{}.png"), ("gt/000.png", "lq/000.png")),
        ("ImageNet-Test", ("imagenet256/gt/{}.png", "imagenet256/lq/{}.png"), ("gt/000.png", "lq/000.png")),
    ],
)
def test_pairs_are_made_from_what_can_be_downloaded(place, name, files, made):
    save_pairs(place / "download", 3, *files, size=16)
    benchmark = BENCHMARKS.read(name)
    assert prepare(benchmark, place / "download", place / "datasets", seed=0) == 3
    root = benchmark.root(place / "datasets")
    assert all((root / file).is_file() for file in made)
    assert len(contents(root)) == 6


def test_single_images_are_made_from_an_archive(place):
    save_pairs(
        place / "SelfExSR", 5, "data/Set5/image_SRF_4/img_{}_SRF_4_HR.png", "data/Set5/image_SRF_4/img_{}_SRF_4_LR.png"
    )
    with zipfile.ZipFile(place / "set5.zip", "w") as archive:
        for path in (place / "SelfExSR").rglob("*.png"):
            archive.write(path, path.relative_to(place))
    assert main(["data", "prepare", "Set5", "--source", "set5.zip"]) == 0
    assert sorted(contents(place / "datasets/Set5")) == [f"HR/img_{i:03d}_SRF_4_HR.png" for i in range(5)]
    assert not list((place / "datasets").glob(".unpacked*"))


def test_a_missing_pair_is_named(place, capsys):
    save_pairs(place / "datasets/Pairs", 3)
    pairs_of(place, 3)
    (place / "datasets/Pairs/lq/001.png").unlink()
    assert main(["evaluate", "--methods", "bicubic", "--datasets", "Pairs", "--num-gpu", "0"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [e for e in errors if "error" in e] == [
        "error: datasets/Pairs/lq: no '001' for '001' of datasets/Pairs/gt; set filename_tmpl where names differ"
    ]


def test_two_images_of_one_name_are_named(place, capsys):
    save_pairs(place / "datasets/Pairs", 3)
    pairs_of(place, 3)
    Image.fromarray(tiny.picture(16, 16)).save(place / "datasets/Pairs/lq/002.jpg")
    assert main(["data", "check", "Pairs"]) == 2
    assert "lq: 1 name(s) stand for more than one image (002); keep one file of each" in capsys.readouterr().out


def test_a_size_mismatch_is_named(place, capsys):
    save_pairs(place / "datasets/Pairs", 3)
    pairs_of(place, 3)
    Image.fromarray(tiny.picture(20, 16)).save(place / "datasets/Pairs/lq/001.png")
    assert main(["evaluate", "--methods", "bicubic", "--datasets", "Pairs", "--num-gpu", "0"]) == 2
    message = capsys.readouterr().err
    assert "1 HR image(s) are not 4 times as large as their LR image ('001': LR 16x20, HR 64x64)" in message
    assert len([line for line in message.splitlines() if line.startswith("error: ")]) == 1


def test_damage_and_change_are_found(place, capsys):
    save_pairs(place / "datasets/Pairs", 3)
    pairs_of(place, 3)
    before = check(BENCHMARKS.read("Pairs"), place / "datasets", decode=True).facts
    describe_dataset(
        place, "Pairs", {"type": "PairedFolderDataset", "dataroot_gt": "gt", "dataroot_lq": "lq"}, 3,
        names_sha256=before["names_sha256"], pixels_sha256=before["pixels_sha256"],
    )  # fmt: skip
    assert main(["data", "check", "Pairs"]) == 0
    assert "Pairs: as published" in capsys.readouterr().out
    with Image.open(place / "datasets/Pairs/gt/000.png") as image:
        image.save(place / "datasets/Pairs/gt/000.png", compress_level=1)  # other bytes, the same pixels
    assert check(BENCHMARKS.read("Pairs"), place / "datasets", decode=True).doubts == []
    Image.fromarray(tiny.picture(64, 64, 9)).save(place / "datasets/Pairs/gt/000.png")
    assert "pixels are not those" in check(BENCHMARKS.read("Pairs"), place / "datasets", decode=True).doubts[0]
    whole = (place / "datasets/Pairs/gt/000.png").read_bytes()
    (place / "datasets/Pairs/gt/000.png").write_bytes(whole[:30])
    assert main(["data", "check", "Pairs"]) == 2
    assert "000.png" in capsys.readouterr().out
    (place / "datasets/Pairs/gt/000.png").write_bytes(whole[: len(whole) // 2])
    assert main(["data", "check", "Pairs"]) == 2


@pytest.mark.parametrize("name", BENCHMARKS.names())
def test_every_description_can_be_listed(name, capsys):
    assert main(["data", "list", name]) == 0
    assert "licence" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Set5", "Set14", "BSD100", "RealSet65", "RealSet80", "Val_SR"])
def test_the_real_ones_are_recognised(name, shared_dir):
    findings = check(BENCHMARKS.read(name), shared_dir / "data/benchmarks", decode=name in ("Set5", "Set14", "Val_SR"))
    assert (findings.problems, findings.doubts) == ([], [])


def test_names_are_sorted_as_people_sort():
    names = BENCHMARKS.names()
    assert names.index("Set5") < names.index("Set14") < names.index("Urban100")
    assert names.index("BSD100") < names.index("DIV2K-Valid") < names.index("RealSet65") < names.index("RealSet80")


def test_new_benchmarks_need_only_a_description(place, capsys):
    describe_dataset(place, "Mine", {"type": "FolderDataset", "dataroot_lq": "photos", "chanels": 3}, 2)
    tiny.save_pictures(place / "datasets/Mine/photos", 2)
    assert main(["data", "check", "Mine"]) == 2
    assert "files.chanels: unknown key; did you mean 'channels'?" in capsys.readouterr().out


def test_a_description_with_mistakes_is_named_and_the_others_are_listed(place, capsys):
    tiny.save_pictures(place / "datasets/Whole", 2, size=32)
    describe_dataset(place, "Whole", {"type": "FolderDataset", "dataroot_lq": "."}, 2)
    assert main(["data", "check"]) == 0
    (place / "datasets/Bad.yml").write_text("abuot: a spelling mistake\n")
    (place / "datasets/Worse.yml").write_text("about: [\n")
    for arguments, shown in (
        (["data", "check"], "Whole: number and sizes as published"),
        (["data", "list"], "Whole           here"),
        (["evaluate", "--list"], "Whole            Whole"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert shown in printed.out
        bad, worse = printed.err.splitlines()
        assert bad.startswith("error: ")
        assert "datasets/Bad.yml: abuot: unknown key; did you mean 'about'?" in bad
        assert "datasets/Worse.yml: not valid YAML" in worse
    (place / "datasets/Whole.yml").unlink()
    assert main(["data", "check"]) == 2
    assert "no benchmark is in" not in capsys.readouterr().err
