"""Light profiles of galaxies and of their parts; shapes and units as in `canvas`.

Sources
    Sérsic profile (1968), with b_n from Ciotti & Bertin (1999, A&A 352, 447), eq. 18.
    Edge-on discs: van der Kruit & Searle (1981, A&A 95, 105), I(R, z) = I0 (R/h) K1(R/h) sech²(z/z0).
"""

from __future__ import annotations

import math

import numpy as np

from astroformer.images.sets.mock.canvas import F32, Plane, RandomNumbers, Real, to_B11


def sersic(plane: Plane, flux: Real, radius: Real, index: Real, q: Real) -> F32:
    """Sérsic profile of total `flux`, half-light `radius` along the major axis, axis ratio `q`: (B, S, S)."""
    n = index
    b = 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n * n)
    log_gamma = np.array([math.lgamma(2 * float(value)) for value in n], np.float32)
    # Total flux of exp(-b (r/re)^(1/n)) is 2π n q re² b^(-2n) Γ(2n).
    log_peak = np.log(flux / (2 * math.pi * n * q * radius * radius)) + 2 * n * np.log(b) - log_gamma
    v = plane.v / to_B11(q)
    log_r2 = np.log((plane.u * plane.u + v * v + plane.soft) / to_B11(radius * radius))
    return np.exp(to_B11(log_peak) - to_B11(b) * np.exp(log_r2 / to_B11(2 * n)))


def edge_on_disc(plane: Plane, flux: F32, length: F32, height: F32) -> F32:
    """Self-gravitating disc seen edge-on, cut off beyond four scale lengths: (B, S, S)."""
    x = np.abs(plane.u) / to_B11(length)
    # x K1(x) within 3 %, right at both ends: 1 at x = 0, sqrt(πx/2) exp(-x) for large x.
    along = np.sqrt(1 + (math.pi / 2) * x) * np.exp(-x - np.square(np.square(np.square(x / 4.2))))
    e = np.exp(np.abs(plane.v) * to_B11(-2 / height))
    sech2 = 4 * e / (1 + e) ** 2
    # ∫ x K1(x) dx over the line is π; ∫ sech²(z/z0) dz is 2 z0.
    return to_B11(flux / (2 * math.pi * length * height)) * along * sech2


def texture(rng: RandomNumbers, u: F32, v: F32, scale: F32, waves: int = 4) -> F32:
    """Smooth random field of mean 0 and variance 1: plane waves of wavelengths about `scale`."""
    angles = rng.uniforms(0, math.pi, waves)
    numbers = rng.uniforms(0.6, 1.6, waves) * (2 * math.pi / scale)[:, None]
    phases = rng.uniforms(-math.pi, math.pi, waves)
    kx, ky = numbers * np.cos(angles), numbers * np.sin(angles)
    field = np.zeros_like(u)
    for k in range(waves):
        field += np.cos(to_B11(kx[:, k]) * u + to_B11(ky[:, k]) * v + to_B11(phases[:, k]))
    return field * np.float32(math.sqrt(2 / waves))


def flux_within(rng: RandomNumbers, radius: F32, q: F32, low: float, high: float) -> F32:
    """Total flux for a mean surface brightness inside `radius` between `low` and `high`."""
    return rng.log_uniform(low, high) * 2 * math.pi * radius * radius * q
