"""Evaluation of many methods on many datasets: the numbers are right, and the same however they are computed."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import resshift, tiny
from tests.evaluations import CPU, describe_dataset, largest_difference, means, run, save_rrdb, values, workplace, write
from tests.processes import Fork, run_fork, run_two
from upsr.choices import NOISE, NOISE_SOURCES
from upsr.cli import main
from upsr.config.load import parse_options
from upsr.data.image_io import decode_image, to_tensor
from upsr.errors import UpsrError
from upsr.evaluation import statistics
from upsr.evaluation.entries import ENTRIES, MissingWeightsError, WrongWeightsError, describe, make_ready
from upsr.evaluation.protocols import PROTOCOLS, build_instruments, differences
from upsr.evaluation.results import Journal, Measured, read_rows, read_summary
from upsr.methods import build_method
from upsr.metrics import NIQE, PSNR, SSIM, MetricUnavailableError, PyIQA
from upsr.provenance import file_digest
from upsr.report.numbers import head, tables_of_means
from upsr.restoring.restore import restore

REPOSITORY = Path(__file__).parents[1]
pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return workplace(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An evaluation of everything, with batches of one, in one process."""
    root = workplace(tmp_path_factory.mktemp("finished"))
    before = os.getcwd()
    os.chdir(root)
    try:
        run(root, protocols=("upsr", "strict", "classic"), seeds=(0, 1))
    finally:
        os.chdir(before)
    return root


COMMAND = (
    "-m", "upsr", "evaluate", "--methods", "bicubic", "RRDB", "TinyUPSR", "--datasets", "Tiny", "Wild",
    "--metrics", "psnr", "ssim", "niqe", "--no-report",
)  # fmt: skip


def test_every_image_is_measured_once_by_every_method(finished):
    summary, rows = read_summary(finished / "results"), read_rows(finished / "results")
    found = means(summary)
    for method in ("bicubic", "RRDB", "TinyUPSR"):
        assert {(p, m) for name, data, p, m in found if (name, data) == (method, "Tiny")} == {
            ("upsr", "psnr"), ("upsr", "ssim"), ("upsr", "niqe"), ("strict", "psnr"), ("strict", "ssim"),
            ("strict", "niqe"), ("classic", "psnr"), ("classic", "ssim"),
        }  # fmt: skip
        assert {m for name, data, _, m in found if (name, data) == (method, "Wild")} == {"niqe"}  # never a 0 without gt
    of_upsr = [
        r for r in rows if r.method == "TinyUPSR" and (r.protocol, r.metric, r.dataset) == ("upsr", "psnr", "Tiny")
    ]
    assert sorted((r.seed, r.image) for r in of_upsr) == [(s, f"photo {i}") for s in (0, 1) for i in range(5)]
    assert {r.seed for r in rows if r.method == "bicubic"} == {0}  # nothing is drawn, so once is enough
    entry = next(r for r in summary["results"] if r["method"] == "TinyUPSR" and r["metric"] == "psnr")
    assert entry["seed_sd"] == pytest.approx(np.std(list(entry["seeds"].values()), ddof=1))
    assert entry["mean"] == pytest.approx(np.mean([r.value for r in of_upsr]), abs=1e-9)
    assert entry["low"] < entry["mean"] < entry["high"]


def test_every_result_says_where_it_comes_from(finished):
    summary = read_summary(finished / "results")
    weights = summary["methods"]["TinyUPSR"]["weights"]
    assert [Path(w["file"]).name for w in weights] == ["upsr.pth", "g.pth"]
    assert all(re.fullmatch("[0-9a-f]{64}", w["sha256"]) for w in weights)
    assert summary["methods"]["TinyUPSR"]["option_file"] == "options/tiny_upsr.yml"
    assert summary["methods"]["RRDB"]["architecture"] == "ESRGAN"
    assert summary["measures"]["upsr/psnr"]["version"].startswith("pyiqa ")
    assert (
        summary["measures"]["strict/psnr"] | {"rounding": "uint8", "y_channel": True}
        == summary["measures"]["strict/psnr"]
    )
    assert summary["seeds"] == [0, 1]
    assert summary["machine"]["cpu"]
    works = {row.work for row in read_rows(finished / "results")}
    assert works == set(summary["works"])


def test_values_are_those_of_the_written_images(finished):
    """The strict protocol measures what a reader of the PNG files measures."""
    skimage = pytest.importorskip("skimage.metrics")
    found = values([r for r in read_rows(finished / "results") if r.seed == 0])
    for method in ("bicubic", "RRDB", "TinyUPSR"):
        for name in ("photo 0", "photo 3"):
            gt = np.asarray(Image.open(finished / "datasets/Tiny/HR" / f"{name}.png"))
            sr = np.asarray(Image.open(finished / "results/images" / method / "seed_0/Tiny" / f"{name}.png"))
            y_sr, y_gt = (x @ np.array([65.481, 128.553, 24.966]) / 255 + 16 for x in (sr, gt))
            psnr = skimage.peak_signal_noise_ratio(y_gt, y_sr, data_range=255)
            ssim = skimage.structural_similarity(
                y_gt, y_sr, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            assert found[method, "Tiny", name, "strict", "psnr"] == pytest.approx(psnr, abs=1e-4)
            assert found[method, "Tiny", name, "strict", "ssim"] == pytest.approx(ssim, abs=1e-4)


@pytest.mark.parametrize("size", [(99, 130), (150, 196)])
def test_psnr_and_ssim_agree_with_pyiqa_and_scikit_image(size):
    import pyiqa
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    gt = to_tensor(tiny.picture(*size))[None]
    sr = to_tensor(tiny.picture(*size, seed=1))[None] * 0.3 + gt * 0.7
    y_sr, y_gt = ((x[0].double().permute(1, 2, 0).numpy() @ [65.481, 128.553, 24.966]) + 16 for x in (sr, gt))
    kind = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert PSNR()(sr, gt) == pytest.approx(peak_signal_noise_ratio(y_gt, y_sr, data_range=255), abs=1e-4)
    assert SSIM()(sr, gt) == pytest.approx(structural_similarity(y_gt, y_sr, **kind), abs=1e-4)
    for name in ("psnr", "ssim"):
        theirs = pyiqa.create_metric(name, device=torch.device("cpu"), test_y_channel=True, color_space="ycbcr")
        assert PyIQA(name, y_channel=True)(sr, gt) == pytest.approx(float(theirs(sr, gt)), abs=1e-6)


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png", "astronaut.png"])
def test_niqe_agrees_with_basicsr_on_photos(name):
    """The two resize and round a little differently; the papers give two digits."""
    from basicsr.metrics.niqe import niqe

    skimage = pytest.importorskip("skimage")
    file = Path(skimage.__file__).parent / "data" / name
    photo = decode_image(file.read_bytes(), 3, name)
    luma = (photo.astype(np.float64) @ np.array([0.299, 0.587, 0.114])).round()
    prior = np.load(Path(sys.modules["basicsr.metrics"].__file__).with_name("niqe_pris_params.npz"))
    theirs = niqe(luma, prior["mu_pris_param"], prior["cov_pris_param"], prior["gaussian_window"])
    assert NIQE()(to_tensor(photo)[None], None) == pytest.approx(float(theirs), abs=1e-2)


def test_batches_do_not_matter(finished, monkeypatch):
    monkeypatch.chdir(finished)
    run(finished, protocols=("strict",), batch_size=4, folder=finished / "batches")
    one_by_one = {key: value for key, value in values_of(finished / "results").items() if key[3] == "strict"}
    assert values_of(finished / "batches") == one_by_one != {}


def values_of(folder: Path) -> dict[tuple[str, ...], float]:
    return values([r for r in read_rows(folder) if r.seed == 0])


def assert_nearly_equal(some: dict[tuple[str, ...], float], all_of_them: dict[tuple[str, ...], float]) -> None:
    """Where a library's kernels depend on the number of threads a float32 pixel differs in its last bits, and so may luma
    that NIQE rounds to 8 bit: one pixel of 40,000 changes by one level."""
    for niqe, tolerance in ((False, 1e-4), (True, 1e-2)):
        one = {k: v for k, v in all_of_them.items() if k[3] == "upsr" and (k[4] == "niqe") == niqe}
        assert largest_difference({k: v for k, v in some.items() if (k[4] == "niqe") == niqe}, one) < tolerance


def test_two_processes_give_the_numbers_of_one(finished):
    done = run_two(*COMMAND, "--out", "two", "--batch-size", "2", cwd=finished)
    assert done.returncode == 0, done.stdout.decode()
    assert_nearly_equal(values_of(finished / "two"), values_of(finished / "results"))
    assert len(list((finished / "two/journal").glob("rank_*.jsonl"))) == 2


def test_after_a_kill_only_the_rest_is_done(finished):
    folder, output = finished / "killed", finished / "killed.out"
    process = Fork((*COMMAND, "--out", "killed"), output, cwd=finished)
    journal = folder / "journal" / "rank_0.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() or len(journal.read_text().splitlines()) < 11:
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(journal.read_text().splitlines())
    assert not (folder / "summary.json").exists()
    with journal.open("a") as file:
        file.write('{"work": "cut off in the mid')
    ended = run_fork(*COMMAND, "--out", "killed", cwd=finished)
    assert ended.returncode == 0, ended.stderr.decode()
    assert "are finished" in (ended.stdout + ended.stderr).decode()
    lines = [line for line in journal.read_text().splitlines() if line.endswith("}}")]
    assert len(lines) == 3 * 8
    assert len(set(lines)) == 3 * 8
    assert done < 24
    assert_nearly_equal(values_of(folder), values_of(finished / "results"))
    assert list(folder.rglob("*.part")) == []


def test_more_of_everything_is_added_to_what_is_there(place):
    run(place, methods=("bicubic",), datasets=("Tiny",))
    before = (place / "results/journal/rank_0.jsonl").read_text()
    summary = run(place, methods=("bicubic", "RRDB"), datasets=("Tiny", "Wild"))
    after = (place / "results/journal/rank_0.jsonl").read_text()
    assert after.startswith(before)
    assert sum('"photo 0"' in line for line in after.splitlines()) == 4
    assert {key[:2] for key in means(summary)} == {(m, d) for m in ("bicubic", "RRDB") for d in ("Tiny", "Wild")}


def test_other_weights_are_other_work(place):
    first = means(run(place, methods=("RRDB",), datasets=("Tiny",)))
    save_rrdb(place / "weights/rrdb.pth", seed=1)
    second = means(run(place, methods=("RRDB",), datasets=("Tiny",)))
    assert first.keys() == second.keys()
    assert all(first[key] != second[key] for key in first)


def test_random_weights_are_the_same_everywhere(place):
    options = {"base": "tiny_upsr.yml", "path": {"pretrain_network_g": None, "allow_random_weights": True}}
    write(place / "options/random.yml", options)
    torch.manual_seed(1)
    first = run(place, methods=("options/random.yml",), datasets=("Tiny",), metrics=("psnr",), folder=place / "a")
    torch.manual_seed(2)
    assert means(
        run(place, methods=("options/random.yml",), datasets=("Tiny",), metrics=("psnr",), folder=place / "b")
    ) == means(first)
    assert first["methods"]["random"]["random_weights"] is True


def test_any_metric_of_pyiqa_can_be_asked_for_by_name(place):
    summary = run(
        place, methods=("bicubic",), datasets=("Tiny",), metrics=("psnr", "gmsd"), protocols=("strict", "upsr")
    )
    assert {key[2:] for key in means(summary)} == {("strict", "psnr"), ("strict", "gmsd"), ("upsr", "psnr")}
    with pytest.raises(UpsrError, match="pyiqa knows no metric 'psrn'"):
        run(place, methods=("bicubic",), datasets=("Tiny",), metrics=("psrn",))


def test_parquet_holds_what_csv_holds(place):
    pytest.importorskip("pyarrow")
    run(place, methods=("bicubic",), folder=place / "a")
    run(place, methods=("bicubic",), folder=place / "b", form="parquet")
    assert read_rows(place / "a") == read_rows(place / "b")


def test_what_cannot_be_had_is_reported_and_the_rest_goes_on(place, capsys):
    """Missing weights of a metric and of a method, and weights that are another network's."""
    save_rrdb(place / "weights/other.pth", filters=24)
    expected = {"expected": {"architecture": "ESRGAN", "parameters": 16697987}}
    write(
        place / "options/methods/Named.yml", {"make": {"type": "Checkpoint", "path": "weights/other.pth"}, **expected}
    )
    write(place / "options/methods/Absent.yml",
          {"make": {"type": "Checkpoint", "path": "weights/absent.pth"}, "get": ["the moon"]})  # fmt: skip
    (place / "broken.pth").write_bytes(b"no weights")
    summary = run(
        place, methods=("bicubic", "Named", "Absent", "broken.pth"), datasets=("Tiny",), metrics=("psnr", "lpips")
    )
    assert set(means(summary)) == {("bicubic", "Tiny", "upsr", "psnr")}
    assert "lpips" in summary["missing_measures"]["upsr/lpips"]
    status = {item["method"]: (item["status"], item["reason"]) for item in summary["unavailable"]}
    assert status["Named"][0] == "wrong"
    assert "16697987" in status["Named"][1]
    assert status["Absent"] == ("missing", "weights are not here (weights/absent.pth); get them from the moon")
    assert status["broken"][0] == "wrong"


def test_finished_images_are_a_method(place):
    run(place, methods=("bicubic",), datasets=("Tiny",))
    mine = place / "mine"
    (place / "results/images/bicubic/seed_0/Tiny").rename(mine)
    summary = run(
        place, methods=("bicubic", "mine"), datasets=("Tiny",), protocols=("strict",), metrics=("psnr", "ssim")
    )
    found = means(summary)
    assert found["mine", "Tiny", "strict", "psnr"] == pytest.approx(
        found["bicubic", "Tiny", "strict", "psnr"], abs=1e-6
    )
    (mine / "photo 2.png").unlink()
    summary = run(place, methods=("bicubic", "mine"), datasets=("Tiny",), protocols=("strict",), metrics=("psnr",))
    assert summary["unavailable"][0]["reason"] == "mine: 1 of 5 images are not there, 'photo 2' for one"


def test_an_image_that_a_metric_cannot_measure_is_left_out_of_its_mean(place):
    Image.fromarray(tiny.picture(15, 15)).save(place / "datasets/Wild/small.png")
    describe_dataset(place, "Wild", {"type": "FolderDataset", "dataroot_lq": "."}, 4)
    summary = run(place, methods=("bicubic",), datasets=("Wild",))
    assert summary["results"][0]["images"] == 3
    with pytest.raises(MetricUnavailableError, match="NIQE needs two blocks of 96x96 pixels"):
        NIQE()(torch.rand(1, 3, 60, 200), None)
    with pytest.raises(MetricUnavailableError, match=r"not defined for this image|of this image is"):
        NIQE()(torch.zeros(1, 3, 200, 200), None)


@pytest.mark.slow
def test_metric_weights_come_from_a_local_folder(tmp_path):
    """Laid out as pyiqa fills torch's hub folder; NIQE's parameters are the ones that are here."""
    from scipy.io import savemat

    (tmp_path / "pyiqa").mkdir()
    with np.load(Path(sys.modules["basicsr.metrics"].__file__).with_name("niqe_pris_params.npz")) as prior:
        parameters = {"mu_prisparam": prior["mu_pris_param"], "cov_prisparam": prior["cov_pris_param"]}
    savemat(tmp_path / "pyiqa" / "niqe_modelparameters.mat", parameters)
    program = (
        "import sys; from pathlib import Path; import torch\n"
        "from upsr.metrics.iqa import NIQE, PyIQA, metric_weights_folder\n"
        "metric_weights_folder(Path(sys.argv[1]))\n"
        "photo = torch.rand(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))\n"
        "print(PyIQA('niqe')(photo, None) == NIQE()(photo, None))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.stdout == "True\n", result.stderr


def test_set_metrics_take_the_folders_and_need_the_images(place, monkeypatch):
    """FID's weights cannot be had here; a stand-in of its shape counts the images of both folders."""
    from upsr.metrics import iqa

    def counting(name):
        return lambda restored, reference, **_: (
            100 * len(list(Path(restored).iterdir())) + len(list(Path(reference).iterdir()))
        )

    monkeypatch.setattr(iqa, "create_pyiqa", counting)
    summary = run(place, methods=("bicubic",), protocols=("strict",), metrics=("psnr", "fid"))
    assert means(summary)["bicubic", "Tiny", "strict", "fid"] == 505
    assert ("bicubic", "Wild", "strict", "fid") not in means(summary)
    (place / "results/images/bicubic/seed_0/Tiny/of an image that was in the set once.png").write_bytes(b"")
    again = run(place, methods=("RRDB",), datasets=("Tiny",), protocols=("strict",), metrics=("psnr", "fid"))
    assert means(again)["bicubic", "Tiny", "strict", "fid"] == 505
    plan = {"protocols": ("strict",), "metrics": ("psnr", "fid"), "folder": place / "without images"}
    summary = run(place, methods=("bicubic",), save_images=False, **plan)
    assert "--no-images" in summary["missing_measures"]["strict/fid"]


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_protocols_name_metrics_that_exist(name):
    """Those whose weights cannot be had here are missing, with a reason; none is unknown."""
    protocol = PROTOCOLS.read(name)
    offline = [
        m
        for m, c in protocol.metrics.items()
        if c.type not in ("PyIQA", "LPIPS", "DISTS", "CLIPIQA", "NTIREScore")
        or c.arguments.get("metric") in ("psnr", "ssim")
    ]
    instruments = build_instruments([protocol], CPU.device, offline)
    assert set(instruments.metrics) == {f"{name}/{metric}" for metric in offline}
    from pyiqa import list_models

    assert {c.arguments["metric"] for c in protocol.metrics.values() if c.type == "PyIQA"} <= set(list_models())


def test_lpips_is_measured_where_its_backbone_is_and_missing_where_not(place, monkeypatch):
    """The quality protocol with torch's hub folder empty and the network down, then with a backbone in that folder."""
    import torchvision

    monkeypatch.setattr("torch.hub._hub_dir", str(place / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    plan = {"methods": ("bicubic",), "protocols": ("quality",), "metrics": ("psnr", "lpips_squeeze")}
    summary = run(place, **plan, folder=place / "without")
    assert {key[1:] for key in means(summary)} == {("Tiny", "quality", "psnr")}
    assert "squeezenet1_1-b8a52dc0.pth" in summary["missing_measures"]["quality/lpips_squeeze"]
    (place / "hub/checkpoints").mkdir(parents=True, exist_ok=True)  # torchvision has made it
    torch.save(torchvision.models.squeezenet1_1().state_dict(), place / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth")
    summary = run(place, **plan, folder=place / "with")
    assert {key[1:] for key in means(summary)} == {("Tiny", "quality", "psnr"), ("Tiny", "quality", "lpips_squeeze")}
    (table,) = tables_of_means(summary)
    assert [head.split()[0] for head in table.heads] == ["psnr", "lpips_squeeze"]


def test_heads_of_lpips_name_its_backbone():
    records = {name: PROTOCOLS.read(name).metrics for name in ("upsr", "quality")}
    of_pyiqa = {**records["upsr"]["lpips"].model_dump(), "higher_is_better": False}
    own = {**records["quality"]["lpips_squeeze"].model_dump(), "higher_is_better": False}
    assert head("lpips", of_pyiqa).startswith("lpips (AlexNet) ")
    assert head("lpips_squeeze", own) == "lpips_squeeze \N{DOWNWARDS ARROW}"


@pytest.mark.parametrize("name", ENTRIES.names())
def test_method_descriptions_are_whole(name):
    description = ENTRIES.read(name)
    assert description.about
    assert description.make.type in ("BicubicUpsampling",) or name == "UPSR-untrained" or description.get


def test_numbers_of_different_measures_are_not_set_side_by_side():
    def record(version, **more):
        return {"version": f"pyiqa {version} maniqa", "rounding": "float", **more}

    assert differences(record("0.1.9"), record("0.1.10")) == ["measured by pyiqa 0.1.9 maniqa and pyiqa 0.1.10 maniqa"]
    assert differences(record("0.1.10"), record("0.1.12")) != []
    assert differences(record("0.1.13"), record("0.1.16")) == []
    assert differences({"version": "pyiqa 0.1.3 psnr"}, {"version": "pyiqa 0.1.16 psnr"}) == []
    assert differences({"version": "pyiqa 0.1.16 psnr"}, {"version": "basicsr 1.4.2 psnr"}) != []
    assert differences(record("0.1.16", luma="yiq"), record("0.1.16", luma="ycbcr")) == ["luma yiq and ycbcr"]


def test_comparison_refuses_what_was_measured_differently(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert main(["compare", "results", "bicubic", "TinyUPSR", "--json", "out.json"]) == 0
    results = json.loads((finished / "out.json").read_text())["results"]
    psnr = next(r for r in results if (r["protocol"], r["metric"]) == ("upsr", "psnr"))
    found = means(read_summary(finished / "results"))
    expected = found["TinyUPSR", "Tiny", "upsr", "psnr"] - found["bicubic", "Tiny", "upsr", "psnr"]
    assert psnr["difference"] == pytest.approx(expected, abs=1e-9)
    run(finished, methods=("bicubic",), folder=finished / "old")
    path = finished / "old/summary.json"
    path.write_text(path.read_text().replace('"luma": "ycbcr"', '"luma": "yiq"'))
    assert main(["compare", "results", "bicubic", "bicubic", "--other", "old"]) == 2
    assert "is not comparable: luma ycbcr and yiq" in capsys.readouterr().err
    assert main(["compare", "results", "bicubic", "bicubic", "--other", "old", "--force"]) == 0
    assert "warning: upsr/psnr on Tiny" in capsys.readouterr().out


@pytest.mark.parametrize("images", [2, 5, 20, 100])
def test_intervals_hold_the_mean_as_often_as_they_say_however_few_the_images(images):
    samples = np.random.default_rng(images).normal(3, 1, (2000, images))
    intervals = np.array([statistics.interval(sample) for sample in samples])
    assert np.mean((intervals[:, 0] <= 3) & (intervals[:, 1] >= 3)) == pytest.approx(0.95, abs=0.015)


def test_an_interval_is_students():
    low, high = statistics.interval(np.array([1.0, 2.0, 4.0, 7.0]))
    assert (low + high) / 2 == pytest.approx(3.5)
    assert (high - low) / 2 == pytest.approx(
        3.182446305 * math.sqrt(7 / 4)
    )  # the variance is 7; 0.975 of t with 3 degrees
    assert statistics.interval(np.array([2.0, 2.0])) == (2, 2)
    assert statistics.interval(np.array([1.0, math.inf])) == (None, None)


def test_two_methods_are_compared_image_by_image():
    same = statistics.compare({0: {"a": 1.0, "b": 2.0}}, {0: {"a": 1.0, "b": 2.0}})
    assert (same.difference, same.p_value, same.wins) == (0, 1, 0.5)
    shifted = statistics.compare(
        {0: dict.fromkeys("abcdefgh", 1.0)}, {0: {c: 2 + i / 10 for i, c in enumerate("abcdefgh")}}
    )
    assert shifted.p_value < 0.01
    assert shifted.wins == 1
    assert shifted.low > 1
    assert statistics.describe_sample({0: {"a": 1.0}}).low is None


def test_a_journal_survives_whatever_is_in_it(tmp_path):
    journal = Journal(tmp_path, 0)
    journal.add("w", "a", Measured("1", None, {"x": 1.5}))
    journal.close()
    with (tmp_path / "rank_0.jsonl").open("a") as file:
        file.write(
            '\n[1, 2]\nnull\n{"work": "w", "image": "b", "content": "1", "picture": null, "values": {"x": NaN}}\n'
        )
        file.write('{"work": "w", "image": "b", "val')
    again = Journal(tmp_path, 0)
    again.add("w", "c", Measured("2", "3", {"x": 2.5}))
    again.close()
    assert Journal(tmp_path, 1).read() == {
        "w": {"a": [Measured("1", None, {"x": 1.5})], "c": [Measured("2", "3", {"x": 2.5})]}
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "bicubic"], "--datasets: name at least one"),
        (
            ["--methods", "bicubik", "--datasets", "Tiny"],
            "no method 'bicubik' in options/methods/; did you mean 'bicubic'?",
        ),
        (["--methods", "bicubic", "--datasets", "Tinny"], "no dataset 'Tinny' in datasets/; did you mean 'Tiny'?"),
        (["--methods", "bicubic", "--datasets", "Tiny", "--protocols", "uspr"], "no protocol 'uspr'"),
        (["--methods", "bicubic", "bicubic", "--datasets", "Tiny"], "the method 'bicubic' is given twice"),
        (["--methods", "bicubic", "--datasets", "Set5"], "Set5: no folder datasets/Set5; get it from"),
        (["--methods", "none.pth", "--datasets", "Tiny"], "none.pth: no such checkpoint"),
        (["--methods", "bicubic", "--datasets", "Tiny", "--batch-size", "0"], "--batch-size: a whole number"),
        (["--methods", "bicubic", "--datasets", "Tiny", "--tile", "4"], "--tile: at least 8"),
        (["--methods", "bicubic", "--datasets", "Tiny", "--metric-weights", "nowhere"], "nowhere: no such folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_get_one_line(place, capsys, arguments, message):
    assert main(["evaluate", "--num-gpu", "0", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_wrong_files_are_refused_by_their_digest(place):
    description = ENTRIES.read("RRDB")
    expected = description.expected.model_copy(update={"sha256": ["0" * 64]})
    with pytest.raises(WrongWeightsError, match="sha256"):
        make_ready(description.model_copy(update={"expected": expected}), CPU.device, None)


def test_published_sizes_are_those_of_the_networks(tmp_path):
    """What the descriptions of ESRGAN, BSRGAN and the like expect is what spandrel builds for their published layout."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    with torch.device("meta"):
        count = sum(p.numel() for p in RRDBNet(num_filters=64, num_blocks=23, scale=4).parameters())
    for name in ("ESRGAN", "RealSR-JPEG", "BSRGAN", "RealESRGAN"):
        assert ENTRIES.read(name).expected.parameters == count


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("LDM-15", ["ldm-sr"]),
        ("ResShift-15", ["resshift_realsrx4_s15_v1.pth", "autoencoder_vq_f4.pth"]),
        ("ResShift-4", ["resshift_realsrx4_s4_v3.pth", "autoencoder_vq_f4.pth"]),
        ("SinSR-1", ["SinSR_v1.pth", "autoencoder_vq_f4.pth"]),
    ],
)
def test_a_baseline_without_its_weights_names_each_file_and_where_it_is(place, name, files):
    with pytest.raises(MissingWeightsError, match=r"weights are not here .*; get them from https://") as error:
        make_ready(ENTRIES.read(name), CPU.device, None)
    for file in files:
        assert f"pretrained_models/{file}" in str(error.value)


def test_each_weight_file_of_an_entry_has_its_digest(place):
    options = resshift.tiny_options(place, place / "photos")
    method = build_method(parse_options(options, "test"))
    for part, key in method.weight_keys.items():
        torch.save(method.parts()[part].state_dict(), place / f"{part}.pth")
        options["path"][key] = str(place / f"{part}.pth")
    options["path"]["allow_random_weights"] = False
    write(place / "resshift.yml", options)
    digests = [file_digest(place / f"{part}.pth") for part in method.weight_keys]
    make = {"type": "OptionFile", "opt": "resshift.yml"}
    write(place / "options/methods/Right.yml", {"make": make, "expected": {"sha256": digests}})
    assert [path.name for path in make_ready(ENTRIES.read("Right"), CPU.device, None).weights] == [
        "denoiser.pth",
        "autoencoder.pth",
    ]
    write(place / "options/methods/Wrong.yml", {"make": make, "expected": {"sha256": [digests[0], digests[0]]}})
    with pytest.raises(WrongWeightsError, match=r"autoencoder\.pth: sha256"):
        make_ready(ENTRIES.read("Wrong"), CPU.device, None)


def test_latent_diffusion_is_measured_from_its_option_file(place):
    write(place / "ldm.yml", {"name": "x", "datasets": {}, **tiny.ldm_options(place / "ldm")})
    first = means(run(place, methods=("ldm.yml",), datasets=("Tiny",), folder=place / "a"))
    assert means(run(place, methods=("ldm.yml",), datasets=("Tiny",), folder=place / "b", batch_size=4)) == first


def test_the_noise_of_an_option_file_is_that_of_its_images(place):
    options = {"name": "x", "datasets": {}, **tiny.ldm_options(place / "ldm")}
    for noise, named in ((None, NOISE), ("counter", "counter"), ("sequential", "sequential")):
        write(place / "ldm.yml", options if noise is None else {**options, "val": {"noise": noise}})
        entry = make_ready(describe("ldm.yml"), CPU.device, None)
        assert entry.facts.get("noise", "sequential") == named
        lq = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        method = entry.restorer(0, "Tiny", ["a"]).method
        expected = restore(method, lq, seed=0, names=["a"], noise=named)
        assert torch.equal(entry.restorer(0, "Tiny", ["a"])(lq, ["a"]), expected)
        other = next(source for source in NOISE_SOURCES if source != named)
        assert not torch.equal(restore(method, lq, seed=0, names=["a"], noise=other), expected)


def test_decoded_pictures_are_those_that_were_measured(finished):
    path = finished / "results/images/bicubic/seed_0/Wild/photo 1.png"
    assert decode_image(path.read_bytes(), 3, "x").shape == (4 * 55, 4 * 53, 3)


def test_evaluation_refuses_a_dataset_that_cannot_be_used(place):
    (place / "datasets/Tiny/HR/photo 1.bmp").write_bytes((place / "datasets/Tiny/HR/photo 1.png").read_bytes())
    with pytest.raises(UpsrError, match=r"1 name\(s\) stand for more than one image \(photo 1\)"):
        run(place, methods=("bicubic",), datasets=("Tiny",))
