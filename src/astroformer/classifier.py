"""`Classifier`: a network, its preprocessing and its class names; what training makes and everything after starts from.

There is one predict path: file → `Preprocessing.apply` → `Preprocessing.normalize` → network → softmax. The command
line, the evaluation and the validation during training all go through it. The network is asked by its fast path
(`fast_inference.py`); in float32, the default, that is within 1e-5 in probability of the plain forward pass.

Legend: N images, B batch, K classes, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from astroformer.allocator import keep_freed_memory
from astroformer.errors import UserError, unknown_name
from astroformer.fast_inference import fast_pass
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.reading import read_image
from astroformer.images.sources import open_source
from astroformer.metrics import Evaluation, evaluate
from astroformer.network import Astroformer, AstroformerConfig, Ensemble, count_parameters
from astroformer.network.config import GROUPS
from astroformer.network.framing import FRAME_IMAGES
from astroformer.system import PRECISIONS, pick_device, pick_precision, usable_cores, versions

_TASK = 16  # images that a thread decodes and classifies in one go on a CPU: enough to fill the matrix products
_WORKERS = 8  # of more threads Python's lock would make some wait; on larger CPUs each computes with several
_ANSWERED = 256  # images a forward pass where answers are targets: a GPU is given thousands at once
# Of the model folder; raised when an older package could no longer read it rightly. A folder of one network is written
# as format 1 still, that of an ensemble as 2.
FORMAT = 2
Array = NDArray[Any]
Images = str | Path | Sequence[str | Path] | Array | LabelledImages


@dataclass(frozen=True)
class Predictions:
    """One row an image. Rows of files that could not be read hold NaN and their reason in `errors`."""

    files: list[str]
    classes: tuple[str, ...]
    probabilities_NK: Array
    errors: list[str]  # "" where the image was read

    @property
    def readable_N(self) -> Array:
        return np.array([not error for error in self.errors], dtype=bool)

    @property
    def names(self) -> list[str]:
        """The most probable class of each image; "" where the image could not be read."""
        best_N = np.nan_to_num(self.probabilities_NK, nan=0.0).argmax(1)
        return ["" if error else self.classes[k] for k, error in zip(best_N, self.errors, strict=True)]

    @property
    def confidence_N(self) -> Array:
        """The probability of the most probable class of each image."""
        return self.probabilities_NK.max(1)

    def __len__(self) -> int:
        return len(self.files)


@dataclass
class Classifier:
    """A trained network that can be asked, saved and loaded.

    Attributes:
        network: maps a normalised (B, C, H, W) batch to (B, K) logits.
        preprocessing: from an image of any size to one normalised network input.
        classes: the K class names, in the order of the logits.
        info: what else the model folder says: model name, metrics, training data, versions.
        precision: of the matrix products, "float32" or "bfloat16". The second is faster where the CPU or GPU has
            instructions for it, and moves probabilities in the third digit; `pick_precision` knows "auto" too.
    """

    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    # The network as `fast_pass` has it, and the state of the weights and settings that it was made from.
    _fast: tuple[Any, Callable[[Tensor], Tensor]] | None = field(default=None, init=False, repr=False, compare=False)

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
        return self._probabilities(self._asked(), stored_BCHW)

    def _probabilities(self, network: Callable[[Tensor], Tensor], stored_BCHW: Array | Tensor) -> Array:
        x_BCHW = self.preprocessing.normalize(torch.as_tensor(np.asarray(stored_BCHW)).to(self.device))
        # The softmax in float64 keeps p(class) of confident predictions from rounding to 0 and 1.
        return torch.softmax(network(x_BCHW).double(), dim=1).cpu().numpy()

    def answers(self, x_BCHW: Tensor) -> Tensor:
        """(B, K) float32 probabilities of images that are normalised already, on the network's device, where they
        stay: targets that another network may learn."""
        with torch.inference_mode():
            network = self._asked()
            parts = [torch.softmax(network(x).float(), dim=1) for x in x_BCHW.split(_ANSWERED)]
        return torch.cat(parts)  # outside of the mode: a backward pass may keep it

    def _asked(self) -> Callable[[Tensor], Tensor]:
        """What is asked for logits: the fast path of our own networks, made anew when their weights have changed."""
        self.network.eval()
        if not isinstance(self.network, Astroformer | Ensemble):
            return self.network
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

    def iter_predict(self, images: LabelledImages, *, batch_size: int = 64) -> Iterator[Predictions]:
        """Predictions batch by batch, for any number of images: each thread decodes some and asks the network."""
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; at least 1 image a forward pass is needed.")
        network = self._asked()
        total, cores = len(images), usable_cores()
        on_cpu = self.device.type == "cpu"
        # Side by side, decoding and network fill all cores whichever of the two takes longer, and no thread waits for
        # another one's share of a matrix product.
        workers = min(cores, _WORKERS)
        size = min(batch_size, _TASK) if on_cpu else batch_size
        bounds = [
            (start, min(start + size, stop))
            for begin in range(0, total, batch_size)
            for stop in [min(begin + batch_size, total)]
            for start in range(begin, stop, size)
        ]

        @torch.inference_mode()
        def task(start: int, stop: int) -> tuple[Array, list[str]]:
            probabilities_NK = np.full((stop - start, len(self.classes)), np.nan)
            rows: dict[int, Array] = {}
            errors = [""] * (stop - start)
            for k in range(stop - start):
                try:
                    rows[k] = self.preprocessing.apply(images.read(start + k))
                except UserError as error:  # unreadable, or of a type or channels that the network can't take
                    errors[k] = str(error)
            if rows:
                probabilities_NK[list(rows)] = self._probabilities(network, np.stack(list(rows.values())))
            return probabilities_NK, errors

        threads = torch.get_num_threads()
        # A worker computes with its share of the threads that torch may use.
        pool = ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(max(1, min(threads, cores) // workers),)
        )
        flying: deque[Future[tuple[Array, list[str]]]] = deque()
        try:
            waiting = iter(bounds)
            parts: list[tuple[Array, list[str]]] = []
            for _, stop in bounds:
                while len(flying) < 2 * workers and (some := next(waiting, None)) is not None:
                    flying.append(pool.submit(task, *some))
                parts.append(flying.popleft().result())
                if stop % batch_size == 0 or stop == total:
                    begin = stop - sum(len(errors) for _, errors in parts)
                    yield Predictions(
                        images.files[begin:stop],
                        self.classes,
                        np.concatenate([probabilities_NK for probabilities_NK, _ in parts]),
                        [error for _, errors in parts for error in errors],
                    )
                    parts = []
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)  # the workers' number is what torch gives to threads that start later

    def predict(
        self, images: Images, *, batch_size: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> Predictions:
        """Probabilities and names for images.

        Args:
            images: a path (image, folder, `.npz`, catalog), a list of image paths, an array (H, W), (H, W, C) or
                (N, H, W, C), or what `open_source` gives. Labels, if there are any, are not used.
            batch_size: at most so many images a forward pass, and between two calls of `progress`.
            progress: called with (images done, images in all).
        """
        opened = _as_images(images)
        parts = []
        done = 0
        for part in self.iter_predict(opened, batch_size=batch_size):
            parts.append(part)
            done += len(part)
            if progress:
                progress(done, len(opened))
        probabilities = [part.probabilities_NK for part in parts] or [np.empty((0, len(self.classes)))]
        return Predictions(
            opened.files,
            self.classes,
            np.concatenate(probabilities),
            [error for part in parts for error in part.errors],
        )

    def evaluate(
        self,
        images: Images,
        *,
        batch_size: int = 64,
        strict: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Evaluation, Predictions]:
        """Metrics with 95 % intervals on labelled images, and the predictions they were made from.

        Images that cannot be read are left out of the metrics and stand in the predictions with their reason;
        with `strict` they are an error.

        Raises:
            UserError: the images carry no labels, or classes that this classifier does not know.
        """
        if not isinstance(images, LabelledImages):
            if not isinstance(images, str | Path):
                raise UserError(
                    f"evaluate needs a labelled source (folder, .npz, catalog), not {type(images).__name__}."
                )
            images = open_source(images, classes=self.classes)
        if images.labels is None:
            raise UserError(f"'{images.source}' has no labels; evaluate needs a class folder or label for every image.")
        predictions = self.predict(images, batch_size=batch_size, progress=progress)
        good_N = predictions.readable_N
        if strict and not good_N.all():
            first = int(np.argmin(good_N))
            n = int((~good_N).sum())
            raise UserError(
                f"{n} image{'s' if n != 1 else ''} can't be read, and strict refuses that; "
                f"the first: {predictions.errors[first]}"
            )
        return evaluate(images.labels[good_N], predictions.probabilities_NK[good_N], self.classes), predictions

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
        if not isinstance(self.network, Astroformer):
            raise UserError(f"a {type(self.network).__name__} can't be framed; a single Astroformer can.")
        config = self.network.config
        if config.equivariance not in ("none", "frame"):
            raise UserError(f"the network has equivariance '{config.equivariance}' already; frame one that has none.")
        opened = _as_images(images)
        some = np.unique(np.linspace(0, len(opened) - 1, min(len(opened), FRAME_IMAGES)).astype(int))
        stored_BCHW = np.stack([self.preprocessing.apply(opened.read(int(i))) for i in some])
        network = Astroformer(replace(config, equivariance="frame")).to(self.device)
        network.load_state_dict({**network.state_dict(), **self.network.state_dict()})
        network.frame.fit(self.preprocessing.normalize(torch.from_numpy(stored_BCHW).to(self.device)))
        info = _without_metrics(self.info)
        return Classifier(network.eval(), self.preprocessing, self.classes, info, self.precision)

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
            if not isinstance(member.network, Astroformer):
                raise UserError(f"the network of member {k} is no single Astroformer, which an ensemble is made of.")
            for what in ("classes", "preprocessing"):
                if getattr(member, what) != getattr(members[0], what):
                    raise UserError(
                        f"the {what} of member {k} differ from those of member 0; the members of an ensemble share "
                        "them: train them on the same images."
                    )
            networks.append(member.network)
        network = Ensemble(networks)
        info = {"name": members[0].info.get("name", "model"), "parameters": f"{count_parameters(network):,}"}
        return cls(network.eval(), members[0].preprocessing, members[0].classes, info, members[0].precision)

    # -- keeping -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Writes the model folder: `model.safetensors`, `config.json`, `README.md` (the model card).

        The weights of an ensemble are one file, its members' names behind `members.0.` and so on.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(self.network, Astroformer | Ensemble):
            raise UserError(f"a {type(self.network).__name__} can't be kept in a model folder; an Astroformer can.")
        weights = folder / "model.safetensors"
        unfinished = folder / "model.safetensors.part"
        save_file({k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}, unfinished)
        os.replace(unfinished, weights)
        members = {"members": len(self.network.members)} if isinstance(self.network, Ensemble) else {}
        config = {
            "format": 2 if members else 1,
            "network": self.network.config.to_dict(),
            **members,
            "preprocessing": self.preprocessing.to_dict(),
            "classes": list(self.classes),
            "weights_sha256": _sha256(weights),
            **self.info,
            "versions": versions(),
        }
        unfinished = folder / "config.json.part"
        unfinished.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, folder / "config.json")
        (folder / "README.md").write_text(model_card(config), encoding="utf-8")
        return folder

    @classmethod
    def load(
        cls, folder: str | Path, device: str = "cpu", *, precision: str = "float32", symmetry: str | None = None
    ) -> Classifier:
        """Reads a model folder, or a run folder that holds one, and proves that it is whole.

        `device` is "cpu", "cuda" or "auto" (CUDA when there is one); for `precision` see `pick_precision`.
        `symmetry` is "shift" (of the image alone), "shift+mirror" or "shift+d4" (logits averaged over the image and its
        mirror image, over turned and mirrored views, each at the cost of one); None: as the model says. The metrics of
        a model are those of the symmetry that it was saved with: with another one they are not known, and `evaluate`
        measures them.

        Raises:
            UserError: not a model folder, made by a newer version, damaged, or weights that do not fit the config.
        """
        folder, device = Path(folder), pick_device(device)
        precision = pick_precision(precision, device)
        if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
            folder = folder / "model"
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"'{folder}' {what}; a model folder, or a run folder that holds one, is needed.")
        weights = folder / "model.safetensors"
        for file in (folder / "config.json", weights):
            if not file.is_file():
                raise UserError(f"'{folder}' is no model folder: it has no {file.name}. `astroformer train` makes one.")
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            written = int(config["format"])
            if written > FORMAT:
                made_by = config.get("versions", {}).get("astroformer", "a newer version")
                raise UserError(
                    f"model folder '{folder}' has format {written} (made by astroformer {made_by}), and this version "
                    f"reads up to {FORMAT}; upgrade with `pip install -U astroformer`."
                )
            settings = config["network"] if symmetry is None else {**config["network"], "symmetry": symmetry}
            network_config = AstroformerConfig.from_dict(settings)
            members = config.get("members", 1)
            if not isinstance(members, int) or members < 1:
                raise ValueError(f"members is {members!r}")
            preprocessing = Preprocessing.from_dict(config["preprocessing"])
            classes = tuple(map(str, config["classes"]))
            expected_hash = config["weights_sha256"]
        except UserError:
            raise
        except KeyError as error:
            raise UserError(
                f"'{folder / 'config.json'}' is damaged: it lacks {error}; copy the folder again."
            ) from None
        except (TypeError, AttributeError, ValueError) as error:  # ValueError: no JSON, no UTF-8, no number
            raise UserError(f"'{folder / 'config.json'}' is damaged ({error}); copy the folder again.") from None
        try:
            state = load_file(weights)
        except (SafetensorError, OSError) as error:
            raise UserError(f"weight file '{weights}' is damaged or truncated ({error}); copy it again.") from None
        if members > 1:
            # Before so many are made: a damaged number may be any.
            held = {k.split(".")[1] for k in state if k.startswith("members.")}
            if len(held) != members or held != set(map(str, range(members))):
                raise UserError(
                    f"in '{folder}' config.json names {members} members, and the weights hold {len(held)} "
                    f"({', '.join(sorted(held)) or 'none'}). Copy the two files together."
                )
            network: Astroformer | Ensemble = Ensemble([Astroformer(network_config) for _ in range(members)])
        else:
            network = Astroformer(network_config)
        own = network.state_dict()
        wrong = [
            k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape
        ]
        if wrong or len(classes) != network.config.num_classes:
            what = f"{len(wrong)} tensors differ, e.g. '{min(wrong)}'" if wrong else f"{len(classes)} class names"
            raise UserError(f"in '{folder}' config.json does not fit its weights: {what}. Copy the two files together.")
        if _sha256(weights) != expected_hash:
            raise UserError(f"weight file '{weights}' is not the one that config.json names (its SHA-256 differs).")
        network.load_state_dict(state)
        info = {k: v for k, v in config.items() if k not in _OWN_KEYS}
        if settings.get("symmetry", "shift") != config["network"].get("symmetry", "shift"):
            info = _without_metrics(info)
        classifier = cls(network.eval(), preprocessing, classes, info, precision)
        return classifier.to(device)


_OWN_KEYS = ("format", "network", "members", "preprocessing", "classes", "weights_sha256", "versions")


def _without_metrics(info: dict[str, Any]) -> dict[str, Any]:
    """What is known of a classifier that answers in another way than the one that was measured."""
    return {name: value for name, value in info.items() if name not in ("metrics", "member_metrics")}


def load(
    folder: str | Path, device: str = "cpu", *, precision: str = "float32", symmetry: str | None = None
) -> Classifier:
    """The classifier that a model folder holds; `astroformer.load(path)`. See `Classifier.load`."""
    return Classifier.load(folder, device, precision=precision, symmetry=symmetry)


def model_card(config: dict[str, Any]) -> str:
    """The model folder's README in Markdown, with the front matter that model hubs read."""
    network, pre = config["network"], config["preprocessing"]
    metrics, members = config.get("metrics", {}), config.get("members", 1)
    rows = "\n".join(
        f"| {name} | {m['value']:.4f} | {m['low']:.4f} – {m['high']:.4f} |"
        for name, m in metrics.items()
        if isinstance(m, dict)
    )
    measured = (
        f"Measured on {metrics['n']} validation images ({config.get('validation', 'hold-out')}):\n\n"
        f"| metric | value | 95 % bootstrap interval |\n|---|---|---|\n{rows}\n"
        if rows
        else "Not evaluated.\n"
    )
    alone = config.get("member_metrics", {})
    if rows and alone:
        measured += (
            "\nSingle members on the same images (mean ± standard deviation):\n\n| metric | a member |\n|---|---|\n"
        )
        measured += "".join(f"| {name} | {m['mean']:.4f} ± {m['sd']:.4f} |\n" for name, m in alone.items())
    height, width = pre["image_size"]
    layout = "-".join(network["layout"])
    what = (
        f"An Astroformer (arXiv 2304.05350), vertical layout {layout}, {config.get('parameters', '?')} parameters,"
        if members == 1
        else f"An ensemble of {members} Astroformers (arXiv 2304.05350), vertical layout {layout}, "
        f"{config.get('parameters', '?')} parameters in all;\nits probabilities are the mean of theirs "
        "(arXiv 1612.01474),"
    )
    return f"""---
library_name: astroformer
pipeline_tag: image-classification
tags: [astroformer, image-classification, from-scratch]
---
# {config.get("name", "Astroformer")}: {len(config["classes"])} classes

{what}
trained from scratch with astroformer {config["versions"]["astroformer"]}.

- Input: {network["in_chans"]} channel(s), {height} × {width} px; the central {pre["crop"]:.0%} of the frame is used.
- Classes: {", ".join(config["classes"])}.
- Trained on: {config.get("training", "not recorded")}.
- Unchanged by: {_invariance(AstroformerConfig.from_dict(network), (height, width))}.

{measured}
## Use
```python
import astroformer

model = astroformer.load("path/of/this/folder")
predictions = model.predict(["image.jpg"])
print(predictions.names, predictions.confidence_N)
```

## Limits
The probabilities speak of images drawn like the training set: same instrument, preprocessing and mix of classes.
An image of anything else is still given one of the classes above.
"""


def _invariance(config: AstroformerConfig, size: tuple[int, int]) -> str:
    turns = {"mirror": ["left-right flips"], "d4": ["quarter turns and flips"], "none": []}
    own, averaged = config.exact_group(size), config.symmetry.removeprefix("shift").removeprefix("+") or "none"
    found = ["circular shifts by whole pixels"] * (config.equivariance != "none")
    found += turns[max(own, averaged, key=GROUPS.__getitem__)]
    return " and ".join(found) or "nothing; a shift by a pixel may change a class (`astroformer symmetry` measures it)"


def _as_images(images: Images) -> LabelledImages:
    if isinstance(images, LabelledImages):
        return images
    if isinstance(images, str | Path):
        return open_source(images, labelled=False)
    if isinstance(images, np.ndarray):
        if images.ndim not in (2, 3, 4):
            raise UserError(f"an array of shape {images.shape} is no image; (H, W), (H, W, C) or (N, H, W, C) is.")
        stack = images if images.ndim == 4 else (images[None] if images.ndim == 3 else images[None, :, :, None])
        return LabelledImages("array", [str(i) for i in range(len(stack))], None, (), stack.__getitem__)
    for file in images:
        if not isinstance(file, str | Path):
            raise UserError(f"a list of images holds paths, not {type(file).__name__}; give an array as (N, H, W, C).")
    files = [Path(file) for file in images]
    return LabelledImages("files", [str(file) for file in files], None, (), lambda i: read_image(files[i]))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
