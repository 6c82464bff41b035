"""Label values as files hold them, turned into classes, and the parts of an image that a split keeps together."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray
from ms2hs.errors import DataError, UnknownName, visible
from ms2hs.tasks.labels.label_set import LabelSet

MAX_CLASSES = 1000
MAX_LISTED = 20


def class_indices(
    where: str, values: NDArray[Any], names: Sequence[str] = ()
) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Names of the classes, sorted, and the (sample,) index of each sample's class; -1 = unlabelled.

    Parameters
    ----------
    where : the file, for messages.
    values : (sample,) texts (empty = unlabelled), or whole numbers (below 0 or NaN = unlabelled).
    names : names of the classes 0, 1, ... ; empty: the values are the names.

    Raises
    ------
    DataError : a value is no whole number, or not in `names`; or there are too many classes.
    """
    if values.dtype.kind in "US":
        known, index = np.unique(values.astype(str), return_inverse=True)
        labelled = known != ""
        classes = tuple(visible(name) for name in known[labelled].tolist())
        _check_count(where, len(classes))
        return classes, np.where(labelled, np.cumsum(labelled) - 1, -1)[index]
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where}: labels of type {values.dtype}; texts or whole numbers are needed. Convert them.")
    numbers = np.where(np.isfinite(values), values, -1)
    if values.dtype.kind == "f" and (broken := numbers[numbers != np.round(numbers)]).size:
        raise DataError(
            f"{where}: the label {broken[0]:g} is no class; whole numbers are needed. Use --task regression for "
            "quantities, or give the array of classes."
        )
    known, index = np.unique(numbers.astype(np.int64), return_inverse=True)
    labelled = known >= 0
    ids = known[labelled]
    _check_count(where, len(ids))
    if names and ids.size and ids.max() >= len(names):
        raise DataError(
            f"{where}: class {ids.max()} has no name; classes 0 to {len(names) - 1} are named. Correct the labels, or "
            "add the names."
        )
    classes = tuple(visible(names[number]) if names else str(number) for number in ids.tolist())
    return classes, np.where(labelled, np.cumsum(labelled) - 1, -1)[index]


def _check_count(where: str, count: int) -> None:
    if count > MAX_CLASSES:
        raise DataError(
            f"{where}: {count} different labels; at most {MAX_CLASSES} classes are read. Give the array of classes, or "
            "use --task regression."
        )


def keyed(key: str) -> tuple[str, re.Pattern[str] | None]:
    """The name of an array or column, and the pattern of the part to take, of `KEY` or `KEY~PATTERN`."""
    name, tilde, pattern = key.partition("~")
    try:
        return name, re.compile(pattern) if tilde else None
    except re.error as error:
        raise DataError(
            f"{key!r}: {pattern!r} is no regular expression ({error}). Write for example plot~[A-Z]+."
        ) from error


def matched(values: NDArray[Any], pattern: re.Pattern[str] | None) -> NDArray[Any]:
    """(sample,) the part of each text that matches a pattern, empty where none does; the values without a pattern."""
    if pattern is None:
        return values
    return np.array([found.group() if (found := pattern.search(text)) else "" for text in values.astype(str).tolist()])


def block_names(image: NDArray[np.intp], row: NDArray[np.intp], col: NDArray[np.intp], side: int) -> NDArray[np.str_]:
    """(sample,) name of the square block of an image in which each pixel lies."""
    if not len(image):
        return np.array([], "U1")
    shape = (int(image.max()) + 1, int(row.max()) // side + 1, int(col.max()) // side + 1)
    blocks, index = np.unique(np.ravel_multi_index((image, row // side, col // side), shape), return_inverse=True)
    names = ["-".join(map(str, block)) for block in zip(*np.unravel_index(blocks, shape), strict=True)]
    return np.array(names)[index]


def select(label_set: LabelSet, keep: BoolArray) -> LabelSet:
    """The label set with some of its samples."""
    given = label_set.given_split
    return replace(
        label_set,
        **{name: getattr(label_set, name)[keep] for name in ("image", "row", "col", "labels", "groups")},
        given_split=None if given is None else given[keep],
    )


def drop_classes(label_set: LabelSet, drop: Sequence[str]) -> LabelSet:
    """The label set without some classes or quantities, and without classes that no sample has.

    Raises
    ------
    UnknownName : a class to drop is unknown.
    """
    classes = label_set.classes
    if unknown := [name for name in drop if name not in classes]:
        raise UnknownName.of("class", unknown[0], list(classes[:MAX_LISTED]), "Use one of these with --drop.")
    kept = np.array([name not in drop for name in classes])
    if label_set.labels.ndim == 2:
        used = kept if label_set.task == "regression" else kept & label_set.labels.any(axis=0)
        label_set = replace(label_set, labels=label_set.labels[:, used])
    else:
        label_set = select(label_set, kept[label_set.labels])
        used = np.bincount(label_set.labels, minlength=len(classes)) > 0
        label_set = replace(label_set, labels=(np.cumsum(used) - 1)[label_set.labels])
    names = tuple(name for name, is_used in zip(classes, used, strict=True) if is_used)
    absent = [name for name, is_kept, is_used in zip(classes, kept, used, strict=True) if is_kept and not is_used]
    notes = [f"no sample has the class {', '.join(absent[:MAX_LISTED])}"] if absent else []
    return replace(label_set, classes=names, notes=(*label_set.notes, *notes))
