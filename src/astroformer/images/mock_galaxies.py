"""Mock galaxies: survey-like cutouts drawn from analytic profiles, in the ten classes of Galaxy10 DECals.

For learning the tool and for tests. The pictures have the grammar of galaxies (profiles, bars, arms, dust,
tails, point spread, noise) but not their statistics: nothing measured on them is a result.

Image i is a function of (seed, first + i, label, size) alone: its numbers come from a counter-based generator
of its own (Philox, Salmon et al. 2011), and every operation is element by element, so neither the batch nor
the chunk it is drawn in changes it. Layout does not depend on `size`; sampling and noise do.

Shapes: B images of one class drawn together, R of them that have some feature, S pixels a side of the drawing
grid, K small sources, C the three bands in display order (z, r, g shown as red, green, blue). Lengths are in
half-widths of the frame: x and y run over [-1, 1]. Light is surface brightness; the bright part of a disc has
about 1.

Sources
    Sérsic profile (1968), with b_n from Ciotti & Bertin (1999, A&A 352, 447), eq. 18.
    Edge-on discs: van der Kruit & Searle (1981, A&A 95, 105), I(R, z) = I0 (R/h) K1(R/h) sech²(z/z0).
    Bars: Ferrers (1877) profile on generalised ellipses, Athanassoula et al. (1990, MNRAS 245, 130).
    Arms: logarithmic spirals r = r0 exp(θ tan p) with pitch angle p.
    Display: asinh stretch that keeps colours, Lupton et al. (2004, PASP 116, 133).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError

__all__ = ["CLASSES", "mock_galaxies", "render"]

CLASSES: tuple[str, ...] = (
    "disturbed",
    "merging",
    "round_smooth",
    "in_between_round_smooth",
    "cigar_shaped_smooth",
    "barred_spiral",
    "unbarred_tight_spiral",
    "unbarred_loose_spiral",
    "edge_on_without_bulge",
    "edge_on_with_bulge",
)

MIN_SIZE, MAX_SIZE = 16, 1024

F32 = NDArray[np.float32]
Real = NDArray[np.floating]

# Below this many pixels a side, cusps and thin discs are drawn on a finer grid and averaged.
_DRAWING_SIZE = 48
# Pixels drawn together: enough to spread the cost of the calls, few enough to stay in a third-level cache.
_CHUNK_PIXELS = 1 << 17
# Numbers each image draws before its noise; `_Draws` fails loudly when a class needs more.
_UNIFORMS, _NORMALS = 320, 64

# Colours of a young and an old stellar population in z, r, g (mean 1); those between are interpolated in log.
_LOG_YOUNG = np.log(np.array([0.78, 0.96, 1.25], np.float32))
_LOG_OLD = np.log(np.array([1.36, 1.00, 0.64], np.float32))
# How much more a dust lane dims the blue band than the red one.
_DUST = np.array([0.6, 1.0, 1.5], np.float32)
# Seeing is worse in the blue.
_SEEING = np.array([0.92, 1.0, 1.1], np.float32)
# Sky noise of the bands, relative: z is the shallowest.
_DEPTH = np.array([1.12, 0.95, 1.0], np.float32)


# ------------------------------------------------------------------------------------------------------------
# Random numbers, coordinates, small helpers


class _Draws:
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
class _Plane:
    """Coordinates about one galaxy, (B, S, S): along its major axis `u`, its minor axis on the sky `v`."""

    u: F32
    v: F32
    soft: F32  # (B, 1, 1): squared radius under which nothing is resolved


class _Canvas:
    """The light of B images, (B, 3, S, S), on an S × S grid; and its coordinates."""

    def __init__(self, images: int, size: int) -> None:
        self.size = size
        self.pixel = 2.0 / size
        self.axis = ((np.arange(size, dtype=np.float32) + 0.5) * self.pixel - 1).astype(np.float32)
        self.light = np.zeros((images, 3, size, size), np.float32)

    def plane(self, cx: F32, cy: F32, angle: F32, lopsided: F32 | None = None, warp: F32 | None = None) -> _Plane:
        """Coordinates about (cx, cy), turned by `angle`.

        `lopsided` lets the centre of the isophotes drift along u with radius (m = 1); `warp` bends the ends
        of the major axis to opposite sides (an integral sign). All (B,).
        """
        x = self.axis[None, None, :] - _b(cx)
        y = self.axis[None, :, None] - _b(cy)
        cos, sin = _b(np.cos(angle)), _b(np.sin(angle))
        u = x * cos + y * sin
        v = y * cos - x * sin
        if lopsided is not None:
            u = u + _b(lopsided) * np.sqrt(u * u + v * v)
        if warp is not None:
            v = v + _b(warp) * u * np.abs(u)
        return _Plane(u, v, np.full((len(u), 1, 1), (0.35 * self.pixel) ** 2, np.float32))

    def add(self, colour_BC: F32, light_BSS: F32) -> None:
        for c in range(3):
            self.light[:, c] += _b(colour_BC[:, c]) * light_BSS

    def add_to(self, rows: NDArray[np.intp], colour_BC: F32, light_RSS: F32) -> None:
        """Add `light_RSS` to the images `rows`; `colour_BC` has a row for every image."""
        for c in range(3):
            self.light[rows, c] += _b(colour_BC[rows, c]) * light_RSS

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


def _b(values: Real) -> F32:
    """(B,) → (B, 1, 1), to meet (B, S, S)."""
    return values.astype(np.float32, copy=False)[:, None, None]


def _arctan2(y: F32, x: F32) -> F32:
    """arctan2 within 1e-5 rad, much faster than numpy's: Abramowitz & Stegun (1964), eq. 4.4.49."""
    ax, ay = np.abs(x), np.abs(y)
    t = np.minimum(ax, ay) / (np.maximum(ax, ay) + np.float32(1e-20))
    t2 = t * t
    angle = ((((0.0208351 * t2 - 0.085133) * t2 + 0.180141) * t2 - 0.3302995) * t2 + 0.999866) * t
    angle = np.where(ay > ax, np.float32(math.pi / 2) - angle, angle)
    angle = np.where(x < 0, np.float32(math.pi) - angle, angle)
    return np.copysign(angle, y)


def _colour(age: Real) -> F32:
    """(..., 3) colour of stars between young (age 0, blue) and old (1, red)."""
    return np.exp(_LOG_YOUNG + age[..., None] * (_LOG_OLD - _LOG_YOUNG))


# ------------------------------------------------------------------------------------------------------------
# Profiles


def _sersic(plane: _Plane, flux: Real, radius: Real, index: Real, q: Real) -> F32:
    """Sérsic profile of total `flux`, half-light `radius` along the major axis, axis ratio `q`: (B, S, S)."""
    n = index
    b = 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n * n)
    log_gamma = np.array([math.lgamma(2 * float(value)) for value in n], np.float32)
    # Total flux of exp(-b (r/re)^(1/n)) is 2π n q re² b^(-2n) Γ(2n).
    log_peak = np.log(flux / (2 * math.pi * n * q * radius * radius)) + 2 * n * np.log(b) - log_gamma
    v = plane.v / _b(q)
    log_r2 = np.log((plane.u * plane.u + v * v + plane.soft) / _b(radius * radius))
    return np.exp(_b(log_peak) - _b(b) * np.exp(log_r2 / _b(2 * n)))


def _edge_on_disc(plane: _Plane, flux: F32, length: F32, height: F32) -> F32:
    """Self-gravitating disc seen edge-on, cut off beyond four scale lengths: (B, S, S)."""
    x = np.abs(plane.u) / _b(length)
    # x K1(x) within 3 %, right at both ends: 1 at x = 0, sqrt(πx/2) exp(-x) for large x.
    along = np.sqrt(1 + (math.pi / 2) * x) * np.exp(-x - np.square(np.square(np.square(x / 4.2))))
    e = np.exp(np.abs(plane.v) * _b(-2 / height))
    sech2 = 4 * e / (1 + e) ** 2
    # ∫ x K1(x) dx over the line is π; ∫ sech²(z/z0) dz is 2 z0.
    return _b(flux / (2 * math.pi * length * height)) * along * sech2


def _texture(d: _Draws, u: F32, v: F32, scale: F32, waves: int = 4) -> F32:
    """Smooth random field of mean 0 and variance 1: plane waves of wavelengths about `scale`."""
    angles = d.uniforms(0, math.pi, waves)
    numbers = d.uniforms(0.6, 1.6, waves) * (2 * math.pi / scale)[:, None]
    phases = d.uniforms(-math.pi, math.pi, waves)
    kx, ky = numbers * np.cos(angles), numbers * np.sin(angles)
    field = np.zeros_like(u)
    for k in range(waves):
        field += np.cos(_b(kx[:, k]) * u + _b(ky[:, k]) * v + _b(phases[:, k]))
    return field * np.float32(math.sqrt(2 / waves))


def _add_tail(
    d: _Draws,
    canvas: _Canvas,
    colour_BC: F32,
    probability: float,
    centre: tuple[F32, F32],
    start: F32,
    radius: F32,
    turn: F32,
) -> None:
    """Give some images a tidal tail: a one-armed spiral from angle `start`, in sense `turn` (±1)."""
    present, opening, reach = d.chance(probability), d.uniform(0.3, 0.75), d.uniform(1.2, 2.6)
    width = radius * d.uniform(0.10, 0.22)
    colour_BC = colour_BC * d.log_uniform(0.06, 0.35)[:, None]
    rows = np.flatnonzero(present)
    x = canvas.axis[None, None, :] - _b(centre[0][rows])
    y = canvas.axis[None, :, None] - _b(centre[1][rows])
    r = np.sqrt(x * x + y * y + np.float32(1e-6))
    angle = (_arctan2(y, x) - _b(start[rows])) * _b(turn[rows]) * (1 / (2 * math.pi))
    angle = (angle - np.floor(angle)) * (2 * math.pi)
    distance = (r - _b(radius[rows]) * np.exp(_b(opening[rows]) * angle)) / (_b(width[rows]) * (1 + 0.35 * angle))
    fraction = (angle / _b(reach[rows])) ** 2
    fade = angle / (angle + 0.25) * np.exp(-(fraction * fraction) - 0.5 * angle - 0.5 * distance * distance)
    canvas.add_to(rows, colour_BC, fade)


# ------------------------------------------------------------------------------------------------------------
# Galaxies


@dataclass(frozen=True)
class _Pose:
    """Where a galaxy lies and how it is turned, all (B,)."""

    cx: F32
    cy: F32
    angle: F32
    q: F32
    lopsided: F32
    warp: F32

    @classmethod
    def draw(cls, d: _Draws, low_q: float, high_q: float, asymmetry: float = 0.04) -> _Pose:
        return cls(
            cx=d.normal(0.025),
            cy=d.normal(0.025),
            angle=d.angle(),
            q=d.uniform(low_q, high_q),
            lopsided=d.normal(asymmetry),
            warp=d.normal(asymmetry),
        )

    def plane(self, canvas: _Canvas) -> _Plane:
        return canvas.plane(self.cx, self.cy, self.angle, self.lopsided, self.warp)


def _flux(d: _Draws, radius: F32, q: F32, low: float, high: float) -> F32:
    """Total flux for a mean surface brightness inside `radius` between `low` and `high`."""
    return d.log_uniform(low, high) * 2 * math.pi * radius * radius * q


@dataclass(frozen=True)
class _Disc:
    """What makes one disc galaxy differ from another, all (B,)."""

    length: F32  # exponential scale length
    flux: F32
    bulge: F32  # share of the flux
    bulge_index: F32
    arms: F32  # number of arms, whole
    pitch: F32  # radians
    contrast: F32  # how much of the disc's light lies in arms
    sharpness: F32  # of an arm's ridge
    raggedness: F32
    age: F32
    bar: F32  # surface brightness against the disc's centre; 0 for none
    bar_length: F32


def _draw_disc_galaxy(d: _Draws, canvas: _Canvas, pose: _Pose, disc: _Disc, knots: int = 14) -> None:
    """An inclined disc with bulge, bar, spiral arms, dust on their inner side and knots of star formation."""
    sky = pose.plane(canvas)
    u, v = sky.u, sky.v / _b(pose.q)
    h = disc.length
    r2 = u * u + v * v + sky.soft
    r = np.sqrt(r2)
    log_r = 0.5 * np.log(r2) - _b(np.log(disc.bar_length))
    theta = _arctan2(v, u)

    turn, bar_angle = d.sign(), d.angle()
    # Arms wander: a slow wobble of the phase, periodic in θ as it must be.
    wobble = disc.raggedness * 0.9
    twist, slope = d.angle(), d.uniform(-4, 4)
    phase = _b(disc.arms * turn) * (theta - _b(bar_angle)) - _b(disc.arms / np.tan(disc.pitch)) * log_r
    phase += _b(wobble) * np.sin(theta + _b(slope) * log_r + _b(twist))
    floc = _texture(d, u, v, 0.9 * h)
    ridge = _b(disc.sharpness) * (np.cos(phase) - 1) + _b(disc.raggedness) * floc
    # Arms begin at the end of the bar (or out of the bulge) and fade with the disc.
    begin = (r2 / _b(disc.bar_length**2)) ** 2
    begin = begin / (1 + begin)

    amplitude = disc.flux * (1 - disc.bulge) / (2 * math.pi * h * h * pose.q)
    edge = (r2 / _b((h * d.uniform(3.6, 5.0)) ** 2)) ** 2
    smooth = np.exp(-edge - r / _b(h))
    canvas.add(_colour(disc.age) * (amplitude * (1 - 0.65 * disc.contrast))[:, None], smooth)
    young = np.exp(r / _b(-1.35 * h) - edge + ridge) * begin
    # A ridge of sharpness κ holds about 1/sqrt(2πκ) of the circle: narrower arms are brighter.
    gain = 0.55 * np.sqrt(1 + 2.2 * disc.sharpness)
    canvas.add(_colour(disc.age - 0.55) * (amplitude * disc.contrast * gain)[:, None], young)

    dust = d.uniform(0.0, 0.9) * disc.contrast
    lane = np.exp(5 * (np.cos(phase + _b(d.uniform(0.5, 1.0))) - 1)) * begin * smooth * _b(dust * 2.2)
    canvas.dim(lane)

    cos, sin = _b(np.cos(bar_angle)), _b(np.sin(bar_angle))
    if np.any(disc.bar > 0):  # all of a class or none: every image of it draws the same count of numbers
        along = (u * cos + v * sin) / _b(disc.bar_length * 1.08)
        across = (v * cos - u * sin) / _b(disc.bar_length * d.uniform(0.26, 0.42))
        inside = np.maximum(1 - np.sqrt((along * along) ** 2 + (across * across) ** 2), 0)
        canvas.add(_colour(disc.age + 0.25) * (amplitude * disc.bar)[:, None], inside * inside)
        ring = (r - _b(disc.bar_length * 1.12)) / _b(disc.bar_length * 0.16)
        strength = amplitude * disc.bar * d.chance(0.35) * d.uniform(0.05, 0.35)
        canvas.add(_colour(disc.age - 0.35) * strength[:, None], np.exp(-0.5 * ring * ring))

    bulge_q = 1 - 0.45 * (1 - pose.q)
    bulge_flux = disc.flux * disc.bulge
    bulge_radius = h * (0.16 + 0.55 * disc.bulge)
    canvas.add(_colour(disc.age + 0.35), _sersic(sky, bulge_flux, bulge_radius, disc.bulge_index, bulge_q))

    # Knots of star formation sit on the ridges: invert the phase for θ at a drawn radius.
    radius_BK = h[:, None] * d.uniforms(0.9, 3.2, knots)
    arm_BK = np.floor(d.uniforms(0, 1, knots) * disc.arms[:, None]) * 2 * math.pi + d.normals(0.45, knots)
    wound_BK = (disc.arms / np.tan(disc.pitch))[:, None] * np.log(radius_BK / disc.bar_length[:, None])
    theta_BK = bar_angle[:, None] + (arm_BK + wound_BK) * (turn / disc.arms)[:, None]
    ku, kv = radius_BK * np.cos(theta_BK), radius_BK * np.sin(theta_BK) * pose.q[:, None]
    ca, sa = np.cos(pose.angle)[:, None], np.sin(pose.angle)[:, None]
    bright = (disc.flux * disc.contrast)[:, None] * np.exp(-radius_BK / (1.6 * h[:, None]))
    luck = d.uniforms(0.0, 1.0, knots)
    flux_BK = bright * luck * luck * luck * 0.035  # a few bright ones among many faint
    x_BK, y_BK = pose.cx[:, None] + ku * ca - kv * sa, pose.cy[:, None] + ku * sa + kv * ca
    light = canvas.spots(flux_BK, x_BK, y_BK, h[:, None] * d.uniforms(0.05, 0.14, knots))
    canvas.add(_colour(disc.age - 0.9), light)


def _draw_smooth(d: _Draws, canvas: _Canvas, low_q: float, high_q: float, disky: float) -> None:
    """An elliptical or lenticular: one Sérsic body, and a fainter envelope."""
    pose = _Pose.draw(d, low_q, high_q, asymmetry=0.015)
    plane = pose.plane(canvas)
    # Flattened smooth galaxies are mostly discs (n near 1), round ones mostly spheroids.
    index = d.uniform(1.0, 4.5) * (1 - disky) + disky * d.uniform(0.8, 1.8)
    # A flat galaxy is longer than a round one, but by less than equal areas would ask, to stay in the frame.
    stretch = np.exp(-0.3 * np.log(pose.q))
    radius = d.log_uniform(0.08, 0.2) * stretch
    flux = _flux(d, radius, pose.q, 0.35, 1.8)
    age = d.uniform(0.45, 1.25) - 0.3 * disky * d.uniform(0, 1)
    envelope = d.uniform(0.0, 0.35)
    canvas.add(_colour(age), _sersic(plane, flux * (1 - envelope), radius, index, pose.q))
    wide_q = np.minimum(pose.q * 1.15, 1)
    canvas.add(_colour(age - 0.15), _sersic(plane, flux * envelope, radius * 1.5, np.ones_like(index), wide_q))


def _round(d: _Draws, canvas: _Canvas) -> None:
    _draw_smooth(d, canvas, 0.83, 1.0, disky=0.0)


def _in_between(d: _Draws, canvas: _Canvas) -> None:
    _draw_smooth(d, canvas, 0.46, 0.84, disky=0.3)


def _cigar(d: _Draws, canvas: _Canvas) -> None:
    _draw_smooth(d, canvas, 0.2, 0.47, disky=0.8)


def _disc(
    d: _Draws,
    pose: _Pose,
    *,
    bulge: tuple[float, float],
    arms: tuple[int, ...],
    pitch: tuple[float, float],
    contrast: tuple[float, float],
    age: tuple[float, float],
    bar: tuple[float, float] = (0.0, 0.0),
    length: tuple[float, float] = (0.11, 0.21),
) -> _Disc:
    """Draw a disc's numbers from the ranges of its class; pitch in degrees."""
    h = d.log_uniform(*length)
    inner = d.uniform(0.9, 1.7) if bar[1] > 0 else d.uniform(0.35, 0.7)
    choice = (d.uniform(0, 1) * len(arms)).astype(np.int64)
    return _Disc(
        length=h,
        flux=_flux(d, 1.68 * h, pose.q, 0.25, 1.0),
        bulge=d.uniform(*bulge),
        bulge_index=d.uniform(1.2, 3.2),
        arms=np.array(arms, np.float32)[choice],
        pitch=d.uniform(math.radians(pitch[0]), math.radians(pitch[1])),
        contrast=d.uniform(*contrast),
        sharpness=d.uniform(1.0, 3.0),
        raggedness=d.uniform(0.1, 0.6),
        age=d.uniform(*age),
        bar=d.uniform(*bar),
        bar_length=h * inner,
    )


def _barred(d: _Draws, canvas: _Canvas) -> None:
    pose = _Pose.draw(d, 0.42, 1.0)
    disc = _disc(
        d,
        pose,
        bulge=(0.04, 0.2),
        arms=(2,),
        pitch=(10, 30),
        contrast=(0.25, 0.95),
        age=(0.35, 0.85),
        bar=(0.5, 2.0),
    )
    _draw_disc_galaxy(d, canvas, pose, disc)


def _tight(d: _Draws, canvas: _Canvas) -> None:
    pose = _Pose.draw(d, 0.42, 1.0)
    disc = _disc(d, pose, bulge=(0.1, 0.4), arms=(2, 2, 3), pitch=(8, 15), contrast=(0.3, 0.9), age=(0.4, 0.95))
    _draw_disc_galaxy(d, canvas, pose, disc)


def _loose(d: _Draws, canvas: _Canvas) -> None:
    pose = _Pose.draw(d, 0.42, 1.0)
    disc = _disc(d, pose, bulge=(0.02, 0.2), arms=(2, 2, 3, 4), pitch=(19, 36), contrast=(0.35, 1.0), age=(0.2, 0.75))
    _draw_disc_galaxy(d, canvas, pose, disc)


def _draw_edge_on(d: _Draws, canvas: _Canvas, bulge: F32) -> None:
    pose = _Pose.draw(d, 0.9, 1.0, asymmetry=0.05)
    plane = pose.plane(canvas)
    length = d.log_uniform(0.13, 0.27)
    height = length * d.uniform(0.11, 0.26)
    flux = d.log_uniform(0.45, 1.6) * 2 * math.pi * length * height
    age = d.uniform(0.3, 1.0)
    clumps = np.exp(_b(d.uniform(0.0, 0.25)) * _texture(d, plane.u, plane.v * 2, 0.8 * length, waves=3))
    canvas.add(_colour(age), _edge_on_disc(plane, flux, length, height) * clumps)
    bulge_flux = flux * bulge / (1 - bulge)
    radius = length * (0.14 + 0.75 * bulge)
    canvas.add(_colour(age + 0.35), _sersic(plane, bulge_flux, radius, d.uniform(1.2, 3.0), d.uniform(0.6, 0.95)))
    depth = d.chance(0.6) * d.uniform(0.3, 1.6)
    offset = (plane.v - _b(height * d.normal(0.25))) / _b(height * d.uniform(0.2, 0.38))
    reach = plane.u / _b(length * 2.2)
    canvas.dim(_b(depth) * np.exp(-0.5 * offset * offset - reach * reach))


def _edge_on_without_bulge(d: _Draws, canvas: _Canvas) -> None:
    _draw_edge_on(d, canvas, d.uniform(0.0, 0.05))


def _edge_on_with_bulge(d: _Draws, canvas: _Canvas) -> None:
    _draw_edge_on(d, canvas, d.uniform(0.1, 0.45))


def _disturbed(d: _Draws, canvas: _Canvas) -> None:
    """One galaxy pulled out of shape: lopsided, warped, with tails, shells or a plume."""
    pose = _Pose.draw(d, 0.45, 1.0, asymmetry=0.0)
    sign = d.sign()
    pose = replace(pose, lopsided=sign * d.uniform(0.12, 0.5), warp=d.sign() * d.uniform(0.1, 0.9))
    disc = _disc(
        d,
        pose,
        bulge=(0.05, 0.6),
        arms=(1, 1, 2),
        pitch=(14, 40),
        contrast=(0.1, 0.9),
        age=(0.25, 0.95),
        length=(0.09, 0.17),
    )
    _draw_disc_galaxy(d, canvas, pose, disc, knots=10)

    level = disc.flux / (2 * math.pi * disc.length**2 * pose.q)
    turn, start = d.sign(), d.angle()
    for probability in (0.85, 0.5):
        colour, radius = _colour(disc.age - 0.3) * level[:, None], disc.length * d.uniform(1.4, 2.4)
        _add_tail(d, canvas, colour, probability, (pose.cx, pose.cy), start, radius, turn)
        start = start + math.pi + d.normal(0.5)

    plane = pose.plane(canvas)
    # Shells: a swallowed galaxy's stars pile up where their orbits turn back, sharply on the outer side.
    r = np.sqrt(plane.u * plane.u + plane.v * plane.v) / _b(disc.length)
    saw = np.mod(r / _b(d.uniform(1.0, 1.7)) + _b(d.uniform(0, 1)), np.float32(1))
    sector = np.maximum(plane.u * _b(sign) / _b(disc.length) / (r + 0.2), 0) ** 2
    shells = (saw * saw) ** 2 * sector * np.exp(-((r / 4.6) ** 4) - 0.35 * r) * (r / (r + 1))
    canvas.add(_colour(disc.age + 0.2) * (level * d.chance(0.4) * d.uniform(0.2, 0.7))[:, None], shells)

    # A plume of debris to one side, broad and faint.
    direction, distance = d.angle(), disc.length * d.uniform(1.8, 3.0)
    cx, cy = pose.cx + distance * np.cos(direction), pose.cy + distance * np.sin(direction)
    debris = canvas.plane(cx, cy, direction + d.normal(0.6), d.uniform(-0.4, 0.4))
    share = disc.flux * d.chance(0.6) * d.uniform(0.04, 0.2)
    radius, q = disc.length * d.uniform(0.7, 1.3), d.uniform(0.3, 0.7)
    # 1e-9: a flux of exactly 0 has no logarithm.
    canvas.add(_colour(disc.age - 0.1), _sersic(debris, share + 1e-9, radius, np.full_like(q, 0.7), q))


def _merging(d: _Draws, canvas: _Canvas) -> None:
    """Two galaxies in one envelope, with a bridge between them and a tail from each."""
    direction, separation = d.angle(), d.uniform(0.2, 0.52)
    dx, dy = separation * np.cos(direction), separation * np.sin(direction)
    balance = d.uniform(0.2, 0.55)
    turn, ratio = d.sign(), d.log_uniform(0.3, 1.0)
    first_flux, first_age = np.zeros_like(dx), np.zeros_like(dx)
    for which in range(2):
        pose = _Pose.draw(d, 0.4, 1.0, asymmetry=0.12)
        shift = -balance if which == 0 else 1 - balance
        pose = replace(pose, cx=pose.cx + shift * dx, cy=pose.cy + shift * dy)
        size = (0.07, 0.13) if which == 0 else (0.055, 0.11)
        disc = _disc(
            d,
            pose,
            bulge=(0.15, 0.75),
            arms=(2, 2, 1),
            pitch=(15, 35),
            contrast=(0.0, 0.8),
            age=(0.3, 1.0),
            length=size,
        )
        if which == 0:
            first_flux, first_age = disc.flux, disc.age
        else:
            disc = replace(disc, flux=first_flux * ratio)
        _draw_disc_galaxy(d, canvas, pose, disc, knots=6)
        away = direction + (math.pi if which == 0 else 0.0) + d.normal(0.5)
        level = disc.flux / (2 * math.pi * disc.length**2 * pose.q)
        colour, radius = _colour(disc.age - 0.25) * level[:, None], disc.length * d.uniform(1.5, 2.6)
        _add_tail(d, canvas, colour, 0.75, (pose.cx, pose.cy), away, radius, turn)

    middle = (0.5 - balance).astype(np.float32)
    between = canvas.plane(middle * dx, middle * dy, direction, warp=d.normal(0.8))
    t, across = between.u / _b(separation * 0.55), between.v / _b(d.uniform(0.03, 0.07))
    bridge = np.exp(-((t * t) ** 2) - 0.5 * across * across)
    strength = d.chance(0.7) * d.log_uniform(0.03, 0.2)
    canvas.add(_colour(first_age - 0.2) * strength[:, None], bridge)
    halo_q = d.uniform(0.45, 0.85)
    envelope = canvas.plane(middle * dx, middle * dy, direction + d.normal(0.5), d.uniform(-0.3, 0.3))
    share = first_flux * d.uniform(0.05, 0.4)
    canvas.add(_colour(first_age), _sersic(envelope, share, d.uniform(0.2, 0.34), np.ones_like(share), halo_q))


_DRAW: tuple[Callable[[_Draws, _Canvas], None], ...] = (
    _disturbed,
    _merging,
    _round,
    _in_between,
    _cigar,
    _barred,
    _tight,
    _loose,
    _edge_on_without_bulge,
    _edge_on_with_bulge,
)


# ------------------------------------------------------------------------------------------------------------
# The sky, the telescope and the display


def _draw_field(d: _Draws, canvas: _Canvas, seeing: F32) -> None:
    """Two neighbours by projection (in some images), faint round galaxies and stars."""
    for probability in (0.35, 0.2):
        present = d.chance(probability)
        r, angle, turned = d.uniform(0.3, 1.05), d.angle(), d.angle()
        q, radius = d.uniform(0.3, 1.0), d.log_uniform(0.025, 0.075)
        flux, index, colour = _flux(d, radius, q, 0.2, 1.2), d.uniform(0.8, 2.5), _colour(d.uniform(0.1, 1.3))
        rows = np.flatnonzero(present)
        plane = canvas.plane((r * np.cos(angle))[rows], (r * np.sin(angle))[rows], turned[rows])
        canvas.add_to(rows, colour, _sersic(plane, flux[rows], radius[rows], index[rows], q[rows]))
    count = 9
    crowd = d.uniform(0.05, 0.6)[:, None]
    present_BK = (d.uniforms(0, 1, count) < crowd).astype(np.float32)
    x_BK, y_BK = d.uniforms(-1, 1, count), d.uniforms(-1, 1, count)
    flux_BK = present_BK * np.exp(d.uniforms(math.log(3e-4), math.log(0.012), count))
    # Stars come in all colours; a third of the sources are galaxies, a little extended.
    age_BK = d.uniforms(-0.2, 1.4, count)
    extended_BK = np.where(d.uniforms(0, 1, count) < 0.35, d.uniforms(0.01, 0.03, count), np.float32(0))
    canvas.stars(_colour(age_BK), flux_BK, x_BK, y_BK, extended_BK)
    # One brighter star in some images, with the wide wings of the point spread.
    flux_BK = d.chance(0.12)[:, None] * np.exp(d.uniforms(math.log(0.01), math.log(0.08), 1))
    x_BK, y_BK, age_BK = d.uniforms(-1, 1, 1), d.uniforms(-1, 1, 1), d.uniforms(-0.3, 1.5, 1)
    canvas.stars(_colour(age_BK), flux_BK, x_BK, y_BK, np.zeros_like(flux_BK))
    canvas.stars(_colour(age_BK), 0.15 * flux_BK, x_BK, y_BK, 3.0 * seeing[:, None])


def _blur(image_BCSS: F32, sigma_BC: F32, radius: int) -> F32:
    """Convolve with a Gaussian of `sigma_BC` pixels, cut at `radius`; the frame's edge is repeated."""
    steps = np.arange(radius + 1, dtype=np.float32)
    weights = np.exp(-0.5 * (steps / sigma_BC[:, :, None]) ** 2)
    weights = weights / (2 * np.sum(weights, axis=2, keepdims=True) - weights[:, :, :1])
    size = image_BCSS.shape[-1]
    result = np.empty_like(image_BCSS)
    pair = np.empty_like(image_BCSS[:, 0])
    # Shifted sums rather than a matrix product, whose rounding may depend on threads.
    for c in range(image_BCSS.shape[1]):
        taps = [_b(weights[:, c, k]) for k in range(radius + 1)]
        padded = np.pad(image_BCSS[:, c], ((0, 0), (radius, radius), (0, 0)), mode="edge")
        down = taps[0] * image_BCSS[:, c]
        for k in range(1, radius + 1):
            a, b = radius - k, radius + k
            np.add(padded[:, a : a + size], padded[:, b : b + size], out=pair)
            pair *= taps[k]
            down += pair
        padded = np.pad(down, ((0, 0), (0, 0), (radius, radius)), mode="edge")
        across = np.multiply(taps[0], down, out=result[:, c])
        for k in range(1, radius + 1):
            a, b = radius - k, radius + k
            np.add(padded[..., a : a + size], padded[..., b : b + size], out=pair)
            pair *= taps[k]
            across += pair
    return result


def _display(light_BCSS: F32) -> NDArray[np.uint8]:
    """Asinh stretch of the mean of the bands, colours kept: (B, 3, S, S) light → (B, S, S, 3) uint8."""
    softening, white = 0.11, 6.0
    mean = np.maximum((light_BCSS[:, 0] + light_BCSS[:, 1] + light_BCSS[:, 2]) / 3, np.float32(1e-6))
    scaled = mean / softening
    stretched = np.log(scaled + np.sqrt(scaled * scaled + 1)) * (1 / math.asinh(white / softening))
    rgb = np.maximum(light_BCSS, 0) * (stretched / mean)[:, None]
    # Where a band would pass white, Lupton et al. dim all three alike. As our red images are sharper than
    # the blue ones, that would leave dark red dots in bright cores: dim by half (in log), clip the rest.
    rgb /= np.sqrt(np.maximum(np.max(rgb, axis=1, keepdims=True), 1))
    return np.ascontiguousarray((np.minimum(rgb, 1) * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1))


def _render_class(label: int, size: int, seed: int, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Draw a chunk of images of one class: (B, size, size, 3) uint8."""
    generators = [
        np.random.Generator(np.random.Philox(counter=[0, 0, 0, label], key=[seed, index])) for index in indices
    ]
    d = _Draws(generators)
    oversampling = -(-_DRAWING_SIZE // size)
    canvas = _Canvas(len(indices), size * oversampling)

    # What all classes share is drawn first, so that a class's own numbers never shift it.
    seeing = d.uniform(0.013, 0.026)
    noise = d.log_uniform(0.012, 0.035)
    tint = np.exp(d.normals(0.025, 3))
    pedestal = d.uniform(0.005, 0.03)
    _DRAW[label](d, canvas)
    _draw_field(d, canvas, seeing)

    # The seeing is a sigma in half-widths of the frame: about 1.3 arcsec FWHM in a cutout of 1 arcmin.
    sigma_BC = seeing[:, None] * _SEEING / canvas.pixel
    light = _blur(canvas.light, sigma_BC, math.ceil(3 * 0.026 * 1.1 / canvas.pixel))
    if oversampling > 1:
        blocks = light.reshape(len(indices), 3, size, oversampling, size, oversampling)
        light = blocks.mean(axis=(3, 5), dtype=np.float32)
    light *= tint[:, :, None, None]

    # Smaller pixels are noisier, down to the camera's own (256 a side); by less than in proportion, since
    # stacking exposures correlates the noise of neighbours.
    sampling = (min(size, 256) / 64) ** 0.75
    sky = (noise * sampling)[:, None, None, None] * _DEPTH[:, None, None]
    grain = np.stack([g.standard_normal((3, size, size), dtype=np.float32) for g in generators])
    light += grain * np.sqrt(sky * sky + np.maximum(light, 0) * np.float32(0.0012 * sampling**2))
    light += pedestal[:, None, None, None]
    return _display(light)


# ------------------------------------------------------------------------------------------------------------
# What others call


def render(labels: NDArray[np.integer], size: int, seed: int, first: int = 0) -> NDArray[np.uint8]:
    """Draw one image a label.

    Args:
        labels: (N,) class numbers, 0 to 9, positions in `CLASSES`.
        size: pixels a side, 16 to 1024.
        seed: which set of galaxies, 0 to 2⁶⁴ − 1.
        first: number of the first image in that set, so that a set can be drawn in parts:
            ``render(labels, …)[k]`` equals ``render(labels[k:k+1], …, first=k)[0]`` to the bit.

    Returns:
        (N, size, size, 3) uint8, RGB.

    Raises:
        UserError: a label, the size, the seed or `first` is out of range.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise UserError(
            f"labels have shape {labels.shape} and type {labels.dtype}; "
            "mock galaxies need a one-dimensional array of integers."
        )
    wrong = labels[(labels < 0) | (labels >= len(CLASSES))]
    if wrong.size:
        raise UserError(f"label {wrong[0]} is no class of the mock galaxies; use 0 to {len(CLASSES) - 1}.")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"size {size} is out of range for mock galaxies; use {MIN_SIZE} to {MAX_SIZE} pixels.")
    for name, value in (("seed", seed), ("first", first)):
        if not 0 <= value < 2**63:
            raise UserError(f"{name} {value} is out of range for mock galaxies; use 0 to 2**63 - 1.")

    images = np.empty((len(labels), size, size, 3), np.uint8)
    drawn = size * -(-_DRAWING_SIZE // size)
    chunk = max(1, _CHUNK_PIXELS // drawn**2)
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        for start in range(0, len(positions), chunk):
            part = positions[start : start + chunk]
            images[part] = _render_class(int(label), size, seed, [first + int(p) for p in part])
    return images


def mock_galaxies(n: int, size: int = 64, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw `n` mock galaxies, the ten classes in turn (0, 1, …, 9, 0, …): counts differ by one at most.

    Returns:
        images (n, size, size, 3) uint8, RGB; labels (n,) int64, positions in `CLASSES`.

    Raises:
        UserError: `n` < 1, or the size or the seed is out of range.
    """
    if n < 1:
        raise UserError(f"n is {n}; ask for at least 1 mock galaxy.")
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    return render(labels, size, seed), labels
