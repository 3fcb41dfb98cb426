"""``python -m upsr`` is the command ``upsr``."""

import sys

from upsr.cli import main

if __name__ == "__main__":
    sys.exit(main())
