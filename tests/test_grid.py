"""The grid of a pixel shuffle is measured where it is, and the shipped weights leave little of it."""

from __future__ import annotations

import pytest
import torch
from skimage import data

from upsr.data.image_io import to_tensor
from upsr.engine.setup import checked_model_options
from upsr.methods import build_method
from upsr.metrics import Grid, MetricUnavailableError
from upsr.restoring import restore
from upsr.rng import torch_generator


def photo() -> torch.Tensor:
    return to_tensor(data.astronaut()[:256, :256])[None]


def pattern(period: int, axes: str) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    places = {"rows": rows % period == 0, "columns": columns % period == 0}
    return places.get(axes, places["rows"] & places["columns"]).float()


@pytest.mark.parametrize("period", [2, 4])
@pytest.mark.parametrize("axes", ["rows", "columns", "both"])
def test_a_faint_grid_is_seen_in_a_photo(period, axes):
    measure = Grid()
    before = measure(photo(), None)
    assert before < 10
    assert measure((photo() + 2 / 255 * pattern(period, axes)).clamp(0, 1), None) > before + 10


@pytest.mark.parametrize("period", [3, 5, 8.3])
def test_patterns_of_other_periods_are_no_grid(period):
    columns = torch.arange(256).expand(1, 3, 256, 256)
    stripes = 0.5 + 0.1 * torch.sin(2 * torch.pi * columns / period)
    noise = 0.02 * torch.randn(1, 3, 256, 256, generator=torch_generator("noise"))
    assert Grid()(stripes + noise, None) < 12


def test_an_even_image_has_none_and_a_small_one_cannot_be_measured():
    assert Grid()(torch.full((1, 3, 128, 128), 0.4), None) <= 0
    assert Grid()(torch.full((1, 3, 128, 128), 0.4) + 0.01 * pattern(4, "both")[:128, :128], None) > 20
    with pytest.raises(MetricUnavailableError, match="64 pixels"):
        Grid()(torch.zeros(1, 3, 60, 200), None)


def test_the_shipped_weights_leave_a_grid_below_a_grey_level():
    """A point grid of one grey level in all of a photo gives 16 dB; flat areas with noise, where it is seen first."""
    model = build_method(checked_model_options("options/tiny/test.yml")).eval()
    noise = torch.randn(1, 3, 64, 64, generator=torch_generator("noise"))
    for level in (0.2, 0.5, 0.8):
        flat = (level + 0.01 * noise).clamp(0, 1)
        restored = restore(model, flat, seed=0, names=["flat"])
        height = (restored.mean(dim=1)[0].view(64, 4, 64, 4).mean(dim=(0, 2)) - restored.mean()).abs().max()
        assert float(height) < 1 / 255


def test_the_loss_sees_a_grid_and_not_sharp_detail():
    from upsr.losses import GridLoss

    loss = GridLoss()
    image = 2 * photo() - 1
    grid = 0.02 * pattern(4, "both")
    assert float(loss(image + grid, image)) > 0.8 * float((grid - grid.mean()).abs().mean())
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, padding=2, count_include_pad=False)
    assert float(loss(image, blurred)) < 0.4 * float((image - blurred).abs().mean())
    assert float(loss(image + 0.3, image)) < 1e-6


def test_the_loss_takes_a_grid_out_of_a_shuffle():
    """A shuffle that begins with a grid has none after some steps, and the photo's detail stays."""
    from upsr.losses import GridLoss

    loss, target = GridLoss(), 2 * photo()[..., :64, :64] - 1
    bias = torch.nn.Parameter(0.1 * torch.randn(48, generator=torch_generator("bias")))
    start = bias.detach().clone()
    optimizer = torch.optim.Adam([bias], lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss(
            target + torch.nn.functional.pixel_shuffle(bias.view(1, 48, 1, 1).expand(1, 48, 16, 16), 4), target
        ).backward()
        optimizer.step()
    left = bias.detach().view(3, 16) - bias.detach().view(3, 16).mean(dim=1, keepdim=True)
    assert left.abs().max() < 0.1 * start.abs().max()
