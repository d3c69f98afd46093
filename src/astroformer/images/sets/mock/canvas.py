"""What mock galaxies are drawn on and with: random numbers, coordinates and the light of B images.

Shapes: B images of one class drawn together, R of them that have some feature, S pixels a side of the drawing grid, K
small sources, C the three bands in display order (z, r, g shown as red, green, blue). Lengths are in half-widths of the
frame: x and y run over [-1, 1]. Light is surface brightness; the bright part of a disc has about 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Real = NDArray[np.floating]

# Numbers each image draws before its noise; `RandomNumbers` fails loudly when a class needs more.
_UNIFORMS, _NORMALS = 320, 64

# Colours of a young and an old stellar population in z, r, g (mean 1); those between are interpolated in log.
_LOG_YOUNG = np.log(np.array([0.78, 0.96, 1.25], np.float32))
_LOG_OLD = np.log(np.array([1.36, 1.00, 0.64], np.float32))
# How much more a dust lane dims the blue band than the red one.
_DUST = np.array([0.6, 1.0, 1.5], np.float32)


class RandomNumbers:
    """The random parameters of B images: column k is the k-th number of each image's own generator."""

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._uniforms = np.stack([g.random(_UNIFORMS, dtype=np.float32) for g in generators])
        self._normals = np.stack([g.standard_normal(_NORMALS, dtype=np.float32) for g in generators])
        self._next_uniform = 0
        self._next_normal = 0

    def uniforms(self, low: float | F32, high: float | F32, k: int) -> F32:
        """(B, k) numbers, uniform in [low, high)."""
        start, self._next_uniform = self._next_uniform, self._next_uniform + k
        if self._next_uniform > _UNIFORMS:
            raise RuntimeError(f"a mock galaxy needs more than {_UNIFORMS} uniform numbers: raise _UNIFORMS")
        return low + (high - low) * self._uniforms[:, start : self._next_uniform]

    def normals(self, sigma: float, k: int) -> F32:
        """(B, k) Gaussian numbers."""
        start, self._next_normal = self._next_normal, self._next_normal + k
        if self._next_normal > _NORMALS:
            raise RuntimeError(f"a mock galaxy needs more than {_NORMALS} Gaussian numbers: raise _NORMALS")
        return sigma * self._normals[:, start : self._next_normal]

    def uniform(self, low: float, high: float) -> F32:
        """(B,) numbers, uniform in [low, high)."""
        return self.uniforms(low, high, 1)[:, 0]

    def log_uniform(self, low: float, high: float) -> F32:
        """(B,) numbers whose logarithm is uniform."""
        return np.exp(self.uniform(math.log(low), math.log(high)))

    def normal(self, sigma: float) -> F32:
        return self.normals(sigma, 1)[:, 0]

    def angle(self) -> F32:
        return self.uniform(-math.pi, math.pi)

    def sign(self) -> F32:
        return np.where(self.uniform(-1, 1) < 0, np.float32(-1), np.float32(1))

    def chance(self, probability: float) -> F32:
        """(B,) ones with this probability, else zeros."""
        return (self.uniform(0, 1) < probability).astype(np.float32)


@dataclass(frozen=True)
class Plane:
    """Coordinates about one galaxy, (B, S, S): along its major axis `u`, its minor axis on the sky `v`."""

    u: F32
    v: F32
    soft: F32  # (B, 1, 1): squared radius under which nothing is resolved


class Canvas:
    """The light of B images, (B, 3, S, S), on an S × S grid; and its coordinates."""

    def __init__(self, images: int, size: int) -> None:
        self.size = size
        self.pixel = 2.0 / size
        self.axis = ((np.arange(size, dtype=np.float32) + 0.5) * self.pixel - 1).astype(np.float32)
        self.light = np.zeros((images, 3, size, size), np.float32)

    def plane(self, cx: F32, cy: F32, angle: F32, lopsided: F32 | None = None, warp: F32 | None = None) -> Plane:
        """Coordinates about (cx, cy), turned by `angle`.

        `lopsided` lets the centre of the isophotes drift along u with radius (m = 1); `warp` bends the ends
        of the major axis to opposite sides (an integral sign). All (B,).
        """
        x = self.axis[None, None, :] - to_B11(cx)
        y = self.axis[None, :, None] - to_B11(cy)
        cos, sin = to_B11(np.cos(angle)), to_B11(np.sin(angle))
        u = x * cos + y * sin
        v = y * cos - x * sin
        if lopsided is not None:
            u = u + to_B11(lopsided) * np.sqrt(u * u + v * v)
        if warp is not None:
            v = v + to_B11(warp) * u * np.abs(u)
        return Plane(u, v, np.full((len(u), 1, 1), (0.35 * self.pixel) ** 2, np.float32))

    def add(self, colour_BC: F32, light_BSS: F32) -> None:
        for c in range(3):
            self.light[:, c] += to_B11(colour_BC[:, c]) * light_BSS

    def add_to(self, rows: NDArray[np.intp], colour_BC: F32, light_RSS: F32) -> None:
        """Add `light_RSS` to the images `rows`; `colour_BC` has a row for every image."""
        for c in range(3):
            self.light[rows, c] += to_B11(colour_BC[rows, c]) * light_RSS

    def dim(self, depth_BSS: F32) -> None:
        """Screen the light drawn so far by dust of this optical depth (in the middle band)."""
        for c in range(3):
            self.light[:, c] *= np.exp(depth_BSS * -float(_DUST[c]))

    def spots(self, flux_BK: F32, x_BK: F32, y_BK: F32, sigma_BK: F32) -> F32:
        """Round Gaussian sources: separable, so each costs two operations a pixel. (B, S, S)."""
        variance_BK = sigma_BK * sigma_BK + np.float32((0.3 * self.pixel) ** 2)
        scale = (-0.5 / variance_BK)[:, :, None]
        row_BKS = np.exp((self.axis - x_BK[:, :, None]) ** 2 * scale)
        column_BKS = np.exp((self.axis - y_BK[:, :, None]) ** 2 * scale)
        column_BKS *= (flux_BK / (2 * math.pi * variance_BK))[:, :, None]
        light = np.zeros((len(flux_BK), self.size, self.size), np.float32)
        product = np.empty_like(light)
        for k in range(flux_BK.shape[1]):
            np.multiply(column_BKS[:, k, :, None], row_BKS[:, k, None, :], out=product)
            light += product
        return light

    def stars(self, colour_BKC: F32, flux_BK: F32, x_BK: F32, y_BK: F32, sigma_BK: F32) -> None:
        """Add round Gaussian sources of a colour each."""
        for c in range(3):
            self.light[:, c] += self.spots(flux_BK * colour_BKC[:, :, c], x_BK, y_BK, sigma_BK)


def to_B11(values: Real) -> F32:
    """(B,) → (B, 1, 1), to meet (B, S, S)."""
    return values.astype(np.float32, copy=False)[:, None, None]


def fast_arctan2(y: F32, x: F32) -> F32:
    """arctan2 within 1e-5 rad, much faster than numpy's: Abramowitz & Stegun (1964), eq. 4.4.49."""
    ax, ay = np.abs(x), np.abs(y)
    t = np.minimum(ax, ay) / (np.maximum(ax, ay) + np.float32(1e-20))
    t2 = t * t
    angle = ((((0.0208351 * t2 - 0.085133) * t2 + 0.180141) * t2 - 0.3302995) * t2 + 0.999866) * t
    angle = np.where(ay > ax, np.float32(math.pi / 2) - angle, angle)
    angle = np.where(x < 0, np.float32(math.pi) - angle, angle)
    return np.copysign(angle, y)


def colour_of_age(age: Real) -> F32:
    """(..., 3) colour of stars between young (age 0, blue) and old (1, red)."""
    return np.exp(_LOG_YOUNG + age[..., None] * (_LOG_OLD - _LOG_YOUNG))
