"""Scales that are no whole numbers: one rule for sizes, and a method with a knob for its scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests import tiny
from upsr.config.schema import TileOptions
from upsr.engine.fitting import _problem as misfit
from upsr.errors import UpsrError
from upsr.methods import Facts, Knob
from upsr.methods.bicubic.method import Bicubic
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.restoring import ModelRestorer
from upsr.tiling.colour import wavelet
from upsr.tiling.scratch import Scratch


class AnyScale(Bicubic):
    """Bicubic upsampling by whatever is asked for, and 0.01 of noise."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.facts = Facts(scale, 3, state=(3, 1), canvas=(64, 8))

    def knobs(self):
        """The scale."""
        return {"scale": Knob("the method's scale", 1, 8, self.facts.scale)}

    def _adjusted(self, scale):
        return type(self)(scale)

    def restore(self, lq, noise, *, tiles=None, watch=None):
        """See :meth:`Method.restore`."""
        image = super().restore(lq, noise)
        height, width = image.shape[-2:]
        return (image + 0.01 * noise(0)[..., :height, :width]).clamp(0, 1)


def photo(height: int = 20, width: int = 31) -> torch.Tensor:
    return torch.from_numpy(tiny.picture(height, width)).permute(2, 0, 1)[None].float() / 255


def test_sizes_are_rounded_once_and_the_diffusion_s_image_holds_them():
    facts = Facts(2.6, 3, state=(4, 8), canvas=(64, 16))
    assert facts.output_size(31, 5) == (81, 13)
    assert facts.canvas_size(31, 5) == (96, 64)
    assert facts.noise_shape(31, 5) == (4, 12, 8)
    assert Facts(1.5, 3).output_size(1, 3) == (2, 4)
    assert Facts(0.2, 3).output_size(1, 3) == (1, 1)
    whole = Facts(4, 3, 16, (48, 4))
    assert (whole.output_size(16, 32), whole.noise_shape(16, 32)) == ((64, 128), (48, 16, 32))


@pytest.mark.parametrize(("scale", "size"), [(2.6, (52, 81)), (4.5, (90, 140)), (1, (20, 31))])
def test_images_are_restored_at_the_rounded_size(scale, size):
    out = ModelRestorer(AnyScale(scale), seed=0)(photo(), ["a"])
    assert out.shape[-2:] == size
    expected = F.interpolate(photo(), size=size, mode="bicubic", align_corners=False)
    assert (out - expected).abs().max() > 0
    assert (out - expected).abs().mean() < 0.02


def test_tiles_that_are_averaged_at_the_end_refuse_a_fraction():
    tile = TileOptions(size=16, overlap=8, blend="end")
    with pytest.raises(UpsrError, match=r"^scale is 2.6, but blend: end needs a whole number$"):
        ModelRestorer(AnyScale(2.6), 0, tile)(photo(), ["a"])
    assert ModelRestorer(AnyScale(2), 0, tile)(photo(), ["a"]).shape[-2:] == (40, 62)


def pipeline(method: Bicubic) -> UPSRPipeline:
    return UPSRPipeline(method, {}, device="cpu")


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 4),
        ({"outscale": 2.6}, 2.6),
        ({"scale": 4.5}, 4.5),
        ({"size": (62, None)}, 2),
        ({"size": (62, 60)}, 3),
        ({"outscale": 0.5}, 1),
        ({"outscale": 2, "scale": 4}, 4),
    ],
)
def test_a_method_with_a_knob_for_it_restores_at_the_scale_of_the_result(settings, scale):
    image = Image.fromarray(tiny.picture(20, 31))
    result = pipeline(AnyScale(4))(image, return_intermediates=True, **settings).images[0]
    wanted = settings.get("size") or [round(settings.get("outscale", scale) * side) for side in image.size]
    assert result.size == (wanted[0], wanted[1] or 40)
    expected = pipeline(AnyScale(scale))(image, **{**settings, "scale": scale}).images[0]
    assert np.array_equal(np.asarray(result), np.asarray(expected))


def test_a_knob_out_of_range_is_refused_and_others_are_resized_as_ever():
    image = tiny.picture(20, 31)
    with pytest.raises(UpsrError, match=r"^scale is 9; give 1 to 8"):
        pipeline(AnyScale(4))(image, scale=9)
    large = pipeline(Bicubic(4))(image, output_type="np").images[0]
    resized = pipeline(Bicubic(4))(image, outscale=2.6, output_type="np").images[0]
    assert (large.shape, resized.shape) == ((80, 124, 3), (52, 81, 3))
    native = pipeline(AnyScale(4))(image, outscale=2.6, output_type="np").images[0]
    assert np.abs(native - resized).max() > 0.02


@pytest.mark.parametrize("size", [(52, 81), (600, 40), (601, 33)])
def test_colours_are_fixed_alike_whatever_bands_the_image_is_in(size):
    lq = photo(size[0] // 3 + 7, 12)
    image = (F.interpolate(lq, size=size, mode="bicubic") * 0.7 + 0.1).clamp(0, 1)
    fixed = wavelet(image.clone(), lq, Scratch(lq.device))
    y = F.interpolate(lq, size=size, mode="bicubic", align_corners=False)
    from upsr.tiling.colour import _low_pass

    assert (fixed - (image + _low_pass(y - image)).clamp(0, 1)).abs().max() < 1e-5


def test_a_set_fits_where_its_images_have_the_rounded_size():
    facts = Facts(2.6, 3)
    assert misfit({"gt": (52, 81), "lq": (20, 31)}, facts) is None
    assert misfit({"gt": (53, 84), "lq": (20, 31)}, facts) is None
    assert "gives 81x52 at x2.6" in str(misfit({"gt": (51, 81), "lq": (20, 31)}, facts))
