"""Masking strategies: which tokens the encoder does not see.

The tokens of a window form a table of patches (p by p pixels) by groups (s bands). A strategy draws the hidden tokens
from a random generator: equally many in each window, at least one, and never all. A share that gives no whole number of
tokens is rounded up or down at random, so that it holds on average.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray
from ms2hs.errors import UnknownName
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands

Share = float | tuple[float, float]
"""Share of the tokens to hide, 0-1, or the range to draw the share from."""
TokenShape = tuple[int, int, int]
"""Windows, patches, groups."""
# A training view beside `STRATEGIES`: the input is a real sensor's bands of the target's spectra.
SENSORS = "sensors"


@dataclass(frozen=True)
class Strategy:
    """A way to hide tokens."""

    drawn_from: tuple[str, ...]
    """Axes that the hidden tokens are drawn from, `patch` and `group`; two or more tokens must lie along them."""
    same_for_all_patches: bool = False
    """Whether all patches of a window hide the same groups."""
    for_single_patches: str | None = None
    """Name of the strategy to use where tokens attend only to tokens of their patch; None: this one."""

    @property
    def hides_whole_patches(self) -> bool:
        """Whether a hidden patch keeps no token."""
        return self.drawn_from == ("patch",)

    def hide(self, shape: TokenShape, share: float, rng: np.random.Generator) -> BoolArray:
        """(window, patch, group) True where hidden."""
        windows, patches, groups = shape
        rows = 1 if self.same_for_all_patches else patches
        cols = groups if "group" in self.drawn_from else 1
        count = cols * (patches if "patch" in self.drawn_from else 1)
        hidden = _choose(count, windows * rows * cols // count, share, rng)
        return np.broadcast_to(hidden.reshape(windows, rows, cols), shape).copy()


STRATEGIES: dict[str, Strategy] = {
    "spectral": Strategy(("group",), same_for_all_patches=True),
    "spatial-spectral": Strategy(("patch", "group"), for_single_patches="place-spectral"),
    "place-spectral": Strategy(("group",)),
    "spatial": Strategy(("patch",)),
}


def draw_share(share: Share, rng: np.random.Generator) -> float:
    """The share of tokens to hide, 0-1: as given, or drawn uniformly from a range."""
    low, high = share if isinstance(share, tuple) else (share, share)
    if not 0 < low <= high < 1:
        raise ValueError(f"a share of hidden tokens lies between 0 and 1, not {share}")
    return float(rng.uniform(low, high))


def hide(strategy: str, shape: TokenShape, share: Share, rng: np.random.Generator) -> BoolArray:
    """(window, patch, group) True where `strategy` (of `STRATEGIES`) hides a token: equally many in each window.

    Raises
    ------
    UnknownName : no such strategy.
    ValueError : a single token, or a share outside 0-1.
    """
    if strategy not in STRATEGIES:
        raise UnknownName.of("masking strategy", strategy, sorted(STRATEGIES), "Give one of these.")
    return STRATEGIES[strategy].hide(shape, draw_share(share, rng), rng)


def hide_unseen(source: SpectralGrid, target: SpectralGrid, group: int) -> BoolArray:
    """(group,) True for groups of target bands of which the source covers none."""
    covered = pasted_bands(source, target) >= 0
    padded = np.concatenate([covered, np.zeros(-len(covered) % group, bool)])
    return ~np.asarray(padded.reshape(-1, group).any(axis=1), bool)


def visible_index(hidden: BoolArray, *, per_patch: bool) -> NDArray[np.int64]:
    """(window, sequence, token) positions `patch * groups + group` of the visible tokens, ascending.

    Parameters
    ----------
    hidden : (window, patch, group).
    per_patch : one sequence for each patch; otherwise one for each window.

    Raises
    ------
    ValueError : sequences of unequal length, or a sequence without visible tokens.
    """
    windows, patches, groups = hidden.shape
    rows = hidden.reshape(windows * patches, groups) if per_patch else hidden.reshape(windows, -1)
    counts = (~rows).sum(axis=1)
    if (counts != counts[0]).any() or counts[0] == 0:
        raise ValueError(f"sequences must have equally many visible tokens, at least one; counts: {np.unique(counts)}")
    index = np.nonzero(~rows)[1].reshape(windows, -1, counts[0])
    return index + groups * np.arange(patches)[:, None] if per_patch else index


def _choose(count: int, draws: int, share: float, rng: np.random.Generator) -> BoolArray:
    """(draw, count) with equally many True in each row, on average share * count; at least one and never all."""
    if count < 2:
        raise ValueError("a single token cannot be both visible and hidden; use smaller patches or groups")
    chosen = min(max(math.floor(share * count + rng.random()), 1), count - 1)
    rank = rng.random((draws, count)).argsort(axis=1).argsort(axis=1)
    return rank < chosen
