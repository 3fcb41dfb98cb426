"""train.py and test.py as a user meets them: results in their places, one clear line for a mistake."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests import tiny
from tests.processes import run_fork, run_two
from tests.training import tiny_options
from upsr.archs import ATD, UNetModelSwin
from upsr.engine.distributed import first_host, runtime
from upsr.errors import UpsrError

REPOSITORY = Path(__file__).parents[1]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python ARGUMENTS``; a process of its own start where more than the package's programs is run."""
    if arguments[0].endswith(".py"):
        done = run_fork(*arguments, environment=environment)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def setting(tmp_path):
    """A folder with photos, weights of a tiny model, and its option file."""
    photos = tiny.save_pictures(tmp_path / "photos", 3, size=40)
    torch.save({"params": tiny.random_weights(UNetModelSwin(**tiny.UNET)).state_dict()}, tmp_path / "upsr.pth")
    options = tiny_options(
        tmp_path,
        photos,
        datasets={
            "val_1": {
                "name": "pairs",
                "type": "BicubicFolderDataset",
                "dataroot_gt": str(photos),
                "batch_size_per_gpu": 2,
            },
            "val_2": {"name": "real", "type": "FolderDataset", "dataroot_lq": str(photos)},
        },
        path={"pretrain_network_g": str(tmp_path / "upsr.pth")},
        val={"tile": {"size": 24, "overlap": 8}},
    )
    path = tmp_path / "options.yml"
    path.write_text(yaml.safe_dump(options))
    return tmp_path, path


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error:"))
    return line


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in folder.iterdir()}


def test_testing_writes_images_metrics_and_options(setting):
    folder, path = setting
    result = command("test.py", "-opt", str(path))
    assert result.returncode == 0, result.stderr
    results = folder / "results" / "run"
    with (results / "pairs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["photo 0", "photo 1", "photo 2"]
    summary = json.loads((results / "pairs" / "summary.json").read_text())
    assert summary["means"]["psnr"] == pytest.approx(np.mean([float(row["psnr"]) for row in rows]))
    assert json.loads((results / "real" / "summary.json").read_text())["means"] == {}
    for i in range(3):
        with Image.open(results / "visualization" / "real" / f"photo {i}.png") as image:
            assert image.size == (4 * (40 + 3 * i), 4 * (40 + 5 * i))
    assert json.loads((results / "options.json").read_text())["manual_seed"] == 3

    before = pixels(results / "visualization" / "real")
    options = yaml.safe_load(path.read_text())
    options["datasets"]["val_1"]["batch_size_per_gpu"] = 1
    path.write_text(yaml.safe_dump(options))
    launched = run_two("test.py", "-opt", str(path), "--launcher", "pytorch")
    assert launched.returncode == 0, launched.stdout.decode()
    assert len(list((folder / "results").glob("run_archived_*"))) == 1, "the first run's results are kept"
    after = pixels(results / "visualization" / "real")
    assert after.keys() == before.keys()
    for name, image in before.items():
        # Threads and batch sizes change the order of sums: a value next to a rounding edge may tip over.
        difference = np.abs(after[name].astype(int) - image)
        assert difference.max() <= 1
        assert difference.mean() < 0.01
    again = json.loads((results / "pairs" / "summary.json").read_text())
    assert again["means"] == pytest.approx(summary["means"], rel=1e-6)


def test_misspelt_key(setting):
    line = error_line(command("train.py", "-opt", str(setting[1]), "--force-yml", "train.totl_iter=5"))
    assert "train.totl_iter: unknown key; did you mean 'total_iter'?" in line


def test_missing_folder(setting):
    line = error_line(command("train.py", "-opt", str(setting[1]), "--force-yml", "datasets.train.dataroot_gt=nowhere"))
    assert "datasets.train.dataroot_gt: no such folder: nowhere" in line


def test_gpu_without_cuda(setting):
    line = error_line(command("train.py", "-opt", str(setting[1]), "--force-yml", "num_gpu=1"))
    assert "num_gpu: 1 was asked for, but torch finds no accelerator here" in line
    assert line.rstrip().endswith("set num_gpu: auto or 0")


def test_checkpoint_of_another_architecture(setting):
    folder, path = setting
    torch.save({"params": ATD(**tiny.ATD).state_dict()}, folder / "upsr.pth")
    line = error_line(command("test.py", "-opt", str(path)))
    assert "upsr.pth: the weights under 'params' are not those of this UNetModelSwin" in line


def test_missing_weights(setting):
    line = error_line(command("test.py", "-opt", str(setting[1]), "--force-yml", "path.pretrain_network_aux=null"))
    assert "path.pretrain_network_aux: weights are needed here" in line


def test_unreadable_image_in_a_test_set_is_told_and_the_others_are_done(setting):
    folder, path = setting
    (folder / "photos" / "photo 1.png").write_bytes(b"no image")
    line = error_line(command("test.py", "-opt", str(path)))
    assert "2 image(s) are missing in the results" in line
    assert "photo 1.png: not a readable image" in line
    summary = json.loads((folder / "results" / "run" / "pairs" / "summary.json").read_text())
    assert summary["images"] == 2
    assert len(summary["unreadable"]) == 1


@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_folder_that_cannot_be_written_to(setting, script):
    folder, path = setting
    (folder / "file").touch()
    roots = [f"path.{name}_root={folder / 'file'}" for name in ("experiments", "results")]
    assert "the folder cannot be written to" in error_line(command(script, "-opt", str(path), "--force-yml", *roots))


def test_launcher_without_its_environment(setting):
    line = error_line(command("train.py", "-opt", str(setting[1]), "--launcher", "slurm"))
    assert "SLURM_PROCID is not set in the environment; start with srun" in line


def test_several_processes_that_do_not_know_of_each_other(setting):
    line = error_line(command("train.py", "-opt", str(setting[1]), "--launcher", "none", WORLD_SIZE="2"))
    assert "several processes were started and would overwrite each other" in line


def test_help_teaches():
    programs = ("train.py", "test.py", "scripts/demo.py", "scripts/reproduce_tables.py")
    for result in (command(program, "--help") for program in programs):
        assert result.returncode == 0
        assert "example" in result.stdout or "demo" in result.stdout


@pytest.mark.parametrize(
    ("nodes", "host"), [("gpu[003-005,8],other1", "gpu003"), ("node7", "node7"), ("a-1.b,c", "a-1.b"), ("x[1,4]", "x1")]
)
def test_first_host_of_a_slurm_node_list(nodes, host):
    assert first_host(nodes) == host


def test_slurm_environment_starts_a_process_group(monkeypatch):
    values = {
        "PROCID": "0",
        "NTASKS": "1",
        "LOCALID": "0",
        "JOB_ID": "77",
        "JOB_NODELIST": "localhost; touch /tmp/pwned",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with runtime("slurm", 0) as run:
        assert (run.rank, run.world_size, run.device.type) == (0, 1, "cpu")
    assert not Path("/tmp/pwned").exists()
    monkeypatch.setenv("SLURM_JOB_NODELIST", "$(touch /tmp/pwned)")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UpsrError, match="no list of hosts"), runtime("slurm", 0):
        pass


def test_pyiqa_is_not_imported_unless_asked_for():
    code = "import sys, upsr.engine.train_loop, upsr.engine.testing; print('pyiqa' in sys.modules, 'spandrel' in sys.modules)"
    result = command("-c", code)
    assert result.stdout.strip().endswith("False False"), result.stderr


def test_no_module_needs_a_gpu_at_import():
    assert ".cuda()" not in "".join(path.read_text() for path in (REPOSITORY / "upsr").rglob("*.py"))
