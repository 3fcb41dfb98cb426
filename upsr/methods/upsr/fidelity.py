"""One knob between the faithful estimate g(y) and the full perturbation."""

from __future__ import annotations

import math

from upsr.errors import UpsrError
from upsr.methods import UPSRModel
from upsr.methods.upsr.uncertainty import UncertaintyWeight
from upsr.restoring.stepwise import PhotoModel

_STRETCH = 4.0
_MORE_NOISE = 0.25
"""Share of what b_u lacks to 1 that fidelity 0 adds. UPSR-tiny, restored with b_u = 0.2, is then at the 0.4 of its training: NIQE
of eight photos of RealSet80 5.65 instead of 6.33, with some grain. At 0.6 specks cover flat parts, at 1 a mesh does."""


def at_fidelity(model: PhotoModel, fidelity: float | None, steps: int | None = None) -> PhotoModel:
    """The model under another trade-off between faithfulness and detail.

    ========  ==============================  ================  =========================
    fidelity  b_u                             psi_max           steps, where not given
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
        model: one without diffusion has neither.
        fidelity: in [0, 1]; ``None`` leaves the model's own settings.
        steps: network calls, 0 to ``model.num_steps``; by default what ``fidelity`` says.

    Raises:
        UpsrError: a value is out of its range, or the model has no diffusion.
    """
    given = [name for name, value in (("fidelity", fidelity), ("steps", steps)) if value is not None]
    if not isinstance(model, UPSRModel):
        if given:
            raise UpsrError(f"{', '.join(given)}: this model is a network without diffusion and has no such setting")
        return model
    if fidelity is not None and not 0 <= fidelity <= 1:
        raise UpsrError(
            f"fidelity is {fidelity:g}; give 0 (more detail and grain) to 1 (most faithful), 0.5 is the model's own"
        )
    if steps is not None and not 0 <= steps <= model.num_steps:
        raise UpsrError(f"steps is {steps}; this model takes 1 to {model.num_steps}, or 0 for g(y) alone")
    if not given:
        return model
    own = model.uncertainty
    above = 0.0 if fidelity is None else max(2 * fidelity - 1, 0.0)
    below = 0.0 if fidelity is None else max(1 - 2 * fidelity, 0.0)
    uncertainty = UncertaintyWeight(
        psi_max=own.psi_max * (1 + (_STRETCH - 1) * above),
        b_u=(own.b_u + _MORE_NOISE * (1 - own.b_u) * below) * (1 - above),
        enabled=own.enabled,
    )
    if steps is None:
        most = len(model.timesteps)
        steps = 0 if above == 1 else max(math.ceil(most - (most - 1) * above), 1)
    return model.under(steps, uncertainty)
