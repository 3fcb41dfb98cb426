"""Write the networks of a model as files for other runtimes, compared with torch."""

from __future__ import annotations

import argparse

from upsr.arguments import add_model, model_of, path
from upsr.choices import EXPORT_FORMATS

EXAMPLES = """examples:
  upsr export tiny -o exported/tiny                              ONNX, for images of any size
  upsr export tiny -o exported/tiny --format onnx torch          torch.export's .pt2 beside it
  upsr export upsr.pth --part g=atd_real.pth -o x --size 128 128      for LR images of 128 x 128 alone
  upsr export tiny -o exported/compiled --format aoti            compiled for this machine's CPU (needs a C++ compiler)

export.json holds each network's inputs, in the order of its arguments, and their shapes; the numbers of the restoration around
the networks; versions, digests and the measured differences. docs/export.md restores a photo with nothing but these files,
NumPy and onnxruntime.
ONNX needs more packages: pip install 'upsr[export]'. Networks of the released size take some minutes and 3 GB."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr export``."""
    add_model(parser, positional=True)
    parser.add_argument("-o", "--output", type=path, required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument(
        "--format", nargs="+", choices=EXPORT_FORMATS, default=["onnx"], help="onnx, torch (.pt2) or aoti (onnx)"
    )
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="LR height and width; without it any size, in multiples"
    )
    parser.add_argument("--no-check", action="store_true", help="do not run the files and compare them with torch")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    from upsr.export.export import export_model, require  # here: takes seconds, and --help should not
    from upsr.pipeline.pipeline import UPSRPipeline

    formats = list(dict.fromkeys(given.format))
    require(formats, not given.no_check)
    method = UPSRPipeline.from_pretrained(**model_of(given), device="cpu").method
    size = None if given.size is None else (given.size[0], given.size[1])
    written = export_model(
        method, given.output, formats=formats, size=size, check=not given.no_check, source=given.weights
    )
    for file in written:
        place = given.output / file.name
        if file.worst is None:
            print(f"{place}: not compared with torch")
        else:
            print(f"{place}: largest difference from torch {file.worst:.1e} at {len(file.differences)} sizes")
    return 0
