"""The import of diffusers, at the first use: it takes seconds, and other methods do without."""

from __future__ import annotations

import logging
from typing import Any

from upsr.errors import MissingPackageError


def diffusers() -> Any:
    """The library.

    Raises:
        MissingPackageError: it is not installed.
    """
    # Which quantised kernels bitsandbytes lacks, where it is installed, concerns nothing here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import diffusers
    except ImportError:
        raise MissingPackageError("this network needs diffusers: pip install 'upsr[latent]'") from None
    return diffusers
