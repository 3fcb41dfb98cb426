"""The recipe of a teacher cache (``upsr data teach RECIPE.yml``) as typed structures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from upsr.config.schema import NullMeans, Section
from upsr.config.schema_data import DegradationOptions


class PhotoSource(Section):
    """A set of photos that crops are taken from."""

    folder: str = Field(description="Folder, lmdb or index of shards of HR photos.")
    reduce: float = Field(
        1.0, ge=1, description="Photos are reduced by this factor, or by less where a crop would not fit any more."
    )
    only: str | None = Field(None, description="Text file that lists the photos to use, one a line; by default all.")
    leave_out: str | None = Field(None, description="Text file that lists photos to leave out, one a line.")


class TeachOptions(Section):
    """What is in a teacher cache; the same recipe gives the same bytes on the same machine."""

    photos: Annotated[list[PhotoSource], Field(min_length=1)] = Field(description="Where crops come from.")
    teacher: str = Field(description="Method as `upsr evaluate` takes it: a name in options/methods/ or a path.")
    amp: Annotated[Literal["fp32", "bf16"], NullMeans("fp32")] = Field(
        "fp32", description="Type that the teacher computes in."
    )
    crops: int = Field(ge=1, description="Crops in all, rounded up to whole shards. More crops extend a cache.")
    crops_per_shard: int = Field(256, ge=1)
    gt_size: int = Field(256, ge=8, description="Side of a crop of the ground truth.")
    scale: Literal[1, 2, 4, 8] = 4
    manual_seed: int = Field(0, ge=0)
    degradation: DegradationOptions = DegradationOptions()

    @model_validator(mode="after")
    def _files_hold_8_bit(self) -> TeachOptions:
        if not self.degradation.round_lq:
            raise ValueError("degradation.round_lq: a cache holds files of 8 bit; remove it")
        return self

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.crops // self.crops_per_shard)
