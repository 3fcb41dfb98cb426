"""Figures of the UPSR paper, drawn from the data and weights that are here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from upsr.data.image_io import decode_image, to_tensor, to_uint8
from upsr.engine.setup import checked_model_options
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.entries import ENTRIES, make_ready
from upsr.heat import heat
from upsr.homes import option_file
from upsr.methods.base import Seen
from upsr.methods.upsr.uncertainty import UncertaintyWeight
from upsr.report.panels import FigureUnavailableError, panels
from upsr.restoring import Restorer

_PREFERRED = ("ImageNet-Test", "Val_SR", "Set14")
_SHOWN = 4
_LARGEST_RESIDUAL = 0.4
_ESTIMATE, _WEIGHT = "g(y)", "weight"
_CURVE_BINS = np.linspace(0.01, 0.16, 16)

_Shown = dict[str, Tensor]
"""Intermediate results of a restoration, by name."""


@dataclass(frozen=True)
class Material:
    """Data and weights for the figures.

    Attributes:
        datasets_root: folder of the datasets; the figures of UPSR use the first that is here of ImageNet-Test, Val_SR, Set14.
        method: name of a method that shows g(y) and the weight of the noise, for figures 3 and 5.
        max_images: of the dataset.
        evaluation: folder of an evaluation, for what compares methods, and of other measures that are kept.
    """

    datasets_root: Path
    device: torch.device
    method: str = "UPSR-5"
    max_images: int | None = None
    evaluation: Path | None = None

    def dataset(self) -> tuple[str, Any]:
        """Name and dataset, with ground truth."""
        for name in _PREFERRED:
            try:
                return name, BENCHMARKS.read(name).open(self.datasets_root)
            except UpsrError:
                continue
        raise FigureUnavailableError(f"no dataset of {', '.join(_PREFERRED)} is in {self.datasets_root}")

    def items(self, dataset: Any) -> Iterator[dict[str, Any]]:
        """Its images."""
        return (dataset[i] for i in range(len(dataset))[: self.max_images])

    def restorer(self) -> Restorer:
        """The method at work."""
        try:
            return make_ready(ENTRIES.read(self.method), self.device, None).restorer(0, "", [])
        except UpsrError as error:
            raise FigureUnavailableError(f"it needs {self.method}: {error}") from None


def residual_distribution(path: Path, material: Material) -> None:
    """Figure 2: (a) distribution of |y - x|; (b) fidelity and gradients of restored images as functions of it."""
    name, dataset = material.dataset()
    axes, finish = panels(2, height=3.4)
    values = np.concatenate([_residual(item).numpy().ravel() for item in material.items(dataset)])
    inside = values[values <= _LARGEST_RESIDUAL]
    axes[0].hist(inside, bins=80, density=True, color="tab:blue")
    share = np.mean((values >= _CURVE_BINS[0]) & (values <= _CURVE_BINS[-1]))
    axes[0].set(xlabel="|y - x|", ylabel="density", title=f"(a) {name}; {share:.0%} in [0.01, 0.16]")
    curves = _curves(material, name, dataset)
    centres = (_CURVE_BINS[1:] + _CURVE_BINS[:-1]) / 2
    for i, (method, (fidelity, gradient)) in enumerate(curves.items()):
        axes[1].plot(centres, fidelity, color=f"C{i}", label=f"{method}, |f(y) - x|")
        axes[1].plot(centres, gradient, color=f"C{i}", linestyle="--", label=f"{method}, gradients")
    axes[1].set(xlabel="|y - x|", title="(b) restored images" + ("" if curves else ": none here"))
    if curves:
        axes[1].legend(fontsize=6)
    finish(path)


def residual_maps(path: Path, material: Material) -> None:
    """Figure 3: the residual |x - y| and its estimate |g(y) - y|."""
    _maps(
        path,
        material,
        ["y", "|x - y|", "|g(y) - y|"],
        lambda y, x, seen: [_shown(y), _heat((x - y).abs()), _heat((seen[_ESTIMATE] - y).abs())],
    )


def noise_weights(path: Path, material: Material) -> None:
    """Figure 5: the uncertainty and the weight of the noise, with the weighted noise."""

    def row(y: Tensor, x: Tensor, seen: _Shown) -> list[NDArray[np.uint8]]:
        psi, weight = (seen[_ESTIMATE] - y).abs() / 2, seen[_WEIGHT]
        noise = weight * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        return [_shown(y), _heat(psi, 0.1), _heat(weight, 1.0), _shown(y + 0.2 * noise)]

    _maps(path, material, ["y", "uncertainty", "weight (dark: little noise)", "weighted noise, scaled down"], row)


def weighting_function(path: Path, material: Material) -> None:
    """Figure 7: the distribution of the residual, and the weight as a function of the estimated residual."""
    name, dataset = material.dataset()
    options = ENTRIES.read(material.method).make.arguments
    opt: Any = checked_model_options(option_file(options["opt"]), options.get("force_yml", []))
    axes, finish = panels(1, height=3.6)
    values = np.concatenate([_residual(item).numpy().ravel() for item in material.items(dataset)])
    axes[0].hist(values[values <= _LARGEST_RESIDUAL], bins=80, density=True, color="tab:blue", alpha=0.6)
    share = np.mean(values <= 2 * opt.uncertainty.psi_max)
    axes[0].set(xlabel="residual", ylabel="density of |y - x|", title=f"{name}; {share:.0%} below 2 psi_max")
    residual = np.linspace(0, _LARGEST_RESIDUAL, 400)
    settings = opt.uncertainty
    function = UncertaintyWeight(settings.psi_max, settings.b_u, settings.enabled)
    weight = function.weight(torch.from_numpy(residual / 2)).numpy()
    right = axes[0].twinx()
    right.plot(residual, weight, color="tab:red")
    right.set(ylabel="weight u(psi), psi = |g(y) - y| / 2", ylim=(0, 1.05))
    finish(path)


def _upsampled(item: Mapping[str, Any], size: Sequence[int] | None = None) -> Tensor:
    """y in [0, 1], (3, H, W), of the size of the ground truth or a given one."""
    size = tuple(size or item["gt"].shape[-2:])
    return F.interpolate(item["lq"][None], size=size, mode="bicubic", align_corners=False)[0].clamp(0, 1)


def _residual(item: Mapping[str, Any]) -> Tensor:
    return (_upsampled(item) - item["gt"]).abs()


def _curves(material: Material, name: str, dataset: Any) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Mean |f(y) - x| and mean difference of the gradients, in bins of |y - x|, by method.

    The paper does not say which features its perceptual curve is on; here they are the gradients of the image.
    """
    if material.evaluation is None:
        return {}
    found = {}
    for folder in sorted(material.evaluation.glob(f"images/*/seed_*/{name}")):
        sums, counts = np.zeros((2, len(_CURVE_BINS) - 1)), np.zeros(len(_CURVE_BINS) - 1)
        for item in material.items(dataset):
            file = folder / f"{item['key']}.png"
            if not file.is_file():
                continue
            restored = to_tensor(decode_image(file.read_bytes(), 3, str(file)))
            gt = item["gt"][:, : restored.shape[1], : restored.shape[2]]
            place = (
                np.digitize(_residual(item)[:, : restored.shape[1], : restored.shape[2]].numpy().ravel(), _CURVE_BINS)
                - 1
            )
            inside = (place >= 0) & (place < len(counts))
            gaps = [(restored - gt).abs(), (_gradient(restored) - _gradient(gt)).abs()]
            for total, gap in zip(sums, gaps, strict=True):
                total += np.bincount(place[inside], gap.numpy().ravel()[inside], len(counts))
            counts += np.bincount(place[inside], minlength=len(counts))
        if counts.any():
            means = sums / np.maximum(counts, 1)
            found[folder.parent.parent.name] = (means[0], means[1])
    return found


def _gradient(image: Tensor) -> Tensor:
    """Length of the forward differences, of the image's shape."""
    padded = F.pad(image[None], (0, 1, 0, 1), mode="replicate")[0]
    return ((padded[:, 1:, :-1] - image).square() + (padded[:, :-1, 1:] - image).square()).sqrt()


def _maps(
    path: Path, material: Material, titles: Sequence[str], row: Callable[[Tensor, Tensor, _Shown], list[Any]]
) -> None:
    """One row of pictures for each of a few images: of y, x and what the method shows, (1, 3, H, W) in [0, 1]."""
    _, dataset = material.dataset()
    restorer = material.restorer()
    rows = []
    for item in itertools.islice(material.items(dataset), _SHOWN):
        shown: list[Seen] = []
        restorer(item["lq"][None].to(material.device), [item["key"]], shown.append)
        seen = {s.name: s.image.cpu() for s in shown}
        if missing := {_ESTIMATE, _WEIGHT} - seen.keys():
            raise FigureUnavailableError(f"{material.method} does not show {' or '.join(sorted(missing))}")
        height, width = seen[_ESTIMATE].shape[-2:]
        rows.append(row(_upsampled(item, (height, width))[None], item["gt"][None, :, :height, :width], seen))
    axes, finish = panels(len(titles), rows=len(rows), height=2.6)
    for i, (picture, axis) in enumerate(zip((p for r in rows for p in r), axes, strict=True)):
        axis.imshow(picture)
        axis.set_axis_off()
        if i < len(titles):
            axis.set_title(titles[i], fontsize=8)
    finish(path)


def _heat(values: Tensor, largest: float = 0.2) -> NDArray[np.uint8]:
    """The mean over the channels of (1, C, H, W) as colours, the hottest for ``largest``."""
    return heat(to_uint8(values[0].float().mean(dim=0, keepdim=True) / largest)[..., 0])


def _shown(image: Tensor) -> NDArray[np.uint8]:
    """(1, 3, H, W) in [0, 1] as a picture."""
    return to_uint8(image[0])
