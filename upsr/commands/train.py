"""Train a network from an option file."""

from __future__ import annotations

import argparse

from upsr.arguments import add_run

EXAMPLES = """examples:
  upsr train -opt options/demo/stage2_tiny.yml                     the same as python train.py -opt ...
  python train.py -opt options/000_UPSR_RealSR_x4.yml --force-yml train.total_iter=1000 logger.print_freq=10
  torchrun --nproc_per_node=2 --max-restarts=3 train.py -opt options/000_UPSR_RealSR_x4.yml --auto-resume
  sbatch scripts/slurm/train.sbatch options/000_UPSR_RealSR_x4.yml

The first SIGTERM, SIGINT (Ctrl-C) or SIGUSR1 saves at the next iteration boundary; a second one ends at once.

Exit codes:
  0   finished
  2   a mistake in the options, files or devices, a full disk, vanished data (one message says which)
  3   too many steps in a row with a loss or gradient that is not finite
  4   another process of the run ended or does not answer
  75  stopped by a signal, state saved: start again with --auto-resume
  128 + n  ended at once by a second signal n"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr train`` and ``train.py``."""
    add_run(parser)
    parser.add_argument(
        "--auto-resume",
        action="store_true",
        help="continue from the newest valid checkpoint of this run, if any; the same as --force-yml auto_resume=true",
    )
    parser.add_argument(
        "--profile",
        type=int,
        nargs="?",
        const=3,
        metavar="N",
        help="write a chrome trace of N iterations (default 3) to experiments/NAME/profile/",
    )


def main(given: argparse.Namespace) -> int:
    """Run it."""
    if given.auto_resume:
        given.force_yml = [*given.force_yml, "auto_resume=true"]
    # Here, so that --help and mistakes in the arguments do not wait for torch.
    from upsr.engine.setup import run_main
    from upsr.engine.train_loop import train

    return run_main(lambda opt, run: train(opt, run, profile=given.profile), given, "train")
