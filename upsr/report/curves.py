"""Curves of measures over the noise level."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from upsr.evaluation.noise_sweep import Curves
from upsr.report.panels import panels

_COLUMNS = 4

MEASURES = {
    "fid": "FID",
    "psnr": "PSNR (dB, RGB)",
    "psnr_y": "PSNR (dB, luma)",
    "ssim": "SSIM (RGB)",
    "ssim_y": "SSIM (luma)",
    "lpips": "LPIPS",
    "low_error": "squared error, low band",
    "hf_ratio": "high-frequency energy, of the photo's",
}
"""Titles of what is measured, in the order of the panels."""

FORMULA = {
    "kl": "signature loss, KL weights",
    "kl_constant": "signature loss, constant errors",
    "literal": "signature loss as printed",
    "corrected": "fidelity loss, corrected",
    "as_printed": "fidelity loss as printed",
}
"""Titles of what the paper's formula gives, see :mod:`upsr.diffusion.recovery_error`."""


def draw_curves(
    path: Path,
    curves: Mapping[str, Curves],
    titles: Mapping[str, str],
    *,
    fields: Mapping[str, tuple[float, float | None]] | None = None,
    logarithmic: bool = False,
) -> None:
    """A panel for each measure that any of the curves has, with a line for each of the curves.

    Args:
        curves: by their label.
        titles: of the measures to draw, in the order of the panels.
        fields: (t_lo, t_hi) of recoverable fields by label, drawn as thicker parts of the lines.
        logarithmic: the measures, but not the noise level.

    Raises:
        FigureUnavailableError: matplotlib is not installed.
    """
    shown = [name for name in titles if any(name in own for own in curves.values())]
    columns = min(len(shown), _COLUMNS)
    axes, finish = panels(columns, rows=-(-len(shown) // columns), height=3.0)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    for axis, name in zip(axes, shown, strict=False):
        for i, (label, own) in enumerate(curves.items()):
            axis.plot(own["t"], own.get(name, [float("nan")] * len(own["t"])), color=f"C{i}", label=label)
            low, high = (fields or {}).get(label, (0.0, None))
            if high is not None and name in own:
                inside = [k for k, t in enumerate(own["t"]) if low <= t <= high]
                axis.plot([own["t"][k] for k in inside], [own[name][k] for k in inside], color=f"C{i}", linewidth=4)
        axis.set(xlabel="noise level t / T", title=titles[name])
        axis.legend(fontsize=6)
        if logarithmic:
            axis.set_yscale("log")
    finish(path)
