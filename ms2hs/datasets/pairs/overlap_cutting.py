"""A hyperspectral cube and a multispectral scene of the same ground: read together, and laid on each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.georeferenced import GeoreferencedCube
from ms2hs.datasets.cubes.spectra_npz import reach, view_matrix
from ms2hs.datasets.pairs.coregistration import Shift, shift_between
from ms2hs.datasets.pairs.pair_types import seen_through
from ms2hs.datasets.pairs.radiometric_check import Agreement, agreement_of
from ms2hs.datasets.pairs.warping import displaced, overlap, read_onto
from ms2hs.datasets.pairs.writer import Cut
from ms2hs.errors import DataError
from ms2hs.raster.tiling import Window
from ms2hs.scenes.reader import SceneReader

# Red and near infrared: the bands that show most of what is on land, and that every sensor has.
REGISTERED_NM = (665.0, 865.0)
# At most so many windows tell the shift, spread over the overlap at random.
MOST_PROBES = 9
# Images that resemble each other less, once they are laid on each other, tell no shift.
LEAST_CORRELATION = 0.5
# Beyond this, in pixels, products are refused: it is no error of registration but another place.
LARGEST_SHIFT = 2.0
# The shift is measured again after each correction, since what moves in and out of the windows matters too.
CORRECTIONS = 2
# A pair of which less is valid teaches too little for its size.
LEAST_VALID = 0.8
# A pixel of a cube is known where at least half of its bands are: some products lack single bands everywhere.
LEAST_BANDS = 0.5
# The median deviation of Gaussian numbers in standard deviations.
SIGMA_PER_DEVIATION = 1.4826


@dataclass(frozen=True)
class Registration:
    """How the scene lay on the cube, in pixels of the cube; rows count down, columns to the right."""

    row: float
    """The scene is moved by so much, and is so in the pairs."""
    col: float
    residual_row: float
    """Measured again after that."""
    residual_col: float
    spread: float
    """Standard deviation (robust) of the estimates that the residual is the median of; NaN of a single one."""
    correlation: float
    """Median over estimates."""
    estimates: int
    """Windows times bands that told."""

    @property
    def residual(self) -> float:
        """How far they are apart still, in pixels."""
        return float(np.hypot(self.residual_row, self.residual_col))


@dataclass(frozen=True, eq=False)
class Probe:
    """A window that tells how the scene lies: what the cube says that the scene's bands should see."""

    window: Window
    expected: Float32Array
    """(source band, row, col), NaN where unknown."""


class Overlap:
    """The part of a cube that a scene covers, read window by window on the cube's pixels."""

    def __init__(self, cube: GeoreferencedCube, reader: SceneReader) -> None:
        """Nothing is read yet.

        Parameters
        ----------
        reader : opened, on the scene's own grid.

        Raises
        ------
        DataError : they do not overlap, or the cube sees none of the scene's bands.
        """
        self.cube = cube
        self.reader = reader
        self.source = reader.scene.spectral
        self.shift = (0.0, 0.0)
        """By how much the scene is moved, in pixels of the cube: down, and to the right."""
        part = overlap(cube.pixel_grid, reader.grid)
        own = cube.cube.grid.wavelength_nm
        self.reached = reach(own, self.source)
        if part is None or not self.reached.any():
            lacks = "they do not overlap" if part is None else "the cube sees none of the scene's bands"
            raise DataError(f"{lacks}; a place and bands in common are needed. Give other products.")
        self.part = Window(*part)
        self._view = view_matrix(self.source.select(self.reached), own).astype(np.float32)

    def windows(self, size: int) -> list[Window]:
        """Windows of one size over the part, smaller only if the part is.

        As many as come nearest to filling each side, spread evenly: neighbours share, or leave out, at most half a
        window in all.
        """
        part = self.part
        rows, cols = _starts(part.height, size), _starts(part.width, size)
        height, width = min(size, part.height), min(size, part.width)
        return [Window(part.row + row, part.col + col, height, width) for row in rows for col in cols]

    def cut(self, window: Window) -> Cut:
        """What both saw of a window; SceneError or DataError if a file is damaged."""
        truth = self.cube.read(window.row, window.col, window.height, window.width)
        known = np.isfinite(truth).mean(axis=0) >= LEAST_BANDS
        measured, valid = self._measured(window)
        place = self.cube.pixel_grid.crop(window.row, window.col, window.height, window.width)
        return Cut(place, self.source, measured, self.cube.cube.grid, truth, valid & known)

    def _measured(self, window: Window) -> tuple[Float32Array, BoolArray]:
        place = self.cube.pixel_grid.crop(window.row, window.col, window.height, window.width)
        return read_onto(self.reader, displaced(place, -self.shift[0], -self.shift[1]))

    def expected(self, truth: Float32Array) -> Float32Array:
        """(source band, row, col) what the scene's bands see of the cube's values, NaN where it does not tell."""
        seen = np.full((len(self.source), *truth.shape[1:]), np.nan, np.float32)
        seen[self.reached] = seen_through(self._view, truth)
        return seen

    def probes(self, windows: list[Window], seed: int) -> list[Probe]:
        """Some of the windows that are valid enough for a pair.

        Raises
        ------
        DataError : none is.
        """
        chosen: list[Probe] = []
        best = 0.0
        for i in np.random.default_rng(seed).permutation(len(windows)):
            cut = self.cut(windows[i])
            best = max(best, float(cut.valid.mean()))
            if cut.valid.mean() >= LEAST_VALID:
                chosen.append(Probe(windows[i], np.where(cut.valid, self.expected(cut.truth), np.nan)))
            if len(chosen) == MOST_PROBES:
                break
        if not chosen:
            raise DataError(
                f"all {len(windows)} windows have less than {LEAST_VALID:.0%} valid pixels (the best {best:.0%}): the "
                "rest is cloud or nodata in one of them, or lies outside. Give a clearer scene, or try a smaller "
                "--window."
            )
        return chosen

    def register(self, probes: list[Probe]) -> Registration:
        """Measure how the scene lies, move it, and measure again.

        Raises
        ------
        DataError : the two look unlike each other, or lie more than `LARGEST_SHIFT` apart.
        """
        self.shift = (0.0, 0.0)
        found = self._estimates(probes)
        for _ in range(CORRECTIONS):
            row, col, _ = np.median(found, axis=0)
            self.shift = (self.shift[0] + float(row), self.shift[1] + float(col))
            if max(map(abs, self.shift)) > LARGEST_SHIFT:
                raise DataError(
                    f"the scene lies {self.shift[0]:+.2f} rows and {self.shift[1]:+.2f} columns off; at most "
                    f"{LARGEST_SHIFT:g} pixels are corrected. Check the georeference of both."
                )
            found = self._estimates(probes)
        row, col, correlation = np.median(found, axis=0)
        deviation = np.median(np.abs(found[:, :2] - (row, col)), axis=0).max()
        spread = SIGMA_PER_DEVIATION * float(deviation) if len(found) > 1 else float("nan")
        return Registration(*self.shift, float(row), float(col), spread, float(correlation), len(found))

    def _estimates(self, probes: list[Probe]) -> NDArray[np.float64]:
        """(estimate, 3) of every probe and band: row, column, correlation."""
        reached = np.flatnonzero(self.reached)
        centres = self.source.wavelength_nm[reached]
        bands = sorted({int(reached[np.argmin(np.abs(centres - nm))]) for nm in REGISTERED_NM})
        found: list[Shift] = []
        for probe in probes:
            measured, valid = self._measured(probe.window)
            told = [shift_between(probe.expected[band], measured[band], valid) for band in bands]
            found += [shift for shift in told if shift and shift.correlation >= LEAST_CORRELATION]
        if not found:
            raise DataError(
                f"cube and scene look unlike each other (correlation below {LEAST_CORRELATION:g} in each of "
                f"{len(probes)} windows), so how they lie cannot be told. Check the georeference of both."
            )
        return np.array([(shift.row, shift.col, shift.correlation) for shift in found])

    def agreement(self, probes: list[Probe]) -> Agreement:
        """How well the scene's values, as they lie now, agree with those that the cube tells."""
        measured, expected = [], []
        for probe in probes:
            values, valid = self._measured(probe.window)
            measured.append(values[:, valid])
            expected.append(probe.expected[:, valid])
        return agreement_of(np.concatenate(measured, axis=1), np.concatenate(expected, axis=1), self.source)


def _starts(length: int, size: int) -> list[int]:
    count = max(1, round(length / size))
    return sorted({int(start) for start in np.linspace(0, max(0, length - size), count).round()})
