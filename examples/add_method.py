"""Adds a method of one's own, a sharpening of bicubic upsampling, and restores a photo with it. More: docs/extending.md."""

# %% Sizes and places
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from skimage import data

from upsr import UPSRPipeline
from upsr.methods import Facts, Knob, Method

OUT = Path("results/examples/add_method")
CROP = 96
OUT.mkdir(parents=True, exist_ok=True)


# %% A method states its facts (scale, channels) and its knobs, and restores a batch (B, C, h, w) in [0, 1]
class Sharpened(Method):
    """Bicubic upsampling, and `amount` times what a blur takes away from it."""

    def __init__(self, scale=4, amount=1.0):
        super().__init__()
        self.facts = Facts(scale, channels=3)
        self.amount = amount

    @classmethod
    def from_options(cls, opt, *, training=False):
        return cls(opt.scale)

    def restore(self, lq, noise, *, tiles=None, watch=None):
        size = self.facts.output_size(*lq.shape[-2:])
        upsampled = F.interpolate(lq, size=size, mode="bicubic", align_corners=False)
        blurred = F.avg_pool2d(upsampled, 5, stride=1, padding=2, count_include_pad=False)
        return (upsampled + self.amount * (upsampled - blurred)).clamp(0, 1)

    def knobs(self):
        return {"amount": Knob("of the sharpening", 0, 3, self.amount)}

    def _adjusted(self, amount):
        return type(self)(self.facts.scale, amount)


# %% The pipeline reads and writes photos, checks knobs and keeps sizes, whatever the method is
pipe = UPSRPipeline(Sharpened(), config={})
photo = Image.fromarray(data.coffee()[150 : 150 + CROP, 200 : 200 + CROP])
for amount in (0, 1, 2):
    result = pipe(photo, amount=amount).images[0]
    result.save(OUT / f"sharpened_{amount}.png")
    print(f"amount {amount}: {result.size}")
result  # a notebook shows the last expression of a cell

# %% In a module my_method.py, it is a method of every command, in any option file that says `method: my_method`:
#
#     upsr upscale photo.jpg -o large/ --weights my_options.yml --knob amount=2
#     upsr evaluate --methods bicubic my_options.yml --datasets Set14
