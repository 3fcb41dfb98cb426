"""`upsr options import`: option files of other projects, translated into ours."""

from __future__ import annotations

from pathlib import Path

from upsr.atomic import atomic_write
from upsr.config.imports.formats import format_of, formats
from upsr.config.imports.source import read_source
from upsr.config.imports.translate import Account, Translation, settle, translated
from upsr.config.imports.write import about, option_text, shown
from upsr.config.load import option_problems, parse_options
from upsr.config.problems import Problem
from upsr.config.yaml_text import load_yaml
from upsr.errors import UpsrError


def import_file(source: Path, out: Path, *, force: bool) -> None:
    """Translate a file, print what became of each of its keys, and write the result.

    Raises:
        UpsrError: the file is of no known kind, has no option file of ours as its like, ``out`` is it, or ``out`` exists.
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
        raise UpsrError(f"{source}: not an option file of a project that is known here: {names}")
    result = translated(form, read.data, source.stem)
    try:
        left = settle(result, lambda data: [*option_problems(data), *component_problems_in(data)])
    except UpsrError as error:
        raise UpsrError(f"{source}: {error}") from None
    text = option_text(result, read, source.name)
    parse_options(load_yaml(text), str(source))
    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    _report(result, left, source, out)


def _report(result: Translation, left: list[Problem], source: Path, out: Path) -> None:
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
    print(f"\nwrote {out}")


def _taken(account: Account) -> list[str]:
    """A line for each key that was made of one."""
    lines = []
    for put in account.puts:
        same = put.key == account.key and put.value == account.value
        line = f"{account.key}: {shown(account.value)}" + ("" if same else f" -> {put.key}: {shown(put.value)}")
        lines.append(line + (f"  ({put.note})" if put.note else ""))
    return lines
