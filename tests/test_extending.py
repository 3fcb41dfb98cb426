"""A user's own network, loss, metric and method work by their paths, with no file of the package changed."""

from __future__ import annotations

import csv
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests import tiny
from tests.toy import ToyMethod, ToyNetwork
from upsr import cli
from upsr.config import components
from upsr.config.load import parse_options
from upsr.config.schema import DatasetOptions
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import build_validation_set
from upsr.engine.fitting import refuse_misfits
from upsr.engine.setup import checked_options
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import Facts, build_method
from upsr.restoring import ModelRestorer

REPOSITORY = Path(__file__).parents[1]


def toy(root, **changes):
    """Options of a run of the toy method."""
    photos = root / "photos"
    if not photos.exists():
        tiny.save_pictures(photos, 2)
    return {
        "name": "toy",
        "method": "tests.toy",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 1,
        "auto_resume": True,
        "pair_pool": {"pairs_per_slot": 2},
        "datasets": {
            "train": {"type": "RealESRGANDataset", "dataroot_gt": str(photos), "gt_size": 64, "batch_size_per_gpu": 2},
            "val": {"type": "BicubicFolderDataset", "dataroot_gt": str(photos), "scale": 2},
        },
        "network_g": {"type": "tests.toy.ToyNetwork", "width": 4},
        "path": {"experiments_root": str(root / "experiments")},
        "train": {
            "total_iter": 4,
            "warmup_iter": 1,
            "optim_g": {"type": "AdamW", "lr": 1e-3},
            "pixel_opt": {"type": "tests.toy.ToyLoss", "eps": 0.01},
        },
        "val": {"val_freq": 2, "metrics": {"mae": {"type": "tests.toy.ToyMetric"}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
        **changes,
    }


RUN = Runtime(torch.device("cpu"))


def run(data):
    return train(parse_options(data, "test"), RUN)


def test_a_method_of_one_s_own_trains_is_measured_and_resumes_exactly(tmp_path):
    whole = run(toy(tmp_path, name="whole"))
    data = toy(tmp_path)
    run({**data, "train": {**data["train"], "total_iter": 2}})
    halves = run(data)
    files = [folder / "training_states" / "4.state" for folder in (whole, halves)]
    first, second = (torch.load(file, weights_only=True)["players"]["g"]["params"] for file in files)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    with (halves / "validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["iteration"], row["tag"]) for row in rows] == [("2", "val/mae"), ("4", "val/mae")]
    assert all(0 < float(row["value"]) < 255 for row in rows)


def test_a_trained_method_of_one_s_own_restores(tmp_path):
    weights = run(toy(tmp_path)) / "models" / "net_g_latest.safetensors"
    data = toy(tmp_path, train=None)
    data["path"]["pretrain_network_g"] = str(weights)
    model = build_method(parse_options(data, "test")).eval()
    assert isinstance(model, ToyMethod)
    assert isinstance(model.network, ToyNetwork)
    lq = torch.rand(1, 3, 9, 13, generator=torch.Generator().manual_seed(0))
    out = [ModelRestorer(model, seed)(lq, ["a"]) for seed in (0, 1)]
    assert out[0].shape == (1, 3, 18, 26)
    assert 0 < float((out[0] - out[1]).std()) < 0.05  # two draws of the noise that the method adds


@pytest.mark.parametrize(
    ("key", "name", "reason"),
    [
        (
            "network_g",
            "no_such_package.Net",
            "cannot be imported (ModuleNotFoundError: No module named 'no_such_package')",
        ),
        ("network_g", "tests.toy.Nothing", "cannot be imported (AttributeError"),
        ("network_g", "os.system", "'os.system' is no class that derives from torch.nn.modules.module.Module"),
        ("network_g", "subprocess.Popen", "is no class that derives from torch.nn.modules.module.Module"),
        ("network_g", "tests.broken_module.Net", "cannot be imported (ZeroDivisionError: division by zero)"),
        (
            "method",
            "tests.toy.ToyNetwork",
            "is no class that derives from upsr.methods.base.Method or upsr.methods.base.Training",
        ),
        ("train.pixel_opt", "tests.toy.ToyMetric", "is no class that derives from torch.nn.modules.module.Module"),
        ("val.metrics.mae", "tests.toy.ToyLoss", "is no class that derives from upsr.metrics.base.Metric"),
        ("datasets.train", "tests.toy.ToyLoss", "is no class that derives from torch.utils.data.dataset.Dataset"),
    ],
)
def test_what_is_no_component_is_told_with_its_key(tmp_path, monkeypatch, key, name, reason):
    package = tmp_path / "tests_of_a_user"
    package.mkdir()
    (package / "broken_module.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    name = name.replace("tests.broken_module", "tests_of_a_user.broken_module")
    data = toy(tmp_path)
    *sections, last = key.split(".")
    place = data
    for section in sections:
        place = place[section]
    place[last] = name if last == "method" else {**place[last], "type": name}
    file = tmp_path / "toy.yml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(UpsrError) as refusal:
        checked_options(str(file), [], "train")
    told = [line for line in str(refusal.value).splitlines() if key in line and reason in line]
    assert len(told) == 1, str(refusal.value)


def test_the_page_s_own_parts_run_as_they_stand(tmp_path, monkeypatch):
    page = (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")
    modules = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in modules] == ["my_network", "my_loss", "my_metric", "my_dataset", "my_method"]
    for name, code in modules:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    tiny.save_pictures(tmp_path / "photos", 2)
    options = re.search(r"```yaml\n# my_run.yml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_run.yml").write_text(options[1], encoding="utf-8")
    opt = checked_options("my_run.yml", ["num_gpu=0", "train.total_iter=2", "val.val_freq=2"], "train")
    folder = train(opt, RUN)
    assert "val/mae" in (folder / "validation.csv").read_text(encoding="utf-8")
    train(checked_options("my_run.yml", ["method=my_method", "num_gpu=0", "train.total_iter=2"], "train"), RUN)
    results = []
    for share in ("1", "0.5"):
        place = f"large{share}"
        given = ["upscale", "photos", "-o", place, "--weights", "experiments/mine", "--knob", f"share={share}"]
        assert cli.main([*given, "--quiet"]) == 0
        results.append([np.asarray(Image.open(file), int) for file in sorted(Path(place).iterdir())])
    assert [image.shape for image in results[0]] == [(192, 192, 3), (202, 198, 3)]
    assert all((one != half).any() for one, half in zip(*results, strict=True))
    assert cli.main([*given[:-2], "--steps", "2", "--quiet", "--overwrite"]) == 2


def test_an_installed_package_s_components_have_short_names(monkeypatch):
    def entry_points(*, group, name):
        known = EntryPoint(name="Toy", value="tests.toy:ToyNetwork", group="upsr.arch")
        return [known] if (group, name) == ("upsr.arch", "Toy") else []

    monkeypatch.setattr(components, "entry_points", entry_points)
    from upsr.compat import ARCH_REGISTRY, LOSS_REGISTRY

    assert components.resolve(ARCH_REGISTRY, "Toy") is ToyNetwork
    with pytest.raises(components.UnknownTypeError, match="unknown type 'Toy'"):
        components.resolve(LOSS_REGISTRY, "Toy")


class PlainDataset(torch.utils.data.Dataset):
    """A dataset of torch's, with the least that validation asks for."""

    channels, keys = 3, ("a",)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"lq": torch.zeros(3, 4, 4), "gt": torch.zeros(3, 8, 8), "key": self.keys[index]}


def test_a_dataset_of_torch_s_own_base_class_is_validated_on():
    data = build_validation_set("val_1", DatasetOptions(type="tests.test_extending.PlainDataset"), None)
    refuse_misfits("val_1", data, Facts(2, 3))
    with pytest.raises(UpsrError, match=r"datasets\.val_1\.channels: 3, but the network has 1"):
        refuse_misfits("val_1", data, Facts(2, 1))
