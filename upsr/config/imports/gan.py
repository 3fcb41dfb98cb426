"""Rules for the discriminator of files in BasicSR's layout."""

from __future__ import annotations

from upsr.config.imports.rules import Rule, not_here, under

_REASON = "no discriminator is trained here: only the losses of pixels and features are"

GAN: dict[str, Rule] = {
    "network_d": not_here(_REASON),
    **under("path", dict.fromkeys(("pretrain_network_d", "param_key_d", "strict_load_d"), not_here(_REASON))),
    **under("train", dict.fromkeys(("optim_d", "gan_opt", "net_d_iters", "net_d_init_iters"), not_here(_REASON))),
}
