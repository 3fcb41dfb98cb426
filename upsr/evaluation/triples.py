"""Triples for the second stage of a latent diffusion: ground truths, their degraded images, and latents sampled under these.

A triple is a function of the seed and its number, and a shard of its triples alone: processes may make them in any order.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upsr.atomic import atomic_write
from upsr.config.schema_data import DegradationOptions
from upsr.data.datasets import ImageFolder
from upsr.data.degradation import RealESRGANDegradation
from upsr.data.image_io import png_bytes, to_tensor, to_uint8
from upsr.data.kernels import draw_kernels
from upsr.data.sampler import GlobalBatchSampler
from upsr.data.shards import add_file
from upsr.data.triples import GT, LATENT, LQ
from upsr.diffusion import sample
from upsr.diffusion.sampling import repeated
from upsr.errors import UpsrError
from upsr.methods.latent_canvas import upsampled
from upsr.rng import numpy_generator, stacked, torch_generator

_LATENT_DRAW, _START_DRAW = 0, 1


class TripleMaker:
    """Makes triples by their numbers.

    Args:
        method: has ``upsample``, ``encode``, ``contexts``, ``denoise_given``, ``process``, ``timesteps`` and ``sampling`` as
            StableSR has them, on its device; it begins with the noised LR latent, and has one tile.
        degradation: of the crops.
        photos: HR images; crops are drawn from them in the order of a training.
        size: side of the crops; by default the one that the U-Net was trained on.
        seed: of all draws.

    Raises:
        UpsrError: the scale is a fraction, or the method would restore another size than ``size``.
    """

    def __init__(
        self,
        method: Any,
        degradation: DegradationOptions,
        photos: ImageFolder,
        *,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.method, self.photos, self.seed = method, photos, seed
        facts = method.facts
        scale = facts.whole_scale("degrading crops")
        self.size = facts.canvas[0] if size is None else size
        side = self.size // scale
        if self.size % scale or facts.canvas_size(side, side) != (self.size, self.size):
            raise UpsrError(
                f"size: {self.size}; give at least {facts.canvas[0]}, which the U-Net was trained on, and a multiple of "
                f"{facts.canvas[1]} and of the scale, {scale}"
            )
        self.noise_shape = facts.noise_shape(side, side)
        self.options, self.degradation = degradation, RealESRGANDegradation(degradation, scale)
        self.device = next(method.parameters()).device
        self._contexts = method.contexts(method.sampling)

    def write_shard(self, path: Path, start: int, stop: int, batch: int = 1) -> None:
        """Write the triples from ``start`` on, ``stop`` excluded, whole or not at all.

        Args:
            batch: triples that are sampled at once.
        """
        with atomic_write(path) as temporary, tarfile.open(temporary, "w") as tar:
            pairs = zip(range(start, stop), self._pairs(start, stop), strict=True)
            while some := list(islice(pairs, batch)):
                numbers = [number for number, _ in some]
                latents = self.sampled(torch.stack([lq for _, (_, lq) in some]), numbers)
                for (number, (gt, lq)), z_0 in zip(some, latents, strict=True):
                    add_file(tar, f"{number:08d}{GT}", png_bytes(gt))
                    add_file(tar, f"{number:08d}{LQ}", _halves(lq))
                    add_file(tar, f"{number:08d}{LATENT}", _halves(z_0))

    @torch.inference_mode()
    def sampled(self, lq: Tensor, numbers: Sequence[int]) -> Tensor:
        """(B, C, h', w'): scaled latents under LR images (B, 3, h, w) in [0, 1], each with the noise of its number."""
        method, own = self.method, self.method.sampling

        def noise(k: int) -> Tensor:
            keys = (self.seed, "triple")
            return stacked(
                "randn",
                self.noise_shape,
                [torch_generator(*keys, number, "noise", k, device=self.device) for number in numbers],
            )

        x_lr = upsampled(lq, (self.size, self.size))
        z_lr = method.encode(x_lr, noise(_LATENT_DRAW) if own.latent == "sample" else None)
        t = repeated(method.timesteps, len(lq), self.device)
        x = method.process.q_sample(z_lr, t[:, 0], noise(_START_DRAW))
        step = method.process.step(own.sampler, own.eta)
        return sample(x, method.denoise_given(z_lr, self._contexts), step, t, lambda k: noise(_START_DRAW + k))

    def _pairs(self, start: int, stop: int) -> Iterator[tuple[NDArray[np.uint8], Tensor]]:
        """Ground truth (H, W, 3) in 8 bit, and LR image (3, h, w) in [0, 1] on the device."""
        stream = GlobalBatchSampler(len(self.photos.keys), seed=self.seed, batch_size=1, start=start, stop=stop)
        for number, (place,) in zip(range(start, stop), stream, strict=True):
            keys = (self.seed, "triple", number)
            rng = numpy_generator(*keys)
            crop = self.photos.crop(
                self.photos.keys[place.image],
                self.size,
                lambda *sides, rng=rng: tuple(int(rng.integers(side - self.size + 1)) for side in sides),
            )
            gt = self.degradation.ground_truth(to_tensor(crop)[None].to(self.device))
            lq = self.degradation(gt, draw_kernels(self.options, *keys)[None], slots=[0], keys=keys)
            yield to_uint8(gt[0]), lq[0]


def _halves(values: Tensor) -> bytes:
    """The content of an .npy file of float16."""
    buffer = io.BytesIO()
    np.save(buffer, values.half().cpu().numpy())
    return buffer.getvalue()
