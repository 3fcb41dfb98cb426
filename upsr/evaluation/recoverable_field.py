"""The Perceptual Recoverable Field: the noise levels at which a diffusion improves an upsampled image and keeps its content.

Too little noise leaves the image smooth: the fidelity loss, one minus the share of the photo's high-frequency energy that the
result has. Too much noise destroys the content: the signature loss, LPIPS where it can be measured, else the error in the band
of frequencies that the LR image has. The field (Diff-SR paper, Eq. 8 and 9) is where both are under a threshold. The paper gives
no thresholds. Here the signature loss may be as high as that of the upsampled image itself (above 60 % noise, says the paper,
all is worse than at the start), and the share of high-frequency energy is 0.6 unless the caller says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from upsr.evaluation.noise_sweep import Curves

ENOUGH_FOR_FID = 1000
"""Photos from which on the FID chooses the level: the distance of fewer is mostly that of the samples."""


@dataclass(frozen=True)
class RecoverableField:
    """Noise levels as shares t / T.

    Attributes:
        t_lo: least level with enough high-frequency energy; that of the most energy where none has enough.
        t_star: the best level of the field by ``objective``; ``t_lo`` where the field is empty.
        t_hi: greatest level of the field; ``None`` where it is empty.
        signature: measure of the signature loss.
        objective: measure that ``t_star`` minimises.
    """

    t_lo: float
    t_star: float
    t_hi: float | None
    signature: str
    objective: str


def recoverable_field(
    curves: Curves, upsampled: Mapping[str, float], *, hf_ratio: float, photos: int
) -> RecoverableField:
    """The field of one scale.

    Args:
        upsampled: the measures of the upsampled LR images.
        hf_ratio: least share of the high-frequency energy.
        photos: number of photos that the curves are means of.
    """
    levels = curves["t"]
    signature = "lpips" if "lpips" in curves else "low_error"
    objective = "fid" if "fid" in curves and photos >= ENOUGH_FOR_FID else signature
    sharp = [i for i, ratio in enumerate(curves["hf_ratio"]) if ratio >= hf_ratio]
    both = [i for i in sharp if curves[signature][i] <= upsampled[signature]]
    if not both:
        first = sharp[0] if sharp else max(range(len(levels)), key=lambda i: curves["hf_ratio"][i])
        return RecoverableField(levels[first], levels[first], None, signature, objective)
    best = min(both, key=lambda i: curves[objective][i])
    return RecoverableField(levels[both[0]], levels[best], levels[both[-1]], signature, objective)
