"""Write the notebooks of examples/ from its programs: each `# %%` begins a cell.

A notebook has no outputs. Change the program, then run this; a test compares the two.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write
from upsr.errors import exiting

EXAMPLES = Path(__file__).parents[1] / "examples"
_INSTALLATION = """\
# Installation, where upsr is not installed: remove the "# " of one of the lines, run the cell, restart the kernel.
# The first is for notebooks opened in a clone of the repository, the second for Colab, beside a clone in the folder upsr.
# %pip install -e ..
# %pip install -e ./upsr"""


def notebook_of(name: str, program: str) -> str:
    """The text of a notebook (nbformat 4.5): installation as a comment, the docstring, then each cell below its title.

    Args:
        name: of the program, without its ending; the first title.
        program: Python in percent format, with a docstring. A cell of comments alone becomes text.
    """
    head, *cells = re.split(r"^# %% ", program, flags=re.MULTILINE)
    title = name.replace("_", " ").capitalize()
    parts = [("code", _INSTALLATION), ("markdown", f"# {title}\n\n{ast.get_docstring(ast.parse(head))}")]
    for cell in cells:
        parts += _parts_of(cell)
    notebook = {
        "cells": [_cell(kind, text, number) for number, (kind, text) in enumerate(parts)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _parts_of(cell: str) -> Iterator[tuple[str, str]]:
    """Title and code of a cell; a cell of comments alone is text."""
    title, _, body = cell.strip().partition("\n")
    code = re.sub(r" *# fmt: \w+$", "", body, flags=re.MULTILINE).strip()
    if code and all(line.startswith("#") for line in code.splitlines()):
        title, code = "\n".join([title, *(line.removeprefix("#").removeprefix(" ") for line in code.splitlines())]), ""
    yield "markdown", f"### {title}"
    if code:
        yield "code", code


def _cell(kind: str, text: str, number: int) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": text.splitlines(keepends=True)}


@exiting
def main() -> None:
    """Write them."""
    ArgumentParser(description=__doc__).parse_args()
    for program in sorted(EXAMPLES.glob("*.py")):
        with atomic_write(program.with_suffix(".ipynb")) as temporary:
            temporary.write_text(notebook_of(program.stem, program.read_text(encoding="utf-8")), encoding="utf-8")
        print(program.with_suffix(".ipynb").relative_to(EXAMPLES.parent))


if __name__ == "__main__":
    sys.exit(main())
