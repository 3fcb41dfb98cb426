"""What keeps a long run in order: guards, checkpoints that stay, validation that is caught up on, what can be seen."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tests import tiny
from tests.processes import forks, train_here
from tests.training import tiny_options
from upsr.compat import LOSS_REGISTRY
from upsr.engine.checkpoint import CheckpointStore, load_checkpoint
from upsr.engine.distributed import Runtime, runtime
from upsr.engine.sinks import CsvSink, Sinks, read_rows
from upsr.engine.train_loop import Trainer
from upsr.errors import DivergedError, PreemptedError, UpsrError

CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def photos(tmp_path) -> Path:
    return tiny.save_pictures(tmp_path / "photos", 3)


def run(root: Path, photos: Path, **changes) -> Path:
    return train_here(tiny_options(root, photos, **changes), CPU)


def state(folder: Path, iteration: int):
    return load_checkpoint(folder / "training_states" / f"{iteration}.state")


def player(folder: Path, iteration: int):
    return state(folder, iteration).players["g"]


@pytest.fixture
def spoilt(monkeypatch) -> Callable[..., dict]:
    """Options of a loss that is not finite at some of its calls, counted from 0; it returns the mean squared error else."""

    class Spoilt(nn.Module):
        def __init__(self, at: list[int], value: float = float("nan")) -> None:
            super().__init__()
            self.at, self.value, self.calls = at, value, 0

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            loss = (prediction - target).square().mean()
            self.calls += 1
            return loss * self.value if self.calls - 1 in self.at else loss

    monkeypatch.setitem(LOSS_REGISTRY._own, "Spoilt", Spoilt)
    return lambda **arguments: {"type": "Spoilt", **arguments}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_counted_and_kept(tmp_path, photos, spoilt, value):
    folder = run(
        tmp_path, photos, train={"pixel_opt": spoilt(at=[2], value=value), "total_iter": 5},
        logger={"save_checkpoint_freq": 1},
    )  # fmt: skip
    before, after, later = (player(folder, iteration) for iteration in (2, 3, 4))
    assert all(torch.equal(v, after.params[n]) for n, v in before.params.items())
    assert all(torch.equal(v, after.params_ema[n]) for n, v in before.params_ema.items())
    assert any(not torch.equal(v, later.params[n]) for n, v in after.params.items())
    assert all(bool(torch.isfinite(v).all()) for v in later.params.values() if v.is_floating_point())
    assert state(folder, 3).guard == {"skipped": 1, "in_a_row": 1}
    assert state(folder, 4).guard == {"skipped": 1, "in_a_row": 0}
    kept = torch.load(folder / "bad_batches" / "iteration_2.pt", weights_only=True)
    assert kept["keys"] == [3, "train", 2]
    (batch,) = kept["ranks"][0]
    assert batch["lq"].shape == (2, 3, 16, 16)
    assert batch["gt"].shape == (2, 3, 64, 64)
    assert batch["slots"] == [0, 1]
    assert all((photos / name).exists() for name in batch["files"])
    assert not torch.isfinite(batch["losses"]["total"])
    log = (folder / "train.log").read_text()
    assert "iteration 3: the loss is not finite; the step was skipped (1 in a row, 1 in all)" in log
    assert "iteration 5: l_pix" in log


def test_too_many_in_a_row_end_the_run(tmp_path, photos, spoilt):
    changes = {
        "train": {"pixel_opt": spoilt(at=[3, 4, 5]), "total_iter": 9, "guard": {"stop_after": 3, "keep_batches": 2}}
    }
    with pytest.raises(DivergedError, match="3 steps in a row had a loss or gradient that is not finite") as error:
        run(tmp_path, photos, logger={"save_checkpoint_freq": 2}, **changes)
    assert error.value.exit_code == 3
    folder = tmp_path / "experiments" / "run"
    assert CheckpointStore(folder).newest_valid().stem == "4"
    assert len(list((folder / "bad_batches").iterdir())) == 2
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"


def test_scattered_bad_steps_do_not_end_the_run(tmp_path, photos, spoilt):
    changes = {"train": {"pixel_opt": spoilt(at=[1, 3, 5]), "total_iter": 8, "guard": {"stop_after": 2}}}
    assert state(run(tmp_path, photos, **changes), 8).guard["skipped"] == 3


def _one_of_two(rank: int, port: int, options: dict, at: dict[int, list[int]]) -> None:
    class SpoiltOnOneRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            loss = (prediction - target).square().mean()
            return loss.detach() * float("nan") + 0 * prediction.mean() if self.calls - 1 in at[rank] else loss

    LOSS_REGISTRY.register()(SpoiltOnOneRank)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    with runtime("pytorch", 0) as place:
        train_here(options, place)


def test_a_bad_loss_on_one_rank_is_skipped_on_both(tmp_path, photos):
    """The gradients are finite, so nothing but the agreement tells the other rank."""
    options = tiny_options(
        tmp_path, photos, datasets={"train": {"batch_size_per_gpu": 1}},
        train={"pixel_opt": {"type": "SpoiltOnOneRank"}, "total_iter": 4}, logger={"save_checkpoint_freq": 1},
    )  # fmt: skip
    processes = [forks().Process(target=_one_of_two, args=(rank, 29631, options, {0: [], 1: [2]})) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    folder = tmp_path / "experiments" / "run"
    assert state(folder, 4).guard == {"skipped": 1, "in_a_row": 0}
    kept = torch.load(folder / "bad_batches" / "iteration_2.pt", weights_only=True)["ranks"]
    assert [[part["slots"] for part in rank] for rank in kept] == [[[0]], [[1]]]
    assert [bool(torch.isfinite(rank[0]["losses"]["total"])) for rank in kept] == [True, False]


@pytest.mark.slow
def test_overflow_in_half_precision_only_lowers_the_scale(tmp_path, photos, spoilt):
    """float16 gradients above 65504 are expected while the scale is looked for: no batch is kept, nothing is counted."""
    changes = {"train": {"pixel_opt": spoilt(at=[1], value=1e4), "total_iter": 4, "amp": "fp16"}}
    folder = run(tmp_path, photos, logger={"save_checkpoint_freq": 1}, **changes)
    assert state(folder, 4).guard["skipped"] == 0
    assert player(folder, 2).scaler["scale"] < player(folder, 1).scaler["scale"]
    assert not (folder / "bad_batches").exists()


def test_gradients_are_clipped_to_the_norm(tmp_path, photos):
    """With the norm bounded far below what gradients have, plain Adam moments are bounded by it."""
    free, bound = (
        run(tmp_path, photos, name=name, train={"max_grad_norm": limit, "total_iter": 1})
        for name, limit in (("free", None), ("bound", 1e-3))
    )

    def moment(folder):
        states = player(folder, 1).optimizer["state"].values()
        return sum(float(s["exp_avg"].square().sum()) for s in states) ** 0.5 / 0.1  # 1 - beta1

    assert moment(bound) == pytest.approx(1e-3, rel=1e-3)
    logged = {tag: float(v) for _, tag, v in read_rows(free / "metrics.csv")}
    assert logged["grad_norm"] == pytest.approx(moment(free), rel=1e-3)
    assert moment(free) > 1e-2


def test_the_stream_goes_on_at_the_right_sample_with_another_global_batch(tmp_path, photos):
    first = run(tmp_path, photos, name="a", train={"total_iter": 3})
    more = {"datasets": {"train": {"batch_size_per_gpu": 4}}, "train": {"total_iter": 5}, "auto_resume": True}
    again = run(tmp_path, photos, name="a", **more)
    assert first == again
    assert state(again, 5).position == 3 * 2 + 2 * 4
    log = (again / "train.log").read_text()
    assert "changed since that state: global batch 2 -> 4" in log
    assert "the stream of samples goes on at sample 6" in log
    assert "datasets.train.batch_size_per_gpu: 2 -> 4" in log


def test_checkpoints_beyond_keep_last_go_and_the_best_stays(tmp_path, photos):
    validation = {"type": "BicubicFolderDataset", "dataroot_gt": str(photos), "name": "held out"}
    folder = run(
        tmp_path, photos, datasets={"val_1": validation}, train={"total_iter": 8, "ema_decay": 0.5},
        val={"val_freq": 2, "max_images": 1, "save_img": False},
        logger={"save_checkpoint_freq": 1, "keep_last": 2, "keep_best": {"metric": "psnr", "direction": "min"}},
    )  # fmt: skip
    assert sorted(path.name for path in (folder / "training_states").iterdir()) == [
        "7.json",
        "7.state",
        "8.json",
        "8.state",
    ]
    rows = [(int(i), float(v)) for i, tag, v in read_rows(folder / "validation.csv") if tag == "held out/psnr"]
    assert [i for i, _ in rows] == [2, 4, 6, 8]
    best = min(rows, key=lambda row: row[1])[0]
    models = {path.name for path in (folder / "models").iterdir()}
    names = ("7", "8", "best", "latest")
    assert models == {f"net_g_{name}.{suffix}" for name in names for suffix in ("safetensors", "pth")}
    with safe_open(folder / "models" / "net_g_best.safetensors", "pt") as file:
        assert file.metadata()["iteration"] == str(best)
        assert file.metadata()["weights"] == "params_ema"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"metric": "pnsr"}, "keep_best.metric: no metric 'pnsr'; did you mean 'psnr'"),
        ({"metric": "psnr", "dataset": "vla_1"}, "keep_best.dataset: no set 'vla_1'; did you mean 'val_1'"),
    ],
)
def test_a_best_of_nothing_is_refused(tmp_path, photos, wanted, message):
    validation = {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}
    with pytest.raises(UpsrError, match=message):
        run(tmp_path, photos, datasets={"val_1": validation}, logger={"keep_best": wanted})


def test_weights_for_use_are_the_average_in_both_layouts(tmp_path, photos):
    folder = run(tmp_path, photos)
    from safetensors.torch import load_file

    plain = load_file(folder / "models" / "net_g_4.safetensors")
    basicsr = torch.load(folder / "models" / "net_g_4.pth", weights_only=True)
    assert set(basicsr) == {"params", "params_ema"}
    assert plain.keys() == basicsr["params_ema"].keys()
    assert all(torch.equal(value, basicsr["params_ema"][name]) for name, value in plain.items())
    manifest = json.loads((folder / "training_states" / "4.json").read_text())
    assert manifest["iteration"] == 4
    assert manifest["versions"]["torch"] == torch.__version__
    assert len(manifest["options_sha256"]) == len(manifest["files"]["4.state"]["sha256"]) == 64


def test_foreign_states_are_told_what_does_not_fit(tmp_path, photos):
    foreign = tmp_path / "basicsr.state"
    torch.save({"epoch": 3, "iter": 4, "optimizers": [], "schedulers": []}, foreign)
    with pytest.raises(
        UpsrError, match=r"it lacks guard, iteration, .*it has the unknown epoch, iter, optimizers"
    ) as error:
        run(tmp_path, photos, path={"resume_state": str(foreign)})
    assert "pretrain_network_g" in str(error.value)
    own = str(run(tmp_path, photos, name="own") / "training_states" / "4.state")
    with pytest.raises(UpsrError, match=r"params has .*of another shape \(conv_before_upsample"):
        run(tmp_path, photos, name="two", path={"resume_state": own}, network_g={"num_feat": 32})


def test_states_that_hold_code_are_refused(tmp_path, photos):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"iteration": Evil()}, tmp_path / "evil.state")
    with pytest.raises(UpsrError, match="holds more than tensors"):
        run(tmp_path, photos, path={"resume_state": str(tmp_path / "evil.state")})
    assert not (tmp_path / "ran").exists()


def test_a_new_run_of_the_same_name_sets_the_old_one_aside(tmp_path, photos):
    run(tmp_path, photos)
    run(tmp_path, photos, manual_seed=9)
    names = sorted(path.name for path in (tmp_path / "experiments").iterdir())
    assert len(names) == 2
    assert names[1].startswith("run_archived_")
    assert CheckpointStore(tmp_path / "experiments" / names[1]).newest_valid() is not None


@pytest.mark.parametrize("key", ["path.resume_state", "path.pretrain_network_g"])
def test_a_new_run_that_begins_with_files_of_its_own_name_is_refused(tmp_path, photos, key):
    """Its folder would be set aside, and the files with it."""
    folder = run(tmp_path, photos)
    files = {
        "resume_state": folder / "training_states/4.state",
        "pretrain_network_g": folder / "models/net_g_latest.pth",
    }
    name = key.removeprefix("path.")
    with pytest.raises(UpsrError, match=rf"{key}: .* lies in the folder that a new run named 'run' sets aside"):
        run(tmp_path, photos, path={name: str(files[name])})
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["run"]
    run(tmp_path, photos, path={name: str(files[name])}, auto_resume=True)
    run(tmp_path, photos, path={name: str(files[name])}, name="another")


def dies_after(monkeypatch, iterations: int) -> None:
    """The next run ends at once, as by a power cut."""
    original = Trainer._iterate

    def iterate(self, *arguments):
        if self.iteration == iterations:
            monkeypatch.setattr(Trainer, "_iterate", original)
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "_iterate", iterate)


@pytest.mark.parametrize("auto_resume", [False, True])
def test_a_new_run_has_nothing_of_one_that_died_before_its_first_checkpoint(tmp_path, photos, monkeypatch, auto_resume):
    changes = {
        "datasets": {"val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}},
        "logger": {"keep_best": {"metric": "psnr", "direction": "min"}},
    }
    dies_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, photos, **changes, val={"val_freq": 2, "max_images": 1})
    folder = tmp_path / "experiments" / "run"
    assert {row[0] for row in read_rows(folder / "validation.csv")} == {"2"}
    assert (folder / "models" / "net_g_best.safetensors").exists()
    changes["logger"]["keep_best"]["metric"] = "ssim"
    again = run(
        tmp_path, photos, **changes, val={"val_freq": 3, "max_images": 1}, train={"total_iter": 3}, manual_seed=8,
        auto_resume=auto_resume,
    )  # fmt: skip
    assert again == folder
    assert {row[0] for row in read_rows(folder / "validation.csv")} == {"3"}
    assert {best["iteration"] for best in json.loads((folder / "best.json").read_text()).values()} == {3}
    with safe_open(folder / "models" / "net_g_best.safetensors", "pt") as file:
        assert file.metadata()["iteration"] == "3"
    assert len(list((tmp_path / "experiments").glob("run_archived_*"))) == (0 if auto_resume else 1)


def test_a_resumed_run_has_nothing_of_what_a_dead_attempt_validated_later(tmp_path, photos, monkeypatch):
    changes = {
        "datasets": {"val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}},
        "logger": {"keep_best": {"metric": "psnr", "direction": "min"}, "save_checkpoint_freq": 2},
        "train": {"total_iter": 6},
        "auto_resume": True,
    }
    dies_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, photos, **changes, val={"val_freq": 5, "max_images": 1})
    folder = run(tmp_path, photos, **changes, val={"val_freq": 6, "max_images": 1})
    assert {row[0] for row in read_rows(folder / "validation.csv")} == {"6"}


def test_a_start_that_failed_leaves_no_archive(tmp_path, photos):
    for _ in range(2):
        with pytest.raises(UpsrError, match="no such training state"):
            run(tmp_path, photos, path={"resume_state": "absent.state"})
    run(tmp_path, photos)
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["run"]


def test_values_that_are_not_finite_are_no_best(tmp_path, photos, monkeypatch):
    """The first validation is spoilt; the ones after it are judged among themselves, and best.json is JSON."""
    from upsr.engine import validation

    given = iter([float("nan"), float("inf"), 20.0, float("-inf"), 30.0, float("nan"), 25.0])
    original = validation.evaluate

    def spoilt(*arguments, **settings):
        result = original(*arguments, **settings)
        result.means["psnr"] = next(given)
        return result

    monkeypatch.setattr(validation, "evaluate", spoilt)
    folder = run(
        tmp_path, photos, datasets={"val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}},
        val={"val_freq": 1, "max_images": 1, "save_img": False, "metrics": {"ssim": None}}, train={"total_iter": 7},
        logger={"keep_best": {"metric": "psnr"}},
    )  # fmt: skip

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    best = json.loads((folder / "best.json").read_text(), parse_constant=refuse)
    assert best == {"val_1/psnr": {"value": 30.0, "iteration": 5}}
    with safe_open(folder / "models" / "net_g_best.safetensors", "pt") as file:
        assert file.metadata()["iteration"] == "5"
    log = (folder / "train.log").read_text()
    assert log.count("the best val_1/psnr so far") == 2
    assert "iteration 1: val_1/psnr is nan and counts for no best" in log


def test_rows_that_a_power_cut_spoilt_are_left_out(tmp_path):
    path = tmp_path / "validation.csv"
    path.write_bytes(
        "iteration,tag,value\n1,写真/psnr,20.0\n2,写真/psnr,\n²,a,1\n3,a,x\n4,写".encode()[:-1]
        + b"\n\0\0\n5,a,1.0\n6,a"
    )
    assert read_rows(path) == [("1", "写真/psnr", "20.0"), ("5", "a", "1.0")]


def test_another_crop_size_on_resume_is_told_and_the_pool_fills_anew(tmp_path, photos):
    run(tmp_path, photos)
    changes = {"datasets": {"train": {"gt_size": 128}}, "train": {"total_iter": 6}, "auto_resume": True}
    folder = run(tmp_path, photos, **changes)
    log = (folder / "train.log").read_text()
    assert "left out 4 pairs of the pool, of another size or more than it holds now" in log
    assert "changed since that state: datasets.train.gt_size: 64 -> 128" in log
    pool = state(folder, 6).pool
    assert [tuple(pairs["gt"].shape) for pairs in pool.values()] == [(2, 3, 128, 128)] * 2


def test_other_images_on_resume_are_told(tmp_path, photos):
    run(tmp_path, photos)
    run(tmp_path, photos, train={"total_iter": 5}, auto_resume=True)
    log = tmp_path / "experiments" / "run" / "train.log"
    assert "other images" not in log.read_text()
    for path in tiny.save_pictures(tmp_path / "more", 2).iterdir():
        path.rename(photos / f"new {path.name}")
    run(tmp_path, photos, train={"total_iter": 6}, auto_resume=True)
    assert (
        "changed since that state: datasets.train: other images, 3 -> 5; the stream of samples is another"
        in log.read_text()
    )
    (photos / "new photo 0.png").rename(photos / "newer.png")
    run(tmp_path, photos, train={"total_iter": 7}, auto_resume=True)
    assert "other images, 5 -> 5" in log.read_text()


def test_a_state_that_does_not_say_its_images_is_resumed(tmp_path, photos):
    """States of earlier versions hold three numbers of their run."""
    store = CheckpointStore(run(tmp_path, photos))
    old = load_checkpoint(store.newest_valid())
    store.save(replace(old, run={name: old.run[name] for name in ("seed", "global_batch", "world_size")}))
    folder = run(tmp_path, photos, train={"total_iter": 5}, auto_resume=True)
    assert "resumed from" in (folder / "train.log").read_text()
    assert "other images" not in (folder / "train.log").read_text()
    assert state(folder, 5).run["images"] == 3


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path, photos):
    folder = run(tmp_path, photos)
    (folder / "training_states" / "4.state").write_bytes(b"")
    with pytest.raises(UpsrError, match="none of the 1 checkpoints is whole"):
        run(tmp_path, photos, auto_resume=True)


def test_a_validation_that_a_signal_interrupts_is_caught_up_on(tmp_path, photos, monkeypatch):
    """The state is saved, and the resumed run measures what a run that nothing happened to has measured."""
    from upsr.engine import validation

    changes = {
        "datasets": {"val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}},
        "val": {"val_freq": 2},
    }
    straight = run(tmp_path, photos, name="straight", **changes)
    original, seen = validation.save_image, []

    def interrupting(*arguments):
        seen.append(arguments)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        original(*arguments)

    monkeypatch.setattr(validation, "save_image", interrupting)
    with pytest.raises(PreemptedError, match="SIGTERM at iteration 2 of 4"):
        run(tmp_path, photos, name="stopped", **changes)
    stopped = tmp_path / "experiments" / "stopped"
    assert read_rows(stopped / "validation.csv") == []
    run(tmp_path, photos, name="stopped", auto_resume=True, **changes)
    assert read_rows(stopped / "validation.csv") == read_rows(straight / "validation.csv")
    assert json.loads((stopped / "status.json").read_text())["state"] == "finished"


def test_everything_there_is_to_see_is_in_tensorboard_and_csv(tmp_path, photos):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(
        tmp_path, photos, train={"total_iter": 6},
        datasets={"val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}},
        val={"val_freq": 3, "max_images": 2},
        logger={"use_tb_logger": True, "print_freq": 3, "pictures": 1},
    )  # fmt: skip
    events = EventAccumulator(str(folder / "tb_logger"), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    expected = {"losses/l_pix", "losses/total", "lr", "grad_norm", "images_per_s", "data_wait_share", "memory_gib"}
    expected |= {"skipped_steps", "s_per_iter", "val_1/psnr", "val_1/ssim"}
    assert expected <= scalars
    by_timestep = {tag for tag in scalars if tag.startswith("losses/t=")}
    assert by_timestep
    assert by_timestep <= {f"losses/t={t}" for t in range(5)}
    shown = "(LR, g(y), uncertainty, weight, x_T, t=4, t=0, SR, GT)"
    assert events.Tags()["images"] == [f"val_1/photo 0 {shown}"]
    assert sorted(events.Tags()["histograms"]) == ["val_1/uncertainty/photo 0", "val_1/weight/photo 0"]
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["tag"] for row in rows} == scalars
    assert [row["iteration"] for row in rows if row["tag"] == "lr"] == ["3", "6"]


def test_per_timestep_losses_add_up_to_the_loss(tmp_path, photos):
    folder = run(tmp_path, photos, train={"total_iter": 1}, datasets={"train": {"batch_size_per_gpu": 8}})
    values = {tag: float(value) for _, tag, value in read_rows(folder / "metrics.csv")}
    by_timestep = [value for tag, value in values.items() if tag.startswith("losses/t=")]
    assert min(by_timestep) <= values["losses/l_pix"] <= max(by_timestep)
    assert len(by_timestep) > 1


def test_csv_rows_after_the_resumed_iteration_are_written_again(tmp_path):
    path = tmp_path / "metrics.csv"
    sink = CsvSink(path, 0)
    for iteration in (1, 2, 3):
        sink.scalars({"a": iteration / 3}, iteration)
    sink.close()
    with path.open("a") as file:
        file.write("4,a,0.")  # a kill in the middle of a row
    sink = CsvSink(path, 2)
    sink.scalars({"a": 9}, 3)
    sink.close()
    assert read_rows(path) == [("1", "a", repr(1 / 3)), ("2", "a", repr(2 / 3)), ("3", "a", "9.0")]


def test_a_sink_that_cannot_write_is_given_up(caplog):
    class Full(CsvSink):
        def __init__(self) -> None:
            self.calls = 0

        def scalars(self, values, iteration):
            self.calls += 1
            raise OSError(28, "No space left on device")

    full = Full()
    sinks = Sinks([full])
    assert sinks
    for iteration in range(3):
        sinks.scalars({"a": 1.0}, iteration)
    assert full.calls == 1
    assert not sinks


def test_a_trace_is_written(tmp_path, photos):
    from upsr.config import parse_options
    from upsr.engine.train_loop import train

    folder = train(parse_options(tiny_options(tmp_path, photos, train={"total_iter": 8}), "test"), CPU, profile=2)
    trace = json.loads((folder / "profile" / "trace_0.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert any("conv" in name for name in names)
    assert "trace in" in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"activation_checkpointing": True},
        {"channels_last": True},
        {"activation_checkpointing": True, "channels_last": True, "accumulate": 2},
    ],
    ids=str,
)
def test_options_for_speed_and_memory_train_the_same(tmp_path, photos, settings):
    warm = {"total_iter": 3, "warmup_iter": 1000}
    accumulate = {"accumulate": settings.get("accumulate", 1)}
    plain = player(run(tmp_path, photos, name="plain", train={**warm, **accumulate}), 3)
    other = player(run(tmp_path, photos, name="other", train={**warm, **settings}), 3)
    assert max(float((v - other.params[n]).abs().max()) for n, v in plain.params.items()) < 1e-6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_training_is_training(tmp_path, photos):
    small = {"channel_mult": [1], "attention_resolutions": []}  # compiling takes a second for every layer
    warm = {"total_iter": 2, "warmup_iter": 1000}
    plain = player(run(tmp_path, photos, name="plain", network_g=small, train=warm), 2)
    other = player(run(tmp_path, photos, name="compiled", network_g=small, train={**warm, "compile": "default"}), 2)
    assert plain.params.keys() == other.params.keys()
    assert max(float((v - other.params[n]).abs().max()) for n, v in plain.params.items()) < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_g_in_half_precision_trains_nearly_the_same(tmp_path, photos, precision):
    plain, half = (
        {
            tag: float(v)
            for _, tag, v in read_rows(run(tmp_path, photos, name=name, train={"aux_amp": name}) / "metrics.csv")
        }
        for name in ("fp32", precision)
    )
    assert half["losses/l_pix"] != plain["losses/l_pix"]
    assert half["losses/l_pix"] == pytest.approx(plain["losses/l_pix"], rel=0.05)


def test_what_a_network_cannot_do_is_refused(tmp_path, photos):
    with pytest.raises(UpsrError, match=r"train\.activation_checkpointing: ATD has none"):
        run(
            tmp_path, photos, model_type="AuxiliarySRModel", network_g={"type": "ATD", **tiny.ATD}, network_aux=None,
            diffusion=None, path={"pretrain_network_aux": None}, train={"activation_checkpointing": True},
        )  # fmt: skip


def test_weights_and_biases_gets_what_the_others_get(tmp_path, photos, monkeypatch):
    """A stand-in for the package, which would want an account."""
    import sys
    import types

    logged, settings = [], {}

    class Run:
        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            logged.append(("finished", {}))

    stub = types.ModuleType("wandb")
    stub.init = lambda **arguments: settings.update(arguments) or Run()
    stub.Image = stub.Histogram = lambda array: ("array", array.shape)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    run(
        tmp_path, photos, logger={"wandb": {"project": "sr"}, "pictures": 1}, val={"max_images": 1},
        datasets={"val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}},
    )  # fmt: skip
    assert settings["project"] == "sr"
    assert settings["config"]["manual_seed"] == 3
    tags = {tag.partition(" (")[0] for _, values in logged for tag in values}
    assert {"losses/total", "grad_norm", "val_1/psnr", "val_1/photo 0", "val_1/uncertainty/photo 0"} <= tags
    assert logged[-1][0] == "finished"


def test_weights_and_biases_that_is_not_there_is_told(tmp_path, photos, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UpsrError, match=r"logger\.wandb: the package is not installed: pip install wandb"):
        run(tmp_path, photos, logger={"wandb": {"project": "sr"}})
