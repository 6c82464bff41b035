"""The overlap of a hyperspectral cube and a multispectral scene: registered, compared, and read in windows.

The cube's pixels are kept. From the cube the expected red and near-infrared bands of the scene are computed; their
shift against the scene is measured in several windows, corrected, and measured again.
"""

from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.cubes.georeferenced import GeoreferencedCube
from ms2hs.datasets.cubes.spectra_npz import covered_bands, view_matrix
from ms2hs.datasets.pairs.coregistration import Shift, shift_between
from ms2hs.datasets.pairs.pair_types import apply_responses
from ms2hs.datasets.pairs.radiometric_check import BandComparison, compare_bands
from ms2hs.datasets.pairs.warping import displaced, overlap, read_onto
from ms2hs.datasets.pairs.writer import PairWindow
from ms2hs.errors import DataError
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.tiling import Window
from ms2hs.scenes.reader import SceneReader

# Red and near infrared: bands with high contrast on land, which every sensor has.
REGISTERED_NM = (665.0, 865.0)
# Number of random windows in which the shift is measured.
MAX_PROBES = 9
# Correlation after the shift below which an estimate is ignored.
MIN_CORRELATION = 0.5
# Shift in pixels beyond which products are refused: they show different ground, or a georeference is wrong.
MAX_SHIFT = 2.0
# The shift is measured again after each correction, because the windows then have other content.
CORRECTIONS = 2
# Windows with a smaller share of valid pixels are left out.
MIN_VALID_SHARE = 0.8
# A pixel of a cube is known if this share of its bands is: some products lack single bands everywhere.
MIN_KNOWN_BANDS = 0.5
# Standard deviation of a Gaussian over its median absolute deviation.
SIGMA_PER_DEVIATION = 1.4826


@dataclass(frozen=True)
class Registration:
    """The shift of the scene against the cube, in pixels of the cube; rows count down, columns to the right."""

    row: float
    """Correction by which the scene is moved in the pairs."""
    col: float
    residual_row: float
    """Shift that remains after the correction."""
    residual_col: float
    spread: float
    """Robust standard deviation of the residual estimates, in pixels; NaN for a single estimate."""
    correlation: float
    """Median over the estimates."""
    estimates: int
    """Number of estimates: one for each window and band that correlates."""

    @property
    def residual(self) -> float:
        """Length of the remaining shift, in pixels."""
        return float(np.hypot(self.residual_row, self.residual_col))


@dataclass(frozen=True, eq=False)
class Probe:
    """A window in which the shift is measured."""

    window: Window
    expected: Float32Array
    """(source band, row, col) reflectance that the cube predicts for the scene, NaN where unknown."""


class Overlap:
    """The part of a cube that a scene covers, read in windows on the cube's pixel grid."""

    def __init__(self, cube: GeoreferencedCube, reader: SceneReader) -> None:
        """Find the common pixels and bands; no pixel is read.

        The reader is open, on the scene's own pixel grid. DataError if cube and scene have no common pixels or bands.
        """
        self.cube, self.reader, self.source = cube, reader, reader.scene.spectral
        self.shift = (0.0, 0.0)
        """Correction of the scene in pixels of the cube: down, and to the right."""
        part = overlap(cube.pixel_grid, reader.grid)
        own = cube.cube.grid.wavelength_nm
        self.covered = covered_bands(own, self.source)
        if part is None or not self.covered.any():
            problem = "no common pixels" if part is None else "the cube covers none of the scene's bands"
            raise DataError(f"{problem}; common ground and bands are needed. Give other products.")
        self.part = Window(*part)
        self._responses = view_matrix(self.source.select(self.covered), own).astype(np.float32)

    def windows(self, size: int) -> list[Window]:
        """Evenly spaced windows of one size over the overlap; smaller only if the overlap is.

        Along a side they are as many as the side divided by the size, rounded; they overlap, or leave gaps of at most
        half a window in total.
        """
        part = self.part
        rows, cols = _starts(part.height, size), _starts(part.width, size)
        height, width = min(size, part.height), min(size, part.width)
        return [Window(part.row + row, part.col + col, height, width) for row in rows for col in cols]

    def cut(self, window: Window) -> PairWindow:
        """The reflectance of both in a window; SceneError or DataError if a file is damaged."""
        truth = self.cube.read(window.row, window.col, window.height, window.width)
        known = np.isfinite(truth).mean(axis=0) >= MIN_KNOWN_BANDS
        measured, valid = self._read_scene(window)
        return PairWindow(self._pixel_grid(window), self.source, measured, self.cube.cube.grid, truth, valid & known)

    def _pixel_grid(self, window: Window) -> PixelGrid:
        return self.cube.pixel_grid.crop(window.row, window.col, window.height, window.width)

    def _read_scene(self, window: Window) -> tuple[Float32Array, BoolArray]:
        return read_onto(self.reader, displaced(self._pixel_grid(window), -self.shift[0], -self.shift[1]))

    def expected(self, truth: Float32Array) -> Float32Array:
        """(source band, row, col) reflectance of the cube in the scene's bands, NaN where unknown."""
        expected = np.full((len(self.source), *truth.shape[1:]), np.nan, np.float32)
        expected[self.covered] = apply_responses(self._responses, truth)
        return expected

    def probes(self, windows: list[Window], seed: int) -> list[Probe]:
        """Random windows, at most `MAX_PROBES`, that are valid enough for a pair; DataError if no window is."""
        chosen: list[Probe] = []
        best = 0.0
        for i in np.random.default_rng(seed).permutation(len(windows)):
            cut = self.cut(windows[i])
            best = max(best, float(cut.valid.mean()))
            if cut.valid.mean() >= MIN_VALID_SHARE:
                chosen.append(Probe(windows[i], np.where(cut.valid, self.expected(cut.truth), np.nan)))
            if len(chosen) == MAX_PROBES:
                break
        if not chosen:
            raise DataError(
                f"all {len(windows)} windows have less than {MIN_VALID_SHARE:.0%} valid pixels (the best {best:.0%}); "
                "the rest is cloud or nodata, or lies outside the scene. Give a clearer scene, or use a smaller "
                "--window."
            )
        return chosen

    def register(self, probes: list[Probe]) -> Registration:
        """Measure the shift of the scene, correct it, and measure the residual.

        DataError if cube and scene do not correlate, or the shift is more than `MAX_SHIFT`.
        """
        self.shift = (0.0, 0.0)
        estimates = self._estimates(probes)
        for _ in range(CORRECTIONS):
            row, col, _ = np.median(estimates, axis=0)
            self.shift = (self.shift[0] + float(row), self.shift[1] + float(col))
            if max(map(abs, self.shift)) > MAX_SHIFT:
                raise DataError(
                    f"the scene is shifted by {self.shift[0]:+.2f} rows and {self.shift[1]:+.2f} columns; at most "
                    f"{MAX_SHIFT:g} pixels are corrected. Check the georeference of both."
                )
            estimates = self._estimates(probes)
        row, col, correlation = np.median(estimates, axis=0)
        deviation = np.median(np.abs(estimates[:, :2] - (row, col)), axis=0).max()
        spread = SIGMA_PER_DEVIATION * float(deviation) if len(estimates) > 1 else float("nan")
        return Registration(*self.shift, float(row), float(col), spread, float(correlation), len(estimates))

    def _estimates(self, probes: list[Probe]) -> FloatArray:
        """(estimate, 3) row, column and correlation for each probe and band that correlates."""
        covered = np.flatnonzero(self.covered)
        centres = self.source.wavelength_nm[covered]
        bands = sorted({int(covered[np.argmin(np.abs(centres - nm))]) for nm in REGISTERED_NM})
        shifts: list[Shift] = []
        for probe in probes:
            measured, valid = self._read_scene(probe.window)
            candidates = [shift_between(probe.expected[band], measured[band], valid) for band in bands]
            shifts += [shift for shift in candidates if shift and shift.correlation >= MIN_CORRELATION]
        if not shifts:
            raise DataError(
                f"cube and scene do not match: correlation below {MIN_CORRELATION:g} in each of {len(probes)} windows, "
                "so the shift cannot be measured. Check the georeference of both."
            )
        return np.array([(shift.row, shift.col, shift.correlation) for shift in shifts])

    def compare(self, probes: list[Probe]) -> BandComparison:
        """The scene's reflectance, after correction, against that expected from the cube."""
        measured, expected = [], []
        for probe in probes:
            values, valid = self._read_scene(probe.window)
            measured.append(values[:, valid])
            expected.append(probe.expected[:, valid])
        return compare_bands(np.concatenate(measured, axis=1), np.concatenate(expected, axis=1), self.source)


def _starts(length: int, size: int) -> list[int]:
    count = max(1, round(length / size))
    return sorted({int(start) for start in np.linspace(0, max(0, length - size), count).round()})
