"""Option files: their schema, reading and checking."""

from upsr.config.load import load_options, parse_options
from upsr.config.schema import Options

__all__ = ["Options", "load_options", "parse_options"]
