"""Option files: everything wrong is found before anything starts, and named with the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from upsr.archs import ATD
from upsr.compat import ARCH_REGISTRY
from upsr.config import load_options
from upsr.config.components import build, component_problems
from upsr.engine.setup import _component_problems, checked_options
from upsr.errors import UpsrError
from upsr.models.build import build_network

OPTIONS = Path(__file__).parents[1] / "options"
FULL = OPTIONS / "000_UPSR_RealSR_x4.yml"
ALL = sorted(p for p in OPTIONS.rglob("*.yml") if p.parent.name not in ("methods", "protocols", "teaching"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(OPTIONS).as_posix())
def test_every_option_file_is_valid_and_its_networks_fit(path):
    opt = load_options(path)
    assert list(_component_problems(opt)) == []
    with torch.device("meta"):
        network = build_network(opt.network_g, "network_g", scale=opt.scale)
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
    with pytest.raises(UpsrError) as error:
        load_options(FULL, ["nam=x", "train.warmup=5"])
    assert len(str(error.value).splitlines()) == 2


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
