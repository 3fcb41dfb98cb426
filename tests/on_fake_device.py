"""Restoration and training stay on the device: shown on a CUDA device that is not there, see tests/fake_device.py.

The backward pass is not among it: autograd asks for a driver. Autocast is not either: without CUDA torch turns it off.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, unset_fake_temporarily

from tests import tiny
from tests.diffsr import UNET
from tests.fake_device import FakeGenerator, fake_cuda, on_cuda, stays_on_the_device
from tests.resshift import OPTIONS
from upsr.accelerate import accelerated
from upsr.archs import ATD, CompactSR, DiffusersUNet2D, ResShiftUNet, UNetModelSwin
from upsr.config.load import parse_options
from upsr.config.schema import Component, LossComponent, OptimizerOptions, TileOptions
from upsr.config.schema_data import DegradationOptions
from upsr.data import PairPool, RealESRGANDegradation
from upsr.data.kernels import draw_kernels
from upsr.diffusion import (
    Between,
    ResidualShift,
    VariancePreserving,
    alphas_cumprod,
    exponential_sqrt_etas,
    schedule_betas,
)
from upsr.methods import Player
from upsr.methods.build import Losses
from upsr.methods.diffsr import method as diffsr
from upsr.methods.diffsr.method import DiffSR
from upsr.methods.diffsr.noise_level import by_scale
from upsr.methods.options import ConsistencyOptions
from upsr.methods.resshift import method as resshift
from upsr.methods.resshift.distillation import SinSRTraining
from upsr.methods.resshift.method import ResShift
from upsr.methods.resshift.options import ResShiftTrainOptions
from upsr.methods.resshift.training import ResShiftTraining
from upsr.methods.sr.method import SR
from upsr.methods.sr.training import SRTraining
from upsr.methods.upsr.distillation import UPSRDistillation
from upsr.methods.upsr.method import UPSR, Sampling
from upsr.methods.upsr.training import UPSRTraining
from upsr.methods.upsr.uncertainty import UncertaintyWeight
from upsr.restoring.restore import restore
from upsr.rng import stacked

SCHEDULE = {"diffusion/coefficients.py __call__: cpu -> cuda": 1}
"""The schedule is computed on the host; each process takes it to a device once."""

NOISE = "philox.py normal_field: cpu -> cuda"
"""A noise field, or a window of it, is drawn on the device; the keys of its images go there."""

WINDOWS = "tiling/windows.py windows: cpu -> cuda"
"""The weights of tiles along each side, at the start of a restoration."""

# Fake tensors all lie at address 0, which what is derived from parameters asks for.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """The pixel loss and LPIPS on an untrained backbone."""
    path = tmp_path_factory.mktemp("backbone") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    perceptual = Component(type="LPIPSLoss", net="alex", backbone_path=str(path))
    return Losses(Component(type="MSELoss"), perceptual)


@pytest.fixture(autouse=True)
def _device():
    with fake_cuda():
        yield


def upsr(sampler="ddim", timesteps=(4, 0), trained=(0, 5)):
    return UPSR(
        UNetModelSwin(**tiny.UNET),
        ATD(**tiny.ATD),
        ResidualShift(exponential_sqrt_etas(5, kappa=2.5), 2.5),
        Sampling(timesteps, UncertaintyWeight(), sampler),
        sr_condition=True,
        trained=trained,
    )


def denoising(losses, **settings):
    method = upsr(**settings)
    return UPSRTraining(method, losses, Player(method.denoiser, OptimizerOptions()))


def restoring(model, allowed, tile=None, watch=None):
    model = on_cuda(model).eval()
    lq = torch.empty(1, 3, 20, 12, device="cuda")
    stays_on_the_device(lambda: restore(model, lq, seed=0, names=["one"], tile=tile, watch=watch), allowed)


@pytest.mark.parametrize(("step", "draws"), [("ddim", 1), ("posterior", 2)])
def test_restoring_copies_the_keys_of_its_noise_to_the_device_and_nothing_else(step, draws):
    restoring(upsr(step), {**SCHEDULE, WINDOWS: 2, NOISE: draws})


def test_noise_of_the_cpu_s_generator_is_copied_there():
    model = on_cuda(upsr("posterior")).eval()
    lq = torch.empty(2, 3, 20, 12, device="cuda")
    fields = {"restoring/noise.py __call__: cpu -> cuda": 2 * 2}  # steps and images
    stays_on_the_device(
        lambda: restore(model, lq, seed=0, names=["one", "two"], noise="sequential"), {**SCHEDULE, WINDOWS: 2, **fields}
    )


@pytest.mark.parametrize(("step", "draws"), [("ddim", 1), ("posterior", 2)])
def test_restoring_in_tiles_that_meet_at_every_step_does_so_too(step, draws):
    tile = TileOptions(size=16, overlap=4, blend="step")
    allowed = {**SCHEDULE, NOISE: draws, WINDOWS: 3 + 1}
    restoring(upsr(step), allowed, tile)


def test_restoring_tile_after_tile_does_so_too():
    restoring(upsr(), {**SCHEDULE, WINDOWS: 4, NOISE: 2}, TileOptions(size=16, overlap=4))  # for each of two tiles


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn])
def test_restoring_in_other_types_does_so_too(dtype):
    model = upsr()
    with unset_fake_temporarily():  # copies of fake tensors are of another kind
        low = accelerated(UNetModelSwin(**tiny.UNET), dtype)
    restoring(model.replaced("denoiser", low), {**SCHEDULE, WINDOWS: 2, NOISE: 1})


def test_what_observers_are_shown_is_on_the_device():
    shown = {}
    restoring(
        upsr(),
        {**SCHEDULE, WINDOWS: 2, NOISE: 1},
        watch=lambda seen: shown.setdefault(seen.name, seen.image.device.type),
    )
    assert set(shown.values()) == {"cuda"}
    assert len(shown) == 6


def resshift_parts():
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")
    from upsr.codecs import VQAutoencoder

    networks = [dict(OPTIONS[section]) for section in ("network_g", "autoencoder")]
    for arguments in networks:
        del arguments["type"]
    denoiser, codec = ResShiftUNet(**networks[0]), VQAutoencoder(**networks[1])
    schedule = ResidualShift(exponential_sqrt_etas(4, kappa=2.0), 2.0, noise_power=1, data_variance=1)
    return denoiser, ResShift(denoiser, codec, schedule, resshift.Sampling((3, 0)), (0, 4))


@pytest.mark.parametrize("tile", [None, TileOptions(size=16, overlap=4, blend="step")])
def test_restoring_with_resshift_does_so_too(tile):
    restoring(resshift_parts()[1], {**SCHEDULE, WINDOWS: 4 if tile else 2, NOISE: 2}, tile)


def test_restoring_with_diff_sr_does_so_too():
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")
    network = DiffusersUNet2D(**{key: value for key, value in UNET.items() if key != "type"})
    process = VariancePreserving(alphas_cumprod(schedule_betas("scaled_linear")))
    restoring(
        DiffSR(network, None, process, diffsr.Sampling(2.6, by_scale, steps=2)), {**SCHEDULE, WINDOWS: 3, NOISE: 1}
    )


def stablesr():
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    from upsr.methods.stablesr.method import StableSR

    data = {
        "name": "x", "method": "stablesr", "datasets": {}, "random_backbone": "tiny", "sampler": {"steps": 2},
        "encoder": {"model_channels": 32, "out_channels": 32, "num_res_blocks": 1, "norm_num_groups": 8},
        "guidance": {"scale": 2}, "cfw": {"num_rrdb": 1}, "path": {"allow_random_weights": True},
    }  # fmt: skip
    return StableSR.from_options(parse_options(data, "test"))


def test_restoring_with_stablesr_copies_its_two_prompts_too():
    windows = {WINDOWS: 2, "tiling/windows.py gaussian_windows: cpu -> cuda": 4}
    prompts = {"methods/stablesr/method.py contexts: cpu -> cuda": 2}
    restoring(stablesr(), {**SCHEDULE, **windows, **prompts, NOISE: 3})


def test_training_stablesr_copies_the_schedule_once():
    from upsr.methods.stablesr.options import StableSRTrainOptions
    from upsr.methods.stablesr.training_sft import SFTTraining

    training(SFTTraining(stablesr(), StableSRTrainOptions(total_iter=1)), SCHEDULE)


def test_training_the_fusion_blocks_of_stablesr_copies_nothing():
    from upsr.methods.stablesr.options import StableSRTrainOptions
    from upsr.methods.stablesr.training_cfw import CFWTraining

    training(CFWTraining(stablesr(), StableSRTrainOptions(total_iter=1)), {}, z_0=(2, 4, 8, 8))


def dmsr():
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    from upsr.methods.dmsr.method import DMSR

    data = {
        "name": "x", "method": "dmsr", "datasets": {}, "random_backbone": "tiny", "steps": 3, "estimator": {"width": 4},
        "path": {"allow_random_weights": True},
    }  # fmt: skip
    return DMSR.from_options(parse_options(data, "test"))


def test_restoring_with_dmsr_draws_nothing_and_copies_its_prompt():
    windows = {WINDOWS: 2, "tiling/windows.py gaussian_windows: cpu -> cuda": 4}
    restoring(dmsr(), {**SCHEDULE, **windows, "methods/dmsr/method.py context: cpu -> cuda": 1})


def test_training_dmsr_copies_the_schedule_once():
    from tests.dmsr import DISCRIMINATOR
    from upsr.methods.dmsr.options import DMSRTrainOptions
    from upsr.methods.dmsr.training import DistributionMatching

    training(DistributionMatching(dmsr(), DMSRTrainOptions(total_iter=1, discriminator=DISCRIMINATOR)), SCHEDULE)


def test_training_resshift_and_its_student_copies_the_schedule_once():
    opt = ResShiftTrainOptions(total_iter=1, perceptual_opt=LossComponent(type="L1Loss"))
    training(ResShiftTraining(resshift_parts()[1], opt), SCHEDULE)
    teacher, _ = resshift_parts()
    training(SinSRTraining(resshift_parts()[1], opt, teacher, range(3, -1, -1)), SCHEDULE)


def training(model, allowed, **more):
    """Two calls of every player, the first of which makes ``allowed`` copies; ``more`` are shapes of further inputs."""
    model = on_cuda(model).train()
    shapes = {"lq": (2, 3, 16, 16), "gt": (2, 3, 64, 64), "iteration": (2,), **more}
    batch = {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}
    generators = [FakeGenerator("cuda") for _ in range(2)]
    calls = [*model.players] * 2
    for player, copies in zip(calls, [allowed, *({} for _ in calls[1:])], strict=True):
        stays_on_the_device(lambda: model(player, batch, generators), copies)  # noqa: B023


@pytest.mark.parametrize("network", [lambda: CompactSR(num_feat=8, num_block=1), lambda: ATD(**tiny.ATD)])
def test_training_g_copies_nothing(network, losses):
    method = SR(network())
    training(SRTraining(method, losses, Player(method.g, OptimizerOptions())), {})


def test_training_the_denoiser_copies_the_schedule_once(losses):
    training(denoising(losses), SCHEDULE)


def test_training_with_activation_checkpointing_copies_it_once(losses):
    model = denoising(losses)
    model.method.denoiser.activation_checkpointing = True
    training(model, SCHEDULE)


def test_distillation_copies_the_schedules_of_student_and_teacher_once(losses):
    method = upsr(timesteps=(4,), trained=(4, 5))
    student = UPSRDistillation(
        method, losses, Player(method.denoiser, OptimizerOptions()), upsr(), ConsistencyOptions()
    )
    (place,) = SCHEDULE
    training(student, {place: 2})


def test_degradation_and_pair_pool_copy_nothing(monkeypatch):
    options = DegradationOptions()
    degradation, pool = RealESRGANDegradation(options, 4), PairPool(2)
    moved = []
    monkeypatch.setattr(degradation._jpeg, "to", lambda device: moved.append(on_cuda(degradation._jpeg)))
    gt = torch.empty(3, 3, 64, 64, device="cuda")
    kernels = torch.stack([draw_kernels(options, i) for i in range(3)]).to("cuda")
    degradation(gt, kernels, slots=range(3), keys=("first",))
    monkeypatch.setattr(degradation._jpeg, "to", lambda device: moved.append(device.type))

    def pairs():
        result = []
        for step in range(12):  # whose decisions differ
            keys = (0, "train", step)
            lq = degradation(gt, kernels, slots=range(3), keys=keys)
            result += pool.exchange(lq, gt, ["a", "b", "c"], slots=range(3), keys=keys)[:2]
        return result

    stays_on_the_device(pairs, {})
    assert moved[1:] == ["cuda"] * 12


def test_a_planted_copy_to_the_host_is_found(monkeypatch):
    step = Between.step
    monkeypatch.setattr(Between, "step", lambda *state: step(*state).cpu().to("cuda"))
    with pytest.raises(AssertionError, match=r"tiling/tiles.py of_band: cuda -> cpu"):
        restoring(upsr(), {**SCHEDULE, WINDOWS: 2, NOISE: 1})


@pytest.mark.parametrize("side", [0, 1])
def test_a_planted_constant_of_the_host_is_found(side, monkeypatch, losses):
    model = denoising(losses)
    constant = torch.ones((1,) * side)
    encode = model.method.codec.encode
    monkeypatch.setattr(model.method.codec, "encode", lambda image: encode(image) * constant)
    where = "cpu with cuda" if side == 0 else "two different devices|device"
    with pytest.raises((AssertionError, RuntimeError), match=where):
        restoring(model.method, {**SCHEDULE, WINDOWS: 2, NOISE: 1})
    with pytest.raises((AssertionError, RuntimeError), match=where):
        training(model, SCHEDULE)


def test_a_planted_tensor_that_is_neither_parameter_nor_buffer_is_found():
    class Shifted(nn.Module):
        scale, channels, size_multiple, values_per_pixel = 4, 3, 1, 0

        def __init__(self):
            super().__init__()
            self.network, self.shift = CompactSR(num_feat=8, num_block=1), torch.zeros(())

        def forward(self, lq):
            return self.network(lq) + self.shift

    with pytest.raises(AssertionError, match="cpu with cuda"):
        restoring(SR(Shifted()), {WINDOWS: 2})


@pytest.mark.parametrize("read", [lambda x: float(x.max()), lambda x: x[x > 0], lambda x: x.max().tolist()])
def test_a_planted_look_at_the_values_is_found(read, monkeypatch):
    model = upsr()
    decode = model.codec.decode
    monkeypatch.setattr(
        model, "codec", SimpleNamespace(scale=4, encode=model.codec.encode, decode=lambda x: (read(x), decode(x))[1])
    )
    with pytest.raises(Exception, match="aten") as error:
        restoring(model, {**SCHEDULE, WINDOWS: 2, NOISE: 1})
    assert "Dynamic" in error.typename or error.type is DataDependentOutputException


def test_a_generator_of_the_other_side_is_refused(losses, monkeypatch):
    model = denoising(losses)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: stacked("rand", (), [FakeGenerator()]).long())
    with pytest.raises(AssertionError, match=r"methods/upsr/training.py task: cpu -> cuda"):
        training(model, SCHEDULE)
    with pytest.raises(RuntimeError, match="Expected a 'cuda' generator, but found 'cpu'"):
        torch.randn((2,), generator=FakeGenerator("cpu"), device="cuda")
