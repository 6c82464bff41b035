"""Models side by side on cubes that they are asked to complete: the first table of arXiv 2502.19451."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.registry import Cube, check_scenes, open_cubes
from ms2hs.datasets.cubes.window_sampling import known_bands, read_windows
from ms2hs.errors import DataError
from ms2hs.evaluation.baselines import interpolated
from ms2hs.models.masking import hide, visible_index
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import Weights, load_weights
from ms2hs.spectra.metrics import ssim
from ms2hs.spectra.spectral_grid import SpectralGrid

# Bands that are hidden together. Tokens of a model are hidden where any of their bands is.
GROUP = 8


@dataclass(frozen=True)
class Completion:
    """How one model completes what is hidden: means over all valid pixels and bands of all windows, in reflectance."""

    model: str
    train_mse: float
    """Of the last tenth of its training, as its card says; NaN where it does not."""
    mse: float
    masked_mse: float
    unmasked_mse: float
    ssim: float
    """Mean over windows; data range 1 (`spectra.metrics.ssim`)."""


@dataclass(frozen=True, eq=False)
class _Window:
    truth: Float32Array
    """(band, row, col)."""
    valid: BoolArray
    grid: SpectralGrid
    hidden: BoolArray
    """(band,)."""


@dataclass(frozen=True)
class Trial:
    """Which windows, and how much of each is hidden."""

    corpus: Path
    split: str | None = None
    scenes: tuple[str, ...] = ()
    """Only these scenes; none given: all."""
    hidden: float = 0.75
    """Share of groups of 8 bands that are hidden, the same at all places of a window."""
    windows: int = 64
    size: int = 64
    """Pixels on a side."""
    seed: int = 0


def compare(models: Sequence[str], trial: Trial) -> list[Completion]:
    """One row a model, each asked to complete the same windows, with two baselines before them.

    Parameters
    ----------
    models : names of shipped weights, or paths.

    Raises
    ------
    Ms2hsError : weights or data that cannot be read, no such scene, no window with valid pixels, a network that sees
        nothing of a window; scikit-image is not installed.
    """
    if find_spec("skimage") is None:
        raise DataError("scikit-image is not installed; SSIM needs it. `pip install 'ms2hs[train]'` brings it.")
    weights = [load_weights(model) for model in models]
    windows = list(_windows(trial))
    rows = [_score("mean spectrum", float("nan"), [_mean(window) for window in windows], windows)]
    rows.append(_score("interpolation", float("nan"), [_interpolated(window) for window in windows], windows))
    for model in weights:
        made = [_completed(model, window) for window in windows]
        train = model.card.get("scores", {}).get("train", {}).get("mse", float("nan"))
        rows.append(_score(model.name, float(train), made, windows))
    return rows


def facts(rows: Sequence[Completion]) -> list[dict[str, Any]]:
    """The rows as values for JSON, which has no NaN: None stands for it."""
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in map(asdict, rows)
    ]


def table(rows: Sequence[Completion]) -> str:
    """The rows as aligned text, MSE in units of 1e-4."""
    heads = ("model", "train MSE", "MSE", "masked", "unmasked", "SSIM")
    lines: list[tuple[str, ...]] = [heads]
    for row in rows:
        numbers = [f"{1e4 * value:.3f}" for value in (row.train_mse, row.mse, row.masked_mse, row.unmasked_mse)]
        numbers.append(f"{row.ssim:.4f}")
        lines.append((row.model, *("-" if text == "nan" else text for text in numbers)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    body = [
        "  ".join(
            f"{cell:<{w}}" if not i else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([*body, "MSE in 1e-4, of reflectance 0-1; SSIM with data range 1"])


def _windows(trial: Trial) -> list[_Window]:
    rng = np.random.default_rng(trial.seed)
    cubes = open_cubes(trial.corpus, trial.split)
    check_scenes(cubes, trial.scenes, "Give scenes that are there.")
    cubes = [cube for cube in cubes if not trial.scenes or cube.scene in trial.scenes]
    found: list[_Window] = []
    for cube in _spread(cubes, rng):
        if len(found) == trial.windows:
            break
        known = known_bands(read_windows([cube], min(trial.size, max(cube.shape)), [rng]), cube.grid)
        if known is None or len(known[2]) <= GROUP:
            continue
        truth, valid, grid = (known[0][0], known[1][0], known[2])
        groups = -(-len(grid) // GROUP)
        hidden = np.repeat(hide("spectral", (1, 1, groups), trial.hidden, rng)[0, 0], GROUP)[: len(grid)]
        found.append(_Window(truth, valid, grid, hidden))
    if not found:
        raise DataError(
            f"{trial.corpus}: none of {len(cubes)} cubes has a window with known pixels in more than {GROUP} bands; at "
            "least one is needed. Give another folder, split or scenes."
        )
    return found


def _spread(cubes: Sequence[Cube], rng: np.random.Generator) -> list[Cube]:
    """The cubes at random, a scene's second only after all first ones; repeatedly, since a cube has many windows."""
    order = [cubes[i] for i in rng.permutation(len(cubes))]
    turn: dict[str, int] = {}
    ranked: list[tuple[int, int, Cube]] = []
    for cube in order:
        turn[cube.scene] = turn.get(cube.scene, 0) + 1
        ranked.append((turn[cube.scene], len(ranked), cube))
    once = [cube for _, _, cube in sorted(ranked, key=lambda entry: entry[:2])]
    return once * 4


def _mean(window: _Window) -> Float32Array:
    """(band, row, col) the window's own mean spectrum: what one would say who knew the scene but not the pixel."""
    mean = window.truth[:, window.valid].mean(axis=1)
    return np.broadcast_to(mean[:, None, None], window.truth.shape)


def _interpolated(window: _Window) -> Float32Array:
    seen = ~window.hidden
    return interpolated(window.truth[seen], window.grid.select(seen), window.grid)


def _expected(prior: SpectralPrior, window: _Window) -> Float32Array:
    seen = window.grid.select(~window.hidden)
    return prior.condition(seen, window.grid).reconstruct(window.truth[~window.hidden])


def _completed(weights: Weights, window: _Window) -> Float32Array:
    network = weights.network
    if network is None:
        return _expected(weights.prior, window)
    config = network.config
    rows, cols = window.valid.shape
    pad = ((0, 0), (0, -rows % config.patch), (0, -cols % config.patch))
    values = torch.from_numpy(np.pad(window.truth, pad))[None]
    valid = torch.from_numpy(np.pad(window.valid, pad[1:]))[None]
    lens = network.band_view(window.grid)
    with torch.inference_mode():
        if config.rank:
            seen = np.flatnonzero(~window.hidden)
            made = network(values[:, seen], lens.select(seen), lens, valid=valid)
        else:
            padded = np.pad(window.hidden, (0, -len(window.hidden) % config.group))
            hidden = padded.reshape(-1, config.group).max(axis=1)
            if hidden.all():
                raise DataError(
                    f"{weights.path}: groups of {config.group} bands, in each of which some of a window's "
                    f"{len(window.grid)} bands are hidden; one group must be seen. Hide fewer with --hidden, or give "
                    "other weights."
                )
            places = (values.shape[2] // config.patch) * (values.shape[3] // config.patch)
            tokens = np.broadcast_to(hidden, (1, places, len(padded) // config.group))
            index = torch.from_numpy(visible_index(tokens, per_patch=config.per_patch))
            made = network(values, lens, visible=index, valid=valid)
    result: Float32Array = made[0, :, :rows, :cols].numpy()
    return result


def _score(name: str, train_mse: float, made: Sequence[Float32Array], windows: Sequence[_Window]) -> Completion:
    sums = np.zeros((2, 2))  # seen and hidden: sum of squares, count
    similar = []
    for estimate, window in zip(made, windows, strict=True):
        squares = np.square(estimate.astype(float) - window.truth)[:, window.valid].sum(axis=1)
        for kind in (0, 1):
            bands = window.hidden == bool(kind)
            sums[kind] += squares[bands].sum(), bands.sum() * window.valid.sum()
        similar.append(ssim(estimate, window.truth, window.valid))
    seen, hidden = sums
    total = (seen + hidden)[0] / (seen + hidden)[1]
    known = [value for value in similar if np.isfinite(value)]
    return Completion(
        name,
        train_mse,
        total,
        hidden[0] / hidden[1],
        seen[0] / seen[1],
        float(np.mean(known)) if known else float("nan"),
    )
