"""Completion at several ratios, each model with the masking of its training, as S2MAE (CVPR 2024) shows it.

`completion` hides the same groups of bands from every model. Here a model of cubes loses random cubes, and a model of
band groups loses groups. Models with the same tokens lose the same ones; baselines are scored for each kind of masking.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Self

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import DataError
from ms2hs.evaluation.baselines import training_mse
from ms2hs.evaluation.completion import (
    GROUP,
    CompletionOptions,
    CompletionWindow,
    completed,
    completion_windows,
    interpolated_window,
    mean_spectrum,
    score_windows,
)
from ms2hs.evaluation.metric_table import check_ssim_installed
from ms2hs.evaluation.results import RatioScores
from ms2hs.models.masking import STRATEGIES, hide
from ms2hs.models.weights import Weights, load_weights
from ms2hs.progress import Progress


class Masking(NamedTuple):
    """What is hidden from a model."""

    strategy: str
    """Of `masking.STRATEGIES`."""
    patch: int
    """Side of a token, in pixels; 1 where all patches lose the same bands."""
    group: int
    """Bands of a token."""

    @classmethod
    def of(cls, weights: Weights) -> Self:
        """The last masking of a model's training; single bands of a network with a prior, groups of 8 of a prior."""
        network = weights.network
        if network is None or network.config.rank:
            return cls("spectral", 1, 1 if network else GROUP)
        config = network.config
        strategy = [name for name in config.masking if name in STRATEGIES][-1:] or ["spectral"]
        name = (STRATEGIES[strategy[0]].for_single_patches or strategy[0]) if config.per_patch else strategy[0]
        return cls(name, 1 if STRATEGIES[name].same_for_all_patches else config.patch, config.group)

    def __str__(self) -> str:
        """The strategy and the size of a token."""
        pixels = f"{self.patch} x {self.patch} pixels by " if self.patch > 1 else ""
        return f"{self.strategy}, {pixels}{self.group} band{'s' * (self.group > 1)}"

    def applied(self, window: CompletionWindow, ratio: float, rng: np.random.Generator) -> CompletionWindow:
        """The window with other hidden values; DataError where it has a single token to hide."""
        bands, height, width = window.truth.shape
        rows, cols, groups = -(-height // self.patch), -(-width // self.patch), -(-bands // self.group)
        per_patch = self.patch > 1
        patches = rows * cols if per_patch else 1
        if np.prod([{"patch": patches, "group": groups}[axis] for axis in STRATEGIES[self.strategy].drawn_from]) < 2:
            raise DataError(
                f"windows of {height} x {width} pixels and {bands} bands have one token of masking {self}; two are "
                "needed, one visible and one hidden. Use a larger --size, or other cubes."
            )
        tokens = hide(self.strategy, (1, patches, groups), ratio, rng)[0]
        if not per_patch:
            return replace(window, hidden=np.repeat(tokens[0], self.group)[:bands], tokens=None)
        values = tokens.reshape(rows, cols, groups).repeat(self.patch, 0).repeat(self.patch, 1).repeat(self.group, 2)
        return replace(window, hidden=values[:height, :width, :bands].transpose(2, 0, 1), tokens=tokens)


@dataclass(frozen=True, eq=False)
class RatioExample:
    """One window at one ratio."""

    ratio: float
    hidden: BoolArray
    """(band, row, col)."""
    estimate: Float32Array
    """(band, row, col)."""
    masked_mse: float
    """Over the hidden valid values of this window."""


@dataclass(frozen=True, eq=False)
class RatioPanel:
    """One window, as a model completes it at each ratio."""

    model: str
    masking: str
    wavelength_nm: FloatArray
    truth: Float32Array
    """(band, row, col)."""
    valid: BoolArray
    """(row, col)."""
    examples: tuple[RatioExample, ...]


def complete_at_ratios(
    models: Sequence[str], options: CompletionOptions, ratios: Sequence[float], progress: Progress | None = None
) -> tuple[list[RatioScores], list[RatioPanel]]:
    """Scores of models and baselines at each ratio, and one window of each model; `options.hidden` is not used.

    Parameters
    ----------
    models : names of shipped weights, or paths.
    ratios : shares of the tokens that are hidden, above 0 and below 1.
    progress : called after each ratio.

    Raises
    ------
    Ms2hsError : as of `completion.complete_cubes`, or a window with a single token.
    """
    check_ssim_installed()
    weights = [load_weights(model) for model in models]
    windows = completion_windows(options)
    shown = int(np.argmax([window.valid.sum() for window in windows]))
    maskings = {model.name: Masking.of(model) for model in weights}
    scores: list[RatioScores] = []
    panels: dict[str, list[RatioExample]] = {model.name: [] for model in weights}
    nan = float("nan")
    for done, ratio in enumerate(ratios, 1):
        for masking in dict.fromkeys(maskings.values()):
            rngs = [np.random.default_rng([options.seed, number]) for number in range(len(windows))]
            own = [masking.applied(window, ratio, rng) for window, rng in zip(windows, rngs, strict=True)]
            rows = [score_windows("mean spectrum", nan, mean_spectrum, own)]
            rows.append(score_windows("interpolation", nan, interpolated_window, own))
            for model in (model for model in weights if maskings[model.name] == masking):
                rows.append(score_windows(model.name, training_mse(model), partial(completed, model), own))
                panels[model.name].append(_example(ratio, own[shown], completed(model, own[shown])))
            scores += [RatioScores(**vars(row), ratio=ratio, masking=str(masking)) for row in rows]
        if progress:
            progress("ratios", done, len(ratios))
    window = windows[shown]
    return scores, [
        RatioPanel(name, str(maskings[name]), window.grid.wavelength_nm, window.truth, window.valid, tuple(examples))
        for name, examples in panels.items()
    ]


def _example(ratio: float, window: CompletionWindow, estimate: Float32Array) -> RatioExample:
    hidden = window.hidden_values
    squares = np.square(estimate - window.truth)[hidden & window.valid]
    return RatioExample(ratio, hidden, estimate, float(squares.mean()))
