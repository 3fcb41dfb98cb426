"""How the field writes its metrics."""

from __future__ import annotations

DIGITS = {
    "psnr": 2,
    "psnr_rgb": 2,
    "ssim": 4,
    "lpips": 4,
    "dists": 4,
    "clipiqa": 4,
    "musiq": 3,
    "maniqa": 4,
    "niqe": 2,
    "fid": 2,
}
NO_DIGITS = 4
"""Of metrics that are not among them."""

ARROWS = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}"}
"""By whether higher is better."""
