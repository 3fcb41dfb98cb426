"""The table of quality is what was measured, and the page shows the result file that lies beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scripts import quality
from scripts.markdown import with_text
from tests.evaluations import workplace
from upsr.evaluation.results import read_rows

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Small benchmarks and methods, SqueezeNet with random weights in a folder of metric weights, and a page to fill."""
    import torchvision

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    workplace(tmp_path)
    (tmp_path / "weights_of_metrics").mkdir()
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "weights_of_metrics/squeezenet1_1.pth")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/quality.md").write_text(
        f"# Quality\n\n{quality.MARKS[0]}\nold table\n{quality.MARKS[1]}\nafter\n"
    )
    return tmp_path


def run(*arguments):
    return quality.main(
        ["--methods", "bicubic", "RRDB", "--datasets", "Tiny", "Wild", "--metric-weights", "weights_of_metrics",
         "--out", "out", "--sheet", "2", *arguments]
    )  # fmt: skip


def test_one_command_writes_table_sheet_and_page(place, capsys):
    assert run("--docs", "docs") == 0
    kept = json.loads((place / "out/results.json").read_text())
    assert json.loads((place / "docs/quality/results.json").read_text()) == kept
    means = {}
    for row in read_rows(place / "out/evaluation"):
        means.setdefault((row.method, row.dataset, f"{row.protocol}/{row.metric}"), []).append(row.value)
    page = (place / "docs/quality.md").read_text()
    (line,) = (x for x in page.splitlines() if x.startswith("| RRDB |") and x.count("±") == 5)
    expected = [np.mean(means["RRDB", "Tiny", measure]) for measure in quality.MEASURES]
    assert [float(cell.split("±")[0]) for cell in line.split("|")[2:-1]] == pytest.approx(expected, abs=6e-3)
    assert "| RRDB minus bicubic |" in page
    assert "lpips_squeeze" in page
    assert "old table" not in page
    assert page.endswith("-->\nafter\n")
    assert page.split(quality.MARKS[0])[1].split(quality.MARKS[1])[0].strip() in capsys.readouterr().out
    sheet = Image.open(place / "out/sheet.png")
    assert sheet.size == (3 * (quality.CROP + 4), 2 * (quality.CROP + 16) + 16)
    assert Image.open(place / "docs/quality/sheet.jpg").size[0] == 4 * (quality.CROP + 4)

    before = (place / "out/evaluation/journal/rank_0.jsonl").read_bytes()
    assert run("--docs", "docs") == 0
    assert (place / "out/evaluation/journal/rank_0.jsonl").read_bytes() == before
    assert (place / "docs/quality.md").read_text() == page


@pytest.mark.slow
def test_a_crop_is_cut_from_the_restored_image_at_full_resolution(place):
    assert run() == 0
    restored = np.asarray(Image.open(place / "out/evaluation/images/RRDB/seed_0/Wild/photo 0.png"))
    crops = quality.Crops("Wild", Path("datasets"), place / "out/evaluation", ("bicubic", "RRDB"))
    (_, images), *_ = crops.rows(3)
    side = min(quality.CROP, *restored.shape[:2])
    assert list(images) == ["LR", "bicubic", "RRDB"]
    assert any(
        np.array_equal(images["RRDB"], restored[top : top + quality.CROP, left : left + quality.CROP])
        for top in range(restored.shape[0] - side + 1)
        for left in range(restored.shape[1] - side + 1)
    )


def test_the_documentation_is_not_written_with_gaps(place, capsys):
    page = (place / "docs/quality.md").read_text()
    assert run("--docs", "docs", "--max-images", "1") == 2
    assert "--max-images is set" in capsys.readouterr().err
    (place / "weights/rrdb.pth").unlink()
    assert run("--docs", "docs") == 2
    assert "RRDB: weights are not here" in capsys.readouterr().err
    assert (place / "docs/quality.md").read_text() == page
    (place / "docs/quality.md").write_text("# no markers")
    assert run("--docs", "docs") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "quality.md must be there" in lines[0]


def test_a_mark_says_that_a_difference_is_beyond_chance():
    values = {"a": {"0": {str(i): i / 10 for i in range(9)}}, "b": {"0": {str(i): i / 10 + 1 for i in range(9)}}}
    noisy = {**values, "b": {"0": {str(i): i / 10 + (-1) ** i for i in range(9)}}}
    for higher_is_better, mark in ((True, "▲"), (False, "▼")):
        record = {"higher_is_better": higher_is_better}
        assert quality._difference(values, "a", "b", "quality/psnr", record) == f"+1.00 [+1.00, +1.00] {mark}"
        assert not quality._difference(noisy, "a", "b", "quality/psnr", record).endswith(("▲", "▼"))


def test_a_mean_says_of_how_many_images_it_is_if_not_of_all():
    values = {"0": {"a": 1.0, "b": 1.0}}
    assert quality._mean(values, "quality/psnr", 2) == "1.00 ± 0.00"
    assert quality._mean(values, "quality/psnr", 3) == "1.00 ± 0.00 (2 of 3)"
    assert quality._mean(None, "quality/psnr", 3) == "-"


def test_the_page_of_this_repository_shows_its_result_file():
    kept = json.loads((DOCS / "quality/results.json").read_text(encoding="utf-8"))
    page = DOCS / "quality.md"
    assert with_text(page, quality.MARKS, "\n".join(quality.tables(kept))) == page.read_text(encoding="utf-8")
    assert (DOCS / "quality/sheet.jpg").stat().st_size < 600_000
