"""Parser and common options of all command lines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from upsr.choices import DATASETS_ROOT, DEFAULT_WEIGHTS, LAUNCHERS, Launcher
from upsr.errors import UpsrError, one_line

_WEIGHTS = "name (shipped, or fetched: upsr weights list), folder, run, option file, weight file or user/repository"
_METHOD = "of published weights: name or path (the one that knows them)"
_PART = "weights of another part of the method, beside published weights: autoencoder=autoencoder_vq_f4.pth"


class ArgumentParser(argparse.ArgumentParser):
    """A parser that takes ``--max-images`` and ``--max_images`` for the same option, and prints no usage with a mistake.

    Descriptions and examples keep their lines.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        self._given: list[str] = []
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's, with options in the spelling that they are declared with."""
        given = self._given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_known_args([*map(self._as_declared, given[:end]), *given[end:]], namespace)

    def error(self, message: str) -> NoReturn:
        """Print the mistake in one line; exit with 2."""
        file = next(
            (text for text in self._given if text.startswith("-") and text != "-" and os.path.lexists(text)), None
        )
        remedy = "" if file is None else f"; the file {one_line(file)} is given as ./{one_line(file)}"
        self.exit(2, f"error: {one_line(message)}{remedy}; `{self.prog} --help` explains\n")

    def _as_declared(self, argument: str) -> str:
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        for spelling in (name, f"--{name[2:].replace('_', '-')}", f"--{name[2:].replace('-', '_')}"):
            if any(option.startswith(spelling) for option in self._option_string_actions):
                return spelling + equals + value
        return argument


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing from an option file share."""
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE.yml", help="option file, see options/")
    add_launcher(parser)
    parser.add_argument(
        "--force-yml",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override options: train.total_iter=1000 datasets.train.batch_size_per_gpu=4",
    )


def path(text: str) -> Path:
    """The type of arguments that name a file or folder.

    Raises:
        argparse.ArgumentTypeError: it is empty, as a shell's variable that is not set is.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty, as a variable that is not set is; name a file or folder")
    return Path(text)


def add_datasets_root(parser: argparse.ArgumentParser) -> None:
    """Add ``--datasets-root``."""
    parser.add_argument(
        "--datasets-root", type=path, default=Path(DATASETS_ROOT), help=f"folder of the datasets ({DATASETS_ROOT})"
    )


class _OfModel(argparse.Action):
    """An argument of the model that the last ``--weights`` names, or that the first one will; kept in ``models``."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        models = [argparse.Namespace(**vars(model)) for model in namespace.models or ()]
        if not models or (self.dest == "weights" and models[-1].weights is not None):
            models.append(argparse.Namespace(weights=None, method=None, part=[], g=None))
        setattr(models[-1], self.dest, [*models[-1].part, value] if self.dest == "part" else value)
        namespace.models = models


def add_models(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the arguments of :func:`add_model` for any number of models; :func:`models_of` reads them.

    Args:
        default: in the help, the weights that are taken where none are named.
    """
    parser.set_defaults(models=())
    parser.add_argument(
        "--weights",
        action=_OfModel,
        default=argparse.SUPPRESS,
        help=f"{_WEIGHTS}; again for each further model ({default})",
    )
    shared: dict[str, Any] = {"action": _OfModel, "default": argparse.SUPPRESS}
    parser.add_argument("--method", metavar="NAME", help=f"{_METHOD}; of the --weights before it", **shared)
    parser.add_argument("--part", metavar="NAME=FILE", help=f"{_PART}; of the --weights before it", **shared)
    parser.add_argument("--g", metavar="FILE", help="short for --part g=FILE", **shared)


def models_of(given: argparse.Namespace, default: Sequence[str]) -> list[dict[str, Any]]:
    """The models of :func:`add_models`, each as :func:`model_of` gives it.

    Args:
        default: weights that are taken where none are named.

    Raises:
        UpsrError: as :func:`model_of`.
    """
    models = given.models or [argparse.Namespace(weights=name, method=None, part=[], g=None) for name in default]
    found = [model_of(model) for model in models]
    return [{**model, "source": model["source"] or DEFAULT_WEIGHTS} for model in found]


def add_model(parser: Any, *, positional: bool = False) -> None:
    """Add the arguments that :func:`model_of` reads.

    Args:
        parser: or a group of one.
        positional: ``WEIGHTS`` in place of ``--weights``.
    """
    if positional:
        parser.add_argument("weights", metavar="WEIGHTS", help=_WEIGHTS)
    else:
        parser.add_argument("--weights", default=DEFAULT_WEIGHTS, help=f"{_WEIGHTS} ({DEFAULT_WEIGHTS})")
    parser.add_argument("--method", metavar="NAME", help=_METHOD)
    parser.add_argument("--part", action="append", default=[], metavar="NAME=FILE", help=_PART)
    parser.add_argument("--g", metavar="FILE", help="short for --part g=FILE")


def model_of(given: argparse.Namespace) -> dict[str, Any]:
    """The arguments of :meth:`upsr.pipeline.pipeline.UPSRPipeline.from_pretrained` that say which model it is.

    Raises:
        UpsrError: a value of ``--part`` has another form, or a part is named twice.
    """
    parts: dict[str, str] = {}
    for text in [*given.part, *([] if given.g is None else [f"g={given.g}"])]:
        name, _, file = text.partition("=")
        if not name or not file:
            raise UpsrError(f"--part: {text}; give NAME=FILE")
        if name in parts:
            raise UpsrError(f"--part {name}=: it is given twice, {parts[name]} and {file}")
        parts[name] = file
    return {"source": given.weights, "method": given.method, "parts": parts}


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher``."""
    about = (
        "starts the processes: none (one process), pytorch (torchrun), slurm (srun); pytorch under torchrun, else none"
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default=default_launcher(), help=about)


def default_launcher() -> Launcher:
    """``pytorch`` in a process that torchrun started, else ``none``."""
    return "pytorch" if "TORCHELASTIC_RUN_ID" in os.environ else "none"
