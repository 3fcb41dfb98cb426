"""The command ``upsr``."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

import upsr
from upsr.arguments import ArgumentParser
from upsr.errors import exiting
from upsr.patience import said_if_slow

_COMMANDS = {
    "upscale": "photos in, photos four times as large out",
    "data": "datasets: benchmarks, training images in other forms, teacher caches",
    "evaluate": "restore and measure: many datasets, methods and seeds in one run",
    "compare": "paired statistics of two methods or two evaluations",
    "report": "a folder of HTML to look at an evaluation",
    "tables": "the tables and figures of the paper, measured here, beside the published values",
    "runs": "training runs: progress, state, best validation, differences of their options",
    "serve": "a page in the browser to upscale photos with",
    "options": "JSON schemas and the reference page of option files",
    "export": "the networks as files for other runtimes: ONNX, torch.export",
}
_EPILOG = """`upsr COMMAND --help` explains a command with examples. Training and testing from option files: train.py, test.py.
Options may be written with - or _: --max-images, --max_images.

Exit codes: 0 finished; 2 a mistake in arguments, files or devices (one message says which); 130 interrupted."""


@exiting
def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command."""
    given = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names hold any bytes
    parser = ArgumentParser("upsr", description="UPSR: super-resolution of real photos.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"upsr {upsr.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, about in _COMMANDS.items():
        commands.add_parser(name, help=about, add_help=False)
    chosen = parser.parse_known_args(given)[0].command
    if chosen is None:
        parser.print_help()
        return 0
    # Only the chosen command is imported: each brings its own heavy libraries.
    with said_if_slow(f"upsr {chosen}: loading"):
        module = importlib.import_module(f"upsr.commands.{chosen}")
    own = ArgumentParser(f"upsr {chosen}", description=module.__doc__, epilog=module.EXAMPLES)
    module.add_arguments(own)
    return module.main(own.parse_args(given[given.index(chosen) + 1 :]))


if __name__ == "__main__":
    sys.exit(main())
