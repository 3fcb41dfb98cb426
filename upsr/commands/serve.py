"""A page in the browser: drop a photo, choose a region of it, upscale it, compare. Runs until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from dataclasses import fields

from upsr.app.limits import Limits
from upsr.app.server import check_port, require_gradio, serving
from upsr.arguments import add_models, models_of
from upsr.choices import DEFAULT_WEIGHTS, DTYPES, PORT
from upsr.errors import UpsrError

_DEFAULTS = Limits()

EXAMPLES = """examples:
  upsr serve                                      http://127.0.0.1:7860, with the weights that come with the package
  upsr serve --weights tiny-1 --weights ldm-sr/ --method ldm    a choice of two; --method and --part are of the --weights before
  upsr serve --weights upsr.pth --part g=atd_real.pth --device cuda  other weights
  upsr serve --weights RealESRGAN_x4plus.pth      a network that spandrel knows: the page has the settings of its method
  upsr serve --weights ldm-sr/ --method ldm       a folder of diffusers, or another method's published weights
  upsr serve --host 0.0.0.0 --port 8080           for other machines too; nothing asks who they are
  upsr serve --max-output-megapixels 4 --requests-per-minute 5 --queue 4      for many visitors

The page needs gradio: pip install 'upsr[app]'. Without --host only this machine can open it. It asks for nothing from other
machines, sends no telemetry, and serves no files but its own; uploads and results lie in a temporary folder that is removed
when the server ends. One upscaling runs at a time, others wait in the queue; Cancel stops one within a step of a tile.

A proxy in front must run on the same machine and set X-Forwarded-For; otherwise all visitors count as one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr serve``."""
    add_models(parser, "those that come with the package")
    parser.add_argument(
        "--device", default="auto", help="auto (an accelerator, else the CPU), cpu, cuda:1, xpu, mps, ... (auto)"
    )
    parser.add_argument(
        "--dtype", choices=["auto", *DTYPES], default="auto", help="of the denoiser, where the method allows (auto)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"port to listen at ({PORT})")
    limits = parser.add_argument_group("limits, for each visitor")
    numbers: tuple[tuple[str, float, str, str], ...] = (
        ("--max-upload-mb", _DEFAULTS.upload_bytes / 1e6, "MB", "largest file"),
        ("--max-upload-megapixels", _DEFAULTS.upload_pixels / 1e6, "MP", "largest photo, known before it is decoded"),
        ("--max-output-megapixels", _DEFAULTS.output_pixels / 1e6, "MP", "largest result"),
        ("--max-batch-mb", _DEFAULTS.batch_bytes / 1e6, "MB", "largest upload of several photos, in all"),
    )
    for name, default, unit, about in numbers:
        limits.add_argument(name, type=float, default=default, metavar=unit, help=f"{about} ({default:g})")
    limits.add_argument(
        "--max-batch-photos", type=int, default=_DEFAULTS.batch_photos, metavar="N",
        help=f"photos in one ZIP file ({_DEFAULTS.batch_photos})",
    )  # fmt: skip
    limits.add_argument(
        "--requests-per-minute", type=int, default=_DEFAULTS.requests_per_minute, metavar="N",
        help=f"uploads, and upscalings, of one address ({_DEFAULTS.requests_per_minute})",
    )  # fmt: skip
    limits.add_argument(
        "--queue", type=int, default=_DEFAULTS.queue, metavar="N",
        help=f"upscalings that may wait, of all visitors ({_DEFAULTS.queue})",
    )  # fmt: skip


def main(given: argparse.Namespace) -> int:
    """Serve until interrupted."""
    limits = limits_of(given)
    require_gradio()
    check_port(given.host, given.port)
    # SIGTERM must remove the temporary files, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    from upsr.app.models import named  # here: takes seconds, and --help should not
    from upsr.pipeline.pipeline import UPSRPipeline
    from upsr.weights import shipped_names

    sources = models_of(
        given, sorted(shipped_names(), key=lambda name: name != DEFAULT_WEIGHTS)
    )  # what is chosen at first
    pipes = [UPSRPipeline.from_pretrained(**source, device=given.device, dtype=given.dtype) for source in sources]
    with serving(named(list(zip(pipes, sources, strict=True))), limits, given.host, given.port) as url:
        print(f"UPSR is at {url} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    return 0


def limits_of(given: argparse.Namespace) -> Limits:
    """The arguments as limits.

    Raises:
        UpsrError: one of them lets nothing through.
    """
    limits = Limits(
        upload_bytes=int(given.max_upload_mb * 1e6),
        upload_pixels=int(given.max_upload_megapixels * 1e6),
        output_pixels=int(given.max_output_megapixels * 1e6),
        batch_bytes=int(given.max_batch_mb * 1e6),
        batch_photos=given.max_batch_photos,
        requests_per_minute=given.requests_per_minute,
        queue=given.queue,
    )
    arguments = ("max_upload_mb", "max_upload_megapixels", "max_output_megapixels", "max_batch_mb", "max_batch_photos",
                 "requests_per_minute", "queue")  # fmt: skip
    for field, name in zip(fields(limits), arguments, strict=True):
        if getattr(limits, field.name) < 1:
            raise UpsrError(f"--{name.replace('_', '-')}: a number above 0 is needed")
    return limits
