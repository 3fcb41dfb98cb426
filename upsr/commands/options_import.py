"""`upsr options import`: option files of other projects, translated into ours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from upsr.atomic import atomic_write
from upsr.config.imports.formats import format_of, formats
from upsr.config.imports.rules import near_key
from upsr.config.imports.source import read_source
from upsr.config.imports.translate import Account, Translation, settle, translated
from upsr.config.imports.write import about, option_text, shown
from upsr.config.load import option_problems, parse_options
from upsr.config.problems import Problem
from upsr.config.yaml_text import load_yaml
from upsr.errors import UpsrError


def import_file(source: Path, out: Path, *, force: bool) -> None:
    """Translate a file, print what became of each of its keys, and write the result if it is an option file of ours.

    Raises:
        UpsrError: the file is of no known kind, lacks a needed key, has no option file of ours as its like, ``out`` is it,
            or ``out`` exists.
    """
    from upsr.engine.setup import component_problems_in

    if out.exists() and source.exists() and out.samefile(source):
        raise UpsrError(f"{out}: is the file that is translated; choose another name for the result")
    if out.exists() and not force:
        raise UpsrError(f"{out}: exists already; choose another name, or replace it with --force")
    read = read_source(source)
    form = format_of(read.data)
    if form is None:
        names = ", ".join(sorted(form.name for form in formats()))
        raise UpsrError(
            f"{source}: not an option file of a project that is known here: {names}{_misspelt(map(str, read.data))}"
        )
    result = translated(form, read.data, source.stem)
    try:
        left = settle(result, lambda data: [*option_problems(data), *component_problems_in(data)])
    except UpsrError as error:
        _report(result, [], source)
        raise UpsrError(f"{source}: {error}; nothing is written") from None
    _report(result, left, source)
    text = option_text(result, read, source.name)
    try:
        parse_options(load_yaml(text), str(source))
    except UpsrError as error:
        unknown = [account.key for account in result.accounts if not account.known]
        near = {key: near_key(form.rules, tuple(key.split("."))) for key in unknown}
        misspelt = [f"{source}: {key}: did you mean '{meant}'?" for key, meant in near.items() if meant]
        remedy = f"{source}: nothing is written; mend these keys in it and translate it again"
        raise UpsrError("\n".join([str(error), *misspelt, remedy])) from None
    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"\nwrote {out}")


def _misspelt(keys: Iterable[str]) -> str:
    """The ending of an error about a file of no known format: its keys that may be misspelt ones of a format."""
    keys = list(keys)
    near = {key: near_key(form.rules, (key,)) for form in formats() for key in keys}
    meant = [f"did you mean '{name}' by '{key}'?" for key, name in near.items() if name and name not in keys]
    return "".join(f"; {question}" for question in meant)


def _report(result: Translation, left: list[Problem], source: Path) -> None:
    print(f"{source}: an option file of {result.format.name}")
    groups: dict[str, list[str]] = {
        "taken over": [line for account in result.accounts for line in _taken(account)],
        "set, as such files leave it unsaid": [f"{key}: {shown(value)}" for key, value in result.added.items()],
        "without effect here": [about(a) for a in result.accounts if a.left and not a.left.matters],
        "left out, although it matters there": [
            about(a) for a in result.accounts if a.known and a.left and a.left.matters
        ],
        "not known": [about(account) for account in result.accounts if not account.known],
        "to be seen to before a run": [str(problem) for problem in left],
    }
    for name, lines in groups.items():
        if lines:
            print(f"\n{name} ({len(lines)})", *(f"  {line}" for line in lines), sep="\n")


def _taken(account: Account) -> list[str]:
    """A line for each key that was made of one."""
    lines = []
    for put in account.puts:
        same = put.key == account.key and put.value == account.value
        line = f"{account.key}: {shown(account.value)}" + ("" if same else f" -> {put.key}: {shown(put.value)}")
        lines.append(line + (f"  ({put.note})" if put.note else ""))
    return lines
