"""`upsr upscale` as a user has it: folders, formats, hostile files, interruptions, several processes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.processes import run_fork, run_two, threads
from tests.tiny import picture
from tests.upscaling import save_pipeline
from upsr.cli import main
from upsr.errors import UpsrError
from upsr.photos.jobs import STREAM, plan_jobs
from upsr.pipeline.pipeline import UPSRPipeline

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A saved pipeline with the smallest networks."""
    return save_pipeline(tmp_path_factory.mktemp("weights"))


def upscale(weights, *arguments, start=run_fork, stdin=None, limit=None):
    """Run the command; what it prints is whole text."""
    if stdin is None and limit is None:
        return start("-m", "upsr", "upscale", "--weights", str(weights), *map(str, arguments))
    return subprocess.run(
        [sys.executable, "-m", "upsr", "upscale", "--weights", str(weights), *map(str, arguments)],
        cwd=REPOSITORY, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, input=stdin, check=False, timeout=300,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with photos of several kinds, one below it."""
    folder = tmp_path_factory.mktemp("photos")
    save(folder / "a photo, with ümlauts.png", picture(20, 30, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "turned.jpg", picture(24, 40, 1), exif=exif)
    save(folder / "below" / "deep.webp", picture(16, 18, 2), lossless=True)
    save(folder / "below" / "grey.tif", picture(17, 15, 3)[..., 0])
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_a_folder_keeps_names_formats_and_orientation(weights, photos, tmp_path):
    done = upscale(weights, photos, "-o", tmp_path / "out", "--record", tmp_path / "record.json", "--seed", "5")
    assert done.returncode == 0, done.stderr.decode()
    names = {"a photo, with ümlauts.png", "turned.jpg", "below/deep.webp", "below/grey.tif"}
    assert set(bytes_of(tmp_path / "out")) == names
    for name, size in (("turned.jpg", (96, 160)), ("below/deep.webp", (72, 64)), ("below/grey.tif", (60, 68))):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == size
            assert image.getexif().get(0x0112, 1) == 1
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["settings"]["seed"], len(record["done"]), record["failed"]) == (5, 4, [])


def test_order_batch_and_processes_do_not_matter(weights, photos, tmp_path):
    same = ["--tile", "16", "--steps", "2"]
    upscale(weights, photos, "-o", tmp_path / "one", *same)
    found = [str(path) for path in sorted(photos.glob("*.[jp][pn]g"), reverse=True)]
    arguments = ["--weights", str(weights), "-o", str(tmp_path / "two"), *same, "--batch", "3"]
    with threads(2):
        assert main(["upscale", *arguments, *found]) == 0
    done = upscale(weights, photos, "-o", tmp_path / "three", *same, "--devices", "cpu,cpu")
    assert done.returncode == 0, done.stderr.decode()
    one = bytes_of(tmp_path / "one")
    assert len(one) == 4
    assert bytes_of(tmp_path / "three") == one
    assert bytes_of(tmp_path / "two") == {name: one[name] for name in ("a photo, with ümlauts.png", "turned.jpg")}


def test_processes_that_share_tiles_give_the_same_bytes(weights, tmp_path):
    save(tmp_path / "in" / "large.png", picture(60, 90))  # tiles of four sizes
    (tmp_path / "in" / "text.png").write_text("no photo")
    alone, together = (
        upscale(
            weights, tmp_path / "in", "-o", tmp_path / name, "--tile", "32", "--save-uncertainty", *more, start=start
        )
        for name, more, start in (("alone", (), run_fork), ("together", ("--share", "tiles"), run_two))
    )
    printed = together.stdout.decode()
    assert (alone.returncode, together.returncode) == (1, 1), printed
    assert bytes_of(tmp_path / "together") == bytes_of(tmp_path / "alone") != {}
    assert "1 upscaled, 0 skipped, 1 failed" in printed


def test_torchrun_shares_the_photos(weights, photos, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "upsr", "upscale", "--weights", str(weights), str(photos), "-o", str(tmp_path)],
        cwd=REPOSITORY, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert "4 upscaled, 1 skipped, 0 failed" in done.stderr.decode()
    assert len(bytes_of(tmp_path)) == 4


def test_real_photos_all_go_through(weights, shared_dir, tmp_path):
    folder = shared_dir / "data" / "benchmarks" / "RealSet65"
    sizes = {path.name: Image.open(path).size for path in sorted(folder.iterdir())}
    smallest = sorted(sizes, key=lambda name: np.prod(sizes[name]))[:3]
    done = upscale(weights, *(folder / name for name in smallest), "-o", tmp_path, start=run_two)
    assert done.returncode == 0, done.stdout.decode()
    for name in smallest:
        assert Image.open(tmp_path / name).size == tuple(4 * side for side in sizes[name])


@pytest.fixture
def hostile(tmp_path):
    """Two good photos among what should not keep them from being done."""
    folder = tmp_path / "hostile folder ü"
    save(folder / "aa good.png", picture(16, 16))
    save(folder / "zz good.jpg", picture(16, 16))
    (folder / "cut.png").write_bytes((folder / "aa good.png").read_bytes()[:300])
    (folder / "cut.jpg").write_bytes((folder / "zz good.jpg").read_bytes()[:400])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("I am a text")
    Image.new("1", (20000, 10000)).save(folder / "bomb.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "around").symlink_to(folder, target_is_directory=True)
    return folder


def test_hostile_files_get_a_line_each_and_the_others_are_done(weights, hostile, tmp_path):
    save(hostile / "one.png", picture(1, 1))
    save(hostile / "long.png", picture(3, 300))
    Image.fromarray(picture(9, 9)).convert("CMYK").save(hostile / "cmyk.jpg")
    Image.fromarray(picture(9, 9)).quantize(8).save(hostile / "palette.png", transparency=0)
    Image.fromarray(picture(9, 9)[..., 0].astype(np.uint16) * 257).save(hostile / "deep.png")
    frames = [Image.fromarray(picture(9, 9, i)) for i in range(3)]
    frames[0].save(hostile / "moving.gif", save_all=True, append_images=frames[1:], duration=80, loop=0)
    done = upscale(weights, hostile, "-o", tmp_path / "out", "--steps", "1")
    errors = done.stderr.decode()
    assert done.returncode == 1
    assert "Traceback" not in errors
    good = {"aa good.png", "zz good.jpg", "one.png", "long.png", "cmyk.jpg", "palette.png", "deep.png", "moving.gif"}
    assert set(bytes_of(tmp_path / "out")) == good
    summary = [line for line in errors[errors.index(" upscaled,") :].splitlines()[1:] if "  note: " not in line]
    assert len(summary) == 6
    for name in ("cut.png", "cut.jpg", "empty.png", "text.png", "bomb.png", "loop.png"):
        assert sum(f"/{name}: " in line for line in summary) == 1, name
    assert np.asarray(Image.open(tmp_path / "out" / "deep.png")).dtype == np.uint16
    assert Image.open(tmp_path / "out" / "moving.gif").n_frames == 3
    assert "A" in Image.open(tmp_path / "out" / "palette.png").mode


def test_a_long_thin_photo_goes_through(weights, tmp_path):
    save(tmp_path / "long.png", picture(3, 5000))
    done = upscale(weights, tmp_path / "long.png", "-o", tmp_path / "out.png", "--steps", "1")
    assert done.returncode == 0, done.stderr.decode()
    assert Image.open(tmp_path / "out.png").size == (20000, 12)


def test_a_full_disk_leaves_nothing_half_written(weights, tmp_path):
    save(tmp_path / "in" / "large.png", picture(40, 40))
    save(tmp_path / "in" / "small.png", np.zeros((4, 4, 3), np.uint8))
    done = upscale(weights, tmp_path / "in", "-o", tmp_path / "out", "--steps", "0", limit=20_000)
    assert done.returncode == 1, done.stderr.decode()
    assert set(bytes_of(tmp_path / "out")) == {"small.png"}
    assert "large.png: cannot be written" in done.stderr.decode()


def test_folders_that_cannot_be_written_to_are_said_at_once(weights, photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = upscale(weights, photos, "-o", tmp_path / "file" / "out")
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: ")
    assert done.stderr.count(b"\n") == 1


def test_a_pipe(weights, photos):
    source = (photos / "below" / "deep.webp").read_bytes()
    done = upscale(weights, "-", "-o", "-", "--steps", "1", stdin=source)
    assert done.returncode == 0
    assert done.stdout[8:12] == b"WEBP"


def test_what_is_there_is_skipped(weights, photos, tmp_path):
    save(tmp_path / "turned.jpg", picture(8, 8))
    before = (tmp_path / "turned.jpg").read_bytes()
    done = upscale(weights, photos / "turned.jpg", "-o", tmp_path, "--skip-existing")
    assert (done.returncode, (tmp_path / "turned.jpg").read_bytes()) == (0, before)
    assert "0 upscaled, 1 skipped" in done.stderr.decode()


def test_an_interrupted_run_goes_on(weights, photos, tmp_path):
    from upsr.photos.journal import Journal
    from upsr.photos.upscaling import Handling, upscale_all
    from upsr.pipeline.settings import Settings

    pipe = UPSRPipeline.from_pretrained(weights, device="cpu")
    jobs = plan_jobs([str(photos)], str(tmp_path), "", None)
    key = {"any": "settings"}

    def stop_at_the_third(job):
        if job == jobs[2]:
            raise KeyboardInterrupt
        return lambda done, total: None

    with pytest.raises(KeyboardInterrupt):
        upscale_all(pipe, jobs, Settings.of(steps=0), Handling(), Journal(tmp_path, 0, key), on_photo=stop_at_the_third)
    resume = Handling(resume=True)
    other = upscale_all(pipe, jobs[:1], Settings.of(steps=0), resume, Journal(tmp_path, 1, {"other": "settings"}))
    assert len(other.done) == 1, "other settings make it again"
    journal = Journal(tmp_path, 0, key)
    outcome = upscale_all(pipe, jobs, Settings.of(steps=0), resume, journal)
    assert (len(outcome.skipped), len(outcome.done)) == (2, 2)
    journal.clear()
    assert set(bytes_of(tmp_path)) == {str(job.target.relative_to(tmp_path)) for job in jobs}, "the journal is gone"


def test_a_run_whose_other_process_had_ended_goes_on(weights, photos, tmp_path):
    from upsr.photos.journal import Journal
    from upsr.photos.upscaling import Handling, upscale_all
    from upsr.pipeline.settings import Settings

    pipe = UPSRPipeline.from_pretrained(weights, device="cpu")
    jobs = plan_jobs([str(photos)], str(tmp_path), "", None)
    Journal(tmp_path, 0, {}).begin()  # this one is interrupted
    upscale_all(pipe, jobs[:1], Settings.of(steps=0), Handling(), Journal(tmp_path, 1, {}))
    assert jobs[0].target.is_file()
    assert plan_jobs([str(photos)], str(tmp_path), "", None) == jobs, "a result of the run itself is no file of others"
    again = upscale_all(pipe, jobs, Settings.of(steps=0), Handling(resume=True), Journal(tmp_path, 0, {}))
    assert (len(again.skipped), len(again.done)) == (1, len(jobs) - 1)


def test_maps_are_written_beside_the_photo(weights, photos, tmp_path):
    done = upscale(
        weights, photos / "turned.jpg", "-o", tmp_path, "--save-uncertainty", "--suffix", "_x4", "--format", "png"
    )
    assert done.returncode == 0
    assert set(bytes_of(tmp_path)) == {"turned_x4.png", "turned_x4_uncertainty.png", "turned_x4_weight.png"}
    weight = np.asarray(Image.open(tmp_path / "turned_x4_weight.png"))
    assert weight.min() >= round(0.4 * 255) - 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nowhere.png"], "no such file"),
        (["{photos}/*.bmp"], "no pattern"),
        (["{photos}/turned.jpg", "--tile", "x"], "--tile"),
        (["{photos}/turned.jpg", "--steps", "9"], "steps is 9"),
        (["{photos}/turned.jpg", "--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["{photos}/turned.jpg", "--outscale", "2", "--width", "9"], "--outscale"),
        (["{photos}/turned.jpg", "--format", "docx"], "--format"),
        (["{photos}/turned.jpg", "--devices", "cpu,gpu"], "--devices"),
    ],
)
def test_mistakes_are_one_line(photos, tmp_path, arguments, word, capsys):
    code = main(["upscale", *(argument.format(photos=photos) for argument in arguments), "-o", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert code == 2
    assert word in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_results_never_meet(photos, tmp_path):
    with pytest.raises(UpsrError, match="take its place"):
        plan_jobs([str(photos / "turned.jpg")], str(photos), "", None)
    save(tmp_path / "other" / "turned.jpg", picture(8, 8))
    with pytest.raises(UpsrError, match="both would become"):
        plan_jobs([str(photos), str(tmp_path / "other")], str(tmp_path / "out"), "", None)
    with pytest.raises(UpsrError, match="one photo"):
        plan_jobs([str(photos)], "-", "", None)


def test_what_inputs_name(photos, tmp_path):
    inside = photos / "results"
    found = plan_jobs([str(photos), str(photos / "turned.jpg")], str(inside), "_x4", None)
    assert len(found) == 4, "a photo that is named twice is done once"
    assert {job.target.name for job in found} >= {"turned_x4.jpg", "deep_x4.webp"}
    assert [job.source for job in plan_jobs(["-"], "-", "", None)] == [STREAM]
    assert plan_jobs([str(photos / "**/*.webp")], "out.png", "", None)[0].target == Path("out.png")
