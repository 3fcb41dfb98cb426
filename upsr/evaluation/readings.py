"""Ways in which published numbers were measured: the colours, borders, windows, averages and networks that papers differ in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from upsr.archs.lpips_network import local_backbone
from upsr.errors import UpsrError
from upsr.metrics import LPIPS, NIQE, MetricUnavailableError, PyIQA
from upsr.metrics.base import Metric

Image = NDArray[np.float64]
"""(H, W, C) in [0, 255]."""
Facts = tuple[tuple[str, str], ...]
Values = dict[Facts, float]

_STUDIO = np.array([65.481, 128.553, 24.966]) / 255
_FULL = np.array([0.299, 0.587, 0.114])
_OF_PILLOW = np.array([19595, 38470, 7471])
_OVER_IMAGES: Facts = (("over images", "mean"),)
_AT_ONCE: Facts = (("over images", "PSNR of the mean error"),)
_NIQE_BLOCK = 96
_SIGMA, _WINDOW, _EVEN = 1.5, 11, 7


def _luma(weights: Any, offset: float, *, rounded: bool = False, swapped: bool = False) -> Callable[[Image], Image]:
    def convert(image: Image) -> Image:
        values = (image[..., ::-1] if swapped else image) @ weights[:, None] + offset
        return np.round(values) if rounded else values

    return convert


def _luma_of_pillow(image: Image) -> Image:
    """In whole numbers: floats of the same weights round halves to either side."""
    return ((image.astype(np.int64) @ _OF_PILLOW[:, None] + 0x8000) >> 16).astype(float)


COLOURS: Mapping[str, Callable[[Image], Image]] = {
    "luma, studio range": _luma(_STUDIO, 16),
    "luma, studio range, rounded to 8 bit": _luma(_STUDIO, 16, rounded=True),
    "luma, full range": _luma(_FULL, 0),
    "luma, full range, rounded to 8 bit": _luma_of_pillow,
    "luma, studio range, red and blue exchanged": _luma(_STUDIO, 16, swapped=True),
    "RGB": lambda image: image,
}
"""Of BT.601."""


def borders(scale: int) -> tuple[int, ...]:
    """Pixels left out at each edge: none, the scale, twice that, the scale and 6, a few fixed numbers."""
    return tuple(sorted({0, scale, 2 * scale, scale + 6, 8, 10, 16}))


def inner(image: Any, border: int) -> Any:
    """Without ``border`` pixels at each edge."""
    return image[border:-border, border:-border] if border else image


@dataclass(frozen=True)
class Reading:
    """One metric and the ways it is measured in.

    Attributes:
        measure: values of one image by way, from restored image and ground truth, (H, W, 3) uint8.
        combine: value of a set by way, from those of its images.
        missing: ways that cannot be tried here, and why.
    """

    measure: Callable[[NDArray[np.uint8], NDArray[np.uint8]], Values]
    combine: Callable[[Sequence[Values]], Values]
    missing: Sequence[str] = ()


def mean_of_images(found: Sequence[Values]) -> Values:
    """The mean over the images of each way that all have."""
    ways = [way for way in found[0] if all(way in values for values in found)]
    return {way: math.fsum(values[way] for values in found) / len(found) for way in ways}


def reading(metric: str, scale: int, backbones: Mapping[str, str]) -> Reading:
    """The ways of a metric.

    Args:
        metric: psnr, ssim, lpips, or any of pyiqa.
        backbones: files of LPIPS's backbones by name, for those that are not in torch's hub folder.

    Raises:
        UpsrError: there is no such metric, or none of its ways can be measured.
    """
    if metric == "psnr":
        return Reading(lambda sr, gt: _errors(sr, gt, scale), _psnr)
    if metric == "ssim":
        return Reading(lambda sr, gt: _ssim(sr, gt, scale), mean_of_images)
    ways, missing = _lpips(backbones) if metric == "lpips" else (_by_pyiqa(metric), [])
    return Reading(lambda sr, gt: _with_borders(ways, sr, gt, scale), mean_of_images, missing)


def _planes(sr: NDArray[np.uint8], gt: NDArray[np.uint8], scale: int) -> Iterator[tuple[str, int, Image, Image]]:
    """The pair in every colour, without every border that leaves something."""
    for colour, convert in COLOURS.items():
        first, second = convert(sr.astype(float)), convert(gt.astype(float))
        for border in borders(scale):
            if min(sr.shape[:2]) - 2 * border >= _WINDOW:
                yield colour, border, inner(first, border), inner(second, border)


def _way(colour: str, border: int, **more: str) -> Facts:
    return (("colour", colour), ("border", str(border)), *more.items())


def _errors(sr: NDArray[np.uint8], gt: NDArray[np.uint8], scale: int) -> Values:
    return {_way(c, b): float(np.square(x - y).mean()) for c, b, x, y in _planes(sr, gt, scale)}


def _psnr(found: Sequence[Values]) -> Values:
    """Of mean squared errors: the mean of PSNRs, and the PSNR of the mean."""
    values: Values = {}
    for way in mean_of_images(found):
        errors = np.array([image[way] for image in found])
        if errors.all():  # equal images have no PSNR
            values[way + _OVER_IMAGES] = float(np.mean(10 * np.log10(255**2 / errors)))
        if len(errors) > 1 and errors.any():
            values[way + _AT_ONCE] = float(10 * np.log10(255**2 / errors.mean()))
    return values


def _ssim(sr: NDArray[np.uint8], gt: NDArray[np.uint8], scale: int) -> Values:
    from skimage.metrics import structural_similarity

    values: Values = {}
    for colour, border, first, second in _planes(sr, gt, scale):
        given = {"data_range": 255, "channel_axis": -1}
        gaussian = {"gaussian_weights": True, "sigma": _SIGMA, "use_sample_covariance": False}
        valid, everywhere = structural_similarity(first, second, full=True, **gaussian, **given)
        values[_way(colour, border, window="Gaussian 11, inside")] = float(valid)
        values[_way(colour, border, window="Gaussian 11, to the edge")] = float(everywhere.mean())
        values[_way(colour, border, window=f"even {_EVEN}")] = float(structural_similarity(first, second, **given))
    return values


def _lpips(backbones: Mapping[str, str]) -> tuple[dict[Facts, Callable[[Any, Any], float]], list[str]]:
    """Of images in [-1, 1], as published, and in [0, 1] by mistake."""
    ways: dict[Facts, Callable[[Any, Any], float]] = {}
    missing = []
    for net in ("alex", "vgg", "squeeze"):
        file = backbones.get(net) or local_backbone(net)
        if file is None:  # hundreds of megabytes are not downloaded unasked
            missing.append(f"{net}: its backbone is not in torch's hub folder; --backbone {net}=FILE")
            continue
        metric = LPIPS(net, str(file))
        ways[(("network", net), ("images in", "[-1, 1]"))] = metric
        ways[(("network", net), ("images in", "[0, 1]"))] = partial(_brought_to_half, metric)
    if not ways:
        raise UpsrError(f"lpips: {'; '.join(missing)}")
    return ways, missing


def _brought_to_half(metric: LPIPS, sr: torch.Tensor, gt: torch.Tensor) -> float:
    """The metric takes images from [0, 1] to [-1, 1]: from [1/2, 1] that is [0, 1]."""
    return metric((sr + 1) / 2, (gt + 1) / 2)


def _by_pyiqa(metric: str) -> dict[Facts, Callable[[Any, Any], float]]:
    ways: dict[Facts, Callable[[Any, Any], float]] = {}
    if metric == "niqe":
        ways = {(("by", "pyiqa"), ("colour", "luma of YIQ")): NIQE()}
        for colour in ("luma, studio range", "luma, full range"):
            ways[(("by", "basicsr"), ("colour", colour))] = _niqe_of_basicsr(colour)
    else:
        ways[(("by", "pyiqa"),)] = _metric_of(metric)
    return ways


@cache
def _metric_of(metric: str) -> Metric:
    try:
        return PyIQA(metric)
    except MetricUnavailableError as error:
        raise UpsrError(f"{metric}: {error}") from None


def _niqe_of_basicsr(colour: str) -> Callable[[Any, Any], float]:
    def measure(sr: torch.Tensor, gt: Any) -> float:
        from basicsr.metrics.niqe import calculate_niqe

        if min(sr.shape[-2:]) < _NIQE_BLOCK:
            raise MetricUnavailableError(f"NIQE needs {_NIQE_BLOCK} x {_NIQE_BLOCK} pixels")
        image = sr[0].permute(1, 2, 0).double().numpy() * 255
        return float(
            calculate_niqe(np.round(COLOURS[colour](image)[..., 0]), crop_border=0, input_order="HW", convert_to=None)
        )

    return measure


def _with_borders(
    ways: Mapping[Facts, Callable[[Any, Any], float]], sr: NDArray[np.uint8], gt: NDArray[np.uint8], scale: int
) -> Values:
    values: Values = {}
    for border in sorted({0, scale}):
        pair = [torch.from_numpy(inner(x, border).transpose(2, 0, 1).copy())[None].float() / 255 for x in (sr, gt)]
        for way, measure in ways.items():
            try:
                own: Facts = (*way, ("border", str(border)))
                values[own] = float(measure(*pair))
            except MetricUnavailableError:
                continue  # too small without the border
    return values
