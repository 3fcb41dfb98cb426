"""Masks, consistency with the photo, and settings that are repeated: in Python and by the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.processes import run_fork
from tests.tiny import picture
from tests.upscaling import save_pipeline
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.methods.bicubic.method import Bicubic
from upsr.pipeline.masks import check_fits, mask_of, weight_of
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.pipeline.settings import Settings
from upsr.tiling.consistency import project
from upsr.tiling.resizing import meeting_bands, resized_rows
from upsr.tiling.scratch import Scratch

CPU = torch.device("cpu")
FAITHFUL = {"fidelity": 1.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def pipe(weights):
    return UPSRPipeline.from_pretrained(weights, device="cpu")


def painted(height: int, width: int) -> np.ndarray:
    """A mask with black, white, and a ramp between them."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : -3] = 255
    mask[height // 2 : -2, 2 : width // 2] = np.linspace(0, 255, width // 2 - 2, dtype=np.uint8)
    return mask


def outside(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels of a result of which some part lies on a black pixel of the mask, by their corners."""
    rows, columns = (
        [np.arange(int(i * m / n), min(-int(-(i + 1) * m // n), m)) for i in range(n)]
        for m, n in zip(mask.shape, size, strict=True)
    )
    black = np.stack([(mask[own] == 0).any(0) for own in rows])
    return np.stack([black[:, across].any(1) for across in columns], axis=1)


def shares(result: np.ndarray, photo: np.ndarray) -> tuple[float, float]:
    """Shares of the values within a level after a reduction by torch, and after Pillow's to 8 bits."""
    largest = np.iinfo(photo.dtype).max
    image = torch.from_numpy(result.astype(np.float32) / largest).permute(2, 0, 1)[None]
    reduced = F.interpolate(image, size=photo.shape[:2], mode="bicubic", antialias=True).clamp(0, 1)[0].permute(1, 2, 0)
    close = np.abs(reduced.numpy() - photo.astype(np.float64) / largest) <= 1 / 255 + 1e-5
    if photo.dtype != np.uint8 or photo.shape[-1] != 3:
        return close.mean(), 1.0
    pillow = np.asarray(Image.fromarray(result).resize(photo.shape[1::-1], Image.Resampling.BICUBIC)).astype(int)
    return close.mean(), (np.abs(pillow - photo.astype(int)) <= 1).mean()


PHOTOS = {
    "colour": picture(20, 30),
    "16 bit": picture(20, 30).astype(np.uint16) * 257 + 3,
    "alpha": np.dstack([picture(20, 30), picture(20, 30, 1)[..., :1]]),
    "grey": picture(20, 30)[..., :1].copy(),
}


@pytest.mark.parametrize(
    "given", [{}, {"outscale": 2}, {"outscale": 3}, {"outscale": 2.3}, {"size": (150, None)}], ids=str
)
@pytest.mark.parametrize("tile", [None, 16])
def test_outside_of_a_mask_the_bytes_are_the_faithful_estimate_s(pipe, given, tile):
    frame, mask = PHOTOS["colour"], painted(20, 30)
    settings = Settings(tile=tile, **given)
    photo = Photo((frame,), "PNG")
    inside = pipe.upscale(photo, settings).frames[0]
    faithful = pipe.upscale(photo, replace(settings, knobs=FAITHFUL)).frames[0]
    result = pipe.upscale(photo, settings, mask=mask_of(mask)).frames[0]
    black = outside(mask, result.shape[:2])
    white = ~outside(255 - mask, result.shape[:2]) & ~outside((mask == 255).astype(np.uint8), result.shape[:2])
    assert 0.2 < black.mean() < 0.9
    assert np.array_equal(result[black], faithful[black])
    assert np.array_equal(result[white], inside[white])
    grey = ~black & ~white
    low, high = np.minimum(inside, faithful)[grey].astype(int), np.maximum(inside, faithful)[grey].astype(int)
    assert ((low <= result[grey]) & (result[grey] <= high)).all()
    changed = (inside != faithful).any(axis=-1)
    assert (result[changed & grey] != faithful[changed & grey]).any()


@pytest.mark.parametrize("kind", PHOTOS)
@pytest.mark.parametrize("given", [{"colour_fix": "wavelet"}, {"consistent": True}], ids=str)
def test_they_are_so_for_every_kind_of_photo_and_with_everything_that_follows(pipe, kind, given):
    frame, mask = PHOTOS[kind], painted(80, 120)
    photo, settings = Photo((frame, frame), "PNG"), Settings(tile=16, **given)
    faithful = pipe.upscale(photo, replace(settings, knobs=FAITHFUL))
    result = pipe.upscale(photo, settings, mask=mask_of(mask))
    for own, other in zip(result.frames, faithful.frames, strict=True):
        assert own.dtype == frame.dtype
        assert own.shape == (80, 120, frame.shape[-1])
        assert np.array_equal(own[mask == 0], other[mask == 0])
        assert not np.array_equal(own, other)


def test_progress_is_of_both_restorations(pipe):
    seen = []
    pipe(PHOTOS["colour"], mask=painted(20, 30), tile=16, progress=lambda done, total: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[-1] == 1


@pytest.mark.parametrize(("mask", "values"), [
    (np.full((2, 3), 51, np.uint8), 0.2),
    (np.full((2, 3), 13107, np.uint16), 0.2),
    (np.full((2, 3, 3), (0, 51, 102), np.uint8), 0.2),
    (np.full((2, 3, 2), (102, 127.5 * 1), np.uint8), 0.4 * 127 / 255),
    (np.full((2, 3, 4), (255, 255, 255, 0), np.uint8), 0),
])  # fmt: skip
def test_a_mask_is_read_as_grey_and_nothing_where_it_is_transparent(mask, values):
    assert mask_of(mask).shape == (2, 3)
    assert mask_of(mask).sub(values).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(8, 12), (32, 48), (20, 30), (25, 37), (5, 7), (1, 1), (300, 450)])
def test_what_a_black_pixel_touches_is_outside_at_every_size(size):
    mask = painted(8, 12)
    weight = weight_of(torch.from_numpy(mask).float() / 255, size, Scratch(CPU))
    assert np.array_equal(weight.numpy() == 0, outside(mask, size))
    assert (weight == 1).any() == (size[0] >= 8)


def test_a_mask_of_truth_values_is_white_where_they_are_true(pipe):
    inside = np.zeros((20, 30), bool)
    inside[5:15, 4:20] = True
    for mask in (inside, torch.from_numpy(inside)):
        assert np.array_equal(mask_of(mask).numpy(), inside.astype(np.float32))
    results = [
        np.asarray(pipe(picture(20, 30), mask=mask, steps=1).images[0])
        for mask in (inside, np.where(inside, 255, 0).astype(np.uint8))
    ]
    assert np.array_equal(*results)


def test_a_mask_of_other_proportions_is_refused(pipe):
    for size in ((20, 30), (80, 120), (10, 15), (7, 10), (41, 61)):
        check_fits(torch.zeros(size), (20, 30))
    for size in ((30, 20), (80, 80), (20, 40), (400, 700)):
        with pytest.raises(
            UpsrError, match=f"the mask is {size[1]} x {size[0]}, of other proportions than the photo, 30 x 20"
        ):
            pipe(PHOTOS["colour"], mask=np.zeros(size, np.uint8))
    with pytest.raises(UpsrError, match="mask: 1 for 2 images"):
        pipe([PHOTOS["colour"]] * 2, mask=painted(20, 30))


def test_a_method_that_has_no_faithful_estimate_takes_no_mask():
    pipe = UPSRPipeline(Bicubic(4), {}, "cpu")
    assert not pipe.takes_masks
    with pytest.raises(UpsrError, match="mask: the method Bicubic has no faithful estimate"):
        pipe(PHOTOS["colour"], mask=painted(20, 30))


@pytest.mark.parametrize("kind", PHOTOS)
@pytest.mark.parametrize("given", [{}, {"outscale": 2}, {"outscale": 3, "tile": 16}, {"size": (71, 67)}], ids=str)
def test_a_consistent_result_reduced_is_the_photo(pipe, kind, given):
    frame = PHOTOS[kind]
    colours = slice(frame.shape[-1] - 1 + frame.shape[-1] % 2)
    plain, made = (
        pipe.upscale(Photo((frame,), "PNG"), Settings.of(consistent=consistent, **given))
        for consistent in (False, True)
    )
    assert min(shares(made.frames[0][..., colours], frame[..., colours])) >= 0.999
    assert shares(plain.frames[0][..., colours], frame[..., colours])[0] < 0.9
    assert made.notes == ()
    if colours.stop != frame.shape[-1]:
        assert np.array_equal(made.frames[0][..., -1], plain.frames[0][..., -1])


def test_one_that_cannot_be_is_said(pipe):
    """Black and white by turns in every pixel: no image in [0, 1] has that reduction."""
    board = (np.indices((24, 24)).sum(axis=0) % 2 * 255).astype(np.uint8)
    output = pipe(board, consistent=True)
    assert "not consistent: " in output.notes[0][0]
    assert "not 99.9%" in output.notes[0][0]
    assert pipe(picture(8, 8), consistent=True).notes == [()]


@pytest.mark.parametrize(
    "sides", [((60, 40), (240, 160)), ((301, 20), (903, 61)), ((300, 20), (750, 50)), ((97, 20), (1001, 60))]
)
def test_projecting_is_the_same_in_bands_and_in_files(sides, monkeypatch):
    (h, w), (height, width) = sides
    lq, image = torch.rand(1, 3, h, w) * 0.3 + 0.35, torch.rand(1, 3, height, width)
    whole = F.interpolate(image, size=(h, w), mode="bicubic", antialias=True)
    enlarged = F.interpolate(lq, size=(height, width), mode="bicubic")
    for rows, own in meeting_bands(height, h):
        torch.testing.assert_close(resized_rows(image, (h, w), own, CPU), whole[..., own, :], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            resized_rows(lq, (height, width), rows, CPU), enlarged[..., rows, :], rtol=0, atol=1e-4
        )
    in_memory, in_files = image.clone(), image.clone()
    share = project(in_memory, lq, Scratch(CPU), largest=255)
    monkeypatch.setattr("upsr.tiling.resizing.BAND", 16)
    assert project(in_files, lq, Scratch(CPU, room=0), largest=255) == pytest.approx(share, abs=1e-3)
    torch.testing.assert_close(in_files, in_memory, rtol=0, atol=1e-3)
    assert share >= 0.999


def test_where_the_weight_is_zero_nothing_is_added():
    lq, image = torch.rand(1, 3, 10, 10), torch.rand(1, 3, 40, 40)
    weight = torch.zeros(40, 40)
    weight[:, 20:] = 0.5
    moved = image.clone()
    share = project(moved, lq, Scratch(CPU), largest=255, weight=weight)
    assert torch.equal(moved[..., :20], image[..., :20])
    assert not torch.equal(moved[..., 20:], image[..., 20:])
    assert share < 0.9


@pytest.mark.parametrize("given", [{"outscale": 1}, {"outscale": 0.5}, {"size": (1, None)}, {"size": (60, 20)}])
def test_results_that_are_no_larger_than_the_photo_are_not_made_consistent(pipe, given):
    with pytest.raises(UpsrError, match="consistent: goes with results that are wider and higher than the photo"):
        pipe(PHOTOS["colour"], consistent=True, **given)


def upscale(weights, *arguments):
    """The exit code and the messages of the command; ``None`` leaves the weights to it."""
    named = () if weights is None else ("--weights", weights)
    done = run_fork("-m", "upsr", "upscale", *map(str, (*named, *arguments)))
    return done.returncode, done.stderr.decode()


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two photos, a folder with masks of both, and one with photos that have no mask or one that does not fit."""
    for name, number in (("in/a.png", 0), ("in/below/b.jpg", 1)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(20, 30, number)).save(tmp_path / name)
    (tmp_path / "in/masks/below").mkdir(parents=True)
    Image.fromarray(painted(20, 30)).save(tmp_path / "in/masks/a.png")
    Image.fromarray(painted(80, 120)).save(tmp_path / "in/masks/below/b.png")
    return tmp_path


def test_the_command_takes_a_folder_of_masks(weights, photos):
    given = (photos / "in", "--format", "png", "--tile", "16", "--mask", photos / "in/masks")
    code, said = upscale(weights, *given, "-o", photos / "out")
    assert code == 0, said
    assert "2 upscaled, 2 skipped, 0 failed" in said
    assert "2 x a mask" in said
    code, said = upscale(weights, photos / "in/a.png", photos / "in/below/b.jpg", "--fidelity", "1", "-o", photos / "g",
                         "--format", "png", "--tile", "16")  # fmt: skip
    assert code == 0, said
    for name, mask in (("a.png", "a.png"), ("below/b.png", "below/b.png")):
        made, faithful = pixels(photos / "out" / name), pixels(photos / "g" / Path(name).name)
        black = outside(pixels(photos / "in/masks" / mask), made.shape[:2])
        assert np.array_equal(made[black], faithful[black])
        assert not np.array_equal(made, faithful)


def test_a_photo_without_its_mask_fails_and_the_others_are_done(weights, photos):
    (photos / "in/masks/below/b.png").unlink()
    Image.fromarray(picture(20, 31)).save(photos / "in/c.png")
    Image.fromarray(painted(40, 30)).save(photos / "in/masks/c.png")
    (photos / "in/masks/d.png").write_text("no picture")
    Image.fromarray(picture(20, 30)).save(photos / "in/d.png")
    code, said = upscale(weights, photos / "in", "-o", photos / "out", "--mask", photos / "in/masks")
    assert code == 1
    assert "1 upscaled" in said
    assert "3 failed" in said
    assert f"b.jpg: its mask {photos / 'in/masks/below/b.png'} is not there" in said
    assert (
        f"c.png: its mask {photos / 'in/masks/c.png'}: the mask is 30 x 40, of other proportions than the photo, 31 x 20"
        in said
    )
    assert f"d.png: its mask {photos / 'in/masks/d.png'}" in said


@pytest.mark.parametrize(("arguments", "message"), [
    (("in", "--mask", "nowhere.png"), "--mask: nowhere.png: no such file or folder"),
    (("in/a.png", "in/below/b.jpg", "--mask", "in/masks/a.png"), "in/masks/a.png is one file, but there are 2 photos"),
    (("in/a.png", "--mask", "in/masks/a.png", "--steps", "0"), "--mask: has no effect where nothing is denoised"),
    (("in/a.png", "-o", "in/masks", "--mask", "in/masks/a.png"), "in/masks/a.png: a.png of in/a.png would take its place"),
    (("in/a.png", "--record", "in/masks/a.png", "--mask", "in/masks/a.png"), "--record: in/masks/a.png is a photo"),
    (("in/a.png", "--mask", "in/masks/a.png", "--weights", "bicubic.yml"), "--mask: bicubic.yml is of a method without"),
    (("in/a.png", "--consistent", "--outscale", "1"), "consistent: goes with results that are wider and higher"),
])  # fmt: skip
def test_mistakes_are_one_line(weights, photos, arguments, message):
    (photos / "bicubic.yml").write_text("name: bicubic\nmethod: bicubic\ndatasets: {}\n")
    own = [photos / word if word == "in" or "/" in word or "." in word else word for word in arguments]
    code, said = upscale(weights, "-o", photos / "out", *own)
    said = said.replace(f"{photos}/", "")
    assert (code, len(said.splitlines())) == (2, 1), said
    assert message in said


def test_resuming_notices_another_mask(photos):
    from upsr.photos.jobs import plan_jobs
    from upsr.photos.journal import Journal

    mask = photos / "in/masks/a.png"
    (job,) = plan_jobs([str(photos / "in/a.png")], str(photos / "out"), "", None, masks=mask)
    (photos / "out").mkdir()
    journal, digests = Journal(photos / "out", 0, {}), []
    for shade in (0, 255):
        Image.fromarray(np.full((20, 30), shade, np.uint8)).save(mask)
        journal.add(job)
        digests += [journal.finished()["a.png"]]
    assert digests[0] != digests[1]


def test_the_command_says_where_a_result_is_not_consistent(weights, photos):
    board = (np.indices((24, 24)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(photos / "board.png")
    code, said = upscale(weights, photos / "board.png", photos / "in/a.png", "-o", photos / "out", "--consistent",
                         "--record", photos / "record.json")  # fmt: skip
    assert code == 0
    assert said.count("note: not consistent: ") == 1
    (note,) = json.loads((photos / "record.json").read_text())["notes"].items()
    assert note[0].startswith("not consistent: ")
    assert note[1] == [str(photos / "board.png")]
    assert min(shares(pixels(photos / "out/a.png"), picture(20, 30))) >= 0.999


def test_settings_of_a_record_are_repeated(weights, photos):
    photo, record = photos / "in/a.png", photos / "record.json"
    given = ("--seed", "5", "--outscale", "3", "--steps", "2", "--knob", "adaptive=0.001", "--tile", "16", "--consistent",
             "--colour-fix", "adain", "--mask", photos / "in/masks/a.png", "--format", "jpg", "--quality", "80")  # fmt: skip
    code, said = upscale(weights, photo, "-o", photos / "first", *given, "--record", record)
    assert code == 0, said
    code, said = upscale(None, photo, "-o", photos / "second", "--settings", record, "--record", photos / "again.json")
    assert code == 0, said
    assert (photos / "second/a.jpg").read_bytes() == (photos / "first/a.jpg").read_bytes()
    first, again = (json.loads(path.read_text()) for path in (record, photos / "again.json"))
    assert first["options"] == again["options"]
    assert first["settings"] == again["settings"]
    # Those that are given go before the file's, and so do they before what contradicts them.
    for more, key, value in (
        (("--seed", "6"), "seed", 6),
        (("--width", "100"), "size", [100, None]),
        (("--knob", "steps=3"), "knobs", {"steps": 3, "fidelity": None, "adaptive": 0.001}),
        (("--steps", "0"), "seed", 0),
    ):
        code, said = upscale(
            None,
            photo,
            "-o",
            photos / "other.png",
            "--overwrite",
            "--settings",
            record,
            "--record",
            photos / "again.json",
            *more,
        )
        assert code == 0, said
        settings = json.loads((photos / "again.json").read_text())["settings"]
        assert settings[key] == value
        assert settings["consistent"]
        assert (settings["outscale"] is None) == (key == "size")


@pytest.mark.parametrize(("target", "says"), [
    ("b.jpg", "JPEG changes"), ("b.webp", "WEBP changes"), ("b.gif", "GIF changes"), ("b.png", None), ("b.tif", None),
])  # fmt: skip
def test_the_command_says_that_a_format_is_not_consistent(weights, photos, target, says):
    code, said = upscale(weights, photos / "in/a.png", "-o", photos / target, "--consistent",
                         "--record", photos / "record.json")  # fmt: skip
    assert code == 0, said
    colours = np.asarray(Image.open(photos / target).convert("RGB"))
    assert (min(shares(colours, picture(20, 30))) >= 0.999) == (says is None)
    notes = [] if says is None else [f"not consistent: {says} values; the formats png and tif keep them"]
    assert list(json.loads((photos / "record.json").read_text())["notes"]) == notes
    assert said.count("note: not consistent: ") == len(notes)


@pytest.mark.parametrize(("content", "message"), [
    (None, "cannot be read (No such file or directory)"),
    ("{", "cannot be read (not JSON: "),
    ("[]", "no record with 'options'"),
    ({"settings": {"seed": 1}}, "no record with 'options'"),
    ({"options": {"sead": 1}}, "options: 'sead' is none that is repeated (weights, "),
    ({"options": {"seed": "five"}}, "argument --seed: invalid int value: 'five'"),
    ({"options": {"seed": {"a": 1}}}, 'options: seed is {"a": 1}; give text or a number'),
    ({"options": {"seed": True}}, "argument --seed: expected one argument"),
    ({"options": {"outscale": 2, "width": 100}}, "options: outscale contradicts width and height"),
    ({"options": {"steps": 3, "knob": ["steps=2"]}}, "--knob: steps=2; --steps is given too"),
    ({"options": {"tile": "large"}}, "--tile: a number of LR pixels, auto or none, not 'large'"),
    ({"options": {"weights": "tiny"}, "weights_sha256": {"g": "0"}}, "the weights of g in tiny are others than those of the"),
])  # fmt: skip
def test_files_that_are_no_settings_are_one_line(photos, content, message):
    path = photos / "settings.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    code, said = upscale(None, photos / "in/a.png", "-o", photos / "out", "--settings", path)
    assert (code, len(said.splitlines())) == (2, 1), said
    assert message in said
    assert not list((photos / "out").glob("*"))
