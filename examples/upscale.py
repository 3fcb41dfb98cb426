"""Upscales a photo from Python: settings, knobs and the map of uncertainty."""

# %% Sizes and places
from pathlib import Path

from PIL import Image
from skimage import data

from upsr import UPSRPipeline

OUT = Path("results/examples/upscale")
CROP = 96  # side of the part of the photo that is upscaled, in pixels
OUT.mkdir(parents=True, exist_ok=True)

# %% A photo: an array, a PIL image, a tensor or a path
photo = Image.fromarray(data.chelsea()).crop((90, 60, 90 + CROP, 60 + CROP))
photo.save(OUT / "photo.png")

# %% A model: the weights that ship with the package, on the CPU or a GPU, whichever is there
pipe = UPSRPipeline.from_pretrained("tiny")
print(pipe)
for name, knob in pipe.knobs().items():
    print(f"{name}: {knob.about} (default {knob.default})")

# %% The seed decides on the noise: the same one gives the same image
large = pipe(photo, seed=1).images[0]
large.save(OUT / "large.png")
print(f"{photo.size} became {large.size}")
large  # a notebook shows the last expression of a cell

# %% Knobs are keywords. Fewer steps are faster, 0 is the first estimate g(y) alone; more fidelity is less invented detail.
pipe(photo, seed=1, steps=1).images[0].save(OUT / "large_1_step.png")
pipe(photo, seed=1, fidelity=0.8).images[0].save(OUT / "large_faithful.png")

# %% Another size, and tiles for photos larger than the memory
pipe(photo, seed=1, outscale=2, tile=64).images[0].save(OUT / "large_x2.png")

# %% The map of uncertainty: white places get all of the noise, and there the result is the model's idea
result = pipe(photo, seed=1, return_intermediates=True)
result.uncertainty[0].save(OUT / "uncertainty.png")
for name, picture in result.intermediates[0].items():
    print(f"on the way: {name}, {picture.size}")
result.uncertainty[0]
