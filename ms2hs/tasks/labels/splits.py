"""Splits of labelled samples into training, validation and test, and shares of the training samples.

Groups are assigned one by one, the groups of the rarest class first, each to the side that lacks most samples of that
class. The order within a class is random, so that seeds give different splits; if a class is missing on a side, other
orders are tried, and last the order by size, which puts a class on both sides wherever it has two groups of its own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray
from ms2hs.errors import DataError
from ms2hs.tasks.labels.label_set import LabelSet

SIDES = ("train", "val", "test")
# What a random split keeps together.
OPTIMISTIC = "pixel"
# Shares of the samples.
SHARES = np.array([0.6, 0.1, 0.3])
# Share of the training samples that becomes the validation set where a data set gives none.
VAL_SHARE = 0.15
# Random orders that are tried before the order by size.
TRIES = 20
MAX_LISTED = 5


@dataclass(frozen=True, eq=False)
class Split:
    """Sample indices, ascending; no group is in two of them, unless the data set gives such a split."""

    train: NDArray[np.intp]
    val: NDArray[np.intp]
    test: NDArray[np.intp]
    by: str
    """What was kept together, in words: `given`, `block of 16 pixels`, `individual`, …; `pixel` is optimistic."""

    @property
    def optimistic(self) -> bool:
        """Whether neighbours of training samples are in the test set."""
        return self.by == OPTIMISTIC


def split(label_set: LabelSet, seed: int = 0, *, guard: int = 0) -> Split:
    """Training, validation and test samples: about 60, 10 and 30 %, or as the data set gives them.

    Parameters
    ----------
    guard : distance in pixels, for features of windows around pixels. Training samples that are nearer to a validation
        or test pixel are left out, and validation samples that are nearer to a test pixel. Unused by an optimistic
        split, where hardly any sample would be left.

    Raises
    ------
    DataError : a side is empty, or a class has no sample in training or test.
    """
    if label_set.given_split is None:
        side, by = _group_sides(label_set, np.arange(len(label_set)), SHARES, seed), label_set.grouped_by
    else:
        side, by = _given_sides(label_set, label_set.given_split, seed), "given"
    has_neighbours = not (label_set.isolated or label_set.whole_images or by == OPTIMISTIC)
    if guard and has_neighbours:
        side = _guarded(label_set, side, guard)
    train, val, test = (np.flatnonzero(side == number) for number in range(3))
    for name, members in (("train", train), ("test", test), ("val", val)):
        if name == "val":
            _check_classes(label_set, train, test, by)
        if not len(members):
            raise DataError(
                f"{label_set.name}: no sample is left for {name} of {len(label_set)} samples in "
                f"{len(np.unique(label_set.groups))} groups ({by}); each side needs a group, and training and test one "
                "of each class. Add data, give smaller blocks with --block, or use --split random, which is optimistic."
            )
    return Split(train, val, test, by)


def subsample(label_set: LabelSet, train: NDArray[np.intp], share: float, seed: int = 0) -> NDArray[np.intp]:
    """A share of the training samples, ascending: about the same share of each class, at least one sample of each.

    Shares of one seed are nested: 1 % is part of 5 %.

    Raises
    ------
    DataError : the share has fewer samples than classes.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is not in (0, 1]")
    labels, count = label_set.labels[train], round(share * len(train))
    needed = 2 if label_set.task == "regression" else int(_class_counts(label_set, train).astype(bool).sum())
    if count < needed:
        raise DataError(
            f"{label_set.name}: {100 * share:g} % of {len(train)} training samples are {count}; at least {needed} are "
            f"needed, one of each class. Leave this share out: {100 * needed / len(train):.2g} % or more is possible."
        )
    order = np.random.default_rng(seed).permutation(len(train))
    if label_set.task == "regression":
        return np.sort(train[order[:count]])
    if labels.ndim == 2:
        first = [order[labels[order, number]][:1] for number in range(labels.shape[1])]
        order = np.concatenate([*first, order])
        _, position = np.unique(order, return_index=True)
        return np.sort(train[order[np.sort(position)][: max(count, len(np.unique(np.concatenate(first))))]])
    chosen = []
    for number in np.unique(labels):
        members = order[labels[order] == number]
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(train[np.concatenate(chosen)])


def _class_counts(label_set: LabelSet, samples: NDArray[np.intp]) -> NDArray[np.intp]:
    """(class,) number of samples of each class; all samples as one class for regression."""
    if label_set.task == "regression":
        return np.array([len(samples)])
    labels = label_set.labels[samples]
    return labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(label_set.classes))


def _given_sides(label_set: LabelSet, given: NDArray[np.str_], seed: int) -> NDArray[np.intp]:
    """(sample,) index into `SIDES`, -1 = unused; validation is taken from training where none is given."""
    side = np.full(len(label_set), -1)
    for number, name in enumerate(SIDES):
        side[given == name] = number
    train = np.flatnonzero(side == 0)
    if not (side == 1).any() and len(train):
        side[train] = _group_sides(label_set, train, np.array([1 - VAL_SHARE, VAL_SHARE, 0]), seed)
    return side


def _group_sides(
    label_set: LabelSet, samples: NDArray[np.intp], shares: NDArray[np.float64], seed: int
) -> NDArray[np.intp]:
    """(sample,) index into `SIDES`: whole groups, each class in about these shares."""
    _, group = np.unique(label_set.groups[samples], return_inverse=True)
    groups, rng = int(group.max()) + 1, np.random.default_rng(seed)
    if label_set.task == "regression":
        counts = np.bincount(group)[:, None]
    elif label_set.labels.ndim == 2:
        counts = np.zeros((groups, len(label_set.classes)), np.intp)
        np.add.at(counts, group, label_set.labels[samples])
    else:
        classes = len(label_set.classes)
        pairs = group * classes + label_set.labels[samples]
        counts = np.bincount(pairs, minlength=groups * classes).reshape(groups, classes)
    best, fewest = np.zeros(groups, np.intp), np.inf
    for attempt in range(TRIES + 1):
        order = rng.permutation(groups)
        if attempt == TRIES:
            order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
        side = _assigned(counts, order, shares)
        # A class that is missing in validation counts less than one that is missing in training or test.
        missing = [(counts[side == number].sum(axis=0) == 0).sum() for number in range(len(SIDES))]
        lacks = np.dot(np.where(shares > 0, (1, 1 / (1 + counts.shape[1]), 1), 0), missing)
        if lacks < fewest:
            best, fewest = side, lacks
        if lacks == 0:
            break
    return best[group]


def _assigned(counts: NDArray[np.intp], order: NDArray[np.intp], shares: NDArray[np.float64]) -> NDArray[np.intp]:
    """(group,) index into `SIDES`; validation gets at least one group that training can spare.

    Parameters
    ----------
    counts : (group, class) samples.
    order : the order of groups of one rarest class.
    """
    spread = (counts > 0).sum(axis=0)
    rarest = np.where(counts > 0, spread, np.iinfo(np.intp).max).argmin(axis=1)
    order = order[np.argsort(spread[rarest[order]], kind="stable")]
    lacking = shares[:, None] * counts.sum(axis=0)
    # The size of a class decides least: a side that is full of one class still takes groups of another.
    sizes = counts.sum(axis=1)
    room = shares * sizes.sum()
    side = np.zeros(len(counts), np.intp)
    for number in order:
        need = lacking[:, rarest[number]]
        best = np.flatnonzero(need == need.max())
        chosen = best[0] if len(best) == 1 else best[np.argmax(room[best])]
        side[number] = chosen
        lacking[chosen] -= counts[number]
        room[chosen] -= sizes[number]
    if shares[1] and not (side == 1).any():
        total = counts[side == 0].sum(axis=0)
        spare = np.flatnonzero((side == 0) & ((counts < total) | (counts == 0)).all(axis=1))
        side[spare[sizes[spare].argsort(kind="stable")[:1]]] = 1
    return side


def _guarded(label_set: LabelSet, side: NDArray[np.intp], guard: int) -> NDArray[np.intp]:
    """Sides with -1 for training pixels within `guard` pixels of another side, and validation pixels near the test."""
    side = side.copy()
    for kept, lower in ((2, (0, 1)), (1, (0,))):
        for image in np.unique(label_set.image):
            here = np.flatnonzero(label_set.image == image)
            near = _near(label_set, here, side[here] == kept, guard)
            side[here[near & np.isin(side[here], lower)]] = -1
    return side


def _near(label_set: LabelSet, samples: NDArray[np.intp], is_kept: BoolArray, guard: int) -> BoolArray:
    """(sample,) whether a pixel of an image lies within `guard` rows and columns of a kept pixel."""
    row, col = label_set.row[samples], label_set.col[samples]
    area = np.zeros((row.max() + 2, col.max() + 2), np.intp)
    area[row[is_kept] + 1, col[is_kept] + 1] = 1
    total = area.cumsum(axis=0).cumsum(axis=1)
    top, bottom = np.maximum(row - guard, 0), np.minimum(row + guard + 1, len(area) - 1)
    left, right = np.maximum(col - guard, 0), np.minimum(col + guard + 1, area.shape[1] - 1)
    return np.asarray(total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left] > 0)


def _check_classes(label_set: LabelSet, train: NDArray[np.intp], test: NDArray[np.intp], by: str) -> None:
    if label_set.task == "regression":
        return
    missing = (_class_counts(label_set, train) == 0) | (_class_counts(label_set, test) == 0)
    if missing.any():
        names = [name for name, is_missing in zip(label_set.classes, missing, strict=True) if is_missing]
        drop = " ".join(f"--drop {name!r}" for name in names)
        raise DataError(
            f"{label_set.name}: {len(names)} classes ({', '.join(names[:MAX_LISTED])}) are not in both training and "
            f"test when split by {by}; each class needs at least 2 groups. Leave them out with {drop}, add data, or "
            "use --split random, which is optimistic."
        )
