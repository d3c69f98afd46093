"""`Calibrated`: what `Calibration.apply` does, as operations on a batch of tensors that a graph can hold.

Legend: B images, K classes, M lines between the knots of a class.
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
    start_KM: Tensor
    span_KM: Tensor
    rise_KM: Tensor

    def __init__(self, calibration: Calibration, classes: int) -> None:
        super().__init__()
        self.method = calibration.method
        self.register_buffer("weights_K", torch.tensor(calibration.weights or (1.0,), dtype=torch.float64))
        self.register_buffer("shifts_K", torch.tensor(calibration.shifts or (0.0,), dtype=torch.float64))
        # As the rise from each knot to the next one: a sum, which every runtime has alike.
        pairs = [torch.tensor(pair, dtype=torch.float64) for pair in calibration.knots] or [torch.zeros(2, 1)] * classes
        most = max(pair.shape[1] for pair in pairs)
        last = [torch.cat([pair, pair[:, -1:].expand(2, 1 + most - pair.shape[1])], 1) for pair in pairs]
        x_KM, y_KM = torch.stack(last, 1).double()
        # The first height is a rise that every probability is beyond. Added to the sum, it would be another operation,
        # which OpenVINO (2026.4) merges into the sum wrongly.
        x_KM = torch.cat([torch.full_like(x_KM[:, :1], -2), x_KM], 1)
        y_KM = torch.cat([torch.zeros_like(y_KM[:, :1]), y_KM], 1)
        span_KM = x_KM.diff(dim=1).clone()
        span_KM[:, 0] = 1
        self.register_buffer("start_KM", x_KM[:, :-1].clone())
        self.register_buffer("span_KM", torch.where(span_KM > 0, span_KM, torch.ones_like(span_KM)))
        self.register_buffer("rise_KM", y_KM.diff(dim=1))

    def forward(self, logits_BK: Tensor) -> Tensor:
        logs_BK = logits_BK.double().log_softmax(1)
        if self.method == "isotonic":
            return self._isotonic(logs_BK.exp()).float()
        if self.method != "none":
            logs_BK = (self.weights_K * logs_BK + self.shifts_K).log_softmax(1)
        return logs_BK.exp().float()

    def _isotonic(self, raw_BK: Tensor) -> Tensor:
        """Straight lines between the knots of each class, and rows divided by their sum."""
        share_BKM = ((raw_BK[:, :, None] - self.start_KM) / self.span_KM).clamp(0, 1)
        columns_BK = (self.rise_KM * share_BKM).sum(2)
        sum_B1 = columns_BK.sum(1, keepdim=True)
        return torch.where(sum_B1 > 0, columns_BK / sum_B1.clamp_min(SMALLEST), raw_BK)
