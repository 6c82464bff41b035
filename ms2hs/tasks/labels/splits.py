"""Splits of labelled samples into training, validation and test, and shares of the training samples."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms2hs.tasks.labels.label_set import LabelSet


@dataclass(frozen=True, eq=False)
class Split:
    """Sample indices, ascending; no group is in two of them."""

    train: NDArray[np.intp]
    val: NDArray[np.intp]
    test: NDArray[np.intp]
    by: str
    """What was kept together, in words: `given`, `block of 16 pixels`, `individual`, …; `pixel` is optimistic."""

    @property
    def optimistic(self) -> bool:
        """Whether neighbours of training samples are in the test set."""
        return self.by == "pixel"


def split(label_set: LabelSet, seed: int = 0, *, guard: int = 0) -> Split:
    """Training, validation and test samples (about 60, 10 and 30 % of the samples).

    Parameters
    ----------
    guard : training samples whose pixel is nearer than this to a pixel of the other sides are left out, in pixels: for
        features of windows around pixels.

    Raises
    ------
    DataError : a side is empty, or a class has no sample in training or test.
    """
    raise NotImplementedError


def subsample(label_set: LabelSet, train: NDArray[np.intp], share: float, seed: int = 0) -> NDArray[np.intp]:
    """A share of the training samples, with about the same share of each class and at least one sample of each.

    Shares of one seed are nested: 1 % is part of 5 %.

    Raises
    ------
    DataError : the share has fewer samples than classes.
    """
    raise NotImplementedError
