"""What an evaluation shows is what its files are now, and all that its folder holds."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests import tiny
from tests.evaluations import CPU, describe_dataset, means, run, save_rrdb, workplace, write
from upsr.cli import main
from upsr.commands import evaluate
from upsr.config.schema import TileOptions
from upsr.data.copies import make_lmdb, make_shards
from upsr.engine.evaluate import ValidationSet
from upsr.engine.evaluate import evaluate as evaluate_set
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.entries import describe
from upsr.evaluation.results import Row, read_rows, read_summary, write_rows
from upsr.metrics import PSNR
from upsr.report.console import print_summary
from upsr.report.html import best_methods


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Tiny of 5 photos, a folder of finished images of it, and a protocol that needs no package."""
    monkeypatch.chdir(tmp_path)
    workplace(tmp_path)
    write(
        tmp_path / "options/protocols/p.yml", {"about": "p", "rounding": "uint8", "metrics": {"psnr": {"type": "PSNR"}}}
    )
    for i in range(5):
        finish(tmp_path, i, noise=5)
    return tmp_path


def finish(place: Path, i: int, noise: float) -> None:
    """A finished image: the ground truth with noise."""
    (place / "theirs").mkdir(exist_ok=True)
    noisy = tiny.picture(192, 200, i) + np.random.default_rng(i).normal(0, noise, (192, 200, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / "theirs" / f"photo {i}.bmp")


def psnr(place: Path, *methods: str, **changes) -> dict[str, float]:
    """PSNR of each method that the summary has, on Tiny."""
    plan = {"datasets": ("Tiny",), "protocols": ("p",), "metrics": None, **changes}
    found = means(run(place, methods=methods, **plan))
    return {
        method: value for (method, dataset, _, metric), value in found.items() if (dataset, metric) == ("Tiny", "psnr")
    }


def exchange(path: Path, image: np.ndarray) -> None:
    """Put another image of the same size in bytes and with the same times in the place of a BMP."""
    before = path.stat()
    Image.fromarray(image).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def strictly(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_exchanged_finished_images_are_measured_anew_whatever_their_size_and_time(place):
    first = psnr(place, "theirs")
    kept = (place / "theirs/photo 2.bmp").read_bytes()
    exchange(place / "theirs/photo 2.bmp", np.full((192, 200, 3), 7, np.uint8))
    changed = psnr(place, "theirs")
    assert changed["theirs"] < first["theirs"] - 1
    assert changed == psnr(place, "theirs", folder=place / "new")
    shown = Image.open(place / "results/images/theirs/seed_0/Tiny/photo 2.png")
    assert np.asarray(shown).max() == 7
    (place / "theirs/photo 2.bmp").write_bytes(kept)  # back to what the journal knows: the picture has to follow
    assert psnr(place, "theirs") == first
    shown = Image.open(place / "results/images/theirs/seed_0/Tiny/photo 2.png")
    assert np.array_equal(shown, Image.open(place / "theirs/photo 2.bmp"))


def test_without_pictures_none_of_earlier_files_stays(place):
    psnr(place, "theirs")
    finish(place, 1, noise=40)
    assert psnr(place, "theirs", save_images=False) == psnr(place, "theirs", folder=place / "new")
    left = {path.stem for path in (place / "results/images/theirs/seed_0/Tiny").iterdir()}
    assert left == {"photo 0", "photo 2", "photo 3", "photo 4"}
    psnr(place, "theirs")
    assert (place / "results/images/theirs/seed_0/Tiny/photo 1.png").is_file()


@pytest.mark.parametrize("kind", ["folder", "lmdb", "shards"])
def test_exchanged_images_of_a_dataset_are_measured_anew(place, kind):
    def pack():
        if kind == "lmdb":
            shutil.rmtree(place / "datasets/Tiny/HR.lmdb", ignore_errors=True)
            make_lmdb(place / "datasets/Tiny/HR", place / "datasets/Tiny/HR.lmdb")
        if kind == "shards":
            shutil.rmtree(place / "datasets/Tiny/shards", ignore_errors=True)
            make_shards(place / "datasets/Tiny/HR", place / "datasets/Tiny/shards")

    root = {"folder": "HR", "lmdb": "HR.lmdb", "shards": "shards/index.json"}[kind]
    describe_dataset(place, "Tiny", {"type": "BicubicFolderDataset", "dataroot_gt": root}, 5)
    pack()
    first = psnr(place, "bicubic")
    Image.fromarray(np.full((192, 200, 3), 90, np.uint8)).save(place / "datasets/Tiny/HR/photo 3.png")
    pack()
    if kind == "lmdb":  # this process has the first one open
        from upsr.data import backends

        for _, environment in backends._environments.values():
            environment.close()
        backends._environments.clear()
    second = psnr(place, "bicubic")
    assert second["bicubic"] > first["bicubic"] + 5  # a flat image is restored exactly
    assert second == psnr(place, "bicubic", folder=place / "new")
    lines = [json.loads(line) for line in (place / "results/journal/rank_0.jsonl").read_text().splitlines() if line]
    assert [line["image"] for line in lines[5:]] == ["photo 3"]  # the others are not done again


def test_lr_images_that_are_exchanged_and_another_description_are_noticed(place):
    for i in range(5):
        Image.fromarray(tiny.picture(48, 50, i)).save(place / "datasets/Tiny" / f"photo {i}.png")
        (place / "datasets/Tiny/LR").mkdir(exist_ok=True)
        (place / "datasets/Tiny" / f"photo {i}.png").rename(place / "datasets/Tiny/LR" / f"photo {i}.png")
    files = {"type": "PairedFolderDataset", "dataroot_gt": "HR", "dataroot_lq": "LR"}
    describe_dataset(place, "Tiny", files, 5)
    first = psnr(place, "bicubic")
    Image.fromarray(np.full((48, 50, 3), 90, np.uint8)).save(place / "datasets/Tiny/LR/photo 3.png")
    second = psnr(place, "bicubic")
    assert second != first
    assert second == psnr(place, "bicubic", folder=place / "new")
    describe_dataset(place, "Tiny", {**files, "channels": 1}, 5)
    third = psnr(place, "bicubic")
    assert third != second
    assert third == psnr(place, "bicubic", folder=place / "grey")


def test_a_folder_shows_all_that_it_holds_and_nothing_of_changed_files(place):
    first = psnr(place, "bicubic", "theirs")
    second = run(place, methods=("RRDB",), datasets=("Tiny",), protocols=("p",), metrics=None)
    assert {method for method, *_ in means(second)} == {"RRDB", "bicubic", "theirs"}
    assert means(second)["theirs", "Tiny", "p", "psnr"] == first["theirs"]
    assert {row.method for row in read_rows(place / "results")} == {"RRDB", "bicubic", "theirs"}
    assert set(second["methods"]) == {"RRDB", "bicubic", "theirs"}
    assert set(second["works"]) == {row.work for row in read_rows(place / "results")}

    finish(place, 4, noise=40)
    summary = run(place, methods=("RRDB",), datasets=("Tiny",), protocols=("p",), metrics=None)
    theirs = next(result for result in summary["results"] if result["method"] == "theirs")
    assert theirs["images"] == 4  # the fifth is another file now
    save_rrdb(place / "weights/rrdb.pth", seed=1)
    shutil.rmtree(place / "theirs")
    summary = run(place, methods=("bicubic",), datasets=("Tiny",), protocols=("p",), metrics=None)
    assert {method for method, *_ in means(summary)} == {"bicubic"}
    reasons = {item["method"]: item["reason"] for item in summary["unavailable"]}
    assert len(reasons) == len(summary["unavailable"])
    assert "weights" in reasons["RRDB"]
    assert "changed since" in reasons["RRDB"]
    assert "theirs" in reasons["theirs"]


def test_other_datasets_seeds_and_measures_of_a_folder_stay(place):
    write(place / "options/protocols/q.yml", {"about": "q", "rounding": "uint8", "metrics": {"grid": {"type": "Grid"}}})
    changes = {"protocols": ("p",), "metrics": None}
    run(place, methods=("TinyUPSR",), datasets=("Tiny",), seeds=(0,), **changes)
    run(place, methods=("TinyUPSR",), datasets=("Tiny",), seeds=(1,), **changes)
    summary = run(place, methods=("bicubic",), datasets=("Wild",), protocols=("q",), metrics=None)
    assert set(means(summary)) == {("TinyUPSR", "Tiny", "p", "psnr"), ("bicubic", "Wild", "q", "grid")}
    both = next(result for result in summary["results"] if result["method"] == "TinyUPSR")
    assert set(both["seeds"]) == {"0", "1"}
    assert summary["datasets"]["Tiny"]["evaluated"] == 5
    assert set(summary["protocols"]) == {"p", "q"}
    alone = run(place, methods=("bicubic",), datasets=("Wild",), protocols=("q",), metrics=None, with_earlier=False)
    assert set(means(alone)) == {("bicubic", "Wild", "q", "grid")}


def test_only_methods_with_maps_are_asked_for_their_steps(place, monkeypatch):
    """A latent diffusion would decode every step."""
    from upsr.evaluation import entries

    asked = {}

    class Spy(entries.ModelRestorer):
        def __call__(self, lq, names, watch=None):
            asked.setdefault(type(self.method).__name__, set()).add(watch is not None)
            return super().__call__(lq, names, watch)

    monkeypatch.setattr(entries, "ModelRestorer", Spy)
    psnr(place, "TinyUPSR", "RRDB", "bicubic")
    assert asked == {"UPSR": {True}, "SR": {False}, "Bicubic": {False}}
    assert list((place / "results/uncertainty/TinyUPSR/Tiny").iterdir())


def test_one_name_stands_for_one_method(place):
    shutil.copytree(place / "theirs", place / "other/theirs")
    psnr(place, "theirs")
    (place / "datasets/Twin").mkdir()
    describe_dataset(place, "Twin", {"type": "BicubicFolderDataset", "dataroot_gt": "../Tiny/HR"}, 5)
    summary = run(place, methods=("other/theirs",), datasets=("Twin",), protocols=("p",), metrics=None)
    assert set(means(summary)) == {("theirs", "Twin", "p", "psnr")}
    assert "have changed since" in summary["unavailable"][0]["reason"]


def test_where_nothing_can_be_measured_the_earlier_numbers_go_too(place):
    psnr(place, "theirs")
    (place / "theirs/photo 3.bmp").unlink()
    with pytest.raises(UpsrError, match="nothing could be evaluated: theirs: theirs: 1 of 5 images are not there"):
        psnr(place, "theirs")
    assert read_rows(place / "results") == []


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_damaged_or_wrong_sized_finished_image_costs_itself(place, batch_size):
    whole = psnr(place, "theirs", "bicubic")
    damaged = place / "theirs/photo 1.bmp"
    damaged.write_bytes(damaged.read_bytes()[:500])
    Image.fromarray(tiny.picture(190, 200, 3)).save(place / "theirs/photo 3.bmp")
    plan = {"datasets": ("Tiny",), "protocols": ("p",), "metrics": None, "batch_size": batch_size}
    summary = run(place, methods=("theirs", "bicubic"), folder=place / f"new {batch_size}", **plan)
    theirs, bicubic = summary["results"]
    assert (theirs["images"], bicubic["images"]) == (3, 5)
    assert bicubic["mean"] == whole["bicubic"]
    first, second = sorted(summary["unreadable"]["Tiny"])
    assert first.startswith("theirs: photo 3: the restored image is 200x190; 4 times the LR image is 200x192")
    assert second.startswith("theirs: theirs/photo 1.bmp: not a readable image")
    for i in range(5):
        Image.fromarray(tiny.picture(96, 100, i)).save(place / "theirs" / f"photo {i}.bmp")
    summary = run(place, methods=("theirs", "bicubic"), **plan)
    (item,) = summary["unavailable"]
    assert (item["method"], item["dataset"], item["status"]) == ("theirs", "Tiny", "wrong")
    assert "none of 5 images could be measured" in item["reason"]
    assert not list((place / "results/images/theirs/seed_0/Tiny").iterdir())


def test_finished_images_that_are_there_twice_are_named(place):
    Image.fromarray(tiny.picture(192, 200, 2)).save(place / "theirs/photo 2.jpg")
    summary = run(place, methods=("theirs", "bicubic"), datasets=("Tiny",), protocols=("p",), metrics=None)
    (item,) = summary["unavailable"]
    assert item["reason"] == "theirs: 'photo 2' is there 2 times (photo 2.bmp, photo 2.jpg); keep one of them"


def test_names_that_differ_after_a_dot_are_different_names(place):
    for folder in ("Dots/HR", "../dots"):
        (place / "datasets" / folder).mkdir(parents=True)
    for i, name in enumerate(["a.1", "a.2", "a.png"]):
        Image.fromarray(tiny.picture(192, 200, i)).save(place / "datasets/Dots/HR" / f"{name}.png")
        Image.fromarray(tiny.picture(192, 200, i)).save(place / "dots" / f"{name}.png")
    make_lmdb(place / "datasets/Dots/HR", place / "datasets/Dots/HR.lmdb")
    for root in ("HR", "HR.lmdb"):
        describe_dataset(place, "Dots", {"type": "BicubicFolderDataset", "dataroot_gt": root}, 3)
        summary = run(place, methods=("dots",), datasets=("Dots",), protocols=("p",), metrics=None)
        assert means(summary)["dots", "Dots", "p", "psnr"] == pytest.approx(80, abs=1e-3)  # each with its own


def test_a_method_that_does_not_fit_a_dataset_costs_one_line(place, capsys):
    files = {"type": "BicubicFolderDataset", "dataroot_gt": "../Tiny/HR"}
    describe_dataset(place, "Grey", {**files, "channels": 1}, 5)
    write(place / "datasets/Two.yml",
          {"about": "x2", "get": ["x"], "licence": "none", "scale": 2, "files": {**files, "scale": 2},
           "expected": {"images": 5}})  # fmt: skip
    for name in ("Grey", "Two"):
        (place / "datasets" / name).mkdir()
        assert (
            main(["evaluate", "--num-gpu", "0", "--methods", "TinyUPSR", "--datasets", name, "--protocols", "p"]) == 2
        )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert "it takes images of 3 channel(s), but those of Grey have 1" in lines[0]
    assert "x4, but Two is x2" in lines[1]
    summary = run(place, methods=("TinyUPSR", "theirs", "bicubic"), datasets=("Grey",), protocols=("p",), metrics=None)
    assert {method for method, *_ in means(summary)} == {"theirs", "bicubic"}


def test_a_method_that_was_asked_for_and_has_no_numbers_makes_the_exit_code_1(place, capsys):
    given = ["evaluate", "--num-gpu", "0", "--protocols", "p", "--no-report", "--out", "r"]
    assert main([*given, "--datasets", "Tiny", "--methods", "bicubic", "theirs", "RRDB"]) == 0
    (place / "weights/rrdb.pth").rename(place / "kept.pth")
    capsys.readouterr()
    assert main([*given, "--datasets", "Tiny", "Wild", "--methods", "bicubic", "theirs", "RRDB"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: not measured: theirs on Wild, RRDB; what each needs is said above")
    assert {row.method for row in read_rows(place / "r")} == {"bicubic", "theirs"}
    assert main([*given, "--datasets", "Tiny", "--methods", "bicubic"]) == 0  # the RRDB of earlier was not asked for


def test_values_that_are_not_finite_are_said_and_never_written(place):
    weights = torch.load(place / "weights/rrdb.pth")
    for tensor in weights.values():
        tensor.mul_(1e30)  # finite, but sums of products of them are not
    torch.save(weights, place / "weights/rrdb.pth")
    summary = run(place, methods=("RRDB", "bicubic"), datasets=("Tiny",), protocols=("p",), metrics=None)
    assert {method for method, *_ in means(summary)} == {"bicubic"}
    assert "not finite; check the weights" in summary["unavailable"][0]["reason"]
    assert not list((place / "results/images").glob("RRDB/*/*/*"))
    strictly((place / "results/summary.json").read_text())
    for line in (place / "results/journal/rank_0.jsonl").read_text().splitlines():
        strictly(line) if line else None
    row = Row("Tiny", "photo 0", "m", 0, "p", "psnr", float("nan"), "w")
    write_rows(place / "results", [row], "csv")
    with pytest.raises(UpsrError, match="psnr of 'photo 0' by m is nan"):
        read_rows(place / "results")


def test_a_set_with_a_failed_restoration_has_no_means(place):
    """Or training would take a model that fails on the hard images for the best one."""

    def restorer(lq, names, observe=None):
        return torch.nn.functional.interpolate(lq, scale_factor=4) * (float("nan") if "photo 1" in names else 1)

    dataset = BENCHMARKS.read("Tiny").open(Path("datasets"))
    result = evaluate_set(restorer, ValidationSet("Tiny", dataset, 1, 0), {"psnr": PSNR()}, CPU)
    assert set(result.images) == {"photo 0", "photo 2", "photo 3", "photo 4"}
    assert result.failed == ["photo 1: the restored image has values that are not finite; check the weights"]
    assert result.means == {}
    result.write(place / "out", {})
    assert strictly((place / "out/summary.json").read_text())["failed"] == result.failed


def test_weights_of_a_network_that_brings_its_own_are_part_of_the_method(place):
    options = {"name": "x", "model_type": "AuxiliarySRModel", "scale": 4}
    write(place / "options/other.yml", {**options, "network_g": {"type": "SpandrelSR", "path": "weights/rrdb.pth"}})
    first = psnr(place, "options/other.yml")
    assert first["other"] == pytest.approx(psnr(place, "RRDB", folder=place / "same")["RRDB"], abs=1e-4)
    save_rrdb(place / "weights/rrdb.pth", seed=1)
    assert psnr(place, "options/other.yml") != first


def test_a_measure_that_is_not_finite_leaves_the_image_out_of_its_mean(place, monkeypatch):
    original = PSNR.__call__
    calls = iter(range(5))
    monkeypatch.setattr(PSNR, "__call__", lambda *a: float("inf") if next(calls) == 2 else original(*a))
    summary = run(place, methods=("bicubic",), datasets=("Tiny",), protocols=("p",), metrics=None)
    assert summary["results"][0]["images"] == 4


def test_small_tiles_overlap_by_half():
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)

    def tile(*arguments):
        return evaluate.plan_of(parser.parse_args(["--methods", "m", "--datasets", "d", *arguments])).tile

    assert tile() is None
    assert tile("--tile", "64") == TileOptions(size=64, overlap=32)
    assert tile("--tile", "9") == TileOptions(size=9, overlap=4)
    assert tile("--tile", "512") == TileOptions(size=512, overlap=64)
    assert tile("--tile", "64", "--tile-overlap", "0") == TileOptions(size=64, overlap=0)
    with pytest.raises(UpsrError, match="more than --tile-overlap"):
        tile("--tile", "64", "--tile-overlap", "64")
    with pytest.raises(UpsrError, match="it needs --tile"):
        tile("--tile-overlap", "8")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_run_is_a_method_by_its_folder_or_its_name(place, suffix):
    import yaml
    from safetensors.torch import save_file

    folder = place / "experiments/my run"
    (folder / "models").mkdir(parents=True)
    with pytest.raises(UpsrError, match="no method 'my run'"):
        describe("my run")
    options = yaml.safe_load((place / "options/tiny_upsr.yml").read_text())
    options["path"]["param_key_g"] = "params"  # of the weights that the run began with
    write(folder / "options.yml", options)
    with pytest.raises(UpsrError, match="no models/net_g_latest"):
        describe("my run")
    weights = torch.load(options["path"]["pretrain_network_g"])["params"]
    if suffix == "pth":
        torch.save(weights, folder / "models/net_g_latest.pth")
    else:
        save_file(
            {name: value.contiguous() for name, value in weights.items()}, folder / "models/net_g_latest.safetensors"
        )
    found = psnr(place, "TinyUPSR", "my run", max_images=1)
    assert found["my run"] == found["TinyUPSR"]
    assert describe("experiments/my run") == describe("my run")


def test_comparison_notices_other_pixels_under_the_same_names(place, capsys):
    psnr(place, "bicubic", folder=place / "one")
    Image.fromarray(np.full((192, 200, 3), 90, np.uint8)).save(place / "datasets/Tiny/HR/photo 3.png")
    psnr(place, "RRDB", folder=place / "two")
    shutil.rmtree(place / "one/journal")  # measured elsewhere: here nothing tells that its files are no more
    assert main(["compare", "one", "bicubic", "RRDB", "--other", "two"]) == 2
    assert "the dataset's files differ in 1 of 5 images, 'photo 3' for one" in capsys.readouterr().err
    assert main(["compare", "one", "bicubic", "RRDB", "--other", "two", "--force"]) == 0


def test_comparison_and_report_notice_files_that_have_changed_since(place, capsys):
    psnr(place, "bicubic", "theirs", "RRDB")
    assert main(["compare", "results", "bicubic", "theirs"]) == 0
    finish(place, 2, noise=40)
    assert main(["compare", "results", "bicubic", "theirs"]) == 2
    error = "error: theirs on Tiny: the files of 1 image(s) have changed since; run `upsr evaluate` again"
    assert error in capsys.readouterr().err
    assert main(["compare", "results", "bicubic", "RRDB"]) == 0
    save_rrdb(place / "weights/rrdb.pth", seed=1)
    assert main(["compare", "results", "bicubic", "RRDB"]) == 2
    assert "RRDB on Tiny: the method, its weights or" in capsys.readouterr().err
    assert main(["compare", "results", "bicubic", "RRDB", "--force"]) == 0
    assert main(["report", "results"]) == 0
    assert capsys.readouterr().err.count("warning: ") == 2
    assert "RRDB on Tiny: the method, its weights or" in (place / "results/report/index.html").read_text()
    shutil.rmtree(place / "datasets/Tiny")  # what is not here cannot have changed
    assert main(["compare", "results", "bicubic", "RRDB"]) == 0


def test_wins_are_of_the_better_one_whichever_direction_that_is(place):
    for name, higher in (("psnr", True), ("niqe", False)):
        rows = [
            Row("S", f"{i}", m, 0, "p", name, base + i / 10, "w") for i in range(9) for m, base in (("A", 6), ("B", 4))
        ]
        write_rows(place, rows, "csv")
        summary = {
            "results": [],
            "measures": {f"p/{name}": {"higher_is_better": higher}},
            "datasets": {"S": {"names_sha256": "1"}},
        }
        (place / "summary.json").write_text(json.dumps(summary))
        assert main(["compare", str(place), "A", "B", "--json", str(place / "out.json")]) == 0
        (result,) = strictly((place / "out.json").read_text())["results"]
        assert result["wins"] == (0 if higher else 1)
    with (place / "images.csv").open(newline="") as file:
        lines = [{key: value for key, value in line.items() if key != "content"} for line in csv.DictReader(file)]
    with (place / "images.csv").open("w", newline="") as file:  # as earlier versions wrote it
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    assert main(["compare", str(place), "A", "B"]) == 0


def summary_of(metrics: list[str], methods: list[str]) -> dict:
    """A summary whose means are 20, 21, ... in the order of the methods."""
    results = [
        {"dataset": "Set", "method": method, "protocol": "p", "metric": metric, "images": 5, "mean": 20.0 + i, "low": 19.0 + i,
         "high": 21.0 + i}
        for i, method in enumerate(methods) for metric in metrics
    ]  # fmt: skip
    return {
        "results": results, "methods": {name: {} for name in methods}, "unavailable": [], "unreadable": {"Set": ["x: broken"]},
        "missing_measures": {}, "datasets": {"Set": {"evaluated": 5, "doubts": []}}, "protocols": {"p": {"set_metrics": {}}},
        "measures": {f"p/{metric}": {"higher_is_better": metric != "niqe", "metric": metric} for metric in metrics},
    }  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_nothing_is_cut_off_in_a_narrow_terminal(width):
    metrics = ["psnr", "ssim", "lpips_squeeze", "clipiqa", "musiq", "maniqa", "niqe"]
    methods = ["UPSR-tiny", "bicubic", "a_method_with_quite_a_long_name_of_its_own"]
    console = Console(width=width, record=True, file=io.StringIO())
    print_summary(summary_of(metrics, methods), console)
    text = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert max(map(len, text.splitlines())) <= width
    for head in (*metrics, "UPSR-tiny", "bicubic"):
        assert head in text
    assert text.count("20.00 \N{PLUS-MINUS SIGN} 1.00") == 2  # psnr and niqe have two digits
    assert "t interval" in text.replace("\n", " ")
    assert "Set, 5 images" in " ".join(text.split())
    assert "left out: x: broken" in " ".join(text.split())


def test_the_best_methods_are_those_that_come_first_in_most_measures():
    summary = summary_of(["niqe"], ["worst", "middle", "best"])
    assert best_methods(summary, "Set") == ["worst", "middle", "best"]  # the lower the better
    summary = summary_of(["psnr", "ssim", "niqe"], ["worst", "middle", "best"])
    assert best_methods(summary, "Set") == ["best", "middle", "worst"]


def test_the_summary_says_of_which_files_the_numbers_are(place):
    psnr(place, "bicubic")
    summary = read_summary(place / "results")
    assert len({row.content for row in read_rows(place / "results")}) == 5
    assert len(summary["datasets"]["Tiny"]["contents_sha256"]) == 64
    assert summary["interval"].startswith("95 % t interval")
