"""Option files: everything wrong is found before anything starts, and named with the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from upsr.archs import ATD
from upsr.compat import ARCH_REGISTRY
from upsr.config import load_options
from upsr.config.components import build, component_problems
from upsr.config.yaml_text import dump_yaml, load_yaml
from upsr.engine.setup import checked_options, component_problems_in
from upsr.errors import UpsrError
from upsr.methods.build import build_network

OPTIONS = Path(__file__).parents[1] / "options"
FULL = OPTIONS / "000_UPSR_RealSR_x4.yml"
ALL = sorted(p for p in OPTIONS.rglob("*.yml") if p.parent.name not in ("methods", "protocols", "teaching"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(OPTIONS).as_posix())
def test_every_option_file_is_valid_and_its_networks_fit(path):
    opt = load_options(path)
    assert list(component_problems_in(opt.model_dump())) == []
    if not hasattr(opt, "network_g"):
        return
    with torch.device("meta"):
        network = build_network(opt.network_g, "network_g")
    if opt.method is None:
        assert network.scale == opt.scale
    if opt.model_type == "UPSRModel":
        assert network.cond_channels == (2 if opt.diffusion.sr_condition else 1) * 3 * opt.scale**2


def test_light_variant_has_the_published_size():
    opt = load_options(OPTIONS / "light/002_UPSR_light_x4.yml")
    with torch.device("meta"):
        network = build_network(opt.network_g, "network_g", scale=4)
        g = ATD()
    total = sum(p.numel() for p in [*network.parameters(), *g.parameters()])
    assert round(total / 1e6, 1) == 52.7
    assert opt.diffusion.steps == 4


def test_ablations_differ_from_the_full_method_in_what_they_ablate():
    def load(name):
        return load_options(OPTIONS / f"ablation/{name}.yml")

    full = load_options(FULL)
    rows = {
        "table1_no_unw_no_sr": (False, False, 0.4),
        "table1_unw_no_sr": (True, False, 0.4),
        "table1_unw_sr": (True, True, 0.4),
        "table5_bu_0.0": (True, True, 0.0),
        "table5_bu_0.4": (True, True, 0.4),
        "table5_bu_1.0": (True, True, 1.0),
    }
    for name, (weighted, sr_condition, b_u) in rows.items():
        opt = load(name)
        assert (opt.uncertainty.enabled, opt.diffusion.sr_condition, opt.uncertainty.b_u) == (
            weighted,
            sr_condition,
            b_u,
        )
        same = {"name", "uncertainty", "diffusion", "network_g"}
        assert opt.model_dump(exclude=same) == full.model_dump(exclude=same)


def test_defaults_are_the_released_training():
    written, default = load_options(FULL), load_options(FULL).model_copy()
    assert written.degradation == type(default.degradation)()
    assert written.diffusion == type(default.diffusion)()
    assert written.uncertainty == type(default.uncertainty)()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.optim_g.lrr=1", r"train\.optim_g\.lrr: unknown key; did you mean 'lr'\?"),
        ("trian.total_iter=1", r"trian: unknown key; did you mean 'train'\?"),
        ("train.total_iter=many", r"train\.total_iter: input should be a valid integer \(found 'many'\)"),
        ("train.total_iter=0", r"train\.total_iter: .*greater than or equal to 1"),
        ("uncertainty.b_u=2", r"uncertainty\.b_u: .*less than or equal to 1"),
        ("datasets.test_1.type=FolderDataset", r"datasets\.test_1: a set is 'train' or its name begins with 'val'"),
        ("diffusion.sampler.steps=9", r"sampler\.steps is 9, but the schedule has 5"),
        ("name=../elsewhere", r"name: .*becomes a folder.s name"),
        ("degradation.first.resize_prob=[0,0,0]", r"degradation\.first: resize_prob are weights"),
        ("degradation.first.resize_range=[0.1,0.9]", r"first\.resize_range: .* must be above 0 and hold 1"),
        (
            "degradation.first.blur.betag_range=[2,4]",
            r"blur\.betag_range: the range \[2.0, 4.0\] must be above 0 and hold 1",
        ),
        ("degradation.second.blur.betap_range=[0.3,0.8]", r"blur\.betap_range: .* must be above 0 and hold 1"),
        ("degradation.first.blur.blur_sigma=[0,0]", r"blur_sigma: .* does not lie within 0\.01 to 100"),
        ("degradation.second.noise_range=[-30,-1]", r"noise_range: .* does not lie within 0 to 255"),
        ("degradation.first.poisson_scale_range=[-3,1]", r"poisson_scale_range: .* within 0 to 100"),
        ("degradation.second.jpeg_range=[-5,0]", r"jpeg_range: .* does not lie within 1 to 100"),
        ("degradation.first.blur.kernel_prob=[]", r"kernel_prob are weights"),
        ("train.optim_g.betas=[0.9,2]", r"betas\.1: input should be less than 1"),
        ("train.scheduler.milestones=[-1]", r"milestones\.0: .* greater than or equal to 1"),
        (
            "diffusion={min_noise_level: 5, kappa: 1, sqrt_eta_cap: null}",
            r"diffusion: sqrt\(eta\) would fall from 5 .* to 0\.99",
        ),
        ("num_gpu=-1", r"num_gpu: input should be 'auto' or greater than or equal to 0 \(found -1\)"),
        ("distributed.heartbeat=1e300", r"heartbeat: input should be less than or equal to 1000000"),
        ("val.suffix=/x", r"val\.suffix: '/x' becomes part of a file's name"),
        ("datasets.val_1.name=../x", r"val_1\.name: '\.\./x' becomes a folder's name"),
        (
            "datasets.val_2={type: FolderDataset, name: IMAGENET256}",
            r"datasets\.val_1 and datasets\.val_2 have one name",
        ),
        ("manual_seed=1:30", r"manual_seed: input should be a valid integer \(found '1:30'\)"),
        ("train.total_iter=1e1", r"total_iter: input should be a valid integer \(found 10\.0\); write 10$"),
        ("train.total_iter='4'", r"total_iter: .*\(found '4'\); write 4 without quotes"),
        (
            "num_gpu=yes",
            r"num_gpu: input should be 'auto' or a valid integer \(found True\); YAML reads yes, no, on and off as",
        ),
        ("train=total_iter:4", r"train: .*; write a space after the colon: total_iter: 4"),
        ("val.metrics={psnr: PSNR}", r"val\.metrics\.psnr: .*\(found 'PSNR'\); write \{type: PSNR\}"),
        ("val.metrics=PSNR", r"val\.metrics: .*; its keys stand below it, each in a line of its own"),
        (
            "degradation.first.noise_rnge=[1,2]",
            r"degradation\.first\.noise_rnge: unknown key; did you mean 'noise_range'",
        ),
    ],
)
def test_structure_is_checked(change, message):
    with pytest.raises(UpsrError, match=message):
        load_options(FULL, [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("network_g.type=UNetModelSwim", r"network_g\.type: unknown type .*did you mean 'UNetModelSwin'"),
        ("network_g.model_chanels=160", r"network_g\.model_chanels: unknown key; did you mean 'model_channels'"),
        ("network_g.dropout=high", r"network_g\.dropout: input should be a valid number"),
        ("network_g.dims=3", r"network_g\.dims: input should be 2"),
        ("datasets.train.gt_sise=256", r"datasets\.train\.gt_sise: unknown key; did you mean 'gt_size'"),
        ("val.metrics.psnr.crop=4", r"val\.metrics\.psnr\.crop: unknown key; did you mean 'crop_border'"),
        ("train.pixel_opt.type=MSEloss", r"train\.pixel_opt\.type: .*did you mean 'MSELoss'"),
        ("train.perceptual_opt.net=vgg19", r"train\.perceptual_opt\.net: input should be 'vgg', 'alex' or 'squeeze'"),
        ("model_type=SRModel", r"model_type: unknown model 'SRModel'"),
    ],
)
def test_components_are_checked_against_their_constructors(change, message):
    with pytest.raises(UpsrError, match=message):
        checked_options(str(FULL), [change], "train")


def test_missing_files_are_named_with_their_keys():
    with pytest.raises(UpsrError) as error:
        checked_options(str(OPTIONS / "001_UPSR_RealSR_x4.yml"), ["path.pretrain_network_g=absent.pth"], "test")
    text = str(error.value)
    assert "path.pretrain_network_g: no such file: absent.pth" in text
    assert "datasets.val_1.dataroot_gt: no such folder: datasets/imagenet256/gt" in text


def test_all_problems_are_told_at_once():
    changes = [
        "nam=x",
        "train.warmup=5",
        "train.pixel_opt.type=L1Los",
        "datasets.train.dataroot_gt=absent",
        "network_g.dims=3",
    ]
    with pytest.raises(UpsrError) as error:
        checked_options(str(FULL), [*changes, "datasets.val_1=null", "path.pretrain_network_aux=tiny"], "train")
    assert [line.removeprefix(f"{FULL}: ").partition(";")[0] for line in str(error.value).splitlines()] == [
        "train.warmup: unknown key",
        "nam: unknown key",
        "network_g.dims: input should be 2 (found 3)",
        "train.pixel_opt.type: unknown type 'L1Los'",
        "datasets.train.dataroot_gt: no such folder: absent",
    ]


@pytest.mark.parametrize(
    ("phase", "kind", "remedy"),
    [
        ("train", "PairedFolderDataset", "is no training set; use RealESRGANDataset"),
        ("val_1", "RealESRGANDataset", "is a training set; validate on BicubicFolderDataset"),
    ],
)
def test_a_set_of_the_wrong_use_is_told_the_remedy(phase, kind, remedy):
    with pytest.raises(UpsrError, match=rf"datasets\.{phase}\.type: {kind} {remedy}"):
        checked_options(str(FULL), [f"datasets.{phase}={{type: {kind}, dataroot_gt: ., dataroot_lq: .}}"], "train")


def test_a_training_of_no_loss_is_refused():
    """Such a run would go to its end and learn nothing; beside another loss, a pixel loss may have no weight."""
    files = ["datasets.train.dataroot_gt=tests", "datasets.val_1=null", "path.pretrain_network_aux=tiny"]
    weightless = [*files, "train.pixel_opt.loss_weight=0"]
    with pytest.raises(UpsrError, match=r"train\.pixel_opt\.loss_weight: is 0 and there is no other loss"):
        checked_options(str(FULL), [*weightless, "train.perceptual_opt=null"], "train")
    checked_options(str(FULL), [*weightless, "train.perceptual_opt={type: WaveletLoss}"], "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("- 1", "a mapping of keys to values"),
        ("base: absent.yml", "no such option file"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_files_that_are_no_option_files(tmp_path, text, message):
    path = tmp_path / "bad.yml"
    path.write_text(text)
    with pytest.raises(UpsrError, match=rf"bad\.yml.*{message}"):
        load_options(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {<<: 3}", "line 1, column 9: .*expected a mapping or list of mappings for merging"),
        ("? [a, b]\n: 1", "a key is one word"),
        ("a: !!timestamp 2024-05-01", "values of type !!timestamp have no place here"),
        ("a: !!int x", "a value does not fit its type"),
        ("a: 1e999", "1e999 is no finite number"),
        ("a: &x [*x]", "an alias stands inside what it names"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{f'*a{i}, ' * 9}]\n" for i in range(9)),
            "stand for too much",
        ),
        ("a:\n\t- 1", "line 2, column 1: .*indent with spaces"),
        ("a: 1\n--- \nb: 1", "expected a single document"),
        ("a:\n  b:4\n  c: 5", "line 3, .*; write a space after the colon in line 2: b: 4"),
        ("a:\n  c: 5\n  b:4\nd: 1", "write a space after the colon in line 3: b: 4"),
    ],
)
def test_yaml_that_no_option_can_be_costs_one_line(tmp_path, text, message):
    path = tmp_path / "bad.yml"
    path.write_text(text)
    with pytest.raises(UpsrError, match=rf"bad\.yml: not valid YAML: .*{message}") as error:
        load_options(path)
    assert "\n" not in str(error.value)


def test_yaml_says_what_is_written():
    text = """
set: &set {type: Folder, root: a}
merged: {<<: *set, root: b}
listed: {<<: [{x: 1}, {x: 2, y: 3}]}
inner: {deep: {deeper: &late {<<: *set, root: c}}}
again: {<<: *late, more: 1}
date: 2024-05-01
numbers: [010, 1_000, 1e-4, -.5, 1.5e5, 0x10]
texts: [1:30, 1:30.5, 0o17, =, 12e, '']
on: {010: a, null: b, 2024-05-01: c}
"""
    merged = {"type": "Folder", "root": "b"}
    late = {"type": "Folder", "root": "c"}
    assert load_yaml(text) == {
        "set": {"type": "Folder", "root": "a"}, "merged": merged, "listed": {"x": 1, "y": 3},
        "inner": {"deep": {"deeper": late}}, "again": {**late, "more": 1}, "date": "2024-05-01",
        "numbers": [10, 1000, 1e-4, -0.5, 150000.0, 16], "texts": ["1:30", "1:30.5", "0o17", "=", "12e", ""],
        "on": {"010": "a", "null": "b", "2024-05-01": "c"},
    }  # fmt: skip


def test_yaml_that_is_written_is_read_as_it_was_by_both_kinds_of_readers():
    data = {
        "on": [
            "08",
            "010",
            "1e5",
            "-.5",
            "1:30",
            "2024-05-01",
            "yes",
            "",
            "~",
            "<<",
            "=",
            ".nan",
            None,
            True,
            1e-5,
            3,
            "ä",
        ]
    }
    assert load_yaml(dump_yaml(data)) == data
    assert yaml.safe_load(dump_yaml(data)) == data


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_an_option_file_in_any_unicode_encoding_is_read(tmp_path, encoding):
    path = tmp_path / "mine.yml"
    path.write_bytes(f"base: {FULL}\r\nname: 写真\r\n".encode(encoding))
    assert load_options(path).name == "写真"


def test_an_option_file_in_another_encoding_costs_one_line(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_bytes(f"base: {FULL}\nname: café\n".encode("latin-1"))
    with pytest.raises(UpsrError, match=r"mine\.yml: not a text in UTF-8 \(line 2\); save it in this encoding"):
        load_options(path)


def test_null_is_nothing_where_nothing_is_a_value():
    opt = load_options(
        FULL, ["train.amp=null", "train.compile=null", "pair_pool.pairs_per_slot=null", "train.warmup_iter=null"]
    )
    assert opt.train is not None
    assert (opt.train.amp, opt.train.compile, opt.pair_pool.pairs_per_slot, opt.train.warmup_iter) == (
        "fp32",
        "none",
        0,
        0,
    )


def test_numbers_that_only_a_constructor_can_refuse_cost_one_line():
    with pytest.raises(UpsrError, match=r"UNetModelSwin: cannot be built from these options: \w+Error"):
        build_network(
            load_options(OPTIONS / "tiny/stage2.yml", ["network_g.channel_mult=[]"]).network_g, "network_g", scale=4
        )


def test_missing_option_file(tmp_path):
    with pytest.raises(UpsrError, match="no such option file"):
        load_options(tmp_path / "absent.yml")


def test_overrides_are_yaml_with_dots_or_colons():
    opt = load_options(FULL, ["train:optim_g:lr=5e-5", "network_g.channel_mult=[1,2]", "datasets.train.meta_info=null"])
    assert opt.train.optim_g.lr == 5e-5
    assert opt.network_g.arguments["channel_mult"] == [1, 2]
    with pytest.raises(UpsrError, match="write key=value"):
        load_options(FULL, ["train.total_iter"])


def test_a_base_file_is_changed_section_by_section(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(
        f"base: {FULL}\nname: mine\ntrain: {{total_iter: 7}}\nnetwork_aux: {{type: SpandrelSR, path: g.pth}}\n"
    )
    opt, full = load_options(path), load_options(FULL)
    assert (opt.name, opt.train.total_iter) == ("mine", 7)
    assert opt.train.optim_g == full.train.optim_g
    assert opt.network_aux.arguments == {"path": "g.pth"}
    path.write_text(f"base: {FULL}\nname: mine\ndatasets: {{val_1: null}}\nval: {{metrics: {{ssim: null}}}}\n")
    assert list(load_options(path).datasets) == ["train"]
    assert list(load_options(path).val.metrics) == ["psnr"]
    path.write_text("base: mine.yml\nname: mine\n")
    with pytest.raises(UpsrError, match="leads back to itself"):
        load_options(path)


def test_components_are_built_with_the_types_of_their_constructors():
    opt = load_options(OPTIONS / "stage1/100_ATD_RealSR_x4.yml")
    assert list(component_problems(ARCH_REGISTRY, opt.network_g, "network_g")) == []
    with torch.device("meta"):
        assert isinstance(build(ARCH_REGISTRY, opt.network_g), ATD)
