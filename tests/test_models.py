"""Models from options: what does not go together is refused, and what is asked of a model under other settings."""

from __future__ import annotations

import pytest

from tests import tiny
from tests.training import tiny_options
from upsr.config import parse_options
from upsr.errors import UpsrError
from upsr.methods import build_method


def model_of(tmp_path, **changes):
    changes.setdefault("path", {})["allow_random_weights"] = True
    return build_method(parse_options(tiny_options(tmp_path, tmp_path, **changes), "test"))


@pytest.mark.parametrize(
    ("sampler", "own", "two"),
    [
        ({"steps": 3, "spacing": "released"}, [3, 1, 0], [2, 0]),
        ({"steps": 3, "spacing": "endpoint"}, [4, 2, 0], [4, 0]),
        ({"spacing": "released"}, [4, 3, 2, 1, 0], [2, 0]),
    ],
)
def test_half_fidelity_is_the_models_own_whatever_its_spacing(tmp_path, sampler, own, two):
    method = model_of(tmp_path, diffusion={"sampler": {"steps": 5, **sampler}})
    assert list(method.sampling.timesteps) == own
    half = method.adjusted(fidelity=0.5).sampling
    assert (list(half.timesteps), half.uncertainty.b_u, half.uncertainty.psi_max, half.g_share) == (own, 0.4, 0.05, 0)
    mixed = method.adjusted(fidelity=0.75).sampling
    assert (list(mixed.timesteps), mixed.uncertainty.b_u, mixed.g_share) == (own, 0.4, 0.5)
    assert method.adjusted(fidelity=0.75, steps=2).sampling.timesteps == tuple(two)
    assert list(method.adjusted(steps=2).sampling.timesteps) == two
    assert method.adjusted(fidelity=1).sampling.timesteps == ()
    assert method.adjusted(fidelity=1, steps=1).sampling.timesteps == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_g": {"type": "CompactSR"}}, r"network_g\.type: CompactSR is no DenoisingNetwork; .*UNetModelSwin"),
        (
            {"network_aux": {"type": "UNetModelSwin", **tiny.UNET}},
            r"network_aux\.type: UNetModelSwin is no SRNetwork; .*ATD",
        ),
        (
            {
                "model_type": "AuxiliarySRModel",
                "network_g": {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3},
                "network_aux": None,
                "diffusion": None,
                "path": {"pretrain_network_aux": None},
            },
            r"network_g\.type: RRDBNet is no SRNetwork; those that are: ATD, AnySR, CompactSR",
        ),
        ({"diffusion": {"power": 100}}, "diffusion: eta does not grow from step to step"),
        ({"diffusion": {"min_noise_level": 1e-200}}, "diffusion: eta does not grow from step to step"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changes, message):
    with pytest.raises(UpsrError, match=message):
        model_of(tmp_path, **changes)
