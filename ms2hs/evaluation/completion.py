"""Scores of models that reconstruct hidden bands of hyperspectral cubes, as in Table 1 of arXiv 2502.19451.

From each cube a random window is read, groups of eight bands are hidden in the whole window, and every model
predicts all bands from the bands that remain. All models get the same windows.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.registry import Cube, check_scenes, open_cubes
from ms2hs.datasets.cubes.window_sampling import known_bands, read_windows
from ms2hs.errors import DataError
from ms2hs.evaluation.baselines import interpolated, training_mse
from ms2hs.evaluation.metric_table import check_ssim_installed, known_mean
from ms2hs.evaluation.results import CompletionScores
from ms2hs.models.masking import hide, visible_index
from ms2hs.models.weights import Weights, load_weights
from ms2hs.progress import Progress
from ms2hs.spectra.metrics import ssim
from ms2hs.spectra.spectral_grid import SpectralGrid

# Bands that are hidden together. A model's token is hidden if any of its bands is hidden.
GROUP = 8
# Largest number of windows from one cube.
MAX_DRAWS_PER_CUBE = 4


@dataclass(frozen=True)
class CompletionOptions:
    """Options of `complete_cubes`."""

    corpus: Path
    split: str | None = None
    scenes: tuple[str, ...] = ()
    """Scenes to use; empty for all."""
    hidden: float = 0.75
    """Share of the groups of 8 bands that are hidden, the same groups in all pixels of a window."""
    windows: int = 64
    size: int = 64
    """Height and width of a window, in pixels."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class CompletionWindow:
    """A window of a cube, and what of it is hidden."""

    truth: Float32Array
    """(band, row, col)."""
    valid: BoolArray
    """(row, col)."""
    grid: SpectralGrid
    hidden: BoolArray
    """(band,), or (band, row, col) where patches hide different bands."""
    tokens: BoolArray | None = None
    """(patch, group) hidden tokens of the model that is scored, where patches hide different bands; else None."""

    @property
    def hidden_values(self) -> BoolArray:
        """(band, row, col)."""
        hidden = self.hidden if self.hidden.ndim > 1 else self.hidden[:, None, None]
        return np.broadcast_to(hidden, self.truth.shape)


def complete_cubes(
    models: Sequence[str], options: CompletionOptions, progress: Progress | None = None
) -> list[CompletionScores]:
    """Scores of two baselines and of each model, on the same windows.

    Parameters
    ----------
    models : names of shipped weights, or paths.
    progress : called after each window of each method.

    Raises
    ------
    Ms2hsError : unreadable weights or data, an unknown scene, no window with valid pixels, a network without a visible
        token; scikit-image is not installed.
    """
    check_ssim_installed()
    weights = [load_weights(model) for model in models]
    windows = completion_windows(options)
    methods = [("mean spectrum", float("nan"), mean_spectrum), ("interpolation", float("nan"), interpolated_window)]
    methods += [(model.name, training_mse(model), partial(completed, model)) for model in weights]
    return [score_windows(*method, windows, progress) for method in methods]


def completion_windows(options: CompletionOptions) -> list[CompletionWindow]:
    """Random windows of the cubes, of which groups of bands are hidden; errors as of `complete_cubes`."""
    rng = np.random.default_rng(options.seed)
    cubes = open_cubes(options.corpus, options.split, multispectral=True)
    check_scenes(cubes, options.scenes, "Use one of the known scenes.")
    cubes = [cube for cube in cubes if not options.scenes or cube.scene in options.scenes]
    windows: list[CompletionWindow] = []
    for cube in _spread(cubes, rng):
        if len(windows) == options.windows:
            break
        known = known_bands(read_windows([cube], min(options.size, max(cube.shape)), [rng]), cube.grid)
        if known is None or len(known[2]) <= GROUP:
            continue
        (truth,), (valid,), grid = known
        groups = -(-len(grid) // GROUP)
        hidden = np.repeat(hide("spectral", (1, 1, groups), options.hidden, rng)[0, 0], GROUP)[: len(grid)]
        windows.append(CompletionWindow(truth, valid, grid, hidden))
    if not windows:
        raise DataError(
            f"{options.corpus}: none of {len(cubes)} cubes has a window with known pixels in more than {GROUP} bands; "
            "one is needed. Use another folder, split or scene."
        )
    return windows


def _spread(cubes: Sequence[Cube], rng: np.random.Generator) -> list[Cube]:
    """The cubes in random order, several times; the second cube of a scene follows the first cubes of all scenes."""
    shuffled = [cubes[i] for i in rng.permutation(len(cubes))]
    cubes_of_scene: Counter[str] = Counter()
    turns = []
    for cube in shuffled:
        cubes_of_scene[cube.scene] += 1
        turns.append(cubes_of_scene[cube.scene])
    return [shuffled[i] for i in np.argsort(turns, kind="stable")] * MAX_DRAWS_PER_CUBE


def mean_spectrum(window: CompletionWindow) -> Float32Array:
    """(band, row, col) the true mean spectrum of the window, in every pixel: the best constant prediction."""
    mean = window.truth[:, window.valid].mean(axis=1)
    return np.broadcast_to(mean[:, None, None], window.truth.shape)


def interpolated_window(window: CompletionWindow) -> Float32Array:
    """(band, row, col) each pixel between its visible bands; without any, the mean of the visible values of a band."""
    pixels, hidden = window.truth.reshape(len(window.grid), -1), window.hidden_values.reshape(len(window.grid), -1)
    known = ~hidden & window.valid.ravel()
    seen = np.flatnonzero(known.any(axis=1))
    means = (pixels * known).sum(axis=1)[seen] / known.sum(axis=1)[seen]
    mean = interpolated(means, window.grid.select(seen), window.grid)
    estimate = np.empty_like(pixels)
    masks, which = np.unique(hidden, axis=1, return_inverse=True)
    for index, visible in enumerate(~masks.T):
        own = which.ravel() == index
        estimate[:, own] = mean[:, None]
        if visible.any():
            estimate[:, own] = interpolated(pixels[visible][:, own], window.grid.select(visible), window.grid)
    return estimate.reshape(window.truth.shape)


def completed(weights: Weights, window: CompletionWindow) -> Float32Array:
    """(band, row, col) the prediction of a model."""
    network = weights.network
    if network is None:
        visible_grid = window.grid.select(~window.hidden)
        return weights.prior.condition(visible_grid, window.grid).reconstruct(window.truth[~window.hidden])
    config = network.config
    rows, cols = window.valid.shape
    pad = ((0, 0), (0, -rows % config.patch), (0, -cols % config.patch))
    values = torch.from_numpy(np.pad(window.truth, pad))[None]  # (1, band, row, col)
    valid = torch.from_numpy(np.pad(window.valid, pad[1:]))[None]
    bands = network.band_view(window.grid)
    with torch.inference_mode():
        if config.rank:
            visible = np.flatnonzero(~window.hidden)
            output = network(values[:, visible], bands.select(visible), bands, valid=valid)
        else:
            patches = (values.shape[2] // config.patch) * (values.shape[3] // config.patch)
            tokens = _hidden_tokens(window.hidden, config.group, patches) if window.tokens is None else window.tokens
            if tokens.all():
                raise DataError(
                    f"{weights.path}: every group of {config.group} bands has hidden bands among the window's "
                    f"{len(window.grid)}; at least one group must be visible. Use a smaller --hidden, or other weights."
                )
            index = torch.from_numpy(visible_index(tokens[None], per_patch=config.per_patch))
            output = network(values, bands, visible=index, valid=valid)
    result: Float32Array = output[0, :, :rows, :cols].numpy()
    return result


def _hidden_tokens(hidden: BoolArray, group: int, patches: int) -> BoolArray:
    """(patch, group) True where any band of a group is hidden, of (band,) hidden bands."""
    padded = np.pad(hidden, (0, -len(hidden) % group))
    return np.broadcast_to(padded.reshape(-1, group).max(axis=1), (patches, len(padded) // group))


def score_windows(
    name: str,
    train_mse: float,
    predict: Callable[[CompletionWindow], Float32Array],
    windows: Sequence[CompletionWindow],
    progress: Progress | None = None,
) -> CompletionScores:
    """The scores of the predictions (band, row, col) of some windows."""
    hidden, visible = np.zeros((2, 2))  # sum of squared errors, number of values
    similarities = []
    for done, window in enumerate(windows, 1):
        estimate = predict(window)
        squares = np.square(estimate.astype(float) - window.truth)[:, window.valid]  # (band, pixel)
        is_hidden = window.hidden_values[:, window.valid]
        for total, part in ((hidden, is_hidden), (visible, ~is_hidden)):
            total[:] += squares[part].sum(), part.sum()
        similarities.append(ssim(estimate, window.truth, window.valid))
        if progress:
            progress(name, done, len(windows))
    mse, masked_mse, unmasked_mse = (total[0] / total[1] for total in (visible + hidden, hidden, visible))
    return CompletionScores(name, train_mse, mse, masked_mse, unmasked_mse, known_mean(similarities))
