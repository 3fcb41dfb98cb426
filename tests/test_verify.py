"""Published numbers are traced to the way they were measured in: planted ones by formulas of the test's own."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.ndimage import correlate1d, uniform_filter

from tests import tiny
from upsr.cli import main
from upsr.evaluation.claims import Claim
from upsr.evaluation.readings import reading

SCALE = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four restored images, with errors that differ between colours, edges and images; ground truths are 2 pixels larger."""
    root = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    for number in range(4):
        gt = tiny.picture(66, 82, number)
        rows = np.linspace(1, 2, 64)[:, None, None]
        noise = rng.normal(0, 4 + 3 * number, (64, 80, 3)) * [1, 0.6, 1.6] * rows
        noise[:6] *= 3
        restored = (gt[:64, :80] + noise).clip(0, 255).round().astype(np.uint8)
        for folder, image, name in (("gt", gt, f"{number}.png"), ("sr", restored, f"{number}_ours.png")):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(root / folder / name)
    return root


def pairs(place: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    names = range(4)
    read = lambda path: np.asarray(Image.open(path)).astype(float)  # noqa: E731
    return [(read(place / f"sr/{n}_ours.png"), read(place / f"gt/{n}.png")[:64, :80]) for n in names]


def studio(image: np.ndarray) -> np.ndarray:
    return 16 + (65.481 * image[..., 0] + 128.553 * image[..., 1] + 24.966 * image[..., 2]) / 255


def full(image: np.ndarray) -> np.ndarray:
    return 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]


def rounded(colour):
    return lambda image: np.round(colour(image))


def pillow(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image.astype(np.uint8)).convert("L")).astype(float)


def swapped(image: np.ndarray) -> np.ndarray:
    return studio(image[..., ::-1])


def rgb(image: np.ndarray) -> np.ndarray:
    return image


def without(image: np.ndarray, border: int) -> np.ndarray:
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def psnr(place: Path, colour, border: int, at_once: bool = False) -> float:
    errors = [float(((without(colour(a), border) - without(colour(b), border)) ** 2).mean()) for a, b in pairs(place)]
    if at_once:
        errors = [sum(errors) / len(errors)]
    return sum(10 * math.log10(255**2 / error) for error in errors) / len(errors)


def ssim(place: Path, colour, border: int, window: str) -> float:
    """Wang et al. with a Gaussian window, or scikit-image's default: a box and sample variances."""
    gaussian = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    gaussian /= gaussian.sum()

    def smooth(x):
        if window == "even":
            return uniform_filter(x, 7)
        return correlate1d(correlate1d(x, gaussian, 0, mode="reflect"), gaussian, 1, mode="reflect")

    values = []
    for a, b in pairs(place):
        planes = [np.atleast_3d(without(colour(image), border)) for image in (a, b)]
        for x, y in zip(*(np.moveaxis(plane, -1, 0) for plane in planes), strict=True):
            correction = 49 / 48 if window == "even" else 1
            mx, my = smooth(x), smooth(y)
            vx, vy, vxy = (
                correction * (smooth(p * q) - mp * mq)
                for p, q, mp, mq in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
            )
            c1, c2 = 2.55**2, 7.65**2
            found = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            cut = {"inside": 5, "even": 3, "edge": 0}[window]
            values.append(without(found, cut).mean())
    return float(np.mean(values))


STUDIO, FULL = "luma, studio range", "luma, full range"
PLANTED = {
    "psnr 1": (lambda p: psnr(p, studio, 0), {"colour": STUDIO, "border": "0", "over images": "mean"}),
    "psnr 2": (lambda p: psnr(p, studio, 4), {"colour": STUDIO, "border": "4", "over images": "mean"}),
    "psnr 3": (lambda p: psnr(p, rgb, 10), {"colour": "RGB", "border": "10", "over images": "mean"}),
    "psnr 4": (lambda p: psnr(p, full, 4), {"colour": FULL, "border": "4", "over images": "mean"}),
    "psnr 5": (lambda p: psnr(p, pillow, 8), {"colour": f"{FULL}, rounded to 8 bit", "border": "8"}),
    "psnr 6": (lambda p: psnr(p, swapped, 4), {"colour": f"{STUDIO}, red and blue exchanged", "border": "4"}),
    "psnr 7": (lambda p: psnr(p, rgb, 0, True), {"colour": "RGB", "over images": "PSNR of the mean error"}),
    "psnr 8": (lambda p: psnr(p, rounded(studio), 0), {"colour": f"{STUDIO}, rounded to 8 bit", "border": "0"}),
    "ssim 1": (lambda p: ssim(p, studio, 4, "inside"), {"colour": STUDIO, "border": "4", "window": "Gaussian 11, inside"}),
    "ssim 2": (lambda p: ssim(p, rgb, 0, "inside"), {"colour": "RGB", "border": "0", "window": "Gaussian 11, inside"}),
    "ssim 3": (lambda p: ssim(p, rgb, 0, "even"), {"colour": "RGB", "border": "0", "window": "even 7"}),
    "ssim 4": (lambda p: ssim(p, full, 0, "edge"), {"colour": FULL, "border": "0", "window": "Gaussian 11, to the edge"}),
}  # fmt: skip


def verify(place: Path, claims: dict[str, str], *more: str) -> tuple[int, list[dict]]:
    (place / "claims.yml").write_text("".join(f"{metric}: {value}\n" for metric, value in claims.items()))
    found = place / "found.json"
    found.unlink(missing_ok=True)
    code = main(
        ["verify", str(place / "sr"), "--gt", str(place / "gt"), "--claims", str(place / "claims.yml"),
         "--filename-tmpl", "{}_ours", "--json", str(found), *more]
    )  # fmt: skip
    return code, json.loads(found.read_text()) if found.exists() else []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_protocol_is_named(place, name, capsys):
    measured, facts = PLANTED[name]
    metric = name.split()[0]
    code, (found,) = verify(place, {metric: f"{measured(place):.4f}"})
    holding = [way for way in found["ways"] if way["holds"]]
    assert code == 0
    assert len(holding) == 1, holding
    assert facts.items() <= holding[0].items()
    printed = capsys.readouterr().out
    assert all(f"{key}: {value}" in printed for key, value in facts.items())


def test_the_network_of_lpips_and_its_mistake_are_named(place, shared_dir, capsys):
    import torch

    from upsr.metrics import LPIPS

    file = shared_dir / "weights/squeezenet1_1_imagenet_torchvision.safetensors"
    metric = LPIPS("squeeze", str(file))
    images = [
        [torch.from_numpy(x.transpose(2, 0, 1).copy())[None].float() / 255 for x in pair] for pair in pairs(place)
    ]
    for how, start in (("[-1, 1]", 0), ("[0, 1]", 1)):
        value = np.mean([metric((a + start) / (1 + start), (b + start) / (1 + start)) for a, b in images])
        code, (found,) = verify(place, {"lpips": f"{value:.4f}"}, "--backbone", f"squeeze={file}")
        (way,) = [way for way in found["ways"] if way["holds"]]
        assert (code, way["network"], way["images in"], way["border"]) == (0, "squeeze", how, "0")


def test_what_explains_several_numbers_is_named(place, capsys):
    claims = {"psnr": f"{psnr(place, studio, 4):.2f}", "ssim": f"{ssim(place, studio, 4, 'inside'):.4f}"}
    assert verify(place, claims)[0] == 0
    assert "Together: colour: luma, studio range; border: 4 explains 2 of the numbers." in capsys.readouterr().out


def test_a_number_of_no_known_way_is_said_with_the_nearest(place, capsys):
    code, (found,) = verify(place, {"psnr": "12.34"})
    assert code == 1
    assert not any(way["holds"] for way in found["ways"])
    assert "psnr 12.34: no known way gives it; the nearest" in capsys.readouterr().out


def test_an_identical_pair_leaves_the_psnr_of_the_mean_error(place):
    own = reading("psnr", SCALE, {})
    (restored, truth), *_ = [tuple(image.astype(np.uint8) for image in pair) for pair in pairs(place)]
    ways = own.combine([own.measure(truth, truth), own.measure(restored, truth)])
    assert {dict(way)["over images"] for way in ways} == {"PSNR of the mean error"}


def test_a_number_of_which_nothing_is_measured_is_said_with_the_reason(tmp_path, capsys):
    for folder in ("gt", "sr"):
        (tmp_path / folder).mkdir()
        Image.fromarray(tiny.picture(40, 40)).save(tmp_path / folder / "a.png")
    (tmp_path / "claims.yml").write_text("psnr: 30.00\nniqe: 4.2\n")
    given = [str(tmp_path / "sr"), "--gt", str(tmp_path / "gt"), "--claims", str(tmp_path / "claims.yml")]
    assert main(["verify", *given]) == 1
    said = capsys.readouterr().out
    assert "psnr 30.00: nothing could be measured: an image is too small for it, or equals its ground truth" in said
    assert "niqe 4.2: nothing could be measured" in said


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [("28.42", 28.4249, True), ("28.42", 28.4251, False), ("0.780", 0.7804, True), ("0.780", 0.7794, False), ("28", 28.4, True)],
)  # fmt: skip
def test_digits_say_how_exact_a_claim_is(text, value, holds):
    assert Claim("psnr", text).holds(value) == holds


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("psnr: high", "psnr: 'high' is no number"),
        ("[1, 2]", "give a number for each metric"),
        ("psnr: nan", "'nan' is no number"),
        ("psnr: [1]", "is no number"),
        ("a: b: c", "no YAML"),
        ("nosuchmetric: 3", "nosuchmetric"),
    ],
)  # fmt: skip
def test_claims_that_are_none_cost_one_line(place, content, message, capsys):
    (place / "bad.yml").write_text(content)
    arguments = ["verify", str(place / "sr"), "--gt", str(place / "gt"), "--claims", str(place / "bad.yml")]
    assert main([*arguments, "--filename-tmpl", "{}_ours"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_images_without_their_ground_truth_cost_one_line(place, tmp_path, capsys):
    (tmp_path / "claims.yml").write_text(yaml.safe_dump({"psnr": 20}))
    given = ["--gt", str(place / "gt"), "--claims", str(tmp_path / "claims.yml")]
    assert main(["verify", str(place / "sr"), *given]) == 2
    assert "4 of 4 images have no ground truth" in capsys.readouterr().err
    (tmp_path / "small").mkdir()
    for number in range(4):
        Image.fromarray(tiny.picture(30, 40)).save(tmp_path / f"small/{number}.png")
    assert main(["verify", str(tmp_path / "small"), *given]) == 2
    assert "40 x 30, and the ground truth" in capsys.readouterr().err


def test_nothing_is_concluded_of_a_part_of_a_set_or_of_an_image_twice(place, tmp_path, capsys):
    shutil.copytree(place / "sr", tmp_path / "sr")
    shutil.copytree(place / "gt", tmp_path / "gt")
    claims = {"psnr": f"{psnr(place, studio, 0):.4f}"}
    assert verify(tmp_path, claims)[0] == 0
    capsys.readouterr()
    shutil.copyfile(tmp_path / "sr/1_ours.png", tmp_path / "sr/1_ours.bmp")
    assert verify(tmp_path, claims) == (2, [])
    assert "5 restored images for 4 ground truths, two or more for 1.png; leave one" in capsys.readouterr().err
    for name in ("1_ours.bmp", "1_ours.png", "2_ours.png", "3_ours.png"):
        (tmp_path / "sr" / name).unlink()
    assert verify(tmp_path, claims) == (2, [])
    printed = capsys.readouterr()
    assert "only 1 of the 4 images" in printed.err
    assert "add the others, or give --gt a folder of those" in printed.err
    assert printed.out == ""
