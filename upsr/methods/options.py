"""Options that methods with one trained network and losses on images share."""

from __future__ import annotations

from pydantic import Field

from upsr.config.schema import (
    CommonOptions,
    LossComponent,
    NetworkComponent,
    OptimizerOptions,
    PathOptions,
    TrainOptions,
)


class NetworkPathOptions(PathOptions):
    """Where weights come from and where results go."""

    pretrain_network_g: str | None = Field(None, description="Weights of network_g (.pth or .safetensors), or 'tiny'.")
    param_key_g: str | None = Field(
        None, description="Key inside the file; by default params_ema, then params, then the file itself."
    )
    strict_load_g: bool = Field(True, description="Refuse weights that do not fit key by key.")


class NetworkTrainOptions(TrainOptions):
    """The training loop, the optimiser of network_g and its losses."""

    optim_g: OptimizerOptions = OptimizerOptions()
    pixel_opt: LossComponent = Field(description="Pixel loss, a registered loss.")
    perceptual_opt: LossComponent | None = Field(None, description="Perceptual loss (LPIPSLoss); null for none.")
    grid_opt: LossComponent | None = Field(
        None, description="Loss that keeps out a pixel shuffle's pattern (GridLoss)."
    )
    perceptual_shift: int = Field(
        1,
        ge=1,
        description="The perceptual loss sees each sample from a row and a column drawn below this; at 1 always the whole. "
        "A strided backbone does not see a grid of its own period, which 4 shows it.",
    )


class NetworkOptions(CommonOptions):
    """Options of a method whose trained network is ``network_g``."""

    network_g: NetworkComponent = Field(description="The network that is trained.")
    path: NetworkPathOptions = NetworkPathOptions()
    train: NetworkTrainOptions | None = Field(None, description="Needed by train.py.")
