"""`Classifier`: a network, its preprocessing and its class names; what training makes and everything after starts from.

There is one predict path: file → `Preprocessing.apply` → `Preprocessing.normalize` → network → softmax. The command
line, the evaluation and the validation during training all go through it. The network is asked by its fast path
(`fast_inference.py`); in float32, the default, that is within 1e-5 in probability of the plain forward pass.

Legend: N images, B batch, K classes, C channels, D features, H height, W width.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from astroformer import native
from astroformer.allocator import keep_freed_memory
from astroformer.errors import UserError, unknown_name
from astroformer.fast_inference import FastPass, fast_pass
from astroformer.images.copies import Digests, pixel_digest
from astroformer.images.given import IN_MEMORY, Images, as_images
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sources import open_source
from astroformer.metrics import Evaluation, score
from astroformer.model_folder import KeptNetwork, ModelConfig, ModelFolder, ModelRecord
from astroformer.network import Answers, Astroformer, Ensemble, count_parameters
from astroformer.network.answers import answers_of
from astroformer.network.framing import FRAME_IMAGES
from astroformer.predictions import Predictions
from astroformer.progress import Reporter
from astroformer.system import PRECISIONS, pick_device, pick_precision, usable_cores
from astroformer.threads import in_threads, pieces

_TASK_IMAGES = 16  # that a thread on a CPU decodes and classifies together, enough to fill the matrix products
_WORKERS = 8  # threads: of more, some would wait for Python's lock; on larger CPUs each computes with several cores
_TARGET_IMAGES = 256  # of a forward pass whose answers are targets; a GPU is given thousands of images at once
_SEEN = "seen"  # (N, 8) uint8 of `extra.safetensors`: the digests of the images that were trained on
Array = NDArray[Any]


@dataclass
class Classifier:
    """A trained network that can be asked, saved and loaded.

    Attributes:
        network: maps a normalised (B, C, H, W) batch to (B, K) logits.
        preprocessing: from an image of any size to one normalised network input.
        classes: the K class names, in the order of the logits.
        info: what the model was made from and what it reached.
        precision: of the matrix products, "float32" or "bfloat16". The second is faster where the CPU or GPU has
            instructions for it, and moves probabilities in the third digit; `pick_precision` knows "auto" too.
        white: the value that is white in the images that are asked about, if somebody states it, see `Units.shared`.
        seen: the `pixel_digest` of each image that the network was trained on; None where they are not known.

    Example:
        >>> import numpy as np
        >>> from astroformer.images import Preprocessing
        >>> from astroformer.network import create_network
        >>> network = create_network("astroformer_atto", num_classes=2, img_size=32)
        >>> classifier = Classifier(network, Preprocessing((32, 32), 3), ("disc", "ring"))
        >>> classifier.predict(np.zeros((4, 32, 32, 3), np.uint8)).probabilities_NK.shape  # of four black images
        (4, 2)
    """

    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    info: ModelRecord = field(default_factory=ModelRecord)
    precision: str = "float32"
    white: float | None = None
    seen: Digests | None = None
    # The network as `fast_pass` has it, and the state of the weights and settings that it was made from.
    _fast: tuple[Any, FastPass] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        # One memory format, one set of kernels: a loaded classifier gives the same bits as the one that was saved.
        self.network.to(memory_format=torch.channels_last)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fast": None}  # a copy makes its own, from its own weights

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Classifier:
        """Moves the network to `device` ("cpu", "cuda", …) and returns this classifier."""
        self.network.to(device)
        return self

    # -- asking ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def probabilities(self, stored_BCHW: Array | Tensor) -> Array:
        """(B, K) float64 probabilities of a batch as `Preprocessing.apply` makes it and the image store keeps it."""
        return _softmax(self._asked()(self._normalized(stored_BCHW)))

    def _normalized(self, stored_BCHW: Array | Tensor) -> Tensor:
        return self.preprocessing.normalize(torch.as_tensor(np.asarray(stored_BCHW)).to(self.device))

    def answers(self, x_BCHW: Tensor) -> Tensor:
        """(B, K) float32 probabilities of images that are normalised already, on the network's device, where they
        stay: targets that another network may learn."""
        with torch.inference_mode():
            network = self._asked()
            parts = [torch.softmax(network(x).float(), dim=1) for x in x_BCHW.split(_TARGET_IMAGES)]
        return torch.cat(parts)  # outside of the mode: a backward pass may keep it

    def _asked(self) -> Callable[[Tensor], Tensor]:
        """What is asked for logits: the fast path of our own networks, made anew when their weights have changed."""
        self.network.eval()
        return self._fast_network() if isinstance(self.network, KeptNetwork) else self.network

    def _fast_network(self) -> FastPass:
        if not isinstance(self.network, KeptNetwork):
            raise UserError(f"features of a {type(self.network).__name__} can't be asked for; an Astroformer has them.")
        # Every change through torch raises a tensor's version, and every move gives it another address.
        tensors = (*self.network.parameters(), *self.network.buffers())
        versions = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        made_from = (self.precision, versions)
        if self._fast is None or self._fast[0] != made_from:
            if self.device.type == "cpu":
                keep_freed_memory()
            dtype = getattr(torch, pick_precision(self.precision, self.device.type))
            self._fast = (made_from, fast_pass(self.network, dtype))
        return self._fast[1]

    def iter_predict(
        self, images: LabelledImages, *, batch_size: int = 64, mark_seen: bool = False, features: bool = False
    ) -> Iterator[Predictions]:
        """Predictions batch by batch, for any number of images: each thread decodes some and asks the network.

        Arguments are those of `predict`.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; at least 1 image a forward pass is needed.")
        self.preprocessing.check_brightness(images.read, len(images), self.white)
        network, seen = self._asked(), self.seen if mark_seen else None
        featured = self._fast_network() if features else None
        total = len(images)
        on_cpu = self.device.type == "cpu"
        # Side by side, decoding and network fill all cores whichever of the two takes longer, and no thread waits for
        # another one's share of a matrix product.
        workers = min(usable_cores(), _WORKERS)
        size = min(batch_size, _TASK_IMAGES) if on_cpu else batch_size
        bounds = pieces(total, batch_size, size)

        @torch.inference_mode()
        def task(start: int, stop: int) -> Predictions:
            probabilities_NK = np.full((stop - start, len(self.classes)), np.nan)
            rows: dict[int, Array] = {}
            errors = [""] * (stop - start)
            digests = np.zeros(stop - start, np.uint64)
            for k in range(stop - start):
                try:
                    image = images.read(start + k)
                    rows[k] = self.preprocessing.apply(image, self.white)
                    if seen is not None:
                        digests[k] = pixel_digest(image)
                except UserError as error:  # unreadable, or of a type or channels that the network can't take
                    errors[k] = str(error)
            features_ND = None if featured is None else np.full((stop - start, featured.width), np.nan, np.float32)
            if rows:
                x_BCHW = self._normalized(np.stack(list(rows.values())))
                if featured is not None and features_ND is not None:
                    logits_BK, features_BD = featured.with_features(x_BCHW)
                    features_ND[list(rows)] = features_BD.float().cpu().numpy()
                else:
                    logits_BK = network(x_BCHW)
                probabilities_NK[list(rows)] = _softmax(logits_BK)
            seen_N = None if seen is None else np.isin(digests, seen)
            return Predictions(images.files[start:stop], self.classes, probabilities_NK, errors, seen_N, features_ND)

        parts: list[Predictions] = []
        for (_, stop), part in zip(bounds, in_threads(task, bounds, workers), strict=True):
            parts.append(part)
            if stop % batch_size == 0 or stop == total:
                yield Predictions.joined(parts, self.classes)
                parts = []

    def predict(
        self,
        images: Images,
        *,
        batch_size: int = 64,
        mark_seen: bool = False,
        features: bool = False,
        quiet: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        """Probabilities and names for images.

        A terminal or a notebook shows a bar where there are more images than a batch.

        Args:
            images: a path (image, folder, `.npz`, catalog), arrays, tensors, images of Pillow, bytes, or several of
                these, see `as_images`. Labels are not used.
            batch_size: at most so many images a forward pass, and between two calls of `progress`.
            mark_seen: say which images the network was trained on, if that is known.
            features: add those of `Classifier.features`, which cost nothing more.
            quiet: show no progress.
            progress: called with (images done, images in all), in place of the bar.

        Raises:
            UserError: these are no images, or none of those that are given in memory is one that the model can take.
                Of files each has its reason in `errors`.
        """
        with Reporter(quiet=quiet) as reporter:
            opened = as_images(images, reporter if reporter.live else None)
            # In a log there is nothing: a program asks a model again and again, and its log is its own.
            if progress is None and reporter.live and len(opened) > batch_size:
                progress = functools.partial(reporter.count, "predicting")
            return self._predict(opened, batch_size, mark_seen=mark_seen, features=features, progress=progress)

    def _predict(
        self,
        opened: LabelledImages,
        batch_size: int,
        *,
        mark_seen: bool,
        features: bool = False,
        progress: Callable[[int, int], None] | None,
    ) -> Predictions:
        parts = []
        done = 0
        for part in self.iter_predict(opened, batch_size=batch_size, mark_seen=mark_seen, features=features):
            parts.append(part)
            done += len(part)
            if progress:
                progress(done, len(opened))
        predictions = Predictions.joined(parts, self.classes)
        if opened.source == IN_MEMORY and len(opened) and not predictions.readable_N.any():
            raise UserError(f"none of {len(predictions):,} images can be taken. The first: {predictions.errors[0]}")
        return predictions

    def features(
        self, images: Images, *, batch_size: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> Array:
        """What the network has made of each image before it names a class: an embedding, to search or to cluster.

        These are the features that the last linear layer turns into logits (timm's `pre_logits`): the last map averaged
        over its places, after the layer norm and the hidden layer, if there is one. Where a model averages logits over
        views, the features are averaged over the same views; those of an ensemble's members stand side by side.

        Args:
            images, batch_size, progress: as for `predict`.

        Returns:
            (N, D) float32, a row an image in their order. The row of an image that can't be taken is NaN; `predict` has
            the reason.

        Raises:
            UserError: as `predict`; or the network is none of ours.

        Example:
            >>> import numpy as np
            >>> from astroformer.images import Preprocessing
            >>> from astroformer.network import create_network
            >>> network = create_network("astroformer_atto", img_size=32)
            >>> classifier = Classifier(network, Preprocessing((32, 32), 3), tuple("0123456789"))
            >>> classifier.features(np.zeros((4, 32, 32, 3), np.uint8)).shape
            (4, 96)
        """
        found = self.predict(images, batch_size=batch_size, features=True, progress=progress).features_ND
        return np.empty((0, 0), np.float32) if found is None else found

    def evaluate(
        self,
        images: Images,
        *,
        batch_size: int = 64,
        strict: bool = False,
        quiet: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Evaluation, Predictions]:
        """Metrics with 95 % intervals on labelled images, and the predictions they were made from.

        Images that cannot be read are left out of the metrics and stand in the predictions with their reason;
        with `strict` they are an error. `seen_N` of the predictions says which images the model was trained on, where
        that is known: on these a figure says nothing of new images.

        Args:
            images: a source with labels, by its path or as `LabelledImages`.
            batch_size, quiet, progress: as for `predict`.
            strict: make an image that can't be read an error.

        Raises:
            UserError: the images carry no labels, or classes that this classifier does not know.
        """
        if not isinstance(images, LabelledImages | str | Path):
            raise UserError(f"evaluate needs a labelled source (folder, .npz, catalog), not {type(images).__name__}.")
        with Reporter(quiet=quiet) as reporter:
            if not isinstance(images, LabelledImages):
                listener = reporter if reporter.live else None
                images = open_source(images, classes=self.classes, listener=listener)
            if images.labels is None:
                raise UserError(
                    f"'{images.source}' has no labels; evaluate needs a class folder or label for every image."
                )
            if progress is None and reporter.live and len(images) > batch_size:
                progress = functools.partial(reporter.count, "evaluating")
            predictions = self._predict(images, batch_size, mark_seen=True, progress=progress)
        good_N = predictions.readable_N
        if not good_N.any():
            raise UserError(
                f"none of {len(predictions):,} images of '{images.source}' can be taken. The first: "
                f"{predictions.errors[0]}"
            )
        if strict and not good_N.all():
            first = int(np.argmin(good_N))
            n = int((~good_N).sum())
            raise UserError(
                f"{n} image{'s' if n != 1 else ''} can't be read, and strict refuses that; "
                f"the first: {predictions.errors[first]}"
            )
        return score(images.labels[good_N], predictions.probabilities_NK[good_N], self.classes), predictions

    def framed(self, images: Images) -> Classifier:
        """A classifier of the same weights that no circular shift of an image changes, by `equivariance` "frame".

        Before it answers, it moves an image to where its frame was; see `network.framing`. Training with that word
        makes the same of the same images. Its metrics are not known: those of this classifier are not its own, and
        `evaluate` measures them.

        Args:
            images: as for `predict`, lying as they were taken, from which it learns where a frame begins: a few
                hundred, without labels. Of more than `FRAME_IMAGES` every so many-th is read.

        Raises:
            UserError: an image can't be read; or the network has an equivariance already, or is an ensemble.
        """
        if not isinstance(self.network, Astroformer | Answers):
            raise UserError(f"a {type(self.network).__name__} can't be framed; a single Astroformer can.")
        plain = self.network.network if isinstance(self.network, Answers) else self.network
        network = Answers(copy.deepcopy(plain), replace(answers_of(self.network), frame=True)).to(self.device)
        opened = as_images(images)
        some = np.unique(np.linspace(0, len(opened) - 1, min(len(opened), FRAME_IMAGES)).astype(int))
        stored_BCHW = np.stack([self.preprocessing.apply(opened.read(int(i)), self.white) for i in some])
        assert network.frame is not None
        network.frame.fit(self.preprocessing.normalize(torch.from_numpy(stored_BCHW).to(self.device)))
        info = self.info.without_metrics()
        return Classifier(network.eval(), self.preprocessing, self.classes, info, self.precision, self.white, self.seen)

    # -- several as one ----------------------------------------------------------------------------------------------

    @classmethod
    def ensemble(cls, members: Sequence[Classifier]) -> Classifier:
        """One classifier that answers with the mean of its members' probabilities (arXiv 1612.01474).

        Its network is an `Ensemble` of theirs, which are not copied. Metrics are not known: `evaluate` measures them.

        Raises:
            UserError: fewer than two members, one that is an ensemble itself, or members whose classes, preprocessing
                or configs differ.
        """
        networks = []
        for k, member in enumerate(members):
            if not isinstance(member.network, Astroformer | Answers):
                raise UserError(f"the network of member {k} is no single Astroformer, which an ensemble is made of.")
            for what in ("classes", "preprocessing"):
                if getattr(member, what) != getattr(members[0], what):
                    raise UserError(
                        f"the {what} of member {k} differ from those of member 0; the members of an ensemble share "
                        "them: train them on the same images."
                    )
            networks.append(member.network)
        network = Ensemble(networks)
        info = ModelRecord(name=members[0].info.name, parameters=count_parameters(network))
        first, known = members[0], [member.seen for member in members if member.seen is not None]
        seen = np.unique(np.concatenate(known)) if len(known) == len(members) else None
        return cls(network.eval(), first.preprocessing, first.classes, info, first.precision, first.white, seen)

    # -- keeping -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Writes the model folder: `model.safetensors`, `config.json`, `README.md` (the model card).

        Raises:
            UserError: the network is none of ours.
        """
        if not isinstance(self.network, KeptNetwork):
            raise UserError(f"a {type(self.network).__name__} can't be kept in a model folder; an Astroformer can.")
        config = ModelConfig(
            network=self.network.config,
            answers=answers_of(self.network),
            input=self.preprocessing,
            classes=self.classes,
            record=self.info,
            members=len(self.network.members) if isinstance(self.network, Ensemble) else 1,
        )
        extra = None if self.seen is None else {_SEEN: torch.from_numpy(self.seen.view(np.uint8).reshape(-1, 8))}
        ModelFolder(folder).write(self.network, config, extra=extra)
        return Path(folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "cpu",
        *,
        precision: str = "float32",
        symmetry: str | None = None,
        white: float | None = None,
        say: Callable[[str], object] | None = None,
    ) -> Classifier:
        """Reads a model folder and proves that it is whole. Arguments and errors are those of `astroformer.load`."""
        device = pick_device(device)
        precision = pick_precision(precision, device)
        model = ModelFolder.find(folder)
        config = model.config()
        if symmetry is not None and symmetry != config.answers.symmetry:
            answers, record = replace(config.answers, symmetry=symmetry), config.record.without_metrics()
            config = replace(config, answers=answers, record=record)
        network = model.network(config)
        seen = model.extra(config).get(_SEEN)
        digests = None if seen is None else np.ascontiguousarray(seen.numpy()).view(np.uint64).ravel()
        classifier = cls(network, config.input, config.classes, config.record, precision, white, digests)
        for caveat in (model.caveat(config), native.caveat() if device == "cpu" else None):
            if say is not None and caveat is not None:
                say(caveat)
        return classifier.to(device)


def _softmax(logits_BK: Tensor) -> Array:
    # In float64: it keeps p(class) of confident predictions from rounding to 0 and 1.
    return torch.softmax(logits_BK.double(), dim=1).cpu().numpy()


def load(
    folder: str | Path,
    device: str = "cpu",
    *,
    precision: str = "float32",
    symmetry: str | None = None,
    white: float | None = None,
    say: Callable[[str], object] | None = None,
) -> Classifier:
    """Reads a model folder, or a run folder that holds one, and proves that it is whole.

    Args:
        folder: where it lies.
        device: "cpu", "cuda" or "auto" (CUDA when there is one).
        precision: see `pick_precision`.
        symmetry: "shift" (answers about the image alone), "shift+mirror" or "shift+d4" (logits averaged over the
            image and its mirror image, or over turned and mirrored views, each at the cost of one); None: as the
            model says. The metrics of a model are those of the symmetry that it was saved with: with another one
            they are not known, and `evaluate` measures them.
        white: the value that is white in the images that will be asked about, where their pixels are of another type
            than those that the model learned from: 65535 for uint16 that uses all bits, 4095 for 12 bits.
        say: is given a sentence where the folder is of an old format, whose hashes do not cover all of it, and where
            the cache is not to be trusted with native kernels.

    Raises:
        UserError: this is no model folder, or it was made by a newer version, or it is damaged, or its weights do
            not fit its config.

    Example:
        >>> import tempfile
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, device="cpu", precision="no")
        >>> folder = tempfile.mkdtemp()
        >>> trained = astroformer.train("mock-galaxies:20x32", recipe, out=folder)
        >>> model = astroformer.load(folder)
        >>> len(model.predict("mock-galaxies:4x32").names)
        4
    """
    return Classifier.load(folder, device, precision=precision, symmetry=symmetry, white=white, say=say)
