"""The measuring programs of benchmarks/ run and print whole tables; the numbers are theirs."""

from __future__ import annotations

import sys

import pytest
import tradeoffs
from PIL import Image

from tests import tiny
from tests.processes import one_thread

pytestmark = pytest.mark.slow


def table(program, monkeypatch, capsys, *arguments):
    """Rows by their first cells, without the header."""
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, arguments)])
    with one_thread():
        assert program.main() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_tradeoffs_with_and_without_ground_truth(tmp_path, monkeypatch, capsys):
    Image.fromarray(tiny.picture(160, 96)).save(tmp_path / "photo.png")
    given = ("--count", 1, "--tiles", 32, "--dtypes", "bfloat16", "--adaptive", 0, 1)
    for option, known in (("--photos", True), ("--lq", False)):
        rows = table(tradeoffs, monkeypatch, capsys, option, tmp_path, *given)
        names = ["float32, all steps", "adaptive 0", "adaptive 1"]
        places = ("tiles of what fits", "tiles of 32")
        assert [row[0] for row in rows] == [*(f"{name}, {place}" for place in places for name in names), "bfloat16"]
        all_steps, nothing_left_out, most_left_out, *small, low = (float(row[5]) for row in rows)
        assert all_steps == nothing_left_out == small[0] == small[1] == 0
        assert min(most_left_out, small[2]) > low > 0
        assert all(bool(row[7]) == bool(row[8]) == known for row in rows)


def test_runtimes(monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'upsr[export]'")
    import runtimes

    monkeypatch.setattr(runtimes, "openvino", None)
    given = ("--side", 32, "--crops", 4, "--rounds", 1, "--networks")
    rows = table(runtimes, monkeypatch, capsys, *given, "g", "denoiser")
    assert [row[:2] for row in rows] == [
        ["g", runtimes.PLAIN],
        ["g", "ours, float32"],
        ["g", "ONNX Runtime, float32"],
        ["denoiser", runtimes.PLAIN],
        ["denoiser", "ours, float32"],
        ["denoiser", "ours, bfloat16"],
        ["denoiser", "ONNX Runtime, float32"],
        ["denoiser", "ONNX Runtime, W8A8"],
    ]
    differences = {tuple(row[:2]): float(row[4]) for row in rows}
    assert all(value < 1e-4 for (_, form), value in differences.items() if form.endswith("float32"))
    assert differences["denoiser", "ONNX Runtime, W8A8"] > differences["denoiser", "ours, bfloat16"] > 0
