"""The terms of the Diff-SR paper's recovery error that a network and photos give, see :mod:`upsr.diffusion.recovery_error`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from upsr.devices import in_float64
from upsr.diffusion import VariancePreserving
from upsr.diffusion.recovery_error import OMEGA, fidelity_loss, printed_fidelity_loss, signature_loss
from upsr.diffusion.sampling import Denoise
from upsr.errors import UpsrError
from upsr.evaluation.noise_sweep import HRPhoto, NoiseSweep
from upsr.methods.base import Facts
from upsr.rng import torch_generator

E_0 = 0.02
"""Constant in place of the prediction errors, as the paper argues that they are about equal; the value is not the paper's."""


class Denoising(Protocol):
    """A method whose network denoises the states of a variance-preserving process."""

    process: VariancePreserving
    facts: Facts

    def encode(self, image: Tensor) -> Tensor:
        """The state without noise of images (B, C, H, W) in [0, 1]."""
        ...

    @property
    def estimate(self) -> Denoise:
        """The network's estimate of x_0."""
        ...


def prediction_errors(
    method: Denoising, sweep: NoiseSweep, identity: Any, *, seed: int, at: int = 50, draws: int = 20
) -> dict[int, float]:
    """E_i = mean |eps - eps_theta(x_i, i)|^2 at some timesteps i, by draws of the noise; draw j is on photo j.

    Values are kept by ``sweep``, and not drawn again.

    Args:
        at: number of timesteps, evenly spaced over all.
        draws: noise draws at each.
    """
    last = method.process.num_timesteps - 1
    timesteps = sorted({round(last * i / max(at - 1, 1)) for i in range(at)})
    work = [identity, "prediction errors", seed, draws]
    found = {}
    for i in tqdm(timesteps, desc="prediction errors", unit="step", disable=None, leave=False):
        values = sweep.known(work, f"{i}", lambda i=i: {"error": _error_at(method, sweep, i, seed, draws)})  # type: ignore[misc]
        found[i] = values["error"]
    return found


def recovery_error(
    method: Denoising, sweep: NoiseSweep, errors: dict[int, float], scales: Sequence[float], levels: Sequence[float]
) -> dict[str, Any]:
    """The formula's curves over the noise level, as JSON: the signature loss in three forms, the fidelity loss by scale in two.

    Args:
        errors: see :func:`prediction_errors`; between them E_i is interpolated.
    """
    alpha_bar = method.process.alpha_bar(torch.arange(method.process.num_timesteps))
    every = torch.from_numpy(np.interp(np.arange(len(alpha_bar)), list(errors), list(errors.values())))
    constant = torch.tensor(E_0, dtype=torch.float64)
    at = [min(round(level * len(alpha_bar)), len(alpha_bar) - 1) for level in levels]
    forms = {
        "literal": signature_loss(alpha_bar, every, "literal"),
        "kl": signature_loss(alpha_bar, every, "kl"),
        "kl_constant": signature_loss(alpha_bar, constant, "kl"),
    }
    fidelity = {}
    for scale in scales:
        pair = sweep.degrade(torch.stack([photo.image for photo in sweep.photos]), scale)
        x, x_hat = (_states(method, image, sweep) for image in (pair.gt, pair.upsampled))
        corrected = fidelity_loss(alpha_bar, float((x - x_hat).double().square().mean()))
        printed = printed_fidelity_loss(alpha_bar, x, x_hat)
        fidelity[f"{scale:g}"] = {"corrected": corrected[at].tolist(), "as_printed": printed[at].tolist()}
    return {
        "omega": OMEGA,
        "constant": E_0,
        "t": list(levels),
        "i": list(errors),
        "errors": list(errors.values()),
        "signature": {name: sums[at].tolist() for name, sums in forms.items()},
        "fidelity": fidelity,
    }


@torch.inference_mode()
def _state(method: Denoising, images: Tensor) -> Tensor:
    """The states of images, whose sides are cropped to what the network takes."""
    multiple = method.facts.canvas[1]
    height, width = (side // multiple * multiple for side in images.shape[-2:])
    if not height or not width:
        raise UpsrError(f"photos of {images.shape[-1]}x{images.shape[-2]} are too small: the network needs {multiple}")
    return method.encode(images[..., :height, :width])


def _states(method: Denoising, images: Tensor, sweep: NoiseSweep) -> Tensor:
    """The states of many images, on the CPU."""
    return torch.cat([_state(method, part.to(sweep.device)).cpu() for part in images.split(sweep.batch_size)])


@torch.inference_mode()
def _error_at(method: Denoising, sweep: NoiseSweep, i: int, seed: int, draws: int) -> float:
    # One by one on a CPU, where products of matrices of another size are summed in another order.
    size = 1 if sweep.device.type == "cpu" else sweep.batch_size
    total = 0.0
    for start in range(0, draws, size):
        drawn = range(start, min(start + size, draws))
        photos: list[HRPhoto] = [sweep.photos[j % len(sweep.photos)] for j in drawn]
        x = _state(method, torch.stack([photo.image for photo in photos]).to(sweep.device))
        noise = torch.stack(
            [torch.randn(x.shape[1:], generator=torch_generator(seed, "prediction error", i, j)) for j in drawn]
        ).to(x)
        t = torch.full((len(x),), i, device=x.device)
        x_t = method.process.q_sample(x, t, noise)
        predicted = method.process.epsilon(method.estimate(x_t, t), x_t, t)
        total += float(in_float64(noise - predicted).square().flatten(1).mean(1).sum())
    return total / draws
