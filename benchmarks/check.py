"""Compares two result files of run.py and names what got slower; exit code 1 if anything did.

examples:
  python benchmarks/check.py old.json new.json
  python benchmarks/check.py old.json new.json --tolerance 0.1

A case with a plain form is compared by its ratio plain / ours, which does not depend on how busy or how fast a machine is; one
without by its time in units of the machine's matrix products, which depends on it a little.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="results before")
    parser.add_argument("new", type=Path, help="results after")
    parser.add_argument("--tolerance", type=float, default=0.05, metavar="SHARE", help="that is not counted (0.05)")
    given = parser.parse_args()
    try:
        old, new = (speeds(path) for path in (given.old, given.new))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: no results of run.py: {error}", file=sys.stderr)
        return 2
    common = [name for name in old if name in new]
    if not common:
        print("error: the two files have no case in common", file=sys.stderr)
        return 2
    print("| what | before | after | after / before |\n|---|---:|---:|---:|")
    slower = []
    for name in common:
        change = new[name] / old[name]
        print(f"| {name} | {old[name]:.3g} | {new[name]:.3g} | {change:.2f} |")
        if change < 1 - given.tolerance:
            slower.append(f"{name} ({1 - change:.0%} slower)")
    for name in sorted(set(old) ^ set(new)):
        print(f"only in one file: {name}", file=sys.stderr)
    if slower:
        print(f"slower: {', '.join(slower)}", file=sys.stderr)
    return 1 if slower else 0


def speeds(path: Path) -> dict[str, float]:
    """How fast each case is, more is better."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    limit = content["limits"]["float32 GFLOP/s"]
    return {row["name"]: row["ratio"] or 1 / (row["median"] * limit) for row in content["rows"]}


if __name__ == "__main__":
    sys.exit(main())
