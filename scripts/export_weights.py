"""Make the half-precision file of a network that ships with the package, from a checkpoint's weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from upsr.archs.weights import read_weight_file, select_weights
from upsr.atomic import atomic_write
from upsr.errors import UpsrError

EXAMPLES = """examples:
  python scripts/export_weights.py experiments/tiny_stage1/models/net_g_latest.safetensors upsr/weights/tiny/g.safetensors"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="weights: .safetensors or .pth")
    parser.add_argument("target", type=Path, help=".safetensors to write")
    given = parser.parse_args()
    try:
        export(given.source, given.target)
    except UpsrError as error:
        print(f"{error.label}: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{given.target}: {given.target.stat().st_size / 1e6:.2f} MB")
    return 0


def export(source: Path, target: Path) -> None:
    """Write float16 weights.

    Raises:
        UpsrError: the source cannot be read, or holds a number that float16 does not.
    """
    _, weights = select_weights(read_weight_file(source), None, source)
    halved = {
        name: value.half().contiguous() if value.is_floating_point() else value for name, value in weights.items()
    }
    if not all(bool(torch.isfinite(value).all()) for value in halved.values()):
        raise UpsrError(f"{source}: a weight is too large for float16")
    with atomic_write(target) as temporary:
        save_file(halved, temporary, metadata={"format": "pt", "source": source.name})


if __name__ == "__main__":
    sys.exit(main())
