"""A method that restores photos of Gaussian fields by their best denoiser; it needs no weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.gaussian_field import filtered, process_of, spectrum
from upsr.config.schema import CommonOptions
from upsr.diffusion import sample, timesteps_from
from upsr.diffusion.sampling import repeated
from upsr.methods.base import Facts, Knob, Method

COMMANDS = {"calibrate": ("upsr.commands.calibrate", "noise levels for each scale")}


class FieldMethod(Method):
    """Diffusion from a noised bicubic image."""

    def __init__(self, scale=4.0, noise_level=0.4, steps=10):
        super().__init__()
        self.scale, self.noise_level, self.steps = scale, noise_level, steps
        self.process = process_of("scaled_linear")
        self.facts = Facts(scale, 3, state=(3, 1))
        self.register_buffer("power", spectrum())

    @classmethod
    def from_options(cls, opt: CommonOptions, *, training=False):
        return cls(opt.scale)

    def knobs(self):
        return {
            "scale": Knob("upscaling factor", 1, 8, self.scale),
            "noise_level": Knob("share t / T", 0, 0.95, self.noise_level),
            "steps": Knob("network calls", 1, 1000, self.steps, whole=True),
        }

    def _adjusted(self, **knobs):
        own = {name: knob.default for name, knob in self.knobs().items()}
        return type(self)(**own | knobs)

    def encode(self, images):
        return 2 * images - 1

    def estimate(self, x_t, t):
        a = self.process.alpha_bar(t)[:, None, None, None]
        power = spectrum(x_t.shape[-1])
        return filtered(x_t, a.sqrt() * power / (a * power + 1 - a)).to(x_t.dtype)

    @torch.inference_mode()
    def restore(self, lq, noise, *, tiles=None, watch=None):
        size = self.facts.output_size(*lq.shape[-2:])
        x = self.encode(F.interpolate(lq, size=size, mode="bicubic").clamp(0, 1))
        t = round(self.noise_level * self.process.num_timesteps)
        if t:
            timesteps = repeated(timesteps_from(t, int(self.steps)), len(x), x.device)
            start = self.process.q_sample(x, timesteps[:, 0], noise(0))
            x = sample(start, self.estimate, self.process.step("ddim"), timesteps, noise)
        return ((x + 1) / 2).clamp(0, 1)
