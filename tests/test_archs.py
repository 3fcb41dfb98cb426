"""What the networks promise beyond the released configuration."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from upsr.accelerate import accelerated
from upsr.accelerate.norm import ExactGroupNorm
from upsr.archs import ATD, CompactSR, SpandrelSR, UNetModelSwin
from upsr.archs.layers import PointwiseConv
from upsr.archs.weights import load_network_weights, read_weight_file
from upsr.archs.window_attention import (
    masked_bias,
    released_shift_masks,
    textbook_shift_masks,
    window_attention,
)
from upsr.errors import UpsrError
from upsr.provenance import weights_digest


def inputs(network: UNetModelSwin, batch: int = 2, height: int = 16, width: int = 16) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, network.in_channels, height, width, generator=generator)
    lq = torch.randn(batch, network.cond_channels, height, width, generator=generator)
    return x, torch.arange(batch), lq


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pointwise_convolutions_are_convolutions(memory_format):
    layer = PointwiseConv(24, 40)
    x = torch.randn(2, 24, 10, 14).contiguous(memory_format=memory_format).requires_grad_()
    out = layer(x)
    assert out.is_contiguous(memory_format=memory_format)
    expected = F.conv2d(x, layer.weight, layer.bias)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    of = (x, layer.weight, layer.bias)
    weight = torch.randn_like(out)
    for own, plain in zip(torch.autograd.grad((out * weight).sum(), of), torch.autograd.grad((expected * weight).sum(), of),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(own, plain, atol=1e-4, rtol=0)


def naive_attention(qkv, bias, masks_of_window, heads, window, shift, scale):
    """Window by window, with a mask for each, as papers write it."""
    batch, height, width, channels = qkv.shape
    dim = channels // (3 * heads)
    qkv = qkv.roll((-shift, -shift), (1, 2))
    out = torch.empty(batch, height, width, channels // 3)
    for r in range(0, height, window):
        for c in range(0, width, window):
            tokens = qkv[:, r : r + window, c : c + window].reshape(batch, window * window, 3, heads, dim)
            q, k, v = tokens.permute(2, 0, 3, 1, 4)
            logits = q @ k.transpose(-1, -2) * scale + bias + masks_of_window(r, c)
            window_out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(batch, window, window, -1)
            out[:, r : r + window, c : c + window] = window_out
    return out.roll((shift, shift), (1, 2))


def region_mask(height, width, window, shift):
    """Swin's own construction: number the nine regions of the rolled image and compare."""
    region = torch.zeros(height, width)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            region[rows, columns] = 3 * i + j

    def of_window(r, c):
        ids = region[r : r + window, c : c + window].flatten()
        return torch.where(ids[:, None] == ids[None, :], 0.0, -100.0)

    return of_window


def released_mask(height, window, shift):
    def of_window(r, c):
        column = torch.arange(window * window) % window
        apart = (column[:, None] < shift) != (column[None, :] < shift)
        return torch.where(apart & (r == height - window), -100.0, 0.0)

    return of_window


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (4, 12), (12, 8)])
@pytest.mark.parametrize("kind", ["textbook", "released", "unshifted"])
def test_attention_by_kind_of_window_equals_a_mask_for_each_window(size, kind):
    heads, window, shift, dim = 2, 4, 2, 8
    qkv, bias = torch.randn(2, *size, 3 * heads * dim), torch.randn(heads, 16, 16)
    masks, of_window = {
        "textbook": (textbook_shift_masks(window, shift), region_mask(*size, window, shift)),
        "released": (released_shift_masks(window, shift), released_mask(size[0], window, shift)),
        "unshifted": (None, lambda r, c: torch.zeros(1)),
    }[kind]
    shift = 0 if masks is None else shift
    out = window_attention(qkv, masked_bias(bias, masks), heads=heads, window=window, shift=shift)
    expected = naive_attention(qkv, bias, of_window, heads, window, shift, dim**-0.5)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_work_at_every_scale_and_channel_count(scale, channels):
    unet = UNetModelSwin(**tiny.UNET, scale=scale, out_channels=channels, in_channels=channels * scale**2).eval()
    out = unet(*inputs(unet))
    assert out.shape == (2, channels, 16 * scale, 16 * scale)
    atd = ATD(**tiny.ATD, upscale=scale, in_chans=channels).eval()
    assert atd(torch.rand(1, channels, 11, 9)).shape == (1, channels, 11 * scale, 9 * scale)


@pytest.mark.parametrize("size", [(16, 32), (48, 16)])
def test_other_sizes_work_and_a_sample_does_not_depend_on_its_batch(size):
    unet = tiny.random_weights(UNetModelSwin(**tiny.UNET))
    x, t, lq = inputs(unet, 2, *size)
    with torch.no_grad():
        both = unet(x, t, lq)
        torch.testing.assert_close(both[1:], unet(x[1:], t[1:], lq[1:]), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(both, unet(x, t + 1, lq)), "the timestep has no effect"
        assert not torch.allclose(both, unet(x, t, lq + 1)), "the condition has no effect"


def test_every_parameter_of_both_networks_gets_a_gradient():
    unet = tiny.random_weights(UNetModelSwin(**tiny.UNET)).train()
    unet(*inputs(unet)).square().mean().backward()
    atd = tiny.random_weights(ATD(**tiny.ATD)).train()
    atd(torch.rand(2, 3, 16, 16)).square().mean().backward()
    for network in (unet, atd):
        assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_low_precision_runs_and_stays_near():
    unet = tiny.random_weights(UNetModelSwin(**tiny.UNET))
    x, t, lq = inputs(unet)
    with torch.inference_mode():
        full = unet(x, t, lq)
        half = copy.deepcopy(unet).to(torch.bfloat16)(x.bfloat16(), t, lq.bfloat16())
        lowered = accelerated(unet, torch.bfloat16)(x, t, lq)
    assert (half.dtype, lowered.dtype) == (torch.bfloat16, torch.float32)
    assert F.mse_loss(half.float(), full).sqrt() < 0.05 * full.std()
    assert F.mse_loss(lowered, full).sqrt() < 0.02 * full.std()
    assert next(unet.parameters()).dtype == torch.float32


def test_levels_no_larger_than_a_window_are_never_shifted():
    unet = UNetModelSwin(**{**tiny.UNET, "attention_resolutions": [16, 8], "window_size": 16})
    stages = [layer for block in unet.input_blocks for layer in block if hasattr(layer, "blocks")]
    assert [(s.window, [b.attn.shift for b in s.blocks]) for s in stages] == [(16, [0, 0]), (8, [0, 0])]
    default = UNetModelSwin(**{**tiny.UNET, "attention_resolutions": [16, 8], "window_size": 8})
    stages = [layer for block in default.input_blocks for layer in block if hasattr(layer, "blocks")]
    assert [(s.window, [b.attn.shift for b in s.blocks]) for s in stages] == [(8, [0, 4]), (8, [0, 0])]


def test_textbook_mask_is_an_option_that_changes_shifted_stages():
    released = tiny.random_weights(UNetModelSwin(**tiny.UNET))
    textbook = UNetModelSwin(**tiny.UNET, shift_mask="textbook").eval()
    textbook.load_state_dict(released.state_dict())
    data = inputs(released)
    with torch.no_grad():
        assert not torch.allclose(released(*data), textbook(*data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 3}, "in_channels"),
        ({"model_channels": 24}, "model_channels"),
        ({"num_res_blocks": [1]}, "num_res_blocks"),
        ({"swin_embed_dim": 48}, "swin_embed_dim"),
        ({"lq_size": 64}, "cond_lq"),
    ],
)
def test_contradicting_arguments_are_refused_by_name(change, message):
    with pytest.raises(UpsrError, match=message):
        UNetModelSwin(**{**tiny.UNET, **change})


def test_sizes_that_windows_do_not_tile_are_refused():
    unet = UNetModelSwin(**tiny.UNET)
    assert unet.size_multiple == 16
    with pytest.raises(UpsrError, match="multiples of 16"):
        unet(*inputs(unet, 1, 16, 24))


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (8, 5)])
def test_g_takes_any_size(size):
    atd = ATD(**tiny.ATD).eval()
    out = atd(torch.rand(1, 3, *size))
    assert out.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("mean", "std", "error"), [(0, 1, 2e-6), (100, 1, 2e-6), (1000, 1, 2e-6), (1e4, 1, 2e-5), (-100, 0.1, 2e-6)]
)
@pytest.mark.parametrize("size", [(64, 64), (7, 33), (256, 4)])
def test_group_norm_is_exact_however_far_from_zero_the_map_is(mean, std, error, size):
    norm = tiny.random_weights(ExactGroupNorm(64))
    x = mean + std * torch.randn(2, 64, *size, generator=torch.Generator().manual_seed(0))
    scale, shift = torch.rand(2, 64) + 0.5, torch.rand(2, 64)
    weight, bias = norm.weight.double(), norm.bias.double()
    expected = (
        F.group_norm(x.double(), 32, weight, bias, norm.eps) * scale.double()[..., None, None] + shift[..., None, None]
    )
    with torch.inference_mode():
        given = norm(x.contiguous(memory_format=torch.channels_last), scale, shift)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), expected, atol=error, rtol=error)


def test_group_norm_of_a_map_whose_first_pixels_are_not_like_the_others():
    x = torch.randn(1, 64, 128, 128, generator=torch.Generator().manual_seed(0))
    x[..., 0] += 100
    with torch.inference_mode():
        given = ExactGroupNorm(64)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(given.double(), F.group_norm(x.double(), 32), atol=2e-6, rtol=0)


def test_category_groups_that_do_not_come_out_even_are_filled():
    atd = tiny.random_weights(ATD(**{**tiny.ATD, "category_size": 24}))  # 64 tokens: two groups and a third of 16
    out = atd(torch.rand(1, 3, 8, 8))
    assert out.isfinite().all()


def test_wrong_weight_files_are_refused_with_what_does_not_fit(tmp_path):
    unet, path = UNetModelSwin(**tiny.UNET), tmp_path / "other.pth"
    torch.save({"params": ATD(**tiny.ATD).state_dict()}, path)
    with pytest.raises(UpsrError, match=r"other\.pth.*UNetModelSwin.*missing.*unknown"):
        load_network_weights(unet, path)
    wider = UNetModelSwin(**{**tiny.UNET, "num_feat": 32})
    torch.save(wider.state_dict(), path)
    with pytest.raises(UpsrError, match=r"another shape.*conv_before_upsample"):
        load_network_weights(unet, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UpsrError, match="not a readable weight file"):
        load_network_weights(unet, path)
    with pytest.raises(UpsrError, match="no such weight file"):
        load_network_weights(unet, tmp_path / "absent.pth")


def test_files_that_hold_code_are_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    for name in ("trap.pth", "trap.safetensors", "trap.PT"):
        torch.save({"params": Trap()}, tmp_path / name)
        with pytest.raises(UpsrError, match="more than tensors") as error:
            load_network_weights(ATD(**tiny.ATD), tmp_path / name)
        assert "weights_only" not in str(error.value), "torch's advice to run what is inside"
        with pytest.raises(UpsrError, match="more than tensors"):
            SpandrelSR(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


class Recorded:
    """An object of a class that is not there where the file is read."""

    def __init__(self) -> None:
        self.path = "last.ckpt"


@pytest.mark.parametrize("mapped", [False, True])
def test_objects_of_named_classes_are_blank(tmp_path, monkeypatch, mapped):
    file, name = tmp_path / "file.ckpt", f"{__name__}.Recorded"
    weights = {"a": torch.arange(6.0).reshape(2, 3)}
    torch.save({"state_dict": weights, "callbacks": {Recorded: Recorded()}}, file)
    monkeypatch.delattr(f"{__name__}.Recorded")
    content = read_weight_file(file, mapped=mapped, blank=[name])
    assert torch.equal(content["state_dict"]["a"], weights["a"])
    [(kind, record)] = content["callbacks"].items()
    assert (type(record), vars(record)) == (kind, {})
    with pytest.raises(UpsrError, match=re.escape(f"more than tensors and plain values ({name})")):
        read_weight_file(file, mapped=mapped)
    with pytest.raises(UpsrError, match="more than tensors"):
        read_weight_file(file, mapped=mapped, blank=["elsewhere.Recorded"])


def test_files_older_than_zip_archives_are_read_mapped_or_not(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weight_file(tmp_path / "old.pth", mapped=True)["a"], torch.ones(3))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"no weights at all" * 9, b"PK\x03\x04" + bytes(99), b"\x09" + bytes(7) + b"{...}"]
)
def test_what_is_no_weight_file_costs_one_line(tmp_path, content):
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(UpsrError, match=r"odd\.pth: not a readable weight file") as error:
        load_network_weights(CompactSR(num_feat=8, num_block=1), tmp_path / "odd.pth")
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module._orig_mod._orig_mod."],
)
def test_names_are_read_without_what_wrappers_add(tmp_path, prefix):
    source, target = (tiny.random_weights(CompactSR(num_feat=8, num_block=1), seed) for seed in (1, 2))
    torch.save({"params": {prefix + name: value for name, value in source.state_dict().items()}}, tmp_path / "g.pth")
    load_network_weights(target, tmp_path / "g.pth")
    assert weights_digest(target) == weights_digest(source)


def test_names_of_a_network_of_which_a_part_was_compiled_are_read(tmp_path):
    source, target = (tiny.random_weights(CompactSR(num_feat=8, num_block=1), seed) for seed in (1, 2))
    weights = {name.replace("body.", "body._orig_mod."): value for name, value in source.state_dict().items()}
    assert any("_orig_mod" in name for name in weights)
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "g.ckpt")
    load_network_weights(target, tmp_path / "g.ckpt")
    assert weights_digest(target) == weights_digest(source)
    name = next(iter(weights))
    torch.save({**weights, f"module.{name}": weights[name]}, tmp_path / "twice.pth")
    with pytest.raises(UpsrError, match=rf"twice\.pth: holds '{name}' twice"):
        load_network_weights(target, tmp_path / "twice.pth")


@pytest.mark.parametrize("name", ["g.pth", "g.SAFETENSORS", "g.safetensors", "g", "g.bin"])
def test_what_a_file_is_called_does_not_decide_how_it_is_read(tmp_path, name):
    from safetensors.torch import save_file

    source = tiny.random_weights(CompactSR(num_feat=8, num_block=1))
    for save in (save_file, torch.save):
        save(source.state_dict(), tmp_path / name)
        target = CompactSR(num_feat=8, num_block=1)
        load_network_weights(target, tmp_path / name)
        assert weights_digest(target) == weights_digest(source)


@pytest.mark.parametrize(
    ("value", "dtype"), [(math.nan, torch.float32), (math.inf, torch.float16), (-math.inf, torch.bfloat16)]
)
def test_weights_that_are_not_finite_are_refused_by_file_and_tensor(tmp_path, value, dtype):
    from basicsr.archs.srvgg_arch import SRVGGNetCompact

    g = CompactSR(num_feat=8, num_block=1)
    foreign = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=16, num_conv=2, upscale=4)
    for network, load in (
        (g, lambda path: load_network_weights(g, path)),
        (foreign, lambda path: SpandrelSR(str(path))),
    ):
        weights = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
        name = list(weights)[1]
        weights[name].view(-1)[-1] = value
        torch.save({"params": weights}, tmp_path / "broken.pth")
        with pytest.raises(UpsrError, match=rf"broken\.pth: 1 of \d+ tensors .* not finite \({name}\)"):
            load(tmp_path / "broken.pth")


def test_weights_as_large_as_their_type_holds_are_finite(tmp_path):
    network = CompactSR(num_feat=8, num_block=1)
    torch.save({name: torch.full_like(value, 3e38) for name, value in network.state_dict().items()}, tmp_path / "g.pth")
    assert load_network_weights(network, tmp_path / "g.pth") == "root"


def test_safetensors_load(tmp_path):
    from safetensors.torch import save_file

    source, target = tiny.random_weights(ATD(**tiny.ATD)), ATD(**tiny.ATD)
    save_file(source.state_dict(), tmp_path / "g.safetensors")
    load_network_weights(target, tmp_path / "g.safetensors")
    assert torch.equal(source.layers[0].conv.weight, target.layers[0].conv.weight)


def test_g_may_be_any_network_that_spandrel_knows(tmp_path):
    from basicsr.archs.srvgg_arch import SRVGGNetCompact

    network = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=16, num_conv=2, upscale=4).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "compact.pth")
    g = SpandrelSR(str(tmp_path / "compact.pth")).eval()
    assert (g.scale, g.channels, g.carries_weights) == (4, 3, True)
    lq = torch.rand(1, 3, 16, 20)
    with torch.inference_mode():
        torch.testing.assert_close(g(lq), network(lq).clamp(0, 1))


def test_the_released_g_is_not_given_to_spandrel(tmp_path):
    torch.save({"params": ATD(**tiny.ATD).state_dict()}, tmp_path / "atd_real.pth")
    with pytest.raises(UpsrError, match="use network type ATD"):
        SpandrelSR(str(tmp_path / "atd_real.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UpsrError, match=r"text\.pth"):
        SpandrelSR(str(tmp_path / "text.pth"))


def test_compact_network_starts_as_bicubic_upsampling():
    network = CompactSR(num_feat=8, num_block=2)
    lq = torch.rand(1, 3, 9, 14)
    assert (network.scale, network.channels, network.size_multiple) == (4, 3, 1)
    bicubic = torch.nn.functional.interpolate(lq, scale_factor=4, mode="bicubic")
    torch.testing.assert_close(network(lq), bicubic)
    tiny.random_weights(network)
    assert (network(lq) - bicubic).abs().max() > 0.01
    assert CompactSR(num_feat=8, num_block=1, upscale=2, channels=1)(lq[:, :1]).shape == (1, 1, 18, 28)
