"""Any metric of pyiqa, by name. pyiqa is imported only where one is asked for."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import math
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from upsr.compat import METRIC_REGISTRY
from upsr.errors import UpsrError
from upsr.metrics.base import MetricUnavailableError

_HUB = "huggingface.co"
_NIQE_BLOCK = 96


def metric_weights_folder(folder: Path) -> None:
    """Let pyiqa look for weights in a local folder, laid out as torch's hub folder is (``pyiqa/``, ``checkpoints/``).

    To be called before the first metric is made: pyiqa reads it when it is imported.

    Raises:
        UpsrError: there is no such folder.
    """
    if not folder.is_dir():
        raise UpsrError(f"{folder}: no such folder of metric weights")
    torch.hub.set_dir(str(folder))
    os.environ.setdefault("HF_HOME", str(folder / "huggingface"))


def create_pyiqa(metric: str, **arguments: Any) -> Any:
    """A pyiqa metric on the CPU.

    Raises:
        UpsrError: pyiqa does not know the metric.
        MetricUnavailableError: pyiqa is not installed or cannot get the weights.
    """
    try:
        import pyiqa
    except ImportError:
        raise MetricUnavailableError(f"the metric {metric} needs pyiqa: pip install 'upsr[metrics]'") from None
    if metric not in pyiqa.list_models():
        raise UpsrError(f"pyiqa knows no metric '{metric}' (pyiqa.list_models() names them)")
    try:
        with contextlib.redirect_stdout(io.StringIO()), _offline_without_network():
            return pyiqa.create_metric(metric, device=torch.device("cpu"), **arguments)
    except Exception as error:  # every hub raises its own errors
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise MetricUnavailableError(
            f"the metric {metric} could not be set up ({reason}); where its weights cannot be fetched, "
            "give them by weights_path or --metric-weights"
        ) from None


@contextlib.contextmanager
def _offline_without_network() -> Iterator[None]:
    """Sets huggingface_hub offline if its hub cannot be reached: it would retry each file for most of a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@functools.cache
def _hub_answers() -> bool:
    try:
        socket.getaddrinfo(_HUB, 443)
    except OSError:
        return False
    return True


@METRIC_REGISTRY.register()
class PyIQA:
    """A pyiqa metric.

    pyiqa is under the PolyForm Noncommercial licence since April 2026 and is not installed with the core package:
    ``pip install upsr[metrics]``.

    Args:
        metric: pyiqa's name: psnr, ssim, lpips, clipiqa, musiq, maniqa, niqe, ...
        weights_path: local weight file, where pyiqa's own download is out of reach.
        y_channel: for psnr and ssim: measure on luma.
        luma: which: BT.601 in studio range (``ycbcr``) or full range (``yiq``). Their PSNR differs by 1.32 dB.
        crop_border: for psnr and ssim: pixels left out at each edge.

    Raises:
        UpsrError: pyiqa does not know the metric.
        MetricUnavailableError: pyiqa is not installed or cannot get the weights.
    """

    def __init__(
        self,
        metric: str,
        weights_path: str | None = None,
        y_channel: bool = False,
        luma: Literal["ycbcr", "yiq"] = "ycbcr",
        crop_border: int = 0,
    ) -> None:
        arguments: dict[str, Any] = {}
        if weights_path:
            if not Path(weights_path).is_file():
                raise UpsrError(f"the metric {metric}: weights_path: no such file: {weights_path}")
            arguments["pretrained_model_path"] = weights_path
        if metric in ("psnr", "ssim"):
            arguments |= {"test_y_channel": y_channel, "color_space": luma, "crop_border": crop_border}
        self._metric = create_pyiqa(metric, **arguments)
        self.name = metric
        self.needs_reference = self._metric.metric_mode == "FR"
        self.higher_is_better = not self._metric.lower_better

    @property
    def version(self) -> str:
        """Package, version and name."""
        return f"pyiqa {importlib.metadata.version('pyiqa')} {self.name}"

    def to(self, device: torch.device) -> PyIQA:
        """The metric on a device."""
        self._metric = self._metric.to(device)
        self._metric.device = device
        return self

    @torch.inference_mode()
    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1].

        Raises:
            MetricUnavailableError: pyiqa cannot measure this image.
        """
        images = [sr] if gt is None or not self.needs_reference else [sr, gt]
        try:
            value = float(self._metric(*(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x for x in images)))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # every metric raises its own errors for flat, small or grey images
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise MetricUnavailableError(f"{self.name} is not defined for this image ({reason})") from None
        if not math.isfinite(value):
            raise MetricUnavailableError(f"{self.name} of this image is {value}")
        return value


@METRIC_REGISTRY.register()
class NIQE(PyIQA):
    """pyiqa's NIQE with the parameters that basicsr carries, which are the authors' own: nothing is downloaded.

    On luma of YIQ, as pyiqa measures by default and the released code did.
    """

    def __init__(self) -> None:
        from scipy.io import savemat

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "niqe_modelparameters.mat"
            with np.load(_basicsr_parameters()) as prior:
                savemat(path, {"mu_prisparam": prior["mu_pris_param"], "cov_prisparam": prior["cov_pris_param"]})
            super().__init__("niqe", weights_path=str(path))

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """See :class:`PyIQA`; it is a distance of two covariances of features of blocks, so there must be two."""
        height, width = sr.shape[-2:]
        if (height // _NIQE_BLOCK) * (width // _NIQE_BLOCK) < 2:
            size = f"{_NIQE_BLOCK}x{_NIQE_BLOCK}"
            raise MetricUnavailableError(f"NIQE needs two blocks of {size} pixels; an image has {width}x{height}")
        return super().__call__(sr, gt)


@METRIC_REGISTRY.register()
class FID:
    """Distance of the Inception features of two folders of images (pyiqa's, the clean-fid form).

    Raises:
        MetricUnavailableError: pyiqa is not installed or cannot get the weights.
    """

    higher_is_better = False

    def __init__(self) -> None:
        self._metric = create_pyiqa("fid")

    @property
    def version(self) -> str:
        """Package, version and name."""
        return f"pyiqa {importlib.metadata.version('pyiqa')} fid"

    def __call__(self, restored: Path, reference: Path) -> float:
        """See :class:`upsr.metrics.SetMetric`."""
        with contextlib.redirect_stdout(io.StringIO()):
            return float(self._metric(str(restored), str(reference), num_workers=0, verbose=False))


def _basicsr_parameters() -> Path:
    import basicsr.metrics

    return Path(basicsr.metrics.__file__).with_name("niqe_pris_params.npz")
