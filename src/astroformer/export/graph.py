"""`Graph`: a trained model as one module that holds all: preprocessing, network and calibration.

Legend: B images, C bands, H and W rows and columns, K classes.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from astroformer.classifier import Classifier
from astroformer.errors import UserError, unknown_name
from astroformer.export.calibrated import Calibrated
from astroformer.export.pixels import TYPES, Normalized, Pixels, kind_of
from astroformer.model_folder import KeptNetwork, ModelFolder
from astroformer.network.traced import Traced, traced

Takes = Literal["pixels", "prepared"]
TAKES: tuple[Takes, ...] = get_args(Takes)
INPUT = "images"
OUTPUTS: dict[Takes, tuple[str, ...]] = {
    "pixels": ("probabilities",),
    "prepared": ("probabilities", *Traced._fields),
}


class Graph(nn.Module):
    """Images to calibrated probabilities (B, K), float32. The row of an image that `predict` would refuse is NaN.

    Of prepared images it gives beside them what `Traced` has: the logits that are not calibrated, the features and the
    means of the maps.

    Args:
        classifier: whose network is copied as it is now.
        takes: "pixels", raw images (B, H, W, C) of the model's type and of any size, or "prepared", (B, C, h, w) as
            `Preprocessing.apply` makes them.
        bf16: whether the weights and maps of the network are bfloat16.

    Raises:
        UserError: the network is none of ours.
    """

    def __init__(self, classifier: Classifier, takes: Takes = "pixels", *, bf16: bool = False) -> None:
        super().__init__()
        if takes not in TAKES:
            raise unknown_name("input of a graph", takes, TAKES)
        if not isinstance(classifier.network, KeptNetwork):
            raise UserError(f"a {type(classifier.network).__name__} can't be exported; an Astroformer can.")
        self.takes, self.preprocessing = takes, classifier.preprocessing
        self.pixels: Pixels | Normalized = (
            Pixels(classifier.preprocessing) if takes == "pixels" else Normalized(classifier.preprocessing)
        )
        network = copy.deepcopy(classifier.network).cpu().to(memory_format=torch.contiguous_format)
        self.network: KeptNetwork = network.eval().requires_grad_(False)
        self.network_type = torch.bfloat16 if bf16 else torch.float32
        self.network.to(self.network_type)
        self.calibrated = Calibrated(classifier.trust.calibration, len(classifier.classes))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        if isinstance(self.pixels, Normalized):
            x_BCHW = images.float() / 255 if images.dtype == torch.uint8 else images.float()
            trace = traced(self.network, self.pixels(x_BCHW).to(self.network_type))
            return self.calibrated(trace.logits), *(of_images.float() for of_images in trace)
        x_BCHW, good_B = self.pixels(images)
        x_BCHW = torch.where(good_B[:, None, None, None], x_BCHW, torch.zeros_like(x_BCHW))
        probabilities_BK = self.calibrated(self.network(x_BCHW.to(self.network_type)))
        return torch.where(good_B[:, None], probabilities_BK, torch.full_like(probabilities_BK, torch.nan))

    @property
    def dtype(self) -> torch.dtype:
        """Of the images."""
        if self.takes == "pixels":
            return TYPES[kind_of(self.preprocessing)]
        return getattr(torch, self.preprocessing.dtype)

    def example(self, batch: int = 2) -> Tensor:
        """Images to trace it with."""
        (height, width), channels = self.preprocessing.image_size, self.preprocessing.channels
        # A size that no other side has: what is free in one side is then not mistaken for another one.
        shape = (height + 3, width + 7, channels) if self.takes == "pixels" else (channels, height, width)
        return torch.zeros(batch, *shape, dtype=torch.uint8).to(self.dtype)

    @property
    def free(self) -> dict[int, str]:
        """The axes of the input whose size is free."""
        return {0: "batch", 1: "height", 2: "width"} if self.takes == "pixels" else {0: "batch"}


def facts_of(classifier: Classifier, graph: Graph, precision: str) -> dict[str, Any]:
    """What a graph says of itself, as JSON values: what it takes, what it gives and of which model it is.

    `model` is the SHA-256 of the model folder's weights; None where the classifier lies in none.
    """
    preprocessing = classifier.preprocessing
    words = preprocessing.to_dict()
    model = None
    if classifier.folder is not None:
        model = ModelFolder(classifier.folder).config().weights_sha256
    units = preprocessing.units
    return {
        "made_by": "astroformer",
        "model": model,
        "classes": list(classifier.classes),
        "takes": graph.takes,
        "type": str(graph.dtype).removeprefix("torch."),
        "channels": preprocessing.channels,
        "bands": None if preprocessing.bands is None else list(preprocessing.bands.names),
        "units": None if preprocessing.bands is None else list(preprocessing.bands.units),
        "white": None if units is None else units.white,
        "range": None if units is None else [units.darkest, units.brightest],
        "scaling": words.get("scaling"),
        "image_size": list(preprocessing.image_size),
        "crop": preprocessing.crop,
        "fit": preprocessing.fit,
        "missing": preprocessing.missing,
        "calibration": classifier.trust.calibration.method,
        "precision": precision,
    }
