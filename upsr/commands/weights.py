"""Published weights by name: which there are, fetching and checking them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from upsr.arguments import path
from upsr.errors import UpsrError, one_line
from upsr.provenance import file_digest
from upsr.weights.catalogue import FOLDER, Entry, File, entries_of, read_catalogue, to_option
from upsr.weights.fetch import Network, adopt_file, fetch_file, fetch_repository
from upsr.weights.lock import Lock, check_file
from upsr.weights.places import file_places, made_files

EXAMPLES = """examples:
  upsr weights list                                    names, sizes, licences, and what is here
  upsr weights fetch UPSR                              to experiments/pretrained_models/; run again to resume
  upsr weights fetch ResShift-15 --accept-licence      all that a method needs, in a script
  upsr weights fetch RealESRGAN --from ~/Downloads     a file that you downloaded yourself, checked alike
  upsr weights where RealESRGAN                        its path; exit code 1 if it is not here
  upsr weights verify RealESRGAN SwinIR                digests, every tensor in its place, and a restoration
  upsr weights verify --quick RealESRGAN               digests only"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr weights``: those of each action apart."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, about: str, count: str | None) -> argparse.ArgumentParser:
        own = actions.add_parser(name, help=about, description=about.capitalize() + ".")
        if count:
            own.add_argument("names", nargs=count, metavar="NAME", help="of upsr weights list, a method or a file")
        own.add_argument("--to", type=path, default=FOLDER, metavar="FOLDER", help=f"where weights are ({FOLDER})")
        return own

    action("list", "published weights: names, sizes, licences, and which are here", None)
    fetching = action("fetch", "get weights from their sources, resumed and checked", "+")
    fetching.add_argument("--from", dest="given", type=path, metavar="FILE_OR_FOLDER", help="what you downloaded")
    fetching.add_argument("--accept-licence", action="store_true", help="accept non-commercial licences unasked")
    verifying = action(
        "verify", "compare digests, load strictly, restore a picture and compare it with the first time", "+"
    )
    verifying.add_argument("--quick", action="store_true", help="digests only")
    action("where", "the paths of weights; exit code 1 if one is not here", "+")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    try:
        return _ACTIONS[given.action](given)
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that may not be looked into, a name that is too long
        place = given.to if error.filename is None else error.filename
        raise UpsrError(f"{place}: cannot be read ({error.strerror or error}); see --to") from None


def _list(given: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "for", "licence", "size", "here", box=None)
    for name, entry in read_catalogue().items():
        paths = list(file_places(entry, given.to))
        here = sum(place is not None and place.exists() for _, _, place in paths)
        terms = entry.licence or "not stated: ask its authors"
        sizes = ", ".join(_size(file) for file in entry.files.values() if file.size is not None)
        state = "yes" if here == len(paths) else f"{here} of {len(paths)}" if here else "no"
        terms += ", non-commercial" if entry.noncommercial else ""
        table.add_row(name, ", ".join(entry.used_by), terms, sizes, state)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return 0


def _fetch(given: argparse.Namespace) -> int:
    entries = {name: entry for asked in given.names for name, entry in entries_of(asked).items()}
    asked_for = {name.lower() for name in given.names}
    needed = {need for entry in entries.values() for need in entry.needs if need.lower() not in asked_for}
    required = {name: entry for name, entry in entries.items() if name not in needed}
    downloads = None if given.given is None else _downloads(given.given, required)
    failed = 0
    for name, entry in entries.items():
        print(f"{name}: licence: {entry.licence or 'not stated: ask its authors'}")
        try:
            _accept(name, entry, given)
            failed += _fetch_entry(name, entry, given, downloads, optional=name in needed)
            if entry.then and not failed:
                print(f"then: {entry.then}")
        except UpsrError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            failed += 1
    return UpsrError.exit_code if failed else 0


def _accept(name: str, entry: Entry, given: argparse.Namespace) -> None:
    """The person accepts a non-commercial licence, asked once.

    Raises:
        UpsrError: they do not, or there is no terminal to ask on.
    """
    lock = Lock(given.to)
    if not entry.noncommercial or lock.accepted(name):
        return
    if not given.accept_licence:
        if sys.stdin is None or not sys.stdin.isatty():  # none where it was closed
            raise UpsrError(f"{name}: {entry.licence}: not for commercial use; accept it with --accept-licence")
        try:
            answer = input("Not for commercial use. Do you accept this licence? [y/N] ")
        except EOFError:  # Ctrl-D
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise UpsrError(f"{name}: its licence was not accepted; nothing is fetched")
    lock.accept(name)


def _fetch_entry(
    name: str, entry: Entry, given: argparse.Namespace, downloads: Mapping[str, Path] | None, *, optional: bool
) -> int:
    """Fetches or adopts the files of an entry; returns how many failed.

    Args:
        downloads: what a person downloaded, by file name; ``None`` for the entry's sources.
        optional: a file that is not in the folder of ``--from`` is no failure.
    """
    if entry.repository is not None:
        if downloads is None:
            print(f"{name}: {fetch_repository(entry, given.to)}")
        elif not optional:
            raise UpsrError(f"{name}: a repository of many files; give its folder to the options themselves")
        return 0
    failed = 0
    elsewhere = [source.named for source in entry.sources if source.named]  # of entries of one file
    for file, facts in entry.files.items():
        try:
            if downloads is None:
                how = fetch_file(file, facts, entry.sources, given.to, Network(), _report)
            elif found := [downloads[word] for word in (file, *elsewhere) if word in downloads]:
                how = adopt_file(found[0], file, facts, given.to, _report)
            elif optional:
                continue
            else:
                raise UpsrError(f"{given.given}: there is no {file} in it; give what you downloaded that name")
            print(f"{given.to / file}: {how}")
        except UpsrError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            failed += 1
    return failed


def _downloads(given: Path, required: dict[str, Entry]) -> dict[str, Path]:
    """What a person downloaded, by file name; a single file of an unknown name is the one that is required.

    Raises:
        UpsrError: there is nothing.
    """
    if not given.exists():
        raise UpsrError(f"{given}: no such file or folder")
    if given.is_dir():
        found = sorted(given.rglob("*"), key=lambda path: (-len(path.parts), path))  # of one name the least deep counts
        return {path.name: path for path in found if path.is_file()}
    known = {file for entry in read_catalogue().values() for file in entry.files}
    known |= {source.named or "" for entry in read_catalogue().values() for source in entry.sources}
    wanted = [file for entry in required.values() for file in entry.files]
    return {wanted[0] if len(wanted) == 1 and given.name not in known else given.name: given}


def _report(line: str) -> None:
    print(one_line(line), file=sys.stderr)


def _verify(given: argparse.Namespace) -> int:
    entries = {name: entry for asked in given.names for name, entry in entries_of(asked).items()}
    failed = 0
    for name, entry in entries.items():
        wrong = _verify_files(name, entry, given.to)
        if not wrong and not given.quick:
            wrong = _verify_loaded(name, entry, given.to)
        failed += wrong
    return UpsrError.exit_code if failed else 0


def _verify_files(name: str, entry: Entry, folder: Path) -> int:
    """Compares digests; returns how many files are missing or wrong."""
    failed, lock = 0, Lock(folder)
    made = [(file, File(), place) for file, place in made_files(entry, folder)]
    for file, facts, place in [*file_places(entry, folder), *made]:
        try:
            if place is None or not place.is_file():
                raise UpsrError(_absent(name, folder))
            try:
                print(f"{place}: {check_file(place, file, facts, lock)[1]}")
            except UpsrError as error:
                raise UpsrError(f"{error}; remove it and: upsr weights fetch {name}{to_option(folder)}") from None
        except UpsrError as error:
            print(f"error: {place or file}: {one_line(str(error))}", file=sys.stderr)
            failed += 1
    return failed


def _verify_loaded(name: str, entry: Entry, folder: Path) -> int:
    """Loads an entry and restores with it; returns 1 if it fails. Digests that nothing was compared with are recorded then."""
    from upsr.pipeline.verification import verify_entry  # here: takes seconds, and --quick does without

    try:
        print(f"{name}: {verify_entry(name, entry, folder)}")
        lock = Lock(folder)
        unknown = [(file, place) for file, facts, place in file_places(entry, folder) if facts.sha256 is None and place]
        for file, place in [*unknown, *made_files(entry, folder)]:
            if lock.digest(file) is None:
                lock.add(file, file_digest(place), place.stat().st_size, "found here")
    except UpsrError as error:
        print(f"error: {name}: {one_line(str(error))}", file=sys.stderr)
        return 1
    return 0


def _where(given: argparse.Namespace) -> int:
    missing = False
    for asked in given.names:
        for name, entry in entries_of(asked).items():
            for file, _, place in file_places(entry, given.to):
                if place is not None and place.exists():
                    print(place)
                else:
                    print(f"{file}: {_absent(name, given.to)}", file=sys.stderr)
                    missing = True
    return 1 if missing else 0


def _absent(name: str, folder: Path) -> str:
    return f"not here; upsr weights fetch {name}{to_option(folder)}"


def _size(file: File) -> str:
    return f"{file.size / 1e6:.1f} MB" if isinstance(file.size, int) else str(file.size)


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "fetch": _fetch,
    "verify": _verify,
    "where": _where,
}
