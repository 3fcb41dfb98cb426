"""Options belong to their method: how it is named, what is refused, and what editors and readers are shown of it."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

from tests.toy import ToyMethod, ToyTraining
from upsr import cli
from upsr.commands import options as command
from upsr.config import load_options, methods
from upsr.config.foreign import own_part
from upsr.config.load import merged, parse_options, read_options, read_yaml
from upsr.config.methods import UnknownMethodError, find_method
from upsr.engine.resume import changes_since
from upsr.engine.setup import component_problems_in
from upsr.errors import UpsrError
from upsr.methods.bicubic.method import Bicubic
from upsr.methods.sr.options import SROptions
from upsr.methods.sr.training import SRTraining
from upsr.methods.upsr.distillation import OneStepUPSR, UPSRDistillation
from upsr.methods.upsr.method import UPSR
from upsr.methods.upsr.training import UPSRTraining

ROOT = Path(__file__).parents[1]
STAGE1, FULL = ROOT / "options/tiny/stage1.yml", ROOT / "options/000_UPSR_RealSR_x4.yml"
MODELINE = "# yaml-language-server: $schema="


@pytest.mark.parametrize(
    ("naming", "method", "training"),
    [
        ({"method": "upsr"}, UPSR, UPSRTraining),
        ({"method": "upsr", "phase": "distillation"}, OneStepUPSR, UPSRDistillation),
        ({"method": "sr", "phase": "supervised"}, None, SRTraining),
        ({"method": "bicubic"}, Bicubic, None),
        ({"method": "tests.toy"}, ToyMethod, ToyTraining),
        ({"method": "tests.toy.ToyMethod"}, ToyMethod, ToyTraining),
        ({"method": "tests.toy.ToyTraining"}, ToyMethod, ToyTraining),
        ({"model_type": "UPSRModel"}, UPSR, UPSRTraining),
        ({"model_type": "UPSRDistillationModel"}, OneStepUPSR, UPSRDistillation),
        ({"model_type": "tests.toy.ToyTraining"}, ToyMethod, ToyTraining),
        ({"model_type": "tests.toy.ToyMethod"}, ToyMethod, ToyTraining),
    ],
)
def test_a_method_is_found_by_name_or_path(naming, method, training):
    found = find_method(naming)
    assert found.training is training
    assert method is None or found.method is method


@pytest.mark.parametrize(
    ("naming", "message"),
    [
        ({}, r"method: this key is needed; valid are bicubic, .*upsr"),
        ({"method": 3}, r"method: input should be a valid string \(found 3\)"),
        ({"method": "upsrr"}, r"method: 'upsrr' cannot be imported .*did you mean 'upsr'"),
        ({"method": "no_such.Thing"}, r"method: 'no_such\.Thing' cannot be imported"),
        ({"method": "os"}, r"method: os has 0 classes that derive from upsr\.methods\.base\.Method"),
        ({"method": "os.system"}, r"method: 'os\.system' is no class that derives from"),
        ({"method": "tests.toy.ToyNetwork"}, r"method: 'tests\.toy\.ToyNetwork' is no class that derives from"),
        ({"method": "upsr", "phase": "distilation"}, r"phase: upsr has no training .*did you mean 'distillation'"),
        ({"method": "sr", "model_type": "UPSRModel"}, r"model_type: method: sr is given too; remove model_type"),
        ({"model_type": "UPSRModel", "phase": "distillation"}, r"phase: it goes with method; write method"),
        ({"model_type": "UPSRmodel"}, r"model_type: unknown model 'UPSRmodel'; did you mean 'UPSRModel'"),
    ],
)
def test_what_names_no_method_is_refused_with_its_key(naming, message):
    with pytest.raises(UnknownMethodError) as refusal:
        find_method(naming)
    with pytest.raises(UpsrError, match=message):
        raise UpsrError(f"{refusal.value.key}: {refusal.value}")


def test_a_module_may_state_its_method_and_trainings(tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text(
        "from tests.toy import ToyMethod as METHOD\nfrom tests.toy import ToyTraining\n"
        "TRAININGS = {'first': ToyTraining, 'second': 'tests.toy:ToyTraining'}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    for naming in ({}, {"phase": "second"}):
        found = find_method({"method": "mine_alone", **naming})
        assert (found.method, found.training) == (ToyMethod, ToyTraining)


def test_the_options_of_the_page_s_method_are_checked(tmp_path, monkeypatch):
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Options = MyOptions" in block
    )
    (tmp_path / "my_method_of_the_page.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    data = {key: value for key, value in read_yaml(STAGE1).items() if key != "model_type"}
    data |= {"method": "my_method_of_the_page", "noise": {"level": 0.1}, "prior": {"type": "CompactSR"}}
    assert parse_options(data, "mine").noise.level == 0.1
    with pytest.raises(UpsrError, match=r"mine: noise\.levle: unknown key; did you mean 'level'"):
        parse_options({**data, "noise": {"levle": 0.1}}, "mine")
    wrong = list(component_problems_in({**data, "prior": {"type": "CompactSR", "num_feats": 8}}))
    assert [problem.key for problem in wrong] == ["prior.num_feats"]


def test_an_installed_package_s_method_has_a_short_name(monkeypatch):
    def entry_points(*, group, name):
        values = {("upsr.method", "toy"): "tests.toy", ("upsr.model", "Toy"): "tests.toy:ToyTraining"}
        return [EntryPoint(name, values[group, name], group)] if (group, name) in values else []

    monkeypatch.setattr(methods, "entry_points", entry_points)
    for naming in ({"method": "toy"}, {"model_type": "Toy"}):
        assert find_method(naming).method is ToyMethod


@pytest.mark.parametrize("naming", [{"method": "sr"}, {"model_type": "AuxiliarySRModel"}])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"uncertainty": {"b_u": 0.4}},
            "uncertainty: a section of the method upsr, and this file is of sr; remove it",
        ),
        ({"train": {"aux_amp": "fp16"}}, "train.aux_amp: a key of the method upsr, and this file is of sr; remove it"),
        (
            {"path": {"pretrain_network_aux": "tiny"}},
            "path.pretrain_network_aux: a key of the method upsr, and this file is of sr; remove it",
        ),
        ({"uncertainti": {}}, "uncertainti: unknown key"),
    ],
)
def test_a_section_of_another_method_is_refused_in_one_line(tmp_path, naming, changes, message):
    data = {key: value for key, value in read_yaml(STAGE1).items() if key != "model_type"}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({**merged(data, changes), **naming}), encoding="utf-8")
    with pytest.raises(UpsrError) as refusal:
        load_options(tmp_path / "mine.yml")
    assert str(refusal.value).startswith(f"{tmp_path / 'mine.yml'}: {message}")
    assert "\n" not in str(refusal.value)


def test_null_says_that_there_is_no_section_of_another_method(tmp_path):
    (tmp_path / "mine.yml").write_text(f"base: {STAGE1}\nuncertainty: null\npath: {{pretrain_network_aux: null}}\n")
    assert isinstance(load_options(tmp_path / "mine.yml"), SROptions)


def test_a_file_inherits_what_its_own_method_has(tmp_path):
    base = ROOT / "options/ablation/table5_bu_0.0.yml"
    stage1 = read_yaml(STAGE1)
    own = {"base": str(base), "name": "mine", "method": "sr", "network_g": stage1["network_g"]}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(own), encoding="utf-8")
    opt, full = load_options(tmp_path / "mine.yml"), load_options(base)
    assert (opt.method, opt.model_type) == ("sr", None)
    assert opt.degradation == full.degradation
    assert opt.train.total_iter == full.train.total_iter
    assert "uncertainty" not in opt.model_dump()
    assert opt.path.experiments_root == full.path.experiments_root
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({**own, "uncertainty": {"b_u": 0.0}}), encoding="utf-8")
    with pytest.raises(UpsrError, match="uncertainty: a section of the method upsr"):
        load_options(tmp_path / "mine.yml")


def test_another_method_on_the_command_line_leaves_the_file_s_names_out():
    opt = load_options(ROOT / "options/tiny/one_step.yml", ["method=upsr", "phase=distillation"])
    assert (opt.method, opt.phase, opt.model_type) == ("upsr", "distillation", None)
    assert load_options(FULL, ["method=upsr"]).phase is None


def test_the_options_of_a_run_of_an_earlier_version_are_read(tmp_path):
    data = load_options(STAGE1).model_dump(mode="json")
    data |= {"uncertainty": {"b_u": 0.3}, "network_aux": None, "train": {**data["train"], "aux_amp": "fp32"}}
    (tmp_path / "models").mkdir()
    for name in ("options.yml", "other.yml"):
        (tmp_path / name).write_text(yaml.safe_dump(data), encoding="utf-8")
    opt = load_options(STAGE1)
    assert load_options(tmp_path / "options.yml") == opt
    state = SimpleNamespace(run={"seed": 0, "global_batch": 1, "world_size": 1, "images_digest": ""}, options=data)
    assert list(changes_since(state, state.run, opt)) == []
    state.options["manual_seed"] = 5
    assert list(changes_since(state, state.run, opt)) == ["manual_seed: 5 -> 0"]
    with pytest.raises(UpsrError, match="uncertainty: a section of the method upsr"):
        load_options(tmp_path / "other.yml")


def test_options_record_the_names_that_they_were_given():
    recorded = load_options(FULL).model_dump()
    assert recorded["model_type"] == "UPSRModel"
    assert not {"method", "phase"} & recorded.keys()
    data = {"method": "sr", **{key: value for key, value in read_options(STAGE1).items() if key != "model_type"}}
    assert own_part(data) == data


# What editors and readers are shown.


def shipped() -> dict[str, str]:
    """The kind of every YAML file that describes something, by path."""
    files: dict[str, str] = {}
    for name, kind in command.KINDS.items():
        files |= {path.relative_to(ROOT).as_posix(): name for path in ROOT.glob(kind.files)}
    for path in (ROOT / "options").rglob("*.yml"):
        if path.relative_to(ROOT).as_posix() not in files:
            files[path.relative_to(ROOT).as_posix()] = find_method(read_options(path)).name
    return dict(sorted(files.items()))


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    return command.all_schemas()


def test_schemas_and_page_are_up_to_date(schemas):
    shown = {path.stem: json.loads(path.read_text()) for path in (ROOT / "options/schema").iterdir()}
    assert shown == schemas, "run: upsr options schema --out options/schema"
    page = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert page == command.page(schemas), "run: upsr options docs --out docs/options.md"


def test_every_shipped_file_names_and_fits_its_schema(schemas):
    validators = {name: jsonschema.Draft202012Validator(schema) for name, schema in schemas.items()}
    for validator in validators.values():
        validator.check_schema(validator.schema)
    files = shipped()
    assert len(files) >= 80
    for name, kind in files.items():
        first = (ROOT / name).read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith(MODELINE), name
        named = ((ROOT / name).parent / first.removeprefix(MODELINE)).resolve()
        assert named == ROOT / "options/schema" / f"{kind}.json", name
        assert list(validators[kind].iter_errors(read_yaml(ROOT / name))) == [], name


@pytest.mark.parametrize(
    ("kind", "changes", "where"),
    [
        ("upsr", {"trian": {}}, []),
        ("upsr", {"uncertainty": {"b_u": 2}}, ["uncertainty", "b_u"]),
        ("upsr", {"network_g": {"model_chanels": 3}}, ["network_g"]),
        ("upsr", {"train": {"pixel_opt": {"type": "L1Los"}}}, ["train"]),
        ("upsr", {"datasets": {"train": {"gt_sise": 1}}}, ["datasets", "train"]),
        ("upsr", {"train": {"total_iter": None}}, ["train"]),
        ("upsr", {"method": "sr"}, ["method"]),
        ("sr", {"uncertainty": {"b_u": 0.4}}, ["uncertainty"]),
        ("sr", {"path": {"pretrain_network_aux": "tiny"}}, ["path", "pretrain_network_aux"]),
    ],
)
def test_a_schema_refuses_what_the_program_refuses(schemas, kind, changes, where):
    validator = jsonschema.Draft202012Validator(schemas[kind])
    good = read_options({"upsr": FULL, "sr": STAGE1}[kind])
    assert validator.is_valid(good)
    errors = list(validator.iter_errors(merged(good, changes)))
    assert errors
    assert all(list(error.absolute_path)[: len(where)] == where for error in errors)


def test_a_schema_asks_for_what_a_file_without_base_needs(schemas):
    validator = jsonschema.Draft202012Validator(schemas["sr"])
    good = read_options(STAGE1)
    for key in ("name", "model_type", "datasets", "network_g"):
        less = {name: value for name, value in good.items() if name != key}
        assert not validator.is_valid(less), key
        assert validator.is_valid({"base": "other.yml", **less}), key
    own = {"network_g": {"type": "my_network.Edges", "width": 8}, "train": {**good["train"], "warmup_iter": None}}
    assert validator.is_valid({**good, **own})


def test_a_method_of_one_s_own_has_a_schema(capsys):
    assert cli.main(["options", "schema", "tests.toy"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["network_g"]["$ref"] == "#/$defs/NetworkComponent"
    assert cli.main(["options", "list"]) == 0
    assert "options/protocols/*.yml" in capsys.readouterr().out
    assert cli.main(["options", "schema", "protocl"]) == 2
    assert "no such kind" in capsys.readouterr().err


def test_the_list_has_every_method_with_its_phases(capsys):
    assert cli.main(["options", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    listed = {words[0]: words[1:] for words in lines}
    assert listed.keys() >= set(methods.method_names()) | set(command.KINDS)
    assert listed["upsr"][:2] == ["supervised,", "distillation"]
    assert listed["bicubic"][:2] == ["-", "Bicubic"]
