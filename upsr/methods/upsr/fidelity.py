"""One knob between the faithful estimate g(y) and the full perturbation."""

from __future__ import annotations

import math

from upsr.methods.upsr.uncertainty import UncertaintyWeight

ABOUT_FIDELITY = "0 (more detail and grain) to 1 (most faithful), 0.5 is the model's own"

_STRETCH = 4.0
_MORE_NOISE = 0.25
"""Share of what b_u lacks to 1 that fidelity 0 adds. UPSR-tiny, restored with b_u = 0.2, is then at the 0.4 of its training: NIQE
of eight photos of RealSet80 5.65 instead of 6.33, with some grain. At 0.6 specks cover flat parts, at 1 a mesh does."""


def at_fidelity(own: UncertaintyWeight, steps: int, fidelity: float | None) -> tuple[UncertaintyWeight, int]:
    """The noise weight and the number of steps under another trade-off between faithfulness and detail.

    ========  ==============================  ================  =========================
    fidelity  b_u                             psi_max           steps
    ========  ==============================  ================  =========================
    0         a quarter of the way on to 1    the model's       all
    0.5       the model's                     the model's       all
    to 1      falls to 0                      grows to 4 times  fall to 1
    1         -                               -                 none: the result is g(y)
    ========  ==============================  ================  =========================

    Between these everything is linear. b_u and psi_max decide how much noise is put in where g is sure, and thus how much the
    denoiser has to invent; fewer steps leave less of a chance to. Noise where a denoiser was hardly trained with any stands in
    the photo as a mesh, so 0 is bounded. A model that was trained without uncertainty weighting
    (Table 1) knows full noise alone, so only the steps change.

    Args:
        own: the model's noise weight.
        steps: network calls of the model.
        fidelity: in [0, 1]; ``None`` leaves everything as it is.
    """
    if fidelity is None:
        return own, steps
    above, below = max(2 * fidelity - 1, 0.0), max(1 - 2 * fidelity, 0.0)
    uncertainty = UncertaintyWeight(
        psi_max=own.psi_max * (1 + (_STRETCH - 1) * above),
        b_u=(own.b_u + _MORE_NOISE * (1 - own.b_u) * below) * (1 - above),
        enabled=own.enabled,
    )
    return uncertainty, 0 if above == 1 else max(math.ceil(steps - (steps - 1) * above), 1)
