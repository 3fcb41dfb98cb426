"""One knob between the faithful estimate g(y) and the full perturbation."""

from __future__ import annotations

from upsr.methods.upsr.uncertainty import UncertaintyWeight

ABOUT_FIDELITY = "0 (more detail and grain) to 1 (most faithful), 0.5 is the model's own"

_MORE_NOISE = 0.25
"""Share of what b_u lacks to 1 that fidelity 0 adds. UPSR-tiny, restored with b_u = 0.2, is then at the 0.4 of its training: NIQE
of eight photos of RealSet80 5.65 instead of 6.33, with some grain. At 0.6 specks cover flat parts, at 1 a mesh does."""


def at_fidelity(
    uncertainty: UncertaintyWeight, g_share: float, fidelity: float | None
) -> tuple[UncertaintyWeight, float]:
    """The noise weight, and the share of g(y) in the result, under another trade-off between faithfulness and detail.

    ========  ==============================  =============
    fidelity  b_u                             share of g(y)
    ========  ==============================  =============
    0         a quarter of the way on to 1    0
    0.5       the model's                     the model's
    1         the model's                     1
    ========  ==============================  =============

    Between these everything is linear. b_u decides how much noise is put in where g is sure, and thus how much the denoiser has
    to invent there. Noise where a denoiser was hardly trained with any stands in the photo as a mesh, so 0 is bounded. A model
    that was trained without uncertainty weighting (Table 1) has full noise everywhere already. Towards g(y) the result is mixed,
    because a denoiser of one step invents as much from less noise; with five steps less noise gains the same PSNR at the same
    LPIPS (docs/upscaling.md).

    Args:
        uncertainty: the model's noise weight.
        g_share: the model's share.
        fidelity: in [0, 1]; ``None`` leaves everything as it is.
    """
    if fidelity is None:
        return uncertainty, g_share
    above, below = max(2 * fidelity - 1, 0.0), max(1 - 2 * fidelity, 0.0)
    b_u = uncertainty.b_u + _MORE_NOISE * (1 - uncertainty.b_u) * below
    noisier = UncertaintyWeight(uncertainty.psi_max, b_u, uncertainty.enabled)
    return noisier, (g_share + (1 - g_share) * above) * (1 - below)
