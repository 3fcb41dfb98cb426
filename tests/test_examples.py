"""Programs and notebooks of examples/ run in an empty folder, at small sizes, and write what they say."""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

from scripts.notebooks import notebook_of

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZES = {
    "upscale": {"CROP": 16},
    "own_dataset": {"ITERATIONS": 1, "BATCH": 1},
    "evaluate_elsewhere": {"SIDE": 64},
    "add_method": {"CROP": 16},
}
WRITTEN = {
    "upscale": ["large.png", "large_1_step.png", "large_faithful.png", "large_x2.png", "uncertainty.png"],
    "own_dataset": ["preview.png", "mine/models/net_g_latest.safetensors", "test/mine/val/metrics.csv", "large.png"],
    "evaluate_elsewhere": ["measured/images.csv", "measured/report/index.html"],
    "add_method": ["sharpened_0.png", "sharpened_1.png", "sharpened_2.png"],
}


def code_of(notebook):
    """The cells of code, as one program."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


# A notebook's cells are its program's to the syntax (below), so that running one of the two is running both.
@pytest.mark.parametrize("name", SIZES)
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    text = code_of(EXAMPLES / f"{name}.ipynb")
    for constant, value in SIZES[name].items():
        text, found = re.subn(rf"^{constant} = \d+", f"{constant} = {value}", text, flags=re.MULTILINE)
        assert found == 1, constant
    monkeypatch.chdir(tmp_path)  # which also ends the change of folder that an example makes
    (tmp_path / "example.py").write_text(text)
    runpy.run_path(str(tmp_path / "example.py"))
    assert "error" not in capsys.readouterr().err
    out = tmp_path / "results/examples" / name
    assert [file for file in WRITTEN[name] if not (out / file).exists()] == []


@pytest.mark.parametrize("name", SIZES)
def test_a_notebook_is_the_one_of_its_program(name):
    program, notebook = (EXAMPLES / f"{name}.py").read_text(), EXAMPLES / f"{name}.ipynb"
    assert notebook.read_text() == notebook_of(name, program), "python -m scripts.notebooks makes them"
    statements = ast.parse(program).body[1:]  # without the docstring
    assert [ast.dump(node) for node in ast.parse(code_of(notebook)).body] == [ast.dump(node) for node in statements]
    first = json.loads(notebook.read_text())["cells"][0]
    assert "# %pip install -e .." in "".join(first["source"])
    assert all(line.startswith("#") for line in first["source"])


def test_the_list_has_every_example_and_each_is_short():
    programs = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert programs.keys() == SIZES.keys()
    for kind in ("py", "ipynb"):
        assert sorted(re.findall(rf"\]\((\w+)\.{kind}\)", (EXAMPLES / "README.md").read_text())) == sorted(programs)
    for name, text in programs.items():
        assert len(text.splitlines()) < 60, name
        assert text.count("\n# %% ") >= 4, name


def test_results_of_a_method_of_one_s_own_follow_its_knob(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "add_method.py"))
    plain, sharp = (Image.open(f"results/examples/add_method/sharpened_{n}.png") for n in (0, 2))
    assert plain.size == sharp.size == (384, 384)
    assert plain.tobytes() != sharp.tobytes()
