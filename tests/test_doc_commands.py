"""Commands and programs of the documentation: all are understood, and those that need nothing from elsewhere are run."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from tests.processes import ENVIRONMENT
from upsr import cli
from upsr.config import load_options
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.entries import ENTRIES
from upsr.weights.catalogue import entries_of

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(
        ROOT / name
        for name in (
            "README.md",
            "datasets/README.md",
            "examples/README.md",
            "experiments/README.md",
            "integrations/comfyui/README.md",
            "upsr/weights/tiny/README.md",
        )
    ),
]
NOT_RUN = {
    r"^(make|source|pip|sbatch|ln|cat|tar|export|docker)\b|pip install": "of the shell or another program",
    r"^upsr serve": "serves until it is stopped (tests/test_app.py)",
    r"^upsr upscale .*--weights (?!bicubic\.yml)": "needs weights that are not in the package",
    r"^upsr export": "minutes (tests/test_export.py)",
    r"^upsr (evaluate|compare|report|tables|verify)": "needs benchmarks (tests/test_evaluation.py, test_verify.py)",
    r"^upsr data (prepare|teach)": "needs downloads (tests/test_evaluation_files.py, test_teaching.py)",
    r"^upsr weights (fetch|verify)": "needs a network (tests/test_weights.py)",
    r"^upsr convert tiny": "run before the program that loads what it makes (test_programs_of_python_run)",
    r"^upsr (convert (?!tiny)|diffsr|stablesr)": "needs weights that are not in the package",
    r"^upsr completion": "writes into the reader's home (tests/test_completion.py)",
    r"^upsr my_method": "a method of the reader's (tests/test_extending.py)",
    r"^(python3?|torchrun) .*(train|test)\.py": "trains for long (tests/test_training.py)",
    r"^(python3?|torchrun) (-m |.*-m upsr|benchmarks/)": "measures for long, or needs results of a run",
}
"""Patterns of commands that are only parsed, and why."""


class ParsedError(Exception):
    """A command line has been understood; nothing is done."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found, body in re.findall(r"```(\w*)\n(.*?)```", page.read_text(), flags=re.DOTALL):
            if found == language:
                yield str(page.relative_to(ROOT)), body


def commands() -> list[str]:
    """Each command of a shell once, without comments."""
    return commands_of(*(str(page.relative_to(ROOT)) for page in PAGES))


def commands_of(*pages: str) -> list[str]:
    """Those of some pages."""
    found: dict[str, None] = {}
    for body in (body for page, body in blocks("bash") if page in pages):
        for line in body.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*$", "", line).strip()
            if command and not command.startswith("#"):
                found |= {part.strip(): None for part in re.split(r"&&|;(?= )", command)}
    return list(found)


def reason(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


def words(command: str) -> list[str]:
    """Its arguments, without redirections."""
    return shlex.split(re.sub(r"\s[<>] ?\S+", "", command))


UPSR = [
    command
    for command in commands()
    if re.search(r"^(torchrun .* -m |docker run .* )?upsr\b", command) and "my_method" not in command
]
PROGRAMS = [c for c in commands() if re.search(r"^python3? (-m scripts|benchmarks/|train\.py|test\.py)", c)]
TRAININGS = [c for c in commands() if re.search(r"(train|test)\.py|train\.sbatch", c) and "my_run" not in c]
RUN = [c for c in commands() if reason(c) is None]


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """The block ends with the parsed arguments, or with the help that was asked for."""
    try:
        yield
    except ParsedError:
        return
    except SystemExit as stop:
        if stop.code == 0:
            return
        raise AssertionError("the arguments are refused") from stop
    raise AssertionError("no arguments were parsed")


@pytest.mark.parametrize("command", UPSR)
@pytest.mark.usefixtures("only_parsed")
def test_a_command_of_upsr_is_understood(command, capsys):
    own = words(command)
    with understood():
        cli.main.__wrapped__(own[own.index("upsr") + 1 :])


@pytest.mark.parametrize("command", PROGRAMS)
@pytest.mark.usefixtures("only_parsed")
def test_a_program_of_the_repository_takes_its_arguments(command, monkeypatch, capsys):
    _, *own = words(command)
    monkeypatch.setattr(sys, "argv", own[1:] if own[0] == "-m" else own)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with understood():
        if own[0] == "-m":
            runpy.run_module(own[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / own[0]), run_name="__main__")


@pytest.mark.parametrize("command", TRAININGS)
def test_option_files_are_there_and_take_the_changes(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    own = words(command)
    file = next(word for word in own if word.endswith(".yml"))
    changes = own[own.index("--force-yml") + 1 :] if "--force-yml" in own else []
    assert load_options(file, changes).name


def test_targets_of_make_entries_datasets_and_weights_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for command in commands():
        own = words(command)
        if own[0] == "make":
            assert re.search(rf"^{own[1]}:", makefile, re.MULTILINE), command
        for option, known in (("--methods", ENTRIES.names()), ("--datasets", BENCHMARKS.names())):
            if own[:2] == ["upsr", "evaluate"] and option in own:
                named = own[own.index(option) + 1 :]
                named = named[: next((i for i, word in enumerate(named) if word.startswith("--")), None)]
                assert set(named) <= set(known), command
        if own[:2] == ["upsr", "weights"] and len(own) > 3:
            assert all(entries_of(name) for name in own[3:] if not name.startswith("--")), command


def test_every_reason_is_one_of_a_command():
    for pattern, why in NOT_RUN.items():
        assert any(re.search(pattern, command) for command in commands()), (pattern, why)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the photos that the pages name."""
    root = tmp_path_factory.mktemp("place")
    photo = Image.fromarray(tiny.picture(12, 16))
    for name in ("photo.jpg", "photo.png", "small.png", "holiday/a.jpg", "scans/b.tif", "mask.png", "masks/a.png"):
        (root / name).parent.mkdir(exist_ok=True)
        photo.save(root / name)
    for folder in ("datasets/mine", "datasets/ImageNet/train"):
        tiny.save_pictures(root / folder, 2, size=300)
    (root / "photo_x4_seed0.json").write_text('{"options": {"seed": 0, "format": "png"}}')
    (root / "photo.json").write_text('{"options": {"seed": 5}, "weights_sha256": {}, "done": []}')
    (root / "bicubic.yml").write_text("name: bicubic\nmethod: bicubic\ndatasets: {}\n")
    return root


@pytest.mark.parametrize("command", [c for c in RUN if c.startswith("upsr ") and "<" not in c])
def test_a_command_of_upsr_runs(command, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    shutil.rmtree("large", ignore_errors=True)
    own = words(command)[1:]
    with contextlib.suppress(SystemExit):  # of --help
        code = cli.main.__wrapped__(own)
        # That weights are not here is what `where` says with 1.
        assert code in ((0, 1) if own[:2] == ["weights", "where"] else (0,)), capsys.readouterr().err


@pytest.mark.parametrize("command", [c for c in RUN if "<" in c or not c.startswith("upsr ")])
def test_a_command_of_the_shell_runs(command, place):
    upsr = f"{sys.executable} -m upsr"
    own = re.sub(r"^upsr\b", upsr, command)
    done = subprocess.run(own, shell=True, cwd=place, env={**os.environ, **ENVIRONMENT}, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", ["README.md", "docs/developer.md", "docs/upscaling.md"])
def test_programs_of_python_run(page, place, monkeypatch):
    """Those of extending.md and export.md: tests/test_extending.py, tests/test_export.py."""
    monkeypatch.chdir(place)
    for command in commands_of(page):
        if command.startswith("upsr convert tiny"):
            assert cli.main.__wrapped__(words(command)[1:]) == 0
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(place / "modules"))
    programs = [body for name, body in blocks("python") if name == page]
    assert programs
    for program in programs:
        (place / "large.png").unlink(missing_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(program, page, "exec"), {})
        assert Image.open(place / "large.png").size == (64, 48)
