"""The tables of the StableSR paper: published values, rows, the entries and option files behind them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from upsr.report.tables import Evidence, RowDescription, fill, read_publication, what_is_waited_for

METRICS = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "fid": "FID", "clipiqa": "CLIP-IQA", "musiq": "MUSIQ"}


def printed_lines(shared_dir: Path) -> list[list[str]]:
    """The cells of the paper's tables, line by line."""
    text = re.sub(r"</?[bu]>", "", (shared_dir / "papers/stablesr.txt").read_text(encoding="utf-8"))
    return [[cell.strip(" $") for cell in line.split("\t")] for line in text.splitlines() if "\t" in line]


def numbers(cells: list[str]) -> list[float]:
    return [float(number) for cell in cells for number in re.findall(r"\d+\.\d+", cell)]


@pytest.mark.parametrize(("number", "first", "count"), [("1", "RealSR", 9), ("2", "DiffBIR", 3), ("4", "(w = 0.0)", 4)])
def test_published_values_of_tables_with_a_column_a_method_are_those_of_the_paper(shared_dir, number, first, count):
    table, lines = read_publication("stablesr").tables[number], printed_lines(shared_dir)
    start = next(i for i, cells in enumerate(lines) if len(cells) == count + 2 and cells[2] == first) + 1
    rows = lines[start : start + len(table.columns)]
    assert all(METRICS[column.metric] in cells[1] for column, cells in zip(table.columns, rows, strict=True))
    assert all(len(numbers(cells[2:])) == count for cells in rows)
    by_metric = [numbers(cells[2:]) for cells in rows]
    assert [row.published for row in table.rows] == [list(values) for values in zip(*by_metric, strict=True)]


@pytest.mark.parametrize(("number", "first", "count"), [("3", "(a)", 4), ("6", "[]", 11)])
def test_published_values_of_tables_with_two_sets_in_a_cell_are_those_of_the_paper(shared_dir, number, first, count):
    table, lines = read_publication("stablesr").tables[number], printed_lines(shared_dir)
    start = next(i for i, cells in enumerate(lines) if cells[0] == first)
    pairs = [[numbers([cell]) for cell in cells if "/" in cell] for cells in lines[start : start + count]]
    expected = [[values[side] for side in (0, 1) for values in row] for row in pairs]
    assert [row.published for row in table.rows] == expected
    sets = [column.dataset for column in table.columns]
    assert sets == sorted(sets, key=["RealSR-128", "DRealSR-128"].index)


def test_published_sizes_and_seconds_are_those_of_the_paper(shared_dir):
    printed = {cells[0]: numbers(cells[1:]) for cells in printed_lines(shared_dir)}
    rows = read_publication("stablesr").tables["5"].rows
    assert [row.published for row in rows] == [
        list(pair) for pair in zip(printed["Trainable Params"], printed["Runtime"], strict=True)
    ]


def test_the_default_is_the_same_in_every_table_that_has_it():
    tables = read_publication("stablesr").tables
    found = {}
    for table in tables.values():
        for row in table.rows:
            if row.method == "StableSR-200":
                for column, value in zip(table.columns, row.published, strict=True):
                    if column.dataset:
                        assert found.setdefault((column.dataset, column.metric), value) == value
    assert len(found) == 18


def test_a_row_without_a_method_says_why():
    table = read_publication("stablesr").tables["3"]
    filled = fill("3", table, Evidence("stablesr", None, {}, [], None))
    reason = "published values alone: an encoder without time embedding was not published"
    assert {cell.finding.remarks for cell in filled.cells[0]} == {(reason,)}
    assert not any("published values alone" in line for line in what_is_waited_for([filled]))
    others = fill("2", read_publication("stablesr").tables["2"], Evidence("stablesr", None, {}, [], None))
    assert others.cells[0][0].finding.remarks == ("published values alone: options/methods/ has no such entry",)
    with pytest.raises(ValidationError, match="has a method; remove the reason"):
        RowDescription(label="x", method="bicubic", published=[], reason="y")
