"""The command ``upsr``."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import upsr
from upsr.arguments import ArgumentParser
from upsr.errors import UpsrError, exiting
from upsr.patience import said_if_slow

_COMMANDS = {
    "upscale": "photos in, photos four times as large out",
    "data": "datasets: benchmarks, training images in other forms, teacher caches",
    "weights": "published weights by name: list, fetch, verify, where",
    "train": "a network from an option file",
    "test": "the validation sets of an option file, restored and measured",
    "evaluate": "restore and measure: many datasets, methods and seeds in one run",
    "compare": "paired statistics of two methods or two evaluations",
    "verify": "how published numbers were measured, from published images",
    "report": "pages to look at an evaluation, and to vote on its results blind",
    "tables": "the tables and figures of papers, measured here, beside the published values",
    "runs": "training runs: progress, state, best validation, differences of their options",
    "serve": "a page in the browser to upscale photos with",
    "options": "JSON schemas and the reference page of option files",
    "convert": "released checkpoints and trained weights as a folder of safetensors files",
    "export": "the networks as files for other runtimes: ONNX, torch.export",
    "doctor": "what there is to compute with, and whether it computes right",
    "completion": "a script that completes commands and options in a shell",
}
_CONVERT = "convert"
"""`upsr convert METHOD` is `upsr METHOD convert`, of the methods that state this command."""
_HELP = "COMMAND --help explains a command with examples."
_EPILOG = f"""{_HELP} train.py and test.py of a checkout are `upsr train` and `upsr test`.
Options may be written with - or _: --max-images, --max_images.

Methods: `upsr METHOD` lists the commands of one, which may be your own (docs/extending.md).

Exit codes: 0 finished; 2 a mistake in arguments, files or devices (one message says which); 130 interrupted."""


@exiting
def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command, or one that a method states."""
    given = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names hold any bytes
    own = _own()
    if given == [_CONVERT]:
        given.append("--help")
    if given[:1] == [_CONVERT] and (module := _converter(given[1:])) is not None:
        return _run(f"upsr {_CONVERT} {given[1]}", module, given[2:])
    if given and given[0] in own:
        return _run(f"upsr {given[0]}", own[given[0]][0], given[1:])
    methods = _commands_of_methods(given)
    if given and given[0] in methods:
        return _chosen(f"upsr {given[0]}", f"Commands of the method {given[0]}.", _HELP, methods[given[0]], given[1:])
    lines = {name: ("", _of_method(commands)) for name, commands in methods.items()}
    return _chosen("upsr", "UPSR: super-resolution of real photos.", _EPILOG, own | lines, given)


def parser_of_all() -> ArgumentParser:
    """One parser of all commands, those of this package's methods included. All of their modules are imported."""
    parser = ArgumentParser("upsr")
    parser.add_argument("--version", action="version", version=upsr.__version__)
    names = parser.add_subparsers()
    for name, (module, line) in _own().items():
        importlib.import_module(module).add_arguments(names.add_parser(name, help=line))
    for method, commands in _commands_of_methods([]).items():
        own = names.add_parser(method, help=_of_method(commands)).add_subparsers()
        for name, (module, line) in commands.items():
            importlib.import_module(module).add_arguments(own.add_parser(name, help=line))
    return parser


def _own() -> dict[str, tuple[str, str]]:
    """Commands of all methods: the module of each and its use in a line."""
    return {name: (f"upsr.commands.{name}", about) for name, about in _COMMANDS.items()}


def _of_method(commands: Iterable[str]) -> str:
    return f"of the method: {', '.join(commands)}"


def _converter(given: Sequence[str]) -> str | None:
    """The module of a method's own command `convert`, if the first argument is a method; ``None`` for the command of all.

    Raises:
        UpsrError: it is a method without one.
    """
    from upsr.config.methods import UnknownMethodError, commands_of, method_names

    name = given[0] if given and not given[0].startswith("-") else ""
    if name not in method_names() and (not name or "/" in name or Path(name).exists()):
        return None
    try:
        commands = commands_of(name)
    except UnknownMethodError:
        return None
    if _CONVERT not in commands:
        raise UpsrError(
            f"{name}: this method has no converter of its own; upsr convert WEIGHTS --method {name} -o FOLDER"
        )
    return commands[_CONVERT][0]


def _commands_of_methods(given: Sequence[str]) -> dict[str, Mapping[str, tuple[str, str]]]:
    """Commands by method: of this package's methods that have any, and of the first argument's, which may be a user's own.

    Raises:
        UpsrError: the first argument is no option, and no method or one without commands.
    """
    from upsr.config.methods import UnknownMethodError, commands_of, method_names
    from upsr.config.problems import did_you_mean

    found = {name: commands for name in method_names() if (commands := commands_of(name))}
    asked = given[0] if given and not given[0].startswith("-") else None
    if asked is not None and asked not in found:
        near = did_you_mean(asked, [*_COMMANDS, *found])
        try:
            own = commands_of(asked)
        except UnknownMethodError as error:
            reason = str(error).partition(";")[0]
            raise UpsrError(f"{asked}: no such command, nor a method with commands{near} ({reason})") from None
        if not own:
            raise UpsrError(f"{asked}: no such command, nor a method with commands{near}")
        found[asked] = own
    return found


def _chosen(prog: str, about: str, epilog: str, commands: Mapping[str, tuple[str, str]], given: Sequence[str]) -> int:
    """Runs one of several commands; lists them where none is named."""
    parser = ArgumentParser(prog, description=about, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"upsr {upsr.__version__}")
    names = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, line) in commands.items():
        names.add_parser(name, help=line, add_help=False)
    chosen = parser.parse_known_args(given)[0].command
    if chosen is None:
        parser.print_help()
        return 0
    return _run(f"{prog} {chosen}", commands[chosen][0], given[given.index(chosen) + 1 :])


def _run(prog: str, module: str, given: Sequence[str]) -> int:
    """Runs a command. Only its module is imported: each brings its own heavy libraries."""
    with said_if_slow(f"{prog}: loading"):
        command = importlib.import_module(module)
    own = ArgumentParser(prog, description=command.__doc__, epilog=command.EXAMPLES)
    command.add_arguments(own)
    return command.main(own.parse_args(given))


if __name__ == "__main__":
    sys.exit(main())
