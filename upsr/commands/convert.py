"""Put a model of any method into a folder of this package: config.json, and a safetensors file for each network."""

from __future__ import annotations

import argparse

from upsr.arguments import add_model, model_of, path
from upsr.errors import UpsrError

EXAMPLES = """examples:
  upsr convert upsr.pth --part g=atd_real.pth -o upsr/                          the released UPSR
  upsr convert SinSR_v1.pth --part autoencoder=autoencoder_vq_f4.pth -o sinsr/  ResShift and SinSR, by their files' names
  upsr convert ResShift-v3 -o resshift/                                         fetched, by its name in upsr weights list
  upsr convert RealESRGAN_x4plus.pth --dtype float16 -o realesrgan/             what spandrel knows, half as large
  upsr convert ldm-sr/ --method ldm -o ldm/                                     a folder of diffusers
  upsr convert experiments/mine -o mine/                                        a run, or one file of its models/
  upsr convert net_g_5000.pth --opt mine.yml -o mine/                           weights that lost their run
  upsr convert tiny --layout diffusers -o tiny-diffusers/                       for DiffusionPipeline.from_pretrained
  upsr convert stablesr --help                                                  StableSR's checkpoints, in a way of their own
  upsr upscale photo.jpg -o large/ --weights upsr/

Only tensors and plain values are read from a file, and each network is filled without rest. The folder appears when it is whole,
and restores what the files did to the bit, in float32. An option file that names its weights may stand for WEIGHTS."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr convert``."""
    add_model(parser, positional=True)
    parser.add_argument("-o", "--out", type=path, required=True, metavar="FOLDER", help="new folder")
    parser.add_argument(
        "--opt", type=path, metavar="FILE.yml", help="option file that describes the networks of a weight file"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], default="float32", help="of the weights (float32)"
    )
    parser.add_argument(
        "--layout", choices=["upsr", "diffusers"], default="upsr",
        help="of the folder: this package's, or one that DiffusionPipeline.from_pretrained loads (upsr)",
    )  # fmt: skip


def main(given: argparse.Namespace) -> int:
    """Run it."""
    import torch  # here: takes seconds, and --help should not
    from safetensors import SafetensorError

    from upsr.archs.diffusers_library import diffusers
    from upsr.atomic import atomic_folder
    from upsr.pipeline.files import load_model, save_model

    method, config = load_model(**model_of(given), options=given.opt)
    method = method.to(getattr(torch, given.dtype))
    for part, network in method.parts().items():
        if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            raise UpsrError(f"{given.weights}: {part} holds values that are not finite in {given.dtype}")
    if given.layout == "diffusers":
        diffusers()  # the reason, if it is not here
        from upsr.pipeline.for_diffusers import write_for_diffusers as write
    else:
        write = save_model
    with atomic_folder(given.out, SafetensorError) as folder:
        write(method, config, folder)
    counts = {part: sum(p.numel() for p in network.parameters()) for part, network in method.parts().items()}
    found = ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in counts.items())
    print(f"written to {given.out}" + (f": {found} parameters" if found else ""))
    return 0
