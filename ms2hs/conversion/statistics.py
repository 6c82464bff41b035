"""What is found out about the pixels of a conversion as they pass: how many are what, and how well results agree."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.conversion.metadata import Counts
from ms2hs.models.prior import Posterior
from ms2hs.spectra.indices import water_and_snow
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

# One row in so many is compared with what was measured.
COMPARED = 8
# A sample has at most so many rows and columns of what passes.
SAMPLED = 512
# Pixels that are looked at together: their bands stay near the processor.
PIXELS_AT_A_TIME = 1 << 14


class Closure:
    """Compares results, seen through the source's responses, with what the source measured."""

    def __init__(self, source: SpectralGrid, target: SpectralGrid) -> None:
        half = source.fwhm_nm / 2
        low, high = target.range_nm
        inside = (source.wavelength_nm - half >= low) & (source.wavelength_nm + half <= high)
        self.bands = np.flatnonzero(inside)
        """(k,) bands of the source that lie within those of the target."""
        self.names = [source.names[i] for i in self.bands]
        seen = source.select(self.bands) if len(self.bands) else None
        self.matrix = response_matrix(seen, target.wavelength_nm).astype(np.float32) if seen else None
        """(k, target band) the responses of these; None if there are none."""

    def of(self, gain: Float32Array) -> Float32Array:
        """(k, source band) the difference, of what a linear model of this gain (target band, source band) makes."""
        if self.matrix is None:
            return np.zeros((0, gain.shape[1]), np.float32)
        difference = self.matrix @ gain
        difference[np.arange(len(self.bands)), self.bands] -= 1
        return difference


@dataclass
class Statistics:
    """Counts, and sums of squared differences, over the rows that have passed."""

    source: SpectralGrid
    model: Posterior
    closure: Closure
    shape: tuple[int, int]
    """Rows and columns of all that will pass."""
    counts: Counts = field(default_factory=Counts)
    compared: int = 0
    """Pixels that were compared with what was measured."""

    def __post_init__(self) -> None:
        """Nothing was compared yet."""
        self.step = -(-max(self.shape) // SAMPLED)
        """One row and one column in so many is kept as a sample."""
        self._sample: list[Float32Array] = []
        self.squares = np.zeros(len(self.closure.bands))

    def keep(self, row: int, reflectance: Float32Array, valid: BoolArray) -> None:
        """Keep some of these rows, (source band, rows, width) and (rows, width), from `row` on, as a sample."""
        rows = slice(-row % self.step, None, self.step)
        self._sample.append(reflectance[:, rows, :: self.step][:, valid[rows, :: self.step]])

    @property
    def sample(self) -> Float32Array:
        """(source band, pixel) reflectance of some valid pixels."""
        return np.concatenate([np.zeros((len(self.source), 0), np.float32), *self._sample], axis=1)

    def count(self, reflectance: Float32Array, valid: BoolArray) -> None:
        """Take up pixels, (source band, ...) and (...)."""
        x, ok = reflectance.reshape(len(reflectance), -1), valid.ravel()
        for first in range(0, ok.size, PIXELS_AT_A_TIME):
            self._count(x[:, first : first + PIXELS_AT_A_TIME], ok[first : first + PIXELS_AT_A_TIME])

    def _count(self, x: Float32Array, ok: BoolArray) -> None:
        water, snow = water_and_snow(x, self.source)
        self.counts.add(
            Counts(
                pixels=ok.size,
                valid=int(ok.sum()),
                unlike_training=int((self.model.unlike(x) & ok).sum()),
                water=int((water & ok).sum()),
                snow=int((snow & ok).sum()),
            )
        )

    def compare(self, squares: NDArray[np.float64], pixels: int) -> None:
        """Take up the closure's sums over so many pixels."""
        self.squares += squares
        self.compared += pixels

    @property
    def residual(self) -> dict[str, float]:
        """RMSE in reflectance: of `all` bands together, and by band name; empty where no band can be compared."""
        if not self.compared or not self.closure.names:
            return {}
        squares = self.squares / self.compared
        values = zip(("all", *self.closure.names), (squares.mean(), *squares), strict=True)
        return {name: round(float(np.sqrt(value)), 6) for name, value in values}

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON has it: numbers come back as they were."""
        return {"counts": vars(self.counts), "squares": self.squares.tolist(), "compared": self.compared}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where another stood."""
        self.counts = Counts(**state["counts"])
        self.squares = np.array(state["squares"], float)
        self.compared = int(state["compared"])
