"""Write the networks of a model as files for other runtimes, compared with torch."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from upsr.arguments import add_model, model_of, path
from upsr.choices import EXPORT_FORMATS
from upsr.errors import UpsrError

if TYPE_CHECKING:
    from upsr.export.export import ExportedFile

EXAMPLES = """examples:
  upsr export tiny -o exported/tiny                              ONNX, for images of any size
  upsr export tiny -o exported/tiny --format onnx torch          torch.export's .pt2 beside it
  upsr export upsr.pth --part g=atd_real.pth -o x --size 128 128      for LR images of 128 x 128 alone
  upsr export tiny -o exported/compiled --format aoti            compiled for this machine's CPU (needs a C++ compiler)
  upsr export tiny -o page --web                                 a page that upscales in the visitor's browser

export.json holds each network's inputs, in the order of its arguments, and their shapes; the numbers of the restoration around
the networks; versions, digests and the measured differences. docs/export.md restores a photo with nothing but these files,
NumPy and onnxruntime.
ONNX needs more packages: pip install 'upsr[export]'. Networks of the released size take some minutes and 3 GB."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr export``."""
    add_model(parser, positional=True)
    parser.add_argument("-o", "--output", type=path, required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument("--format", nargs="+", choices=EXPORT_FORMATS, help="onnx, torch (.pt2) or aoti (onnx)")
    parser.add_argument(
        "--web", action="store_true", help="a folder for a file server: a page that upscales in the visitor's browser"
    )
    parser.add_argument(
        "--web-runtime", type=path, metavar="PATH",
        help="npm package onnxruntime-web for --web, a .tgz file or its folder (fetched from the npm registry)",
    )  # fmt: skip
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="LR height and width; without it any size, in multiples"
    )
    parser.add_argument("--no-check", action="store_true", help="do not run the files and compare them with torch")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    return _web(given) if given.web else _files(given)


def _files(given: argparse.Namespace) -> int:
    from upsr.export.export import export_model, require  # here: takes seconds, and --help should not
    from upsr.pipeline.pipeline import UPSRPipeline

    if given.web_runtime is not None:
        raise UpsrError("--web-runtime: goes with --web")
    formats = list(dict.fromkeys(given.format or ["onnx"]))
    require(formats, not given.no_check)
    method = UPSRPipeline.from_pretrained(**model_of(given), device="cpu").method
    size = None if given.size is None else (given.size[0], given.size[1])
    written = export_model(
        method, given.output, formats=formats, size=size, check=not given.no_check, source=given.weights
    )
    _report(written, given.output)
    return 0


def _web(given: argparse.Namespace) -> int:
    from upsr.export.formats import require_onnx
    from upsr.export.web.folder import export_web
    from upsr.pipeline.pipeline import UPSRPipeline

    for option in ("format", "size"):
        if getattr(given, option) is not None:
            raise UpsrError(f"--{option}: has no effect with --web, whose networks are ONNX files for all sizes")
    require_onnx(True, "--web")
    method = UPSRPipeline.from_pretrained(**model_of(given), device="cpu").method
    made = export_web(method, given.output, runtime=given.web_runtime, check=not given.no_check, source=given.weights)
    _report(made.networks, given.output)
    print(
        f"{given.output}: {made.size / 1e6:.1f} MB; to see it: python -m http.server -d {shlex.quote(str(given.output))}"
    )
    return 0


def _report(written: Iterable[ExportedFile], folder: Path) -> None:
    for file in written:
        place = folder / file.name
        if file.worst is None:
            print(f"{place}: not compared with torch")
        else:
            print(f"{place}: largest difference from torch {file.worst:.1e} at {len(file.differences)} sizes")
