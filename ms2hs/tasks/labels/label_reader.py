"""The formats of labelled data, each read by one module.

To add a format, write a module with a function that says whether a path has the format and one that opens it, and add a
line to `FORMATS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ms2hs.errors import UnknownName
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_set import TASKS, LabelSet


class LabelFormat(NamedTuple):
    """A format of labelled data."""

    name: str
    layout: str
    """Pattern of its files, for messages, help and docs."""
    tasks: tuple[str, ...]
    """The tasks that it has labels for; the first is the default."""
    fits: Callable[[Path], bool]
    """Whether a path that exists has this format."""
    open: Callable[[LabelOptions, str], LabelSet]
    """The labelled samples for a task."""


FORMATS: tuple[LabelFormat, ...] = ()


def open_labels(options: LabelOptions) -> LabelSet:
    """The labelled samples of a file or folder in one of `FORMATS`, checked; no pixel of a folder of images is read.

    Raises
    ------
    DataError : the path is missing or in no known format; labels that do not fit the images; a class alone.
    UnknownName : the task, sensor or class is unknown.
    """
    if options.task is not None and options.task not in TASKS:
        raise UnknownName.of("task", options.task, list(TASKS), "Use one of these.")
    raise NotImplementedError
