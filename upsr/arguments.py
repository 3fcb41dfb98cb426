"""Parser and common options of all command lines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from upsr.choices import DATASETS_ROOT, LAUNCHERS, Launcher
from upsr.errors import one_line


class ArgumentParser(argparse.ArgumentParser):
    """A parser that takes ``--max-images`` and ``--max_images`` for the same option, and prints no usage with a mistake.

    Descriptions and examples keep their lines.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's, with options in the spelling that they are declared with."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_known_args([*map(self._as_declared, given[:end]), *given[end:]], namespace)

    def error(self, message: str) -> NoReturn:
        """Print the mistake in one line; exit with 2."""
        self.exit(2, f"error: {one_line(message)}; `{self.prog} --help` explains\n")

    def _as_declared(self, argument: str) -> str:
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        for spelling in (name, f"--{name[2:].replace('_', '-')}", f"--{name[2:].replace('-', '_')}"):
            if any(option.startswith(spelling) for option in self._option_string_actions):
                return spelling + equals + value
        return argument


def run_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """The arguments that train.py and test.py share."""
    result = ArgumentParser(description=description, epilog=epilog)
    result.add_argument("-opt", "--opt", required=True, metavar="FILE.yml", help="option file, see options/")
    add_launcher(result)
    result.add_argument(
        "--force_yml",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override options: train.total_iter=1000 datasets.train.batch_size_per_gpu=4",
    )
    return result


def path(text: str) -> Path:
    """The type of arguments that name a file or folder.

    Raises:
        argparse.ArgumentTypeError: it is empty, as a shell's variable that is not set is.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty, as a variable that is not set is; name a file or folder")
    return Path(text)


def add_datasets_root(parser: argparse.ArgumentParser) -> None:
    """Add ``--datasets_root``."""
    parser.add_argument(
        "--datasets_root", type=path, default=Path(DATASETS_ROOT), help=f"folder of the datasets ({DATASETS_ROOT})"
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher``."""
    about = (
        "starts the processes: none (one process), pytorch (torchrun), slurm (srun); pytorch under torchrun, else none"
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default=default_launcher(), help=about)


def default_launcher() -> Launcher:
    """``pytorch`` in a process that torchrun started, else ``none``."""
    return "pytorch" if "TORCHELASTIC_RUN_ID" in os.environ else "none"
