"""Tables beside published values, figures, and the HTML report in a browser."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import resshift, tiny
from tests.evaluations import UNET, describe_dataset, run, save_rrdb, workplace, write
from upsr.archs import UNetModelSwin
from upsr.cli import main
from upsr.evaluation.entries import describe
from upsr.evaluation.results import read_summary
from upsr.methods.ldm import networks
from upsr.report.cost import COSTS, CostMeter, NotMeasuredError, Setting
from upsr.report.html import best_methods, write_report
from upsr.report.photos import differing_places
from upsr.report.tables import COST_DIGITS, COST_TITLES, read_publication
from upsr.timing import timed

FIGURES = list(read_publication("upsr").figures)

pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reproduce(capsys, *arguments: str) -> str:
    assert main(["tables", *arguments]) == 0
    return capsys.readouterr().out


def cells(folder: Path, number: str) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / f"table_{number}.csv").open(newline="") as file:
        return {(line["row"], line["column"]): line for line in csv.DictReader(file)}


def test_with_nothing_here_every_cell_is_explained(place, capsys):
    out = reproduce(capsys, "--no-cost", "--figure", *FIGURES)
    publication = read_publication("upsr")
    for number, table in publication.tables.items():
        assert (
            f"### Table {number}. {table.title}\n\n{len(table.rows) * len(table.columns)} cells, none measured" in out
        )
        found = cells(place / "results/tables", number)
        assert len(found) == len(table.rows) * len(table.columns)
        for cell in found.values():
            assert cell["ours"] == ""
            assert cell["status"] == "missing"
            assert cell["remarks"]
        text = (place / "results/tables" / f"table_{number}.md").read_text()
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        marks = {int(mark) for line in lines for mark in re.findall(r"\[(\d+)\]", line)}
        assert marks == set(range(1, max(marks) + 1)) == {int(m) for m in re.findall(r"^\[(\d+)\] ", text, re.M)}
        tex = (place / "results/tables" / f"table_{number}.tex").read_text()
        assert tex.count(r" \\" + "\n") == len(table.rows) + 1
        assert tex.count("{") == tex.count("}")
    text = (place / "results/tables/table_4.md").read_text()
    head, _, row = [line for line in text.splitlines() if line.startswith("| ")][:3]
    assert re.search(r"\| RealSR psnr \[\d+\] \|", head)  # what all cells of a column or a row wait for is said there
    assert re.match(r"\| ESRGAN \[\d+\] \| - \(20\.67\) \| - \(0\.4485\) \|", row)
    assert re.search(r"126 empty cells wait for RealSR: .*get it from https://github.com/csjcai/RealSR", out)
    assert re.search(r"\d+ cells at most can be filled with nothing but RealSR and UPSR-5\n", out)
    assert out.count("missing: no dataset of ImageNet-Test") == len(FIGURES)


def test_another_paper_has_tables_and_figures_of_its_own(place, capsys):
    out = reproduce(capsys, "--paper", "diffsr", "--no-cost", "--figure", "6", "7")
    folder = place / "results/tables/diffsr"
    assert {path.stem for path in folder.glob("*.md")} == {"table_1-x4", "table_1-x2"}
    found = cells(folder, "1-x2")
    assert found["Diff-SR", "Set5-256-x2 psnr_rgb"]["published"] == "38.373"
    assert "weights are not here" in found["Diff-SR", "Set5-256-x2 psnr_rgb"]["remarks"]
    assert "published values alone" in found["LIIF", "Set5-256-x2 psnr_rgb"]["remarks"]
    assert "Set5-256-x2: no folder" in found["Bicubic", "Set5-256-x2 psnr_rgb"]["remarks"]
    assert out.count("missing: REDS: no folder") == 2
    assert "wait for published values alone" not in out
    assert "MANIQA" not in out


@pytest.mark.parametrize("arguments", [("--table", "4"), ("--figure", "2"), ("--table", "1-x3")])
def test_what_a_paper_does_not_have_is_refused(place, capsys, arguments):
    assert main(["tables", "--paper", "diffsr", *arguments]) == 2
    assert f"{arguments[0]} {arguments[1]}: this paper has here" in capsys.readouterr().err


def test_published_values_are_those_of_the_reference(shared_dir):
    import yaml

    reference = yaml.safe_load((shared_dir / "reference/paper_tables.yml").read_text())
    tables = read_publication("upsr").tables
    names = {"RealSet": "RealSet65"}
    for i, method in enumerate(reference["table4"]["methods"]):
        row = next(row for row in tables["4"].rows if row.label == method)
        for column, value in zip(tables["4"].columns, row.published, strict=True):
            dataset = next(d for d in ("ImageNet-Test", "RealSR", "RealSet") if names.get(d, d) == column.dataset)
            assert reference["table4"][dataset][column.metric][i] == value
    for number in ("1", "5"):
        for row, expected in zip(tables[number].rows, reference[f"table{number}"]["rows"], strict=True):
            assert row.published == [*expected["RealSR"], *expected["RealSet"]]
    for number in ("2", "3", "6", "7"):
        assert {row.label: row.published for row in tables[number].rows} == reference[f"table{number}"]["rows"]


def test_published_values_of_diff_sr_are_those_of_the_paper(shared_dir):
    lines = (shared_dir / "papers/diff_sr.txt").read_text(encoding="utf-8").splitlines()
    printed = {}
    for line in lines:
        cells = re.sub(r"</?b>|\(Ours\)", "", line).split("\t")
        if len(cells) == 16 and cells[1] in ("4\N{MULTIPLICATION SIGN}", "2\N{MULTIPLICATION SIGN}"):
            printed[cells[0], f"x{cells[1][0]}"] = [
                None if cell == "NA" else float(cell.rstrip("MG")) for cell in cells[2:]
            ]
    tables = read_publication("diffsr").tables
    found = 0
    for scale in ("x4", "x2"):
        for row in tables[f"1-{scale}"].rows:
            parameters, _, *measures = printed[row.label, scale]
            sets = [measures[i : i + 3] for i in range(0, 12, 3)]
            expected = [parameters, *(value for fid, psnr, ssim in sets for value in (fid, psnr, psnr, ssim, ssim))]
            assert row.published == expected
            found += 1
    assert found == len(printed) == 22


@pytest.fixture
def fixtures(place, monkeypatch):
    """Small sets and networks under the names of the paper's."""
    workplace(place)
    for name in ("RealSR", "ImageNet-Test"):
        describe_dataset(place, name, {"type": "BicubicFolderDataset", "dataroot_gt": "HR"}, 5)
        shutil.copytree(place / "datasets/Tiny/HR", place / "datasets" / name / "HR")
    describe_dataset(place, "RealSet65", {"type": "FolderDataset", "dataroot_lq": "."}, 65)
    shutil.copytree(place / "datasets/Wild", place / "datasets/RealSet65")
    upsr = {"make": {"type": "OptionFile", "opt": "options/tiny_upsr.yml"}}
    write(place / "options/methods/UPSR-5.yml", upsr)
    checkpoint = {"type": "Checkpoint", "path": "weights/rrdb.pth"}
    right = {
        "architecture": "ESRGAN",
        "parameters": sum(v.numel() for v in torch.load(place / "weights/rrdb.pth").values()),
    }
    write(place / "options/methods/RealESRGAN.yml", {"make": checkpoint, "expected": right})
    save_rrdb(place / "weights/larger.pth", filters=24)
    write(place / "options/methods/SwinIR.yml",
          {"make": {**checkpoint, "path": "weights/larger.pth"}, "expected": {"architecture": "SwinIR"}})  # fmt: skip
    save_rrdb(place / "weights/one.pth", seed=3)
    for name in ("ESRGAN", "BSRGAN"):  # someone has downloaded one file twice
        write(
            place / f"options/methods/{name}.yml",
            {"make": {**checkpoint, "path": "weights/one.pth"}, "expected": right},
        )
    random = {"type": "OptionFile", "opt": "options/tiny_upsr.yml",
              "force_yml": ["path.pretrain_network_g=null", "path.allow_random_weights=true"]}  # fmt: skip
    write(place / "options/methods/Table1-UNW.yml", {"make": random})
    small = tiny.ldm_options(place / "ldm")["backbone"]
    monkeypatch.setattr("upsr.methods.ldm.method.published", lambda: networks.read(small))
    for name, method in (
        ("LDM-15", {"method": "ldm", "backbone": "nowhere", "steps": 2}),
        ("ResShift-15", _resshift(place)),
    ):
        write(place / f"options/{name}.yml", {"name": "x", "datasets": {}, **method})
        write(place / f"options/methods/{name}.yml", {"make": {"type": "OptionFile", "opt": f"options/{name}.yml"}})
    for name in ("ResShift-4", "SinSR-1"):
        shutil.copy(place / "options/methods/ResShift-15.yml", place / f"options/methods/{name}.yml")
    return place


def _resshift(place: Path) -> dict[str, Any]:
    """Options of a ResShift with training, whose weights are not here."""
    options = resshift.tiny_options(place, place / "photos")
    return {**options, "path": {"pretrain_network_g": "nowhere.pth", "pretrain_autoencoder": "nowhere.pth"}}


@pytest.mark.slow
def test_with_data_and_weights_the_cells_are_filled_and_wrong_rows_flagged(fixtures, capsys):
    pytest.importorskip("matplotlib")
    out = reproduce(capsys, "--table", "1", "4", "--no-cost", "--max-images", "2", "--figure", "2", "3", "5", "7")
    found = cells(fixtures / "results/tables", "4")
    for row in ("RealESRGAN", "UPSR-5"):
        for column in ("RealSR psnr", "RealSR ssim", "RealSR niqe", "ImageNet-Test psnr", "RealSet65 niqe"):
            cell = found[row, column]
            assert cell["status"] == "measured"
            assert float(cell["difference"]) == pytest.approx(float(cell["ours"]) - float(cell["published"]), abs=1e-5)
        assert "lpips could not be set up" in found[row, "RealSR lpips"]["remarks"]
        assert "on 2 of 5 images" in found[row, "RealSR psnr"]["remarks"]
    assert (
        "3 images; the published set has 65; RealSet65: on 2 of 3 images"
        in found["UPSR-5", "RealSet65 niqe"]["remarks"]
    )
    for row, reason in (("SwinIR", "architecture: ESRGAN"), ("ESRGAN", "same weights"), ("BSRGAN", "same weights")):
        cell = found[row, "RealSR psnr"]
        assert (cell["ours"], cell["status"]) == ("", "wrong")
        assert reason in cell["remarks"]
    assert (
        cells(fixtures / "results/tables", "1")["UNW", "RealSR psnr"]["remarks"] == "Table1-UNW: its weights are random"
    )
    assert found["DASR", "RealSR psnr"]["status"] == "missing"
    text = (fixtures / "results/tables/table_4.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| SwinIR "))
    assert line.count("| WRONG (") == 18
    mark = re.match(r"\| SwinIR (\[\d+\]) \|", line)[1]
    assert f"{mark} SwinIR: architecture: ESRGAN" in text
    assert out.count("figure_") == 4
    for number in FIGURES:
        with Image.open(fixtures / "results/tables" / f"figure_{number}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    before = (fixtures / "results/tables/evaluation/journal/rank_0.jsonl").read_text()
    reproduce(capsys, "--table", "4", "--no-cost", "--max-images", "2")
    assert (fixtures / "results/tables/evaluation/journal/rank_0.jsonl").read_text() == before


@pytest.mark.slow
def test_costs_are_measured_on_this_machine(fixtures, capsys):
    out = reproduce(capsys, "--table", "2", "3", "--repeats", "2", "--max-images", "1")
    table = cells(fixtures / "results/tables", "2")
    assert float(table["UPSR-5", "runtime (s)"]["ours"]) > 0
    parameters = sum(p.numel() for p in UNetModelSwin(**UNET).parameters())
    assert float(table["UPSR-5", "parameters (M)"]["ours"]) == pytest.approx(parameters / 1e6, abs=1e-5)
    if not torch.cuda.is_available():
        assert "measured with 1 image at once, not 32" in table["UPSR-5", "runtime (s)"]["remarks"]
        assert "memory on GPUs only" in cells(fixtures / "results/tables", "3")["UPSR", "memory (GiB)"]["remarks"]
    assert float(cells(fixtures / "results/tables", "3")["UPSR", "s / iteration"]["ours"]) > 0
    assert float(cells(fixtures / "results/tables", "3")["ResShift", "s / iteration"]["ours"]) > 0
    for row in ("LDM-15", "ResShift-15", "ResShift-4"):
        assert float(table[row, "runtime (s)"]["ours"]) > 0
        assert float(table[row, "auxiliary (M)"]["ours"]) > 0
        assert "weights are not here" in table[row, "RealSR musiq"]["remarks"]
    assert "Measured on" in out


def test_the_timer_measures_what_passes(fixtures):
    calls = []
    timing = timed(lambda: (calls.append(1), time.sleep(0.02)), torch.device("cpu"), repeats=3, warmup=2)
    assert len(calls) == 5
    assert len(timing.seconds) == 3
    assert 0.02 <= timing.median < 0.2
    meter = CostMeter(torch.device("cpu"), 1)
    assert COST_TITLES.keys() == COST_DIGITS.keys() == COSTS.keys()
    for name, own in (("UPSR-5", "all_parameters_m"), ("RealESRGAN", "parameters_m")):
        measured = [meter.measure(describe(name), cost, Setting()) for cost in ("own_parameters_m", own)]
        assert measured[0] == pytest.approx(measured[1])
        assert measured[0] > 0
    assert meter.measure(describe("LDM-15"), "own_parameters_m", Setting()) == 0  # all of it is of one folder
    (fixtures / "mine").mkdir()
    with pytest.raises(NotMeasuredError, match="made elsewhere"):
        meter.measure(describe("mine"), "runtime_s", Setting())


def test_crops_are_where_the_methods_differ():
    one = np.full((200, 300, 3), 100, np.uint8)
    other = one.copy()
    other[20:50, 220:260] = 200
    (top, left), *others = differing_places([one, other], 64, 3)
    assert top <= 20
    assert top + 64 >= 50
    assert left <= 220
    assert left + 64 >= 260
    boxes = [(top, left), *others]
    assert all(abs(a - c) >= 64 or abs(b - d) >= 64 for i, (a, b) in enumerate(boxes) for c, d in boxes[:i])
    assert differing_places([one[:40, :30]], 64, 3) == [(0, 0)]


def test_the_report_works_in_a_browser(place, browser, capsys):
    workplace(place)
    # A name that would break a page that pastes names into HTML.
    (place / "datasets/Tiny/HR/photo 4.png").rename(place / 'datasets/Tiny/HR/<b>photo & "4" é.png')
    run(place)
    assert main(["report", "results"]) == 0
    assert capsys.readouterr().out.strip() == "results/report/index.html"
    shutil.move(place / "results/report", place / "elsewhere")  # it needs nothing but itself
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("requestfailed", lambda request: trouble.append(request.url))
    page.goto(f"file://{place / 'elsewhere/index.html'}")

    opened = [page.locator(f"#{side}").input_value() for side in ("left", "right")]
    assert opened == list(reversed(best_methods(read_summary(place / "results"), "Tiny")[:2]))
    means = page.locator("#means table").first
    assert means.locator("tbody tr").count() == 3
    assert page.locator("#images tbody tr").count() == 5
    head = page.locator("#images th", has_text="RRDB")
    head.click()
    ascending = [float(t) for t in page.locator("#images tbody tr td:nth-child(3)").all_inner_texts()]
    head.click()
    descending = [float(t) for t in page.locator("#images tbody tr td:nth-child(3)").all_inner_texts()]
    assert ascending == sorted(ascending)
    assert descending == ascending[::-1]

    page.locator("#images tbody tr", has_text="photo &").click()
    assert page.locator("#photo-name").inner_text() == '<b>photo & "4" é'
    assert page.evaluate("document.getElementById('left-image').naturalWidth") == 200
    page.select_option("#left", "bicubic")
    page.select_option("#right", "ground truth")
    page.wait_for_function("document.getElementById('right-image').complete")
    titles = page.locator("#left option").all_inner_texts()
    assert titles == ["LR", "bicubic", "RRDB", "TinyUPSR", "ground truth", "uncertainty of TinyUPSR"]

    stage = page.locator("#stage")
    shown = []
    for place_of_line in ("0", "100"):
        page.locator("#slider").fill(place_of_line)
        page.wait_for_timeout(100)
        box = stage.bounding_box()
        line = page.locator("#line").bounding_box()
        assert math.isclose(line["x"], box["x"] + box["width"] * int(place_of_line) / 100, abs_tol=3)
        shown.append(stage.screenshot())
    assert shown[0] != shown[1]  # all of the right picture, then all of the left one
    assert page.locator("#crops img").count() >= 5
    page.select_option("#dataset", "Wild")
    assert page.locator("#images tbody tr").count() == 3
    broken = page.evaluate("[...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)")
    assert (broken, trouble) == ([], [])
    page.close()


def test_a_report_can_be_made_where_the_data_are_gone(place):
    workplace(place)
    run(place, methods=("bicubic",), datasets=("Tiny",))
    shutil.rmtree(place / "datasets/Tiny")
    page = write_report(place / "results").read_text()
    assert "ground truth" not in page.split('id="data">')[1]
    assert main(["report", "nowhere"]) == 2


def test_a_report_shows_no_originals_that_were_exchanged_since(place):
    workplace(place)
    run(place, methods=("bicubic",), datasets=("Tiny",))
    Image.fromarray(np.zeros((192, 200, 3), np.uint8)).save(place / "datasets/Tiny/HR/photo 1.png")
    data = json.loads(write_report(place / "results").read_text().split('id="data">')[1].split("</script>")[0])
    shown = {image["key"]: list(image["pictures"]) for image in data["datasets"][0]["images"]}
    assert shown["photo 1"] == ["bicubic"]
    assert shown["photo 2"] == ["LR", "bicubic", "ground truth"]


def test_a_report_of_many_photos_shows_some(place):
    workplace(place)
    tiny.save_pictures(place / "datasets/Wild", 3)
    run(place, methods=("bicubic",), datasets=("Tiny", "Wild"))
    write_report(place / "results", pictures=2)
    assert sorted(p.name for p in (place / "results/report/pictures/0").iterdir()) == ["0", "1"]
