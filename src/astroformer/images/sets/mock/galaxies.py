"""The galaxies of each class, drawn from profiles, bars, arms, dust and tails; shapes and units as in `canvas`.

Sources
    Bars: Ferrers (1877) profile on generalised ellipses, Athanassoula et al. (1990, MNRAS 245, 130).
    Arms: logarithmic spirals r = r0 exp(θ tan p) with pitch angle p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from astroformer.images.sets.mock.canvas import (
    F32,
    Canvas,
    Plane,
    RandomNumbers,
    colour_of_age,
    fast_arctan2,
    to_B11,
)
from astroformer.images.sets.mock.profiles import edge_on_disc, flux_within, sersic, texture


def _add_tail(
    rng: RandomNumbers,
    canvas: Canvas,
    colour_BC: F32,
    probability: float,
    centre: tuple[F32, F32],
    start: F32,
    radius: F32,
    turn: F32,
) -> None:
    """Give some images a tidal tail: a one-armed spiral from angle `start`, in sense `turn` (±1)."""
    present, opening, reach = rng.chance(probability), rng.uniform(0.3, 0.75), rng.uniform(1.2, 2.6)
    width = radius * rng.uniform(0.10, 0.22)
    colour_BC = colour_BC * rng.log_uniform(0.06, 0.35)[:, None]
    rows = np.flatnonzero(present)
    x = canvas.axis[None, None, :] - to_B11(centre[0][rows])
    y = canvas.axis[None, :, None] - to_B11(centre[1][rows])
    r = np.sqrt(x * x + y * y + np.float32(1e-6))
    angle = (fast_arctan2(y, x) - to_B11(start[rows])) * to_B11(turn[rows]) * (1 / (2 * math.pi))
    angle = (angle - np.floor(angle)) * (2 * math.pi)
    distance = (r - to_B11(radius[rows]) * np.exp(to_B11(opening[rows]) * angle)) / (
        to_B11(width[rows]) * (1 + 0.35 * angle)
    )
    fraction = (angle / to_B11(reach[rows])) ** 2
    fade = angle / (angle + 0.25) * np.exp(-(fraction * fraction) - 0.5 * angle - 0.5 * distance * distance)
    canvas.add_to(rows, colour_BC, fade)


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
    def draw(cls, rng: RandomNumbers, low_q: float, high_q: float, asymmetry: float = 0.04) -> _Pose:
        return cls(
            cx=rng.normal(0.025),
            cy=rng.normal(0.025),
            angle=rng.angle(),
            q=rng.uniform(low_q, high_q),
            lopsided=rng.normal(asymmetry),
            warp=rng.normal(asymmetry),
        )

    def plane(self, canvas: Canvas) -> Plane:
        return canvas.plane(self.cx, self.cy, self.angle, self.lopsided, self.warp)


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


def _draw_disc_galaxy(rng: RandomNumbers, canvas: Canvas, pose: _Pose, disc: _Disc, knots: int = 14) -> None:
    """An inclined disc with bulge, bar, spiral arms, dust on their inner side and knots of star formation."""
    sky = pose.plane(canvas)
    u, v = sky.u, sky.v / to_B11(pose.q)
    h = disc.length
    r2 = u * u + v * v + sky.soft
    r = np.sqrt(r2)
    log_r = 0.5 * np.log(r2) - to_B11(np.log(disc.bar_length))
    theta = fast_arctan2(v, u)

    turn, bar_angle = rng.sign(), rng.angle()
    # Arms wander: a slow wobble of the phase, periodic in θ as it must be.
    wobble = disc.raggedness * 0.9
    twist, slope = rng.angle(), rng.uniform(-4, 4)
    phase = to_B11(disc.arms * turn) * (theta - to_B11(bar_angle)) - to_B11(disc.arms / np.tan(disc.pitch)) * log_r
    phase += to_B11(wobble) * np.sin(theta + to_B11(slope) * log_r + to_B11(twist))
    floc = texture(rng, u, v, 0.9 * h)
    ridge = to_B11(disc.sharpness) * (np.cos(phase) - 1) + to_B11(disc.raggedness) * floc
    # Arms begin at the end of the bar (or out of the bulge) and fade with the disc.
    begin = (r2 / to_B11(disc.bar_length**2)) ** 2
    begin = begin / (1 + begin)

    amplitude = disc.flux * (1 - disc.bulge) / (2 * math.pi * h * h * pose.q)
    edge = (r2 / to_B11((h * rng.uniform(3.6, 5.0)) ** 2)) ** 2
    smooth = np.exp(-edge - r / to_B11(h))
    canvas.add(colour_of_age(disc.age) * (amplitude * (1 - 0.65 * disc.contrast))[:, None], smooth)
    young = np.exp(r / to_B11(-1.35 * h) - edge + ridge) * begin
    # A ridge of sharpness κ holds about 1/sqrt(2πκ) of the circle: narrower arms are brighter.
    gain = 0.55 * np.sqrt(1 + 2.2 * disc.sharpness)
    canvas.add(colour_of_age(disc.age - 0.55) * (amplitude * disc.contrast * gain)[:, None], young)

    dust = rng.uniform(0.0, 0.9) * disc.contrast
    lane = np.exp(5 * (np.cos(phase + to_B11(rng.uniform(0.5, 1.0))) - 1)) * begin * smooth * to_B11(dust * 2.2)
    canvas.dim(lane)

    cos, sin = to_B11(np.cos(bar_angle)), to_B11(np.sin(bar_angle))
    if np.any(disc.bar > 0):  # all of a class or none: every image of it draws the same count of numbers
        along = (u * cos + v * sin) / to_B11(disc.bar_length * 1.08)
        across = (v * cos - u * sin) / to_B11(disc.bar_length * rng.uniform(0.26, 0.42))
        inside = np.maximum(1 - np.sqrt((along * along) ** 2 + (across * across) ** 2), 0)
        canvas.add(colour_of_age(disc.age + 0.25) * (amplitude * disc.bar)[:, None], inside * inside)
        ring = (r - to_B11(disc.bar_length * 1.12)) / to_B11(disc.bar_length * 0.16)
        strength = amplitude * disc.bar * rng.chance(0.35) * rng.uniform(0.05, 0.35)
        canvas.add(colour_of_age(disc.age - 0.35) * strength[:, None], np.exp(-0.5 * ring * ring))

    bulge_q = 1 - 0.45 * (1 - pose.q)
    bulge_flux = disc.flux * disc.bulge
    bulge_radius = h * (0.16 + 0.55 * disc.bulge)
    canvas.add(colour_of_age(disc.age + 0.35), sersic(sky, bulge_flux, bulge_radius, disc.bulge_index, bulge_q))

    # Knots of star formation sit on the ridges: invert the phase for θ at a drawn radius.
    radius_BK = h[:, None] * rng.uniforms(0.9, 3.2, knots)
    arm_BK = np.floor(rng.uniforms(0, 1, knots) * disc.arms[:, None]) * 2 * math.pi + rng.normals(0.45, knots)
    wound_BK = (disc.arms / np.tan(disc.pitch))[:, None] * np.log(radius_BK / disc.bar_length[:, None])
    theta_BK = bar_angle[:, None] + (arm_BK + wound_BK) * (turn / disc.arms)[:, None]
    ku, kv = radius_BK * np.cos(theta_BK), radius_BK * np.sin(theta_BK) * pose.q[:, None]
    ca, sa = np.cos(pose.angle)[:, None], np.sin(pose.angle)[:, None]
    bright = (disc.flux * disc.contrast)[:, None] * np.exp(-radius_BK / (1.6 * h[:, None]))
    luck = rng.uniforms(0.0, 1.0, knots)
    flux_BK = bright * luck * luck * luck * 0.035  # a few bright ones among many faint
    x_BK, y_BK = pose.cx[:, None] + ku * ca - kv * sa, pose.cy[:, None] + ku * sa + kv * ca
    light = canvas.spots(flux_BK, x_BK, y_BK, h[:, None] * rng.uniforms(0.05, 0.14, knots))
    canvas.add(colour_of_age(disc.age - 0.9), light)


def _draw_smooth(rng: RandomNumbers, canvas: Canvas, low_q: float, high_q: float, disky: float) -> None:
    """An elliptical or lenticular: one Sérsic body, and a fainter envelope."""
    pose = _Pose.draw(rng, low_q, high_q, asymmetry=0.015)
    plane = pose.plane(canvas)
    # Flattened smooth galaxies are mostly discs (n near 1), round ones mostly spheroids.
    index = rng.uniform(1.0, 4.5) * (1 - disky) + disky * rng.uniform(0.8, 1.8)
    # A flat galaxy is longer than a round one, but by less than equal areas would ask, to stay in the frame.
    stretch = np.exp(-0.3 * np.log(pose.q))
    radius = rng.log_uniform(0.08, 0.2) * stretch
    flux = flux_within(rng, radius, pose.q, 0.35, 1.8)
    age = rng.uniform(0.45, 1.25) - 0.3 * disky * rng.uniform(0, 1)
    envelope = rng.uniform(0.0, 0.35)
    canvas.add(colour_of_age(age), sersic(plane, flux * (1 - envelope), radius, index, pose.q))
    wide_q = np.minimum(pose.q * 1.15, 1)
    canvas.add(colour_of_age(age - 0.15), sersic(plane, flux * envelope, radius * 1.5, np.ones_like(index), wide_q))


def _draw_round(rng: RandomNumbers, canvas: Canvas) -> None:
    _draw_smooth(rng, canvas, 0.83, 1.0, disky=0.0)


def _draw_in_between(rng: RandomNumbers, canvas: Canvas) -> None:
    _draw_smooth(rng, canvas, 0.46, 0.84, disky=0.3)


def _draw_cigar(rng: RandomNumbers, canvas: Canvas) -> None:
    _draw_smooth(rng, canvas, 0.2, 0.47, disky=0.8)


def _choose_disc(
    rng: RandomNumbers,
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
    """A disc whose numbers are drawn from the ranges of its class; pitch in degrees."""
    h = rng.log_uniform(*length)
    inner = rng.uniform(0.9, 1.7) if bar[1] > 0 else rng.uniform(0.35, 0.7)
    choice = (rng.uniform(0, 1) * len(arms)).astype(np.int64)
    return _Disc(
        length=h,
        flux=flux_within(rng, 1.68 * h, pose.q, 0.25, 1.0),
        bulge=rng.uniform(*bulge),
        bulge_index=rng.uniform(1.2, 3.2),
        arms=np.array(arms, np.float32)[choice],
        pitch=rng.uniform(math.radians(pitch[0]), math.radians(pitch[1])),
        contrast=rng.uniform(*contrast),
        sharpness=rng.uniform(1.0, 3.0),
        raggedness=rng.uniform(0.1, 0.6),
        age=rng.uniform(*age),
        bar=rng.uniform(*bar),
        bar_length=h * inner,
    )


def _draw_barred(rng: RandomNumbers, canvas: Canvas) -> None:
    pose = _Pose.draw(rng, 0.42, 1.0)
    disc = _choose_disc(
        rng,
        pose,
        bulge=(0.04, 0.2),
        arms=(2,),
        pitch=(10, 30),
        contrast=(0.25, 0.95),
        age=(0.35, 0.85),
        bar=(0.5, 2.0),
    )
    _draw_disc_galaxy(rng, canvas, pose, disc)


def _draw_tight_spiral(rng: RandomNumbers, canvas: Canvas) -> None:
    pose = _Pose.draw(rng, 0.42, 1.0)
    disc = _choose_disc(
        rng, pose, bulge=(0.1, 0.4), arms=(2, 2, 3), pitch=(8, 15), contrast=(0.3, 0.9), age=(0.4, 0.95)
    )
    _draw_disc_galaxy(rng, canvas, pose, disc)


def _draw_loose_spiral(rng: RandomNumbers, canvas: Canvas) -> None:
    pose = _Pose.draw(rng, 0.42, 1.0)
    disc = _choose_disc(
        rng, pose, bulge=(0.02, 0.2), arms=(2, 2, 3, 4), pitch=(19, 36), contrast=(0.35, 1.0), age=(0.2, 0.75)
    )
    _draw_disc_galaxy(rng, canvas, pose, disc)


def _draw_edge_on(rng: RandomNumbers, canvas: Canvas, bulge: F32) -> None:
    pose = _Pose.draw(rng, 0.9, 1.0, asymmetry=0.05)
    plane = pose.plane(canvas)
    length = rng.log_uniform(0.13, 0.27)
    height = length * rng.uniform(0.11, 0.26)
    flux = rng.log_uniform(0.45, 1.6) * 2 * math.pi * length * height
    age = rng.uniform(0.3, 1.0)
    clumps = np.exp(to_B11(rng.uniform(0.0, 0.25)) * texture(rng, plane.u, plane.v * 2, 0.8 * length, waves=3))
    canvas.add(colour_of_age(age), edge_on_disc(plane, flux, length, height) * clumps)
    bulge_flux = flux * bulge / (1 - bulge)
    radius = length * (0.14 + 0.75 * bulge)
    canvas.add(
        colour_of_age(age + 0.35), sersic(plane, bulge_flux, radius, rng.uniform(1.2, 3.0), rng.uniform(0.6, 0.95))
    )
    depth = rng.chance(0.6) * rng.uniform(0.3, 1.6)
    offset = (plane.v - to_B11(height * rng.normal(0.25))) / to_B11(height * rng.uniform(0.2, 0.38))
    reach = plane.u / to_B11(length * 2.2)
    canvas.dim(to_B11(depth) * np.exp(-0.5 * offset * offset - reach * reach))


def _draw_edge_on_without_bulge(rng: RandomNumbers, canvas: Canvas) -> None:
    _draw_edge_on(rng, canvas, rng.uniform(0.0, 0.05))


def _draw_edge_on_with_bulge(rng: RandomNumbers, canvas: Canvas) -> None:
    _draw_edge_on(rng, canvas, rng.uniform(0.1, 0.45))


def _draw_disturbed(rng: RandomNumbers, canvas: Canvas) -> None:
    """One galaxy pulled out of shape: lopsided, warped, with tails, shells or a plume."""
    pose = _Pose.draw(rng, 0.45, 1.0, asymmetry=0.0)
    sign = rng.sign()
    pose = replace(pose, lopsided=sign * rng.uniform(0.12, 0.5), warp=rng.sign() * rng.uniform(0.1, 0.9))
    disc = _choose_disc(
        rng,
        pose,
        bulge=(0.05, 0.6),
        arms=(1, 1, 2),
        pitch=(14, 40),
        contrast=(0.1, 0.9),
        age=(0.25, 0.95),
        length=(0.09, 0.17),
    )
    _draw_disc_galaxy(rng, canvas, pose, disc, knots=10)

    level = disc.flux / (2 * math.pi * disc.length**2 * pose.q)
    turn, start = rng.sign(), rng.angle()
    for probability in (0.85, 0.5):
        colour, radius = colour_of_age(disc.age - 0.3) * level[:, None], disc.length * rng.uniform(1.4, 2.4)
        _add_tail(rng, canvas, colour, probability, (pose.cx, pose.cy), start, radius, turn)
        start = start + math.pi + rng.normal(0.5)

    plane = pose.plane(canvas)
    # Shells: a swallowed galaxy's stars pile up where their orbits turn back, sharply on the outer side.
    r = np.sqrt(plane.u * plane.u + plane.v * plane.v) / to_B11(disc.length)
    saw = np.mod(r / to_B11(rng.uniform(1.0, 1.7)) + to_B11(rng.uniform(0, 1)), np.float32(1))
    sector = np.maximum(plane.u * to_B11(sign) / to_B11(disc.length) / (r + 0.2), 0) ** 2
    shells = (saw * saw) ** 2 * sector * np.exp(-((r / 4.6) ** 4) - 0.35 * r) * (r / (r + 1))
    canvas.add(colour_of_age(disc.age + 0.2) * (level * rng.chance(0.4) * rng.uniform(0.2, 0.7))[:, None], shells)

    # A plume of debris to one side, broad and faint.
    direction, distance = rng.angle(), disc.length * rng.uniform(1.8, 3.0)
    cx, cy = pose.cx + distance * np.cos(direction), pose.cy + distance * np.sin(direction)
    debris = canvas.plane(cx, cy, direction + rng.normal(0.6), rng.uniform(-0.4, 0.4))
    share = disc.flux * rng.chance(0.6) * rng.uniform(0.04, 0.2)
    radius, q = disc.length * rng.uniform(0.7, 1.3), rng.uniform(0.3, 0.7)
    # 1e-9: a flux of exactly 0 has no logarithm.
    canvas.add(colour_of_age(disc.age - 0.1), sersic(debris, share + 1e-9, radius, np.full_like(q, 0.7), q))


def _draw_merging(rng: RandomNumbers, canvas: Canvas) -> None:
    """Two galaxies in one envelope, with a bridge between them and a tail from each."""
    direction, separation = rng.angle(), rng.uniform(0.2, 0.52)
    dx, dy = separation * np.cos(direction), separation * np.sin(direction)
    balance = rng.uniform(0.2, 0.55)
    turn, ratio = rng.sign(), rng.log_uniform(0.3, 1.0)
    first_flux, first_age = np.zeros_like(dx), np.zeros_like(dx)
    for which in range(2):
        pose = _Pose.draw(rng, 0.4, 1.0, asymmetry=0.12)
        shift = -balance if which == 0 else 1 - balance
        pose = replace(pose, cx=pose.cx + shift * dx, cy=pose.cy + shift * dy)
        size = (0.07, 0.13) if which == 0 else (0.055, 0.11)
        disc = _choose_disc(
            rng,
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
        _draw_disc_galaxy(rng, canvas, pose, disc, knots=6)
        away = direction + (math.pi if which == 0 else 0.0) + rng.normal(0.5)
        level = disc.flux / (2 * math.pi * disc.length**2 * pose.q)
        colour, radius = colour_of_age(disc.age - 0.25) * level[:, None], disc.length * rng.uniform(1.5, 2.6)
        _add_tail(rng, canvas, colour, 0.75, (pose.cx, pose.cy), away, radius, turn)

    middle = (0.5 - balance).astype(np.float32)
    between = canvas.plane(middle * dx, middle * dy, direction, warp=rng.normal(0.8))
    t, across = between.u / to_B11(separation * 0.55), between.v / to_B11(rng.uniform(0.03, 0.07))
    bridge = np.exp(-((t * t) ** 2) - 0.5 * across * across)
    strength = rng.chance(0.7) * rng.log_uniform(0.03, 0.2)
    canvas.add(colour_of_age(first_age - 0.2) * strength[:, None], bridge)
    halo_q = rng.uniform(0.45, 0.85)
    envelope = canvas.plane(middle * dx, middle * dy, direction + rng.normal(0.5), rng.uniform(-0.3, 0.3))
    share = first_flux * rng.uniform(0.05, 0.4)
    canvas.add(colour_of_age(first_age), sersic(envelope, share, rng.uniform(0.2, 0.34), np.ones_like(share), halo_q))


DRAWN_CLASSES: dict[str, Callable[[RandomNumbers, Canvas], None]] = {
    "disturbed": _draw_disturbed,
    "merging": _draw_merging,
    "round_smooth": _draw_round,
    "in_between_round_smooth": _draw_in_between,
    "cigar_shaped_smooth": _draw_cigar,
    "barred_spiral": _draw_barred,
    "unbarred_tight_spiral": _draw_tight_spiral,
    "unbarred_loose_spiral": _draw_loose_spiral,
    "edge_on_without_bulge": _draw_edge_on_without_bulge,
    "edge_on_with_bulge": _draw_edge_on_with_bulge,
}
"""What draws the galaxies of each class, by the names that Galaxy10 DECaLS gives its classes."""
