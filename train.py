"""Train a network from an option file: the same as `upsr train`."""

import sys

from upsr.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
