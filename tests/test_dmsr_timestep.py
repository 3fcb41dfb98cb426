"""Phase timestep of DM-SR: the estimator, its targets, and its training from option files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from tests import tiny
from tests.dmsr import tiny_options
from tests.golden_recipe import GOLDEN, arr, vector
from tests.processes import one_thread, trained_by_two, whole_and_killed
from tests.training import equal_states
from upsr.config.load import load_options, merged, parse_options
from upsr.engine.distributed import Runtime
from upsr.engine.sinks import read_rows
from upsr.engine.step import MicroBatch, TrainingStep
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import build_training
from upsr.methods.dmsr import estimator as module
from upsr.methods.dmsr.estimator import TimestepEstimator, load_features
from upsr.methods.dmsr.options import TargetOptions
from upsr.methods.dmsr.targets import distance_of, timestep_of
from upsr.methods.latent_canvas import upsampled

CPU = Runtime(torch.device("cpu"))
FILES = Path(__file__).parents[1] / "options" / "dmsr"
single = pytest.fixture(autouse=True)(one_thread)


def images(height: int, width: int, seed: int = 0, batch: int = 2) -> Tensor:
    """(batch, 3, height, width) in [-1, 1]."""
    pictures = [tiny.picture(height, width, seed + i) for i in range(batch)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def small(width: int = 4) -> TimestepEstimator:
    torch.manual_seed(0)
    return TimestepEstimator(width)


class TestEstimator:
    def test_it_has_the_golden_numbers_of_parameters(self):
        counts = json.loads((GOLDEN / "siblings" / "counts.json").read_text())
        with torch.device("meta"):
            network = TimestepEstimator()
        assert sum(p.numel() for p in network.features.parameters()) == counts["vgg19_features"]
        assert sum(p.numel() for p in network.head.parameters()) == counts["estimator_linear_512_500"]
        assert network.state_dict().keys() == dict(network.named_parameters()).keys()

    def test_the_expectation_is_the_golden_one(self):
        expected = vector("siblings/dmsr_expectation.npz", "t_hat")
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                own = TimestepEstimator.expectation(2 * arr("in:sb.logits", (3, 500)))
            assert own.dtype == torch.float32
            torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=0)

    def test_it_sees_images_as_torchvisions_networks_do(self):
        network = small()
        image = images(64, 96)
        seen: list[Tensor] = []
        network.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        out = network(image)
        assert out.shape == (2,)
        assert ((out > 0) & (out < 499)).all()
        normalize = torchvision.models.VGG19_Weights.IMAGENET1K_V1.transforms()
        for own, picture in zip(seen[0], image, strict=True):
            expected = torchvision.transforms.functional.normalize((picture + 1) / 2, normalize.mean, normalize.std)
            torch.testing.assert_close(own, expected)

    @pytest.mark.parametrize("size", [(1, 1), (8, 40), (31, 32), (33, 63)])
    @torch.no_grad()
    def test_small_images_are_extended(self, size):
        assert small()(images(*size)).isfinite().all()

    @pytest.mark.parametrize("size", [(700, 384), (385, 413), (300, 999), (800, 515), (640, 31)])
    @torch.no_grad()
    def test_large_images_are_computed_in_parts_with_the_same_result(self, size, monkeypatch):
        network = small().eval()
        image = images(*size, batch=1)
        whole, estimate = network.pooled(image), network(image)
        monkeypatch.setattr(module, "_WINDOW", 384)
        sides: list[int] = []
        network.features.register_forward_pre_hook(lambda _, inputs: sides.extend(inputs[0].shape[-2:]))
        parts = network.pooled(image)
        assert len(sides) > 2
        assert max(sides) <= 384
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(network(image), estimate, rtol=1e-5, atol=0)
        monkeypatch.setattr(module, "_HALO", 64)  # less than the features depend on
        assert not torch.allclose(network.pooled(image), whole, rtol=1e-5, atol=1e-6)

    def test_gradients_are_of_the_whole_image(self, monkeypatch):
        monkeypatch.setattr(module, "_WINDOW", 96)
        network = small()
        sizes: list[tuple[int, ...]] = []
        network.features.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
        network(images(160, 64)).sum().backward()
        assert sizes == [(160, 64)]
        assert all(float(p.grad.abs().max()) > 0 for p in network.parameters())


class TestFeatures:
    @pytest.fixture
    def vgg(self, tmp_path) -> Path:
        """torchvision's names and random values, of a VGG-19 of width 4."""
        network = small()
        path = tmp_path / "vgg19.pth"
        features = {f"features.{name}": value + 1 for name, value in network.features.state_dict().items()}
        torch.save({**features, "classifier.0.weight": torch.zeros(3, 3)}, path)
        return path

    @pytest.mark.parametrize("ending", [".pth", ".safetensors"])
    def test_they_come_from_torchvisions_file(self, vgg, ending):
        from safetensors.torch import save_file

        weights = torch.load(vgg, weights_only=True)
        save_file(weights, vgg.with_suffix(".safetensors"))
        network = small()
        head = network.head.weight.clone()
        load_features(network, str(vgg.with_suffix(ending)))
        for name, value in network.features.state_dict().items():
            assert torch.equal(value, weights[f"features.{name}"])
        assert torch.equal(network.head.weight, head)

    def test_they_are_torchvisions_vgg19(self):
        with torch.device("meta"):
            theirs, own = torchvision.models.vgg19(weights=None).features, TimestepEstimator().features
        assert [str(layer) for layer in theirs] == [str(layer) for layer in own]

    def test_a_file_that_is_absent_or_does_not_fit_is_refused_in_one_line(self, vgg, tmp_path):
        with pytest.raises(
            UpsrError, match=r"^estimator\.pretrained: .*absent\.pth: no such .*estimator\.pretrained: null$"
        ):
            load_features(small(), str(tmp_path / "absent.pth"))
        with pytest.raises(UpsrError, match=r"vgg19\.pth: no features of a VGG-19 of width 8: .*pretrained: null$"):
            load_features(small(8), str(vgg))
        with pytest.raises(UpsrError, match=r"^estimator\.pretrained: imagenet is of VGG-19.*estimator\.width is 4; "):
            load_features(small(), "imagenet")

    def test_without_the_internet_the_line_says_what_to_fetch(self, monkeypatch, tmp_path):
        def unreachable(*_: Any, **__: Any) -> Any:
            raise OSError("no network")

        monkeypatch.setattr("torch.hub.urlopen", unreachable)
        monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
        with torch.device("meta"):
            network = TimestepEstimator()
        with pytest.raises(
            UpsrError, match=r"^estimator\.pretrained: imagenet: vgg19-dcbb9e9d\.pth could.*no network.*null$"
        ):
            load_features(network, "imagenet")


class TestTargets:
    def test_the_timesteps_are_the_golden_ones(self):
        golden = json.loads((GOLDEN / "siblings" / "dmsr_targets.json").read_text())
        for dtype in (torch.float64, torch.float32):
            own = timestep_of(torch.tensor(golden["lpips"], dtype=dtype), 1.0, 500)
            assert own.tolist() == golden["t"]

    def test_the_gain_stretches_them(self):
        assert timestep_of(torch.tensor([0.01, 0.05, 0.2]), 10, 100).tolist() == [10, 50, 99]

    @pytest.mark.parametrize("measure", ["l1", "ssim"])
    def test_each_sample_has_a_distance_of_its_own(self, measure):
        gt = images(48, 64)
        other = gt.clone()
        other[1] += 0.2 * torch.randn(3, 48, 64)
        distance = distance_of(TargetOptions(measure=measure))(other, gt)
        assert distance.shape == (2,)
        assert float(distance[0]) == pytest.approx(0, abs=1e-6)
        assert 0.01 < float(distance[1]) < 1

    def test_they_are_what_the_metrics_give(self):
        from upsr.metrics import SSIM

        a, b = images(48, 64, 0, 1), images(48, 64, 3, 1)
        ssim = SSIM()((a + 1) / 2, (b + 1) / 2)
        assert float(distance_of(TargetOptions(measure="ssim"))(a, b)) == pytest.approx(1 - ssim, abs=1e-6)
        l1 = float(((a + 1) / 2 - (b + 1) / 2).abs().mean())
        assert float(distance_of(TargetOptions(measure="l1"))(a, b)) == pytest.approx(l1, rel=1e-5)

    def test_lpips_is_that_of_a_file_and_frozen(self, tmp_path):
        from upsr.metrics import LPIPS

        torch.manual_seed(0)
        path = tmp_path / "squeezenet.pth"
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
        distance: Any = distance_of(TargetOptions(measure="lpips", net="squeeze", backbone_path=str(path)))
        a, b = images(64, 64, 0, 1), images(64, 64, 3, 1)
        expected = LPIPS("squeeze", str(path))((a + 1) / 2, (b + 1) / 2)
        assert float(distance.train()(a, b).flatten()) == pytest.approx(expected, rel=1e-5)
        assert not any(m.training for m in distance.modules())
        assert not any(p.requires_grad for p in distance.parameters())
        with pytest.raises(UpsrError, match=r"^train\.target\.backbone_path: no such file"):
            distance_of(TargetOptions(backbone_path=str(tmp_path / "absent.pth")))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    root = tmp_path_factory.mktemp("timestep")
    tiny.save_pictures(root / "photos", 4)
    return root


def settings(root: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Options of a training whose target is the mean absolute difference."""
    own = tiny_options(
        root, root / "photos", name=name, phase="timestep",
        train={"target": {"measure": "l1", "gain": 5.0}, "optim_t": {"eps": 1e-2}, "warmup_iter": 0},
    )  # fmt: skip
    return merged(own, changes)


def training_of(root: Path, **changes: Any) -> Any:
    return build_training(parse_options(settings(root, "built", **changes), "test")).train()


def state(folder: Path, iteration: int) -> dict[str, Any]:
    return torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True)["players"]["t"]


def events_of(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb_logger"), size_guidance={"histograms": 0})
    events.Reload()
    return events


def histograms(folder: Path) -> list[Any]:
    """Of the targets, the only ones in TensorBoard."""
    events = events_of(folder)
    assert events.Tags()["histograms"] == ["values/target"]
    return events.Histograms("values/target")


class TestTraining:
    def test_only_the_estimator_gets_gradients_and_the_losses_are_what_they_say(self, root):
        training = training_of(root)
        gt = (images(64, 64, batch=3) + 1) / 2
        batch = {"lq": torch.nn.functional.avg_pool2d(gt, 4), "gt": gt}
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        losses = training("t", batch, generators)
        losses["total"].backward()
        own = {id(p) for p in training.method.estimator.parameters()}
        for name, parameter in training.named_parameters():
            assert (parameter.grad is not None) == (id(parameter) in own) == parameter.requires_grad, name
        target = losses["target_values"]
        assert target.shape == (3,)
        assert torch.equal(target, target.round())
        assert len(set(target.tolist())) > 1
        with torch.no_grad():
            estimate = training.method.estimator(upsampled(batch["lq"], (64, 64)))
        assert float(losses["total"].detach()) == pytest.approx(float((estimate - target).abs().mean()) / 500, rel=1e-4)
        assert float(losses["rmse"]) == pytest.approx(float((estimate - target).square().mean().sqrt()), rel=1e-4)
        assert float(losses["rmse_of_mean"]) == pytest.approx(np.std(target.tolist()))

    def test_pretrained_features_are_for_a_start_without_weights(self, root, tmp_path):
        estimator = small()
        path, weights = tmp_path / "vgg19.pth", tmp_path / "estimator.pth"
        torch.save({f"features.{k}": v + 1 for k, v in estimator.features.state_dict().items()}, path)
        torch.save({"params": estimator.state_dict()}, weights)
        section = {"width": 4, "pretrained": str(path)}
        first = training_of(root, estimator=section).method.estimator
        assert torch.equal(first.features[0].bias, estimator.features[0].bias + 1)
        again = training_of(root, estimator=section, path={"pretrain_network_t": str(weights)}).method.estimator
        assert torch.equal(again.features[0].bias, estimator.features[0].bias)

    def test_a_fixed_timestep_leaves_nothing_to_train(self, root):
        with pytest.raises(UpsrError, match=r"^timestep: phase timestep trains the estimator.*remove the key$"):
            training_of(root, timestep=250)

    def test_the_error_falls_below_that_of_the_mean(self, root):
        opt: Any = parse_options(
            settings(
                root, "learning", estimator={"width": 8},
                train={"target": {"gain": 4.5}, "optim_t": {"lr": 4e-4, "eps": 1e-8}},
            ),
            "test",
        )  # fmt: skip
        step = TrainingStep(build_training(opt).train(), opt.train, CPU, seed=0)
        photos, generator = (images(64, 64, batch=16) + 1) / 2, torch.Generator().manual_seed(0)
        errors = []
        for iteration in range(80):
            gt = photos[torch.randint(16, (8,), generator=generator)]
            lq = torch.nn.functional.avg_pool2d(gt, 4)
            level = 0.4 * torch.rand(8, 1, 1, 1, generator=generator)
            lq = (lq + level * torch.randn(lq.shape, generator=generator)).clamp(0, 1)
            micro = MicroBatch({"lq": lq, "gt": gt}, [generator] * 8, ["a"] * 8, list(range(8)))
            updates, _ = step(iteration, [micro], lambda: None)
            errors.append([float(updates["t"].losses[name]) for name in ("rmse", "rmse_of_mean")])
        own, of_mean = np.mean(errors[-20:], axis=0)
        assert own < 0.8 * of_mean

    @pytest.mark.slow
    def test_a_killed_run_goes_on_to_the_same_bits(self, root):
        changes = {"train": {"total_iter": 40}, "logger": {"save_checkpoint_freq": 2}, "auto_resume": True}
        whole, killed = whole_and_killed(settings(root, "resumed", **changes), CPU)
        assert whole["t"]["params"].keys() == whole["t"]["params_ema"].keys() == small().state_dict().keys()
        assert equal_states(whole, killed)

    @pytest.mark.slow
    def test_two_processes_train_what_one_does(self, root):
        def of(name: str, batch: int) -> dict[str, Any]:
            data = {"train": {"batch_size_per_gpu": batch}}
            return settings(root, name, train={"total_iter": 3}, datasets=data, logger={"use_tb_logger": True})

        folders = train(parse_options(of("one", 4), "test"), CPU), trained_by_two(of("two", 2))
        one, two = (state(folder, 3)["params"] for folder in folders)
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
        numbers = [[(h.step, h.histogram_value.num, h.histogram_value.sum) for h in histograms(f)] for f in folders]
        assert numbers[0] == numbers[1]

    def test_the_targets_are_a_histogram_in_tensorboard_alone(self, root):
        changes = {
            "train": {"total_iter": 4, "accumulate": 2},
            "logger": {"use_tb_logger": True, "print_freq": 2},
        }
        folder = train(parse_options(settings(root, "shown", **changes), "test"), CPU)
        shown = histograms(folder)
        assert [histogram.step for histogram in shown] == [2, 4]
        # Two iterations of two micro-batches of two samples.
        assert [histogram.histogram_value.num for histogram in shown] == [8, 8]
        tags = {tag for _, tag, _ in read_rows(folder / "metrics.csv")}
        assert tags == set(events_of(folder).Tags()["scalars"])
        assert {"losses/rmse", "losses/rmse_of_mean", "losses/l_t"} <= tags
        assert not any("target" in tag for tag in tags)


@pytest.mark.parametrize("name", ["train_timestep", "tiny_timestep"])
def test_the_option_files_are_of_this_phase(name):
    opt: Any = load_options(FILES / f"{name}.yml", [])
    assert (opt.method, opt.phase) == ("dmsr", "timestep")
