"""Option files of other projects, with keys as theirs and words of ours, and their translation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from upsr import cli
from upsr.config.load import merged

FOREIGN = Path(__file__).with_name("foreign")
FILES = sorted(FOREIGN.iterdir())


def imported(source: Path, out: Path) -> Path:
    assert cli.main(["options", "import", str(source), "-o", str(out)]) == 0
    return out


def written(text: str, folder: Path) -> Path:
    path = folder / "foreign.yml"
    path.write_text(text)
    return path


def changed(name: str, folder: Path, **changes: Any) -> Path:
    """A file of tests/foreign with other values."""
    data = merged(yaml.safe_load((FOREIGN / name).read_text()), changes)
    return written(yaml.safe_dump(data, sort_keys=False), folder)
