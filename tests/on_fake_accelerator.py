"""An accelerator of a kind that nothing names is found, restores as the CPU does, and is never given float64."""

from __future__ import annotations

from tests.fake_accelerator import NAME, CardTensor, register

register()  # before the package is imported

import json  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from tests import tiny  # noqa: E402
from upsr import cli  # noqa: E402
from upsr.commands.processes import launch  # noqa: E402
from upsr.config.schema_data import DegradationOptions  # noqa: E402
from upsr.data.kernels import draw_kernels, render_kernels  # noqa: E402
from upsr.data.prefetch import DevicePrefetcher  # noqa: E402
from upsr.devices import CPU, best_device, peak_gib  # noqa: E402
from upsr.diffusion import ResidualShift, VariancePreserving, alphas_cumprod, schedule_betas  # noqa: E402
from upsr.diffusion.schedule import exponential_sqrt_etas  # noqa: E402
from upsr.engine.distributed import runtime  # noqa: E402
from upsr.errors import UpsrError  # noqa: E402
from upsr.metrics import SSIM  # noqa: E402
from upsr.metrics.bands import band_energies  # noqa: E402
from upsr.metrics.grid import Grid  # noqa: E402
from upsr.philox import normal_field, philox  # noqa: E402
from upsr.pipeline import selftest  # noqa: E402
from upsr.pipeline.hardware import dtype_for, usable_device  # noqa: E402
from upsr.pipeline.memory import free_memory  # noqa: E402
from upsr.provenance import machine  # noqa: E402
from upsr.rng import derive_seed  # noqa: E402

CARD = torch.device(NAME)
PHOTO = torch.from_numpy(tiny.picture(64, 64)).permute(2, 0, 1)[None] / 255


def test_auto_finds_it_and_messages_name_it():
    assert usable_device("auto") == best_device() == CARD
    assert machine(CARD)["gpu"] == "Fast Card 1"
    with pytest.raises(UpsrError, match=rf"'cuda' cannot be used here .*; give auto or one of cpu, {NAME}:0"):
        usable_device("cuda")
    with pytest.raises(UpsrError, match="name several of one kind, cpu, cuda, xpu"):
        launch([f"{NAME}:0", f"{NAME}:1"])


def test_a_training_run_is_placed_on_it(monkeypatch):
    with runtime("none", "auto") as run:
        assert run.device == torch.device(NAME, 0)
    with runtime("none", 0) as run:
        assert run.device == CPU
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UpsrError, match=rf"2 or more processes .* which has 1 {NAME} device\(s\)"),
        runtime("pytorch", "auto"),
    ):
        pass


def test_what_it_does_not_tell_is_taken_from_the_machine():
    assert dtype_for("auto", CARD) == torch.float32
    assert peak_gib(CARD) is None
    assert free_memory(CARD) == pytest.approx(free_memory(CPU), rel=0.2)
    batches = DevicePrefetcher(iter([{"lq": PHOTO, "key": "a"}]), CARD)
    batch = batches.take()
    assert isinstance(batch["lq"], CardTensor)
    assert torch.equal(batch["lq"].cpu(), PHOTO)


def test_the_card_has_no_float64():
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(2, dtype=torch.float64).to(CARD)
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(2).to(CARD).double()
    with pytest.raises(RuntimeError, match="a tensor of the CPU among those"):
        torch.zeros(2).to(CARD) + torch.zeros(2)


def test_it_restores_as_the_cpu_does(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["automatic"] == NAME
    card = said["devices"][1]
    assert (card["name"], card["float64"]) == ("Fast Card 1", False)
    assert 0 <= card["findings"][0]["largest"] < 0.1


def test_a_card_that_computes_wrong_is_found(monkeypatch, capsys):
    convolution = torch.nn.functional.conv2d

    def wrong(x, *args, **kwargs):
        result = convolution(x, *args, **kwargs)
        return result * 1.01 if isinstance(x, CardTensor) else result

    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    place = lines.index(next(line for line in lines if line.startswith(f"{NAME}:0: Fast Card 1")))
    assert lines[place + 1].startswith("  float32: WRONG: differs by")
    assert lines[-1].startswith("a device is wrong")


def test_a_card_without_an_operator_is_found(monkeypatch):
    dispatch = CardTensor.__torch_dispatch__

    def lacking(cls, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.convolution:
            raise NotImplementedError(f"{func} is not implemented for {NAME}")
        return dispatch(func, types, args, kwargs)

    monkeypatch.setattr(CardTensor, "__torch_dispatch__", classmethod(lacking))
    (finding,) = selftest.check_device(torch.device(NAME, 0))
    assert not finding.right
    assert finding.problem is not None
    assert "is not implemented for fastcard" in finding.problem


def test_schedules_are_computed_on_the_host():
    t = torch.tensor([3, 1])
    state = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = 1 - state
    shift = ResidualShift(exponential_sqrt_etas(5, kappa=2.5), 2.5)
    preserving = VariancePreserving(alphas_cumprod(schedule_betas("linear")))
    for forward in (
        lambda x, n, t: shift.q_sample(x, n, t, noise=n),
        lambda x, n, t: shift.prior_sample(n, noise=x),
        lambda x, n, t: shift.scale_input(x, t),
        lambda x, n, t: shift.posterior_step(x, n, t, noise=x),
        lambda x, n, t: shift.ddim_step(x, n, x, t),
        lambda x, n, t: preserving.q_sample(x, t, n),
        lambda x, n, t: preserving.posterior_step(x, n, t, t - 1, lambda: n),
        lambda x, n, t: preserving.ddim_step(x, n, t, t - 1, lambda: n, eta=0.5),
    ):
        own = forward(state.to(CARD), noise.to(CARD), t.to(CARD))
        assert isinstance(own, CardTensor)
        assert torch.equal(own.cpu(), forward(state, noise, t))


def test_noise_by_counters_is_that_of_the_cpu():
    words = [torch.tensor([0xD16CFE09, 7]), torch.tensor([3, 0xFFFFFFFF])]
    own = philox([word.to(CARD) for word in words * 2], [word.to(CARD) for word in words])
    for made, expected in zip(own, philox(words * 2, words), strict=True):
        assert isinstance(made, CardTensor)
        assert torch.equal(made.cpu(), expected)
    window = ([derive_seed(0, "a")], 3, slice(5, 9), slice(2, 40))
    own = normal_field(*window, CARD)
    assert isinstance(own, CardTensor)
    assert torch.equal(own.cpu(), normal_field(*window, CPU))


def test_kernels_and_metrics_need_no_float64():
    kernels = torch.stack([draw_kernels(DegradationOptions(), i) for i in range(2)])
    own = render_kernels(kernels.to(CARD), 21)
    assert isinstance(own, CardTensor)
    assert torch.equal(own.cpu(), render_kernels(kernels, 21))
    other = PHOTO.flip(-1)
    pairs = (PHOTO.to(CARD), other.to(CARD)), (PHOTO, other)
    for measure in (SSIM(), lambda x, y: band_energies(x, y, 4), lambda x, y: Grid()(x, None)):
        measured, expected = (measure(*pair) for pair in pairs)
        assert measured == expected
