"""Make a benchmark's folder from what was downloaded: the same as ``upsr data prepare``, which `--help` explains."""

from __future__ import annotations

import sys

from upsr.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "prepare", *sys.argv[1:]]))
