"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The team's folder of papers, golden vectors and photos; tests that need it skip where it is absent."""
    path = Path(os.environ.get("UPSR_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"needs the team's shared folder (looked for {path}; UPSR_SHARED names another)")
    return path
