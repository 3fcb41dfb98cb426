"""Tables as Markdown, LaTeX and CSV. Every cell without a number has a mark, or its row or column has, and every mark is
explained below."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence

from upsr.report.tables import Cell, Table

_MARKS = {"missing": "-", "wrong": "WRONG"}
_LATEX = str.maketrans(
    {
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\^{}",
    }
)


def markdown(table: Table) -> str:
    """Each cell: ours, then the published value and the difference in brackets."""
    remarks = table.remarks
    lines = [f"### Table {table.number}. {table.title}", ""]
    lines += [
        "ours (published; difference)" + (f". {table.note[0].upper()}{table.note[1:]}." if table.note else ""),
        "",
    ]
    of_rows, of_columns = table.shared()
    heads = [_marked(name, _marks(said, remarks)) for name, said in zip(table.columns, of_columns, strict=True)]
    lines += [_row(["method", *heads]), _row(["---"] + ["---:"] * len(table.columns))]
    for label, cells, said in zip(table.rows, table.cells, of_rows, strict=True):
        own = [set(cell.finding.remarks) - said - column for cell, column in zip(cells, of_columns, strict=True)]
        texts = [_markdown_cell(cell, _marks(rest, remarks)) for cell, rest in zip(cells, own, strict=True)]
        lines.append(_row([_marked(label, _marks(said, remarks)), *texts]))
    lines += ["", *(f"[{i}] {remark}  " for i, remark in enumerate(remarks, start=1))]
    return "\n".join(lines).rstrip() + "\n"


def latex(table: Table) -> str:
    """A booktabs table; ours above, the published value in grey below (needs booktabs, makecell, xcolor)."""
    remarks = table.remarks
    of_rows, of_columns = table.shared()
    heads = [
        _escape(name) + _raised(_marks(said, remarks)) for name, said in zip(table.columns, of_columns, strict=True)
    ]
    body = []
    for label, cells, said in zip(table.rows, table.cells, of_rows, strict=True):
        own = [set(cell.finding.remarks) - said - column for cell, column in zip(cells, of_columns, strict=True)]
        texts = [_latex_cell(cell, _marks(rest, remarks)) for cell, rest in zip(cells, own, strict=True)]
        body.append(" & ".join([_escape(label) + _raised(_marks(said, remarks)), *texts]) + r" \\")
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_escape(table.title)}: ours, and the published value with the difference in grey.}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["", *heads]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize $^{{{i}}}$ {_escape(remark)}" for i, remark in enumerate(remarks, start=1)),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def comma_separated(table: Table) -> str:
    """One line a cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", "ours", "published", "difference", "status", "remarks"])
    for label, cells in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, cells, strict=True):
            values = [cell.finding.value, cell.published, cell.difference]
            shown = ["" if value is None else repr(round(value, 6)) for value in values]
            writer.writerow([table.number, label, column, *shown, cell.finding.status, "; ".join(cell.finding.remarks)])
    return text.getvalue()


FORMATS = {"md": markdown, "tex": latex, "csv": comma_separated}
"""By the ending of the file."""


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _marks(said: Collection[str], remarks: Sequence[str]) -> list[int]:
    return [i for i, remark in enumerate(remarks, start=1) if remark in said]


def _marked(text: str, marks: Sequence[int]) -> str:
    return text + (" " + "".join(f"[{mark}]" for mark in marks) if marks else "")


def _raised(marks: Sequence[int]) -> str:
    return f"$^{{{','.join(map(str, marks))}}}$" if marks else ""


def _ours(cell: Cell) -> str:
    value = cell.finding.value
    return _MARKS[cell.finding.status] if value is None else f"{value:.{cell.digits}f}"


def _published(cell: Cell) -> str:
    if cell.published is None:
        return "not reported"
    text = f"{cell.published:.{cell.digits}f}"
    if cell.difference is None:
        return text
    return f"{text}; {round(cell.difference, cell.digits) + 0.0:+.{cell.digits}f}"  # + 0.0 makes -0.0 a plain 0


def _markdown_cell(cell: Cell, marks: Sequence[int]) -> str:
    return f"{_ours(cell)}{''.join(f'[{mark}]' for mark in marks)} ({_published(cell)})"


def _latex_cell(cell: Cell, marks: Sequence[int]) -> str:
    return rf"\makecell[r]{{{_ours(cell)}{_raised(marks)} \\ \textcolor{{gray}}{{{_published(cell)}}}}}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\textbackslash ").translate(_LATEX)
