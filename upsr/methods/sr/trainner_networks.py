"""traiNNer-redux's names of networks, as classes of spandrel with the arguments that its reference page lists for them."""

from __future__ import annotations

from typing import Any

from upsr.methods.sr.import_basicsr import Known

_SPANDREL = "spandrel.architectures"


def _class(name: str, scale: str = "upscale", channels: str = "in_chans", /, **defaults: Any) -> Known:
    return Known(f"{_SPANDREL}.{name}", scale, channels, defaults)


def _heads(groups: int, heads: int = 6, depth: int = 6) -> dict[str, Any]:
    return {"depths": [depth] * groups, "num_heads": [heads] * groups}


def _compact(width: int, depth: int) -> Known:
    channels = {"num_in_ch": 3, "num_out_ch": 3}
    return _class(
        "Compact.Compact", "upscale", "num_in_ch", num_feat=width, num_conv=depth, act_type="prelu", **channels
    )


def _transformer(
    name: str, groups: int, width: int, *, heads: int = 6, upsampler: str = "pixelshuffle", **more: Any
) -> Known:
    common = {"embed_dim": width, "img_range": 1.0, "mlp_ratio": 2.0, "upsampler": upsampler, **_heads(groups, heads)}
    return _class(name, **{**common, **more})


def _dat(
    split: list[int], factor: int, groups: int = 6, depth: int = 6, width: int = 180, connection: str = "1conv"
) -> Known:
    sizes = {"depth": [depth] * groups, "num_heads": [6] * groups, "split_size": split}
    return _class(
        "DAT.DAT", embed_dim=width, expansion_factor=factor, img_range=1.0, resi_connection=connection,
        upsampler="pixelshuffle", **sizes,
    )  # fmt: skip


def _rgt(groups: int) -> Known:
    sizes = {"depth": [6] * groups, "num_heads": [6] * groups, "split_size": [8, 32]}
    return _class("RGT.RGT", embed_dim=180, mlp_ratio=2.0, c_ratio=0.5, **sizes)


def _atd(
    groups: int, width: int, category: int, tokens: int, reduced: int, kernel: int, ratio: int, upsampler: str
) -> Known:
    return _transformer(
        "ATD.ATD", groups, width, upsampler=upsampler, window_size=16, category_size=category, num_tokens=tokens,
        reducted_dim=reduced, convffn_kernel_size=kernel, mlp_ratio=ratio,
    )  # fmt: skip


def _large_kernels(name: str, blocks: int, kernel: int, **more: Any) -> Known:
    defaults = {"dim": 64, "n_blocks": blocks, "kernel_size": kernel, "split_ratio": 0.25, **more}
    return Known(f"{_SPANDREL}.PLKSR.{name}", "upscaling_factor", "in_ch", defaults, adapted=_with_upsampler)


def _with_upsampler(arguments: dict[str, Any], scale: int) -> dict[str, Any]:
    """``upsampler`` is pixelshuffle, or dysample; spandrel's classes have a flag for the latter."""
    if arguments.get("upsampler") not in ("pixelshuffle", "dysample"):
        return arguments
    kept = {key: value for key, value in arguments.items() if key != "upsampler"}
    return {**kept, "dysample": arguments["upsampler"] == "dysample"}


def _esrgan(width: int, blocks: int) -> Known:
    defaults = {"in_nc": 3, "num_filters": width, "num_blocks": blocks, "use_pixel_unshuffle": True}
    return Known(f"{_SPANDREL}.ESRGAN.ESRGAN", "scale", "in_nc", defaults, adapted=_with_unshuffle)


def _with_unshuffle(arguments: dict[str, Any], scale: int) -> dict[str, Any]:
    """Below x4 the network of x4 begins with a pixel unshuffle, which it counts as input channels."""
    kept = {key: value for key, value in arguments.items() if key != "use_pixel_unshuffle"}
    factor = 4 // scale
    if factor < 2 or not arguments["use_pixel_unshuffle"]:
        return kept
    return {**kept, "in_nc": arguments["in_nc"] * factor**2, "scale": 4, "shuffle_factor": factor}


_LARGE: dict[str, Any] = {"heads": 8, "upsampler": "nearest+conv", "resi_connection": "3conv", "window_size": 8}

NETWORKS: dict[str, Known] = {
    "esrgan": _esrgan(64, 23),
    "esrgan_lite": _esrgan(32, 12),
    "compact": _compact(64, 16),
    "ultracompact": _compact(64, 8),
    "superultracompact": _compact(24, 8),
    "span": _class("SPAN.SPAN", "upscale", "num_in_ch", num_in_ch=3, num_out_ch=3, feature_channels=48, norm=False),
    "swinir_s": _transformer("SwinIR.SwinIR", 4, 60, upsampler="pixelshuffledirect", window_size=8),
    "swinir_m": _transformer("SwinIR.SwinIR", 6, 180, window_size=8, img_size=48),
    "swinir_l": _transformer("SwinIR.SwinIR", 9, 240, **_LARGE),
    "swin2sr_s": _transformer("Swin2SR.Swin2SR", 4, 60, upsampler="pixelshuffledirect", window_size=8),
    "swin2sr_m": _transformer("Swin2SR.Swin2SR", 6, 180, window_size=8),
    "swin2sr_l": _transformer("Swin2SR.Swin2SR", 9, 240, **_LARGE),
    "hat_s": _transformer("HAT.HAT", 6, 144, window_size=16, compress_ratio=24, squeeze_factor=24),
    "hat_m": _transformer("HAT.HAT", 6, 180, window_size=16),
    "hat_l": _transformer("HAT.HAT", 12, 180, window_size=16),
    "drct": _transformer("DRCT.DRCT", 6, 180),
    "drct_l": _transformer("DRCT.DRCT", 12, 180),
    "drct_xl": _transformer("DRCT.DRCT", 14, 180),
    "dat": _dat([8, 32], 4),
    "dat_2": _dat([8, 32], 2),
    "dat_s": _dat([8, 16], 2),
    "dat_light": _dat([8, 32], 2, groups=1, depth=18, width=60, connection="3conv"),
    "atd": _atd(6, 210, 256, 128, 20, 5, 2, "pixelshuffle"),
    "atd_light": _atd(4, 48, 128, 64, 8, 7, 1, "pixelshuffledirect"),
    "rgt": _rgt(8),
    "rgt_s": _rgt(6),
    "plksr": _large_kernels("PLKSR", 28, 17, ccm_type="DCCM", use_ea=True),
    "plksr_tiny": _large_kernels("PLKSR", 12, 13, ccm_type="DCCM", use_ea=False),
    "realplksr": _large_kernels("RealPLKSR", 28, 17, use_ea=True, layer_norm=True),
    "realplksr_tiny": _large_kernels("RealPLKSR", 12, 13, use_ea=False, layer_norm=True),
    "omnisr": _class("OmniSR.OmniSR", "up_scale", "num_in_ch", num_feat=64, res_num=5, block_num=1, window_size=8),
    "safmn": _class("SAFMN.SAFMN", "upscaling_factor", "in_ch", dim=36, n_blocks=8),
    "safmn_l": _class("SAFMN.SAFMN", "upscaling_factor", "in_ch", dim=128, n_blocks=16),
    "rcan": _class("RCAN.RCAN", "scale", "n_colors", norm=False),
    "dctlsa": _class("DCTLSA.DCTLSA", "upscale", "in_nc"),
    "ditn_real": _class("DITN.DITN", "upscale", "inp_channels"),
    "moesr2": _class("MoESR.MoESR", "scale", "in_ch", expansion_factor=8 / 3),
}
"""By the names in option files. traiNNer-redux has more; those are said to be absent."""
