"""Restore and measure the validation sets of an option file."""

from __future__ import annotations

import sys

from upsr.engine.setup import parser, run_main
from upsr.engine.testing import test

EXAMPLES = """examples:
  python test.py -opt options/001_UPSR_RealSR_x4.yml
  python test.py -opt options/001_UPSR_RealSR_x4.yml --force_yml diffusion.sampler.type=posterior val.max_images=5
  torchrun --nproc_per_node=2 test.py -opt options/001_UPSR_RealSR_x4.yml --launcher pytorch

Exit codes: 0 finished, 2 a mistake in the options, files or devices (one message says which), 130 interrupted."""


def main() -> int:
    return run_main(test, parser(__doc__ or "", EXAMPLES).parse_args(), "test")


if __name__ == "__main__":
    sys.exit(main())
