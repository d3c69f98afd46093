"""`AstroformerClassifier`: the classifier of this package as an estimator of scikit-learn.

Legend: N images, H height, W width, C channels, F values of a row, K classes.
"""

from __future__ import annotations

import csv
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from astroformer.classifier import Classifier
from astroformer.errors import UserError, check_installed
from astroformer.images.names import class_name
from astroformer.training.recipe import Recipe, as_recipe, make_recipe
from astroformer.training.train import train

check_installed("sklearn", "sklearn", "AstroformerClassifier")

from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.utils import check_array, check_random_state, column_or_1d  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data  # noqa: E402

Array = NDArray[Any]
_KEPT = ("uint8", "uint16", "float32")  # types of pixels that are trained on as they are; others become float32


class AstroformerClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # no types
    """Trains a network from scratch by `fit`, and answers by `predict` and `predict_proba`.

    It goes wherever scikit-learn takes a classifier: `cross_val_predict`, `GridSearchCV`, `CalibratedClassifierCV`,
    pipelines. Each `fit` is a whole training, which holds a share of the images out to calibrate the probabilities.

    X is a list or a column of paths of image files; or an array (N, H, W) or (N, H, W, C) of images; or an array (N, F)
    whose rows are images of `image_shape`, and without that of one row of pixels.

    Args:
        recipe: a `Recipe`, the name of one ("photo") or the path of a recipe file; None: the defaults.
        epochs: setting of the recipe to change, so that a search can try it; None leaves the recipe's.
        minutes: likewise.
        image_size: likewise.
        learning_rate: likewise.
        augment: likewise; the name of a preset, such as "photo" or "none".
        image_shape: (H, W) or (H, W, C) of an image that is a row of X.
        random_state: of all that is random; None: the seed of the recipe, so that two trainings are the same.
        verbose: show the progress.

    Attributes:
        classes_: (K,) labels, sorted.
        model_: the trained `Classifier`.
        n_features_in_: F, where X was of rows.

    Raises:
        UserError: (a ValueError) X or y can't be taken, an image can't be read, or a setting is impossible.

    Examples:
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> estimator = AstroformerClassifier(epochs=1, image_size=32, augment="none", image_shape=(8, 8))
        >>> estimator.fit(X[:40], y[:40] > 4).predict_proba(X[40:42]).shape
        (2, 2)
    """

    def __init__(
        self,
        recipe: Recipe | str | Path | None = None,
        *,
        epochs: int | None = None,
        minutes: float | None = None,
        image_size: int | tuple[int, int] | None = None,
        learning_rate: float | None = None,
        augment: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.epochs = epochs
        self.minutes = minutes
        self.image_size = image_size
        self.learning_rate = learning_rate
        self.augment = augment
        self.image_shape = image_shape
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Trains on images X with labels y (N,), of any type that scikit-learn takes for classes."""
        for known in ("n_features_in_", "feature_names_in_"):  # of an earlier fit, on rows
            self.__dict__.pop(known, None)
        images = self._images(X, first=True)
        y = column_or_1d(y, warn=True)
        check_consistent_length(images, y)
        check_classification_targets(y)
        self.classes_, labels_N = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(f"y holds one class alone, {self.classes_[0]!r}; a classifier needs images of 2 at least.")
        names = [class_name(label) for label in self.classes_]
        if len(set(names)) < len(names):  # 1 and "1"
            names = [str(k) for k in range(len(names))]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            source = _written(folder, images, labels_N, names)
            try:
                trained = train(
                    source,
                    self._recipe(images),
                    out=folder / "run",
                    cache=folder / "cache",
                    strict=True,
                    quiet=not self.verbose,
                )
            except UserError as error:  # the file and the option are ours, and nothing that the caller knows
                said = str(error).replace(f"'{source}'", "X").replace(", or run without --strict", "")
                raise UserError(said) from None
            self.model_ = trained.classifier
        self.model_.folder = None  # which is gone
        self._columns = [self.model_.classes.index(name) for name in names]
        return self

    def predict_proba(self, X: Any) -> Array:
        """(N, K) probabilities, in the order of `classes_`."""
        check_is_fitted(self, "model_")
        images = self._images(X, first=False)
        predictions = self.model_.predict(images, quiet=not self.verbose)
        if (reason := next(filter(None, predictions.errors), None)) is not None:
            raise UserError(reason)
        return predictions.probabilities_NK[:, self._columns]

    def predict(self, X: Any) -> Array:
        """(N,) the most probable label of each image."""
        best_N = self.predict_proba(X).argmax(1)
        return self.classes_[best_N]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The model as the files of its folder: no code is kept, and `Classifier.load` proves them whole."""
        state = dict(super().__getstate__())
        if "model_" in state:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(state["model_"].save(scratch))
                state["_asked"] = {"precision": self.model_.precision, "white": self.model_.white}
                state["model_"] = {file.name: file.read_bytes() for file in folder.iterdir()}
            self.model_.folder = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "model_" in state:
            with tempfile.TemporaryDirectory() as scratch:
                for name, content in state["model_"].items():
                    (Path(scratch) / Path(name).name).write_bytes(content)
                asked = state["_asked"]
                state = {**state, "model_": Classifier.load(scratch, **asked)}
            del state["_asked"]
            state["model_"].folder = None
        super().__setstate__(state)

    def _recipe(self, images: Array | list[Path]) -> Recipe:
        settings = as_recipe(self.recipe).model_dump()
        for name in ("epochs", "minutes", "image_size", "learning_rate", "augment"):
            if (value := getattr(self, name)) is not None:
                settings[name] = value
        if self.minutes is not None and self.epochs is None:
            settings["epochs"] = None
        if isinstance(images, np.ndarray):
            if images.shape[1] == 1:  # a row of values, of which a square would hold one
                settings |= {"fit": "stretch", "crop": 1.0}
            if images.dtype == np.float32 and settings["storage"] is None:  # whatever their range, none is refused
                settings["storage"] = "float32"
        if self.random_state is not None:
            settings["seed"] = int(check_random_state(self.random_state).randint(2**31 - 1))
        return make_recipe(settings)

    def _images(self, X: Any, *, first: bool) -> Array | list[Path]:
        """Paths, or an array (N, H, W, C) of images.

        Args:
            first: whether these are the images to learn from, by which others are measured.
        """
        if (paths := _paths(X)) is not None:
            return paths
        if np.asarray(X).ndim < 3:
            rows_NF = validate_data(self, X, dtype=None if _dtype(X) in _KEPT else np.float32, reset=first)
            shape = (1, rows_NF.shape[1]) if self.image_shape is None else self.image_shape
            sides = isinstance(shape, Sequence) and all(isinstance(side, Integral) for side in shape)
            if not sides or len(shape) not in (2, 3) or math.prod(shape) != rows_NF.shape[1]:
                raise UserError(
                    f"image_shape is {self.image_shape!r}, and a row of X has {rows_NF.shape[1]} values; give (H, W) "
                    "or (H, W, C) of as many."
                )
            return rows_NF.reshape(-1, *shape, *(1,) * (3 - len(shape)))
        images = check_array(X, allow_nd=True, dtype=None if _dtype(X) in _KEPT else np.float32)
        return images[..., None] if images.ndim == 3 else images


def _dtype(X: Any) -> str:
    return str(X.dtype if hasattr(X, "dtype") else np.asarray(X).dtype)


def _paths(X: Any) -> list[Path] | None:
    """The paths that a list, an array or a column of a table names; None where X holds none.

    Raises:
        UserError: X is one path, or has other values among its paths.
    """
    if isinstance(X, str | Path):
        raise UserError(f"X is the path '{X}' alone; give a list of paths of images, one for each label.")
    if not isinstance(X, list | tuple):
        X = np.asarray(X)
        if X.dtype.kind not in "UOT" or X.ndim not in (1, 2) or (X.ndim == 2 and X.shape[1] != 1):
            return None
        X = X.ravel().tolist()
    if not X or not any(isinstance(value, str | Path) for value in X):
        return None
    if (other := next((value for value in X if not isinstance(value, str | Path)), None)) is not None:
        raise UserError(f"X has {other!r} among its paths; each image needs a path.")
    return [Path(value) for value in X]


def _written(folder: Path, images: Array | list[Path], labels_N: Array, names: list[str]) -> Path:
    """The images with their classes as a source that `train` opens."""
    if isinstance(images, np.ndarray):
        np.savez(folder / "images.npz", images=images, labels=labels_N, classes=np.array(names))
        return folder / "images.npz@layout=NHWC"
    if len(set(images)) < len(images):
        twice = next(path for path, n in Counter(images).items() if n > 1)
        raise UserError(f"X names '{twice}' more than once; give each image once, since copies teach nothing new.")
    source = folder / "images.csv"
    with source.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label"])
        writer.writerows((str(path.absolute()), names[k]) for path, k in zip(images, labels_N, strict=True))
    return source
