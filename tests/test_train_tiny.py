"""The long training: killed at any moment it goes on exactly, and what it cannot read does not end it."""

from __future__ import annotations

import csv
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from scripts import train_tiny
from tests import tiny
from tests.processes import Fork, taught_here
from upsr.config import load_options
from upsr.errors import UpsrError
from upsr.evaluation.teaching import read_recipe, teach

PATIENCE = 180
G = {"type": "CompactSR", "num_feat": 8, "num_block": 1}
TOTAL = 24


def recipe(root: Path) -> Path:
    """The whole training at the smallest size: two shards, 24 iterations of each stage."""
    tiny.save_pictures(root / "photos", 3, size=96)
    teach = {
        "photos": [{"folder": str(root / "photos")}], "teacher": "bicubic", "crops": 8, "crops_per_shard": 4, "gt_size": 64,
    }  # fmt: skip
    stage1 = {
        "name": "stage1", "model_type": "AuxiliarySRModel", "num_gpu": 0, "pair_pool": {"pairs_per_slot": 0},
        "datasets": {
            "train": {
                "type": "TaughtDataset", "index": str(root / "cache/index.json"), "gt_size": 64, "batch_size_per_gpu": 2,
            }
        },
        "network_g": G,
        "path": {"experiments_root": str(root / "runs")},
        "train": {
            "total_iter": TOTAL, "optim_g": {"type": "AdamW", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"},
            "perceptual_opt": {"type": "WaveletLoss", "levels": 2}, "perceptual_shift": 5,
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 3, "keep_last": 2, "use_tb_logger": False},
    }  # fmt: skip
    stage2 = {
        "base": "stage1.yml", "name": "stage2", "model_type": "UPSRModel",
        "network_g": {"type": "UNetModelSwin", **tiny.UNET}, "network_aux": G,
        "path": {"pretrain_network_aux": str(root / "runs/stage1/models/net_g_latest.safetensors")},
    }  # fmt: skip
    for name, content in (("teach", teach), ("stage1", stage1), ("stage2", stage2)):
        (root / f"{name}.yml").write_text(yaml.safe_dump(content))
    return root


def start(root: Path) -> Fork:
    command = (
        "-m",
        "scripts.train_tiny",
        "--recipe",
        str(root),
        "--teaching",
        str(root / "teach.yml"),
        "--shared",
        str(root / "no_such"),
        "--nice",
        "0",
    )
    (root / "printed.txt").touch()
    return Fork(command, root / "printed.txt")


def reached(root: Path) -> int:
    """Iterations reported, of both stages, by all lives."""
    logs = [path.read_text() for path in (root / "runs").glob("stage?/train.log")]
    return sum(len(re.findall(r"iteration \d+: l_pix", log)) for log in logs)


def wait_for(process: Fork, root: Path, condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, (root / "printed.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def losses(root: Path) -> dict[tuple[str, str, str], str]:
    found = {}
    for stage in ("stage1", "stage2"):
        with (root / "runs" / stage / "metrics.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        found |= {(stage, row[0], row[1]): row[2] for row in rows if row[1].startswith("losses/")}
    return found


def weights(root: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(root / "runs" / stage / "models" / "net_g_latest.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A training that nothing interrupts."""
    root = recipe(tmp_path_factory.mktemp("whole"))
    assert start(root).wait(timeout=PATIENCE) == 0, (root / "printed.txt").read_text()[-3000:]
    return root


@pytest.mark.slow
def test_killed_five_times_it_ends_where_an_uninterrupted_one_ends(whole, tmp_path):
    root = recipe(tmp_path)
    for life in range(5):
        process, before = start(root), reached(root) if life else 0
        if life == 0:
            wait_for(process, root, lambda: list((root / "cache").glob("crops-*.tar")))
        else:
            wait_for(process, root, lambda before=before: reached(root) >= before + 8)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    last = start(root)
    # Its own line: the stage may have begun in an earlier life.
    state = root / "runs" / train_tiny.STATE
    wait_for(last, root, lambda: state.is_file() and f"pid {last.pid}" in state.read_text())
    # Held, as it may otherwise end while the second one still loads.
    last.send_signal(signal.SIGSTOP)
    second = start(root)
    assert second.wait(timeout=PATIENCE) == 2
    last.send_signal(signal.SIGCONT)
    assert "a training is at work there already" in (root / "printed.txt").read_text()
    assert last.wait(timeout=PATIENCE) == 0, (root / "printed.txt").read_text()[-3000:]
    assert losses(root) == losses(whole)
    for stage in ("stage1", "stage2"):
        expected = weights(whole, stage)
        assert all(torch.equal(value, expected[name]) for name, value in weights(root, stage).items())
    state = (root / "runs" / train_tiny.STATE).read_text()
    assert state.count("\n") == 1
    assert "finished" in state


@pytest.mark.slow
def test_a_signal_saves_and_says_so(whole, tmp_path):
    root = recipe(tmp_path)
    with taught_here():
        teach(read_recipe(root / "teach.yml"), root / "cache", 1)
    process = start(root)
    wait_for(process, root, lambda: reached(root) >= 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 75
    assert "the state is saved" in (root / "runs" / train_tiny.STATE).read_text()


def test_a_state_that_cannot_be_read_is_set_aside_and_its_weights_go_on(whole, tmp_path, capsys):
    root = recipe(tmp_path)
    opt = load_options(root / "stage1.yml", ["train.total_iter=6", "train.scheduler.milestones=[4,8]"])
    from upsr.engine.distributed import Runtime
    from upsr.engine.train_loop import train

    with taught_here():
        teach(read_recipe(root / "teach.yml"), root / "cache", 1)
    folder = train(opt, Runtime(torch.device("cpu")))
    for state in (folder / "training_states").glob("*.state"):
        content = torch.load(state, weights_only=True)
        torch.save({**content, "format": 1}, state)
        state.with_suffix(".json").unlink()
        (folder / "training_states").joinpath(f"{state.stem}.json").write_text("{}")
    train_tiny.begin_again_if_needed(folder, root / "none")
    assert len(list(folder.parent.glob("stage1_unreadable_*"))) == 1
    again = train_tiny.from_weights(opt.model_copy(), folder / train_tiny.BEGINNING)
    assert train_tiny.iteration_of(folder / train_tiny.BEGINNING) == 6
    assert again.train is not None
    assert again.train.total_iter == 1  # all were done; one is the least
    longer = load_options(root / "stage1.yml", ["train.scheduler.milestones=[4,8]"])
    rest = train_tiny.from_weights(longer, folder / train_tiny.BEGINNING).train
    assert rest is not None
    assert (rest.total_iter, rest.scheduler.milestones) == (TOTAL - 6, [2])
    assert rest.optim_g.lr == pytest.approx(5e-4)


def test_a_snapshot_starts_a_training_whose_folder_is_lost(whole, tmp_path):
    with pytest.raises(UpsrError, match="no stage has written weights yet"):
        train_tiny.write_snapshot(recipe(tmp_path))
    train_tiny.write_snapshot(whole)
    snapshot = whole / train_tiny.SNAPSHOT / "stage1.safetensors"
    assert train_tiny.iteration_of(snapshot) == TOTAL
    assert {value.dtype for value in load_file(snapshot).values()} == {torch.float16}
    folder = tmp_path / "lost"
    train_tiny.begin_again_if_needed(folder, snapshot)
    assert (folder / train_tiny.BEGINNING).read_bytes() == snapshot.read_bytes()
    train_tiny.begin_again_if_needed(folder, snapshot)  # is what it begins with already


def test_the_last_stages_begin_with_the_snapshots_of_the_first_and_read_every_cache():
    folder = Path("options/tiny2")
    assert train_tiny.stages_of(folder) == ["stage1", "stage2", "stage3", "stage4", "stage5"]
    third, fourth = (load_options(folder / f"{stage}.yml") for stage in ("stage3", "stage4"))
    begins = {third.path.pretrain_network_g: 12000, fourth.path.pretrain_network_g: 1000}
    assert {Path(weights): train_tiny.iteration_of(Path(weights)) for weights in begins} == {
        folder / "snapshot/stage1.safetensors": 12000, folder / "snapshot/stage2.safetensors": 1000,
    }  # fmt: skip
    last = load_options(folder / "stage5.yml")
    assert train_tiny.caches_of(third) == train_tiny.caches_of(fourth) == train_tiny.caches_of(last)
    state = f"training_states/{fourth.train.total_iter}.state"
    assert Path(last.path.resume_state) == Path(fourth.path.experiments_root) / fourth.name / state
    assert [cache.name for cache in train_tiny.caches_of(fourth)] == ["taught", "mild"]
    assert len(train_tiny.TEACHING) == 2
    crops = sum(train_tiny.read_recipe(path).crops for path in train_tiny.TEACHING)
    assert crops == 2 * 4864


def test_a_recipe_without_stages_or_with_other_caches_is_refused(whole, tmp_path):
    with pytest.raises(UpsrError, match=r"no stage1\.yml there"):
        train_tiny.stages_of(tmp_path)
    with pytest.raises(UpsrError, match="--teaching: 2 recipes, but stage2 reads 1 caches"):
        train_tiny.run(whole, [whole / "teach.yml"] * 2, tmp_path, 1)


def test_the_recipe_is_one_that_can_be_read():
    stage1, stage2 = (load_options(f"options/tiny2/{stage}.yml") for stage in ("stage1", "stage2"))
    cache = read_recipe("options/teaching/tiny2.yml")
    assert cache.crops >= 4000
    assert read_recipe("options/teaching/tiny2_kept_apart.yml").photos[0].only == cache.photos[1].leave_out
    assert (
        stage2.path.pretrain_network_aux
        == f"{stage1.path.experiments_root}/{stage1.name}/models/net_g_latest.safetensors"
    )
    from upsr.archs import CompactSR, UNetModelSwin

    sizes = [
        sum(p.numel() for p in network.parameters())
        for network in (CompactSR(**stage1.network_g.arguments), UNetModelSwin(**stage2.network_g.arguments))
    ]
    assert sizes[0] <= 1.5e6
    assert sizes[1] <= 6e6
    assert 2 * sum(sizes) <= 12e6
    assert stage2.network_aux == stage1.network_g
