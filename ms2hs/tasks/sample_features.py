"""Features of labelled samples: raw bands, converted cubes, coefficients of the prior, tokens of encoders.

An extractor computes cells from windows: one for each pixel, or for each patch of an encoder. The feature of a pixel
sample is the cell in the middle of its window; the feature of an image is the mean over its known cells. For `change`
the features of both dates stand side by side, with the absolute difference, which no linear head could compute.
Windows are read and used in batches; only the features of all samples are held in memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.registry import Cube
from ms2hs.datasets.cubes.spectra_npz import covered_bands, view_matrix
from ms2hs.datasets.pairs.pair_types import apply_responses
from ms2hs.errors import DataError
from ms2hs.inference.predictor import Predictor
from ms2hs.models.moments import scale_of
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import Weights
from ms2hs.progress import Progress
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_reader import open_labels
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.tasks.task_encoder import TaskEncoder

# Bytes of the windows of a batch, and most windows in it.
BATCH_BYTES, MOST_WINDOWS = 1 << 24, 256
# Mean reflectance below which spectra count as equally bright.
DARK = 0.01

Cells = Callable[[Float32Array, BoolArray], Float32Array]
"""From (window, band, row, col) reflectance, 0 where not valid, and (window, row, col) valid to (window, value, row of
cells, column of cells)."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """Computes a feature from windows."""

    cells: Cells
    patch: int = 1
    """Side of a cell in pixels."""
    side: int = 1
    """Side in pixels of the window around a pixel."""
    bands: NDArray[np.intp] | None = None
    """Positions of the bands that it uses; None: all."""
    has_spread: bool = False
    """Whether the feature is mean and standard deviation over all cells, also of a pixel's window."""


def raw_bands() -> Extractor:
    """The reflectance of a pixel, or the mean of an image."""
    return Extractor(lambda reflectance, _valid: reflectance)


def scaled_bands() -> Extractor:
    """The logarithm of the mean over bands, and the bands divided by it: shape and brightness without any model."""

    def cells(reflectance: Float32Array, _valid: BoolArray) -> Float32Array:
        scale = scale_of(reflectance.mean(axis=1, keepdims=True), DARK)
        return np.concatenate([np.log(scale), reflectance / scale], axis=1).astype(np.float32)

    return Extractor(cells)


def mean_and_spread(side: int) -> Extractor:
    """The mean and standard deviation of the bands in a window, without any model."""
    return Extractor(lambda reflectance, _valid: reflectance, side=side, has_spread=True)


def prior_coefficients(prior: SpectralPrior, grid: SpectralGrid) -> Extractor:
    """The logarithm of the scale, and the expected coefficients of the prior's directions for a spectrum of scale 1.

    E[z|x] = Fᵀ R_sᵀ (R_s Σ R_sᵀ + N)⁻¹ x, with one Σ for all land covers, as in `models.prior_tensors`.
    """
    bands, grid = _known_bands(prior, grid)
    to_source = response_matrix(grid, prior.wavelength_nm)
    noise = np.diag(np.square(prior.source_noise(grid.wavelength_nm)))
    seen = prior.between(to_source, to_source) + noise
    gain = np.linalg.solve(seen, to_source @ prior.factors.astype(float)).T
    brightness = prior.condition(grid, grid).brightness

    def cells(reflectance: Float32Array, _valid: BoolArray) -> Float32Array:
        scale = scale_of(np.einsum("b,nbrc->nrc", brightness, reflectance), prior.floor)[:, None]
        coefficients = np.einsum("kb,nbrc->nkrc", gain, reflectance / scale)
        return np.concatenate([np.log(scale), coefficients], axis=1).astype(np.float32)

    return Extractor(cells, bands=bands)


def prior_cube(prior: SpectralPrior, grid: SpectralGrid, target: SpectralGrid) -> Extractor:
    """The cube that `convert` computes with the linear model."""
    bands, grid = _known_bands(prior, grid)
    posterior = prior.condition(grid, target)

    def cells(reflectance: Float32Array, _valid: BoolArray) -> Float32Array:
        return posterior.reconstruct(reflectance.swapaxes(0, 1)).swapaxes(0, 1)

    return Extractor(cells, bands=bands)


def network_cube(weights: Weights, grid: SpectralGrid, target: SpectralGrid) -> Extractor:
    """The cube that `convert` computes with a network, of input without errors."""
    assert weights.network is not None  # noqa: S101  called only for networks
    bands, grid = _known_bands(weights.prior, grid)
    predictor = Predictor(weights.network, grid, target)

    def cells(reflectance: Float32Array, valid: BoolArray) -> Float32Array:
        predicted: Float32Array = predictor.reconstruct_tensor(*map(torch.from_numpy, (reflectance, valid))).numpy()
        return predicted

    return Extractor(cells, side=predictor.patch, bands=bands)


def encoder_tokens(encoder: TaskEncoder) -> Extractor:
    """The tokens of a frozen encoder, one for each patch."""
    encoder.eval()

    @torch.inference_mode()
    def cells(reflectance: Float32Array, valid: BoolArray) -> Float32Array:
        tokens: Tensor = encoder(*map(torch.from_numpy, (reflectance, valid)))
        values: Float32Array = tokens.permute(0, 3, 1, 2).float().numpy()
        return values

    return Extractor(cells, encoder.patch, encoder.patch)


def _known_bands(prior: SpectralPrior, grid: SpectralGrid) -> tuple[NDArray[np.intp], SpectralGrid]:
    """The bands with centres at wavelengths of the prior."""
    low, high = prior.wavelength_nm[0], prior.wavelength_nm[-1]
    bands = np.flatnonzero((grid.wavelength_nm >= low) & (grid.wavelength_nm <= high))
    return bands, grid.select(bands)


def extract(
    label_set: LabelSet,
    samples: NDArray[np.intp],
    extractors: Mapping[str, Extractor],
    progress: Progress | None = None,
) -> tuple[dict[str, Float32Array], BoolArray]:
    """(sample, value) of each extractor, and (sample,) whether a sample has reflectance in every band.

    The reflectance must be known at the pixel, or somewhere in the image of each date; otherwise the values are 0.

    Raises
    ------
    Ms2hsError : an image cannot be read.
    """
    parts: dict[str, list[Float32Array]] = {name: [] for name in extractors}
    dates, usable, done = len(label_set.images[0]), [], 0
    whole = label_set.whole_images
    for windows in _batches(label_set, samples, max(extractor.side for extractor in extractors.values())):
        pixels = windows if whole else middle(windows, 1)
        finite = np.isfinite(pixels).all(axis=1).reshape(len(pixels), -1)  # (window, pixel)
        is_known = np.asarray(finite.any(axis=1).reshape(-1, dates).all(axis=1))
        for name, extractor in extractors.items():
            values = windows if whole else middle(windows, extractor.side)
            valid = np.asarray(np.isfinite(values).all(axis=1))
            reflectance = np.where(valid[:, None], values, np.float32(0))
            if extractor.bands is not None:
                reflectance = reflectance[:, extractor.bands]
            cells = extractor.cells(reflectance, valid)
            known = known_share(valid, extractor.patch)
            features = _spread_of(cells, known) if extractor.has_spread else pooled(cells, known, whole=whole)
            joined = _joined(features.reshape(-1, dates, features.shape[1]))
            parts[name].append(np.where(is_known[:, None], joined, np.float32(0)))
        usable.append(is_known)
        done += len(is_known)
        if progress:
            progress("features", done, len(samples))
    return {name: np.concatenate(batches) for name, batches in parts.items()}, np.concatenate(usable)


def pooled(cells: Float32Array, known: Float32Array, *, whole: bool) -> Float32Array:
    """(window, value) of the cell in the middle, or of whole images the mean weighted by the known share of each cell.

    Parameters
    ----------
    cells : (window, value, row, col).
    known : (window, row, col) share of valid pixels in each cell, 0-1.
    """
    if not whole:
        return cells[:, :, cells.shape[2] // 2, cells.shape[3] // 2]
    weight = known / np.maximum(known.sum(axis=(1, 2), keepdims=True), np.float32(1e-6))
    mean: Float32Array = np.einsum("nvrc,nrc->nv", cells, weight)
    return mean


def _spread_of(cells: Float32Array, known: Float32Array) -> Float32Array:
    """(window, 2 · value) mean and standard deviation over the known cells; arguments as of `pooled`."""
    mean = pooled(cells, known, whole=True)
    variance = pooled(np.square(cells - mean[:, :, None, None]), known, whole=True)
    return np.concatenate([mean, np.sqrt(variance)], axis=1)


def _batches(label_set: LabelSet, samples: NDArray[np.intp], side: int) -> Iterator[Float32Array]:
    """(sample · date, band, row, col) windows of the samples in order; windows of a batch have one shape."""
    batch: list[Float32Array] = []
    for sample in samples:
        window = label_set.read(int(sample), side)
        most = min(MOST_WINDOWS, max(1, BATCH_BYTES // window.nbytes))
        if batch and (len(batch) >= most or batch[0].shape != window.shape):
            yield np.concatenate(batch)
            batch = []
        batch.append(window)
    if batch:
        yield np.concatenate(batch)


def middle(windows: Float32Array, side: int) -> Float32Array:
    """The part of windows of any side around the pixel at `side // 2` of each."""
    start = windows.shape[2] // 2 - side // 2
    return windows[:, :, start : start + side, start : start + side]


def known_share(valid: BoolArray, patch: int) -> Float32Array:
    """(window, row of cells, column of cells) share of valid pixels in each cell; pixels beyond the edge are not."""
    rows, cols = valid.shape[1:]
    padded = np.pad(valid, ((0, 0), (0, -rows % patch), (0, -cols % patch)))
    blocks = padded.reshape(len(valid), padded.shape[1] // patch, patch, padded.shape[2] // patch, patch)
    share: Float32Array = blocks.mean(axis=(2, 4), dtype=np.float32)
    return share


def _joined(features: Float32Array) -> Float32Array:
    """(sample, value) of (sample, date, value): of two dates with their absolute difference."""
    if features.shape[1] == 1:
        return features[:, 0]
    before, after = features[:, 0], features[:, 1]
    return np.concatenate([before, after, np.abs(after - before)], axis=1)


@dataclass(frozen=True, eq=False)
class SimulatedCube:
    """A hyperspectral cube as a multispectral sensor would measure it, without errors."""

    cube: Cube
    grid: SpectralGrid
    """The bands of the sensor that the cube covers, in ascending wavelength."""
    weights: Float32Array
    """(band, band of the cube)."""

    @property
    def name(self) -> str:
        """As of the cube."""
        return self.cube.name

    @property
    def scene(self) -> str:
        """As of the cube."""
        return self.cube.scene

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.cube.shape

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window; errors as of `Cube.read`."""
        return apply_responses(self.weights, self.cube.read(row, col, height, width))


def open_samples(options: LabelOptions) -> LabelSet:
    """Labelled samples; the bands of a `source` that is not the sensor of the images are simulated.

    Errors as of `open_labels` and `simulated`.
    """
    label_set = open_labels(options)
    if options.source and options.source != label_set.sensor:
        label_set = simulated(label_set, options.source)
    return label_set


def simulated(label_set: LabelSet, sensor: str) -> LabelSet:
    """The labelled samples as measured by a multispectral sensor: its bands that the images cover.

    Raises
    ------
    UnknownName : no such sensor.
    DataError : the images cover less than two of its bands.
    """
    known = load_sensor(sensor).grid
    own = label_set.grid.wavelength_nm
    order = np.argsort(known.wavelength_nm, kind="stable")
    order = order[covered_bands(own, known.select(order))]
    if len(order) < 2:
        raise DataError(
            f"{label_set.name}: its bands at {own[0]:.0f}-{own[-1]:.0f} nm cover {len(order)} of {len(known)} bands of "
            f"{sensor}; 2 or more are needed. Use --source with another sensor, or leave it out."
        )
    grid = known.select(order)
    weights = view_matrix(grid, own).astype(np.float32)
    images = [tuple(SimulatedCube(cube, grid, weights) for cube in cubes) for cubes in label_set.images]
    return replace(label_set, images=images, grid=grid, sensor=sensor)
