"""Option files and the other YAML files of this project: their JSON schemas for editors, their reference page, and those of
other projects translated into ours."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upsr.arguments import path
from upsr.atomic import atomic_write
from upsr.config.problems import did_you_mean
from upsr.errors import UpsrError

EXAMPLES = """examples:
  upsr options list
  upsr options schema upsr > upsr.json
  upsr options schema my_method                 a method of your own, from a module in this folder
  upsr options schema --out options/schema      every kind, a file each
  upsr options docs --out docs/options.md
  upsr options import train_realesrgan_x4plus.yml -o mine.yml     an option file of another project, translated

An editor with a YAML language server completes and checks a file whose first line is
  # yaml-language-server: $schema=PATH/TO/upsr.json"""


@dataclass(frozen=True)
class Kind:
    """A kind of YAML file.

    Attributes:
        structure: ``module:Class``.
        files: where this project has such files.
        about: for the list and the reference page.
        named: the file's name is the default of the key ``name``.
        based: a file may name a ``base``.
    """

    structure: str
    files: str
    about: str
    named: bool = False
    based: bool = True


KINDS = {
    "benchmark": Kind(
        "upsr.evaluation.benchmarks:Benchmark", "datasets/*.yml", "A benchmark dataset: `upsr data`.", named=True
    ),
    "entry": Kind(
        "upsr.evaluation.entries:EntryDescription",
        "options/methods/*.yml",
        "A contestant of an evaluation: `upsr evaluate --methods`.",
        named=True,
    ),
    "protocol": Kind(
        "upsr.evaluation.protocols:Protocol",
        "options/protocols/*.yml",
        "Measures of an evaluation: `upsr evaluate --protocols`.",
        named=True,
    ),
    "tables": Kind(
        "upsr.report.tables:Publication",
        "upsr/report/published/*.yml",
        "Published tables to compare with.",
        based=False,
    ),
    "teaching": Kind(
        "upsr.config.schema_teach:TeachOptions", "options/teaching/*.yml", "A teacher cache: `upsr data teach`."
    ),
}
"""All but the option files of methods, which are kinds by the methods' names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("action", choices=["list", "schema", "docs", "import"], help="what to write")
    parser.add_argument(
        "kind",
        nargs="?",
        metavar="KIND|FILE",
        help="of `upsr options list`, or the path of a method; for import the option file of another project",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=path,
        metavar="PATH",
        help="file of the page or of the translated options, or folder of the schemas; by default standard output",
    )
    parser.add_argument("--force", action="store_true", help="import: replace a file that is there")


def main(given: argparse.Namespace) -> int:
    """Run the command."""
    if given.action == "list":
        _list()
    elif given.action == "import":
        if given.kind is None or given.out is None:
            raise UpsrError(
                "upsr options import: name the option file and the one to write: upsr options import FILE -o MINE.yml"
            )
        from upsr.commands.options_import import import_file

        import_file(Path(given.kind), given.out, force=given.force)
    elif given.action == "docs":
        _write(page(all_schemas()), given.out)
    elif given.kind is None:
        if given.out is None:
            raise UpsrError("upsr options schema: name a kind (upsr options list), or with --out a folder for all")
        for name, schema in all_schemas().items():
            _write(_text(schema), given.out / f"{name}.json")
    else:
        _write(_text(schema_of(given.kind)), given.out and given.out / f"{given.kind}.json")
    return 0


def _list() -> None:
    """Print the methods with their phases of training, and the other kinds with their places."""
    from upsr.config.methods import method_names

    print("methods (options/**/*.yml), their phases of training")
    for name in method_names():
        module = _module(name)
        print(f"  {name:<12}{', '.join(module.TRAININGS) or '-':<32}{_about(module)}")
    print("other files")
    for name, kind in KINDS.items():
        print(f"  {name:<12}{kind.files:<32}{kind.about}")


def _module(method: str) -> Any:
    from upsr.config.methods import PACKAGE

    return importlib.import_module(f"{PACKAGE}.{method}")


def _about(module: Any) -> str:
    return str((module.__doc__ or "").strip().splitlines()[0])


def kinds() -> Iterator[tuple[str, str, str]]:
    """Every kind, its files and what they are."""
    from upsr.config.methods import find_method, method_names
    from upsr.config.schema import CommonOptions

    for name in method_names():
        if find_method({"method": name}).options is not CommonOptions:
            yield name, "options/**/*.yml", _about(_module(name))
    for name, kind in KINDS.items():
        yield name, kind.files, kind.about


def schema_of(name: str) -> dict[str, Any]:
    """JSON schema of a kind.

    Raises:
        UpsrError: there is no such kind.
    """
    import upsr.engine.setup
    import upsr.evaluation.entries
    import upsr.evaluation.prepare  # noqa: F401  (they register their classes)
    from upsr.compat import REGISTRIES
    from upsr.config.json_schema import file_schema, method_schema
    from upsr.config.methods import UnknownMethodError

    if name in KINDS:
        kind = KINDS[name]
        module, _, structure = kind.structure.partition(":")
        model = getattr(importlib.import_module(module), structure)
        return file_schema(model, REGISTRIES, optional=["name"] if kind.named else [], based=kind.based)
    try:
        return method_schema(name, REGISTRIES)
    except UnknownMethodError as error:
        known = [known for known, _, _ in kinds()]
        raise UpsrError(f"upsr options schema {name}: no such kind, and {error}{did_you_mean(name, known)}") from None


def all_schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas of all kinds, by name."""
    return {name: schema_of(name) for name, _, _ in kinds()}


def page(schemas: Mapping[str, dict[str, Any]]) -> str:
    """The reference page, from the schemas of all kinds."""
    from upsr.config.reference import reference_page

    about = {name: f"`{files}`. {text}" for name, files, text in kinds()}
    return reference_page(schemas, [name for name in about if name not in KINDS], about)


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _write(text: str, file: Path | None) -> None:
    if file is None:
        print(text, end="")
        return
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {file}")
