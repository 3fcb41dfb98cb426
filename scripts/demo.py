"""The whole of UPSR in a few minutes on a CPU: both training stages, evaluation, pictures.

Uses the photos inside scikit-image, so nothing is downloaded. The networks are tiny and trained for a minute or two:
the demo shows that everything works together, not what UPSR can do.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from upsr.config import Options
from upsr.data import RealESRGANDegradation
from upsr.data.image_io import decode_image, to_tensor, to_uint8, write_png
from upsr.data.kernels import draw_kernels
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import Evaluation, build_metrics, build_validation_set, evaluate
from upsr.engine.setup import checked_options
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.inference import ModelRestorer, restore
from upsr.models import RestorationModel, UPSRModel, build_model
from upsr.models.bicubic import Bicubic

TRAINING_PHOTOS = ("astronaut.png", "rocket.jpg", "ihc.png", "hubble_deep_field.jpg")
HELD_OUT_PHOTOS = {"cat": ("chelsea.png", (60, 20)), "coffee": ("coffee.png", (90, 200))}
CROP = 256
SEED = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/demo"), help="folder for the photos")
    parser.add_argument("--quick", action="store_true", help="a few iterations only, to see that it runs")
    arguments = parser.parse_args()
    try:
        demo(arguments.data, quick=arguments.quick)
    except UpsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def demo(data: Path, *, quick: bool) -> None:
    """Run all steps; the pictures go to experiments/demo_stage2_tiny/pictures."""
    run = Runtime(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    shorter = ["train.total_iter=4"] if quick else []
    here = [f"datasets.train.dataroot_gt={data / 'train'}", *shorter]

    say("1. Photos: from scikit-image, two of them held out and degraded with a fixed seed")
    copy_training_photos(data / "train")
    stage1 = checked_options("options/demo/stage1_tiny.yml", here, "train")
    degrade_held_out_photos(data, stage1)

    say("2. Stage one: train g, the auxiliary network (no perceptual loss: its weights would have to be downloaded)")
    g_folder = train(stage1, run)

    say("3. Stage two: train the diffusion model, with g frozen")
    stage2 = checked_options("options/demo/stage2_tiny.yml", here, "train")
    folder = train(stage2, run)

    say("4. Super-resolve the held-out photos and measure")
    test_set = ["datasets.val_1.type=PairedFolderDataset"]
    test_set += [f"datasets.val_1.dataroot_{kind}={data / 'test' / kind}" for kind in ("gt", "lq")]
    models = {
        "bicubic": Bicubic(stage1.scale),
        "g (stage one)": tested("options/demo/stage1_tiny.yml", g_folder, test_set),
        "UPSR (5 steps)": tested("options/demo/stage2_tiny.yml", folder, test_set),
    }
    opt = checked_options("options/demo/stage2_tiny.yml", test_set, "test")
    held_out = build_validation_set("val_1", opt.datasets["val_1"], None)
    metrics, _ = build_metrics(opt, run.device)
    pictures = folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    rows = []
    for name, model in models.items():
        model.to(run.device).eval()
        rows.append((name, evaluate(ModelRestorer(model, SEED), held_out, metrics, run)))
    print_table(rows)
    for item in held_out.dataset:
        write_png(pictures / f"{item['key']}.png", comparison(item, models, run.device))
    print("\nPictures (LR, bicubic, g, UPSR, ground truth, noise weight: dark is little noise):")
    for path in sorted(pictures.glob("*.png")):
        print(f"  {path}")


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def photo(name: str) -> np.ndarray:
    """A photo of scikit-image as (H, W, 3) uint8."""
    return decode_image((files("skimage") / "data" / name).read_bytes(), 3, name)


def copy_training_photos(folder: Path) -> None:
    for name in TRAINING_PHOTOS:
        write_png(folder / f"{Path(name).stem}.png", photo(name))


def degrade_held_out_photos(data: Path, opt: Options) -> None:
    """Write 256 x 256 crops and their 64 x 64 degraded versions."""
    degradation = RealESRGANDegradation(opt.degradation, opt.scale)
    for slot, (name, (file, (top, left))) in enumerate(HELD_OUT_PHOTOS.items()):
        crop = photo(file)[top : top + CROP, left : left + CROP]
        kernels = draw_kernels(opt.degradation, SEED, "demo", name)
        lq = degradation(to_tensor(crop)[None], kernels[None], slots=[slot], keys=[SEED, "demo"])
        write_png(data / "test" / "gt" / f"{name}.png", crop)
        write_png(data / "test" / "lq" / f"{name}.png", to_uint8(lq[0]))


def tested(option_file: str, folder: Path, overrides: list[str]) -> RestorationModel:
    """A trained model from its run's folder."""
    weights = f"path.pretrain_network_g={folder / 'models' / 'net_g_latest.safetensors'}"
    return build_model(checked_options(option_file, [weights, *overrides], "test"), "test")


def print_table(rows: Iterable[tuple[str, Evaluation]]) -> None:
    print(f"\n{'method':<16}{'PSNR-Y':>8}{'SSIM-Y':>9}")
    for name, result in rows:
        print(f"{name:<16}{result.means['psnr']:8.2f}{result.means['ssim']:9.4f}")


def comparison(item: dict, models: dict[str, RestorationModel], device: torch.device) -> np.ndarray:
    """One row of labelled pictures."""
    lq = item["lq"][None].to(device)
    panels = {"LR": lq[0].repeat_interleave(4, -1).repeat_interleave(4, -2)}
    for name, model in models.items():
        panels[name] = restore(model, lq, seed=SEED, names=[item["key"]])[0]
    panels["ground truth"] = item["gt"]
    diffusion = models["UPSR (5 steps)"]
    assert isinstance(diffusion, UPSRModel)
    panels["noise weight"] = diffusion.condition(lq).weight[0]
    row = Image.new("RGB", ((CROP + 4) * len(panels), CROP + 16), "white")
    for i, (name, panel) in enumerate(panels.items()):
        ImageDraw.Draw(row).text((i * (CROP + 4) + 4, 2), name, fill="black")
        row.paste(Image.fromarray(to_uint8(panel)), (i * (CROP + 4), 16))
    return np.asarray(row)


if __name__ == "__main__":
    sys.exit(main())
