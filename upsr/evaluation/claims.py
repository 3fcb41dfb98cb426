"""Published numbers beside published images: which way of measuring gives these numbers of these images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from upsr.data.backends import without_suffix
from upsr.data.datasets import ImageFolder, partner_name
from upsr.errors import UpsrError
from upsr.evaluation.readings import Facts, Values, reading

_SLACK = Decimal("1e-9")


@dataclass(frozen=True)
class Claim:
    """A number as it is printed.

    Attributes:
        text: its digits say how exact it is.
    """

    metric: str
    text: str

    @property
    def half_a_unit(self) -> float:
        """Half a unit of its last digit."""
        exponent = Decimal(self.text).as_tuple().exponent
        assert isinstance(exponent, int)
        return float(Decimal(10) ** exponent / 2 + _SLACK)

    def off(self, value: float) -> float:
        """Distance of a value in units of the last digit."""
        return abs(value - float(self.text)) / (2 * self.half_a_unit)

    def holds(self, value: float) -> bool:
        """The value is printed so."""
        return abs(value - float(self.text)) <= self.half_a_unit


@dataclass(frozen=True)
class Finding:
    """What the ways of a metric give.

    Attributes:
        ways: the values of a set, nearest to the claim first.
        missing: ways that could not be tried, and why.
    """

    claim: Claim
    ways: list[tuple[Facts, float]]
    missing: Sequence[str] = ()

    @property
    def holding(self) -> list[tuple[Facts, float]]:
        """The ways that give the claimed number."""
        return [(way, value) for way, value in self.ways if self.claim.holds(value)]


def read_claims(path: Path) -> list[Claim]:
    """Numbers by metric, of a YAML file such as ``psnr: 28.42``.

    Raises:
        UpsrError: there is none, or something in it is no number.
    """
    try:
        # Texts, not numbers: 0.780 is printed with three digits.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise UpsrError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UpsrError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise UpsrError(f"{path}: give a number for each metric, one a line: psnr: 28.42")
    claims = []
    for metric, text in content.items():
        try:
            finite = isinstance(text, str) and Decimal(text).is_finite()
        except InvalidOperation:
            finite = False
        if not finite:
            raise UpsrError(f"{path}: {metric}: {text!r} is no number")
        claims.append(Claim(str(metric).lower(), text))
    return claims


Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Pairs(Sequence[Pair]):
    """Restored images and ground truths of one size, (H, W, 3) uint8, by the names of the restored ones.

    A ground truth that is larger by less than ``scale`` pixels has lost its last rows and columns in the reduction: they are cut.

    A published number is of a whole set, and a part of it has another: nothing is measured of a part.

    Raises:
        UpsrError: an image has no ground truth, or none of its size; a ground truth has no restored image, or two.
    """

    def __init__(self, folder: Path, gt: Path, scale: int, template: str = "{}") -> None:
        self.folder, self.gt, self.scale = ImageFolder(str(folder), 3), ImageFolder(str(gt), 3), scale
        by_name = {partner_name(without_suffix(key), template): key for key in self.gt.keys}
        self.names = [(key, by_name.get(without_suffix(key))) for key in self.folder.keys]
        absent = [key for key, partner in self.names if partner is None]
        if absent:
            raise UpsrError(
                f"{folder}: {len(absent)} of {len(self.names)} images have no ground truth in {gt}, {absent[0]} for one; "
                "--filename-tmpl says how names differ: '{}_x4'"
            )
        times = Counter(partner for _, partner in self.names)
        if twice := [partner for partner, count in times.items() if count > 1]:
            raise UpsrError(
                f"{folder}: {len(self.names)} restored images for {len(times)} ground truths, two or more for {twice[0]}; "
                "leave one of each in the folder"
            )
        if missing := [key for key in self.gt.keys if key not in times]:
            raise UpsrError(
                f"{folder}: only {len(times)} of the {len(self.gt.keys)} images of {gt} are here, {missing[0]} is not one of "
                "them, and a published number is of the whole set; add the others, or give --gt a folder of those that the "
                "number is of"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        key, partner = self.names[index]
        restored, truth = self.folder.image(key), self.gt.image(str(partner))
        height, width = restored.shape[:2]
        if not (0 <= truth.shape[0] - height < self.scale and 0 <= truth.shape[1] - width < self.scale):
            raise UpsrError(
                f"{self.folder.root}/{key}: {width} x {height}, and the ground truth {self.gt.root}/{partner} is "
                f"{truth.shape[1]} x {truth.shape[0]}"
            )
        return restored, truth[:height, :width]


def explain(
    pairs: Sequence[Pair], claims: Sequence[Claim], scale: int, backbones: Mapping[str, str], step: Callable[[], object]
) -> list[Finding]:
    """The ways of each claim's metric, measured on the pairs.

    Args:
        step: called after each image.
    """
    readings = {claim.metric: reading(claim.metric, scale, backbones) for claim in claims}
    values: dict[str, list[Values]] = {metric: [] for metric in readings}
    for i in range(len(pairs)):
        pair = pairs[i]
        for metric, own in readings.items():
            values[metric].append(own.measure(*pair))
        step()
    findings = []
    for claim in claims:
        combined = readings[claim.metric].combine(values[claim.metric])
        nearest = sorted(combined.items(), key=lambda item: claim.off(item[1]))
        findings.append(Finding(claim, nearest, readings[claim.metric].missing))
    return findings


def together(findings: Sequence[Finding]) -> list[tuple[Facts, int]]:
    """Colours and borders that explain the most claims at once, if more than one, with the number of claims."""
    shared = [
        finding for finding in findings if finding.ways and {"colour", "border"} <= dict(finding.ways[0][0]).keys()
    ]
    counts: Counter[Facts] = Counter()
    for finding in shared:
        counts.update({tuple(item for item in way if item[0] in ("colour", "border")) for way, _ in finding.holding})
    most = max(counts.values(), default=0)
    return [(way, count) for way, count in counts.items() if count == most > 1]
