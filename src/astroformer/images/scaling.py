"""Scaling: how the values of an image are stretched, each band for itself, before they are kept.

Images of the sky reach over many powers of ten, and what a network has to see lies near the noise. The limits of a
scaling are constants, measured once on the training images: so a model sees the same flux as the same value in every
image, and prediction scales as training did.

Shape letters: C bands, H and W pixels, P sampled pixels, M measured images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, check_installed, unknown_name

ScalingKind = Literal["linear", "log", "asinh", "asinh-sky", "zscale", "percentile"]
SCALINGS: tuple[ScalingKind, ...] = get_args(ScalingKind)
LOG = 1000.0  # of log: log(1 + 1000 t) / log(1001), as SAOImage DS9 has it
_PERCENTS = (0.25, 99.75)  # of percentile
_BRIGHT = 0.99  # asinh: share of the images whose largest value is at or below 1
_SAMPLED = 64  # rows and columns of an image whose pixels are pooled for quantiles
_VARYING = 10  # times the noise by which the skies of images may differ before that is said
_LEAST_NOISE = 1e-4  # asinh: smallest softening as a share of the range, for bands that have no noise
CLIPPED = 5  # times that pixels far from the sky are left out
SIGMA = 1.4826  # standard deviation over the median of the absolute values, of normal numbers


@dataclass(frozen=True)
class Scaling:
    """x → f((x − low) / (high − low)), with constants for each band; about 0 to 1.

    f is t itself for linear, zscale and percentile; log(1 + 1000 t) / log(1001) for log; and for asinh it is
    asinh(t / a) / asinh(1 / a), with a = softening / (high − low). So asinh is linear within the noise and logarithmic
    far above it (Lupton, Gunn and Szalay, astro-ph/9903081). Below `low` log goes on as the same curve turned about 0.
    Nothing is clipped. asinh-sky is asinh of an image whose own sky is subtracted before, by `levelled`.

    Attributes:
        kind: how it stretches.
        low: (C,) the value of each band that becomes 0, in the images' units.
        high: (C,) the value that becomes 1.
        softening: (C,) of asinh alone, the noise of a pixel in the images' units.

    Examples:
        >>> import numpy as np
        >>> scaling = Scaling("asinh", low=(10.0,), high=(1010.0,), softening=(2.0,))
        >>> scaling.apply(np.array([[[10.0, 12.0, 1010.0]]], np.float32)).round(3)
        array([[[0.   , 0.128, 1.   ]]], dtype=float32)
    """

    kind: ScalingKind
    low: tuple[float, ...]
    high: tuple[float, ...]
    softening: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in SCALINGS:
            raise unknown_name("scaling", self.kind, SCALINGS)
        needed = ("low", "high", "softening") if self.is_asinh else ("low", "high")
        for name in ("low", "high", "softening"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != (len(self.low) if name in needed else 0) or not all(map(math.isfinite, values)):
                raise UserError(f"scaling: {name} is {values}; a finite number for each band is needed.")
            object.__setattr__(self, name, values)
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise UserError(f"scaling: low is {self.low} and high {self.high}; each low must be below its high.")
        if not all(value > 0 for value in self.softening):
            raise UserError(f"scaling: softening is {self.softening}; numbers above 0 are needed.")

    def apply(self, x_CHW: NDArray[Any]) -> NDArray[np.float32]:
        """(C, H, W) floats in the images' units → float32, about 0 to 1, not clipped."""
        low_C11, span_C11, a_C11 = self.constants()
        with np.errstate(over="ignore"):  # an infinite value is refused when it is stored
            t_CHW: NDArray[Any] = (x_CHW.astype(np.float32) - low_C11) / span_C11
            if self.is_asinh:
                t_CHW = np.arcsinh(t_CHW / a_C11) / np.arcsinh(1 / a_C11)
            elif self.kind == "log":
                t_CHW = np.copysign(np.log1p(LOG * np.abs(t_CHW)), t_CHW) / np.float32(math.log1p(LOG))
        return np.asarray(t_CHW, np.float32)

    def inverse(self, y_CHW: NDArray[Any]) -> NDArray[np.float32]:
        """What `apply` made `y_CHW` of, (C, H, W) float32 in the images' units."""
        low_C11, span_C11, a_C11 = self.constants()
        t_CHW: NDArray[Any] = y_CHW.astype(np.float32)
        if self.is_asinh:
            t_CHW = a_C11 * np.sinh(t_CHW * np.arcsinh(1 / a_C11))
        elif self.kind == "log":
            t_CHW = np.copysign(np.expm1(np.abs(t_CHW) * np.float32(math.log1p(LOG))), t_CHW) / np.float32(LOG)
        return np.asarray(low_C11 + t_CHW * span_C11, np.float32)

    @property
    def is_asinh(self) -> bool:
        return self.kind in ("asinh", "asinh-sky")

    def constants(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """(C, 1, 1) each: low, the span to high, and asinh's a."""
        low_C, high_C = np.array(self.low), np.array(self.high)
        a_C = np.array(self.softening or (1.0,) * len(low_C)) / (high_C - low_C)
        low_C11, span_C11, a_C11 = (x.astype(np.float32)[:, None, None] for x in (low_C, high_C - low_C, a_C))
        return low_C11, span_C11, a_C11

    def described(self, bands: Iterable[str]) -> str:
        """The constants in words, band by band.

        Args:
            bands: their names.
        """
        words = []
        for c, band in enumerate(bands):
            soft = f", softened by {self.softening[c]:.3g}" if self.softening else ""
            words.append(f"{band} from {self.low[c]:.4g} to {self.high[c]:.4g}{soft}")
        return f"scaling {self.kind}: " + "; ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps them; `from_dict` is the way back."""
        words = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return {k: v for k, v in words.items() if v != []}

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> Scaling:
        """Rebuild from `to_dict`. Raises `UserError` for an unknown word, `TypeError` for a wrong value."""
        known = [f.name for f in dataclasses.fields(cls)]
        for word in words:
            if word not in known:
                raise unknown_name("word of the scaling", word, known)
        return cls(words["kind"], *(tuple(words.get(name, ())) for name in known[1:]))


def levelled(kind: str, x_CHW: NDArray[Any]) -> NDArray[Any]:
    """(C, H, W) an image as a scaling of this kind takes it: without its own sky for asinh-sky, else as it is."""
    if kind != "asinh-sky":
        return x_CHW
    sky_C = sky_of(x_CHW, noise_of(x_CHW))
    return np.asarray(x_CHW - sky_C[:, None, None].astype(x_CHW.dtype))


def measured_scaling(
    kind: ScalingKind, images: Iterable[NDArray[Any]], say: Callable[[str], object] | None = None
) -> Scaling:
    """The scaling of this kind for images, band by band.

    - linear and log: from the smallest value of all images to the largest one;
    - percentile: from the 0.25th to the 99.75th percentile of all pixels;
    - zscale: between the limits that IRAF's algorithm finds among all pixels (`astropy.visualization.ZScaleInterval`);
    - asinh and asinh-sky: from the sky to the largest value of all images but the brightest hundredth of them, softened
      by the noise; sky and noise are the medians over the images of `sky_of` and `noise_of`.

    Of a large image a grid of pixels counts for percentile and zscale. A band of one value keeps it, at 0.

    Args:
        kind: of the scaling.
        images: (C, H, W) each, in linear units, without NaN, `levelled`; at least one. They are taken one by one.
        say: is given a sentence where the skies of the images differ so much that one scale for all hides what is in
            them.

    Raises:
        UserError: zscale is asked for, and astropy is not installed.

    Examples:
        >>> import numpy as np
        >>> sky = np.random.default_rng(0).normal(50.0, 3.0, (20, 1, 64, 64))
        >>> scaling = measured_scaling("asinh", sky)
        >>> round(scaling.low[0]), round(scaling.softening[0])
        (50, 3)
    """
    ends, middles, noises, pixels = [], [], [], []
    for x_CHW in images:
        ends.append((x_CHW.min((1, 2)), x_CHW.max((1, 2))))
        if kind in ("asinh", "asinh-sky"):
            noises.append(noise_of(x_CHW))
            middles.append(sky_of(x_CHW, noises[-1]))
        elif kind in ("zscale", "percentile"):
            rows, columns = (max(1, side // _SAMPLED) for side in x_CHW.shape[1:])
            pixels.append(x_CHW[:, ::rows, ::columns].reshape(len(x_CHW), -1))
    smallest_MC, largest_MC = (np.array(end, np.float64) for end in zip(*ends, strict=True))
    low_C, high_C = smallest_MC.min(0), largest_MC.max(0)
    if kind in ("asinh", "asinh-sky"):
        low_C, high_C = np.median(middles, axis=0), np.quantile(largest_MC, _BRIGHT, axis=0)
    elif kind == "percentile":
        low_C, high_C = np.percentile(np.concatenate(pixels, axis=1), _PERCENTS, axis=1)
    elif kind == "zscale":
        low_C, high_C = _zscale(np.concatenate(pixels, axis=1))
    # Of a band of one value nothing is to be stretched, and float32 must tell the ends from each other.
    least_C = 1e-6 * np.maximum(np.abs(low_C), np.abs(high_C))
    high_C = np.where(high_C - low_C > least_C, high_C, low_C + np.where(low_C == 0, 1.0, np.abs(low_C)))
    softening: tuple[float, ...] = ()
    if kind in ("asinh", "asinh-sky"):
        softening = tuple(np.maximum(np.median(noises, axis=0), _LEAST_NOISE * (high_C - low_C)).tolist())
        if say is not None and (sentence := _why_levelled(np.array(middles), np.array(softening))) is not None:
            say(sentence)
    return Scaling(kind, tuple(low_C.tolist()), tuple(high_C.tolist()), softening)


def _why_levelled(sky_MC: NDArray[np.float64], noise_C: NDArray[np.float64]) -> str | None:
    """A sentence where the skies of images differ by many times the noise; None where they do not."""
    low_C, high_C = np.quantile(sky_MC, [0.16, 0.84], axis=0)
    c = int(np.argmax((high_C - low_C) / 2 / noise_C))
    half = (high_C[c] - low_C[c]) / 2
    if half <= _VARYING * noise_C[c]:
        return None
    return (
        f"the darker parts of the images differ from image to image, in most by ± {half:.3g} around "
        f"{np.median(sky_MC[:, c]):.4g}, which is {half / noise_C[c]:,.0f} times the noise of a pixel, so one scale "
        "for all hides what is faint: if that is the sky, subtract that of each image with --scaling asinh-sky"
    )


def noise_of(x_CHW: NDArray[Any]) -> NDArray[np.float64]:
    """(C,) the standard deviation of the noise of a pixel of the sky, by differences within rows and columns.

    It is the median of |2 x(i) − x(i−2) − x(i+2)|, scaled as for normal noise (DER_SNR, Stoehr et al. 2008), in which
    neither a level nor a slope remains. Pixels two apart share little, even where they were resampled. Of all places
    the darker half counts, by x(i−1) + x(i+1), in which the difference has no part: there are few sources in it.
    """
    noise_C = np.zeros(len(x_CHW))
    for c, x_HW in enumerate(x_CHW.astype(np.float64)):
        found = []
        for x in (x_HW, x_HW.T):
            if x.shape[1] >= 5:
                level = x[:, 1:-3] + x[:, 3:-1]
                found.append(np.abs(2 * x[:, 2:-2] - x[:, :-4] - x[:, 4:])[level <= np.median(level)])
        if found:
            noise_C[c] = SIGMA / math.sqrt(6) * np.median(np.concatenate(found))
    return noise_C


def sky_of(x_CHW: NDArray[Any], noise_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C,) the median of the pixels that lie within three times the noise of it: the level of the sky.

    It begins at the median of all or, between a bright half and a dark one where no pixel lies, at the dark one.
    """
    sky_C = np.zeros(len(x_CHW))
    for c, (x_HW, noise) in enumerate(zip(x_CHW.astype(np.float64), noise_C, strict=True)):
        sky_C[c] = np.median(x_HW)
        for _ in range(CLIPPED if noise else 0):
            near = x_HW[np.abs(x_HW - sky_C[c]) <= 3 * noise]
            sky_C[c] = np.median(near) if len(near) else np.quantile(x_HW, 0.5, method="lower")
    return sky_C


def check_measurable(kind: str) -> None:
    """Raises `UserError` where what measures a scaling of this kind is not installed."""
    if kind == "zscale":
        check_installed("astropy", "astro", "scaling zscale")


def _zscale(pixels_CP: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    check_measurable("zscale")
    from astropy.visualization import ZScaleInterval

    interval = ZScaleInterval(n_samples=pixels_CP.shape[1])
    limits_C2 = np.array([interval.get_limits(pixels_P) for pixels_P in pixels_CP], np.float64)
    return limits_C2[:, 0], limits_C2[:, 1]
