"""The script of `upsr completion` completes in bash, without Python; scripts of other shells are written."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess

import pytest

from upsr import cli

BASH = shutil.which("bash")


def script(shell: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["completion", shell]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    assert BASH is not None
    file = tmp_path_factory.mktemp("completion") / "upsr.bash"
    file.write_text(script("bash"))
    return file


def completed(file, line: str, folder) -> list[str]:
    """What Tab offers at the end of a line, in a shell that finds no program."""
    words = line.split(" ")
    asked = f"""
        source {file}
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
        _shtab_upsr
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([BASH, "-c", asked], cwd=folder, env={"PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(set(done.stdout.split()))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("upsr up", ["upscale"]),
        ("upsr upscale --out", ["--out", "--outscale"]),
        ("upsr upscale photo.jpg --rec", ["--record"]),
        ("upsr data pre", ["prepare", "preview"]),
        ("upsr data prepare Set14 --sou", ["--source"]),
        ("upsr evaluate --methods bicubic UPSR-tiny --data", ["--datasets", "--datasets-root"]),
        ("upsr serve --dtype b", ["bfloat16"]),
        ("upsr diffsr cal", ["calibrate"]),
        ("upsr upscale pho", ["photo.jpg", "photos"]),
        ("upsr upscale --weights pho", ["photo.jpg", "photos"]),
        ("upsr nothing --o", []),
    ],
)
def test_bash_completes(line, offered, bash, tmp_path):
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "photos").mkdir()
    assert completed(bash, line, tmp_path) == offered


def test_every_command_is_offered_first(bash, tmp_path):
    assert {*cli._COMMANDS, "stablesr"} <= {*completed(bash, "upsr ", tmp_path)}


@pytest.mark.parametrize(("shell", "begins"), [("zsh", "#compdef upsr"), ("fish", "complete -c upsr")])
def test_other_shells_have_scripts(shell, begins):
    written = script(shell)
    assert begins in written
    for word in ("upscale", "outscale", "calibrate"):
        assert word in written


def test_a_shell_that_is_not_known_is_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["completion", "csh"])
    assert "invalid choice: 'csh'" in capsys.readouterr().err
