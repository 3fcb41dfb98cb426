"""The map of docs/architecture.md: folders import downwards only, and methods know neither each other nor the engine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "upsr"
ORDER = [
    "diffusion", "archs", "codecs", "accelerate", "losses", "metrics", "images", "data", "weights", "tiling", "methods",
    "restoring", "pipeline", "photos", "export", "app", "engine", "evaluation", "report", "commands",
]  # fmt: skip
"""From bottom to top; `config` and the modules of the package itself are below all of them."""


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports when it is imported or run, but for what only a type checker sees."""
    nodes = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("upsr."):
            yield from (f"{node.module}.{name.name}" for name in node.names)
        nodes += ast.iter_child_nodes(node)


def folder(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("name", ORDER)
def test_a_folder_imports_those_below_it(name):
    above = set(ORDER[ORDER.index(name) + 1 :])
    upwards = [f"{path.name}: {module}" for path in (PACKAGE / name).rglob("*.py") for module in imported(path)
               if folder(module) in above]  # fmt: skip
    assert upwards == []


@pytest.mark.parametrize("place", ["*.py", "config/*.py"])
def test_what_is_below_all_folders_imports_none_of_them(place):
    entry = {"__init__.py", "__main__.py", "cli.py"}
    files = [path for path in PACKAGE.glob(place) if path.name not in entry]
    assert files
    assert [f"{path.name}: {m}" for path in files for m in imported(path) if folder(m) in ORDER] == []


def test_methods_do_not_know_each_other():
    folders = [path.name for path in (PACKAGE / "methods").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert {"upsr", "sr"} <= set(folders)
    for own in folders:
        for path in (PACKAGE / "methods" / own).glob("*.py"):
            others = {module.split(".")[2] for module in imported(path) if module.startswith("upsr.methods.")} - {own}
            assert not others & set(folders), path


def test_no_file_is_longer_than_a_reader_s_patience():
    assert [path for path in PACKAGE.rglob("*.py") if path.read_text(encoding="utf-8").count("\n") > 400] == []
