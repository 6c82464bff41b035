"""The formats of labelled data, each read by one module.

To add a format, write a module with a function that says whether a path has the format and one that opens it, and add
a line to `FORMATS`. A reader gives every sample, also without a label; `open_labels` leaves these out and checks the
rest.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ms2hs.errors import DataError, UnknownName, input_errors
from ms2hs.tasks.labels.big_earth_net import is_big_earth_net, open_big_earth_net
from ms2hs.tasks.labels.change_pairs import is_change_pairs, open_change_pairs
from ms2hs.tasks.labels.image_folders import is_image_folder, open_image_folder
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_points import is_point_table, open_label_points
from ms2hs.tasks.labels.label_rasters import (
    is_abundances,
    is_label_raster,
    open_abundances,
    open_label_raster,
    open_mat_labels,
)
from ms2hs.tasks.labels.label_set import TASKS, LabelSet
from ms2hs.tasks.labels.label_values import drop_classes, select
from ms2hs.tasks.labels.labelled_spectra import is_labelled_spectra, is_pattern, open_labelled_spectra
from ms2hs.tasks.labels.mat_file import is_mat
from ms2hs.tasks.labels.splits import OPTIMISTIC


class LabelFormat(NamedTuple):
    """A format of labelled data."""

    name: str
    layout: str
    """Pattern of its files, for messages, help and docs."""
    tasks: tuple[str, ...]
    """The tasks that it has labels for; the first is the default."""
    options: tuple[str, ...]
    """The fields of `OPTIONS` that it uses; others are refused."""
    fits: Callable[[Path], bool]
    """Whether a path has this format; only files that exist are given, and patterns."""
    open: Callable[[LabelOptions, str], LabelSet]
    """The labelled samples for a task."""


# Options that not every format uses, by their field in `LabelOptions`.
OPTIONS = {
    "scene": "--scene",
    "scale": "--scale",
    "variables": "--variable",
    "label_key": "--label-key",
    "group_key": "--group-key",
}
# Tried in this order.
FORMATS = (
    LabelFormat(
        "labelled spectra",
        "*.npz with dn or reflectance (spectrum, band) and an array of labels",
        ("classification", "regression"),
        ("label_key", "group_key"),
        is_labelled_spectra,
        open_labelled_spectra,
    ),
    LabelFormat(
        "abundances",
        "*.npz with abundance (quantity, row, col) and dn, or the name of their cube",
        ("regression", "segmentation"),
        ("scene", "scale", "variables"),
        is_abundances,
        open_abundances,
    ),
    LabelFormat(
        "MATLAB labels",
        "*.mat with an array of classes (row, col) or abundances, and --scene",
        ("segmentation", "regression"),
        ("scene", "scale", "variables"),
        is_mat,
        open_mat_labels,
    ),
    LabelFormat(
        "class rasters",
        "*.tif or *.hdr on the grid of --scene",
        ("segmentation", "regression"),
        ("scene", "scale", "variables"),
        is_label_raster,
        open_label_raster,
    ),
    LabelFormat(
        "points",
        "*.csv with lon, lat and a column of labels, or *.gpkg, inside --scene",
        ("segmentation", "regression"),
        ("scene", "label_key", "group_key"),
        is_point_table,
        open_label_points,
    ),
    LabelFormat(
        "BigEarthNet",
        "<patch>/<patch>_B02.tif with <patch>_labels_metadata.json, or metadata.parquet and BigEarthNet-S2/",
        ("multilabel",),
        (),
        is_big_earth_net,
        open_big_earth_net,
    ),
    LabelFormat(
        "OSCD",
        "<city>/imgs_1_rect/, <city>/imgs_2_rect/ and <city>/cm/cm.png",
        ("change",),
        (),
        is_change_pairs,
        open_change_pairs,
    ),
    LabelFormat(
        "images by class",
        "<class>/<image>.tif, such as EuroSAT",
        ("classification",),
        ("group_key",),
        is_image_folder,
        open_image_folder,
    ),
)


def open_labels(options: LabelOptions) -> LabelSet:
    """The labelled samples of a file or folder in one of `FORMATS`; no pixel of a folder of images is read.

    Raises
    ------
    DataError : the path is missing or in no known format; the labels do not fit the images, or are of one class; or
        nothing says which samples a split must keep together.
    UnknownName : the task, sensor or a class is unknown.
    """
    path = Path(options.path)
    options = replace(options, path=path, scene=None if options.scene is None else Path(options.scene))
    if options.task is not None and options.task not in TASKS:
        raise UnknownName.of("task", options.task, list(TASKS), "Use one of these.")
    if not path.exists() and not is_pattern(path):
        raise DataError(f"{path}: no such file or folder; labelled data are needed. Check the path.")
    with input_errors(str(path), DataError):
        label_format = next((one for one in FORMATS if one.fits(path)), None)
        if label_format is None:
            known = "; ".join(f"{one.name} ({one.layout})" for one in FORMATS)
            raise DataError(f"{path}: no labelled data of a known format; known: {known}. Give another path.")
        task = options.task or label_format.tasks[0]
        if task not in label_format.tasks:
            raise DataError(
                f"{path}: {label_format.name} have no labels for {task}; --task {' or '.join(label_format.tasks)} is "
                "possible. Use one of these."
            )
        given = [field for field in OPTIONS if getattr(options, field) not in {None, ()}]
        unused = [OPTIONS[field] for field in given if field not in label_format.options]
        if unused:
            raise DataError(
                f"{path}: {unused[0]} was given, which {label_format.name} do not use; an option is never ignored. "
                "Leave it out."
            )
        return _checked(options, label_format.open(options, task))


def _checked(options: LabelOptions, label_set: LabelSet) -> LabelSet:
    """The samples that have a label, with the groups that the options want.

    A class without samples is left out. DataError for less than two classes, or no groups.
    """
    path, labels = options.path, label_set.labels
    labelled = np.isfinite(labels).all(axis=1) if label_set.task == "regression" else np.ones(len(labels), bool)
    if labels.ndim == 1:
        labelled = labels >= 0
    label_set = drop_classes(select(label_set, labelled), options.drop)
    needed = 1 if label_set.task in {"regression", "multilabel"} else 2
    if len(label_set.classes) < needed or not len(label_set):
        found = ", ".join(label_set.classes) or "none"
        raise DataError(
            f"{path}: {len(label_set)} labelled samples of {len(label_set.classes)} class ({found}); at least {needed} "
            "classes are needed. Add labels, or drop fewer classes."
        )
    if options.split == "random":
        every = np.arange(len(label_set)).astype(str)
        return replace(label_set, groups=every, grouped_by=OPTIMISTIC, given_split=None)
    if options.split == "given" and label_set.given_split is None:
        raise DataError(f"{path}: no split is given with the data; use --split groups, or --split random.")
    if label_set.given_split is None and not label_set.grouped_by:
        raise DataError(
            f"{path}: nothing says which samples belong together, and neighbours would be on both sides of a split; an "
            "array or column of groups is needed. Name it with --group-key, or use --split random, which is optimistic."
        )
    if label_set.grouped_by and (label_set.groups == "").any():
        raise DataError(
            f"{path}: {(label_set.groups == '').sum()} samples have no {label_set.grouped_by}; each needs a group. "
            "Correct the groups, or name others with --group-key."
        )
    return label_set
