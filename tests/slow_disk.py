"""train.py on a disk that takes long to have a file on it, for tests that kill it while it writes beside training."""

import os
import runpy
import time

_fsync = os.fsync


def _slowly(descriptor: int) -> None:
    time.sleep(0.3)
    _fsync(descriptor)


os.fsync = _slowly
runpy.run_path("train.py", run_name="__main__")
