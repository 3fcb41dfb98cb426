"""`upsr options import`: every key of a foreign option file is accounted for, and the result is valid."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.imports import FILES, FOREIGN, changed, imported, written
from upsr import cli
from upsr.config import load_options
from upsr.config.imports.formats import format_of, formats
from upsr.config.imports.rules import fits
from upsr.config.imports.source import read_source
from upsr.config.imports.translate import settle, translated
from upsr.config.load import option_problems, read_options, read_yaml
from upsr.engine.setup import checked_options, component_problems_in
from upsr.errors import UpsrError

OPTIONS = Path(__file__).parents[1] / "options"


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    else:
        yield path


@pytest.mark.parametrize("source", FILES, ids=lambda path: path.stem)
def test_every_key_is_accounted_for_and_the_result_is_valid(source, tmp_path, capsys):
    out = imported(source, tmp_path / "mine.yml")
    report = capsys.readouterr().out
    assert "not known" not in report
    assert "to be seen to" not in report
    lines = [line.strip().partition(": ") for line in report.splitlines()]
    accounts = {key: rest for key, _, rest in lines}
    for path in leaves(read_source(source).data):
        above = [".".join(path[:length]) for length in range(len(path), 0, -1)]
        key = next((key for key in above if key in accounts), None)
        parts = path if key is None else path[key.count(".") + 1 :]
        if key is None:  # an entry of a list has an account of its own
            key = next(key for key in accounts if key.startswith(f"{above[0]}."))
            parts = ()
        assert all(f'"{part}"' in accounts[key] for part in parts), path
    load_options(out)
    assert list(component_problems_in(read_options(out))) == []


def test_the_released_upsr_is_our_own_file(tmp_path):
    ours, theirs = (
        load_options(OPTIONS / "000_UPSR_RealSR_x4.yml"),
        load_options(imported(FOREIGN / "upsr_000.yml", tmp_path / "o.yml")),
    )
    for section in ("scale", "manual_seed", "num_gpu", "degradation", "pair_pool", "diffusion", "uncertainty"):
        assert getattr(theirs, section) == getattr(ours, section), section
    assert theirs.train.model_dump(exclude={"perceptual_opt"}) == ours.train.model_dump(exclude={"perceptual_opt"})
    assert theirs.train.perceptual_opt.arguments == {"input_range": "released", **ours.train.perceptual_opt.arguments}
    assert theirs.path.pretrain_network_aux == ours.path.pretrain_network_aux
    assert theirs.val.tile == load_options(OPTIONS / "001_UPSR_RealSR_x4.yml").val.tile


@pytest.mark.parametrize("name", ["network_sr", "network_lr", "sr_net", "net_aux"])
def test_g_of_the_released_upsr_may_have_any_name(name, tmp_path):
    text = (
        (FOREIGN / "upsr_000.yml")
        .read_text()
        .replace("network_sr", name)
        .replace("  use_checkpoint", "  pretrain: g.pth\n  use_checkpoint")
    )
    text = text.replace(f"pretrain_{name}: experiments/pretrained_models/atd_real.pth", "strict_load_h: true")
    opt = load_options(imported(written(text, tmp_path), tmp_path / "mine.yml"))
    assert (opt.network_aux.type, opt.network_aux.arguments["embed_dim"]) == ("ATD", 96)
    assert opt.path.pretrain_network_aux == "g.pth"


def test_resshift_is_our_own_file(tmp_path):
    ours, theirs = (
        load_options(OPTIONS / "resshift/train_v3.yml"),
        load_options(imported(FOREIGN / "resshift.yaml", tmp_path / "o.yml")),
    )
    for section in ("scale", "degradation", "diffusion"):
        assert getattr(theirs, section) == getattr(ours, section), section
    for key in ("optim_g", "scheduler", "total_iter", "warmup_iter", "ema_decay", "amp", "perceptual_opt"):
        assert getattr(theirs.train, key) == getattr(ours.train, key), key
    assert theirs.datasets["train"].batch_size_per_gpu * theirs.train.accumulate == 64
    assert theirs.val.val_freq == theirs.logger.save_checkpoint_freq == 10000  # ${train.save_freq}


def test_sizes_pools_and_losses_are_converted(tmp_path):
    real = load_options(imported(FOREIGN / "realesrgan.yml", tmp_path / "real.yml"))
    assert real.pair_pool.pairs_per_slot == 15  # 180 for batches of 12
    assert real.degradation.first.blur.kernel_sizes == list(range(7, 22, 2)) == real.degradation.final.kernel_sizes
    assert real.degradation.usm_gt
    assert real.train.pixel_opt.arguments["loss_weight"] == 0.5  # differences are twice as large in [-1, 1]
    assert (real.train.perceptual_opt.type, real.train.warmup_iter) == ("VGGLoss", 0)
    span = load_options(imported(FOREIGN / "trainner.yml", tmp_path / "span.yml"))
    assert (span.datasets["train"].arguments["gt_size"], span.train.accumulate, span.pair_pool.pairs_per_slot) == (
        256,
        2,
        10,
    )
    assert (span.train.amp, span.train.max_grad_norm, span.train.scheduler.milestones) == (
        "bf16",
        1.0,
        [100000, 200000],
    )
    pairs = load_options(imported(FOREIGN / "basicsr.yml", tmp_path / "pairs.yml"))
    assert pairs.datasets["train"].type == "PairedCropsDataset"
    assert pairs.pair_pool.pairs_per_slot == 0
    assert pairs.train.scheduler.min_factor == pytest.approx(1e-7 / 2e-4)
    assert pairs.network_g.arguments["network"]["type"] == "EDSR"


def test_a_discriminator_that_is_here_is_trained_as_there(tmp_path, capsys):
    opt = load_options(imported(FOREIGN / "realesrgan.yml", tmp_path / "real.yml"))
    assert (opt.network_d.type, opt.network_d.arguments["num_feat"]) == ("UNetDiscriminatorSN", 64)
    assert (opt.train.gan_opt.arguments["loss_weight"], opt.train.optim_d.betas) == (0.1, (0.9, 0.99))
    unet = {"network_d": {"type": "unetdiscriminatorsn", "num_in_ch": 3, "num_feat": 64}}
    opt = load_options(imported(changed("trainner.yml", tmp_path, **unet), tmp_path / "span.yml"))
    assert (opt.network_d.type, opt.train.gan_opt.arguments["gan_type"]) == ("UNetDiscriminatorSN", "vanilla")
    capsys.readouterr()
    later = {
        "model_type": "ESRGANModel",
        "network_d": {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 64},
    }
    later["train"] = {
        "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 5e-3},
        "net_d_init_iters": 5,
        "net_d_iters": 2,
    }
    opt = load_options(imported(changed("basicsr.yml", tmp_path, **later), tmp_path / "esrgan.yml"))
    report = capsys.readouterr().out
    assert (opt.train.gan_start, opt.train.gan_opt.arguments["loss_weight"]) == (5, 5e-3)
    assert "(relativistic there)" in report
    assert "train.net_d_iters: 2  (both are trained in every iteration)" in report
    alone = load_options(
        imported(changed("basicsr.yml", tmp_path, network_d=later["network_d"]), tmp_path / "alone.yml")
    )
    assert alone.network_d is None


def test_fine_tuning_on_pairs_of_real_esrgan(tmp_path, capsys):
    folders = {"dataroot_gt": "datasets/large", "dataroot_lq": "datasets/small", "meta_info": "pairs.txt"}
    train_set = {"type": "RealESRGANPairedDataset", "gt_size": 256, **folders}
    changes = {"high_order_degradation": False, "datasets": {"train": train_set}}
    opt = load_options(imported(changed("realesrgan.yml", tmp_path, **changes), tmp_path / "mine.yml"))
    report = capsys.readouterr().out
    assert (opt.datasets["train"].type, opt.pair_pool.pairs_per_slot) == ("PairedCropsDataset", 0)
    assert opt.degradation == type(opt.degradation)()
    assert "l1_gt_usm: true  (targets of stored pairs are as they are)" in report[report.index("left out") :]
    assert "datasets.train.meta_info" in report[report.index("left out") :]
    assert "queue_size: 180  (stored pairs are mixed already)" in report


def test_comments_are_kept_and_what_is_left_out_stands_at_the_head(tmp_path):
    text = imported(FOREIGN / "realesrgan.yml", tmp_path / "mine.yml").read_text()
    assert "\n# a GAN training, begun from the PSNR network\n" in text
    assert "resize_prob: [0.2, 0.7, 0.1] # larger, smaller, as it is\n" in text
    assert "    # first round\n    resize_prob" in text
    assert "# fifteen batches; 180 pairs for a batch of 12" in text
    assert "network_g: # the generator" in text
    assert "# how it is read\n    num_worker_per_gpu: 5" in text  # its own key has no effect here
    head = text[: text.index("name: train_gan_x4")]
    assert "Left out" not in head
    text = imported(FOREIGN / "trainner.yml", tmp_path / "span.yml").read_text()
    assert "redux-config" not in text
    assert '\n#   network_d: {"type": "dunet"}  (' in text[: text.index("name: 4x_span")]


ODD = ["text", [], [[1, [2]]], {}, {"a": {"b": 1}}, -7, 1.5, True, None, "${no.such}", "yes"]


def with_value(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


@pytest.mark.slow
@pytest.mark.parametrize("source", FILES, ids=lambda path: path.stem)
def test_no_value_of_a_known_key_ends_in_a_traceback(source):
    data = read_source(source).data
    form = format_of(data)
    for index, path in enumerate(leaves(data)):
        for odd in (ODD * 2)[index % len(ODD) :][:3]:
            given = copy.deepcopy(data)
            with_value(given, path, odd)
            accounts = translated(form, given, "x").accounts
            assert {account.key.split(".")[0] for account in accounts} == given.keys()


@pytest.mark.parametrize("shift", range(len(ODD)))
@pytest.mark.parametrize("source", FILES, ids=lambda path: path.stem)
def test_values_that_are_refused_are_taken_out(source, shift):
    data = read_source(source).data
    form = format_of(data)
    for index, path in enumerate(leaves(data)):
        if index % 3 == shift % 3 and path[-1] not in ("scale", "sf"):
            with_value(data, path, ODD[(index + shift) % len(ODD)])
    result = translated(form, data, "x")
    left = settle(result, option_problems)
    assert [p for p in left if p.key in result.origins and not p.key.endswith("type")] == []


def test_unknown_keys_are_listed_with_their_path_and_kept_as_comments(tmp_path, capsys):
    odd = {
        "train": {"secret": {"weight": 2}, "optim_g": {"momentum": 0.9}},
        "datasets": {"train": {"mixup": True}},
        "colour": "blue",
    }
    out = imported(changed("basicsr.yml", tmp_path, **odd), tmp_path / "mine.yml")
    report = capsys.readouterr().out
    for line in (
        "train.secret.weight: 2",
        "datasets.train.mixup: true",
        'colour: "blue"',
        "train.optim_g.momentum: 0.9",
    ):
        assert f"  {line}  (" in report
        assert f"#   {line}  (" in out.read_text()
    load_options(out)


def test_refused_values_are_left_out_and_said(tmp_path, capsys):
    odd = {
        "train": {"ema_decay": 2, "scheduler": {"type": "MultiStepLR", "milestones": [-1], "gamma": 0.5}},
        "network_g": {"squeeze": 3},
    }
    opt = load_options(imported(changed("basicsr.yml", tmp_path, **odd), tmp_path / "mine.yml"))
    report = capsys.readouterr().out
    assert "train.ema_decay: 2  (refused here: input should be less than 1" in report
    assert "network_g.squeeze: 3  (refused here: unknown key" in report
    assert "train.scheduler.milestones: [-1]" in report
    assert opt.train.scheduler.gamma == 0.5


def test_what_would_learn_nothing_is_to_be_seen_to(tmp_path, capsys):
    """Of these files no loss is here: of one the only pixel loss is another's, of the other only an adversarial one is left."""
    nothing = "train.pixel_opt.loss_weight: is 0 and there is no other loss"
    imported(changed("basicsr.yml", tmp_path, train={"pixel_opt": {"type": "SphereLoss"}}), tmp_path / "pixel.yml")
    report = capsys.readouterr().out
    assert "(no such loss of pixels is here)" in report
    assert nothing in report[report.index("to be seen to") :]
    losses = [{"type": "ganloss", "gan_type": "vanilla", "loss_weight": 0.1}]
    imported(changed("trainner.yml", tmp_path, train={"losses": losses}), tmp_path / "gan.yml")
    report = capsys.readouterr().out
    assert (
        'train.losses.0: {"type": "ganloss", "gan_type": "vanilla", "loss_weight": 0.1}  (no discriminator is' in report
    )
    assert nothing in report[report.index("to be seen to") :]
    imported(FOREIGN / "basicsr.yml", tmp_path / "as_it_is.yml")
    assert nothing not in capsys.readouterr().out


def test_yaml_of_other_readers(tmp_path):
    text = """
name: a/b
model_type: SRGANModel
scale: !!int 2
num_gpu: ~
defaults: &sizes {num_in_ch: 3, num_out_ch: 3}
datasets:
  train: &train
    type: SomeDataset
    dataroot_gt: photos
    dataroot_lq: small
    gt_size: !!float 64
  test_1: {type: PairedImageDataset, dataroot_gt: a, dataroot_lq: b}
  other: {type: SingleImageDataset, dataroot_lq: c}
network_g: {type: RRDBNet, num_feat: 8, num_block: 1, <<: *sizes}
path: ~
train:
  total_iter: !!float 1e3
  optim_g: {type: SGD, lr: 1e-3, betas: !!python/tuple [0.9, 0.99]}
  scheduler: {type: StepLR, step_size: 5}
logger:
dist_params: {backend: nccl}
"""
    opt = load_options(imported(written(text, tmp_path), tmp_path / "mine.yml"))
    assert (opt.name, opt.scale, opt.num_gpu, opt.train.total_iter) == ("a_b", 2, "auto", 1000)
    assert list(opt.datasets) == ["train", "val_1", "val_other"]
    assert opt.datasets["train"].type == "PairedCropsDataset"  # by its folders
    assert (opt.train.optim_g.type, opt.train.optim_g.betas, opt.train.ema_decay) == ("AdamW", (0.9, 0.99), 0)
    assert opt.network_g.arguments["size_multiple"] == 2  # the network begins with a pixel unshuffle
    assert opt.train.pixel_opt.arguments == {"loss_weight": 0.0}


def test_files_of_earlier_versions_and_of_forks(tmp_path):
    older = """
name: older
model_type: SRModel
scale: 2
gpu_ids: [7]
save_img: true
crop_border: ~
datasets:
  train: {type: PairedImageDataset, dataroot_gt: hr, dataroot_lq: lr, gt_size: 96, use_flip: true, num_worker: 6, batch_size: 16}
network_g: {type: DAT, upscale: 2, in_chans: 3, img_size: 64, img_range: 1., split_size: [8, 32], depth: [2], embed_dim: 12}
path: {pretrain_model_g: hr.pth, strict_load: true}
train: {optim_g: {type: Adam, lr: 1e-4}, niter: 300, manual_seed: 5, pixel_opt: {type: L1Loss}}
"""
    opt = load_options(imported(written(older, tmp_path), tmp_path / "mine.yml"))
    assert (opt.train.total_iter, opt.manual_seed, opt.val.save_img) == (300, 5, True)
    assert (opt.datasets["train"].batch_size_per_gpu, opt.datasets["train"].num_worker_per_gpu) == (16, 6)
    assert (opt.path.pretrain_network_g, opt.path.strict_load_g) == ("hr.pth", True)
    assert opt.network_g.arguments["network"]["type"] == "spandrel.architectures.DAT.DAT"


def test_a_student_s_file_is_of_the_distillation(tmp_path):
    model = {"teacher_ckpt_path": "teacher.pth", "params": {"in_channels": 6}}
    opt = load_options(imported(changed("resshift.yaml", tmp_path, model=model), tmp_path / "mine.yml"))
    assert (opt.phase, opt.path.pretrain_network_g) == ("distillation", "teacher.pth")
    assert opt.network_g.arguments["in_channels"] == 3


@pytest.mark.parametrize(
    ("name", "scale", "wanted"), [("basicsr.yml", 5, "1, 2, 3, 4 or 8"), ("upsr_000.yml", 3, "1, 2, 4 or 8")]
)
def test_a_scale_that_is_not_here_is_one_line(name, scale, wanted, tmp_path, capsys):
    source = changed(name, tmp_path, scale=scale)
    assert cli.main(["options", "import", str(source), "-o", str(tmp_path / "mine.yml")]) == 2
    error = capsys.readouterr().err
    assert f"scale: input should be {wanted} (found {scale})" in error
    assert error.count("\n") == 1


def test_no_two_data_sets_become_one(tmp_path, capsys):
    sets = {
        key: {"type": "SingleImageDataset", "dataroot_lq": f"datasets/{key}"}
        for key in ("test_1", "1", "val_1", "val_2")
    }
    opt = load_options(imported(changed("basicsr.yml", tmp_path, datasets=sets), tmp_path / "mine.yml"))
    folders = {
        key: opt.datasets[key].arguments["dataroot_lq"].rpartition("/")[2] for key in opt.datasets if key != "train"
    }
    assert folders == {"val": "lr", "val_1": "val_1", "val_1_2": "test_1", "val_1_3": "1", "val_2": "val_2"}
    report = capsys.readouterr().out
    assert "(test_1 there; val_1 is another set)" in report
    assert "(1 there; val_1 is another set)" in report


def test_a_network_that_is_not_here_is_found_by_its_weights_or_named(tmp_path, capsys):
    network = {"type": "MambaIR", "num_in_ch": None, "depths": [6]}
    source = changed("basicsr.yml", tmp_path, network_g=network, path={"pretrain_network_g": "mamba.pth"})
    data = yaml.safe_load(source.read_text())
    del data["train"], data["datasets"]["train"]
    opt = load_options(imported(written(yaml.safe_dump(data), tmp_path), tmp_path / "test.yml"))
    assert (opt.network_g.type, opt.network_g.arguments) == ("SpandrelSR", {"path": "mamba.pth"})
    capsys.readouterr()
    imported(changed("basicsr.yml", tmp_path, network_g=network), tmp_path / "train.yml")
    assert "network_g.type: unknown type 'MambaIR'" in capsys.readouterr().out


@pytest.mark.parametrize(("kinds", "lpips"), [(["L2", "LPIPS"], True), (["L2", "L1"], False), (["L1", "LPIPS"], True)])
def test_losses_of_resshift_are_of_the_named_kinds(kinds, lpips, tmp_path, capsys):
    source = changed("resshift.yaml", tmp_path, train={"loss_type": kinds, "val_freq": 1000})
    opt = load_options(imported(source, tmp_path / "mine.yml"))
    assert (opt.train.perceptual_opt is not None) == lpips
    left_out = capsys.readouterr().out.partition("left out")[2]
    assert ("train.loss_type" in left_out) == (kinds != ["L2", "LPIPS"])


@pytest.mark.parametrize(("kind", "said"), [("calculate_psnr", True), ("calculate_psnr_pt", False)])
def test_metrics_of_rounded_images_are_said_to_be_of_others(kind, said, tmp_path, capsys):
    source = changed("basicsr.yml", tmp_path, val={"metrics": {"psnr": {"type": kind, "crop_border": 4}}})
    metric = load_options(imported(source, tmp_path / "mine.yml")).val.metrics["psnr"]
    assert (metric.type, metric.arguments["crop_border"]) == ("PSNR", 4)
    assert ('-> val.metrics.psnr.type: "PSNR"  (of images in float, of 8 bit there)' in capsys.readouterr().out) == said


def test_messages_name_the_file_as_it_was_typed(tmp_path, monkeypatch, capsys):
    shutil.copy(FOREIGN / "realesrgan.yml", tmp_path / "theirs.yml")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-opt", "theirs.yml"]) == 2
    said = (
        "error: theirs.yml: an option file of Real-ESRGAN; translate it: upsr options import theirs.yml -o MINE.yml\n"
    )
    assert capsys.readouterr().err == said


def test_our_files_are_none_of_theirs():
    ours = [path for path in OPTIONS.rglob("*.yml")]
    assert len(ours) > 50
    assert [path.name for path in ours if format_of(read_yaml(path)) is not None] == []


@pytest.mark.parametrize("source", FILES, ids=lambda path: path.stem)
def test_train_and_test_name_the_command_in_one_line(source):
    for purpose in ("train", "test"):
        with pytest.raises(
            UpsrError, match=r"an option file of .*; translate it: upsr options import .* -o MINE.yml$"
        ) as error:
            checked_options(str(source), [], purpose)
        assert "\n" not in str(error.value)


def test_each_format_knows_its_own_file_alone():
    data = [read_source(path).data for path in FILES]
    assert {form.name: [form.known(given) for given in data].count(True) for form in formats()} == {
        "BasicSR": 1, "Real-ESRGAN": 1, "ResShift": 1, "the released UPSR": 1, "traiNNer-redux": 1,
    }  # fmt: skip


def test_files_are_not_overwritten_and_strangers_are_named(tmp_path, capsys):
    out = imported(FOREIGN / "basicsr.yml", tmp_path / "mine.yml")
    before = out.read_text()
    capsys.readouterr()
    command = ["options", "import", str(FOREIGN / "realesrgan.yml"), "-o", str(out)]
    assert cli.main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == before
    assert cli.main([*command, "--force"]) == 0
    assert out.read_text() != before
    source = tmp_path / "theirs.yml"
    shutil.copy(FOREIGN / "basicsr.yml", source)
    assert cli.main(["options", "import", str(source), "-o", str(source), "--force"]) == 2
    assert "choose another name" in capsys.readouterr().err
    assert source.read_text() == (FOREIGN / "basicsr.yml").read_text()
    for text, message in (
        ("a: 1\n", "not an option file of a project that is known here"),
        ("[1]\n", "a mapping"),
        ("a: [\n", "not valid YAML"),
    ):
        assert cli.main(["options", "import", str(written(text, tmp_path)), "-o", str(tmp_path / "none.yml")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "none.yml").exists()
    assert cli.main(["options", "import", str(out)]) == 2


def test_what_cannot_be_a_run_is_refused_before_it_is_written(tmp_path, capsys):
    data = yaml.safe_load((FOREIGN / "realesrgan.yml").read_text())
    del data["train"]["total_iter"]
    assert (
        cli.main(["options", "import", str(written(yaml.safe_dump(data), tmp_path)), "-o", str(tmp_path / "mine.yml")])
        == 2
    )
    assert "train.total_iter: this key is needed" in capsys.readouterr().err
    assert not (tmp_path / "mine.yml").exists()


def test_patterns():
    assert fits(("a", "**", "c"), ("a", "c"))
    assert fits(("a", "**", "c"), ("a", "b", "b", "c"))
    assert fits(("val*", "x_?"), ("val_1", "x_2"))
    assert not fits(("a", "b"), ("a",))
    assert not fits(("a", "*"), ("a", "b", "c"))


def test_a_network_that_is_not_here_is_listed_once_and_is_to_be_seen_to(tmp_path, capsys):
    out = imported(changed("trainner.yml", tmp_path, network_g={"type": "span_s"}), tmp_path / "mine.yml")
    report = capsys.readouterr().out
    accounts, _, problems = report.partition("to be seen to before a run")
    remedy = "there is no such network here: name your class by its path (docs/extending.md)"
    assert [line.strip() for line in accounts.splitlines() if "span_s" in line] == [
        f'network_g.type: "span_s"  ({remedy})'
    ]
    assert "network_g.type: unknown type 'span_s'" in problems
    assert f"type: span_s # {remedy}" in out.read_text()


def test_a_misspelt_key_that_is_needed_is_in_the_report_with_the_nearest_known_one(tmp_path, capsys):
    text = (FOREIGN / "realesrgan.yml").read_text()
    assert "\n  total_iter:" in text
    source, out = written(text.replace("\n  total_iter:", "\n  totl_iter:"), tmp_path), tmp_path / "mine.yml"
    assert cli.main(["options", "import", str(source), "-o", str(out)]) == 2
    printed = capsys.readouterr()
    assert "taken over (" in printed.out
    assert "(not known here; did you mean 'train.total_iter'?)" in printed.out
    first, second, third = printed.err.splitlines()
    assert first == f"error: {source}: train.total_iter: this key is needed"
    assert second == f"{source}: train.totl_iter: did you mean 'train.total_iter'?"
    assert third.endswith("nothing is written; mend these keys in it and translate it again")
    assert not out.exists()
    source = written(text.replace("\nmodel_type:", "\nmdel_type:"), tmp_path)
    assert cli.main(["options", "import", str(source), "-o", str(out)]) == 2
    assert "did you mean 'model_type' by 'mdel_type'?" in capsys.readouterr().err


def test_a_fork_with_the_degradation_of_real_esrgan_is_read_as_real_esrgan(tmp_path, capsys):
    fork = {"model_type": "RealHATGANModel", "noise_range": [2, 7]}
    opt = load_options(imported(changed("realesrgan.yml", tmp_path, **fork), tmp_path / "mine.yml"))
    assert "not known" not in capsys.readouterr().out
    assert opt.degradation.first.noise_range == (2, 7)
    assert (opt.degradation.usm_gt, opt.pair_pool.pairs_per_slot) == (True, 15)


def test_a_tile_of_hat_is_padded_on_both_sides(tmp_path):
    source = changed("basicsr.yml", tmp_path, tile={"tile_size": 256, "tile_pad": 32})
    tile = load_options(imported(source, tmp_path / "mine.yml")).val.tile
    assert (tile.size, tile.overlap) == (320, 64)  # it is moved by 256, as there


def test_which_weights_of_a_file_are_read_is_said(tmp_path, capsys):
    imported(changed("basicsr.yml", tmp_path, path={"pretrain_network_g": "g.pth"}), tmp_path / "mine.yml")
    assert "params are read there and params_ema here" in capsys.readouterr().out
    named = {"pretrain_network_g": "g.pth", "param_key_g": "params"}
    opt = load_options(imported(changed("basicsr.yml", tmp_path, path=named), tmp_path / "named.yml"))
    assert "params are read there" not in capsys.readouterr().out
    assert opt.path.param_key_g == "params"


def test_a_network_of_another_scale_is_pointed_out(tmp_path, capsys):
    imported(changed("basicsr.yml", tmp_path, scale=2, network_g={"upscale": 4}), tmp_path / "mine.yml")
    assert "but scale is 2: train.py and test.py refuse it" in capsys.readouterr().out


def test_metrics_of_trainner_are_left_out_without_validation(tmp_path):
    val = {"val_enabled": False, "metrics_enabled": True, "metrics": {"lpips": {"type": "calculate_lpips"}}}
    opt = load_options(imported(changed("trainner.yml", tmp_path, val=val), tmp_path / "mine.yml"))
    assert not opt.val.metrics


@pytest.mark.parametrize("upsampler", ["pixelshuffle", "dysample"])
def test_the_upsampler_of_trainners_realplksr(upsampler, tmp_path, capsys):
    data = yaml.safe_load((FOREIGN / "trainner.yml").read_text())
    data["network_g"] = {"type": "realplksr", "upsampler": upsampler, "layer_norm": True}
    opt = load_options(imported(written(yaml.safe_dump(data), tmp_path), tmp_path / "mine.yml"))
    assert "network_g.upsampler" not in capsys.readouterr().out.partition("left out")[2]
    assert opt.network_g.arguments["network"]["dysample"] == (upsampler == "dysample")


def test_a_degradation_that_trainner_leaves_unsaid_is_its_own(tmp_path):
    data = yaml.safe_load((FOREIGN / "trainner.yml").read_text())
    for key in ("gaussian_noise_prob", "noise_range", "poisson_scale_range", "jpeg_range2"):
        data.pop(key, None)
    data["datasets"]["train"].pop("final_sinc_prob", None)
    opt = load_options(imported(written(yaml.safe_dump(data), tmp_path), tmp_path / "mine.yml"))
    first, second = opt.degradation.first, opt.degradation.second
    assert (first.gaussian_noise_prob, first.noise_range, first.poisson_scale_range) == (0, (0, 0), (0, 0))
    assert (second.jpeg_range, opt.degradation.final.sinc_prob) == ((75, 95), 0)
