"""The whole of UPSR in a few minutes on a CPU: real photos upscaled, then both training stages, evaluation, pictures.

Uses the photos inside scikit-image, so nothing is downloaded. First UPSR-tiny and UPSR-tiny 1, whose weights come with the
package, upscale degraded photos that they have not seen. Then even smaller networks are trained for a minute or two, which only
shows that training runs; the first results stand at the end once more.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from upsr.arguments import ArgumentParser
from upsr.config import CommonOptions
from upsr.data import PairedFolderDataset, RealESRGANDegradation
from upsr.data.image_io import decode_image, to_tensor, to_uint8, write_png
from upsr.data.kernels import draw_kernels
from upsr.devices import best_device
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import Evaluation, ValidationSet, evaluate
from upsr.engine.setup import checked_model_options, checked_options
from upsr.engine.train_loop import train
from upsr.errors import exiting
from upsr.methods import Method, Seen, build_method
from upsr.methods.bicubic.method import Bicubic
from upsr.methods.sr.method import SR
from upsr.metrics import LPIPS, PSNR, SSIM, Metric, MetricUnavailableError
from upsr.metrics.iqa import NIQE
from upsr.restoring import ModelRestorer, restore

TRAINING_PHOTOS = ("astronaut.png", "rocket.jpg", "ihc.png", "hubble_deep_field.jpg")
HELD_OUT_PHOTOS = {"cat": ("chelsea.png", (40, 110)), "coffee": ("coffee.png", (90, 200))}
UNSEEN_PHOTOS = {
    **HELD_OUT_PHOTOS,
    "astronaut": ("astronaut.png", (0, 90)),
    "rocket": ("rocket.jpg", (150, 170)),
    "motorcycle": ("motorcycle_left.png", (200, 200)),
}
"""Name: file and top left corner of the crop. UPSR-tiny was trained on none of them."""
BACKBONE = Path("experiments/pretrained_models/squeezenet1_1-b8a52dc0.pth")
PICTURES = Path("experiments/demo_upsr_tiny/pictures")
CROP = 256
SEED = 0


@exiting
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("datasets/demo"), help="folder for the photos")
    parser.add_argument(
        "--backbone", type=Path, default=BACKBONE, metavar="FILE",
        help=f"SqueezeNet's weights, for LPIPS: upsr weights fetch LPIPS-SqueezeNet ({BACKBONE}, if it is there)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a few iterations only, to see that it runs")
    arguments = parser.parse_args()
    demo(arguments.data, quick=arguments.quick, backbone=arguments.backbone)


def demo(data: Path, *, quick: bool, backbone: Path = BACKBONE) -> None:
    """Run all steps; pictures go to experiments/demo_upsr_tiny/ and experiments/demo_stage2_tiny/."""
    run = Runtime(best_device())
    shorter = ["train.total_iter=4"] if quick else []
    here = [f"datasets.train.dataroot_gt={data / 'train'}", *shorter]

    say("1. UPSR-tiny and UPSR-tiny 1, which come with the package, upscale degraded photos that they have not seen")
    metrics = measures(backbone)
    table = upscale(data / "unseen", run, metrics)

    say("2. Photos to train on: from scikit-image, two of them held out and degraded with a fixed seed")
    copy_training_photos(data / "train")
    stage1 = checked_options("options/demo/stage1_tiny.yml", here, "train")
    degrade_photos(HELD_OUT_PHOTOS, data / "test", stage1)

    say("3. Stage one: train g, the auxiliary network (no perceptual loss: its weights would have to be downloaded)")
    g_folder = train(stage1, run)

    say("4. Stage two: train the diffusion model, with g frozen")
    stage2 = checked_options("options/demo/stage2_tiny.yml", here, "train")
    folder = train(stage2, run)

    say(
        "5. The held-out photos with what was just trained. This only shows that training runs: two minutes teach nothing,"
    )
    print("   so bicubic is better here, and the pictures are not worth a look")
    models = {
        "bicubic": Bicubic(stage1.scale),
        "g (stage one)": tested("options/demo/stage1_tiny.yml", g_folder),
        "UPSR (5 steps)": tested("options/demo/stage2_tiny.yml", folder),
    }
    compare(models, data / "test", folder / "pictures", run, metrics)

    say(
        "What UPSR-tiny of part 1 does (PSNR and SSIM: more is closer to the original; LPIPS: less is closer to it for the eye;"
    )
    print("   NIQE: less looks more natural)")
    print(table)
    print(f"\nLook at its pictures in {PICTURES}/, or try it on a photo of yours: upsr upscale photo.jpg -o large/")


def upscale(data: Path, run: Runtime, metrics: dict[str, Metric]) -> str:
    """The shipped weights on degraded photos; the table."""
    opt = checked_model_options("options/tiny/test.yml")
    degrade_photos(UNSEEN_PHOTOS, data, opt)
    return compare(shipped_models(opt), data, PICTURES, run, metrics)


def shipped_models(opt: CommonOptions) -> dict[str, Method]:
    """UPSR-tiny and what it is measured against, UPSR-tiny 1 last: it is wholly another model."""
    upsr = build_method(opt)
    one_step = build_method(checked_model_options("options/tiny2/test.yml"))
    return {
        "bicubic": Bicubic(opt.scale),
        "g alone": SR(upsr.parts()["g"]),
        "UPSR-tiny (5 steps)": upsr,
        "UPSR-tiny 1 (1 step)": one_step,
    }


def compare(models: dict[str, Method], data: Path, pictures: Path, run: Runtime, metrics: dict[str, Metric]) -> str:
    """Print a table and write pictures of models on the pairs in ``data``; the table."""
    held_out = ValidationSet("photos", PairedFolderDataset(str(data / "gt"), str(data / "lq")), 1, 0)
    shutil.rmtree(pictures, ignore_errors=True)
    rows = []
    for name, model in models.items():
        model.to(run.device).eval()
        rows.append((name, evaluate(ModelRestorer(model, SEED), held_out, metrics, run), seconds(model, run.device)))
    table = as_table(rows, metrics)
    print(table)
    for item in held_out.dataset:
        write_png(pictures / f"{item['key']}.png", comparison(item, models, run.device))
    print("\nPictures (LR, the methods, ground truth, uncertainty, noise weight: dark is little noise):")
    for path in sorted(pictures.glob("*.png")):
        print(f"  {path}")
    return table


def measures(backbone: Path = BACKBONE) -> dict[str, Metric]:
    """Metrics of the tables; LPIPS only where its backbone is, NIQE only where pyiqa is installed. Nothing is downloaded."""
    metrics: dict[str, Metric] = {"PSNR-Y": PSNR(), "SSIM-Y": SSIM()}
    if backbone.is_file():
        metrics["LPIPS"] = LPIPS("squeeze", str(backbone))
    else:
        print(f"LPIPS is not measured: {backbone} is not here; upsr weights fetch LPIPS-SqueezeNet")
    try:
        metrics["NIQE"] = NIQE()
    except MetricUnavailableError as error:
        print(f"NIQE is not measured: {error}")
    return metrics


def seconds(model: Method, device: torch.device) -> float:
    """For one photo of 256 x 256 from 64 x 64, once warm."""
    lq = torch.rand(1, model.facts.channels, CROP // model.facts.scale, CROP // model.facts.scale, device=device)
    for _ in range(2):
        start = time.perf_counter()
        restore(model, lq, seed=SEED, names=["photo"]).cpu()
    return time.perf_counter() - start


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def photo(name: str) -> np.ndarray:
    """A photo of scikit-image as (H, W, 3) uint8."""
    return decode_image((files("skimage") / "data" / name).read_bytes(), 3, name)


def copy_training_photos(folder: Path) -> None:
    for name in TRAINING_PHOTOS:
        write_png(folder / f"{Path(name).stem}.png", photo(name))


def degrade_photos(photos: dict[str, tuple[str, tuple[int, int]]], data: Path, opt: CommonOptions) -> None:
    """Write 256 x 256 crops and their 64 x 64 degraded versions."""
    degradation = RealESRGANDegradation(opt.degradation, opt.scale)
    for slot, (name, (file, (top, left))) in enumerate(photos.items()):
        crop = photo(file)[top : top + CROP, left : left + CROP]
        kernels = draw_kernels(opt.degradation, SEED, "demo", name)
        lq = degradation(to_tensor(crop)[None], kernels[None], slots=[slot], keys=[SEED, "demo"])
        write_png(data / "gt" / f"{name}.png", crop)
        write_png(data / "lq" / f"{name}.png", to_uint8(lq[0]))


def tested(option_file: str, folder: Path) -> Method:
    """A trained model from its run's folder."""
    weights = f"path.pretrain_network_g={folder / 'models' / 'net_g_latest.safetensors'}"
    return build_method(checked_model_options(option_file, [weights]))


def as_table(rows: Iterable[tuple[str, Evaluation, float]], metrics: Iterable[str]) -> str:
    lines = [f"\n{'method':<20}" + "".join(f"{name:>9}" for name in metrics) + f"{'s / photo':>11}"]
    for name, result, duration in rows:
        lines.append(
            f"{name:<20}" + "".join(f"{result.means[metric]:9.3f}" for metric in metrics) + f"{duration:11.2f}"
        )
    return "\n".join(lines)


def comparison(item: dict, models: dict[str, Method], device: torch.device) -> np.ndarray:
    """One row of labelled pictures."""
    lq = item["lq"][None].to(device)
    panels = {"LR": lq[0].repeat_interleave(4, -1).repeat_interleave(4, -2)}
    maps: dict[str, torch.Tensor] = {}

    def keep(seen: Seen) -> None:
        if seen.kind == "map":
            maps[seen.name] = seen.image[0]

    for name, model in models.items():
        panels[name] = restore(model, lq, seed=SEED, names=[item["key"]], watch=keep)[0]
    panels["ground truth"] = item["gt"]
    panels |= maps
    row = Image.new("RGB", ((CROP + 4) * len(panels), CROP + 16), "white")
    for i, (name, panel) in enumerate(panels.items()):
        ImageDraw.Draw(row).text((i * (CROP + 4) + 4, 2), name, fill="black")
        row.paste(Image.fromarray(to_uint8(panel)), (i * (CROP + 4), 16))
    return np.asarray(row)


if __name__ == "__main__":
    sys.exit(main())
