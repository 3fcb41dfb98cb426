"""The command ``upsr``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from upsr.errors import UpsrError

_COMMANDS = {
    "upscale": "photos in, photos four times as large out",
    "data": "benchmark datasets: what they are, whether they are whole, and making them",
    "evaluate": "restore and measure: many datasets, methods and seeds in one run",
    "compare": "paired statistics of two methods or two evaluations",
    "report": "a folder of HTML to look at an evaluation",
    "serve": "a page in the browser to upscale photos with",
    "export": "the networks as files for other runtimes: ONNX, torch.export",
}
_EPILOG = """`upsr COMMAND --help` explains a command with examples. Training and testing from option files: train.py, test.py.

Exit codes: 0 finished; 2 a mistake in arguments, files or devices (one message says which); 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; a user's mistake is one line on stderr and its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        "upsr", description="UPSR: super-resolution of real photos.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in _COMMANDS.items():
        commands.add_parser(name, help=about, add_help=False)
    chosen = parser.parse_known_args(given)[0].command
    # Only the chosen command is imported: each brings its own heavy libraries.
    module = importlib.import_module(f"upsr.commands.{chosen}")
    own = argparse.ArgumentParser(
        f"upsr {chosen}", description=module.__doc__, epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    module.add_arguments(own)
    try:
        return module.main(own.parse_args(given[given.index(chosen) + 1 :]))
    except UpsrError as error:
        print(f"{error.label}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
