"""Restore and measure the validation sets of an option file: the same as `upsr test`."""

import sys

from upsr.cli import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
