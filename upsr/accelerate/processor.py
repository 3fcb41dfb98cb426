"""The kind of CPU."""

from __future__ import annotations

from typing import Any

import torch


def cpu_capabilities() -> dict[str, Any]:
    """Instruction sets and name as torch finds them; empty where torch is too old."""
    return dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}
