"""What an evaluation found: numbers, curves and pictures, ready to be written or drawn. No models and no files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.spectra.spectral_grid import SpectralGrid

# Absorption features whose depth is scored, by their centre in nm: left shoulder, centre, right shoulder.
FEATURES_NM: dict[int, tuple[float, float, float]] = {
    670: (560.0, 670.0, 780.0),  # chlorophyll
    1200: (1090.0, 1200.0, 1275.0),  # leaf water
    1730: (1660.0, 1730.0, 1780.0),  # lignin, cellulose, nitrogen
    2100: (2040.0, 2100.0, 2210.0),  # cellulose
    2205: (2135.0, 2205.0, 2245.0),  # Al-OH: clay
    2330: (2265.0, 2330.0, 2380.0),  # carbonate, Mg-OH
}
# Methods whose errors differ by less, relatively, are level: which is ahead is then chance, or rounding.
LEVEL = 1e-3


@dataclass(frozen=True)
class Scores:
    """How well one method did on one scene, or the mean of its scores over scenes; NaN where it cannot be told.

    Over known values of valid pixels, in reflectance of 0-1 unless said otherwise.
    """

    mse: float
    masked_mse: float
    """Over bands that the source did not measure (`spectra.grid.pasted_bands` is -1)."""
    unmasked_mse: float
    ssim: float
    """Mean over windows; data range 1."""
    rmse: float
    bias: float
    """Mean of estimate minus truth."""
    sam_mean: float
    """Degrees; spectra of zeros have no angle and are left out."""
    sam_median: float
    psnr: float
    """dB, of a peak of 1: -10 log10(MSE)."""
    ergas: float
    """Wald's (2000), with a resolution ratio of 1: 100 sqrt(mean over bands of (RMSE / mean of the truth)²)."""
    r2: float
    """Mean over bands of 1 - SSE / SST within the scene."""
    depth: Mapping[int, float]
    """RMSE of the band depth (-1 to 1) of each of `FEATURES_NM`, where the true shoulders are 0.02 or brighter."""
    coverage_68: float
    """Share of values within the method's 68 % interval; NaN where it has none."""
    coverage_90: float
    seconds: float
    """For a million pixels."""


@dataclass(frozen=True)
class Row:
    """One method of the table."""

    method: str
    """`mean spectrum`, `interpolation`, `nearest spectra`, `prior`, `pasted bands`, or the name of weights."""
    kind: Literal["baseline", "prior", "model"]
    overall: Scores
    """Mean over scenes, each counting the same."""
    interval: Mapping[str, tuple[float, float]]
    """90 % bootstrap interval over scenes of some of `overall`: `mse`, `rmse`, `sam_median`; none of one scene."""
    scenes: Mapping[str, Scores]
    covers: Mapping[str, Scores]
    """By land cover: pixels of all scenes together."""
    to_prior: float
    """RMSE over the prior's."""
    train_mse: float = float("nan")
    """Of the last tenth of its training, as its card says."""

    @property
    def loses(self) -> bool:
        """Whether a model is worse than the prior that it has to beat, and not level with it."""
        return self.kind == "model" and self.to_prior > 1 + LEVEL


@dataclass(frozen=True, eq=False)
class Curve:
    """One method by wavelength, over all scenes alike; NaN where no scene knows the truth."""

    rmse: FloatArray
    """(target band,) reflectance."""
    bias: FloatArray
    """(target band,)"""
    sam: FloatArray
    """(target band,) degrees: median angle of the parts of spectra within 100 nm of the band."""
    reliability: FloatArray | None
    """(level,) share of values within the interval of each of `Evaluation.levels`; None where it has none."""


@dataclass(frozen=True, eq=False)
class Example:
    """One pixel: true, measured, reconstructed."""

    title: str
    """Scene, window, row, column, and why it was chosen."""
    measured: Float32Array
    """(source band,) reflectance."""
    truth: Float32Array
    """(target band,) NaN where unknown."""
    made: Mapping[str, Float32Array]
    """By method: (target band,)."""
    sigma: Mapping[str, Float32Array]
    """By method, of those that have one: (target band,) value ± 1.645 sigma is the 90 % interval."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A window: some bands true and reconstructed, and where it is wrong."""

    title: str
    method: str
    wavelength_nm: tuple[float, ...]
    """Of the bands that are shown."""
    truth: Float32Array
    """(shown band, row, col) NaN where not valid."""
    made: Float32Array
    """(shown band, row, col)."""
    error: Float32Array
    """(row, col) RMSE over all known bands."""
    rmse: float
    is_worst: bool
    """One of the worst windows; else one of a scene's typical ones."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that an evaluation found."""

    title: str
    """What was scored: `sentinel2a to enmap: 9 simulated scenes of DIR`."""
    command: str
    source: SpectralGrid
    target: SpectralGrid
    measured: BoolArray
    """(target band,) whether the source measured it (`unmasked`)."""
    rows: tuple[Row, ...]
    """Baselines first, then the prior, then the models."""
    curves: Mapping[str, Curve]
    """By method."""
    levels: tuple[float, ...]
    """Nominal shares, 0-1, of the intervals of the reliability diagram."""
    examples: tuple[Example, ...]
    pictures: tuple[Picture, ...]
    scenes: Mapping[str, int]
    """Valid pixels of each scene that was scored."""
    unlike: int
    """Pixels whose source bands are far from training."""
    left_out: Mapping[str, str]
    """What was not scored, and why."""
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """Valid pixels that were scored."""
        return sum(self.scenes.values())
