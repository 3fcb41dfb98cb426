"""Measures images that another program has made, beside bicubic upsampling, under one protocol."""

# %% Sizes and places
import os
from pathlib import Path

import yaml
from PIL import Image
from skimage import data

from upsr.cli import main as upsr

OUT = Path("results/examples/evaluate_elsewhere")
SIDE = 128  # of the HR photos, in pixels
(OUT / "datasets/Mine/HR").mkdir(parents=True, exist_ok=True)
(OUT / "Theirs").mkdir(exist_ok=True)
os.chdir(OUT)  # descriptions of datasets are found in datasets/ of the current folder

# %% A benchmark: HR photos, which are reduced by 4, and a description. PairedFolderDataset takes LR photos as well.
for name in ("astronaut", "chelsea", "coffee"):
    Image.fromarray(getattr(data, name)()[100 : 100 + SIDE, 100 : 100 + SIDE]).save(f"datasets/Mine/HR/{name}.png")
description = {
    "about": "three photos of scikit-image",
    "get": ["scikit-image"],
    "licence": "of each photo: see scikit-image",
    "files": {"type": "BicubicFolderDataset", "dataroot_gt": "HR"},
    "expected": {"images": 3},
}
Path("datasets/Mine.yml").write_text(yaml.safe_dump(description, sort_keys=False))

# %% Images made elsewhere: a folder with a file of the same name for each photo. Here Pillow makes them, with Lanczos.
for file in Path("datasets/Mine/HR").iterdir():
    small = Image.open(file).resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC)
    small.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(Path("Theirs") / file.name)

# %% Restore and measure. A method is a name, an option file, a run, a checkpoint, or a folder of finished images.
upsr(["evaluate", "--methods", "bicubic", "Theirs", "--datasets", "Mine", "--protocols", "strict",
      "--metrics", "psnr", "ssim", "--out", "measured", "--no-report"])  # fmt: skip

# %% Is the difference larger than chance? Three photos are too few to say.
upsr(["compare", "measured", "bicubic", "Theirs"])

# %% A page with tables, photos under a slider, and crops where the methods differ most
upsr(["report", "measured"])
