"""The sky around mock galaxies, the telescope and the display; shapes and units as in `canvas`.

Source
    Display: asinh stretch that keeps colours, Lupton et al. (2004, PASP 116, 133).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from astroformer.images.sets.mock.canvas import F32, Canvas, RandomNumbers, colour_of_age, to_B11
from astroformer.images.sets.mock.profiles import flux_within, sersic

# Below this many pixels a side, cusps and thin discs are drawn on a finer grid and averaged.
_DRAWING_SIZE = 48
# Seeing is worse in the blue.
_SEEING = np.array([0.92, 1.0, 1.1], np.float32)
# Sky noise of the bands, relative: z is the shallowest.
_DEPTH = np.array([1.12, 0.95, 1.0], np.float32)


def oversampling_of(size: int) -> int:
    """Pixels a side of the drawing grid for each pixel of the image."""
    return -(-_DRAWING_SIZE // size)


def _draw_field(rng: RandomNumbers, canvas: Canvas, seeing: F32) -> None:
    """Two neighbours by projection (in some images), faint round galaxies and stars."""
    for probability in (0.35, 0.2):
        present = rng.chance(probability)
        r, angle, turned = rng.uniform(0.3, 1.05), rng.angle(), rng.angle()
        q, radius = rng.uniform(0.3, 1.0), rng.log_uniform(0.025, 0.075)
        flux, index, colour = (
            flux_within(rng, radius, q, 0.2, 1.2),
            rng.uniform(0.8, 2.5),
            colour_of_age(rng.uniform(0.1, 1.3)),
        )
        rows = np.flatnonzero(present)
        plane = canvas.plane((r * np.cos(angle))[rows], (r * np.sin(angle))[rows], turned[rows])
        canvas.add_to(rows, colour, sersic(plane, flux[rows], radius[rows], index[rows], q[rows]))
    count = 9
    crowd = rng.uniform(0.05, 0.6)[:, None]
    present_BK = (rng.uniforms(0, 1, count) < crowd).astype(np.float32)
    x_BK, y_BK = rng.uniforms(-1, 1, count), rng.uniforms(-1, 1, count)
    flux_BK = present_BK * np.exp(rng.uniforms(math.log(3e-4), math.log(0.012), count))
    # Stars come in all colours; a third of the sources are galaxies, a little extended.
    age_BK = rng.uniforms(-0.2, 1.4, count)
    extended_BK = np.where(rng.uniforms(0, 1, count) < 0.35, rng.uniforms(0.01, 0.03, count), np.float32(0))
    canvas.stars(colour_of_age(age_BK), flux_BK, x_BK, y_BK, extended_BK)
    # One brighter star in some images, with the wide wings of the point spread.
    flux_BK = rng.chance(0.12)[:, None] * np.exp(rng.uniforms(math.log(0.01), math.log(0.08), 1))
    x_BK, y_BK, age_BK = rng.uniforms(-1, 1, 1), rng.uniforms(-1, 1, 1), rng.uniforms(-0.3, 1.5, 1)
    canvas.stars(colour_of_age(age_BK), flux_BK, x_BK, y_BK, np.zeros_like(flux_BK))
    canvas.stars(colour_of_age(age_BK), 0.15 * flux_BK, x_BK, y_BK, 3.0 * seeing[:, None])


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
        taps = [to_B11(weights[:, c, k]) for k in range(radius + 1)]
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


def render_class(
    draw_galaxy: Callable[[RandomNumbers, Canvas], None], label: int, size: int, seed: int, indices: Sequence[int]
) -> NDArray[np.uint8]:
    """Draws some images of one class together.

    Args:
        draw_galaxy: draws the galaxies of this class.
        label: number of the class, of which the random numbers are a function too.
        size: pixels a side.
        seed: which set of galaxies.
        indices: B numbers of images within that set.

    Returns:
        (B, size, size, 3) uint8.
    """
    generators = [
        np.random.Generator(np.random.Philox(counter=[0, 0, 0, label], key=[seed, index])) for index in indices
    ]
    rng = RandomNumbers(generators)
    oversampling = oversampling_of(size)
    canvas = Canvas(len(indices), size * oversampling)

    # What all classes share is drawn first, so that a class's own numbers never shift it.
    seeing = rng.uniform(0.013, 0.026)
    noise = rng.log_uniform(0.012, 0.035)
    tint = np.exp(rng.normals(0.025, 3))
    pedestal = rng.uniform(0.005, 0.03)
    draw_galaxy(rng, canvas)
    _draw_field(rng, canvas, seeing)

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
