"""The noise levels that Diff-SR needs, measured on fields whose best denoiser is known."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import gaussian_field as field
from tests.evaluations import write
from tests.field_method import FieldMethod
from tests.test_cli import ended
from upsr.commands import calibrate
from upsr.data.datasets import ImageFolder
from upsr.data.image_io import to_uint8, write_png
from upsr.evaluation.noise_sweep import HRPhoto, NoiseSweep, Pair, read_photos
from upsr.evaluation.prediction_error import prediction_errors
from upsr.evaluation.recoverable_field import ENOUGH_FOR_FID, recoverable_field
from upsr.metrics import MetricUnavailableError
from upsr.metrics.bands import band_energies
from upsr.metrics.base import Formula
from upsr.report import sweeps
from upsr.report.figures import Material
from upsr.report.panels import FigureUnavailableError
from upsr.report.sweeps import by_noise_level

GOLDEN = Path(__file__).parent / "golden" / "siblings"
TABLES = json.loads((GOLDEN / "vp_tables.json").read_text())
CURVES = json.loads((GOLDEN / "gaussian_field_curves.json").read_text())
CPU = torch.device("cpu")


class SquaredError(Formula):
    """The mean squared error, of which that of several images is the mean."""

    needs_reference, higher_is_better, version = True, False, "test 1"

    def __call__(self, sr, gt):
        return float((sr - gt).square().mean())


def photos():
    """The golden fields as photos."""
    return [HRPhoto(f"{i}", (image + 1) / 2) for i, image in enumerate(field.images())]


def without_high_band(gt, scale):
    """The field as an image without what a smaller one lacks, which the exact denoiser starts from."""
    smooth = (field.upsampled(2 * gt - 1, scale) + 1) / 2
    return Pair(gt, smooth, smooth)


def exact(schedule, calls=None):
    """A restorer for each level by the best denoiser, with the golden noise of each field; ``calls`` takes (level, name)."""
    process, noise = field.process_of(schedule), field.noise()
    noted = [] if calls is None else calls

    def at(level):
        def restore(lq, names, watch=None):
            noted.extend((level, name) for name in names)
            eps = noise[[int(name) for name in names]]
            rows = [
                field.restored(process, 2 * x[None] - 1, e[None], round(1000 * level))
                for x, e in zip(lq, eps, strict=True)
            ]
            return (torch.cat(rows) + 1) / 2

        return restore

    return at


def sweep(folder, **changes):
    made = NoiseSweep(photos(), {"error": SquaredError()}, folder, CPU, degrade=without_high_band)
    return replace(made, **changes)


@pytest.mark.parametrize("case", ["scaled_linear/x2", "scaled_linear/x4", "scaled_linear/x8", "squaredcos_cap_v2/x4"])
def test_the_curves_of_a_field_are_the_golden_ones(case, tmp_path):
    schedule, scale = case.split("/x")
    golden = CURVES[case]
    found = sweep(tmp_path).curves(case, exact(schedule), float(scale), [row["t"] / 1000 for row in golden])
    low = field.filtered(field.images(), field.passed(float(scale)).double()).square().mean()
    for i, row in enumerate(golden):
        assert -10 * torch.tensor(found["error"][i]).log10() == pytest.approx(row["psnr"], abs=0.01)
        assert found["hf_ratio"][i] == pytest.approx(row["hf_ratio"], abs=0.002)
        assert 4 * found["low_error"][i] / low == pytest.approx(row["low_freq_rel_err"], abs=0.002)


@pytest.mark.slow
def test_the_level_needed_grows_with_the_scale(tmp_path):
    measured = sweep(tmp_path)
    levels = [i / 20 for i in range(9)]
    found = []
    for scale in (2, 2.6, 4, 8):
        curves = measured.curves("field", exact("scaled_linear"), scale, levels)
        assert curves["error"] == sorted(curves["error"])
        assert curves["hf_ratio"] == sorted(curves["hf_ratio"])
        found.append(recoverable_field(curves, measured.upsampled(scale), hf_ratio=0.55, photos=8).t_lo)
    assert found == sorted(found)
    assert found[0] < found[2] < found[3]


def test_what_is_measured_is_not_measured_again_and_batches_change_nothing(tmp_path):
    calls = []
    levels = [0.1, 0.2]

    def stops(level):
        def restore(lq, names, watch=None):
            if ("7", 0.2) in zip(names, [level] * len(names), strict=True):
                raise KeyboardInterrupt
            return exact("scaled_linear", calls)(level)(lq, names)

        return restore

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "first").curves("field", stops, 4, levels)
    before = list(calls)
    again = sweep(tmp_path / "first").curves("field", exact("scaled_linear", calls), 4, levels)
    assert [*before, (0.2, "7")] == calls
    assert again == sweep(tmp_path / "second", batch_size=3).curves("field", exact("scaled_linear"), 4, levels)


def test_a_photo_that_has_changed_is_measured_again(tmp_path):
    calls = []
    sweep(tmp_path).curves("field", exact("scaled_linear", calls), 4, [0.1])
    changed = [replace(photo, image=photo.image / 2) if photo.name == "3" else photo for photo in photos()]
    calls.clear()
    sweep(tmp_path, photos=changed).curves("field", exact("scaled_linear", calls), 4, [0.1])
    assert calls == [(0.1, "3")]


class Pixels:
    """Stands for the FID: the mean of all pixels of the restored files."""

    higher_is_better, version = False, "test 1"

    def __call__(self, restored, reference):
        names = [{path.name for path in folder.iterdir()} for folder in (restored, reference)]
        assert names[0] == names[1] == {f"{i}.png" for i in range(8)}
        return float(len(names[0]))


class NoFID(Pixels):
    def __call__(self, restored, reference):
        raise MetricUnavailableError("no weights")


def test_a_measure_of_the_set_is_of_the_restored_files(tmp_path):
    assert sweep(tmp_path, fid=Pixels()).curves("field", exact("scaled_linear"), 4, [0.1])["fid"] == [8.0]
    assert "fid" not in sweep(tmp_path / "none", fid=NoFID()).curves("field", exact("scaled_linear"), 4, [0.1])


LEVELS = {"t": [0.0, 0.1, 0.2, 0.3, 0.4], "hf_ratio": [0.1, 0.5, 0.7, 0.8, 0.9]}


@pytest.mark.parametrize(
    ("measures", "upsampled", "photos", "expected"),
    [
        ({"lpips": [0.5, 0.4, 0.35, 0.3, 0.6]}, {"lpips": 0.5}, 50, (0.2, 0.3, 0.3, "lpips", "lpips")),
        ({"lpips": [0.5, 0.4, 0.35, 0.4, 0.45]}, {"lpips": 0.5}, 50, (0.2, 0.2, 0.4, "lpips", "lpips")),
        ({"low_error": [0.1, 0.2, 0.3, 0.4, 0.5]}, {"low_error": 0.4}, 50, (0.2, 0.2, 0.3, "low_error", "low_error")),
        ({"low_error": [0.1, 0.2, 0.3, 0.4, 0.5]}, {"low_error": 0.1}, 50, (0.2, 0.2, None, "low_error", "low_error")),
        (
            {"lpips": [0.5, 0.4, 0.35, 0.3, 0.4], "fid": [9, 9, 9, 9, 5]},
            {"lpips": 0.5}, ENOUGH_FOR_FID, (0.2, 0.4, 0.4, "lpips", "fid"),
        ),
        (
            {"lpips": [0.5, 0.4, 0.35, 0.3, 0.4], "fid": [9, 9, 9, 9, 5]},
            {"lpips": 0.5}, ENOUGH_FOR_FID - 1, (0.2, 0.3, 0.4, "lpips", "lpips"),
        ),
    ],
)  # fmt: skip
def test_the_field_is_where_both_losses_are_small(measures, upsampled, photos, expected):
    found = recoverable_field({**LEVELS, **measures}, upsampled, hf_ratio=0.6, photos=photos)
    assert (found.t_lo, found.t_star, found.t_hi, found.signature, found.objective) == expected


def test_without_enough_high_frequencies_anywhere_the_level_of_most_is_named():
    curves = {**LEVELS, "low_error": [0.1] * 5}
    found = recoverable_field(curves, {"low_error": 1.0}, hf_ratio=0.95, photos=8)
    assert (found.t_lo, found.t_hi) == (0.4, None)


def test_bands_are_parts_of_the_whole():
    image, reference = (torch.rand(1, 3, 20, 33, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    found = band_energies(image, reference, 2.6)
    whole = band_energies(image, reference, 1e-3)
    assert whole["high"] == 0
    assert whole["low_error"] == pytest.approx(float((image - reference).square().mean()), rel=1e-6)
    assert found["low_error"] < whole["low_error"]
    wave = torch.cos(2 * torch.pi * 0.25 * torch.arange(16)).expand(1, 1, 16, 16)
    assert band_energies(wave, wave, 2.5)["high"] == pytest.approx(0.5)
    assert band_energies(wave, wave, 1.9)["high"] == pytest.approx(0, abs=1e-12)


METHOD = "tests.field_method"
NUMBERS = ("--last", "0.4", "--step", "0.1", "--size", "64")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with colour photos of fields, the option file of the method that knows them, and no weights of LPIPS."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate, "LPIPS", unavailable)
    monkeypatch.setattr(calibrate, "prediction_errors", partial(prediction_errors, at=5, draws=2))
    (tmp_path / "field.yml").write_text(f"method: {METHOD}\nscale: 4\n")
    colours = field.images("in:sb.field.rgb", 18).view(6, 3, field.SIDE, field.SIDE)
    for i, image in enumerate(colours):
        write_png(tmp_path / "photos" / f"{i}.png", to_uint8((image + 1) / 2))
    return tmp_path


def unavailable(*arguments):
    raise MetricUnavailableError("no weights here")


def calibrated(out, *arguments):
    assert ended(METHOD, "calibrate", "field.yml", "--images", "photos", "-o", out, *NUMBERS, *arguments) == 0
    return json.loads((Path(out) / "calibration.json").read_text())


def test_the_command_writes_levels_that_grow_with_the_scale(place, capsys):
    found = calibrated("out", "--scales", "2", "2.6", "4", "8", "--hf-ratio", "0.5")
    printed = capsys.readouterr().out
    assert "without LPIPS" in printed
    assert set(found) == {"model", "schedule", "seed", "images", "hf_ratio", "scales", "formula"}
    assert found["schedule"]["alpha_bar"][2] == pytest.approx(TABLES["alphas_cumprod"]["scaled_linear"]["200"])
    scales = found["scales"]
    assert scales["2"]["t_lo"] <= scales["2.6"]["t_lo"] <= scales["4"]["t_lo"] <= scales["8"]["t_lo"]
    assert scales["2"]["t_lo"] < scales["8"]["t_lo"]
    for name, scale in scales.items():
        curves = scale["curves"]
        assert {"t", "psnr", "ssim", "psnr_y", "ssim_y", "low_error", "hf_ratio"} == set(curves)
        assert curves["t"] == [0, 0.1, 0.2, 0.3, 0.4]
        assert curves["psnr"][0] == pytest.approx(scale["upsampled"]["psnr"], abs=1e-3)
        assert curves["psnr"] == sorted(curves["psnr"], reverse=True)
        assert curves["hf_ratio"] == sorted(curves["hf_ratio"])
        assert scale["t_lo"] <= scale["t_star"]
        assert f"x{name}: " in printed
    formula = found["formula"]
    assert len(formula["errors"]) == 5
    assert set(formula["fidelity"]) == {"2", "2.6", "4", "8"}
    for sums in formula["signature"].values():
        assert sums == sorted(sums)
    for losses in formula["fidelity"].values():
        assert losses["corrected"] == sorted(losses["corrected"], reverse=True)


def test_a_calibration_goes_on_where_it_was_interrupted_whatever_the_batch(place, monkeypatch):
    whole = calibrated("whole", "--scales", "2", "4")
    restore, counted = FieldMethod.restore, []

    def stops(self, lq, noise, **others):
        counted.append(self.noise_level)
        if len(counted) == 40:
            raise KeyboardInterrupt
        return restore(self, lq, noise, **others)

    monkeypatch.setattr(FieldMethod, "restore", stops)
    assert (
        ended(METHOD, "calibrate", "field.yml", "--images", "photos", "-o", "part", *NUMBERS, "--scales", "2", "4")
        == 130
    )
    again = calibrated("part", "--scales", "2", "4", "--batch", "4")
    assert len(counted) == 2 * 5 * 6 + 1
    assert again == whole


def test_the_prediction_errors_are_those_of_the_best_denoiser(place, monkeypatch):
    monkeypatch.setattr(calibrate, "prediction_errors", prediction_errors)
    found = calibrated("out", "--scales", "4")["formula"]
    photos = read_photos(ImageFolder("photos", channels=3), count=None, side=64)
    drawn = torch.stack([2 * photos[j % len(photos)].image - 1 for j in range(20)]).double()
    own = torch.fft.fft2(drawn, norm="ortho").abs().square().mean(dim=(0, 1))
    power, process = field.spectrum(), field.process_of("scaled_linear")
    assert len(found["errors"]) == 50
    for i, error in list(zip(found["i"], found["errors"], strict=True))[5::10]:
        a = process.alpha_bar(torch.tensor([i]))
        gain = a.sqrt() * power / (a * power + 1 - a)
        expected = a / (1 - a) * ((1 - a.sqrt() * gain) ** 2 * own + gain**2 * (1 - a)).mean()
        assert error == pytest.approx(float(expected), rel=0.03)


def test_curves_are_drawn(place):
    pytest.importorskip("matplotlib")
    calibrated("out", "--scales", "2")
    for name in ("curves", "formula"):
        with Image.open(f"out/{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 10


def figure(place, **arguments):
    """A figure of the field method's entry, on the photos as the set Fields."""
    description = {"about": "fields", "get": ["nowhere"], "licence": "none", "expected": {"images": 6}}
    files = {"type": "BicubicFolderDataset", "dataroot_gt": "."}
    write(place / "datasets/Fields.yml", {**description, "folder": "../photos", "files": files})
    opt = {"name": "field", "method": METHOD, "scale": 4, "num_gpu": 0, "datasets": {}}
    write(place / "options/field.yml", opt)
    write(place / "options/methods/Field.yml", {"make": {"type": "OptionFile", "opt": "options/field.yml"}})
    write(place / "options/methods/Absent.yml", {"make": {"type": "Checkpoint", "path": "nowhere.pth"}})
    material = Material(place / "datasets", CPU, max_images=2)
    drawn = {"dataset": "Fields", "methods": {"Field": "Field"}, "last": 0.2, "step": 0.1, "side": 64}
    by_noise_level(place / "figure.png", material, **{**drawn, **arguments})


def test_a_figure_of_a_paper_shows_scales_or_methods(place, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    shown = []
    draw = sweeps.draw_curves
    monkeypatch.setattr(
        sweeps, "draw_curves", lambda path, curves, titles: (shown.append(set(curves)), draw(path, curves, titles))
    )
    figure(place, scales=[2, 4])
    figure(place, scales=[4], methods={"exact": "Field", "again": "Field", "gone": "Absent"})
    assert shown == [{"x2", "x4"}, {"exact", "again"}]
    assert "left out: gone: weights are not here" in capsys.readouterr().out
    assert (place / "figure.png").is_file()


@pytest.mark.parametrize("arguments", [{"methods": {"gone": "Absent"}}, {"dataset": "REDS"}])
def test_a_figure_without_weights_or_photos_says_so(place, arguments):
    with pytest.raises(FigureUnavailableError, match=r"nowhere\.pth|REDS"):
        figure(place, scales=[4], **arguments)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--size", "65"), "64x64 is smaller than the square of 65"),
        (("--scales", "2", "2"), "--scales"),
        (("--last", "1"), "--last 1"),
        (("--images", "nowhere"), "nowhere"),
        (("--steps", "0"), "steps is 0"),
    ],
)
def test_mistakes_are_one_line(place, arguments, word, capsys):
    assert ended(METHOD, "calibrate", "field.yml", "--images", "photos", *arguments) == 2
    printed = capsys.readouterr().err
    assert word in printed
    assert printed.count("\n") == 1


def test_a_method_without_a_noise_level_is_refused(place, capsys):
    (place / "bicubic.yml").write_text("method: bicubic\n")
    assert ended(METHOD, "calibrate", "bicubic.yml", "--images", "photos") == 2
    assert "Bicubic has no setting noise_level or scale" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_of_diffusers_is_calibrated_and_restores_as_the_calibration_says(place):
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")
    from tests.test_diffsr import folder_of, method

    folder = folder_of(place / "ddpm")
    numbers = ("--scales", "2", "2.6", "--last", "0.2", "--step", "0.1", "--steps", "2", "--size", "32")
    assert ended("diffsr", "calibrate", str(folder), "--images", "photos", "-o", "out", *numbers) == 0
    found = json.loads(Path("out/calibration.json").read_text())
    assert found["model"]["config"]["method"] == "diffsr"
    assert len(found["formula"]["errors"]) == 5
    for scale, own in found["scales"].items():
        restorer = method(
            place, scale=float(scale), noise_level={"policy": "prf", "calibration": "out/calibration.json"}
        )
        start = round(own["t_star"] * restorer.process.num_timesteps)
        assert restorer.timesteps[:1] == ([start] if start else [])
