"""What the denoiser's output stands for: the image, or what is missing in g(y)."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.training import tiny_options
from upsr.archs.contracts import DenoisingNetwork
from upsr.config import parse_options
from upsr.methods import build_method
from upsr.restoring import ModelRestorer


class Silent(DenoisingNetwork):
    """A denoiser that gives zeros."""

    scale, out_channels, cond_channels, size_multiple, values_per_pixel = 4, 3, 96, 8, 0

    def forward(self, x, t, cond):
        return x.new_zeros(len(x), 3, 4 * x.shape[2], 4 * x.shape[3])


@pytest.mark.parametrize("sr_condition", [True, False])
@pytest.mark.parametrize("estimate", ["image", "residual"])
def test_a_silent_denoiser_leaves_its_starting_point(tmp_path, sr_condition, estimate):
    network = {} if sr_condition else {"cond_channels": 48}
    diffusion = {"estimate": estimate, "sr_condition": sr_condition}
    changes = {"network_g": network, "diffusion": diffusion, "path": {"allow_random_weights": True}}
    method = build_method(parse_options(tiny_options(tmp_path, tmp_path, **changes), "test")).eval()
    tiny.random_weights(method.g)
    method = method.replaced("denoiser", Silent())
    lq = torch.rand(1, 3, 16, 16)
    cond = method.condition(lq)
    start = cond.y_hat if sr_condition else cond.y
    expected = start if estimate == "residual" else torch.zeros_like(start)
    torch.testing.assert_close(ModelRestorer(method, 0)(lq, ["x"]), (expected.clamp(-1, 1) + 1) / 2)
