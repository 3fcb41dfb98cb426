"""Restore and measure the validation sets of an option file."""

from __future__ import annotations

import argparse

from upsr.arguments import add_run

EXAMPLES = """examples:
  upsr test -opt options/001_UPSR_RealSR_x4.yml                    the same as python test.py -opt ...
  python test.py -opt options/001_UPSR_RealSR_x4.yml --force-yml diffusion.sampler.type=posterior val.max_images=5
  torchrun --nproc_per_node=2 test.py -opt options/001_UPSR_RealSR_x4.yml --launcher pytorch

Exit codes: 0 finished, 2 a mistake in the options, files or devices (one message says which), 130 interrupted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr test`` and ``test.py``."""
    add_run(parser)


def main(given: argparse.Namespace) -> int:
    """Run it."""
    # Here, so that --help and mistakes in the arguments do not wait for torch.
    from upsr.engine.setup import run_main
    from upsr.engine.testing import test

    return run_main(test, given, "test")
