"""Scores of a converted cube against a true cube on the same pixels. No model runs; only files are compared."""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.spectra_npz import covered_bands, view_matrix
from ms2hs.datasets.pairs.pair_types import apply_responses
from ms2hs.errors import DataError, GridError
from ms2hs.evaluation.accumulators import LEVELS, TargetBands
from ms2hs.evaluation.aggregation import Aggregator, MethodInfo, MethodOutput, ScoredWindow
from ms2hs.evaluation.evaluator import SAME_BAND_NM, EvaluationSettings, random_windows, window_title
from ms2hs.evaluation.examples import ExampleSelector
from ms2hs.evaluation.metric_table import check_ssim_installed
from ms2hs.evaluation.results import Evaluation
from ms2hs.progress import Progress
from ms2hs.raster.cube import open_cube, pixel_grid_of, spectral_grid_of
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.tiling import Window
from ms2hs.spectra.indices import cover
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands

if TYPE_CHECKING:
    import xarray as xr

# Largest distance between the corners of two grids that are the same, in pixels: rounding in the files.
MAX_CORNER_DISTANCE = 0.01
# Two bands are the same if their centres differ by at most `SAME_BAND_NM` and their widths by at most this share.
SAME_WIDTH = 0.1


def evaluate_cube(
    cube: Path, truth: Path, settings: EvaluationSettings | None = None, progress: Progress | None = None
) -> Evaluation:
    """Scores of a converted cube, and of its uncertainty if the file exists, against a true cube on the same pixels.

    The spectra of the truth are converted to the bands of the cube by their spectral responses. A pixel counts if it
    has all bands of the cube and some bands of the truth.

    Parameters
    ----------
    cube, truth : rasters with wavelengths; the uncertainty is read from `<stem of cube>_sigma.tif`.
    progress : called after each window.

    Raises
    ------
    Ms2hsError : unreadable cubes, different pixel grids, no common wavelength, or no common pixel; scikit-image is not
        installed.
    """
    check_ssim_installed()
    settings = settings or EvaluationSettings()
    opened = _CubeAndTruth.open(cube, truth)
    name = cube.stem
    aggregator = Aggregator(TargetBands(opened.grid, opened.measured), [MethodInfo(name, "model")], settings.windows)
    rng = np.random.default_rng(settings.seed)
    selector = ExampleSelector(name, opened.grid, rng)
    places = random_windows(opened.shape, rng)
    windows = (opened.read(window) for window in places)
    usable = ((window, output) for window, output in windows if window.valid.any())
    for done, (window, output) in enumerate(islice(usable, settings.windows), 1):
        aggregator.add(window, {name: output})
        selector.add(window, {name: output})
        if progress:
            progress("windows", done, min(settings.windows, len(places)))
    if not aggregator.pixels:
        raise DataError(f"{cube} and {truth} have no known pixel in common; one is needed. Use another true cube.")
    aggregator.close_scene(name)
    selector.close_scene()
    return Evaluation(
        title=f"{cube.name} against {truth.name}",
        command=settings.command,
        source=opened.source,
        target=opened.grid,
        measured=opened.measured,
        rows=aggregator.rows(settings.seed),
        curves=aggregator.curves(),
        levels=LEVELS,
        examples=selector.examples(),
        windows=selector.windows(),
        scenes=aggregator.pixels,
        unlike=0,
        left_out={},
        notes=("a converted cube: its own JSON has the run time and the number of pixels unlike training",),
    )


@dataclass(frozen=True, eq=False)
class _CubeAndTruth:
    """A converted cube, its uncertainty and the true cube, on one pixel grid."""

    name: str
    cube: "xr.Dataset"
    """With `sigma` if the file exists."""
    truth: "xr.Dataset"
    grid: SpectralGrid
    """Of the converted cube, in ascending wavelength."""
    order: NDArray[np.intp]
    """(band,) positions of the bands of `grid` in the file."""
    source: SpectralGrid
    """Bands of the sensor that the cube was converted from; the cube's own bands if its file names no sensor."""
    measured: BoolArray
    """(band,) True where a source band covers the band."""
    true_bands: NDArray[np.intp]
    """Positions of the good bands of the truth, in ascending wavelength."""
    to_grid: Float32Array
    """(band, true band) weights; a row of NaN where no true band is near."""

    @classmethod
    def open(cls, path: Path, truth_path: Path) -> "_CubeAndTruth":
        """Open the files; GridError if pixels or bands differ."""
        cube, truth = open_cube(path), open_cube(truth_path)
        _check_same_pixels(path, cube, truth_path, truth)
        order = np.argsort(cube.wavelength.values, kind="stable")
        grid = spectral_grid_of(cube).select(order)
        good = np.flatnonzero(truth.good.values)
        true_bands = good[np.argsort(truth.wavelength.values[good], kind="stable")]
        if not len(true_bands):
            raise GridError(f"{truth_path} marks all bands as bad (bbl); a good one is needed. Use another cube.")
        to_grid = _weights_to(grid, spectral_grid_of(truth).select(true_bands))
        if np.isnan(to_grid).all():
            low, high = grid.range_nm
            raise GridError(
                f"{truth_path} has no band within {low:.0f}-{high:.0f} nm, the range of {path}; one is needed. "
                "Use another true cube."
            )
        source = _source(cube)
        supported = np.array(grid.support or [""] * len(grid)) == "measured"  # of a camera, which is no known sensor
        measured = supported if source is None else pasted_bands(source, grid) >= 0
        return cls(path.stem, cube, truth, grid, order, source or grid, measured, true_bands, to_grid)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.cube.sizes["y"], self.cube.sizes["x"]

    def read(self, window: Window) -> tuple[ScoredWindow, MethodOutput]:
        """A window of all cubes, with NaN as the measured values of the source."""
        part = {"y": slice(window.row, window.row + window.height), "x": slice(window.col, window.col + window.width)}
        estimate = self.cube.reflectance.isel(part).values[self.order]
        truth = apply_responses(self.to_grid, self.truth.reflectance.isel(part).values[self.true_bands])
        truth[np.isnan(self.to_grid).any(axis=1)] = np.nan
        valid = np.isfinite(estimate).all(axis=0) & np.isfinite(truth).any(axis=0)
        measured = np.full((len(self.source), *valid.shape), np.nan, np.float32)
        sigma = self.cube.sigma.isel(part).values[self.order] if "sigma" in self.cube else None
        title = window_title(self.name, window)
        values = ScoredWindow(self.name, title, measured, truth, valid, cover(truth, self.grid))
        return values, MethodOutput(estimate, sigma)


def _weights_to(grid: SpectralGrid, true_grid: SpectralGrid) -> Float32Array:
    """(band, true band) weights from the true bands (ascending) to `grid`; a row of NaN where no true band is near.

    A band that both cubes have is copied: a second spectral response would smooth it.
    """
    known = covered_bands(true_grid.wavelength_nm, grid)
    result = np.full((len(grid), len(true_grid)), np.nan, np.float32)
    if known.any():
        result[known] = view_matrix(grid.select(known), true_grid.wavelength_nm)
    nearest = np.abs(grid.wavelength_nm[:, None] - true_grid.wavelength_nm).argmin(axis=1)
    same = np.abs(grid.wavelength_nm - true_grid.wavelength_nm[nearest]) <= SAME_BAND_NM
    same &= np.abs(grid.fwhm_nm / true_grid.fwhm_nm[nearest] - 1) <= SAME_WIDTH
    result[same] = np.eye(len(true_grid), dtype=np.float32)[nearest[same]]
    return result


def _source(cube: "xr.Dataset") -> SpectralGrid | None:
    """The bands of the sensor named in the file's tags; None without a known name."""
    source = cube.attrs.get("MS2HS_SOURCE")
    return load_sensor(source).grid if source in sensor_names("source") else None


def _check_same_pixels(path: Path, cube: "xr.Dataset", truth_path: Path, truth: "xr.Dataset") -> None:
    """GridError unless both cubes have the same pixel grid."""
    grid, true_grid = pixel_grid_of(cube), pixel_grid_of(truth)
    tolerance = MAX_CORNER_DISTANCE * max(abs(grid.transform[0]), abs(grid.transform[1]))
    near = np.allclose(grid.transform, true_grid.transform, rtol=0, atol=tolerance)
    if near and replace(grid, transform=true_grid.transform) == true_grid:
        return
    raise GridError(
        f"{path} is {_describe_pixels(grid)}, {truth_path} is {_describe_pixels(true_grid)}; both must have the same "
        "pixels. Warp one onto the other (gdalwarp -t_srs -te -tr), and evaluate again."
    )


def _describe_pixels(grid: PixelGrid) -> str:
    a, b, c, d, e, f = grid.transform
    size = f"{np.hypot(a, d):g}x{np.hypot(b, e):g}"
    return f"{grid.height}x{grid.width} pixels of {size} from {c:g}, {f:g} ({grid.crs or 'without CRS'})"
