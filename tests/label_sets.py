"""Labelled samples in memory whose classes differ in their spectra, for tests of tasks."""

import numpy as np
from cubes_of_arrays import ArrayCube

from ms2hs.models.weights import load_weights
from ms2hs.spectra.spectral_grid import grid_of, response_matrix
from ms2hs.tasks.labels.label_set import WHOLE, LabelSet

GRID = grid_of(np.linspace(450, 2350, 12), np.full(12, 60.0))
# Spectra of the prior's sample that are far apart.
CLASSES = ("first", "second", "third")


def spectra_of_classes(grid=GRID, count=3):
    """(band, class) reflectance of spectra that differ."""
    prior = load_weights("linear").prior
    spectra = response_matrix(grid, prior.wavelength_nm) @ prior.factors.astype(float) @ prior.sample.T.astype(float)
    shape = spectra / spectra.mean(axis=0)
    chosen = [0]
    while len(chosen) < count:
        distance = np.min([np.square(shape - shape[:, [one]]).sum(axis=0) for one in chosen], axis=0)
        chosen.append(int(distance.argmax()))
    return 0.25 * shape[:, chosen]


def image_of(shares, rng, grid=GRID, name="image"):
    """A cube of mixtures (class, row, col) with some noise."""
    values = np.tensordot(spectra_of_classes(grid, len(shares)), shares, axes=1)
    values = values * rng.normal(1, 0.02, values.shape)
    return ArrayCube(name, name, grid, values.astype(np.float32))


def label_set(task, side=None, images=15, grid=GRID, seed=0, *, isolated=False):
    """A toy of a task: classes by spectrum, quantities by share, change where the class changes."""
    rng = np.random.default_rng(seed)
    side = side or (6 if task in {"classification", "multilabel"} else 18)
    if task in {"classification", "multilabel"} and not isolated:
        present = rng.random((images, 3)) < 0.5
        present[np.arange(images), rng.integers(3, size=images)] = True
        if task == "classification":
            present = np.eye(3, dtype=bool)[np.arange(images) % 3]
        cubes = [
            (image_of(_mixed(one, rng, side), rng, grid, f"image {number}"),) for number, one in enumerate(present)
        ]
        labels = present.argmax(axis=1) if task == "classification" else present
        whole = np.full(images, WHOLE)
        groups = np.array([f"place {number}" for number in range(images)])
        return LabelSet(
            f"toy {task}", task, CLASSES, grid, None, cubes, np.arange(images), whole, whole, labels, groups, "place"
        )
    row, col = (index.ravel() for index in np.mgrid[:side, :side])
    fields = [_fields(rng, side) for _ in range(2)]
    shares = [np.eye(3)[field].transpose(2, 0, 1) for field in fields]
    if task == "regression":
        weights = rng.dirichlet(np.ones(3), (side // 3, side // 3))
        shares = [weights.repeat(3, 0).repeat(3, 1).transpose(2, 0, 1)]
    dates = tuple(image_of(one, rng, grid) for one in (shares if task == "change" else shares[:1]))
    labels = {
        "change": (fields[0] != fields[1]).ravel().astype(int),
        "regression": 100 * shares[0].reshape(3, -1).T.astype(np.float32),
    }.get(task, fields[0].ravel())
    names = ("same", "changed") if task == "change" else CLASSES
    block = np.array([f"{r},{c}" for r, c in zip(row // 3, col // 3, strict=True)])
    positions = np.zeros(len(row), np.intp), row, col
    return LabelSet(
        f"toy {task}", task, names, grid, None, [dates], *positions, labels, block, "block of 3 pixels",
        isolated=isolated,
    )  # fmt: skip


def _fields(rng, side):
    """(row, col) class of fields of 3 by 3 pixels."""
    return rng.integers(3, size=(side // 3, side // 3)).repeat(3, 0).repeat(3, 1)


def _mixed(present, rng, side):
    """(class, row, col) each pixel of one of the classes that are present."""
    chosen = rng.choice(np.flatnonzero(present), (side, side))
    return np.eye(len(present))[chosen].transpose(2, 0, 1)
