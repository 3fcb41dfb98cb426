"""Which files `upsr upscale` takes, where results go, and what is said: no result is lost, nothing is passed over in silence."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import picture
from tests.upscaling import save_pipeline
from upsr.cli import main
from upsr.commands import upscale_progress
from upsr.errors import UpsrError
from upsr.photos.jobs import STREAM, plan_jobs
from upsr.photos.journal import JOURNAL, Journal
from upsr.photos.upscaling import Handling, upscale_all
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.pipeline.settings import Settings

LATIN = os.fsdecode(b"caf\xe9.jpg")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def upscale(weights, capsys):
    """Runs the command with one network call for each photo: its exit code, and the lines that it printed as errors."""

    def run(*arguments, steps="0"):
        capsys.readouterr()
        call = ["upscale", "--weights", str(weights), "--devices", "cpu", *(["--steps", steps] if steps else [])]
        code = main([*call, *map(str, arguments)])
        return code, capsys.readouterr().err.splitlines()

    return run


def photo(*paths, form=None):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.fromarray(picture(8, 9)).save(
                file, form or Image.registered_extensions().get(path.suffix.lower(), "PNG")
            )


def files_in(folder):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def counts(lines):
    """Files that were upscaled, skipped and failed."""
    line = next(line for line in lines if " upscaled, " in line)
    return tuple(map(int, re.match(r"(\d+) upscaled, (\d+) skipped, (\d+) failed", line).groups()))


def targets(*inputs, out="out", suffix="", form=None, **more):
    remarks = []
    jobs = plan_jobs(list(inputs), out, suffix, form, on_remark=remarks.append, **more)
    return {os.path.relpath(job.target, out) for job in jobs}, {str(remark.path): remark.text for remark in remarks}


@pytest.mark.parametrize(
    ("names", "form", "usual", "others"),
    [
        (("a.png", "a.tga"), None, {"a.png"}, {"a_tga.png"}),
        (("a.tga", "a.ppm", "a.jp2"), None, {"a.png"}, {"a_ppm.png", "a_tga.png"}),
        (("a.png", "a.tga", "a_tga.png"), None, {"a.png", "a_tga.png"}, {"a_2.png"}),
        (("a.png", "a.jpg", "a.webp"), ".webp", {"a.webp"}, {"a_jpg.webp", "a_png.webp"}),
        (("a.png", "A.PNG"), None, {"A.PNG"}, {"a_png.png"}),
        (("\u00e9.png", "e\u0301.png"), None, {"e\u0301.png"}, {"\u00e9_png.png"}),
        (("x/a.png", "X/a.png"), None, {"X/a.png"}, {"x/a_png.png"}),
        (("a", "a.v1", "a.png"), None, {"a.v1.png", "a.png"}, {"a_2.png"}),
    ],
)
def test_no_two_results_are_in_one_place(place, names, form, usual, others):
    photo(*(Path("in") / name for name in names))
    found, remarks = targets("in", form=form)
    assert found == usual | others
    assert {re.search("its result is out/(.*): the usual name", text)[1] for text in remarks.values()} == others


def test_maps_have_places_of_their_own(place):
    photo("in/a.png", "in/a.jpg", "in/a_weight.png")
    jobs = plan_jobs(["in"], "out", "", None, maps=True)
    written = [path.name for job in jobs for path in (job.target, *job.maps.values())]
    assert len(set(written)) == 9
    assert {"a.png", "a.jpg", "a_weight.png", "a_weight_uncertainty.png"} < set(written)
    with pytest.raises(UpsrError, match=r"a_weight.png of in/a_weight.png would take its place"):
        plan_jobs(["in/a_weight.png"], "in/a.png", "", None, maps=True)


def test_a_folder_is_searched_once_however_many_links_lead_to_it(place):
    photo("in/real/a.png", "elsewhere/b.png")
    for link, goal in (("in/aa", "real"), ("in/real/up", ".."), ("in/real/loop", "loop"), ("in/out", "../elsewhere")):
        Path(link).symlink_to(goal)
    found, remarks = targets("in")
    assert found == {"real/a.png", "out/b.png"}
    assert {path for path, text in remarks.items() if "leads to" in text} == {"in/aa", "in/real/up"}
    assert remarks["in/real/loop"] == "a link to nothing"


def test_results_do_not_replace_what_links_lead_to(place):
    photo("originals/a.png")
    Path("in").mkdir()
    Path("in/a.png").symlink_to("../originals/a.png")
    with pytest.raises(UpsrError, match="take its place"):
        plan_jobs(["in"], "originals", "", None)
    Path("out").symlink_to("originals")
    with pytest.raises(UpsrError, match="take its place"):
        plan_jobs(["originals"], "out", "", None)


def test_patterns_in_names_that_are_there_are_names(place):
    photo("pat[1]/a.png", "pat[1]/b[2].png", "pat1/c.png", "pat[1]/.hidden.png")
    Path("pat[1]/loop").symlink_to(".")
    assert targets("pat[1]")[0] == {"a.png", "b[2].png"}
    assert targets("pat[1]/*.png")[0] == {"a.png", "b[2].png"}
    assert targets("pat[1]/b[2].png")[0] == {"b[2].png"}
    assert targets("pat?/*.png")[0] == {"c.png"}
    assert targets("**/*.png")[0] == {"a.png", "b[2].png", "c.png"}
    with pytest.raises(UpsrError, match="no pattern that anything matches"):
        targets("pat[2]/*.png")


@pytest.mark.parametrize(
    ("inputs", "out", "word"),
    [
        ([""], "out", "empty"),
        (["in"], "", "empty"),
        (["-", "-"], "out", "name it once"),
        (["in/a.png"], "x.heic", "'.heic' is no format that can be written .*png"),
        (["in/a.png"], "x.jxl", "'.jxl'"),
        (["in/a.png"], "x.xyz", "'.xyz' .* give x.xyz/"),
        (["in"], "x.heic", "'.heic'"),
        (["in"], "x.png", "one file, but there are 2 photos"),
    ],
)
def test_names_that_cannot_be_are_refused(place, inputs, out, word):
    photo("in/a.png", "in/b.png")
    with pytest.raises(UpsrError, match=word):
        plan_jobs(inputs, out, "", None)
    assert files_in(place) == {"in/a.png", "in/b.png"}


def test_a_file_may_be_named_like_standard_input(place):
    photo("-", form="PNG")
    jobs = plan_jobs(["-"], "-", "", None) + plan_jobs(["./-"], "out", "", None) + plan_jobs(["."], "out", "", None)
    assert [job.source for job in jobs] == [STREAM, place / "-", place / "-"]


def test_folders_may_have_any_name(place):
    photo("in/a.png", "in/b.png")
    assert targets("in/a.png", out="x.xyz/")[0] == {"a.png"}
    assert targets("in", out="large.2024")[0] == {"a.png", "b.png"}
    Path("there.png").mkdir()
    assert targets("in/a.png", out="there.png")[0] == {"a.png"}


@pytest.mark.parametrize("suffix", ["/x", "../x", "x\0"])
def test_a_suffix_is_part_of_a_name(place, suffix):
    photo("a.png")
    with pytest.raises(UpsrError, match=r"--suffix: .* cannot be part"):
        plan_jobs(["a.png"], "out", suffix, None)


@pytest.mark.parametrize("suffix", ["..", ".jpg", ".x4", " ", "%s"])
def test_a_suffix_may_have_dots(place, suffix):
    photo("a.png", "b")
    assert targets("a.png", "b", suffix=suffix)[0] == {f"a{suffix}.png", f"b{suffix}.png"}


def test_a_folder_of_all_kinds_ends_with_a_line_for_each_file_that_is_not_done(place, upscale):
    good = ["a.png", "a.tga", "A.PNG", "a.jpg", "deep/a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm", "a.jp2", LATIN]
    good += ["a\nb.png", "-", "two  spaces.png", "%d{}.png", "-o.png"]
    photo(*(Path("in") / name for name in good))
    photo("in/no suffix", "in/photo.v2", "in/other.jfif", form="JPEG")
    good += ["no suffix", "photo.v2", "other.jfif"]
    skipped = {"notes.txt", "Thumbs.db", ".hidden.png", "raw.nef", "pipe.png", "socket.png", "zero.png", "nowhere"}
    for name in ("notes.txt", "Thumbs.db", ".hidden.png", "raw.nef"):
        (place / "in" / name).write_bytes(b"II*\0" if name == "raw.nef" else b"text")
    os.mkfifo("in/pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("in/socket.png")
    Path("in/zero.png").symlink_to("/dev/zero")
    Path("in/nowhere").symlink_to("nothing here")
    failed = {"empty.png", "text.jpg", "cut.png", "broken.png", "n" * 251 + ".png"}
    photo(*(Path("in") / name for name in failed - {"broken.png"}))
    Path("in/empty.png").write_bytes(b"")
    Path("in/text.jpg").write_text("no photo")
    Path("in/cut.png").write_bytes(Path("in/cut.png").read_bytes()[:60])
    Path("in/broken.png").symlink_to("nothing here")
    number = sum(len(files) for _, _, files in os.walk("in"))

    code, lines = upscale("in", "-o", "out", "--suffix", "_x4", "--record", "record.json")
    assert code == 1
    assert counts(lines) == (len(good), len(skipped), len(failed))
    assert len(good) + len(skipped) + len(failed) == number
    assert len(files_in("out")) == len(good)
    for path in (path for path in Path("out").rglob("*") if path.is_file()):
        with Image.open(path) as image:
            assert image.size == (36, 32)
    summary = lines[next(n for n, line in enumerate(lines) if " upscaled, " in line) + 1 :]
    for name in skipped | failed:
        assert sum(line.startswith(f"  in/{name}: ") for line in summary) == 1, name
    assert any(line.startswith("  skipped: ") and "1 x a named pipe" in line for line in summary)
    assert any("the name of its result is too long (258 bytes, 255 fit)" in line for line in summary)
    record = json.loads(Path("record.json").read_text())
    assert (len(record["done"]), len(record["skipped"]), len(record["failed"])) == counts(lines)
    assert str(Path("in") / LATIN) in record["done"]


def test_formats_stay_by_content_where_a_name_tells_none(place, upscale):
    photo("in/no suffix", "in/photo.v2", "in/other.jfif", form="JPEG")
    assert upscale("in", "-o", "out")[0] == 0
    for path in Path("out").iterdir():
        with Image.open(path) as image:
            assert image.format == "JPEG", path


@pytest.mark.parametrize("make", [os.mkfifo, lambda name: Path(name).symlink_to("/dev/zero")])
def test_what_is_no_file_is_never_opened(place, upscale, make):
    make("b.jpg")
    code, lines = upscale("b.jpg", "-o", "out")
    assert (code, counts(lines)) == (1, (0, 0, 1))
    assert re.search(r"b.jpg: a (named pipe|device), which is not opened", lines[-1])


def test_an_upscaling_beside_the_photos_comes_to_rest(place, upscale):
    photo("in/a.png", "in/a.tga", "in/b.jpg", "in/deep/c.png")
    again = ("in", "-o", "in", "--suffix", "_x4", "--save-uncertainty", "--skip-existing")
    assert counts(upscale(*again)[1]) == (4, 0, 0)
    first = files_in("in")
    assert len(first) == 4 * 4
    before = {name: (place / "in" / name).read_bytes() for name in first}
    for more in ((), ("--format", "jpg")):
        code, lines = upscale(*again[:-2], *more, "--skip-existing")
        made = 3 if more else 0  # b.jpg has its result already
        assert (code, sum(counts(lines)), counts(lines)[0]) == (0, len(first), made)
        first |= files_in("in")
    assert not [name for name in first if "_x4_x4" in name]
    code, lines = upscale(*again[:-2])
    assert code == 2
    assert "lies among the photos" in lines[-1]
    assert "--skip-existing" in lines[-1]
    assert {name: (place / "in" / name).read_bytes() for name in before} == before


WORDS = ("--overwrite", "--skip-existing", "-o or --suffix")


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_file_in_the_place_of_a_result_is_not_replaced(place, upscale, monkeypatch, more):
    def load(*_, **__):
        raise AssertionError("no model is needed to know it")

    photo("in/a.png", "in/b.png", "out/b.png")
    before = Path("out/b.png").read_bytes()
    if more:  # of a run that was interrupted before b.png
        Path(f"out/{JOURNAL}-0.jsonl").write_text('{"writes": ["a.png"]}\n')
    with monkeypatch.context() as patch:
        patch.setattr(UPSRPipeline, "from_pretrained", load)
        code, lines = upscale("in", "-o", "out", *more)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("error: out/b.png: is there, and the result of in/b.png would take its place; ")
    assert all(word in lines[0] for word in WORDS)
    assert files_in("out") - {f"{JOURNAL}-0.jsonl"} == {"b.png"}
    assert Path("out/b.png").read_bytes() == before
    assert counts(upscale("in", "-o", "out", *more, "--overwrite")[1]) == (2, 0, 0)
    assert Path("out/b.png").read_bytes() != before


def test_maps_replace_no_file_and_a_link_counts_as_one(place):
    photo("in/a.png", "in/b.png", "out/a_weight.png", "out/b.png")
    Path("out/a.png").symlink_to("nothing here")
    with pytest.raises(UpsrError, match=r"^out/a.png: is there \(and so are the places of 2 more\), .* leaves it, or"):
        plan_jobs(["in"], "out", "", None, maps=True)
    Path("out/a.png").unlink()
    # b.png stays as it is; a.png is made, and one of its maps has no place.
    with pytest.raises(UpsrError, match=r"^out/a_weight.png: is there, .* --overwrite allows it, or choose"):
        plan_jobs(["in"], "out", "", None, maps=True, results_stay=True)
    assert len(plan_jobs(["in"], "out", "", None, results_stay=True)) == 2
    assert len(plan_jobs(["in"], "out", "", None, maps=True, overwrite=True)) == 2
    with pytest.raises(UpsrError, match="its result would take its place"):
        plan_jobs(["in"], "in", "", None, overwrite=True)


def test_results_beside_their_photos_are_replaced_where_that_is_said(place, upscale):
    photo("in/a.png")
    assert upscale("in", "-o", "in", "--suffix", "_x4")[0] == 0
    Path("in/a_x4.png").write_bytes(Path("in/a.png").read_bytes())
    assert upscale("in", "-o", "in", "--suffix", "_x4")[0] == 2
    assert counts(upscale("in", "-o", "in", "--suffix", "_x4", "--overwrite")[1]) == (1, 1, 0)
    assert Image.open("in/a_x4.png").size == (36, 32)
    with pytest.raises(UpsrError, match="lies among the photos"):  # it was named itself
        plan_jobs(["in/a.png", "in/a_x4.png"], "in", "_x4", None, overwrite=True)


def test_what_an_interrupted_run_wrote_is_its_own(place, upscale, monkeypatch):
    """A kill between writing a result and noting it leaves a file that a later run may replace."""
    photo("in/a.png", "in/b.png")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", killed)
        assert upscale("in", "-o", "out")[0] == 130
    assert files_in("out") == {"a.png", f"{JOURNAL}-0.jsonl"}
    Path(f"out/{JOURNAL}-1.jsonl").write_text('{"target": "b.png", "source_sha256": "", "settings": ""}\n{"wri')
    photo("out/b.png")
    assert counts(upscale("in", "-o", "out")[1]) == (2, 0, 0)
    assert files_in("out") == {"a.png", "b.png"}


def test_a_record_replaces_records_alone(place, upscale):
    photo("a.png")
    Path("notes.json").write_text('{"options": {"seed": 5}}')
    code, lines = upscale("a.png", "-o", "out", "--record", "notes.json")
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("error: --record: notes.json is there and no record of an earlier run; --overwrite")
    assert Path("notes.json").read_text() == '{"options": {"seed": 5}}'
    assert upscale("a.png", "-o", "out", "--record", "record.json")[0] == 0
    assert upscale("a.png", "-o", "other", "--record", "record.json")[0] == 0
    assert upscale("a.png", "-o", "other", "--record", "notes.json", "--overwrite")[0] == 0
    assert "done" in json.loads(Path("notes.json").read_text())


def test_resuming_needs_something_to_resume(place, upscale, monkeypatch):
    photo("in/a.png", "in/b.png")
    assert counts(upscale("in", "-o", "out", "--resume")[1]) == (2, 0, 0)
    with monkeypatch.context() as patch:
        patch.delattr(UPSRPipeline, "from_pretrained")  # no model is needed to see that nothing is left
        for more in ((), ("--devices", "cpu,cpu"), ("--record", "record.json")):
            code, lines = upscale("in", "-o", "out", "--resume", *more)
            assert (code, counts(lines)) == (0, (0, 2, 0))
            assert (
                "no run was interrupted, and all results are there, made with whatever settings; --overwrite makes them again"
                in lines[0]
            )
            assert ("no record is written" in lines[0]) == ("--record" in more)
            assert lines[1:3] == [f"  in/{name}.png: skipped, its result is there" for name in "ab"]
    assert files_in(place) == {"in/a.png", "in/b.png", "out/a.png", "out/b.png"}
    Path("out/a.png").unlink()
    code, lines = upscale("in", "-o", "out", "--resume")
    assert code == 2
    assert "no interrupted run" in lines[-1]
    assert "--skip-existing" in lines[-1]
    Path(f"out/{JOURNAL}-7.jsonl").write_text('5\n{"settings": 1}\n{"writes": ["a.png", "b.png"]}\n{"tar')
    assert counts(upscale("in", "-o", "out", "--resume")[1]) == (2, 0, 0)
    assert files_in("out") == {"a.png", "b.png"}, "journals are gone, whoever wrote them"


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("a.png", "-o", "out", "--g", "nothere.pth"), "--part g="),
        (("a.png", "-o", "b.png", "--format", "jpg"), "--format"),
        (("a.png", "-o", "b.png", "--suffix", "_x4"), "--suffix"),
        (("a.png", "-o", "-", "--suffix", "_x4"), "--suffix"),
        (("a.png", "-o", "-", "--save-uncertainty"), "--save-uncertainty"),
        (("a.png", "-o", "-", "--skip-existing"), "--skip-existing"),
        (("a.png", "-o", "-", "--resume"), "--resume"),
        (("a.png", "-o", "-", "--overwrite"), "--overwrite"),
        (("a.png", "-o", "out", "--overwrite", "--skip-existing"), "--overwrite"),
        (("-", "-o", "out", "--resume"), "--resume"),
        (("a.png", "-o", "out", "--resume", "--skip-existing"), "--resume"),
        (("a.png", "-o", "out", "--quality", "80"), "--quality"),
        (("a.png", "-o", "-", "--quality", "80"), "--quality"),
        (("a.png", "-o", "out", "--steps", "0", "--seed", "0"), "--seed"),
        (("a.png", "-o", "out", "--fidelity", "1", "--adaptive", "0.1"), "--adaptive"),
        (("a.png", "-o", "out", "--steps", "0", "--fidelity", "0.3"), "--fidelity"),
        (("a.png", "-o", "out", "--steps", "1", "--fidelity", "1"), "--steps"),
        (("a.png", "-o", "out", "--share", "tiles"), "--share"),
        (("a.png", "-o", "out", "--batch", "2", "--tile", "none"), "--batch"),
        (("a.png", "-o", "out", "--width", "0"), "--width"),
        (("a.png", "-o", "out", "--max-megapixels", "inf"), "--max-megapixels"),
        (("a.png", "-o", "out", "--tile", "\u00b2"), "--tile"),
        (("a.png", "-o", "out", "--weights", ""), "--weights"),
        (("a.png", "-o", "out", "--record", "a.png"), "--record"),
    ],
)
def test_an_option_without_effect_is_refused_by_its_name(place, upscale, arguments, option):
    photo("a.png")
    before = Path("a.png").read_bytes()
    code, lines = upscale(*arguments, steps=None)
    assert code == 2
    assert re.match(rf"error: {option}[:,] ", lines[-1])
    assert len(lines) == 1
    assert files_in(place) == {"a.png"}
    assert Path("a.png").read_bytes() == before


@pytest.mark.parametrize("option", [("--seed", "0"), ("--fidelity", "0.6"), ("--save-uncertainty",)])
def test_options_of_diffusion_need_a_model_with_it(place, upscale, monkeypatch, option):
    photo("a.png")
    monkeypatch.setattr(UPSRPipeline, "knobs", lambda pipe: {})
    monkeypatch.setattr(UPSRPipeline, "draws", False)
    monkeypatch.setattr(UPSRPipeline, "maps", ())
    code, lines = upscale("a.png", "-o", "out", *option, steps=None)
    assert (code, len(lines)) == (2, 1)
    assert re.match(f"error: {option[0]}: has no effect on .*, a method without such a setting", lines[0])


def test_quality_acts_where_one_result_has_it(place, upscale):
    photo("in/a.png", "in/b.jpg")
    assert upscale("in", "-o", "out", "--quality", "80")[0] == 0


@pytest.mark.parametrize(
    ("target", "arguments", "word"),
    [
        ("b.webp", ("--width", "20000"), "16383"),
        ("b.jpg", ("--height", "70000", "--width", "2"), "65500"),
        ("b.png", ("--width", "9000000", "--height", "9000000"), "GB of memory"),
    ],
)
def test_what_the_result_cannot_be_is_refused_before_the_work(place, upscale, monkeypatch, target, arguments, word):
    def work(*_, **__):
        raise AssertionError("no work is needed to know it")

    monkeypatch.setattr(UPSRPipeline, "upscale", work)
    photo("a.png")
    code, lines = upscale("a.png", "-o", target, *arguments)
    assert code == 1
    assert lines[-1].startswith("  a.png: ")
    assert word in lines[-1]
    assert files_in(place) == {"a.png"}


def test_what_is_too_large_names_the_option_that_allows_it(place, upscale):
    photo("a.png", "b.png", "masks/b.png")
    Image.fromarray(picture(16, 18)).save("masks/b.png")
    line = "pixels are more than the {} allowed; scale it down or allow more with --max-megapixels"
    for most, arguments, said in (
        ("0.00005", ("a.png",), "a.png: 72 " + line.format(50)),
        ("0.0001", ("b.png", "--mask", "masks"), "b.png: its mask masks/b.png: 288 " + line.format(100)),
    ):
        code, lines = upscale(*arguments, "-o", "out", "--max-megapixels", most, steps=None)
        assert (code, lines[-1]) == (1, f"  {said}")


def test_the_memory_of_a_resizing_counts(place, upscale, monkeypatch):
    photo("a.png")
    width = 8 * Image.open("a.png").width
    # Eight bits of the result would fit; the planes of which it is resized do not.
    monkeypatch.setattr("upsr.photos.upscaling.free_memory", lambda device: 9 * width * width)
    code, lines = upscale("a.png", "-o", "b.png", "--width", str(width), "--height", str(width))
    assert code == 1
    assert "GB of memory" in lines[-1]
    assert files_in(place) == {"a.png"}


def test_whatever_goes_wrong_with_one_photo_the_others_are_done(place, upscale, monkeypatch):
    photo("in/a.png", "in/b.png", "in/c.png")
    right = UPSRPipeline.upscale
    errors = iter([ValueError("odd"), RuntimeError("can't allocate memory: you tried to allocate 9 bytes")])

    def work(*arguments, **more):
        if error := next(errors, None):
            raise error
        return right(*arguments, **more)

    monkeypatch.setattr(UPSRPipeline, "upscale", work)
    code, lines = upscale("in", "-o", "out")
    assert (code, counts(lines)) == (1, (1, 0, 2))
    assert lines[-2:] == [
        "  in/a.png: not done, by a fault of this program (ValueError: odd)",
        "  in/b.png: not enough memory; give a smaller --tile, or upscale a smaller photo",
    ]


def run_with(weights, change):
    """Upscale a.png with a changed model; its failures."""
    pipe = UPSRPipeline.from_pretrained(weights, device="cpu", dtype="float32")
    with torch.no_grad():
        change(pipe.method)
    pipe.to(dtype="float32")
    return upscale_all(pipe, plan_jobs(["a.png"], "out", "", None), Settings(), Handling(), None).failed


def test_values_that_are_not_finite_never_become_a_photo(place, weights):
    photo("a.png")
    for value in (float("nan"), float("inf")):
        for name in ("denoiser", "g"):
            failed = run_with(
                weights, lambda model, name=name, value=value: next(model.parts()[name].parameters()).fill_(value)
            )
            assert failed == ["a.png: the result is not finite; give other weights, or compute in float32"]
    assert files_in(place) == {"a.png"}


def test_a_photo_never_becomes_one_colour(place, weights):
    photo("a.png")

    def saturate(model):
        [parameter for parameter in model.denoiser.parameters() if parameter.dim() == 1][-1].fill_(1e4)

    failed = run_with(weights, saturate)
    assert failed == ["a.png: the result would be of one colour, which the photo is not; give other weights"]
    Image.fromarray(np.full((8, 9, 3), 77, np.uint8)).save("a.png")
    assert run_with(weights, saturate) == [], "a photo of one colour may"


def test_a_log_has_a_line_for_each_photo(place, upscale):
    photo("in/a.png", "in/b.jpg")
    lines = upscale("in", "-o", "out")[1]
    assert [re.sub(r"[\d.]+ s", "T s", line) for line in lines[:2]] == [
        "[1/2] a.png: 9 x 8, T s",
        "[2/2] b.jpg: 9 x 8, T s",
    ]
    assert len(upscale("in", "-o", "other", "--quiet")[1]) == 1


def test_a_long_photo_is_announced_with_a_measured_time(place, upscale, monkeypatch):
    monkeypatch.setattr(upscale_progress, "_PROBE", 8)
    monkeypatch.setattr(upscale_progress, "_PROBED_FROM", 2)
    monkeypatch.setattr(upscale_progress, "_LONG", 0)
    Image.fromarray(picture(16, 24)).save("a.png")
    lines = upscale("a.png", "-o", "out")[1]
    assert re.fullmatch(r"a.png: 24 x 16 will take about \d+ (minutes?|hours), measured on a part of it", lines[0])
    assert lines[1].startswith("[1/1] a.png: 24 x 16")
