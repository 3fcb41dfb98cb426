"""Train a network from an option file."""

from __future__ import annotations

import sys

from upsr.engine.setup import parser, run_main
from upsr.engine.train_loop import train

EXAMPLES = """examples:
  python train.py -opt options/demo/stage2_tiny.yml
  python train.py -opt options/000_UPSR_RealSR_x4.yml --force_yml train.total_iter=1000 logger.print_freq=10
  torchrun --nproc_per_node=2 train.py -opt options/000_UPSR_RealSR_x4.yml --launcher pytorch --auto_resume

Exit codes: 0 finished, 2 a mistake in the options, files or devices (one message says which), 130 interrupted."""


def main() -> int:
    arguments = parser(__doc__ or "", EXAMPLES)
    arguments.add_argument(
        "--auto_resume", action="store_true", help="continue from the newest state of this run, if any"
    )
    given = arguments.parse_args()
    return run_main(lambda opt, run: train(opt, run, auto_resume=given.auto_resume), given, "train")


if __name__ == "__main__":
    sys.exit(main())
