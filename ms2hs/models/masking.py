"""Which tokens a masked autoencoder does not see. Seeded, and always some seen and some hidden.

A window's tokens lie in a table of places (p by p pixels) by spectral groups (s bands).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray
from ms2hs.errors import UnknownName
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands

Share = float | tuple[float, float]


def draw_share(share: Share, rng: np.random.Generator) -> float:
    """The share of tokens to hide, 0-1: as given, or drawn evenly from a range."""
    low, high = share if isinstance(share, tuple) else (share, share)
    if not 0 < low <= high < 1:
        raise ValueError(f"a share of hidden tokens lies between 0 and 1, not {share}")
    return float(rng.uniform(low, high))


def hide_spectral(shape: tuple[int, int, int], share: float, rng: np.random.Generator) -> BoolArray:
    """Whole spectral groups, the same at all places of a window."""
    windows, places, groups = shape
    chosen = _choose(groups, windows, share, rng)
    return np.broadcast_to(chosen[:, None], (windows, places, groups)).copy()


def hide_spatial_spectral(shape: tuple[int, int, int], share: float, rng: np.random.Generator) -> BoolArray:
    """Cubes, each independent of its neighbours."""
    windows, places, groups = shape
    return _choose(places * groups, windows, share, rng).reshape(shape)


def hide_at_each_place(shape: tuple[int, int, int], share: float, rng: np.random.Generator) -> BoolArray:
    """Cubes, equally many at each place: for models whose tokens meet only those of their place."""
    windows, places, groups = shape
    return _choose(groups, windows * places, share, rng).reshape(shape)


def hide_spatial(shape: tuple[int, int, int], share: float, rng: np.random.Generator) -> BoolArray:
    """Whole places."""
    windows, places, groups = shape
    chosen = _choose(places, windows, share, rng)
    return np.broadcast_to(chosen[:, :, None], (windows, places, groups)).copy()


STRATEGIES: dict[str, Callable[[tuple[int, int, int], float, np.random.Generator], BoolArray]] = {
    "spectral": hide_spectral,
    "spatial-spectral": hide_spatial_spectral,
    "place-spectral": hide_at_each_place,
    "spatial": hide_spatial,
}


def hide(strategy: str, shape: tuple[int, int, int], share: Share, rng: np.random.Generator) -> BoolArray:
    """(window, place, group) True where hidden; of each window equally many, at least one, and never all.

    Parameters
    ----------
    strategy : a name in `STRATEGIES`.
    shape : windows, places, groups.
    share : of the tokens that are hidden, 0-1, or a range that it is drawn from.

    Raises
    ------
    UnknownName : no such strategy.
    ValueError : a single token, or a share outside 0-1.
    """
    if strategy not in STRATEGIES:
        raise UnknownName.of("masking strategy", strategy, sorted(STRATEGIES), "Give one of these.")
    return STRATEGIES[strategy](shape, draw_share(share, rng), rng)


def hide_unseen(source: SpectralGrid, target: SpectralGrid, group: int) -> BoolArray:
    """(group,) True for groups of the target's bands none of which the source sees: the exact band set of a sensor."""
    seen = pasted_bands(source, target) >= 0
    padded = np.concatenate([seen, np.zeros(-len(seen) % group, bool)])
    return ~np.asarray(padded.reshape(-1, group).any(axis=1), bool)


def visible_index(hidden: BoolArray, *, by_place: bool) -> NDArray[np.int64]:
    """(window, sequence, token) positions `place * groups + group` of the seen tokens, ascending.

    Parameters
    ----------
    hidden : (window, place, group).
    by_place : one sequence a place; else one a window.

    Raises
    ------
    ValueError : sequences of unequal length, or one with nothing to see.
    """
    windows, places, groups = hidden.shape
    rows = hidden.reshape(windows * places, groups) if by_place else hidden.reshape(windows, -1)
    counts = (~rows).sum(axis=1)
    if (counts != counts[0]).any() or counts[0] == 0:
        raise ValueError(f"every sequence must see equally many tokens, at least one; there are {np.unique(counts)}")
    index = np.nonzero(~rows)[1].reshape(windows, -1, counts[0])
    return index + groups * np.arange(places)[:, None] if by_place else index


def _choose(count: int, draws: int, share: float, rng: np.random.Generator) -> BoolArray:
    """(draw, count) with round(share * count) True in each row, at least one and never all."""
    if count < 2:
        raise ValueError("a single token cannot be both seen and hidden; use smaller patches or groups")
    chosen = min(max(round(share * count), 1), count - 1)
    rank = rng.random((draws, count)).argsort(axis=1).argsort(axis=1)
    return rank < chosen
