"""Random samples of pairs, scene by scene, for statistics; the same seed gives the same samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.pairs.pair_types import Pair
from ms2hs.models.denoising import denoise
from ms2hs.spectra.product_error import InputError
from ms2hs.spectra.spectral_grid import SpectralGrid

# Side of a window in pixels.
WINDOW_SIDE = 64
# Windows are read until both numbers are reached for a scene.
MIN_WINDOWS, MIN_WINDOW_PIXELS = 24, 4000
# Pixels of those windows that a sample keeps.
MAX_SAMPLE_PIXELS = 2000
# Windows that models are evaluated on: side in pixels, least number for a place, and evaluated pixels of a place.
HELD_OUT_SIDE, HELD_OUT_WINDOWS, HELD_OUT_PIXELS = 128, 4, 1000


@dataclass(frozen=True, eq=False)
class Sample:
    """Pixels of one scene and source sensor."""

    scene: str
    sensor: str
    is_simulated: bool
    source: SpectralGrid
    target: SpectralGrid
    measured: Float32Array
    """(source band, pixel) reflectance, all known."""
    truth: Float32Array
    """(target band, pixel) reflectance, NaN = unknown."""


def by_scene(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs grouped by scene, source and target, sorted by scene."""
    groups: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        grids = (pair.source, pair.target)
        key = (pair.scene, pair.sensor, str(pair.is_simulated), *(str(grid.wavelength_nm.tolist()) for grid in grids))
        groups.setdefault(key, []).append(pair)
    return [groups[key] for key in sorted(groups)]


def windows_of(
    pairs: Sequence[Pair], seed: int, side: int = WINDOW_SIDE, least: int = MIN_WINDOWS
) -> Iterator[tuple[Pair, Float32Array, Float32Array]]:
    """Random windows of one scene: the pair, and (source band, row, col) and (target band, row, col) reflectance.

    Parameters
    ----------
    side : of a window, in pixels.
    least : windows, if the pairs have as many; more where these have fewer than `MIN_WINDOW_PIXELS`.
    """
    rng = np.random.default_rng(seed)
    windows = pixels = 0
    for index in rng.permutation(len(pairs)):
        if windows >= least and pixels >= MIN_WINDOW_PIXELS:
            return
        pair = pairs[int(index)]
        rows, cols = pair.shape
        count = max(1, least // len(pairs))
        height, width = min(side, rows), min(side, cols)
        corners = {(int(rng.integers(rows - height + 1)), int(rng.integers(cols - width + 1))) for _ in range(count)}
        for row, col in sorted(corners):
            windows, pixels = windows + 1, pixels + height * width
            yield pair, *pair.read(row, col, height, width)


def sample_pixels(pairs: Sequence[Pair], seed: int = 0) -> list[Sample]:
    """Random pixels of every scene that has known pixels; Ms2hsError if a pair cannot be read."""
    rng, samples = np.random.default_rng(seed), []
    for group in by_scene(pairs):
        parts = []
        for _, measured, truth in windows_of(group, seed):
            known = np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0)
            parts.append((measured[:, known], truth[:, known]))
        measured, truth = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
        chosen = np.sort(rng.permutation(measured.shape[1])[:MAX_SAMPLE_PIXELS])
        if len(chosen):
            first = group[0]
            facts = (first.scene, first.sensor, first.is_simulated, first.source, first.target)
            samples.append(Sample(*facts, measured[:, chosen], truth[:, chosen]))
    return samples


class Kind(NamedTuple):
    """A kind of input that models are evaluated with."""

    error: InputError
    """Errors of the source's bands."""
    given: bool = True
    """Whether the models know these errors, as with `convert --input-error`."""
    draws: int = 1
    """Random errors of each window."""


@dataclass(frozen=True, eq=False)
class HeldOutWindow:
    """A window of a place that models were trained without, and its pixels that are evaluated."""

    measured: Float32Array
    """(source band, row, col) reflectance with errors, 0 where not valid."""
    valid: BoolArray
    """(row, col)."""
    assumed: InputError
    """Errors that the models are given."""
    pixels: NDArray[np.intp]
    """(pixel,) index into the flat window."""
    truth: Float32Array
    """(target band, pixel) reflectance, NaN = unknown."""

    def at_pixels(self, values: Float32Array) -> Float32Array:
        """(band, pixel) of values (band, row, col)."""
        return values.reshape(len(values), -1)[:, self.pixels]


def held_out_windows(
    pairs: Sequence[Pair],
    kinds: Mapping[str, Kind],
    scale: Callable[[Float32Array], Float32Array],
    seed: int,
    pixels: int = HELD_OUT_PIXELS,
) -> dict[str, list[HeldOutWindow]]:
    """Windows of a place for each kind of input, with the same pixels in each kind.

    Each window is a scene with errors of its own. Noise that is given is filtered, as in `convert`.

    Parameters
    ----------
    pairs : simulated, of one place, source and target.
    scale : (...) the scale of spectra (source band, ...), which measured errors of a product are relative to.
    pixels : of the place.
    """
    rng = np.random.default_rng(seed)
    read = list(windows_of(pairs, seed, HELD_OUT_SIDE, HELD_OUT_WINDOWS))
    result: dict[str, list[HeldOutWindow]] = {kind: [] for kind in kinds}
    for pair, measured, truth in read:
        valid = np.asarray(np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0), bool)
        chosen = rng.permutation(np.flatnonzero(valid))[: -(-pixels // len(read))]
        exact = np.where(valid, measured, np.float32(0))
        for name, kind in kinds.items() if len(chosen) else ():
            assumed = kind.error if kind.given else InputError()
            for _ in range(kind.draws):
                values = kind.error.disturb(exact, scale(exact), pair.source.wavelength_nm, rng)
                values = denoise(values, valid, assumed.pixel) if assumed.pixel else values
                own = truth.reshape(len(truth), -1)[:, chosen]
                result[name].append(HeldOutWindow(values, valid, assumed, chosen, own))
    return result
