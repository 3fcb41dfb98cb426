"""Options of `upsr upscale` that change results, repeated from a record."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from upsr.arguments import ArgumentParser
from upsr.choices import DEFAULT_WEIGHTS
from upsr.commands.upscale_arguments import add_arguments
from upsr.errors import UpsrError, one_line
from upsr.pipeline.options import KEY, WEIGHTS_SHA256

_MODEL = ("weights", "method", "part", "g")
_SIZE = ("outscale", "width", "height")
OPTIONS = (
    *_MODEL, *_SIZE, "seed", "noise", "steps", "fidelity", "adaptive", "knob", "colour_fix", "mask", "consistent", "format",
    "quality", "dtype", "compile", "tile", "batch",
)  # fmt: skip
"""Names of the options that change results."""
KNOBS = {"steps": "steps", "fidelity": "fidelity", "adaptive": "adaptive", "colour": "colour_fix"}
"""Knobs of methods that have an option of their own."""


def repeat(given: argparse.Namespace) -> None:
    """Take the options of the file of ``--settings``, in place, but for those that are given.

    Of options that describe one thing (the model, the size), none is taken if one is given. ``given.repeated`` becomes the names
    of those that were taken, and ``given.weights_sha256`` the digests of their weights, if the file has them.

    Raises:
        UpsrError: the file is no record, or has unknown or contradicting options.
    """
    given.repeated, given.weights_sha256 = frozenset(), {}
    if given.settings is not None:
        _take(given, *_read(given.settings))
    given.weights = DEFAULT_WEIGHTS if given.weights is None else given.weights


def _take(given: argparse.Namespace, found: argparse.Namespace, weights: dict[str, str]) -> None:
    plain = _parsed([], "")
    own = {name for name in OPTIONS if getattr(given, name) != getattr(plain, name)}
    own |= {KNOBS.get(name, name) for name in map(_name, given.knob)}
    for group in (_MODEL, _SIZE):
        own |= set(group) if own & set(group) else set()
    if os.path.splitext(given.out)[1] and not os.path.isdir(given.out):
        own.add("format")  # the name of the result says it
    taken = {name for name in OPTIONS if name not in {*own, "knob"} and getattr(found, name) != getattr(plain, name)}
    for name in taken:
        setattr(given, name, getattr(found, name))
    knobs = [text for text in found.knob if KNOBS.get(_name(text), _name(text)) not in own]
    given.knob = [*knobs, *given.knob]
    given.repeated = frozenset(taken)
    given.weights_sha256 = weights if "weights" in taken else {}


def check_weights(given: argparse.Namespace, digest: Mapping[str, str]) -> None:
    """Refuse other weights than those of the record under the same name."""
    changed = [part for part, sha in given.weights_sha256.items() if digest.get(part) != sha]
    if changed:
        raise UpsrError(
            f"{given.settings}: the weights of {', '.join(changed)} in {given.weights} are others than those of the record; "
            "give --weights to take them"
        )


def is_record(path: Path) -> bool:
    """True for a file that ``--record`` wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {KEY, WEIGHTS_SHA256, "done"} <= content.keys()


def _read(path: Path) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of a file as they are parsed, and the digests of the weights."""
    where = f"--settings: {one_line(str(path))}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise UpsrError(f"{where}: cannot be read ({reason})") from None
    options = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(options, dict):
        raise UpsrError(f"{where}: no record with '{KEY}'; `upsr upscale --record FILE` writes one")
    for name in options:
        if name not in OPTIONS:
            raise UpsrError(f"{where}: {KEY}: '{one_line(name)}' is none that is repeated ({', '.join(OPTIONS)})")
    if "outscale" in options and {"width", "height"} & options.keys():
        raise UpsrError(f"{where}: {KEY}: outscale contradicts width and height; leave one of them out")
    weights = content.get(WEIGHTS_SHA256)
    return _parsed([word for item in options.items() for word in _words(where, *item)], where), (
        weights if isinstance(weights, dict) else {}
    )


def _words(where: str, name: str, value: Any) -> list[str]:
    """An option as on the command line."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int, float)) for item in values):
        raise UpsrError(f"{where}: {KEY}: {name} is {one_line(json.dumps(value))[:40]}; give text or a number")
    option = f"--{name.replace('_', '-')}"
    return [option for item in values if item is True] + [
        f"{option}={item}" for item in values if not isinstance(item, bool)
    ]


class _OfFile(ArgumentParser):
    """A parser whose mistakes are those of a file."""

    where = ""

    def error(self, message: str) -> NoReturn:
        """Raise UpsrError."""
        raise UpsrError(f"{self.where}: {one_line(message)}")


def _parsed(words: list[str], where: str) -> argparse.Namespace:
    parser = _OfFile()
    parser.where = where
    add_arguments(parser)
    return parser.parse_args([*words, "-o", "-", "-"])


def _name(knob: str) -> str:
    return knob.partition("=")[0]
