"""Any metric of pyiqa, by name. pyiqa is imported only where one is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from upsr.compat import METRIC_REGISTRY
from upsr.errors import UpsrError


@METRIC_REGISTRY.register()
class PyIQA:
    """A pyiqa metric.

    pyiqa is under the PolyForm Noncommercial licence since April 2026 and is not installed with the core package:
    ``pip install upsr[metrics]``.

    Args:
        metric: pyiqa's name: psnr, ssim, lpips, clipiqa, musiq, maniqa, niqe, ...
        weights_path: local weight file, where pyiqa's own download is out of reach.
        y_channel: for psnr and ssim: measure on luma (``test_y_channel`` with BT.601 ``ycbcr``).

    Raises:
        UpsrError: pyiqa is not installed, does not know the metric, or cannot get its weights.
    """

    def __init__(self, metric: str, weights_path: str | None = None, y_channel: bool = False) -> None:
        try:
            import pyiqa
        except ImportError:
            raise UpsrError(f"the metric {metric} needs pyiqa: pip install 'upsr[metrics]'") from None
        if metric not in pyiqa.list_models():
            raise UpsrError(f"pyiqa knows no metric '{metric}' (pyiqa.list_models() names them)")
        arguments: dict[str, object] = {"pretrained_model_path": weights_path} if weights_path else {}
        if y_channel:
            arguments |= {"test_y_channel": True, "color_space": "ycbcr"}
        try:
            self._metric = pyiqa.create_metric(metric, device=torch.device("cpu"), **arguments)
        except Exception as error:  # downloads fail in as many ways as there are hubs
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UpsrError(
                f"the metric {metric} could not be set up ({reason}); where its weights cannot be fetched, "
                "give them as weights_path"
            ) from None
        self.needs_reference = self._metric.metric_mode == "FR"
        self.higher_is_better = not self._metric.lower_better

    def to(self, device: torch.device) -> PyIQA:
        """The metric on a device."""
        self._metric = self._metric.to(device)
        self._metric.device = device
        return self

    @torch.inference_mode()
    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1]."""
        images = [sr] if gt is None or not self.needs_reference else [sr, gt]
        return float(self._metric(*(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x for x in images)))
