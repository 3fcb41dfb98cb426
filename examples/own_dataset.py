"""From a folder of photos to a trained model: degradation, option file, training, test, upscaling.

It goes on from the weights of UPSR-tiny, so that a minute on a CPU is enough to see that everything works. That is not enough for
better results: docs/your_own_data.md has the full path.
"""

# %% Sizes and places
from pathlib import Path

import yaml
from PIL import Image
from skimage import data

from upsr.cli import main as upsr  # upsr(["upscale", ...]) is the command `upsr upscale ...`
from upsr.homes import option_file

OUT = Path("results/examples/own_dataset")
ITERATIONS = 60
BATCH = 4
PHOTOS, VALIDATION = OUT / "photos", OUT / "validation"

# %% Photos: yours in place of these. Those of the validation are kept apart.
for folder, photos in ((PHOTOS, ("astronaut", "coffee", "rocket")), (VALIDATION, ("chelsea",))):
    folder.mkdir(parents=True, exist_ok=True)
    for name in photos:
        Image.fromarray(getattr(data, name)()[100:300, 100:300]).save(folder / f"{name}.png")

# %% The options: UPSR-tiny's second stage, with what is different. Every key is explained in docs/options.md.
options = {
    "base": option_file("options/tiny/stage2.yml"),
    "name": "mine",
    "datasets": {
        "train": {"dataroot_gt": str(PHOTOS), "batch_size_per_gpu": BATCH, "num_worker_per_gpu": 0},
        "val": {"type": "BicubicFolderDataset", "dataroot_gt": str(VALIDATION)},
    },
    "path": {"pretrain_network_g": "tiny", "pretrain_network_aux": "tiny", "experiments_root": str(OUT)},
    "train": {
        "total_iter": ITERATIONS, "warmup_iter": 1, "optim_g": {"lr": 5e-5},
        "perceptual_opt": {"type": "WaveletLoss", "loss_weight": 0.2, "energy": 0.25},  # LPIPS would be downloaded
    },
    "val": {"metrics": {"psnr": {"type": "PSNR"}, "ssim": {"type": "SSIM"}}},
}  # fmt: skip
(OUT / "mine.yml").write_text(yaml.safe_dump(options, sort_keys=False))

# %% The degradation: each row is a photo and versions of it, as the training sees them
upsr(["data", "preview", "--opt", str(OUT / "mine.yml"), "--input", str(PHOTOS), "--output", str(OUT / "preview.png")])
Image.open(OUT / "preview.png")  # a notebook shows the last expression of a cell

# %% Train: an interrupted training goes on with "--auto-resume"
upsr(["train", "--opt", str(OUT / "mine.yml")])

# %% Test: the validation photos are restored and measured with the trained weights
weights = OUT / "mine/models/net_g_latest.safetensors"
changes = [f"path.pretrain_network_g={weights}", f"path.results_root={OUT}/test", "datasets.train=null"]
upsr(["test", "--opt", str(OUT / "mine.yml"), "--force-yml", *changes])

# %% Use it: the folder of the run is a model
Image.open(VALIDATION / "chelsea.png").resize((48, 48), Image.Resampling.BICUBIC).save(OUT / "small.png")
upsr(["upscale", str(OUT / "small.png"), "-o", str(OUT / "large.png"), "--weights", str(OUT / "mine"), "--overwrite"])
