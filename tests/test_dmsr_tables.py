"""The tables of the DM-SR paper: published values, the entries, option files and trainings behind them, the figures."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from tests import dmsr, tiny
from tests.evaluations import describe_dataset, write
from upsr.cli import main
from upsr.config import load_options
from upsr.config.load import parse_options
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.entries import ENTRIES, MissingWeightsError, make_ready
from upsr.homes import option_file
from upsr.methods import build_method
from upsr.methods.dmsr.encoder import TimestepEncoder
from upsr.methods.dmsr.figures import NoiseDistribution
from upsr.methods.stable_diffusion import described
from upsr.report.tables import read_publication
from upsr.weights import unset_weights, weight_files

OPTIONS = Path(__file__).parents[1] / "options"
METRICS = {
    "brisque": "BRISQUE", "liqe": "LIQE", "clipiqa": "CLIPQA", "topiq_nr": "TOPIQ (NR)", "nima": "NIMA", "maniqa": "MANIQA",
    "musiq": "MUSIQ", "psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "dists": "DISTS", "topiq_fr": "TOPIQ (FR)",
}  # fmt: skip
FULL = "DM-SR-1"


def printed_lines(shared_dir: Path) -> list[list[str]]:
    """The cells of the paper's tables, line by line."""
    text = (shared_dir / "papers/dm_sr.txt").read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.split("\t")] for line in text.splitlines() if "\t" in line]


def numbers(cells: list[str]) -> list[float]:
    return [float(cell) for cell in cells if re.fullmatch(r"\d+(\.\d+)?", cell)]


def test_published_values_without_ground_truth_are_those_of_the_paper(shared_dir):
    table, lines = read_publication("dmsr").tables["1"], printed_lines(shared_dir)
    start = next(i for i, cells in enumerate(lines) if any("BRISQUE" in cell for cell in cells))
    rows, sets = lines[start + 1 : start + 25], ("ImageNet", "DRealSR", "RealSR", "Realset 80")
    assert [rows[6 * i][2] for i in range(4)] == list(sets)
    by_method = [[value for block in range(4) for value in numbers(rows[6 * block + i])] for i in range(6)]
    assert [row.published for row in table.rows] == by_method
    assert [rows[i][1].split()[0].replace("OSDiff", "OSEDiff") for i in range(6)] == [row.label for row in table.rows]
    assert [column.dataset for column in table.columns[::7]] == ["ImageNet-Test-512", "DRealSR", "RealSR", "RealSet80"]
    check_heads(table.columns, lines[start][3:] * 4)


def check_heads(columns: Any, heads: list[str]) -> None:
    measures = [column.metric for column in columns if column.metric]
    for metric, head in zip(measures, heads, strict=False):
        assert head.startswith(METRICS[metric])
    assert len(heads) == len(columns)


@pytest.mark.parametrize(
    ("number", "head", "first"),
    [("2", "Method", 1), ("3", "timestep", 1), ("4", "# of steps", 1), ("5", "ground truth", 1), ("6", r"\mathcal{L}_{adv}", 3),
     ("7", "Prompt", 1), ("9", r"\mathcal{L}_{adv}", 2)],
)  # fmt: skip
def test_published_values_are_those_of_the_paper(shared_dir, number, head, first):
    table, lines = read_publication("dmsr").tables[number], printed_lines(shared_dir)
    width = first + len(table.columns)
    start = next(i for i, cells in enumerate(lines) if cells[0] == head and len(cells) == width)
    check_heads(table.columns, lines[start][first:])
    rows = [numbers(cells[first:]) for cells in lines[start + 1 : start + 1 + len(table.rows)]]
    if number == "2":  # milliseconds
        rows = [[*row[:-1], row[-1] / 1000] for row in rows]
    assert [row.published for row in table.rows] == rows


def test_published_weights_are_those_of_the_paper(shared_dir):
    dm, noise, musiq = (cells for cells in printed_lines(shared_dir) if len(cells) == 12 and len(numbers(cells)) == 11)
    table = read_publication("dmsr").tables["8"]
    assert [dm[0], musiq[0]] == [r"λ_{dm}", r"MUSIQ $_{\uparrow}$"]
    assert [row.label for row in table.rows] == [f"dm {a}, noise {b}" for a, b in zip(dm[1:], noise[1:], strict=True)]
    assert [row.published for row in table.rows] == [[value] for value in numbers(musiq)]


def test_a_method_has_one_published_value_of_a_measure():
    found: dict[Any, float] = {}
    for table in read_publication("dmsr").tables.values():
        for row in table.rows:
            for column, value in zip(table.columns, row.published, strict=True):
                if row.method and column.dataset:
                    assert found.setdefault((row.method, column.dataset, column.metric), value) == value
    assert sum(key[0] == FULL for key in found) == 28 + 5


def options_of(name: str) -> Any:
    make = ENTRIES.read(name).make
    return load_options(option_file(make.arguments["opt"]), make.arguments.get("force_yml", []))


def trainings_of(name: str) -> list[Any]:
    """The option files, with their changes, of the trainings that an entry's weights come from."""
    command = r"python train\.py -opt (\S+\.yml)(?: --force-yml((?: [\w.]+=[^\s,]+)+))?"
    found = re.findall(command, " ".join(ENTRIES.read(name).get))
    return [load_options(OPTIONS.parent / file, changes.split()) for file, changes in found]


def test_settings_of_a_restoration_are_those_of_the_labels():
    default = options_of(FULL)
    assert (default.timestep, default.steps, default.colour) == (None, 1, "none")
    assert default.path.pretrain_network_t == "experiments/DMSR_timestep_x4/models/net_t_latest.safetensors"
    tables = read_publication("dmsr").tables
    for number, key, pattern in (("3", "timestep", r"t = (\d+)"), ("4", "steps", r"(\d+) steps?")):
        for row in tables[number].rows:
            opt, match = options_of(row.method), re.fullmatch(pattern, row.label)
            assert getattr(opt, key) == (int(match[1]) if match else None)
            assert opt.path == default.path
            assert {opt.timestep, opt.steps} <= {default.timestep, default.steps, getattr(opt, key)}


def test_weights_of_a_row_come_from_a_training_of_its_label():
    names = [name for name in ENTRIES.names() if re.match(r"DM-SR-(1$|target|loss)", name)]
    found = {}
    for name in names:
        opt, (*before, last) = options_of(name), trainings_of(name)
        assert last.phase == "dm"
        assert opt.path.pretrain_network_g == f"experiments/{last.name}/models/net_g_latest.safetensors"
        assert opt.path.pretrain_network_t == last.path.pretrain_network_t
        for first in before:
            assert (first.phase, first.estimator) == ("timestep", opt.estimator)
            assert opt.path.pretrain_network_t == f"experiments/{first.name}/models/net_t_latest.safetensors"
        losses = last.train
        found[name] = (
            losses.adversarial.weight, losses.distribution_matching.weight, losses.noise.weight,
            *((first.train.target.measure, first.train.target.gain) for first in before),
        )  # fmt: skip
        assert (losses.l1, losses.perceptual_opt.arguments["loss_weight"]) == (1.0, 2.0)
    assert len({options_of(name).path.pretrain_network_g for name in names}) == len(names) == 16
    tables = read_publication("dmsr").tables
    for row in tables["6"].rows:
        expected = [weight * (name in row.label) for name, weight in (("adv", 0.1), ("dm", 0.5), ("noise", 1.0))]
        assert list(found[row.method][:3]) == expected
    for row in tables["8"].rows:
        assert found[row.method][:3] == (0.1, *(float(part.split()[1]) for part in row.label.split(", ")))
    assert [found[row.method][1:3] for row in tables["9"].rows] == [(0, 1.0), (0.5, 1.0)]
    assert [found[row.method] for row in tables["5"].rows[1:]] == [
        (0.1, 0.5, 1.0, target) for target in (("l1", 8), ("ssim", 1), ("lpips", 1))
    ]
    assert {row.method for number in "5689" for row in tables[number].rows} - {None} == set(names)


def test_entries_know_their_sizes_and_their_trainings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = TimestepEncoder(described(None).vae)
    assert sum(p.numel() for p in encoder.parameters()) == ENTRIES.read(FULL).expected.parameters
    with pytest.raises(MissingWeightsError, match=r"python train\.py -opt options/dmsr/train_dm\.yml") as error:
        make_ready(ENTRIES.read(FULL), torch.device("cpu"), None)
    for file in ("DMSR_x4/models/net_g_latest", "DMSR_timestep_x4/models/net_t_latest", "stabilityai/sd-turbo"):
        assert file in str(error.value)


def test_imagenet_is_made_at_512(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.save_pictures(tmp_path / "photos", 1, size=600)
    assert main(["data", "prepare", "ImageNet-Test-512", "--source", "photos"]) == 0
    dataset = BENCHMARKS.read("ImageNet-Test-512").open(tmp_path / "datasets")
    assert [tuple(dataset[0][side].shape) for side in ("gt", "lq")] == [(3, 512, 512), (3, 128, 128)]


def cells(place: Path, number: str) -> dict[tuple[str, str], dict[str, str]]:
    with (place / f"results/tables/dmsr/table_{number}.csv").open(newline="") as file:
        return {(line["row"], line["column"]): line for line in csv.DictReader(file)}


def test_with_nothing_here_every_cell_is_explained(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")
    monkeypatch.chdir(tmp_path)
    assert main(["tables", "--paper", "dmsr", "--no-cost", "--figure", "4b", "6d"]) == 0
    out = capsys.readouterr().out
    sizes = [len(cells(tmp_path, number)) for number in "123456789"]
    assert sizes == [6 * 28, 6 * 7, 6 * 5, 5 * 5, 4 * 5, 5 * 5, 2 * 5, 11, 2 * 8]
    for number in "123456789":
        assert all(cell["status"] == "missing" and cell["remarks"] for cell in cells(tmp_path, number).values())
    first = cells(tmp_path, "1")["DM-SR-1", "ImageNet-Test-512 maniqa"]
    for said in ("ImageNet-Test-512: no folder", "DM-SR-1: weights are not here", "train_dm.yml"):
        assert said in first["remarks"]
    assert "collapsed to one timestep" in cells(tmp_path, "5")["min*", "RealSet80 nima"]["remarks"]
    assert "LLaVA" in cells(tmp_path, "7")["input-specific", "RealSet80 nima"]["remarks"]
    assert "InvSR is not part" in cells(tmp_path, "2")["InvSR-1", "runtime (s)"]["remarks"]
    assert "(24.984)" in (tmp_path / "results/tables/dmsr/table_9.md").read_text()  # as many digits as the paper
    for number in ("4b", "6d"):
        assert f"Figure {number}: missing: RealSet80: no folder" in out


def test_a_fixed_timestep_needs_no_estimator():
    opt = options_of("DM-SR-t-250")
    assert "path.pretrain_network_t" in weight_files(options_of("DM-SR-1"))
    assert "path.pretrain_network_t" not in weight_files(opt)
    nowhere = opt.model_copy(update={"path": opt.path.model_copy(update={"pretrain_network_t": None})})
    assert "path.pretrain_network_t" not in unset_weights(nowhere)


@pytest.fixture
def live(tmp_path, monkeypatch) -> Path:
    """A tiny DM-SR with weights under the names of all trainings, four pairs of RealSR and four images of RealSet80."""
    monkeypatch.chdir(tmp_path)
    options = dmsr.tiny_options(tmp_path, tmp_path)
    options["path"]["allow_random_weights"] = False
    paths: set[tuple[str, str]] = set()
    for path in (OPTIONS / "methods").glob("DM-SR-*.yml"):
        own = options_of(path.stem).path
        paths |= {("encoder", own.pretrain_network_g), ("estimator", own.pretrain_network_t)}
        entry = yaml.safe_load(path.read_text())
        entry.pop("expected", None)
        write(tmp_path / "options/methods" / path.name, entry)
    method = build_method(parse_options(dmsr.tiny_options(tmp_path, tmp_path), "test"))
    for i, (part, file) in enumerate(sorted(paths)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        state = tiny.random_weights(method.parts()[part], seed=i).state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / file)
    default = options_of(FULL).path
    options["path"] |= {key: getattr(default, key) for key in ("pretrain_network_g", "pretrain_network_t")}
    write(tmp_path / "options/dmsr/test.yml", {**options, "val": {"tile": None}})
    for i in range(4):
        for side, size in (("RealSR/gt", 96), ("RealSR/lq", 24), ("RealSet80", 24)):
            folder = tmp_path / "datasets" / side
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tiny.picture(size, size, i)).save(folder / f"{i}.png")
    pairs = {"type": "PairedFolderDataset", "dataroot_gt": "gt", "dataroot_lq": "lq"}
    describe_dataset(tmp_path, "RealSR", pairs, 4)
    describe_dataset(tmp_path, "RealSet80", {"type": "FolderDataset", "dataroot_lq": "."}, 4)
    return tmp_path


@pytest.mark.slow
def test_every_entry_restores_in_a_way_of_its_own(live):
    torch.manual_seed(0)
    lq, found = torch.rand(1, 3, 16, 16), {}
    for path in sorted((live / "options/methods").glob("DM-SR-*.yml")):
        entry = make_ready(ENTRIES.read(path.stem), torch.device("cpu"), None)
        assert not entry.draws
        found[path.stem] = entry.restorer(0, "", [])(lq, ["x"])
    assert len(found) == 25
    assert len({image.numpy().tobytes() for image in found.values()}) == len(found)


@pytest.mark.slow
def test_rows_are_measured_with_a_dmsr_here(live):
    pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")
    arguments = ["--paper", "dmsr", "--max-images", "1", "--no-cost"]
    assert main(["tables", *arguments, "--table", "2", "9"]) == 0
    second, ninth = (cells(live, number) for number in "29")
    ours = [ninth[row, "RealSR psnr"]["ours"] for row in ("without dm", "with dm")]
    assert all(float(value) > 0 for value in ours)
    assert len(set(ours)) == 2
    assert ours[1] == second["DM-SR-1", "RealSR psnr"]["ours"]


class Predicting:
    """In place of a DM-SR: finds given noise, an image after the other."""

    facts = SimpleNamespace(canvas=(64, 32), scale=4)

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise, self.seen = iter(noise), []

    def predicted_noise(self, lq: torch.Tensor) -> torch.Tensor:
        self.seen.append(lq)
        return next(self.noise)[None]


def measured(noise: torch.Tensor, lq: torch.Tensor) -> tuple[NoiseDistribution, list[torch.Tensor]]:
    method = Predicting(noise)
    found = NoiseDistribution(method)
    for _ in noise:
        found.add(lq)
    return found, method.seen


def test_noise_is_of_the_centre_of_an_image():
    lq = torch.rand(1, 3, 20, 33)
    _, seen = measured(torch.randn(2, 4, 8, 8), lq)
    assert torch.equal(seen[0], lq[..., 2:18, 8:24])  # 16 pixels are the 64 of a tile
    _, seen = measured(torch.randn(2, 4, 8, 8), lq[..., :9, :])
    assert torch.equal(seen[0], lq[..., :9, 12:21])


def test_numbers_of_gaussian_noise_are_those_of_the_normal_distribution():
    noise = torch.randn(50, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    standard = measured(noise, torch.rand(1, 3, 16, 16))[0].statistics((3, 4))
    assert (standard["images"], standard["values"]) == (50, noise.numel())
    zero = [standard[name] for name in ("mean", "skewness", "excess_kurtosis", "qq_rms")]
    assert zero == pytest.approx([0] * 4, abs=0.03)
    one = [standard[name] for name in ("deviation", "over_images", "over_images_at_cell")]
    assert one == pytest.approx([1] * 3, abs=0.1)
    assert standard["over_images_at_cell"] == pytest.approx(noise[:, :, 3, 4].var(dim=0).mean().sqrt().item())
    moved = measured(2 * noise + 1, torch.rand(1, 3, 16, 16))[0].statistics((3, 4))
    for name in ("skewness", "excess_kurtosis"):
        assert moved[name] == pytest.approx(standard[name], abs=1e-6)
    assert (moved["mean"], moved["deviation"]) == pytest.approx((1, 2), abs=0.01)
    assert moved["qq_rms"] == pytest.approx(2**0.5, abs=0.03)  # of 2 z + 1 - z
    uniform = measured(torch.rand(noise.shape), torch.rand(1, 3, 16, 16))[0].statistics((0, 0))
    assert uniform["excess_kurtosis"] == pytest.approx(-1.2, abs=0.02)


def test_noise_that_is_the_same_for_every_image_is_gaussian_but_does_not_vary():
    noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)).expand(9, -1, -1, -1)
    found = measured(noise, torch.rand(1, 3, 16, 16))[0]
    numbers = found.statistics((1, 2))
    assert (numbers["over_images"], numbers["over_images_at_cell"]) == pytest.approx((0, 0), abs=1e-9)
    assert (numbers["deviation"], numbers["qq_rms"]) == pytest.approx((1, 0), abs=0.05)
    np.testing.assert_allclose(found.at((1, 2)), noise[:, :, 1, 2])


@pytest.mark.slow
def test_figures_are_drawn_with_their_numbers_or_say_what_is_missing(live, capsys):
    pytest.importorskip("matplotlib")
    command = ["tables", "--paper", "dmsr", "--table", "--no-cost", "--figure", "4b", "6d", "--max-images"]
    assert main([*command, "3"]) == 0
    folder = live / "results/tables/dmsr"
    with Image.open(folder / "figure_4b.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    with (folder / "figure_4b.csv").open(newline="") as one, (folder / "figure_6d.csv").open(newline="") as two:
        (own,), (same, other) = csv.DictReader(one), csv.DictReader(two)
    assert own == same
    assert [other["method"], other["cell"], other["images"]] == ["DM-SR-loss-adv-dm-0.50", "4 4", "3"]
    assert other["mean"] != own["mean"]
    method = make_ready(ENTRIES.read(FULL), torch.device("cpu"), None).restorer(0, "", []).method
    dataset = BENCHMARKS.read("RealSet80").open(live / "datasets")
    noise = [method.predicted_noise(dataset[i]["lq"][None, :, 4:20, 4:20]) for i in range(3)]
    assert float(own["mean"]) == pytest.approx(torch.cat(noise).double().mean().item(), abs=1e-5)
    assert main([*command, "1"]) == 0
    (live / options_of("DM-SR-loss-adv-dm-0.50").path.pretrain_network_g).unlink()
    assert main([*command, "3"]) == 0
    out = capsys.readouterr().out
    assert "Figure 4b: missing: RealSet80: one image" in out
    assert out.count("figure_4b.png") == 2
    assert "Figure 6d: missing: it needs DM-SR-loss-adv-dm-0.50: weights are not here" in out
