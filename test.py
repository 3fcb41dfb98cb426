"""Restore and measure the validation sets of an option file."""

from __future__ import annotations

import sys

from upsr.arguments import run_parser

EXAMPLES = """examples:
  python test.py -opt options/001_UPSR_RealSR_x4.yml
  python test.py -opt options/001_UPSR_RealSR_x4.yml --force_yml diffusion.sampler.type=posterior val.max_images=5
  torchrun --nproc_per_node=2 test.py -opt options/001_UPSR_RealSR_x4.yml --launcher pytorch

Exit codes: 0 finished, 2 a mistake in the options, files or devices (one message says which), 130 interrupted."""


def main() -> int:
    given = run_parser(__doc__ or "", EXAMPLES).parse_args()
    # Here, so that --help and mistakes in the arguments do not wait for torch.
    from upsr.engine.setup import run_main
    from upsr.engine.testing import test

    return run_main(test, given, "test")


if __name__ == "__main__":
    sys.exit(main())
