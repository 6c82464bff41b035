"""Probes: how much a frozen encoder helps a linear head, beside what it has to beat.

The rows of the table are features of the same samples: raw bands, the converted cube, the prior's coefficients, a
random encoder, and the encoder of each model. Each seed splits the samples anew, unless the data set gives a split, and
draws shares of the training samples, the same for every feature. The validation part of the split is left unused:
regularisation is chosen within the share, so that 1 % of the labels means 1 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.errors import DataError, GridError
from ms2hs.models.weights import Weights, load_weights
from ms2hs.progress import Progress
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.tasks.labels.label_values import select
from ms2hs.tasks.labels.splits import Split, split, subsample

if TYPE_CHECKING:
    from ms2hs.tasks.sample_features import Extractor
    from ms2hs.tasks.task_encoder import TaskEncoder

# Principal components of features with many bands.
COMPONENTS = 30
# Input with more bands is hyperspectral: a conversion would only resample it.
MOST_MULTISPECTRAL = 30
RAW, RAW_SPREAD = "raw bands", "raw bands, mean and spread"
# Kinds of encoders, in words.
KINDS = {"random": "random encoder", "encoder": "encoder"}
# Kinds of rows that use a trained encoder.
WITH_ENCODER = ("encoder", "both")


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
    """`raw`, `cube`, `coefficients`, `random`, `encoder`, or `both` for the encoder with raw bands."""
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


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation with n - 1; NaN where there are too few values."""
    known = [value for value in values if np.isfinite(value)]
    mean = float(np.mean(known)) if known else np.nan
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else np.nan


def check_probe_installed() -> None:
    """Raise DataError unless scikit-learn, which fits the heads, is installed."""
    if find_spec("sklearn") is None:
        raise DataError("scikit-learn is not installed; labels need it. `pip install 'ms2hs[tasks]'` brings it.")


def probe(
    labels: LabelOptions | str | Path, options: ProbeOptions | None = None, progress: Progress | None = None
) -> ProbeResult:
    """Scores of linear heads on the features of frozen encoders, beside raw bands and converted cubes.

    Parameters
    ----------
    labels : labelled data, or its path. The bands of a `source` that is not the sensor of the images are simulated.

    Raises
    ------
    Ms2hsError : errors of `load_weights`, `open_samples` and `probe_samples`; scikit-learn is missing.
    """
    labels = labels if isinstance(labels, LabelOptions) else LabelOptions(Path(labels))
    options = options or ProbeOptions()
    check_probe_installed()
    from ms2hs.tasks.sample_features import open_samples  # noqa: PLC0415  torch

    weights = [load_weights(model) for model in dict.fromkeys(options.models)]
    return probe_samples(open_samples(labels), weights, options, progress)


def probe_samples(
    label_set: LabelSet, weights: Sequence[Weights], options: ProbeOptions, progress: Progress | None = None
) -> ProbeResult:
    """Scores of linear heads on every feature of labelled samples.

    Raises
    ------
    DataError : no sample with known reflectance; no possible split; every share is too small.
    GridError : none of the networks can use the bands.
    """
    from ms2hs.tasks.sample_features import extract  # noqa: PLC0415  torch

    _check_options(options)
    names = [model.name for model in weights]
    weights = [m if names.count(m.name) == 1 else replace(m, name=str(m.path)) for m in weights]
    plan, total = feature_plan(label_set, weights, options.target), len(label_set)
    chosen = np.arange(total)
    if total > options.samples:
        chosen = subsample(label_set, chosen, options.samples / total)
    parts, known = extract(label_set, chosen, plan.extractors, progress)
    if not known.any():
        raise DataError(
            f"{label_set.name}: none of {len(chosen)} samples has known reflectance in all bands; some are needed. "
            "Check nodata and the scale of the images."
        )
    notes = [*label_set.notes, *plan.notes]
    if len(chosen) < total:
        how = "at random" if label_set.task == "regression" else "at random, the same share of each class"
        notes.append(f"{len(chosen):,} of {total:,} samples were drawn {how}")
    if not known.all():
        notes.append(f"{(~known).sum():,} samples are left out: their reflectance is not known in all bands")
    used = select(label_set, np.isin(np.arange(total), chosen[known]))
    draws = _draw(used, options, guard=max(extractor.side for extractor in plan.extractors.values()) // 2)
    rows = []
    for column in plan.columns:
        features = np.concatenate([parts[name][known] for name in column.parts], axis=1)
        rows.append(_scored(column, features, used, draws))
        if progress:
            progress("heads", len(rows), len(plan.columns))
    first = draws.splits[0]
    sizes = [[len(part.train), len(part.test)] for part in draws.splits]
    train, test = np.round(np.mean(sizes, axis=0)).astype(int).tolist()
    return ProbeResult(
        title=used.name,
        task=used.task,
        classes=used.classes,
        bands=used.grid,
        sensor=used.sensor,
        rows=tuple(rows),
        shares={share: round(np.mean([len(d) for d in drawn])) for share, drawn in draws.train.items()},
        impossible=draws.impossible,
        counts=_counts(used),
        split_by=first.by,
        optimistic=first.optimistic,
        sizes=(train, test),
        seeds=options.seeds,
        notes=tuple(notes),
        command=options.command,
    )


def _check_options(options: ProbeOptions) -> None:
    wrong = [share for share in options.shares if not 0 < share <= 1]
    if wrong or not options.shares:
        value = f"{wrong[0]:g}" if wrong else "nothing"
        raise DataError(f"a share of {value}; above 0 and up to 1 is needed. Use --share 0.01,0.1,1.")
    if options.seeds < 1 or options.samples < 2:
        raise DataError(
            f"{options.seeds} seeds and {options.samples} samples; at least 1 and 2 are needed. Use larger numbers."
        )


class Column(NamedTuple):
    """A row of the table before it is scored."""

    name: str
    kind: str
    model: str
    parts: tuple[str, ...]
    """Names of the extractors whose values stand side by side."""
    components: int = 0
    """Principal components of them; 0: the values as they are."""


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """What is computed of each sample, and the rows that are made of it."""

    extractors: "dict[str, Extractor]" = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, kind: str, model: str, extractor: "Extractor") -> None:
        """Add an extractor, and a row of its own."""
        self.extractors[name] = extractor
        self.columns.append(Column(name, kind, model, (name,)))

    def add_components(self) -> None:
        """Add a row with the principal components of the last one."""
        last = self.columns[-1]
        self.columns.append(last._replace(name=f"{last.name}, PCA-{COMPONENTS}", components=COMPONENTS))


def feature_plan(label_set: LabelSet, weights: Sequence[Weights], target: str) -> FeaturePlan:
    """Features of raw bands, of the distinct priors, and of the networks that can use the bands.

    A converted cube has a row only for multispectral input. Hyperspectral input would only be resampled: there the
    principal components of its own bands have the row.
    """
    from ms2hs.tasks import sample_features as features  # noqa: PLC0415  torch

    grid, to, plan = label_set.grid, load_sensor(target).grid, FeaturePlan()
    networks = [model for model in weights if model.network is not None]
    encoders = _encoders(label_set, networks, plan.notes)
    side = max([1, *(encoder.patch for _, _, encoder in encoders)])
    plan.add(RAW, "raw", "", features.raw_bands())
    is_multispectral = len(grid) <= MOST_MULTISPECTRAL
    if not is_multispectral:
        plan.add_components()
        plan.notes.append(f"{len(grid)} bands are hyperspectral: a converted cube would only resample them")
    plan.add(f"{RAW}, scaled", "raw", "", features.scaled_bands())
    if label_set.whole_images or (side > 1 and not label_set.isolated):
        plan.add(RAW_SPREAD, "raw", "", features.mean_and_spread(side))
        if not label_set.whole_images:
            plan.columns[-1] = Column(RAW_SPREAD, "raw", "", (RAW, RAW_SPREAD))
    priors = _distinct_priors(weights)
    for model in priors:
        prior, suffix = model.prior, f" of {model.name}" if len(priors) > 1 else ""
        if is_multispectral:
            plan.add(f"cube by the prior{suffix}", "cube", model.name, features.prior_cube(prior, grid, to))
            plan.add_components()
        plan.add(f"prior's coefficients{suffix}", "coefficients", model.name, features.prior_coefficients(prior, grid))
    for model in networks:
        # without errors of the input, a network of coefficients adds nothing to its prior
        if is_multispectral and model.network is not None and not model.network.config.by_patch:
            plan.add(f"cube by {model.name}", "cube", model.name, features.network_cube(model, grid, to))
            plan.add_components()
    for of, kind, encoder in encoders:
        name = f"{KINDS[kind]} of {of}"
        plan.add(name, kind, of, features.encoder_tokens(encoder))
        if kind == "encoder" and encoder.patch > 1:
            plan.columns.append(Column(f"{name} + {RAW}", "both", of, (name, RAW)))
    return plan


def _encoders(
    label_set: LabelSet, networks: Sequence[Weights], notes: list[str]
) -> "list[tuple[str, str, TaskEncoder]]":
    """Name of the model, kind, and encoder, random ones first; a note for each network that cannot use the bands.

    GridError if none of the networks can.
    """
    from ms2hs.tasks.task_encoder import TaskEncoder  # noqa: PLC0415  torch

    encoders, failed = [], []
    for model in networks:
        try:
            for kind, make in (("random", TaskEncoder.random), ("encoder", TaskEncoder.of)):
                encoders.append((model.name, kind, make(model, label_set.grid, label_set.sensor)))
        except GridError as error:
            failed.append(GridError(f"{model.name}: {error}"))
            notes.append(f"{model.name} has no row: {error}")
    if failed and not encoders:
        raise failed[0]
    return sorted(encoders, key=lambda encoder: encoder[1], reverse=True)


def _distinct_priors(weights: Sequence[Weights]) -> list[Weights]:
    """The first of the models with each prior."""
    distinct: list[Weights] = []
    for model in weights:
        if not any(np.array_equal(model.prior.factors, other.prior.factors) for other in distinct):
            distinct.append(model)
    return distinct


class _Draws(NamedTuple):
    """The splits of all seeds, and the training samples of each possible share for each seed."""

    splits: list[Split]
    train: dict[float, list[NDArray[np.intp]]]
    impossible: dict[float, str]


def _draw(label_set: LabelSet, options: ProbeOptions, guard: int) -> _Draws:
    """DataError if no split is possible, or no share is."""
    splits = [split(label_set, seed, guard=guard) for seed in range(options.seeds)]
    train: dict[float, list[NDArray[np.intp]]] = {}
    impossible = {}
    for share in sorted(options.shares):
        try:
            train[share] = [subsample(label_set, part.train, share, seed) for seed, part in enumerate(splits)]
        except DataError as error:
            impossible[share] = str(error)
    if not train:
        raise DataError(next(iter(impossible.values())))
    return _Draws(splits, train, impossible)


def _scored(column: Column, features: Float32Array, label_set: LabelSet, draws: _Draws) -> ProbeRow:
    """The scores of a feature (sample, value) over all shares and seeds."""
    from ms2hs.tasks.heads import LinearHead, Training  # noqa: PLC0415  scikit-learn, which comes with ms2hs[tasks]
    from ms2hs.tasks.label_scores import ONE_CLASS, confusion, score_all  # noqa: PLC0415  likewise

    scores: dict[float, dict[str, tuple[float, ...]]] = {share: {} for share in draws.train}
    matrix, largest = None, max(draws.train)
    samples = Training(features, label_set.labels, label_set.groups)
    for seed, part in enumerate(draws.splits):
        truth = label_set.labels[part.test]
        for share, drawn in draws.train.items():
            head = LinearHead.fit(label_set.task, samples.part(drawn[seed]), components=column.components, seed=seed)
            predicted = head.predict(features[part.test])
            for key, score in score_all(label_set.task, truth, predicted).items():
                scores[share][key] = (*scores[share].get(key, ()), score)
            if share == largest and label_set.task in ONE_CLASS:
                counts = confusion(truth, predicted.labels, len(label_set.classes))
                matrix = counts if matrix is None else matrix + counts
    size = min(column.components or features.shape[1], features.shape[1])
    return ProbeRow(column.name, column.kind, column.model, size, scores, matrix)


def _counts(label_set: LabelSet) -> dict[str, tuple[float, float]]:
    """By class the number of samples and of groups; by quantity the mean and the standard deviation."""
    labels = label_set.labels
    if label_set.task == "regression":
        values = [(float(column.mean()), float(column.std())) for column in labels.T]
    else:
        members = [labels[:, k] if labels.ndim == 2 else labels == k for k in range(len(label_set.classes))]
        values = [(int(member.sum()), len(np.unique(label_set.groups[member]))) for member in members]
    return dict(zip(label_set.classes, values, strict=True))
