"""LPIPS without the internet, and metrics that say what they measure."""

from __future__ import annotations

import pytest
import torch
import torchvision

from tests import tiny
from tests.training import tiny_options
from upsr.compat import LOSS_REGISTRY, METRIC_REGISTRY, Registry
from upsr.config import parse_options
from upsr.config.components import build
from upsr.config.schema import Component
from upsr.data.image_io import decode_image, to_tensor
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import build_metrics
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.losses import LPIPSLoss, WaveletLoss
from upsr.metrics import LPIPS, PSNR, SSIM, MetricUnavailableError, NTIREScore, PyIQA, ntire


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """torchvision's file layout with random weights: what the loader reads is real, what LPIPS measures is not."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbones") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return str(path)


def images(seed=0):
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_lpips_reads_the_given_backbone(backbone):
    loss = LPIPSLoss(loss_weight=0.5, net="alex", backbone_path=backbone)
    weights = torch.load(backbone, weights_only=True)
    slices = dict(loss.network.net.named_parameters())
    assert torch.equal(slices["slice2.3.weight"], weights["features.3.weight"])
    prediction = images(1).requires_grad_()
    value = loss(prediction, images(2))
    value.backward()
    assert value > 0
    assert prediction.grad.abs().sum() > 0
    assert loss(images(1), images(1)) == 0
    assert LPIPSLoss(net="alex", backbone_path=backbone)(images(1), images(2)) == pytest.approx(2 * value.item())
    assert not any(p.requires_grad for p in loss.parameters())
    assert not loss.train().network.training


def test_released_input_range_is_the_double_scaling(backbone):
    released = LPIPSLoss(net="alex", backbone_path=backbone)
    correct = LPIPSLoss(net="alex", backbone_path=backbone, input_range="correct")
    a, b = images(1), images(2)
    seen = []
    correct.network.scaling_layer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    released.network.scaling_layer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    correct(a, b)
    released(a, b)
    assert torch.equal(seen[0], a)
    torch.testing.assert_close(seen[2], 2 * a - 1)


def test_lpips_of_grey_images(backbone):
    loss = LPIPSLoss(net="alex", backbone_path=backbone)
    assert loss(images(1)[:, :1], images(2)[:, :1]) > 0


def test_missing_backbone_names_the_file_and_its_place(tmp_path, backbone):
    with pytest.raises(
        UpsrError, match=r"backbone_path: no such file: .*vgg\.pth; it is torchvision's vgg16-397923af\.pth"
    ):
        LPIPSLoss(backbone_path=str(tmp_path / "vgg.pth"))
    with pytest.raises(UpsrError, match="is missing or of another shape"):
        LPIPSLoss(net="vgg", backbone_path=backbone)


def test_backbones_that_are_not_finite_are_refused_by_file_and_tensor(tmp_path, backbone):
    weights = torch.load(backbone, weights_only=True)
    weights["features.0.bias"][3] = torch.nan
    torch.save(weights, tmp_path / "broken.pth")
    with pytest.raises(
        UpsrError, match=r"LPIPSLoss\.backbone_path: .*broken\.pth: .* not finite \(features\.0\.bias\)"
    ):
        LPIPSLoss(net="alex", backbone_path=str(tmp_path / "broken.pth"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr("urllib.request.urlopen", _unreachable)


def test_unreachable_backbone_names_the_file_and_its_place(offline):
    with pytest.raises(
        UpsrError, match=r"vgg16-397923af\.pth.*could not be fetched.*backbone_path.*perceptual_opt: null"
    ):
        LPIPSLoss()


def test_messages_name_the_component_that_was_given_the_file(tmp_path, backbone):
    path = str(tmp_path / "absent.pth")
    with pytest.raises(UpsrError, match=r"^LPIPSLoss\.backbone_path: no such file"):
        LPIPSLoss(net="squeeze", backbone_path=path)
    with pytest.raises(UpsrError, match=r"^LPIPS\.backbone_path: no such file: .*it is torchvision's squeezenet1_1"):
        LPIPS(net="squeeze", backbone_path=path)
    with pytest.raises(
        UpsrError, match=r"^LPIPS\.backbone_path: .*alexnet\.pth: features\.0\.weight is missing or of ano"
    ):
        LPIPS(net="squeeze", backbone_path=backbone)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(
        UpsrError, match=r"^LPIPS\.backbone_path: .*text\.safetensors.*b8a52dc0\.pth is needed"
    ) as error:
        LPIPS(net="squeeze", backbone_path=str(tmp_path / "text.safetensors"))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    """SqueezeNet with random weights, as a float32 .pth and as a .safetensors of the same values."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("squeezenet")
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    state = {name: value.half() if value.dim() > 1 else value for name, value in state.items()}
    save_file(state, folder / "squeezenet1_1_imagenet.safetensors")
    torch.save({name: value.float() for name, value in state.items()}, folder / "squeezenet.pth")
    return folder


def test_lpips_is_the_same_from_pth_and_safetensors_in_float16(squeezenet):
    one = LPIPS("squeeze", str(squeezenet / "squeezenet.pth"))
    other = LPIPS("squeeze", str(squeezenet / "squeezenet1_1_imagenet.safetensors"))
    sr, gt = (x[:1] / 2 + 0.5 for x in (images(1), images(2)))
    assert one(gt, gt) == 0
    assert one(sr, gt) > 0
    assert other(sr, gt) == one(sr, gt)
    assert one.version == other.version
    assert one.version.startswith("lpips 0.1")
    assert one.version.split()[2] == "squeeze"
    assert (one.needs_reference, one.higher_is_better) == (True, False)


def test_the_metric_is_the_loss_in_its_correct_range(squeezenet):
    path = str(squeezenet / "squeezenet.pth")
    sr, gt = images(1)[:1], images(2)[:1]
    loss = LPIPSLoss(net="squeeze", backbone_path=path, input_range="correct")
    assert LPIPS("squeeze", path)(sr / 2 + 0.5, gt / 2 + 0.5) == pytest.approx(float(loss(sr, gt)), rel=1e-5)


def test_other_backbone_weights_are_another_measure(squeezenet, tmp_path):
    from upsr.evaluation.protocols import differences

    path = squeezenet / "squeezenet.pth"
    state = torch.load(path, weights_only=True)
    state["features.0.bias"][0] += 1
    torch.save(state, tmp_path / "other.pth")
    records = [
        {"version": LPIPS("squeeze", str(p)).version, "backbone_path": str(p)} for p in (path, tmp_path / "other.pth")
    ]
    assert len(differences(*records)) == 1
    assert differences(records[0], {**records[0], "backbone_path": "elsewhere"}) == []


def test_a_backbone_in_the_folder_of_metric_weights_is_found(offline, squeezenet):
    from upsr.metrics.iqa import metric_weights_folder

    given = LPIPS("squeeze", str(squeezenet / "squeezenet.pth"))
    with pytest.raises(MetricUnavailableError, match=r"set LPIPS\.backbone_path to the file"):
        LPIPS("squeeze")
    metric_weights_folder(squeezenet)
    assert LPIPS("squeeze").version == given.version


def test_validation_measures_lpips_where_its_backbone_is_and_goes_on_where_not(tmp_path, offline, squeezenet):
    metrics = {
        "lpips_squeeze": {"type": "LPIPS", "net": "squeeze", "backbone_path": str(squeezenet / "squeezenet.pth")},
        "lpips_alex": {"type": "LPIPS", "net": "alex"},
    }
    photos = tiny.save_pictures(tmp_path / "photos", 2)
    opt = parse_options(tiny_options(tmp_path, photos, val={"metrics": metrics}), "test")
    found, missing = build_metrics(opt, torch.device("cpu"))
    assert set(found) == {"psnr", "ssim", "lpips_squeeze"}
    assert "alexnet-owt-7be5be79.pth" in missing["lpips_alex"]


def test_building_lpips_leaves_the_random_numbers_alone(squeezenet):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    LPIPS("squeeze", str(squeezenet / "squeezenet.pth"))
    assert torch.equal(torch.rand(1), expected)


def test_lpips_of_an_image_too_small_is_missing_and_not_0(squeezenet):
    small = torch.rand(1, 3, 8, 8)
    with pytest.raises(MetricUnavailableError, match="not defined for this image"):
        LPIPS("squeeze", str(squeezenet / "squeezenet.pth"))(small, small)


def test_lpips_orders_real_restorations(shared_dir):
    """With ImageNet's training, bicubic enlargement is further from the photo than a little noise is."""
    metric = LPIPS("squeeze", str(shared_dir / "weights/squeezenet1_1_imagenet_torchvision.safetensors"))
    folder = shared_dir / "data/benchmarks/Val_SR"
    name = sorted(path.name for path in (folder / "gt").iterdir())[0]
    lq, gt = (to_tensor(decode_image((folder / side / name).read_bytes(), 3, name))[None] for side in ("lq", "gt"))
    noisy = gt + 0.02 * torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))
    enlarged = torch.nn.functional.interpolate(lq, scale_factor=4, mode="bicubic")
    assert metric(noisy.clamp(0, 1), gt) < 0.2 < metric(enlarged.clamp(0, 1), gt) < 1


def _unreachable(*args, **kwargs):
    from urllib.error import URLError

    raise URLError("no route to host")


def test_training_with_lpips_reports_both_terms(tmp_path, backbone):
    photos = tiny.save_pictures(tmp_path / "photos", 2)
    perceptual = {"type": "LPIPSLoss", "loss_weight": 0.5, "net": "alex", "backbone_path": backbone}
    options = tiny_options(tmp_path, photos, train={"perceptual_opt": perceptual, "total_iter": 2})
    folder = train(parse_options(options, "test"), Runtime(torch.device("cpu")))
    (line,) = (x for x in (folder / "train.log").read_text().splitlines() if "iteration 2:" in x)
    values = dict(part.strip().split(" ") for part in line.split("iteration 2:")[1].split(",")[:3])
    assert float(values["total"]) == pytest.approx(float(values["l_pix"]) + float(values["l_percep"]), rel=1e-3)
    assert float(values["l_percep"]) > 0


def pair():
    gt = to_tensor(tiny.picture(48, 40))[None]
    noise = torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))
    return (gt + 0.05 * noise).clamp(0, 1), gt


def test_identical_images_have_80_db_and_ssim_1():
    _, gt = pair()
    assert PSNR()(gt, gt) == pytest.approx(80, abs=0.01)
    assert SSIM()(gt, gt) == pytest.approx(1)


def test_psnr_is_on_studio_range_luma_or_rgb():
    sr, gt = pair()
    rgb = 10 * torch.log10(1 / ((sr - gt).square().mean() + 1e-8))
    assert PSNR(y_channel=False)(sr, gt) == pytest.approx(float(rgb), abs=1e-3)
    luma = ((sr - gt) * torch.tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)).sum(1) / 255
    assert PSNR()(sr, gt) == pytest.approx(float(10 * torch.log10(1 / luma.square().mean())), abs=1e-2)
    inner = (..., slice(4, -4), slice(4, -4))
    assert PSNR(y_channel=False, crop_border=4)(sr, gt) == pytest.approx(PSNR(y_channel=False)(sr[inner], gt[inner]))


def test_other_sizes_are_refused():
    sr, gt = pair()
    with pytest.raises(UpsrError, match="has a ground truth of"):
        PSNR()(sr[..., 1:], gt)


@pytest.mark.parametrize("metric", [SSIM(), PSNR(crop_border=4)])
def test_images_too_small_to_measure_are_refused(metric):
    tiny_image = torch.rand(1, 3, 8, 8)
    with pytest.raises(UpsrError, match="an image has 8x8"):
        metric(tiny_image, tiny_image)


def test_psnr_and_ssim_agree_with_pyiqa():
    pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")
    sr, gt = pair()
    assert PSNR()(sr, gt) == pytest.approx(PyIQA("psnr", y_channel=True)(sr, gt), abs=1e-3)
    assert SSIM()(sr, gt) == pytest.approx(PyIQA("ssim", y_channel=True)(sr, gt), abs=5e-3)  # pyiqa rounds luma


def test_a_metric_that_pyiqa_does_not_know_is_named():
    pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")
    with pytest.raises(UpsrError, match="pyiqa knows no metric 'psrn'"):
        build(METRIC_REGISTRY, Component(type="PyIQA", metric="psrn"))


def test_without_pyiqa_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyiqa", None)
    with pytest.raises(UpsrError, match=r"pip install 'upsr\[metrics\]'"):
        PyIQA("niqe")


def test_wavelets_see_missing_detail_at_every_scale():
    torch.manual_seed(0)
    loss = WaveletLoss(loss_weight=0.5)
    target = torch.rand(2, 3, 32, 32) * 2 - 1
    assert float(loss(target, target)) == 0
    assert float(loss(target + 0.3, target)) == pytest.approx(0, abs=1e-6)  # the mean is the pixel loss's to see
    for level in range(3):
        side = 2**level
        coarse = torch.rand(1, 3, 32 // side, 32 // side).repeat_interleave(side, 2).repeat_interleave(side, 3)
        alone = [float(WaveletLoss(levels=k, energy=0)(coarse, torch.zeros_like(coarse))) for k in range(1, 4)]
        assert [value > 0 for value in alone] == [k >= level for k in range(3)]
    double = WaveletLoss(loss_weight=1.0)
    assert float(double(target, -target)) == pytest.approx(2 * float(loss(target, -target)))


def test_blurring_costs_more_energy_than_moving():
    """The same texture one coefficient further on has the same energy; a blurred one has less."""
    torch.manual_seed(0)
    target = torch.rand(1, 3, 64, 64)
    moved, flat = target.roll(2, dims=-1), target.mean(dim=(2, 3), keepdim=True).expand_as(target)

    def energy(image):
        return float(WaveletLoss(levels=1, window=16)(image, target) - WaveletLoss(levels=1, energy=0)(image, target))

    assert energy(moved) < 0.2 * energy(flat)


def test_wavelet_loss_can_be_trained_with():
    prediction = torch.zeros(1, 3, 16, 16, requires_grad=True)
    WaveletLoss()(prediction, torch.rand(1, 3, 16, 16)).backward()
    assert torch.isfinite(prediction.grad).all()
    assert float(prediction.grad.abs().max()) > 0


def first_available(*losses):
    return build(LOSS_REGISTRY, Component(type="FirstAvailableLoss", losses=list(losses)))


def test_lpips_is_taken_where_it_can_be_had_and_the_next_loss_where_not(backbone, offline, caplog):
    caplog.set_level("INFO")
    wavelets = {"type": "WaveletLoss", "loss_weight": 0.2}
    chosen = first_available({"type": "LPIPSLoss", "net": "alex"}, wavelets)
    assert isinstance(chosen.chosen, WaveletLoss)
    assert "WaveletLoss; not LPIPSLoss: LPIPS needs" in caplog.text
    prediction, target = torch.zeros(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    assert torch.equal(chosen(prediction, target), WaveletLoss(loss_weight=0.2)(prediction, target))

    chosen = first_available({"type": "LPIPSLoss", "net": "alex", "backbone_path": backbone}, wavelets)
    assert isinstance(chosen.chosen, LPIPSLoss)


def test_a_fallback_does_not_hide_mistakes(offline, tmp_path):
    wavelets = {"type": "WaveletLoss"}
    with pytest.raises(UpsrError, match="no such file"):
        first_available({"type": "LPIPSLoss", "backbone_path": str(tmp_path / "absent.pth")}, wavelets)
    with pytest.raises(UpsrError, match=r"losses.*\[1\].*unknown type 'WaveletLos'"):
        first_available({"type": "LPIPSLoss"}, {"type": "WaveletLos"})
    with pytest.raises(UpsrError, match="none of them can be had"):
        first_available({"type": "LPIPSLoss"})


def test_the_score_of_ntire_is_the_formula_of_its_report(monkeypatch):
    values = {"lpips": 0.25, "dists": 0.125, "clipiqa": 0.5, "maniqa": 0.375, "musiq": 62.5, "niqe": 4.0}
    seen = []

    class Fixed:
        def __init__(self, name="niqe"):
            self.name = name

        def to(self, device):
            seen.append((self.name, device.type))
            return self

        def __call__(self, sr, gt):
            return values[self.name]

    monkeypatch.setattr(ntire, "PyIQA", Fixed)
    monkeypatch.setattr(ntire, "NIQE", Fixed)
    metric = NTIREScore().to(torch.device("cpu"))
    assert sorted(seen) == [(name, "cpu") for name in sorted(values)]
    assert metric(*pair()) == pytest.approx(0.75 + 0.875 + 0.5 + 0.375 + 0.625 + 0.6)
    values["niqe"] = 12.0
    assert metric(*pair()) == pytest.approx(0.75 + 0.875 + 0.5 + 0.375 + 0.625)


def test_the_score_of_ntire_of_this_package_s_metrics(monkeypatch):
    """The same formula; its version names the weights of each term, and terms that cannot be had are all named."""
    values = {"LPIPS": 0.25, "DISTS": 0.125, "CLIPIQA": 0.5, "MANIQA": 0.375, "MUSIQ": 62.5, "NIQE": 4.0}
    absent, weights, given = set(), dict.fromkeys(values, 1), {}

    class Fixed:
        def __init__(self, net: str = "none"):
            self.name = type(self).__name__
            if self.name in absent:
                raise MetricUnavailableError(f"{self.name} needs its weights")
            given[self.name] = net

        @property
        def version(self):
            return f"{self.name} {weights[self.name]}"

        def __call__(self, sr, gt):
            return values[self.name]

    registry = Registry("metric")
    for name in values:
        registry.register()(type(name, (Fixed,), {}))
    monkeypatch.setattr(ntire, "METRIC_REGISTRY", registry)
    monkeypatch.setattr(ntire, "NIQE", registry["NIQE"])
    metric = NTIREScore(parts="upsr")
    assert given == {**dict.fromkeys(values, "none"), "LPIPS": "alex"}
    assert metric(*pair()) == pytest.approx(0.75 + 0.875 + 0.5 + 0.375 + 0.625 + 0.6)
    before = metric.version
    assert before == NTIREScore(parts="upsr").version
    weights["MUSIQ"] = 2
    assert NTIREScore(parts="upsr").version != before
    absent |= {"MANIQA", "CLIPIQA"}
    with pytest.raises(
        MetricUnavailableError, match=r"lacks 2 of 6 terms: clipiqa .*CLIPIQA needs.*; maniqa .*MANIQA needs"
    ):
        NTIREScore(parts="upsr")
