"""A script that completes commands and options of upsr in a shell: bash, zsh or fish."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

from upsr.cli import parser_of_all

EXAMPLES = """examples:
  upsr completion bash > ~/.local/share/bash-completion/completions/upsr
  upsr completion zsh > ~/.zfunc/_upsr                        a folder of $fpath
  upsr completion fish > ~/.config/fish/completions/upsr.fish

The script knows the commands and options of this version, and starts no Python: write it again after an update. A method of
your own is not in it. Open a new shell to use it."""

_SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr completion``."""
    parser.add_argument("shell", choices=_SHELLS, help="the script's language")


def main(given: argparse.Namespace) -> int:
    """Print the script."""
    parser = parser_of_all()
    for action in _actions(parser):
        if _may_be_a_file(action):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, given.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)


def _may_be_a_file(action: argparse.Action) -> bool:
    """A value without choices that is no number.

    Options with many values are left out: in bash shtab would complete them to files where the next option begins.
    """
    several = action.nargs in ("+", "*") and action.option_strings
    return action.nargs != 0 and not several and action.choices is None and action.type not in (int, float)
