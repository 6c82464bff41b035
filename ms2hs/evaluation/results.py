"""The result of an evaluation: scores, curves by wavelength, example pixels and windows. No models, no files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.evaluation.metric_table import Scores
from ms2hs.spectra.spectral_grid import SpectralGrid

# Methods whose errors differ by at most this share are level.
TIE = 1e-3
Kind = Literal["baseline", "prior", "model"]


@dataclass(frozen=True)
class MethodScores:
    """One method of the table."""

    method: str
    """`mean spectrum`, `interpolation`, `nearest spectra`, `prior`, `pasted bands`, or the name of weights."""
    kind: Kind
    overall: Scores
    """Mean over scenes, each with the same weight."""
    interval: Mapping[str, tuple[float, float]]
    """90 % bootstrap interval over scenes, for metrics with `has_interval`; empty for a single scene."""
    scenes: Mapping[str, Scores]
    """By scene."""
    covers: Mapping[str, Scores]
    """By land cover, over the pixels of all scenes."""
    to_prior: float
    """RMSE divided by the prior's RMSE."""
    train_mse: float = float("nan")
    """MSE of the last tenth of the training, from the weights' card; NaN if unknown."""

    @property
    def loses(self) -> bool:
        """Whether this is a model with a larger RMSE than the prior's."""
        return self.kind == "model" and self.to_prior > 1 + TIE


@dataclass(frozen=True)
class CompletionScores:
    """Scores of one model over all valid pixels and bands of all windows of which bands were hidden, in reflectance."""

    model: str
    train_mse: float
    """As `MethodScores.train_mse`."""
    mse: float
    masked_mse: float
    """Over hidden bands."""
    unmasked_mse: float
    """Over the other bands."""
    ssim: float
    """Mean over windows; data range 1 (`spectra.metrics.ssim`)."""


@dataclass(frozen=True)
class RatioScores(CompletionScores):
    """Scores of one model at one ratio of hidden tokens."""

    ratio: float
    """Share of the tokens that are hidden."""
    masking: str
    """Strategy and size of the tokens, in words."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Errors of one method by wavelength, mean over scenes; NaN where the truth is unknown in every scene."""

    rmse: FloatArray
    """(target band,) reflectance."""
    bias: FloatArray
    """(target band,) reflectance."""
    sam: FloatArray
    """(target band,) degrees: median angle between the parts of spectra within 100 nm of the band."""
    reliability: FloatArray | None
    """(level,) share of values inside the interval of each of `Evaluation.levels`; None without intervals."""


@dataclass(frozen=True, eq=False)
class Example:
    """The spectrum of one pixel: true, measured and predicted."""

    title: str
    """Scene, window, row, column, and why the pixel was selected."""
    measured: Float32Array
    """(source band,) reflectance."""
    truth: Float32Array
    """(target band,) NaN where unknown."""
    predicted: Mapping[str, Float32Array]
    """By method: (target band,)."""
    sigma: Mapping[str, Float32Array]
    """By method with intervals: (target band,); value ± 1.645 sigma is the 90 % interval."""


@dataclass(frozen=True, eq=False)
class ExampleWindow:
    """Some bands of a window, true and predicted, and its map of errors."""

    title: str
    method: str
    wavelength_nm: tuple[float, ...]
    """Of the bands shown."""
    truth: Float32Array
    """(shown band, row, col) NaN where not valid."""
    predicted: Float32Array
    """(shown band, row, col)."""
    error: Float32Array
    """(row, col) RMSE over all known bands."""
    rmse: float
    is_worst: bool
    """True for one of the worst windows, False for the typical window of a scene."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of an evaluation."""

    title: str
    """What was scored: `sentinel2a to enmap: 9 simulated scenes of DIR`."""
    command: str
    source: SpectralGrid
    target: SpectralGrid
    measured: BoolArray
    """(target band,) True where a source band covers the target band."""
    rows: tuple[MethodScores, ...]
    """Baselines first, then the prior, then the models."""
    curves: Mapping[str, Curve]
    """By method."""
    levels: tuple[float, ...]
    """Nominal shares (0-1) of the intervals in `Curve.reliability`."""
    examples: tuple[Example, ...]
    windows: tuple[ExampleWindow, ...]
    scenes: Mapping[str, int]
    """Number of valid pixels of each scene scored."""
    unlike: int
    """Number of pixels whose source bands are far from the training data."""
    left_out: Mapping[str, str]
    """Pairs and scenes not scored, with the reason."""
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """Number of valid pixels scored."""
        return sum(self.scenes.values())
