"""The tables of the StableSR paper: published values, the entries and option files behind them, the figure."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from tests import stablesr, tiny
from tests.evaluations import describe_dataset, write
from upsr.cli import main
from upsr.config import load_options
from upsr.config.load import parse_options
from upsr.evaluation.entries import ENTRIES, MissingWeightsError, describe, make_ready
from upsr.homes import option_file
from upsr.methods import build_method
from upsr.methods.stable_diffusion import RANDOM, read
from upsr.methods.stablesr.figures import ConditionStrength
from upsr.report.cost import CostMeter, Setting
from upsr.report.tables import Evidence, RowDescription, fill, read_publication, what_is_waited_for

OPTIONS = Path(__file__).parents[1] / "options"
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


def options_of(name: str) -> Any:
    make = ENTRIES.read(name).make
    return load_options(option_file(make.arguments["opt"]), make.arguments.get("force_yml", []))


def test_rows_have_the_settings_of_their_labels(shared_dir):
    text = (shared_dir / "papers/stablesr.txt").read_text(encoding="utf-8")
    caption = next(line for line in text.splitlines() if line.startswith("Table 6: "))
    prompts = dict(re.findall(r'\((1|2|a|b)\) "(.*?)"[,.]', caption))
    assert len(prompts) == 4
    default, found = options_of("StableSR-200"), {}
    assert (default.sampler.type, default.sampler.steps, default.cfw.w, default.colour) == ("ddpm", 200, 0.5, "adain")
    for table in read_publication("stablesr").tables.values():
        for row in table.rows:
            if row.method and row.method.startswith("StableSR"):
                opt = options_of(row.method)
                found[row.label] = opt.cfw.w, opt.colour, opt.guidance.scale, opt.guidance.prompt, opt.sampler.steps
                if match := re.match(r"negative prompt \((.)\), s = (.*)", row.label):
                    assert opt.guidance.negative_prompt == prompts[match[1]]
                    assert opt.guidance.scale == float(match[2])
    own = (0.5, "adain", 1.0, "", 200)
    expected = {
        "StableSR": own, "time-aware, AdaIN": own, "w = 0.5": own, "StableSR, 200 steps": own, "no prompt": own,
        "(b) time-aware, no colour correction": (0.5, "none", *own[2:]), "(c) time-aware, wavelet": (0.5, "wavelet", *own[2:]),
        "StableSR-Turbo, 4 steps": (*own[:4], 4),
        **{f"w = {w}": (w, *own[1:]) for w in (0.0, 0.75, 1.0)},
        **{f"prompt ({n})": (*own[:3], prompts[n], 200) for n in "12"},
        **{f"negative prompt ({n}), s = {s}": (*own[:2], s, "", 200) for n in "ab" for s in (0.0, 2.5, 5.0, 7.5)},
    }  # fmt: skip
    assert found == expected


@pytest.mark.parametrize(
    ("name", "steps", "folder"),
    [("StableSR-200", 200, "stablesr"), ("StableSR-50", 50, "stablesr"), ("StableSR-20", 20, "stablesr"),
     ("StableSR-Turbo-4", 4, "stablesr_turbo")],
)  # fmt: skip
def test_entries_name_their_weights_and_sizes(tmp_path, monkeypatch, shared_dir, name, steps, folder):
    monkeypatch.chdir(tmp_path)
    description = ENTRIES.read(name)
    assert options_of(name).sampler.steps == steps
    with pytest.raises(MissingWeightsError, match=r"get them from https://huggingface.co/Iceclear/StableSR") as error:
        make_ready(description, torch.device("cpu"), None)
    for file in ("conditioning.safetensors", "cfw.safetensors", "backbone"):
        assert f"pretrained_models/{folder}/{file}" in str(error.value)
    counts = json.loads((shared_dir / "golden/stablesr/counts.json").read_text())
    assert description.expected.parameters == counts["trained_stage1"]
    assert description.expected.aux_parameters == counts["unet_without_sft"] + counts["vae"] + counts["cfw"]


def test_the_model_of_768_is_set_up_as_its_authors_demonstrate_it(shared_dir):
    opt = load_options(OPTIONS / "stablesr/test_768v.yml")
    shown = json.loads((shared_dir / "golden/stablesr/settings.json").read_text())["tiles"]["ddim_768_readme"]
    assert (opt.sampler.type, opt.sampler.steps, opt.sampler.eta) == ("ddim", shown["steps"], shown["eta"])
    assert (opt.guidance.scale, opt.colour, opt.cfw) == (shown["scale"], shown["colour"], None)
    assert shown["tile_overlap"] * 8 * 2 == shown["input_size"]  # half a tile, the default


def test_with_nothing_here_every_cell_is_explained(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")
    monkeypatch.chdir(tmp_path)
    assert main(["tables", "--paper", "stablesr", "--no-cost", "--figure", "3a"]) == 0
    out = capsys.readouterr().out
    found = cells(tmp_path, "1")
    assert len(found) == 9 * 18
    assert all(cell["status"] == "missing" and cell["remarks"] for cell in found.values())
    assert found["StableSR", "DIV2K-Valid-128 fid"]["published"] == "24.44"
    for said in ("DPED-iPhone-128: no folder", "StableSR-200: weights are not here"):
        assert said in found["StableSR", "DPED-iPhone-128 musiq"]["remarks"]
    assert "published values alone: the authors of StableSR" in found["LDM", "RealSR-128 psnr"]["remarks"]
    assert "Figure 3a: missing: RealSR-128: no folder" in out
    assert "issue 156" in out


def cells(place: Path, number: str) -> dict[tuple[str, str], dict[str, str]]:
    with (place / f"results/tables/stablesr/table_{number}.csv").open(newline="") as file:
        return {(line["row"], line["column"]): line for line in csv.DictReader(file)}


@pytest.fixture
def live(tmp_path, monkeypatch) -> Path:
    """A tiny StableSR with weights under the names of the published one, and two sets of four pairs."""
    monkeypatch.chdir(tmp_path)
    options = stablesr.tiny_options(tmp_path, tmp_path)
    method = build_method(parse_options(options, "test"))
    for part, key in method.weight_keys.items():
        network = tiny.random_weights(method.parts()[part])
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(state, tmp_path / f"{part}.safetensors")
        options["path"][key] = str(tmp_path / f"{part}.safetensors")
    options["path"]["allow_random_weights"] = False
    write(tmp_path / "options/stablesr/test_200.yml", {**options, "val": {"tile": None}})
    for path in (OPTIONS / "methods").glob("StableSR-*.yml"):
        entry = yaml.safe_load(path.read_text())
        entry.pop("expected", None)
        write(tmp_path / "options/methods" / path.name, entry)
    for name in ("RealSR-128", "DRealSR-128"):
        for i in range(4):
            for side, size in (("gt", 96), ("lq", 24)):
                folder = tmp_path / "datasets" / name / side
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(tiny.picture(size, size, i)).save(folder / f"{i}.png")
        files = {"type": "PairedFolderDataset", "dataroot_gt": "gt", "dataroot_lq": "lq"}
        describe_dataset(tmp_path, name, files, 4)
    return tmp_path


@pytest.mark.slow
def test_rows_are_measured_with_a_stablesr_here(live, capsys):
    pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")
    shutil.rmtree(live / "datasets/DRealSR-128")
    arguments = ["--paper", "stablesr", "--max-images", "1", "--no-cost"]
    assert main(["tables", *arguments, "--table", "3", "4", "6"]) == 0
    ours = {
        row: cell["ours"]
        for number in ("3", "4", "6")
        for (row, column), cell in cells(live, number).items()
        if column == "RealSR-128 psnr"
    }
    assert ours.pop("(a) not time-aware, AdaIN") == ""
    assert all(float(value) > 0 for value in ours.values())
    assert ours["w = 0.5"] == ours["no prompt"] == ours["time-aware, AdaIN"]
    assert len(set(ours.values())) == 16  # every setting is another one


def test_size_is_counted_of_the_weight_files_alone(live, monkeypatch):
    monkeypatch.setitem(RANDOM, "full", lambda: read(str(live / "sd")))
    meter, entry = CostMeter(torch.device("cpu"), 1), describe("StableSR-200")
    first, cfw = (
        sum(value.numel() for value in load_file(live / f"{part}.safetensors").values())
        for part in ("conditioning", "cfw")
    )
    own = first + cfw
    assert make_ready(entry, torch.device("cpu"), None).facts["parameters"] == first
    assert meter.measure(entry, "own_parameters_m", Setting()) == pytest.approx(own / 1e6)
    assert meter.measure(entry, "all_parameters_m", Setting()) > own / 1e6
    assert meter.measure(entry, "runtime_s", Setting(batch=1, size=16)) > 0


def test_strength_is_the_similarity_of_what_enters_and_leaves_each_layer(tmp_path):
    changes = {"sft": {"norm": "none"}, "guidance": {"scale": 2.0}, "sampler": {"steps": 4}}
    options = stablesr.tiny_options(tmp_path, tmp_path, **changes)
    method = build_method(parse_options(options, "test")).eval()
    strength = ConditionStrength(method)
    for layer in method.conditioning.sft.values():
        for parameter in (*layer.scale.parameters(), *layer.shift.parameters()):
            torch.nn.init.zeros_(parameter)
    turned, opposite = (method.conditioning.sft[name] for name in strength.layers[3:5])
    torch.nn.init.constant_(opposite.scale.bias, -2.0)  # h (1 - 2)
    torch.nn.init.constant_(turned.shift.bias, 1.0)
    seen = []
    hook = turned.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    lq, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 4, 8, 8)
    with strength.watching():
        method.restore(lq, lambda k: noise)
    hook.remove()
    method.restore(lq, lambda k: noise)  # not watched
    ratios, similarities = strength.means()
    a = method.process.alpha_bar(torch.tensor(method.timesteps))
    assert ratios == pytest.approx((a / (1 - a)).tolist())
    assert ratios == sorted(ratios)
    assert len(seen) == 2 * 4  # both prompts, every step
    expected = [F.cosine_similarity(h.flatten(1), (h + 1).flatten(1)).mean() for h in seen]
    torch.testing.assert_close(similarities[3], torch.stack(expected).view(4, 2).mean(dim=1))
    torch.testing.assert_close(similarities[4], -torch.ones(4))
    others = [i for i in range(len(strength.layers)) if i not in (3, 4)]
    torch.testing.assert_close(similarities[others], torch.ones(len(others), 4))


def test_the_figure_is_drawn_or_says_what_is_missing(live, capsys):
    pytest.importorskip("matplotlib")
    command = ["tables", "--paper", "stablesr", "--table", "--figure", "3a", "--max-images", "2", "--no-cost"]
    assert main(command) == 0
    assert "Figure 3a: results/tables/stablesr/figure_3a.png" in capsys.readouterr().out
    with Image.open(live / "results/tables/stablesr/figure_3a.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    (live / "cfw.safetensors").unlink()
    assert main(command) == 0
    assert "Figure 3a: missing: it needs StableSR-200: weights are not here" in capsys.readouterr().out
