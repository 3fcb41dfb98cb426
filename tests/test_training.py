"""Training: the whole chain learns, resumes exactly, and does not depend on how a batch is split."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import tiny
from tests.processes import trained_by_two
from tests.training import CLEAN_STAGE, tiny_options
from upsr.config import parse_options
from upsr.engine.checkpoint import CheckpointStore, load_checkpoint
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import build_metrics, build_validation_set, evaluate
from upsr.engine.players import rate_factor
from upsr.engine.train_loop import Trainer, train
from upsr.errors import UpsrError
from upsr.methods import build_method
from upsr.methods.bicubic.method import Bicubic
from upsr.pipeline.files import load_model
from upsr.restoring import ModelRestorer

REPOSITORY = Path(__file__).parents[1]
CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def photos(tmp_path) -> Path:
    return tiny.save_pictures(tmp_path / "photos", 3)


def run(root: Path, photos: Path, *, auto_resume: bool = False, **changes) -> Path:
    options = tiny_options(root, photos, auto_resume=auto_resume, **changes)
    return train(parse_options(options, "test"), CPU)


def weights(folder: Path, name: str = "latest") -> dict[str, dict[str, torch.Tensor]]:
    return torch.load(folder / "models" / f"net_g_{name}.pth", weights_only=True)


def largest_difference(a: Path, b: Path) -> float:
    first, second = weights(a), weights(b)
    return max(
        float((first[key][name].double() - second[key][name].double()).abs().max())
        for key in ("params", "params_ema")
        for name in first[key]
    )


def test_ten_and_ten_iterations_are_twenty(tmp_path, photos):
    """Bit-equal: weights, average, optimiser, pool. The pool is full after two steps, so its content matters."""
    whole = run(tmp_path, photos, name="whole", train={"total_iter": 20})
    half = run(tmp_path, photos, name="half", train={"total_iter": 10})
    run(tmp_path, photos, name="half", train={"total_iter": 20}, auto_resume=True)
    assert largest_difference(whole, half) == 0
    a, b = (load_checkpoint(folder / "training_states" / "20.state") for folder in (whole, half))
    first, second = a.players["g"].optimizer["state"], b.players["g"].optimizer["state"]
    for name, state in first.items():
        assert all(torch.equal(state[key], second[name][key]) for key in ("exp_avg", "exp_avg_sq", "step"))
    for slot, pairs in a.pool.items():
        assert torch.equal(pairs["lq"], b.pool[slot]["lq"])
    assert weights(half)["params"].keys() == weights(half)["params_ema"].keys()
    assert any(not torch.equal(v, weights(half)["params_ema"][k]) for k, v in weights(half)["params"].items())


def test_only_a_run_that_begins_warns_of_random_weights(tmp_path, photos):
    warning = "path.pretrain_network_g is not set: UNetModelSwin begins with random weights"
    folder = run(tmp_path, photos, name="one", train={"total_iter": 2}, logger={"save_checkpoint_freq": 2})
    assert (folder / "train.log").read_text().count(warning) == 1
    run(tmp_path, photos, name="one", train={"total_iter": 3}, auto_resume=True)
    log = (folder / "train.log").read_text()
    assert log.count(warning) == 1
    assert "UNetModelSwin has the weights of the training state" in log
    named = run(tmp_path, photos, name="two", path={"resume_state": str(folder / "training_states/2.state")})
    assert "random weights" not in (named / "train.log").read_text()
    begun = run(tmp_path, photos, name="three", train={"total_iter": 1}, auto_resume=True)
    assert warning in (begun / "train.log").read_text()


def test_a_state_given_as_weights_names_the_weights_beside_it(tmp_path, photos):
    folder = run(tmp_path, photos, name="one", train={"total_iter": 1})
    state = folder / "training_states/1.state"
    beside = f"{folder}/models/net_g_1.pth or {folder}/models/net_g_1.safetensors"
    for read in (
        lambda: run(tmp_path, photos, name="two", path={"pretrain_network_g": str(state)}),
        lambda: load_model(state),
    ):
        with pytest.raises(UpsrError) as error:
            read()
        assert str(error.value).startswith(
            f"{state}: the state of a training, not weights; the weights of its run are {beside};"
        )
    for file in (folder / "models").iterdir():
        file.unlink()
    with pytest.raises(UpsrError, match=r"models/net_g_1\.safetensors, which is not here"):
        load_model(state)


def test_a_named_state_is_resumed_and_a_new_run_is_not(tmp_path, photos):
    first = run(tmp_path, photos, name="first", logger={"save_checkpoint_freq": 2})
    assert CheckpointStore(first).newest_valid() == first / "training_states" / "4.state"
    state = str(first / "training_states" / "2.state")
    again = run(tmp_path, photos, name="again", path={"resume_state": state})
    assert largest_difference(first, again) == 0
    log = (again / "train.log").read_text()
    assert "resumed from" in log
    assert "iteration 2:" not in log


def test_accumulated_micro_batches_are_one_batch(tmp_path, photos):
    whole = run(tmp_path, photos, name="whole", datasets={"train": {"batch_size_per_gpu": 4}})
    parts = run(tmp_path, photos, name="parts", datasets={"train": {"batch_size_per_gpu": 1}}, train={"accumulate": 4})
    assert largest_difference(whole, parts) < 1e-5


def test_two_processes_train_what_one_does(tmp_path, photos):
    tiny.save_pictures(photos, 5)  # on three, rounding is 1.3e-5
    options = tiny_options(
        tmp_path, photos, name="one", datasets={"train": {"batch_size_per_gpu": 4}}, train={"total_iter": 5}
    )
    options["train"] |= {"warmup_iter": 50}  # AdamW's first steps turn rounding of near-zero gradients into whole steps
    options["datasets"]["val_1"] = {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}
    one = train(parse_options(options, "test"), CPU)
    options |= {"name": "two"}
    options["datasets"]["train"] |= {"batch_size_per_gpu": 2, "num_worker_per_gpu": 1}
    two = trained_by_two(options)
    assert largest_difference(one, two) < 1e-5

    def validation(folder):
        (line,) = (x for x in (folder / "train.log").read_text().splitlines() if "val_1:" in x)
        return line.split("val_1:")[1]

    assert validation(one) == validation(two)
    pool = load_checkpoint(two / "training_states" / "5.state").pool
    assert sorted(pool) == [0, 1, 2, 3]

    # The same state goes on with another number of processes.
    options |= {"name": "on"}
    options["path"] |= {"resume_state": str(two / "training_states" / "5.state")}
    options["train"] |= {"total_iter": 7}
    options["datasets"]["train"] |= {"batch_size_per_gpu": 4}
    on = train(parse_options(options, "test"), CPU)
    options |= {"name": "straight"}
    options["path"] |= {"resume_state": None}
    straight = train(parse_options(options, "test"), CPU)
    assert largest_difference(on, straight) < 1e-5


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_same_weights_other_seed_others(tmp_path, photos, workers):
    loading = {"train": {"num_worker_per_gpu": workers}}
    first = run(tmp_path, photos, name="first")
    second = run(tmp_path, photos, name="second", datasets=loading)
    other = run(tmp_path, photos, name="other", manual_seed=4)
    assert largest_difference(first, second) == 0
    assert largest_difference(first, other) > 1e-3


@pytest.mark.slow
def test_one_photo_is_learnt(tmp_path):
    """The whole chain: degradation, loss, sampler, EMA, metrics. Loss falls 5x; the photo comes out better than bicubic."""
    import skimage.data

    photos = tmp_path / "photo"
    photos.mkdir()
    Image.fromarray(skimage.data.astronaut()[40:168, 160:288]).resize((64, 64), Image.Resampling.BOX).save(
        photos / "one.png"
    )
    options = tiny_options(
        tmp_path,
        photos,
        degradation={
            "first": CLEAN_STAGE,
            "second": CLEAN_STAGE,
            "second_order_prob": 0.0,
            "final": {"sinc_prob": 0.0},
        },
        pair_pool={"pairs_per_slot": 0},
        datasets={
            "train": {"batch_size_per_gpu": 4, "use_hflip": False, "use_vflip": False, "use_rot": False},
            "val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)},
        },
        train={"total_iter": 300, "optim_g": {"lr": 4e-3}, "ema_decay": 0.95},
        logger={"print_freq": 10},
    )
    opt = parse_options(options, "test")
    folder = train(opt, CPU)
    lines = [line for line in (folder / "train.log").read_text().splitlines() if "l_pix" in line]
    losses = [float(line.split("l_pix ")[1].split(",")[0]) for line in lines]
    assert losses[-1] < losses[0] / 5

    data = build_validation_set("val_1", opt.datasets["val_1"], None)
    weights = {"pretrain_network_g": str(folder / "models" / "net_g_latest.safetensors")}
    tested = parse_options({**options, "path": {**options["path"], **weights}}, "test")
    psnr = {
        name: evaluate(ModelRestorer(model.eval(), 0), data, build_metrics(opt, CPU.device)[0], CPU).means["psnr"]
        for name, model in {"upsr": build_method(tested), "bicubic": Bicubic(4)}.items()
    }
    assert psnr["upsr"] > psnr["bicubic"] + 1, psnr


def test_truncated_photos_are_skipped_and_counted(tmp_path, photos):
    whole = Path(tiny.save_pictures(tmp_path / "jpeg", 1, suffix=".jpg") / "photo 0.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").write_bytes(b"")
    log = (run(tmp_path, photos, train={"total_iter": 8}) / "train.log").read_text()
    assert log.count("cut.jpg") == 1
    assert log.count("empty.png") == 1
    assert "skipped, 2 unreadable so far" in log
    listed = (tmp_path / "experiments" / "run" / "unreadable.txt").read_text()
    assert [name in listed for name in ("cut.jpg", "empty.png", "photo 0.png")] == [True, True, False]
    assert len(listed.splitlines()) == 2
    assert "iteration 8" in log


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_validation_image_does_not_end_training(tmp_path, photos, workers):
    held_out = tiny.save_pictures(tmp_path / "held out", 2)
    (held_out / "photo 0.png").write_bytes(b"no image")
    validation = {"type": "BicubicFolderDataset", "dataroot_gt": str(held_out), "num_worker_per_gpu": workers}
    log = (run(tmp_path, photos, train={"total_iter": 1}, datasets={"val_1": validation}) / "train.log").read_text()
    assert "left out:" in log
    assert "(1 images, 1 unreadable)" in log


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"type": "BicubicFolderDataset", "scale": 2}, r"datasets\.val_1: its pairs are x2, but scale is 4"),
        ({"type": "BicubicFolderDataset", "channels": 1}, r"datasets\.val_1\.channels: 1, but the network has 3"),
        ({"type": "PairedFolderDataset", "dataroot_lq": "half"}, r"val_1: photo 0: the LR image is 48x48, .* 96x96"),
        ({"type": "PairedFolderDataset", "dataroot_lq": "turned"}, r"val_1: photo 1: the LR image is 25x24, .* 99x101"),
        ({"type": "BicubicFolderDataset", "dataroot_gt": "dots"}, r"val_1: photo 0: 3x3 is smaller than 4 pixels"),
    ],
)
def test_a_validation_set_that_does_not_fit_is_refused_before_the_first_iteration(
    tmp_path, photos, validation, message
):
    for name, size in (
        ("half", lambda w, h: (w // 2, h // 2)),
        ("turned", lambda w, h: (h // 4, w // 4)),
        ("dots", lambda w, h: (3, 3)),
    ):
        (tmp_path / name).mkdir()
        for path in photos.iterdir():
            with Image.open(path) as image:
                image.resize(size(*image.size)).save(tmp_path / name / path.name)
    folders = {key: str(tmp_path / value) for key, value in validation.items() if key.startswith("dataroot")}
    with pytest.raises(UpsrError, match=message):
        run(
            tmp_path,
            photos,
            datasets={"val_1": {"dataroot_gt": str(photos), **validation, **folders}},
            val={"max_images": 2},
        )
    assert "iteration 1" not in (tmp_path / "experiments" / "run" / "train.log").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"perceptual_shift": 65, "perceptual_opt": {"type": "WaveletLoss", "levels": 2}},
        {"perceptual_shift": 4, "perceptual_opt": {"type": "WaveletLoss", "levels": 2}},
        {"perceptual_opt": {"type": "WaveletLoss", "levels": 7}},
        {"grid_opt": {"type": "GridLoss", "period": 3}},
        {"pixel_opt": {"type": "MSELoss", "reduction": "none"}},
        {"pixel_opt": {"type": "GANLoss", "gan_type": "vanilla"}},
    ],
    ids=str,
)
def test_losses_that_crops_do_not_fit_are_refused_before_the_first_iteration(tmp_path, photos, settings):
    with pytest.raises(UpsrError, match=r"train: pixel_opt, .* cannot be computed of crops of 64: "):
        run(tmp_path, photos, train=settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_of_broken_photos_ends_training_with_one_line(tmp_path, photos, workers):
    for path in photos.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UpsrError, match="10 images in a row could not be read") as error:
        run(tmp_path, photos, datasets={"train": {"num_worker_per_gpu": workers}})
    assert len(str(error.value).splitlines()) == 1


def test_stage_one_trains_g_and_stage_two_takes_it(tmp_path, photos):
    g = {"type": "ATD", **tiny.ATD}
    first = run(
        tmp_path, photos, name="stage1", model_type="AuxiliarySRModel", network_g=g, network_aux=None, diffusion=None,
        path={"pretrain_network_aux": None}, train={"pixel_opt": {"type": "L1Loss"}},
        datasets={"val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}},
    )  # fmt: skip
    assert "psnr" in (first / "train.log").read_text()
    second = run(
        tmp_path,
        photos,
        name="stage2",
        path={"pretrain_network_aux": str(first / "models" / "net_g_latest.safetensors")},
    )
    assert "loaded 'root'" in (second / "train.log").read_text()


@pytest.mark.parametrize(("scale", "channels", "gt_size"), [(1, 3, 16), (2, 3, 32), (8, 1, 128), (4, 1, 64)])
def test_other_scales_and_channels_train_and_restore(tmp_path, photos, scale, channels, gt_size):
    opt = parse_options(
        tiny_options(
            tmp_path, photos,
            scale=scale,
            datasets={
                "train": {"gt_size": gt_size, "channels": channels},
                "val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos), "scale": scale, "channels": channels},
            },
            network_g={"scale": scale, "out_channels": channels, "in_channels": channels * scale**2},
            network_aux={"upscale": scale, "in_chans": channels},
            path={"pretrain_network_aux": None, "allow_random_weights": True},
            train={"total_iter": 2},
            val={"max_images": 1},
        ),
        "test",
    )  # fmt: skip
    log = (train(opt, CPU) / "train.log").read_text()
    assert "psnr" in log
    assert "nan" not in log


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(tmp_path, photos, amp):
    # A crop at a time: convolutions in float16 have no fast kernels on CPUs.
    sets = {"train": {"batch_size_per_gpu": 1}}
    log = (run(tmp_path, photos, train={"amp": amp, "total_iter": 4}, datasets=sets) / "train.log").read_text()
    assert "iteration 4" in log
    assert "nan" not in log


@pytest.mark.parametrize(
    "changes",
    [
        {"diffusion": {"sampler": {"type": "posterior"}}},
        {"diffusion": {"one_step": True, "sampler": {"steps": None}}},
        {"diffusion": {"steps": 15, "sampler": {"steps": 3}}},
        {"diffusion": {"steps": 1, "sampler": {"steps": 1}}},
        {"uncertainty": {"enabled": False}},
        {"diffusion": {"sr_condition": False}, "network_g": {"cond_channels": 48}},
    ],
    ids=["posterior", "one_step", "15 steps, 3 calls", "1 step", "no weighting", "no SR condition"],
)
def test_every_variant_trains_and_validates(tmp_path, photos, changes):
    validation = {"datasets": {"val_1": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos)}}}
    changes = {**changes, **validation, "train": {"total_iter": 2}, "val": {"max_images": 1, "val_freq": 1}}
    log = (run(tmp_path, photos, **changes) / "train.log").read_text()
    assert log.count("psnr") == 2
    assert "nan" not in log


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        ({"milestones": [6], "gamma": 0.1}, [0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1, 0.1]),
        ({"type": "CosineLR", "min_factor": 0.4}, [0.25, 0.5, 0.75, 1, 1, 0.942705, 0.792705, 0.607295, 0.457295]),
    ],
    ids=["constant", "milestones", "cosine"],
)
def test_the_rate_is_a_function_of_the_iteration(tmp_path, photos, scheduler, expected):
    train = {"total_iter": 9, "warmup_iter": 4, "scheduler": scheduler}
    settings = parse_options(tiny_options(tmp_path, photos, train=train), "test").train
    assert [rate_factor(settings, i) for i in range(9)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"type": "CosineLR", "milestones": [6]}, "milestones belong to MultiStepLR"),
        ({"min_factor": 0.4}, "min_factor belongs to CosineLR"),
    ],
)
def test_an_option_of_the_other_schedule_is_refused(tmp_path, photos, scheduler, message):
    with pytest.raises(UpsrError, match=message):
        parse_options(tiny_options(tmp_path, photos, train={"scheduler": scheduler}), "test")


def test_average_follows_the_weights(tmp_path, photos):
    opt = parse_options(tiny_options(tmp_path, photos, train={"ema_decay": 0.9}), "test")
    updater = Trainer(opt, CPU, tmp_path / "run").step.updaters["g"]
    name, parameter = next(iter(updater.network.named_parameters()))
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1)
    updater.follow()
    torch.testing.assert_close(updater.average[name], before + 0.1)
    with updater.averaged_weights():
        torch.testing.assert_close(parameter.detach(), before + 0.1)
    torch.testing.assert_close(parameter.detach(), before + 1)


def test_tensorboard_and_pictures_are_written(tmp_path, photos):
    folder = run(
        tmp_path, photos,
        datasets={"val_1": {"name": "set", "type": "BicubicFolderDataset", "dataroot_gt": str(photos)}},
        val={"max_images": 2, "val_freq": 2},
        logger={"use_tb_logger": True},
    )  # fmt: skip
    pictures = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert pictures == [f"visualization/set/photo {i}/{n}.png" for i in (0, 1) for n in (2, 4)]
    assert list((folder / "tb_logger").iterdir())


def test_a_state_of_another_network_is_refused(tmp_path, photos):
    state = str(run(tmp_path, photos, name="one") / "training_states" / "4.state")
    with pytest.raises(UpsrError, match=r"4\.state: the state is of another network"):
        run(tmp_path, photos, name="two", path={"resume_state": state}, network_g={"num_feat": 32})


def test_a_cut_state_is_refused(tmp_path, photos):
    state = run(tmp_path, photos, name="one") / "training_states" / "4.state"
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(UpsrError, match="the state is damaged"):
        run(tmp_path, photos, name="two", path={"resume_state": str(state)})


def test_another_seed_on_resume_is_told(tmp_path, photos, caplog):
    state = str(run(tmp_path, photos, name="one") / "training_states" / "4.state")
    logging.getLogger("upsr").propagate = True
    folder = run(tmp_path, photos, name="two", path={"resume_state": state}, manual_seed=9, train={"total_iter": 5})
    assert "changed since that state: seed 3 -> 9" in (folder / "train.log").read_text()
