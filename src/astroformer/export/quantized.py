"""A graph of OpenVINO in 8-bit whole numbers, with a bound on what that costs (nncf).

Quantization can ruin a network without a word, so accuracy and log loss are measured on labelled images before and
after, and a graph that lost too much is not written.

Legend: N images, K classes.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.metrics import nll_N
from astroformer.runtimes import FACTS
from astroformer.summaries import percent

Array = NDArray[Any]
LEAST_IMAGES = 300
MOST_LOST_ACCURACY, MOST_MORE_NLL = 0.005, 0.02


@dataclass(frozen=True)
class Scores:
    """Accuracy, and log loss in nats, of N images."""

    accuracy: float
    nll: float

    @classmethod
    def of(cls, labels_N: Array, probabilities_NK: Array) -> Scores:
        """Those of images whose probabilities are all known."""
        right_N = probabilities_NK.argmax(1) == labels_N
        return cls(float(right_N.mean()), float(nll_N(labels_N, probabilities_NK).mean()))

    def to_dict(self) -> dict[str, float]:
        """As JSON keeps them."""
        return asdict(self)

    def __str__(self) -> str:
        return f"accuracy {percent(self.accuracy)}, log loss {self.nll:.3f}"


def why_not(before: Scores, after: Scores) -> str | None:
    """Why a quantized graph is not written; None where it lost little."""
    if before.accuracy - after.accuracy > MOST_LOST_ACCURACY or after.nll - before.nll > MOST_MORE_NLL:
        return (
            f"int8 has {after}, where the model has {before}; half a point of accuracy and {MOST_MORE_NLL} of log loss "
            "are allowed"
        )
    return None


def check_enough(images: int) -> None:
    """Raises a `UserError` where there are too few labelled images to judge int8 by."""
    if images < LEAST_IMAGES:
        raise UserError(
            f"int8 is fitted and judged on at least {LEAST_IMAGES} labelled images, and there are {images:,}; name "
            "more with --images, or choose --precision float32."
        )


def quantize(file: Path, images_NCHW: Array, labels_N: Array) -> None:
    """Replaces a graph of OpenVINO that takes prepared images by one of 8-bit whole numbers.

    Operations whose quantization costs accuracy stay as they are, until less than half a point is lost.

    Args:
        file: of the graph.
        images_NCHW: as `Preprocessing.apply` makes them.
        labels_N: their classes.
    """
    with _quiet():
        import nncf
        import openvino

        def accuracy(model: Any, rows: Iterable[int]) -> tuple[float, list[float]]:
            right = [float(model(images_NCHW[i][None])[0].argmax() == labels_N[i]) for i in rows]
            return float(np.mean(right)), right

        core = openvino.Core()
        model = core.read_model(file)
        facts = model.get_rt_info(FACTS).astype(str)
        order = list(range(len(images_NCHW)))
        quantized = nncf.quantize_with_accuracy_control(
            model,
            nncf.Dataset(order, lambda i: images_NCHW[i][None]),
            nncf.Dataset(order, lambda i: i),
            accuracy,
            max_drop=MOST_LOST_ACCURACY,
            drop_type=nncf.DropType.ABSOLUTE,
            subset_size=min(LEAST_IMAGES, len(order)),
        )
        quantized.set_rt_info(facts, FACTS)
        del model  # which keeps the file of its weights open
        part = file.with_name(f"int8-{file.name}")
        openvino.save_model(quantized, part, compress_to_fp16=False)
        del quantized
        part.replace(file)
        part.with_suffix(".bin").replace(file.with_suffix(".bin"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """nncf tells of each step on stdout; what came of it is said afterwards."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    loggers[1].setLevel(logging.ERROR)  # it misses a compiler for GPUs, which nothing here needs
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            import nncf  # here, since its import sets the level

            nncf.set_log_level(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
