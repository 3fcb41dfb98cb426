"""The import of diffusers, at the first use: it takes seconds, and other methods do without."""

from __future__ import annotations

import logging
from typing import Any

from upsr.errors import MissingPackageError


def diffusers(extra: str = "latent") -> Any:
    """The library.

    Args:
        extra: of this package that brings it, for the message.

    Raises:
        MissingPackageError: it is not installed.
    """
    # Which quantised kernels bitsandbytes lacks, where it is installed, concerns nothing here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import diffusers
    except ImportError:
        raise MissingPackageError(f"this network needs diffusers: pip install 'upsr[{extra}]'") from None
    return diffusers
