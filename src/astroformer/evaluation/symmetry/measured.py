"""What `astroformer symmetry` measures: a model folder, a variant or a timm network, and the images for it."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from astroformer.classifier import load
from astroformer.errors import UserError, unknown_name
from astroformer.evaluation.symmetry.settings import frame_size
from astroformer.images.copies import Digests, pixel_digest
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sets.download import Listener
from astroformer.images.sets.mock_galaxies import CLASSES
from astroformer.images.sources import open_source
from astroformer.network import VARIANTS, Answers, Astroformer, Ensemble, create_answers
from astroformer.network.answers import answers_of
from astroformer.network.config import MOST, joined_words
from astroformer.randomness import permutation
from astroformer.system import memory_bytes

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOST_SIDE = 4096  # px, of a network by name
_MOST_IMAGES = 1_000_000
_MOCK_SEED = 1000  # added to the seed: not the galaxies that `train mock-galaxies` shows with the same seed


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network and how images come to it.

    Attributes:
        name: what the user named.
        network: maps (B, C, H, W) to logits; plain, in float32.
        weights: where they are from: `trained`, `pretrained` or `random (seed 0)`.
        preprocessing: from a file to an input.
        classes: names of the logits; empty where they are not known, and labels then mean nothing.
        seen: the `pixel_digest` of each image that the network was trained on; None where they are not known.
    """

    name: str
    network: nn.Module
    weights: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] = ()
    seen: Digests | None = None

    @property
    def kind(self) -> str:
        """The class of the network, whatever way it is asked in."""
        return type(self.network.network if isinstance(self.network, Answers) else self.network).__name__

    @property
    def symmetries(self) -> str:
        """What makes the network hold still by its design, in words."""
        if not isinstance(self.network, Astroformer | Answers | Ensemble):
            return "as it is"
        words = joined_words(self.network.config, answers_of(self.network))
        if (words["group"], words["equivariance"], words["symmetry"]) == ("none", "none", "shift"):
            return "as it is"
        return "(group {group}, equivariance {equivariance}, symmetry {symmetry})".format(**words)

    @property
    def label(self) -> str:
        """Its name for a picture: the end of a folder's path, or of a run's `model` folder the run's."""
        place = Path(self.name)
        return place.resolve().parent.name if place.name == "model" else place.name

    def to_dict(self) -> dict[str, Any]:
        """As `symmetry.json` keeps it."""
        return {
            "model": self.name,
            "network": self.kind,
            "weights": self.weights,
            "preprocessing": self.preprocessing.to_dict(),
        }


@dataclass(frozen=True)
class MeasuredImages:
    """Images as a network sees them, the frames that crops are cut from, and what was left out of `total`.

    `seen_N` says which the network was trained on, if that is known.
    """

    source: str
    images_NCHW: Tensor
    frames_NCHW: Tensor
    labels_N: NDArray[np.int64] | None
    frame_preprocessing: Preprocessing
    total: int
    left_out: list[tuple[str, str]]  # (file, reason)
    seen_N: NDArray[np.bool_] | None = None
    ignored: list[str] = dataclasses.field(default_factory=list)  # see `LabelledImages`, as for the notes
    notes: list[str] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As `symmetry.json` keeps it, without the pixels."""
        return {
            "source": self.source,
            "total": self.total,
            "left_out": dict(self.left_out),
            "seen": None if self.seen_N is None else int(self.seen_N.sum()),
            "frame_preprocessing": self.frame_preprocessing.to_dict(),
        }


def open_network(
    model: str,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    equivariance: str | None = None,
    symmetry: str | None = None,
    seed: int = 0,
    say: Callable[[str], object] | None = None,
) -> MeasuredNetwork:
    """A model folder, a variant by name, or `timm:NAME`.

    Networks by name have random weights, drawn with the seed, unless `pretrained` weights are asked of timm; they get
    the central part of a picture (224 of 256 px and in proportion), so that crops of the same scale can be cut from it.

    Args:
        image_size: side in px, for networks by name; default the network's own.
        num_classes: for networks by name; default 10, of pretrained ones their own.
        equivariance: of a variant by name, as in its config.
        symmetry: of a variant or a model folder, in place of its own.
        say: see `Classifier.load`.

    Raises:
        UserError: no such model, or a word that does not apply to it.
    """
    if Path(model).exists():
        words = {"image-size": image_size, "num-classes": num_classes, "pretrained": pretrained}
        for word, value in {**words, "equivariance": equivariance}.items():
            if value:
                raise UserError(
                    f"--{word} is for networks by name, and '{model}' is a folder with its own; leave it out."
                )
        classifier = load(model, symmetry=symmetry, say=say)
        return MeasuredNetwork(
            model, classifier.network, "trained", classifier.preprocessing, classifier.classes, classifier.seen
        )
    if image_size is not None and not 16 <= image_size <= _MOST_SIDE:
        raise UserError(f"--image-size is {image_size}; at least 16 px are needed, and at most {_MOST_SIDE}.")
    if num_classes is not None and not 2 <= num_classes <= MOST["num_classes"]:
        raise UserError(f"--num-classes is {num_classes}; at least 2 are needed, and at most {MOST['num_classes']}.")
    network: nn.Module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model in VARIANTS:
            if pretrained:
                raise UserError(f"--pretrained: no weights of {model} are published; leave it out.")
            size = VARIANTS[model].img_size if image_size is None else (image_size, image_size)
            chosen = {"equivariance": equivariance, "symmetry": symmetry}
            chosen = {name: value for name, value in chosen.items() if value is not None}
            network = create_answers(model, img_size=size, num_classes=num_classes or 10, **chosen)
        elif model.startswith("timm:"):
            if equivariance or symmetry:
                raise UserError("--equivariance and --symmetry are settings of our own networks; leave them out.")
            network, size = _timm_network(model.removeprefix("timm:"), image_size, num_classes, pretrained)
        else:
            near = str(unknown_name("model", model, VARIANTS))
            raise UserError(f"{near[:-1]}, a model folder, or timm:NAME.")
    crop = min(side / outer for side, outer in zip(size, frame_size(size), strict=True))
    preprocessing = Preprocessing(size, 3, crop=crop, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
    return MeasuredNetwork(
        model, network.eval(), "pretrained" if pretrained else f"random (seed {seed})", preprocessing
    )


def _timm_network(
    name: str, image_size: int | None, num_classes: int | None, pretrained: bool
) -> tuple[nn.Module, tuple[int, int]]:
    import timm

    import astroformer.timm  # noqa: F401 (timm then knows our variants too)

    base = name.partition(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=1, cutoff=0.5)
        hint = f" Did you mean 'timm:{near[0]}'?" if near else ""
        raise UserError(f"timm has no network '{name}'.{hint} timm.list_models() lists them.")
    words: dict[str, Any] = {"pretrained": pretrained}
    if num_classes or not pretrained:
        words["num_classes"] = num_classes or 10
    config: Any = timm.get_pretrained_cfg(name) or timm.get_pretrained_cfg(base)
    if image_size is not None and config is not None and config.fixed_input_size:
        words["img_size"] = image_size
    try:
        network: nn.Module = timm.create_model(name, **words)
    except Exception as error:  # a hub that can't be reached, a size that the network can't take: timm says which
        raise UserError(f"timm can't make '{name}' with {words}: {str(error).rstrip('.')}.") from None
    side = image_size or (config.input_size[1] if config is not None else 224)
    return network, (side, side)


def read_images(
    network: MeasuredNetwork,
    data: str | None,
    *,
    images: int,
    seed: int = 0,
    only_known: bool = False,
    listener: Listener | None = None,
) -> MeasuredImages:
    """Up to so many images of a source, drawn with the seed, through the network's own preprocessing.

    The frame around an image is preprocessed to `frame_size` from a central part of the picture that is larger in
    proportion, so that crops have the scale that the network knows. Where the picture ends before (a `crop` above 7/8),
    the frame is all of it, and crops show it up to 8/7 larger: Zhang's protocol, 224 of 256 px.

    Args:
        data: a source as `open_source` knows them, labelled if the network's classes are known. None: mock galaxies
            that `train mock-galaxies` has not shown with the same seed; they have labels for a network of their
            classes.
        images: at most so many.
        only_known: leave images of classes out that the network does not know, in place of an error.
        listener: what is told of a download.

    Raises:
        UserError: the source can't be opened, or none of the images can be read.
    """
    if not 1 <= images <= _MOST_IMAGES:
        raise UserError(f"images is {images}; at least 1 is needed, and at most {_MOST_IMAGES:,}.")
    plain = network.preprocessing
    outer = frame_size(plain.image_size)
    zoom = min(wide / side for wide, side in zip(outer, plain.image_size, strict=True))
    around = dataclasses.replace(plain, image_size=outer, crop=min(1.0, plain.crop * zoom))
    source: LabelledImages
    if data is None:
        side = max(16, math.ceil(max(outer) / around.crop - 1e-6))
        source = open_source(f"mock-galaxies:{images}x{side}", classes=CLASSES, seed=seed + _MOCK_SEED)
        if network.classes != CLASSES:
            source = dataclasses.replace(source, labels=None)
    elif network.classes:
        source = open_source(data, classes=network.classes, seed=seed, only_known=only_known, listener=listener)
    else:
        source = open_source(data, labelled=False, seed=seed, listener=listener)
    chosen = source.subset(np.sort(permutation(seed, 0, len(source)).numpy()[:images]))
    pixels, memory = sum(math.prod(some.image_size) for some in (plain, around)), memory_bytes()
    if memory is not None and len(chosen) * pixels * plain.channels > memory:
        raise UserError(
            f"{len(chosen):,} images of {outer[0]} × {outer[1]} px need more than the {memory / 2**30:.0f} GiB of "
            "memory that this machine has; measure on fewer (--images) or smaller ones."
        )
    said = plain.check_source(chosen)
    plain.check_brightness(chosen.read, len(chosen))
    rows, read, left_out, digests = [], [], [], []
    for i, file in enumerate(chosen.files):
        try:
            picture = chosen.read(i)
            rows.append((plain.apply(picture), around.apply(picture)))
            read.append(i)
            digests.append(pixel_digest(picture))
        except UserError as error:
            left_out.append((file, str(error)))
    if not rows:
        raise UserError(f"none of {len(left_out)} images of '{source.source}' can be read; the first: {left_out[0][1]}")
    stored = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*rows, strict=True)]
    return MeasuredImages(
        source.source + ("" if data else f" (seed {seed + _MOCK_SEED})"),
        plain.normalize(stored[0]),
        around.normalize(stored[1]),
        None if chosen.labels is None else chosen.labels[read],
        around,
        len(source),
        left_out,
        None if network.seen is None else np.isin(np.array(digests, np.uint64), network.seen),
        source.ignored,
        [*source.notes, *said],
    )
