"""The trained networks of StableSR, as its frozen ones need them."""

from __future__ import annotations

from upsr.errors import UpsrError
from upsr.methods.stable_diffusion import Backbone
from upsr.methods.stablesr.cfw import CFW
from upsr.methods.stablesr.encoder import TimeAwareEncoder
from upsr.methods.stablesr.options import StableSROptions
from upsr.methods.stablesr.sft import Conditioning, sft_layers


def trained(opt: StableSROptions, backbone: Backbone) -> tuple[Conditioning, CFW | None]:
    """The networks that the two stages train, with new weights.

    Raises:
        UpsrError: the encoder has other levels than the U-Net, or the autoencoder none that CFW is to have a block at.
    """
    unet, vae = backbone.unet, backbone.vae
    levels = len(opt.encoder.channel_mult)
    if len(unet.config.block_out_channels) != levels:
        raise UpsrError(
            f"encoder.channel_mult: {levels} levels, but the U-Net has {len(unet.config.block_out_channels)}; make them agree"
        )
    encoder = TimeAwareEncoder(unet.config.in_channels, **opt.encoder.model_dump())
    conditioning = Conditioning(encoder, sft_layers(unet, opt.encoder.out_channels, **opt.sft.model_dump()))
    if opt.cfw is None:
        return conditioning, None
    widths = vae.config.block_out_channels
    if outside := [level for level in opt.cfw.levels if not 0 <= level < len(widths) - 1]:
        raise UpsrError(f"cfw.levels: {outside[0]}, but the autoencoder's are 0 to {len(widths) - 2}")
    return conditioning, CFW(widths, **opt.cfw.model_dump(exclude={"w"}), groups=vae.config.norm_num_groups)
