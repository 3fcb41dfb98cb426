"""Finds and reads the small description files: benchmarks, methods, protocols."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from upsr.config.load import read_with_base, refuse
from upsr.config.problems import did_you_mean, problems_of
from upsr.errors import UpsrError
from upsr.homes import homes

Description = TypeVar("Description", bound=BaseModel)


@dataclass(frozen=True)
class Catalogue(Generic[Description]):
    """Description files of one kind.

    Attributes:
        kind: what they describe, for messages.
        folder: where they lie, in one of :func:`upsr.homes.homes`.
        schema: what is in them.
    """

    kind: str
    folder: str
    schema: type[Description]

    def names(self) -> list[str]:
        """Every name, sorted as people sort: Set5 before Set14."""
        found = {path.stem for home in homes() for path in (home / self.folder).glob("*.yml")}
        return sorted(
            found, key=lambda name: [(part.isdigit(), part.zfill(9)) for part in re.split(r"(\d+)", name.lower())]
        )

    def readable(self, broken: Callable[[str], object]) -> Iterator[Description]:
        """Every description without mistakes.

        Args:
            broken: called with a line on each of the others: its file and the mistakes.
        """
        for name in self.names():
            try:
                yield self.read(name)
            except UpsrError as error:
                broken("; ".join(str(error).split("\n")))

    def path(self, name: str) -> Path:
        """The file of a name (case does not matter), or of a path that ends in .yml.

        Raises:
            UpsrError: there is none.
        """
        if name.endswith((".yml", ".yaml")):
            return Path(name)
        for home in homes():
            for path in (home / self.folder).glob("*.yml"):
                if path.stem.lower() == name.lower():
                    return path
        raise UpsrError(f"no {self.kind} '{name}' in {self.folder}/{did_you_mean(name, self.names())}")

    def read(self, name: str) -> Description:
        """A description by name or path.

        Raises:
            UpsrError: there is none, or it has mistakes.
        """
        path = self.path(name)
        data = {"name": path.stem, **read_with_base(path)}
        refuse(str(path), list(problems_of(self.schema, data)))
        return self.schema.model_validate(data)
