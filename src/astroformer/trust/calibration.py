"""Calibration: from a network's logits to probabilities that are as high as the answers are right.

A network learns to name classes, and how sure it sounds is a by-product: label smoothing makes it timid, many epochs
make it bold. Images that it was not trained on tell how sure it may be. There are four methods, and
`fit_calibration` chooses by cross-validation; one of them is to leave the answers as they are.

- `none`: p = softmax(z).
- `temperature`: p = softmax(z / T), which never changes the most probable class (Guo et al. 2017, arXiv 1706.04599).
- `vector`: p = softmax(w ∘ log softmax(z) + b), a weight and a shift for each class (the same paper, section 4.2).
- `isotonic`: each class's probability by a rising step function with straight lines between the steps, then divided
  by their sum (Zadrozny & Elkan 2002, doi 10.1145/775047.775151).

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from astroformer.metrics import votes_cross_entropy_N

Array = NDArray[Any]
FOLDS = 5
LEAST_IMAGES = 20  # of fewer than four a fold, a cross-validation says nothing
_LEAST_ISOTONIC = 1000  # images: of fewer, isotonic regression overfits (Niculescu-Mizil & Caruana 2005, figure 8)
_LEAST_ISOTONIC_OF_A_CLASS = 50
_LEAST_VECTOR_OF_A_CLASS = 10  # images for two numbers
_VECTOR_PENALTY = 10.0
_COLDEST, _HOTTEST = 0.01, 100.0  # temperatures
SMALLEST = 1e-12  # probability


@dataclass(frozen=True)
class Calibration:
    """A map from logits to probabilities.

    Attributes:
        method: "none", "temperature", "vector" or "isotonic".
        weights: of the log-probabilities: one number, 1 / T, of a temperature; K of a vector.
        shifts: K numbers of a vector, in nats.
        knots: of isotonic regression, for each class its probabilities before and after, both rising.

    Examples:
        >>> import numpy as np
        >>> twice_as_sure = Calibration("temperature", weights=(2.0,))
        >>> twice_as_sure.apply(np.log([[0.8, 0.2]])).round(3).tolist()
        [[0.941, 0.059]]
    """

    method: str = "none"
    weights: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    knots: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()

    @property
    def temperature(self) -> float | None:
        """T, where the method is a temperature: above 1 it makes a model less sure."""
        return 1 / self.weights[0] if self.method == "temperature" else None

    def __str__(self) -> str:
        """What it does, as the end of "the probabilities are …".

        Examples:
            >>> print(Calibration("temperature", weights=(2.0,)))
            surer than the network's own (temperature 0.5)
        """
        if (temperature := self.temperature) is not None:
            how = "surer" if temperature < 1 else "less sure"
            return f"{how} than the network's own (temperature {temperature:.3g})"
        return {
            "none": "the network's own",
            "vector": "the network's own with a weight and a shift for each class (vector scaling)",
            "isotonic": "a rising function of the network's own for each class (isotonic regression)",
        }[self.method]

    def apply(self, logits_NK: Array) -> Array:
        """(N, K) float64 probabilities of logits (N, K), which may have any sum."""
        logs_NK = log_softmax(logits_NK)
        if self.method == "none":
            return np.exp(logs_NK)
        if self.method == "isotonic":
            raw_NK = np.exp(logs_NK)
            columns = [np.interp(p_N, *knots) for p_N, knots in zip(raw_NK.T, self.knots, strict=True)]
            return _normalized(np.stack(columns, 1), raw_NK)
        shifts_K = np.array(self.shifts) if self.shifts else 0.0
        return np.exp(log_softmax(np.array(self.weights) * logs_NK + shifts_K))

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it; `from_dict` reads it back."""
        knots = [[list(before), list(after)] for before, after in self.knots]
        words = {"weights": list(self.weights), "shifts": list(self.shifts), "knots": knots}
        return {"method": self.method, **{word: value for word, value in words.items() if value}}

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the words are no calibration.
        """
        if unknown := words.keys() - {"method", "weights", "shifts", "knots"}:
            raise ValueError(f"a calibration has no {', '.join(sorted(unknown))}")
        if words["method"] not in METHODS:
            raise ValueError(f"method '{words['method']}'")
        knots = tuple((tuple(map(float, before)), tuple(map(float, after))) for before, after in words.get("knots", ()))
        weights, shifts = (tuple(map(float, words.get(word, ()))) for word in ("weights", "shifts"))
        return cls(str(words["method"]), weights, shifts, knots)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit_calibration` found.

    Attributes:
        calibration: the chosen one, fitted on all images.
        folds: the same method, fitted without the images of each fold.
        losses: by method that was tried, the mean cross-entropy in nats of images that it was not fitted on.
    """

    calibration: Calibration = field(default_factory=Calibration)
    folds: tuple[Calibration, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)

    def cross_fitted(self, logits_NK: Array, fold_N: Array) -> Array:
        """(N, K) probabilities of the images it was fitted on, each by the calibration that has not seen it.

        An image whose `fold_N` is −1 belongs to no fold, and is answered by the calibration of all.
        """
        probabilities_NK = self.calibration.apply(logits_NK)
        for k, calibration in enumerate(self.folds):
            if (of_fold_N := fold_N == k).any():
                probabilities_NK[of_fold_N] = calibration.apply(logits_NK[of_fold_N])
        return probabilities_NK


def fit_calibration(logits_NK: Array, targets_NK: Array, fold_N: Array, method: str | None = None) -> Fitted:
    """Chooses and fits a calibration.

    Each method is fitted on four of five folds and measured on the fifth. A temperature is taken where its mean
    cross-entropy is lower than that of the raw answers; a method with more parameters only where it is lower than the
    temperature's by more than a standard error of the difference, since one with many parameters wins by chance more
    often.

    Args:
        logits_NK: of images that the network was not trained on.
        targets_NK: what is right: 1 for the class of an image, or shares of votes; rows sum to 1.
        fold_N: (N,) the fold of each image, see `folds_of`.
        method: one of `METHODS` in place of the choice.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(size=(500, 3))
        >>> labels = np.array([rng.choice(3, p=p) for p in Calibration().apply(2 * logits)])  # timid by half
        >>> fitted = fit_calibration(logits, np.eye(3)[labels], np.arange(500) % 5)
        >>> fitted.calibration.method, 0.4 < fitted.calibration.temperature < 0.6
        ('temperature', True)
    """
    if len(logits_NK) < LEAST_IMAGES and method is None:
        return Fitted()
    candidates = _possible(targets_NK) if method is None else (method,)
    folds = {name: _fit_folds(METHODS[name], logits_NK, targets_NK, fold_N) for name in candidates}
    crossed = {name: Fitted(folds=fits).cross_fitted(logits_NK, fold_N) for name, fits in folds.items()}
    losses_N = {name: votes_cross_entropy_N(targets_NK, p_NK) for name, p_NK in crossed.items()}
    best = candidates[0]
    for name in candidates[1:]:
        gain_N = losses_N[best] - losses_N[name]
        margin = 0.0 if best == "none" and name == "temperature" else gain_N.std(ddof=1) / np.sqrt(len(gain_N))
        if gain_N.mean() > margin:
            best = name
    means = {name: float(loss_N.mean()) for name, loss_N in losses_N.items()}
    return Fitted(METHODS[best](logits_NK, targets_NK), folds[best], means)


def folds_of(labels_N: Array, identities_N: Array) -> NDArray[np.int64]:
    """(N,) the fold of each image, from 0 to `FOLDS` − 1: its class is spread evenly, and equal images stay together.

    Args:
        labels_N: classes.
        identities_N: a number that names an image, equal for copies. The order of images changes nothing.

    Examples:
        >>> import numpy as np
        >>> folds_of(np.zeros(6, int), np.array([50, 10, 10, 30, 20, 40])).tolist()
        [4, 0, 0, 2, 1, 3]
    """
    _, first, image_N = np.unique(identities_N, return_index=True, return_inverse=True)
    fold = np.empty(len(first), np.int64)
    begun = 0
    for label in np.unique(labels_N[first]):
        of_class = np.flatnonzero(labels_N[first] == label)
        fold[of_class] = (begun + np.arange(len(of_class))) % FOLDS
        begun += len(of_class)
    return fold[image_N]


def log_softmax(logits_NK: Array) -> Array:
    """(N, K) float64 log-probabilities."""
    shifted_NK = np.asarray(logits_NK, np.float64) - np.max(logits_NK, 1, keepdims=True)
    return np.asarray(shifted_NK - np.log(np.exp(shifted_NK).sum(1, keepdims=True)))


def _possible(targets_NK: Array) -> tuple[str, ...]:
    """The methods that so many images can tell apart, those of few parameters first."""
    present_K = targets_NK.sum(0) > 0
    if present_K.sum() < 2:
        return ("none",)  # nothing says how sure it may be of the others
    enough = len(targets_NK) >= _LEAST_ISOTONIC and targets_NK.sum(0).min() >= _LEAST_ISOTONIC_OF_A_CLASS
    several = ("vector",) if targets_NK.sum(0).min() >= _LEAST_VECTOR_OF_A_CLASS else ()
    return ("none", "temperature", *several, *(("isotonic",) if enough else ()))


def _fit_folds(
    fit: Callable[[Array, Array], Calibration], logits_NK: Array, targets_NK: Array, fold_N: Array
) -> tuple[Calibration, ...]:
    return tuple(fit(logits_NK[fold_N != k], targets_NK[fold_N != k]) for k in range(FOLDS))


def _softened(targets_NK: Array) -> Array:
    """Targets with the doubt of one image more, of an unknown class.

    Without it, images that are all called right would make a model certain, and its first mistake would cost any
    price. Platt (1999) does the same for two classes.
    """
    n, k = targets_NK.shape
    return (n * targets_NK + 1 / k) / (n + 1)


def _none(logits_NK: Array, targets_NK: Array) -> Calibration:
    return Calibration()


def _temperature(logits_NK: Array, targets_NK: Array) -> Calibration:
    """The weight 1 / T of least cross-entropy: where its derivative, which rises with the weight, is 0."""
    logs_NK, targets_NK = log_softmax(logits_NK), _softened(targets_NK)

    def slope(weight: float) -> float:
        return float(((np.exp(log_softmax(weight * logs_NK)) - targets_NK) * logs_NK).sum())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return Calibration("temperature", weights=_rounded([np.sqrt(low * high)]))


@torch.inference_mode(False)  # it may be asked for while a network is asked
@torch.enable_grad()
def _vector(logits_NK: Array, targets_NK: Array) -> Calibration:
    """Weights and shifts of least cross-entropy, held near the temperature's as by ten images a class.

    The penalty is 10 · ½ Σ_k (w_k − 1/T)² + b_k² against the sum over the images. Of 1, 3, 10, 30 and 100 it gave the
    lowest cross-validated loss on 100 and nearly the lowest on 500 calibration images (docs/lab/experiments.md).
    """
    n, k = targets_NK.shape
    weight = _temperature(logits_NK, targets_NK).weights[0]
    logs = torch.from_numpy(log_softmax(logits_NK))
    targets = torch.from_numpy(_softened(targets_NK))
    parameters = torch.stack([torch.full((k,), weight, dtype=torch.float64), torch.zeros(k, dtype=torch.float64)])
    start = parameters.clone()
    parameters.requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = parameters[0] * logs + parameters[1]
        entropy = -(targets * torch.log_softmax(logits, 1)).sum()
        value = (entropy + 0.5 * _VECTOR_PENALTY * ((parameters - start) ** 2).sum()) / n
        value.backward()
        return value

    optimizer.step(loss)
    weights, shifts = parameters.detach().tolist()
    return Calibration("vector", _rounded(weights), _rounded(shifts))


def _rounded(numbers: Iterable[float]) -> tuple[float, ...]:
    """Six digits, which are far more than the images tell, and the same whatever the number of threads."""
    return tuple(float(f"{number:.6g}") for number in numbers)


def _isotonic(logits_NK: Array, targets_NK: Array) -> Calibration:
    """A rising function for each class, by pooling neighbours that fall (Ayer et al. 1955)."""
    raw_NK, targets_NK = np.exp(log_softmax(logits_NK)), _softened(targets_NK)
    columns = zip(raw_NK.T, targets_NK.T, strict=True)
    return Calibration("isotonic", knots=tuple(isotonic(p_N, t_N) for p_N, t_N in columns))


METHODS: dict[str, Callable[[Array, Array], Calibration]] = {
    "none": _none,
    "temperature": _temperature,
    "vector": _vector,
    "isotonic": _isotonic,
}


def isotonic(x_N: Array, y_N: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The rising function of least squared distance from y, as the ends of its steps: their x and their heights.

    Examples:
        >>> import numpy as np
        >>> isotonic(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0]))
        ((0.1, 0.2, 0.3, 0.4), (0.0, 0.5, 0.5, 1.0))
    """
    x_U, unique_N, counts_U = np.unique(x_N, return_inverse=True, return_counts=True)
    means_U = np.bincount(unique_N, y_N) / counts_U
    blocks: list[tuple[float, int, int]] = []  # mean, images, points of x
    for mean, count in zip(means_U.tolist(), counts_U.tolist(), strict=True):
        block = (mean, count, 1)
        while blocks and blocks[-1][0] >= block[0]:
            before = blocks.pop()
            images = before[1] + block[1]
            block = ((before[0] * before[1] + block[0] * block[1]) / images, images, before[2] + block[2])
        blocks.append(block)
    xs, ys, begun = list[float](), list[float](), 0
    for mean, _, points in blocks:
        ends = dict.fromkeys((begun, begun + points - 1))
        xs += [float(x_U[i]) for i in ends]
        ys += [mean] * len(ends)
        begun += points
    return tuple(xs), tuple(ys)


def _normalized(columns_NK: Array, raw_NK: Array) -> Array:
    """Rows divided by their sum; the raw one where nothing is left."""
    sums_N = columns_NK.sum(1, keepdims=True)
    return np.where(sums_N > 0, columns_NK / np.maximum(sums_N, SMALLEST), raw_NK)
