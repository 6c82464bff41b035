"""Statistics of a conversion: pixel counts by class, and the residual of the result against its input.

The residual shows whether a result is consistent with its input. Each source band whose response lies within the
target is computed from the result and compared with the measured value, on every `RESIDUAL_ROW_STEP`-th row.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.models.prior import Posterior
from ms2hs.scenes.reader import MAX_SAME_REFLECTANCE, MIN_REFLECTANCE, Cause
from ms2hs.spectra.indices import water_and_snow
from ms2hs.spectra.library import MAX_REFLECTANCE
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

RESIDUAL_ROW_STEP = 8
# Largest number of rows and of columns in the sample.
MAX_SAMPLE_SIDE = 512
# Pixels counted in one step: their bands stay in the processor's cache.
PIXELS_PER_COUNT = 1 << 14


@dataclass
class Counts:
    """Pixel counts by class."""

    pixels: int = 0
    valid: int = 0
    nodata: int = 0
    cloud: int = 0
    """Pixels excluded by the quality layer."""
    impossible: int = 0
    """Pixels with a reflectance that no surface can have (`scenes.reader`)."""
    unlike_training: int = 0
    """Valid pixels whose measured bands are unlike nearly all training spectra."""
    water: int = 0
    """Valid pixels of open water (`spectra.indices`); their training data are mostly simulated."""
    snow: int = 0
    """Valid pixels of snow or ice cloud; their training data are mostly simulated."""

    def add(self, other: "Counts") -> None:
        """Add the counts of other pixels."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def summary(self) -> str:
        """The counts as one line of text."""
        classes = {"unlike the training data": self.unlike_training, "water": self.water, "snow": self.snow}
        invalid = f"; invalid: {self.invalid}" if self.invalid else ""
        whole = f"{self.valid} of {self.pixels} pixels valid{invalid}"
        return f"{whole}; of the valid pixels {_shares(classes, self.valid)}"

    def warnings(self, lowest: float, highest: float) -> tuple[str, ...]:
        """A warning about impossible pixels, if any, with their lowest and highest reflectance if known."""
        if not self.impossible:
            return ()
        seen = f" ({lowest:.4g} to {highest:.4g})" if lowest < highest else f" ({lowest:.4g})" * (lowest == highest)
        text = (
            f"warning: {self.impossible} pixels are invalid: no surface has their reflectance{seen}. Impossible are "
            f"{MIN_REFLECTANCE:g} or less, {MAX_REFLECTANCE:g} or more, integers at the limit of their type, and the "
            f"same number below {MAX_SAME_REFLECTANCE:g} in every band."
        )
        return (text,)

    @property
    def invalid(self) -> str:
        """Shares of all pixels by cause of being invalid; empty if all are valid."""
        causes = {"nodata": self.nodata, "cloud": self.cloud, "impossible reflectance": self.impossible}
        return _shares({name: count for name, count in causes.items() if count}, self.pixels)


def _shares(counts: dict[str, int], whole: int) -> str:
    return ", ".join(f"{100 * count / max(whole, 1):.1f} % {name}" for name, count in counts.items())


class InputResidual:
    """The operator that computes source bands from a result, for the residual against the input."""

    def __init__(self, source: SpectralGrid, target: SpectralGrid) -> None:
        half = source.fwhm_nm / 2
        low, high = target.range_nm
        inside = (source.wavelength_nm - half >= low) & (source.wavelength_nm + half <= high)
        centres = target.wavelength_nm  # a wide band of the target's edge may reach beyond the centre of the source's
        inside &= (source.wavelength_nm >= centres.min()) & (source.wavelength_nm <= centres.max())
        self.bands = np.flatnonzero(inside)
        """(k,) source bands within the wavelengths of the target."""
        self.source_count = len(source)
        self.names = [source.names[i] for i in self.bands]
        compared = source.select(self.bands) if len(self.bands) else None
        self.matrix = response_matrix(compared, target.wavelength_nm).astype(np.float32) if compared else None
        """(k, target band) responses of these bands; None if there are none."""

    def of_linear(self, gain: Float32Array) -> Float32Array:
        """(k, feature) matrix from a linear model's features to its residual, for its gain (target band, feature)."""
        if self.matrix is None:
            return np.zeros((0, gain.shape[1]), np.float32)
        residual = self.matrix @ gain
        covers = residual.reshape(len(residual), -1, self.source_count)  # in the same memory
        covers[np.arange(len(self.bands)), :, self.bands] -= 1  # the shares of the covers sum to 1
        return residual


@dataclass
class Statistics:
    """Counts and sums of squared residuals over the rows converted so far."""

    source: SpectralGrid
    model: Posterior
    input_residual: InputResidual
    shape: tuple[int, int]
    """Rows and columns of the whole conversion."""
    counts: Counts = field(default_factory=Counts)
    compared: int = 0
    """Pixels in the sums of squared residuals."""

    def __post_init__(self) -> None:
        """Start with empty sums."""
        self.squares = np.zeros(len(self.input_residual.bands))
        self.step = -(-max(self.shape) // MAX_SAMPLE_SIDE)
        """Every n-th row and column is in the sample."""
        self._sample: list[Float32Array] = []

    def sample_rows(self, row: int, reflectance: Float32Array, valid: BoolArray) -> None:
        """Sample rows from `row` on: reflectance (source band, rows, width), valid (rows, width)."""
        rows = slice(-row % self.step, None, self.step)
        self._sample.append(reflectance[:, rows, :: self.step][:, valid[rows, :: self.step]])

    @property
    def sample(self) -> Float32Array:
        """(source band, pixel) reflectance of the sampled valid pixels."""
        return np.concatenate([np.zeros((len(self.source), 0), np.float32), *self._sample], axis=1)

    def count_pixels(self, reflectance: Float32Array, cause: NDArray[np.uint8]) -> None:
        """Count pixels: reflectance (source band, ...), `Cause` (...)."""
        pixels, causes = reflectance.reshape(len(reflectance), -1), cause.ravel()
        for first in range(0, causes.size, PIXELS_PER_COUNT):
            part, why = pixels[:, first : first + PIXELS_PER_COUNT], causes[first : first + PIXELS_PER_COUNT]
            valid, impossible, cloud, nodata = np.bincount(why, minlength=len(Cause)).tolist()
            classes = self.model.unlike(part), *water_and_snow(part, self.source)
            unlike, water, snow = (int((members & (why == Cause.VALID)).sum()) for members in classes)
            self.counts.add(Counts(why.size, valid, nodata, cloud, impossible, unlike, water, snow))

    def add_residuals(self, squares: NDArray[np.float64], pixels: int) -> None:
        """Add (k,) sums of squared residuals over a number of pixels."""
        self.squares += squares
        self.compared += pixels

    @property
    def residual_rmse(self) -> dict[str, float]:
        """RMSE in reflectance of `all` compared bands and by band name; empty if no band can be compared."""
        if not self.compared or not self.input_residual.names:
            return {}
        squares = self.squares / self.compared
        values = zip(("all", *self.input_residual.names), (squares.mean(), *squares), strict=True)
        return {name: round(float(np.sqrt(value)), 6) for name, value in values}

    def state(self) -> dict[str, Any]:
        """Counts and sums as JSON values, for `restore`; without the sample."""
        return {"counts": vars(self.counts), "squares": self.squares.tolist(), "compared": self.compared}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of an interrupted conversion."""
        self.counts = Counts(**state["counts"])
        self.squares = np.array(state["squares"], float)
        self.compared = int(state["compared"])
