"""Finished conversions against a true cube of the same place: no model runs, files alone are compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.spectra_npz import reach, view_matrix
from ms2hs.datasets.pairs.pair_types import seen_through
from ms2hs.errors import DataError, GridError, UnknownName
from ms2hs.evaluation.accumulators import LEVELS, Bands
from ms2hs.evaluation.aggregation import Aggregator, Entrant, Made, View
from ms2hs.evaluation.evaluator import SAME_BAND_NM, EvaluationSettings, check_scikit_image, windows_of
from ms2hs.evaluation.examples import ExampleSelector
from ms2hs.evaluation.results import Evaluation
from ms2hs.raster.cube import open_cube
from ms2hs.raster.tiling import Window
from ms2hs.spectra.indices import cover
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands

if TYPE_CHECKING:
    import xarray as xr

# Corners of two grids may be apart by this share of a pixel: rounding in the files.
SAME_PLACE = 0.01
# Bands whose widths differ by no more than this share are the same, where their centres are (`SAME_BAND_NM`).
SAME_WIDTH = 0.1


def evaluate_cube(path: Path, truth: Path, settings: EvaluationSettings | None = None) -> Evaluation:
    """One finished conversion, scored against a true cube on the same pixels; with its uncertainty, if that is there.

    The truth is brought to the cube's bands through their responses. Pixels count where all of the cube's bands and
    some of the truth's are there.

    Parameters
    ----------
    path, truth : rasters with wavelengths; beside the first may stand `<stem>_sigma.tif`.

    Raises
    ------
    Ms2hsError : cubes that cannot be read, on different grids, without a common wavelength or pixel.
    """
    check_scikit_image()
    settings = settings or EvaluationSettings()
    cubes = _Cubes.of(path, truth)
    standings = Aggregator(Bands(cubes.grid, cubes.measured), [Entrant(path.stem, "model")], settings.windows)
    rng = np.random.default_rng(settings.seed)
    showcase = ExampleSelector(path.stem, cubes.grid, rng)
    scored = 0
    for window in windows_of(cubes.shape, rng):
        view, made = cubes.read(window)
        if not view.valid.any():
            continue
        standings.add(view, {path.stem: made})
        showcase.add(view, {path.stem: made})
        scored += 1
        if scored == settings.windows:
            break
    if not scored:
        raise DataError(
            f"{path}: no pixel is known both in it and in {truth}; some must be. Give a cube of that place."
        )
    standings.close_scene(path.stem)
    showcase.close_scene()
    return Evaluation(
        title=settings.title or f"{path.name} against {truth.name}",
        command=settings.command,
        source=cubes.source,
        target=cubes.grid,
        measured=cubes.measured,
        rows=standings.rows(settings.seed),
        curves=standings.curves(),
        levels=LEVELS,
        examples=showcase.examples(),
        pictures=showcase.pictures(),
        scenes=standings.pixels,
        unlike=0,
        left_out={},
        notes=("a finished conversion: pixels unlike training, and seconds, are in its own JSON",),
    )


@dataclass(frozen=True, eq=False)
class _Cubes:
    """A conversion, its uncertainty, and the truth, on one grid of pixels."""

    name: str
    made: "xr.DataArray"
    sigma: "xr.DataArray | None"
    truth: "xr.DataArray"
    grid: SpectralGrid
    """Of the conversion, in ascending wavelength."""
    order: NDArray[np.intp]
    """Positions of its bands in the file."""
    source: SpectralGrid
    """Of the sensor that it was converted from; its own where that is not told."""
    measured: BoolArray
    """(band,) whether that sensor measured it."""
    true_bands: NDArray[np.intp]
    """Good bands of the truth in ascending wavelength, by position."""
    to_grid: Float32Array
    """(band, true band), a row of NaN where the truth does not reach."""

    @classmethod
    def of(cls, path: Path, truth: Path) -> "_Cubes":
        """Open them, and refuse what does not fit."""
        made, true = open_cube(path), open_cube(truth)
        _check_place(path, made, truth, true)
        beside = path.with_name(f"{path.stem}_sigma.tif")
        sigma = open_cube(beside) if beside.is_file() else None
        if sigma is not None and sigma.shape != made.shape:
            raise GridError(
                f"{beside} has {sigma.shape} bands, rows and columns; the {made.shape} of {path} are needed. Remove "
                "it, or convert again with --uncertainty."
            )
        order = np.argsort(made.wavelength_nm.values, kind="stable")
        grid = _grid_of(made).select(order)
        good = np.flatnonzero(true.good.values)
        bands = good[np.argsort(true.wavelength_nm.values[good], kind="stable")]
        if not len(bands):
            raise GridError(f"{truth} calls all of its bands bad (bbl); some good ones are needed. Give another cube.")
        to_grid = _view(_grid_of(true).select(bands), grid)
        if np.isnan(to_grid).all():
            low, high = grid.range_nm
            raise GridError(
                f"{truth} tells none of the bands of {path}, which lie at {low:.0f}-{high:.0f} nm; a true cube with "
                "bands there is needed. Give another."
            )
        source = _source(made)
        measured = np.zeros(len(grid), bool) if source is None else pasted_bands(source, grid) >= 0
        return cls(path.stem, made, sigma, true, grid, order, source or grid, measured, bands, to_grid)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.made.shape[1], self.made.shape[2]

    def read(self, window: Window) -> tuple[View, Made]:
        """A window of all; what the source measured of it is not known."""
        part = {"y": slice(window.row, window.row + window.height), "x": slice(window.col, window.col + window.width)}
        estimate = self.made.isel(part).values[self.order]
        truth = seen_through(self.to_grid, self.truth.isel(part).values[self.true_bands])
        truth[np.isnan(self.to_grid).any(axis=1)] = np.nan
        valid = np.isfinite(estimate).all(axis=0) & np.isfinite(truth).any(axis=0)
        title = f"{self.name}, rows {window.row}-{window.row + window.height - 1}, "
        title += f"columns {window.col}-{window.col + window.width - 1}"
        unknown = np.full((len(self.source), *valid.shape), np.nan, np.float32)
        sigma = None if self.sigma is None else self.sigma.isel(part).values[self.order]
        return View(self.name, title, unknown, truth, valid, cover(truth, self.grid)), Made(estimate, sigma)


def _view(own: SpectralGrid, grid: SpectralGrid) -> Float32Array:
    """(band, true band), a row of NaN where the truth's own bands (ascending) do not tell it.

    A band that both have is taken as it is: seen once more through a response it would come out smoother than it was
    measured.
    """
    known = reach(own.wavelength_nm, grid)
    result = np.full((len(grid), len(own)), np.nan, np.float32)
    if known.any():
        result[known] = view_matrix(grid.select(known), own.wavelength_nm)
    nearest = np.abs(grid.wavelength_nm[:, None] - own.wavelength_nm).argmin(axis=1)
    same = np.abs(grid.wavelength_nm - own.wavelength_nm[nearest]) <= SAME_BAND_NM
    same &= np.abs(grid.fwhm_nm / own.fwhm_nm[nearest] - 1) <= SAME_WIDTH
    result[same] = np.eye(len(own), dtype=np.float32)[nearest[same]]
    return result


def _grid_of(cube: "xr.DataArray") -> SpectralGrid:
    names = tuple(str(name) for name in cube.band.values)
    return SpectralGrid(
        names, cube.wavelength_nm.values.astype(float), cube.fwhm_nm.values.astype(float), cube.good.values.astype(bool)
    )


def _source(cube: "xr.DataArray") -> SpectralGrid | None:
    """The bands of the sensor that the file says it was converted from."""
    try:
        return load_sensor(str(cube.attrs.get("MS2HS_SOURCE", ""))).grid
    except UnknownName:
        return None


def _check_place(path: Path, made: "xr.DataArray", truth: Path, true: "xr.DataArray") -> None:
    """GridError unless both have the same pixels."""
    first, second = _place(made), _place(true)
    pixel = max(abs(made.attrs["transform"][0]), abs(made.attrs["transform"][1]))
    near = np.allclose(made.attrs["transform"], true.attrs["transform"], rtol=0, atol=SAME_PLACE * pixel)
    if made.shape[1:] == true.shape[1:] and made.attrs["crs"] == true.attrs["crs"] and near:
        return
    raise GridError(
        f"{path} is {first}, {truth} is {second}; both must have the same pixels. Warp one onto the other "
        "(gdalwarp -t_srs -te -tr), and score again."
    )


def _place(cube: "xr.DataArray") -> str:
    a, b, c, d, e, f = cube.attrs["transform"]
    rows, cols = cube.shape[1:]
    crs = cube.attrs["crs"] or "without CRS"
    return f"{rows}x{cols} pixels of {np.hypot(a, d):g}x{np.hypot(b, e):g} from {c:g}, {f:g} ({crs})"
