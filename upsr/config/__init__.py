"""Option files: their schema, reading and checking."""

from upsr.config.load import load_options, parse_options
from upsr.config.schema import CommonOptions

__all__ = ["CommonOptions", "load_options", "parse_options"]
