"""Labelled samples: whole images, or pixels of images.

A sample is an image, or the surroundings of a pixel. Images are read by window through the protocol of training cubes,
so that a data set of any size can be opened. Labels are held in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.registry import Cube
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.labels.label_options import Task

TASKS = get_args(Task)
# Row of a sample that is a whole image.
WHOLE = -1


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Labelled samples of one task; all images have the same bands."""

    name: str
    task: str
    """One of `TASKS`. Samples are images for `classification` and `multilabel` of images, else pixels."""
    classes: tuple[str, ...]
    """Names of the classes; of the quantities for `regression`."""
    grid: SpectralGrid
    """The usable bands of the images, in ascending wavelength."""
    sensor: str | None
    """Name of the source sensor, or the CSV of its bands; None: the bands are known by wavelength only."""
    images: Sequence[tuple[Cube, ...]]
    """One cube for each image; two, before and after, for `change`."""
    image: NDArray[np.intp]
    """(sample,) index into `images`."""
    row: NDArray[np.intp]
    """(sample,) row of the pixel; `WHOLE` where the sample is the image."""
    col: NDArray[np.intp]
    labels: NDArray[Any]
    """(sample,) index of the class; (sample, class) bool for `multilabel`; (sample, quantity) for `regression`."""
    groups: NDArray[np.str_]
    """(sample,) name of the part that a split keeps on one side."""
    grouped_by: str
    """What `groups` are, in words: `place`, `block of 16 pixels`, `individual`; `pixel` is an optimistic split."""
    given_split: NDArray[np.str_] | None = None
    """(sample,) `train`, `val`, `test` or empty, where the data set gives a split."""
    isolated: bool = False
    """Whether pixels have no neighbours in their image (points): a window then repeats the pixel."""
    notes: tuple[str, ...] = ()
    """What the user must know about the data: assumed scales, classes left out, processing levels."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.image)

    @property
    def whole_images(self) -> bool:
        """Whether samples are whole images."""
        return bool((self.row == WHOLE).all())

    def read(self, sample: int, side: int) -> Float32Array:
        """(date, band, row, col) reflectance of a sample, NaN where unknown or outside the image.

        Parameters
        ----------
        side : size in pixels of the window around a pixel, which lies at row and column `side // 2`; unused for whole
            images.

        Raises
        ------
        Ms2hsError : the file is missing or damaged.
        """
        cubes = self.images[self.image[sample]]
        row, col = int(self.row[sample]), int(self.col[sample])
        if row == WHOLE:
            return np.stack([cube.read(0, 0, *cube.shape) for cube in cubes])
        if self.isolated:
            pixel = np.stack([cube.read(row, col, 1, 1) for cube in cubes])
            return np.broadcast_to(pixel, (*pixel.shape[:2], side, side))
        return self.window(int(self.image[sample]), row - side // 2, col - side // 2, side)

    def window(self, image: int, top: int, left: int, side: int) -> Float32Array:
        """(date, band, side, side) reflectance of a window of an image, NaN where unknown or outside the image."""
        return np.stack([_around(cube, top, left, side) for cube in self.images[image]])


def _around(cube: Cube, row: int, col: int, side: int) -> Float32Array:
    """(band, side, side) window that may reach beyond the cube, NaN there."""
    rows, cols = cube.shape
    top, left, bottom, right = max(row, 0), max(col, 0), min(row + side, rows), min(col + side, cols)
    window = np.full((len(cube.grid), side, side), np.nan, np.float32)
    inside = (slice(None), slice(top - row, bottom - row), slice(left - col, right - col))
    window[inside] = cube.read(top, left, bottom - top, right - left)
    return window
