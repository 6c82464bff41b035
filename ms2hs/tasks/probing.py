"""Probes: how much a frozen encoder helps a linear head, beside what it has to beat.

The rows of the table are features of the same samples: raw bands, the converted cube, the prior's coefficients, a
random encoder, and the encoder of each model. Each seed splits the samples anew, unless the data set gives a split, and
draws shares of the training samples, the same for every feature. The validation part of the split is left unused:
regularisation is chosen within the share, so that 1 % of the labels means 1 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.errors import DataError, GridError
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import Weights, load_weights
from ms2hs.progress import Progress
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_reader import open_labels
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.tasks.labels.splits import Split, split, subsample

# Principal components of features with many bands.
COMPONENTS = 30
# Input with more bands is hyperspectral: a conversion would only resample it.
MOST_MULTISPECTRAL = 30
RAW, RAW_SURROUNDINGS = "raw bands", "raw bands, mean and spread"


@dataclass(frozen=True)
class ProbeOptions:
    """Options of `probe_samples`."""

    models: tuple[str, ...] = ("spectral", "spatial-spectral")
    """Names of shipped weights, or paths."""
    target: str = "enmap"
    """Sensor, or CSV of bands, of the converted cube."""
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)
    """Shares of the training samples whose labels are used, above 0 and up to 1."""
    seeds: int = 5
    """Number of splits and draws."""
    samples: int = 2000
    """Most samples; of more, a part is drawn, stratified by class."""
    command: str = ""
    """Command line, for the page."""


@dataclass(frozen=True, eq=False)
class ProbeRow:
    """A feature, and the scores of linear heads on it."""

    name: str
    kind: str
    """`raw`, `cube`, `coefficients`, `random` or `encoder`."""
    model: str
    """Name of the weights; empty without a model."""
    size: int
    """Values of a sample."""
    scores: Mapping[float, Mapping[str, tuple[float, ...]]]
    """By share: by key of `SCORES`: the score for each seed. A share that is impossible has no entry."""
    confusion: NDArray[np.intp] | None
    """(true class, predicted class) test samples over all seeds, at the largest share; None without single classes."""

    def of_share(self, share: float, score: str) -> tuple[float, float]:
        """Mean and standard deviation of a score over the seeds; NaN where unknown."""
        return mean_and_deviation(self.scores.get(share, {}).get(score, ()))


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """The table of a probe."""

    title: str
    task: str
    classes: tuple[str, ...]
    bands: SpectralGrid
    sensor: str | None
    rows: tuple[ProbeRow, ...]
    shares: Mapping[float, int]
    """Number of training labels of each share, mean over seeds."""
    impossible: Mapping[float, str]
    """The reason for each share that could not be drawn."""
    counts: Mapping[str, tuple[float, float]]
    """By class: number of samples and of groups; by quantity: mean and standard deviation."""
    split_by: str
    """What the split keeps on one side, in words."""
    optimistic: bool
    """Whether neighbours of training samples are among the test samples."""
    sizes: tuple[int, int]
    """Training samples (all labels) and test samples, mean over seeds."""
    seeds: int
    notes: tuple[str, ...] = ()
    command: str = ""


class _Column(NamedTuple):
    """A row before it is scored: the parts that its feature consists of."""

    name: str
    kind: str
    model: str
    parts: tuple[str, ...]
    components: int = 0
    """Principal components; 0: the feature as it is."""


def check_probe_installed() -> None:
    """Raise DataError unless scikit-learn, which fits the heads, is installed."""
    if find_spec("sklearn") is None:
        raise DataError("scikit-learn is not installed; labels need it. `pip install 'ms2hs[tasks]'` brings it.")


def probe_labels(labels: LabelOptions, options: ProbeOptions, progress: Progress | None = None) -> ProbeResult:
    """The probe of labelled data; with a `source` that is not the sensor of the images, their bands are simulated.

    Raises
    ------
    Ms2hsError : errors of `open_labels`, of `simulated`, and of `probe_samples`.
    """
    check_probe_installed()
    from ms2hs.tasks.features import simulated  # noqa: PLC0415  torch

    weights = [load_weights(model) for model in options.models]
    label_set = open_labels(labels)
    if labels.source and labels.source != label_set.sensor:
        label_set = simulated(label_set, labels.source)
    return probe_samples(label_set, weights, options, progress)


def probe_samples(
    label_set: LabelSet, weights: Sequence[Weights], options: ProbeOptions, progress: Progress | None = None
) -> ProbeResult:
    """Scores of linear heads on every feature of labelled samples.

    Raises
    ------
    DataError : no sample with known reflectance; a split is impossible; every share is too small.
    GridError : no network of the models can use the bands.
    """
    from ms2hs.tasks.features import extract  # noqa: PLC0415  torch

    check_options(options)
    plan = _Plan.of(label_set, weights, options.target)
    chosen = np.arange(len(label_set))
    if len(chosen) > options.samples:
        chosen = subsample(label_set, chosen, options.samples / len(chosen))
    parts, known = extract(label_set, chosen, plan.extractors, progress)
    if not known.any():
        raise DataError(
            f"{label_set.name}: none of {len(chosen)} samples has known reflectance in all {len(label_set.grid)} bands; "
            "some are needed. Check nodata and the scale of the images."
        )
    label_set, parts = _part(label_set, chosen[known]), {name: values[known] for name, values in parts.items()}
    draws = _Draws.of(label_set, options, guard=0 if label_set.isolated else plan.side // 2)
    rows = []
    for done, column in enumerate(plan.columns):
        rows.append(_scored(column, label_set, parts, draws))
        if progress:
            progress("heads", done + 1, len(plan.columns))
    notes = [*plan.notes]
    if len(chosen) < plan.total:
        notes.append(f"{len(chosen):,} of {plan.total:,} samples were drawn at random, stratified by class")
    if not known.all():
        notes.append(f"{(~known).sum():,} samples are left out: their reflectance is not known in all bands")
    first = draws.splits[0]
    return ProbeResult(
        title=label_set.name,
        task=label_set.task,
        classes=label_set.classes,
        bands=label_set.grid,
        sensor=label_set.sensor,
        rows=tuple(rows),
        shares=draws.labels_per_share,
        impossible=draws.impossible,
        counts=_counts(label_set),
        split_by=first.by,
        optimistic=first.optimistic,
        sizes=(
            round(np.mean([len(part.train) for part in draws.splits])),
            round(np.mean([len(part.test) for part in draws.splits])),
        ),
        seeds=options.seeds,
        notes=tuple(notes),
        command=options.command,
    )


def check_options(options: ProbeOptions) -> None:
    """DataError unless the numbers are possible."""
    wrong = [share for share in options.shares if not 0 < share <= 1]
    if wrong or not options.shares:
        value = f"{wrong[0]:g}" if wrong else "nothing"
        raise DataError(f"a share of {value}; above 0 and up to 1 is needed. Use --share 0.01,0.1,1.")
    if options.seeds < 1 or options.samples < 2:
        raise DataError(
            f"{options.seeds} seeds and {options.samples} samples; at least 1 and 2 are needed. Use larger numbers."
        )


class _Plan(NamedTuple):
    """What is computed of the samples, and the rows that are made of it."""

    extractors: "dict[str, Extractor]"
    columns: list[_Column]
    notes: list[str]
    total: int
    """Samples of the label set."""

    @property
    def side(self) -> int:
        """Side in pixels of the largest window around a pixel."""
        return max(extractor.side for extractor in self.extractors.values())

    @classmethod
    def of(cls, label_set: LabelSet, weights: Sequence[Weights], target_name: str) -> "_Plan":
        """The features of raw bands, priors and networks."""
        from ms2hs.tasks import features  # noqa: PLC0415  torch

        grid, target = label_set.grid, load_sensor(target_name).grid
        plan = cls({"raw": features.raw_bands()}, [_Column(RAW, "raw", "", ("raw",))], [], len(label_set))
        is_multispectral = len(grid) <= MOST_MULTISPECTRAL
        if is_multispectral:
            plan.notes.append(f"cube: all {len(target)} bands of {target_name}, as `convert` computes them")
        else:
            plan.columns.append(_Column(f"{RAW}, PCA-{COMPONENTS}", "raw", "", ("raw",), COMPONENTS))
            plan.notes.append(
                f"the input is hyperspectral ({len(grid)} bands): a converted cube would only resample it, and has no row"
            )
        priors = _distinct_priors(weights)
        for model, prior in priors:
            suffix = f" of {model}" if len(priors) > 1 else ""
            if is_multispectral:
                plan.add_cube(f"cube of the prior{suffix}", model, features.prior_cube(prior, grid, target))
            plan.add(f"prior's coefficients{suffix}", "coefficients", model, features.prior_coefficients(prior, grid))
        failed = []
        networks = [model for model in weights if model.network is not None]
        for model in networks:
            network = model.network
            assert network is not None  # noqa: S101  networks are chosen above
            if is_multispectral and network.config.rank > 0 and not network.config.by_patch:
                plan.add_cube(f"cube of {model.name}", model.name, features.network_cube(model, grid, target))
            try:
                encoders = [
                    make(model, grid, label_set.sensor)
                    for make in (features.TaskEncoder.random, features.TaskEncoder.of)
                ]
            except GridError as error:
                failed.append(error)
                plan.notes.append(f"{model.name} has no row: {error}")
                continue
            for name, kind, encoder in zip(("random encoder", "encoder"), ("random", "encoder"), encoders, strict=True):
                plan.add(f"{name} of {model.name}", kind, model.name, features.encoder_tokens(encoder))
            if encoders[0].patch > 1:
                name = f"encoder of {model.name}"
                plan.columns.append(_Column(f"{name} + raw bands", "encoder", model.name, (name, "raw")))
        if failed and len(failed) == len(networks):
            raise failed[0]
        if plan.side > 1 or label_set.whole_images:
            plan.add_surroundings()
        return plan
