"""`Classifier`: a network, its preprocessing and its class names; what training makes and everything after starts from.

How the network is asked, batch by batch, is `predictor.py`.

Legend: N images, B batch, K classes, C channels, D features, H height, W width.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from astroformer import native
from astroformer.errors import UserError, unknown_name
from astroformer.images.bands import Bands
from astroformer.images.given import IN_MEMORY, Images, as_images
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source
from astroformer.kept_graphs import pick_graph, why_no_graph
from astroformer.metrics import Evaluation, score, score_lines
from astroformer.model_config import ModelConfig, ModelRecord
from astroformer.model_folder import KeptNetwork, ModelFolder
from astroformer.network import Answers, Astroformer, Ensemble, count_parameters
from astroformer.network.answers import answers_of
from astroformer.network.framing import FRAME_IMAGES
from astroformer.predictions import Predictions
from astroformer.predictor import Predictor
from astroformer.progress import Reporter
from astroformer.summaries import Summarized, Summary, some_of
from astroformer.system import pick_device, pick_precision
from astroformer.trust.trust import CALIBRATIONS, Trust

_SEEN = "seen"  # (N, 8) uint8 of `extra.safetensors`: the digests of the images that were trained on
Array = NDArray[Any]


@dataclass(repr=False)
class Classifier(Predictor, Summarized):
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
        fast: whether our own networks are asked by their fast path, see `load`.
        folder: where the model was saved or loaded, if it was.
        trust: what makes probabilities of logits, and the held-out images that tell how; see `Trust`.

    Examples:
        >>> import numpy as np
        >>> from astroformer.images import Preprocessing
        >>> from astroformer.network import create_network
        >>> network = create_network("astroformer_atto", num_classes=2, img_size=32)
        >>> classifier = Classifier(network, Preprocessing((32, 32), 3), ("disc", "ring"))
        >>> classifier.predict(np.zeros((4, 32, 32, 3), np.uint8)).probabilities_NK.shape  # of four black images
        (4, 2)
    """

    def summary(self) -> Summary:
        info, (height, width) = self.info, self.preprocessing.image_size
        lines = {f"{len(self.classes)} classes": some_of(self.classes)}
        bands = self.preprocessing.bands
        of_bands = f"channels: {self.preprocessing.channels}" if bands is None else f"bands: {bands}"
        lines["images"] = f"{height} × {width} px, {of_bands}"
        if info.training:
            lines["trained on"] = info.training
        if info.metrics is not None:
            lines["validation images"] = f"{info.metrics.n:,}" + (f" ({info.validation})" if info.validation else "")
            lines |= score_lines(info.metrics.intervals)
        graph = self._graph_now()
        by = f"the fast path in {self.precision}"
        if graph is not None:
            by = f"an exported graph of {graph.runtime} in {graph.precision}"
        fast = f"{by} (for forward hooks: load it with fast=False)"
        lines["asked by"] = f"{fast if self._by_fast_path else 'network.forward'}, on {self.device}"
        if self.folder is not None:
            lines["folder"] = str(self.folder)
        name = info.name or type(self.network).__name__
        return Summary(f"Classifier: {name}, {count_parameters(self.network):,} parameters", lines)

    # -- asking ------------------------------------------------------------------------------------------------------

    def predict(
        self,
        images: Images,
        *,
        batch_size: int = 64,
        mark_seen: bool = False,
        features: bool = False,
        bands: Sequence[str] | Bands | None = None,
        quiet: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        """Probabilities and names for images.

        A terminal or a notebook shows a bar where there are more images than a batch. Where the model knows its bands
        and the images, such as an array, do not name theirs, they are taken for the same, and a line or a
        `UserWarning` says so.

        Args:
            images: a path (image, folder, `.npz`, catalog), arrays, tensors, images of Pillow, bytes, or several of
                these, see `as_images`. Labels are not used.
            batch_size: at most so many images a forward pass, and between two calls of `progress`.
            mark_seen: say which images the network was trained on, if that is known; answer the images that the
                calibration was fitted on by what was fitted without them; and give the network's own probabilities too.
            features: add those of `Classifier.features`, which cost nothing more.
            bands: the names of the images' bands in their order, such as ("g", "r", "z"), or `Bands` with their units,
                of arrays and others that do not say it themselves. They must be those of the model.
            quiet: show no progress.
            progress: called with (images done, images in all), in place of the bar.

        Raises:
            UserError: these are no images, or none of those that are given in memory is one that the model can take.
                Of files each has its reason in `errors`. Or their bands are others than those of the model.
        """
        with Reporter(quiet=quiet) as reporter:
            opened = as_images(images, reporter if reporter.live else None, bands)
            self._tell_differences(opened, reporter)
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

    def _tell_differences(self, images: LabelledImages, reporter: Reporter) -> None:
        """Says what a source states otherwise than the training images did, or not at all: a line where somebody looks
        on, else a warning of Python."""
        for sentence in self.preprocessing.check_source(images):
            if reporter.live:
                reporter.say(sentence)
            else:  # which Python shows once for each line that asks
                warnings.warn(sentence, stacklevel=3)

    def features(
        self,
        images: Images,
        *,
        batch_size: int = 64,
        bands: Sequence[str] | Bands | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Array:
        """What the network has made of each image before it names a class: an embedding, to search or to cluster.

        These are the features that the last linear layer turns into logits (timm's `pre_logits`): the last map averaged
        over its places, after the layer norm and the hidden layer, if there is one. Where a model averages logits over
        views, the features are averaged over the same views; those of an ensemble's members stand side by side.

        Args:
            images: as for `predict`.
            batch_size: as for `predict`.
            bands: as for `predict`.
            progress: as for `predict`.

        Returns:
            (N, D) float32, a row an image in their order. The row of an image that can't be taken is NaN; `predict` has
            the reason.

        Raises:
            UserError: as `predict`; or the network is none of ours.

        Examples:
            >>> import numpy as np
            >>> from astroformer.images import Preprocessing
            >>> from astroformer.network import create_network
            >>> network = create_network("astroformer_atto", img_size=32)
            >>> classifier = Classifier(network, Preprocessing((32, 32), 3), tuple("0123456789"))
            >>> classifier.features(np.zeros((4, 32, 32, 3), np.uint8)).shape
            (4, 96)
        """
        asked = self.predict(images, batch_size=batch_size, features=True, bands=bands, progress=progress)
        found = asked.features_ND
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

        Where the source has groups, the intervals are of resampled groups.
        Images that cannot be read are left out of the metrics and stand in the predictions with their reason;
        with `strict` they are an error. `seen_N` of the predictions says which images the model was trained on, where
        that is known: on these a figure says nothing of new images.

        Args:
            images: a source with labels, by its path or as `LabelledImages`.
            batch_size: as for `predict`.
            strict: make an image that can't be read an error.
            quiet: as for `predict`.
            progress: as for `predict`.

        Raises:
            UserError: the images carry no labels, or classes that this classifier does not know.
        """
        if not isinstance(images, LabelledImages | str | Path):
            raise UserError(f"evaluate needs a labelled source (folder, .npz, catalog), not {type(images).__name__}.")
        with Reporter(quiet=quiet) as reporter:
            if not isinstance(images, LabelledImages):
                listener = reporter if reporter.live else None
                images = open_source(images, classes=self.classes, listener=listener)
                self._tell_differences(images, reporter)
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
        votes_NK = None if images.votes_NK is None else images.votes_NK[good_N]
        probabilities_NK = predictions.probabilities_NK[good_N]
        groups_N = None if images.groups is None else images.groups[good_N]
        labels_N = images.labels[good_N]
        return score(labels_N, probabilities_NK, self.classes, votes_NK=votes_NK, groups_N=groups_N), predictions

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
        self.preprocessing.check_source(opened)
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
            trust=self.trust,
            members=len(self.network.members) if isinstance(self.network, Ensemble) else 1,
        )
        extra = self.trust.tensors()
        if self.seen is not None:
            extra[_SEEN] = torch.from_numpy(self.seen.view(np.uint8).reshape(-1, 8))
        ModelFolder(folder).write(self.network, config, extra=extra or None)
        self.folder = Path(folder)
        return self.folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "cpu",
        *,
        precision: str = "float32",
        symmetry: str | None = None,
        calibration: str = "auto",
        white: float | None = None,
        fast: bool = True,
        runtime: str = "auto",
        say: Callable[[str], object] | None = None,
    ) -> Classifier:
        """Reads a model folder, or a run folder that holds one, and proves that it is whole.

        Args:
            folder: where it lies.
            device: "cpu", "cuda" or "auto" (CUDA when there is one).
            precision: see `pick_precision`; or "int8", which needs an exported graph.
            symmetry: "shift" (answers about the image alone), "shift+mirror" or "shift+d4" (logits averaged over the
                image and its mirror image, or over turned and mirrored views, each at the cost of one); None: as the
                model says. The metrics and the calibration of a model are those of the symmetry that it was saved with:
                with another one they are not known; `evaluate` measures the metrics.
            calibration: "auto", probabilities as the held-out images of the training say, or "none", the network's own,
                whose metrics are not known.
            white: the value that is white in the images that will be asked about, where their pixels are of another
                type than those that the model learned from: 65535 for uint16 that uses all bits, 4095 for 12 bits.
            fast: ask the network by its fast path, a private copy of the weights with norms folded and passes fused,
                within 1e-5 of the network in probability. With False `predict` calls `model.network` itself, batch
                after batch and in order, so that forward hooks fire; in float32 alone, and more slowly.
            runtime: what computes the answers: "torch", or "onnxruntime" or "openvino" by a graph in the model folder,
                which `astroformer export` made of it. "auto": the fastest float32 one of those that are installed and
                that are within 1e-5 in probability, as it was measured at the export; else torch. A graph answers on
                the CPU, with the symmetry of the model.
            say: is given a sentence where the folder is of an old format, whose hashes do not cover all of it, where
                the cache is not to be trusted with native kernels, and where another symmetry has no calibration.

        Raises:
            UserError: this is no model folder, or it was made by a newer version, or it is damaged, or its weights do
                not fit its config; or there is no graph for the runtime or the precision.

        Examples:
            >>> import tempfile
            >>> import astroformer
            >>> recipe = astroformer.Recipe(epochs=1, device="cpu", precision="no")
            >>> folder = tempfile.mkdtemp()
            >>> trained = astroformer.train("mock-galaxies:20x32", recipe, out=folder)
            >>> model = astroformer.load(folder)
            >>> len(model.predict("mock-galaxies:4x32").names)
            4
        """
        device = pick_device(device)
        if precision != "int8":
            precision = "float32" if precision == "auto" and not fast else pick_precision(precision, device)
        model = ModelFolder.find(folder)
        config = model.config()
        if calibration not in CALIBRATIONS:
            raise unknown_name("calibration", calibration, CALIBRATIONS)
        caveats = [model.caveat(config), native.caveat() if device == "cpu" else None]
        other = symmetry is not None and symmetry != config.answers.symmetry
        if calibration == "none" and config.trust.calibration.method != "none":
            config = replace(config, record=config.record.without_metrics())
        if symmetry is not None and other:
            answers, record = replace(config.answers, symmetry=symmetry), config.record.without_metrics()
            if config.trust.calibration.method != "none" and calibration == "auto":
                caveats.append(
                    f"with symmetry {symmetry} the probabilities are not calibrated; with {config.answers.symmetry}, "
                    "the model's own, they are"
                )
            config = replace(config, answers=answers, record=record)
        why_none = why_no_graph(other_symmetry=other, fast=fast, device=device)
        graph = pick_graph(model, config, runtime, precision, why_none=why_none, say=say)
        network = model.network(config)
        extra = model.extra(config)
        seen, trust = extra.get(_SEEN), Trust() if other else config.trust.with_tensors(extra)
        digests = None if seen is None else np.ascontiguousarray(seen.numpy()).view(np.uint64).ravel()
        classifier = cls(
            network,
            config.input,
            config.classes,
            config.record,
            "float32" if precision == "int8" else precision,  # which is the graph's; copies of it ask torch
            white,
            digests,
            fast,
            model.path,
            trust.raw() if calibration == "none" else trust,
        )
        for caveat in caveats:
            if say is not None and caveat is not None:
                say(caveat)
        classifier.to(device)
        if graph is not None:
            classifier._graph = (classifier._state(), graph)
        return classifier


load = Classifier.load
"""The model of a model folder, or of the run folder that holds it: [`Classifier.load`][astroformer.Classifier.load]."""
