"""Random fields and shapes of land: power-law noise, parcels, Voronoi cells and lines, and blur. Lengths in pixels."""

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array, FloatArray

Shape = tuple[int, int]


def fit_to_shape(values: Float32Array, shape: Shape, rng: np.random.Generator) -> Float32Array:
    """(band, *shape) a random part of `values` (band, row, col), turned or mirrored; extended by mirroring if small."""
    if rng.uniform() < 0.5:
        values = values.swapaxes(1, 2)
    values = values[:, :: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    for axis, length in enumerate(shape, start=1):
        missing = max(length - values.shape[axis], 0)
        pad = [(0, 0)] * 3
        pad[axis] = (missing // 2, missing - missing // 2)
        values = np.pad(values, pad, mode="symmetric")
        begin = int(rng.integers(values.shape[axis] - length + 1))
        values = values.take(range(begin, begin + length), axis=axis)
    return np.ascontiguousarray(values)


def smooth_noise(shape: Shape, slope: float, rng: np.random.Generator) -> FloatArray:
    """(*shape) noise of unit variance whose amplitude is proportional to frequency ** -slope (Fourier synthesis)."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=shape)) * frequency**-slope
    noise = np.fft.irfft2(spectrum, s=shape)
    return np.asarray((noise - noise.mean()) / noise.std())


def blur(values: Float32Array, sigma: float) -> Float32Array:
    """(..., row, col) convolved with a Gaussian of standard deviation `sigma` pixels, mirrored at the edges."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (values.ndim - 2, values.ndim - 1):
        pad = [(0, 0)] * values.ndim
        pad[axis] = (reach, reach)
        padded = np.pad(values, pad, mode="symmetric")
        length = values.shape[axis]
        values = sum(
            weight * padded[(slice(None),) * axis + (slice(k, k + length),)] for k, weight in enumerate(kernel)
        )
    return values


def rotated(shape: Shape, angle: float) -> tuple[FloatArray, FloatArray]:
    """(*shape) coordinates of the pixels along and across a direction."""
    rows, cols = np.mgrid[0 : shape[0], 0 : shape[1]]
    return rows * np.cos(angle) + cols * np.sin(angle), cols * np.cos(angle) - rows * np.sin(angle)


def parcels(shape: Shape, length: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """(*shape) number of the parcel, from 0: rows of rectangles, `length` long on average, as in open farmland."""
    along, across = rotated(shape, rng.uniform(0, np.pi))
    across = across + 0.04 * length * smooth_noise(shape, 2.5, rng)  # lanes follow the land
    strip = _steps(across, length * rng.uniform(0.35, 0.9), rng)
    shifted = along + rng.uniform(0, length, strip.max() + 1)[strip]
    column = _steps(shifted, length, rng)
    return np.unique(strip * (column.max() + 1) + column, return_inverse=True)[1].reshape(shape)


def _steps(position: FloatArray, length: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The interval that each position lies in; intervals are `length` long on average, from a third to 1.67 of it."""
    low, high = float(position.min()), float(position.max())
    edges = low + np.cumsum(length * rng.uniform(0.33, 1.67, int(3 * (high - low) / length) + 3))
    return np.searchsorted(edges, position)


def cells(shape: Shape, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(*shape) number of the Voronoi cell, from 0, among `count` cells with frayed edges."""
    along, across = rotated(shape, rng.uniform(0, np.pi))
    stretch = rng.uniform(1, 2)
    frayed = 0.08 * np.sqrt(shape[0] * shape[1] / count)
    points = np.stack([along * stretch, across]).astype(np.float32)
    points += (frayed * np.stack([smooth_noise(shape, 1.6, rng) for _ in range(2)])).astype(np.float32)
    flat = points.reshape(2, -1)
    centres = flat[:, rng.choice(flat.shape[1], count, replace=False)]
    distance = np.square(centres).sum(axis=0)[:, None] - 2 * centres.T @ flat
    return np.asarray(distance.argmin(axis=0).reshape(shape))


def line(shape: Shape, width: float, bend: float, rng: np.random.Generator) -> FloatArray:
    """(*shape) share, 0-1, of each pixel under a road or river: `width` wide, and up to about `bend` off straight."""
    along, across = rotated(shape, rng.uniform(0, np.pi))
    deviation = np.zeros(2 * sum(shape) + 1)
    phase, wave = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.3, 1.5, 4) * max(shape)
    position = np.arange(len(deviation)) - sum(shape)
    for part in range(4):
        deviation += bend / 2 * np.sin(2 * np.pi * position / wave[part] + phase[part])
    centre = rng.uniform(across.min() * 0.7, across.max() * 0.7)
    distance = np.abs(across - centre - np.interp(along, position, deviation))
    return np.asarray(np.clip((width + 1) / 2 - distance, 0, min(width, 1)))
