"""The discriminator of DM-SR and its losses, against golden numbers."""

from __future__ import annotations

import json

import pytest
import torch

from tests.golden_recipe import GOLDEN, arr, vector
from upsr.methods.dmsr.adversarial import LOSSES

STUB = "siblings/dmsr_stub_a.npz"


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    return arr("in:sb.dm1.lr", (6,)), arr("in:sb.dm1.lf", (6,))


def test_the_non_saturating_losses_are_the_golden_ones():
    real, fake = logits()
    loss = LOSSES["non_saturating"]
    torch.testing.assert_close(loss.discriminator(real, fake).double(), vector(STUB, "adv_d"), atol=1e-5, rtol=0)
    torch.testing.assert_close(loss.generator(fake).double(), vector(STUB, "adv_g"), atol=1e-5, rtol=0)


def test_the_hinge_ends_at_one_and_the_generators_part_is_linear():
    real, fake = torch.tensor([-1.0, 0.0, 1.0, 3.0]), torch.tensor([-3.0, -1.0, 0.0, 2.0])
    loss = LOSSES["hinge"]
    assert float(loss.discriminator(real, fake)) == pytest.approx((2 + 1) / 4 + (1 + 3) / 4)
    assert float(loss.generator(fake)) == 0.5


@pytest.mark.parametrize("form", LOSSES)
def test_either_side_descends_towards_its_aim(form):
    real, fake = (x.requires_grad_() for x in (torch.zeros(4), torch.zeros(4)))
    LOSSES[form].discriminator(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    LOSSES[form].generator(fake).backward()
    assert (fake.grad < 0).all()


class TestNetwork:
    @pytest.fixture(autouse=True)
    def _diffusers(self):
        pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")

    @pytest.mark.parametrize(
        ("layers", "names"),
        [
            (2, ("controlnet_4_3_64_128_256_256_ctx1024_layers2", "controlnet_param_tensors",
                 "controlnet_tensors_with_gradient_mid_only")),
            (1, ("controlnet_layers1", "controlnet_layers1_tensors", "controlnet_layers1_with_gradient")),
        ],
    )  # fmt: skip
    def test_it_has_the_golden_numbers_of_parameters(self, layers, names):
        from upsr.methods.dmsr.discriminator import ControlDiscriminator

        counts = json.loads((GOLDEN / "siblings" / "counts.json").read_text())
        with torch.device("meta"):
            network = ControlDiscriminator(layers_per_block=layers)
        own = list(network.network.parameters())
        numbers = (sum(p.numel() for p in own), len(own), sum(p.requires_grad for p in own))
        assert numbers == tuple(counts[name] for name in names)
        assert sum(p.numel() for p in network.head.parameters()) == counts["disc_head_256_1"]

    @pytest.mark.parametrize("widths", [(16, 32), (16, 16, 32), (16, 16, 32, 32)])
    def test_all_that_is_trained_gets_gradients_and_the_logits_see_everything(self, widths):
        from upsr.methods.dmsr.discriminator import ControlDiscriminator

        torch.manual_seed(0)
        network = ControlDiscriminator(4, 32, widths, layers_per_block=1, norm_num_groups=8, attention_head_dim=4)
        with torch.no_grad():  # diffusers begins with zeros here, too
            network.network.controlnet_cond_embedding.conv_out.weight.normal_(std=0.1)
        latent = torch.randn(2, 4, 8, 16, requires_grad=True)
        x_lr, context = torch.rand(2, 3, 64, 128, requires_grad=True), torch.randn(1, 5, 32, requires_grad=True)
        out = network(latent, x_lr, context)
        assert out.shape == (2,)
        assert out.dtype == torch.float32
        assert out[0] != out[1]
        out.sum().backward()
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        assert all(float(x.grad.abs().max()) > 0 for x in (latent, x_lr, context))
        with torch.autocast("cpu", torch.bfloat16):
            assert network(latent, x_lr, context).dtype == torch.float32
