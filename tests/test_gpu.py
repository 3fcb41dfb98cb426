"""What needs a CUDA device: `pytest -m gpu`. UPSR_TEST_DEVICE=cpu tries the tests themselves where there is none."""

from __future__ import annotations

import os

import pytest
import torch

from tests import tiny
from tests.dmsr import tiny_options as dmsr_options
from tests.stablesr import tiny_options as stablesr_options
from tests.training import tiny_options
from upsr.accelerate.compiled import Compiled
from upsr.archs import ATD, UNetModelSwin
from upsr.config.load import parse_options
from upsr.config.schema import TileOptions
from upsr.config.schema_data import DegradationOptions
from upsr.data import PairPool, RealESRGANDegradation
from upsr.data.kernels import draw_kernels
from upsr.diffusion import ResidualShift, exponential_sqrt_etas
from upsr.engine.distributed import Runtime
from upsr.engine.sinks import read_rows
from upsr.engine.train_loop import train
from upsr.methods import build_method
from upsr.methods.upsr.method import UPSR, Sampling
from upsr.methods.upsr.uncertainty import UncertaintyWeight
from upsr.restoring.restore import restore

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device():
    name = os.environ.get("UPSR_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(name)


@pytest.fixture
def cuda(device):
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


def upsr(step="ddim"):
    torch.manual_seed(0)
    return UPSR(
        tiny.random_weights(UNetModelSwin(**tiny.UNET)),
        tiny.random_weights(ATD(**tiny.ATD)),
        ResidualShift(exponential_sqrt_etas(5, kappa=2.5), 2.5),
        Sampling((4, 3, 2, 1, 0), UncertaintyWeight(), step),
        sr_condition=True,
        trained=(0, 5),
    ).eval()


PHOTO = torch.from_numpy(tiny.picture(40, 24)).permute(2, 0, 1)[None] / 255


@pytest.fixture
def exact(monkeypatch):
    """Products and convolutions without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("step", "tile"),
    [
        ("ddim", None),
        ("ddim", TileOptions(size=16, overlap=4, blend="step")),
        ("ddim", TileOptions(size=16, overlap=4)),
        ("posterior", None),
    ],
)
@pytest.mark.usefixtures("exact")
def test_photos_restored_on_the_device_are_those_of_the_cpu(device, step, tile):
    expected = restore(upsr(step), PHOTO, seed=0, names=["photo"], tile=tile)
    own = restore(upsr(step).to(device), PHOTO.to(device), seed=0, names=["photo"], tile=tile).cpu()
    difference = (own - expected).abs()
    # A rounding may put a pixel into another of g's categories, which changes its surroundings.
    assert (difference < 1e-3).float().mean() > 0.99
    assert difference.mean() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_are_near_float32(device, dtype):
    model, lq = upsr().to(device), PHOTO.to(device)
    full, low = (restore(m, lq, seed=0, names=["photo"]) for m in (model, model.for_inference(dtype)))
    assert 0 < (full - low).abs().mean() < 0.02


def test_restoring_waits_for_the_device_nowhere(cuda):
    model, lq, noise = upsr().to(cuda), torch.rand(1, 3, 32, 32, device=cuda), torch.randn(1, 48, 32, 32, device=cuda)
    with torch.inference_mode():
        model.restore(lq, lambda k: noise)
        torch.cuda.set_sync_debug_mode("error")
        try:
            model.restore(lq, lambda k: noise)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_denoisers_give_what_they_give_as_they_are(cuda, mode):
    network = upsr().denoiser.to(cuda)
    inputs = [torch.randn(2, channels, 32, 32, device=cuda) for channels in (48, 96)]
    t = torch.tensor([3, 1], device=cuda)
    view = Compiled(network, mode=mode)
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(
                view(inputs[0], t, inputs[1]), network(inputs[0], t, inputs[1]), rtol=0, atol=1e-2
            )


def test_pairs_are_degraded_on_the_device(device):
    options = DegradationOptions(usm_gt=True)
    degradation, pool = RealESRGANDegradation(options, 4), PairPool(2)
    crops = (torch.from_numpy(tiny.picture(64, 64)).permute(2, 0, 1)[None] / 255).repeat(2, 1, 1, 1).to(device)
    kernels = torch.stack([draw_kernels(options, i) for i in range(2)]).to(device)
    gt = degradation.ground_truth(crops)
    assert gt.device.type == device.type
    for step in range(4):
        keys = (0, "train", step)
        lq = degradation(gt, kernels, slots=range(2), keys=keys)
        traded, _, _ = pool.exchange(lq, gt, ["a", "b"], slots=range(2), keys=keys)
        assert traded.device.type == device.type
        assert torch.equal((lq * 255).round() / 255, lq)
        assert (lq.mean() - gt.mean()).abs() < 0.15


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_training_gives_finite_losses_and_goes_on_from_its_state(device, amp, tmp_path):
    if device.type == "cpu" and amp == "fp16":
        pytest.skip("needs a CUDA device")
    photos = tiny.save_pictures(tmp_path / "photos", 3)
    settings = {"num_gpu": 1 if device.type == "cuda" else 0, "train": {"amp": amp}, "auto_resume": True}
    for total in (2, 4):
        settings["train"] |= {"total_iter": total}
        opt = parse_options(tiny_options(tmp_path, photos, **settings), "test")
        rows = read_rows(train(opt, Runtime(device)) / "metrics.csv")
    losses = {int(iteration): float(value) for iteration, tag, value in rows if tag == "losses/total"}
    assert list(losses) == [1, 2, 3, 4]
    assert all(0 < loss < 100 for loss in losses.values())


@pytest.fixture
def stablesr(tmp_path):
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    data = {**stablesr_options(tmp_path, tmp_path), "datasets": {}, "guidance": {"scale": 2.5}}
    return build_method(parse_options(data, "test")).eval()


def test_stablesr_restores_on_the_device_as_on_the_cpu(device, exact, stablesr):
    expected = restore(stablesr, PHOTO, seed=0, names=["a"])
    found = restore(stablesr.to(device), PHOTO.to(device), seed=0, names=["a"])
    assert (found.cpu() - expected).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stablesr_in_other_types_is_near_float32(device, dtype, stablesr):
    expected = restore(stablesr, PHOTO, seed=0, names=["a"])
    found = restore(stablesr.for_inference(dtype).to(device), PHOTO.to(device), seed=0, names=["a"])
    assert (found.cpu() - expected).abs().mean() < 0.03


@pytest.mark.parametrize("amp", ["fp32", "bf16", "fp16"])
def test_stablesr_trains_with_checkpointing(device, amp, tmp_path):
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    photos = tiny.save_pictures(tmp_path / "photos", 3)
    settings = {"amp": amp, "activation_checkpointing": True}
    place = {"num_gpu": 1 if device.type == "cuda" else 0}
    options = parse_options(stablesr_options(tmp_path, photos, cfw=None, train=settings, **place), "test")
    rows = read_rows(train(options, Runtime(device)) / "metrics.csv")
    losses = [float(value) for _, tag, value in rows if tag == "losses/total"]
    assert losses  # float16 leaves out the first steps, until the loss scale fits
    assert all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dmsr_restores_on_the_device_as_on_the_cpu(device, exact, dtype, tmp_path):
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    method = build_method(
        parse_options({**dmsr_options(tmp_path, tmp_path), "datasets": {}, "steps": 2}, "test")
    ).eval()
    expected = restore(method, PHOTO, seed=0, names=["a"])
    found = restore(method.for_inference(dtype).to(device), PHOTO.to(device), seed=0, names=["a"])
    assert (found.cpu() - expected).abs().mean() < (1e-4 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_dmsr_trains_two_players_with_checkpointing(device, amp, tmp_path):
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    photos = tiny.save_pictures(tmp_path / "photos", 3)
    settings = {"amp": amp, "activation_checkpointing": True}
    place = {"num_gpu": 1 if device.type == "cuda" else 0}
    options = parse_options(dmsr_options(tmp_path, photos, train=settings, **place), "test")
    rows = read_rows(train(options, Runtime(device)) / "metrics.csv")
    for player in ("g", "d"):
        losses = [float(value) for _, tag, value in rows if tag == f"losses/{player}/total"]
        assert len(losses) == 4
        assert all(abs(loss) < 100 for loss in losses)
