"""The tables and figures of the UPSR paper, measured here: the same as ``upsr tables``, which ``--help`` explains."""

from __future__ import annotations

import sys

from upsr.cli import main

if __name__ == "__main__":
    sys.exit(main(["tables", *sys.argv[1:]]))
