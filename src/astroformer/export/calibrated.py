"""`Calibrated`: what `Calibration.apply` does, as operations on a batch of tensors that a graph can hold.

Legend: B images, K classes, M knots of a class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from astroformer.trust.calibration import SMALLEST, Calibration


class Calibrated(nn.Module):
    """Logits (B, K) to probabilities (B, K), in float64 where the runtime has it, as float32.

    Args:
        calibration: of the model.
        classes: their number K.
    """

    weights_K: Tensor
    shifts_K: Tensor
    before_KM: Tensor
    after_KM: Tensor
    last_K: Tensor

    def __init__(self, calibration: Calibration, classes: int) -> None:
        super().__init__()
        self.method = calibration.method
        self.register_buffer("weights_K", torch.tensor(calibration.weights or (1.0,), dtype=torch.float64))
        self.register_buffer("shifts_K", torch.tensor(calibration.shifts or (0.0,), dtype=torch.float64))
        most = max((len(before) for before, _ in calibration.knots), default=1)
        padded = [[knots + knots[-1:] * (most - len(knots)) for knots in pair] for pair in calibration.knots]
        tables = torch.tensor(padded or [[[0.0], [0.0]]] * classes, dtype=torch.float64)
        self.register_buffer("before_KM", tables[:, 0].contiguous())
        self.register_buffer("after_KM", tables[:, 1].contiguous())
        last = [len(before) - 1 for before, _ in calibration.knots] or [0] * classes
        self.register_buffer("last_K", torch.tensor(last))

    def forward(self, logits_BK: Tensor) -> Tensor:
        logs_BK = logits_BK.double().log_softmax(1)
        if self.method == "isotonic":
            return self._isotonic(logs_BK.exp()).float()
        if self.method != "none":
            logs_BK = (self.weights_K * logs_BK + self.shifts_K).log_softmax(1)
        return logs_BK.exp().float()

    def _isotonic(self, raw_BK: Tensor) -> Tensor:
        """Straight lines between the knots of each class, and rows divided by their sum."""
        classes, most = self.before_KM.shape
        # The knot at or before each probability, and the one after it; beyond the ends, those of the end.
        passed_BK = (raw_BK[:, :, None] >= self.before_KM).to(torch.int64).sum(2)
        low_BK = torch.minimum((passed_BK - 1).clamp_min(0), (self.last_K - 1).clamp_min(0))
        high_BK = torch.minimum(low_BK + 1, self.last_K)
        first_K = torch.arange(classes) * most
        before_KM, after_KM = self.before_KM.flatten(), self.after_KM.flatten()
        x0_BK, x1_BK = before_KM[first_K + low_BK], before_KM[first_K + high_BK]
        y0_BK, y1_BK = after_KM[first_K + low_BK], after_KM[first_K + high_BK]
        span_BK = x1_BK - x0_BK
        share_BK = (raw_BK - x0_BK) / torch.where(span_BK > 0, span_BK, torch.ones_like(span_BK))
        columns_BK = y0_BK + (y1_BK - y0_BK) * share_BK.clamp(0, 1)
        sum_B1 = columns_BK.sum(1, keepdim=True)
        return torch.where(sum_B1 > 0, columns_BK / sum_B1.clamp_min(SMALLEST), raw_BK)
