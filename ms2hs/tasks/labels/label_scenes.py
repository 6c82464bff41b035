"""The one image on which a label raster, abundances or points lie, and its labelled pixels as samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms2hs.datasets.cubes.npz import open_npz
from ms2hs.datasets.cubes.raster_cube import open_raster
from ms2hs.datasets.cubes.registry import Cube
from ms2hs.datasets.multispectral import open_sensor_raster
from ms2hs.errors import DataError
from ms2hs.raster.cube import spectral_of
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.header import image_of
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.tasks.labels.label_values import block_names
from ms2hs.tasks.labels.mat_file import open_mat_cube

# More labelled pixels are thinned to a regular grid: a label needs about 100 bytes.
MAX_PIXELS = 4_000_000
# A raster of a multispectral sensor may hold some bands more than the sensor's table: B10, and quality layers.
MULTISPECTRAL_BANDS, MAX_EXTRA_BANDS = 13, 5


@dataclass(frozen=True, eq=False)
class LabelScene:
    """The image of labels."""

    cube: Cube
    sensor: str | None
    """Name of the source sensor, or the CSV of its bands, where `--source` is needed to read the image."""
    notes: tuple[str, ...] = ()


def open_label_scene(path: Path, options: LabelOptions) -> LabelScene:
    """The image in a file: `.npz`, `.mat`, a raster with wavelengths, or a multispectral raster of a source sensor.

    Raises
    ------
    DataError : missing, of another format, or nothing says the wavelengths of its bands.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; the image of the labels is needed. Check the path.")
    path = Path(image_of(str(path)))
    if options.scale is not None and path.suffix.lower() != ".mat":
        raise DataError(
            f"{path}: --scale {options.scale:g} was given, and this format declares its own scale; only .mat files "
            "need one. Leave --scale out, or correct the scale in the file."
        )
    if path.suffix.lower() == ".npz":
        cubes = open_npz(path)
        if len(cubes) != 1:
            raise DataError(f"{path}: {len(cubes)} images; one is needed. Give an .npz with dn (row, col, band).")
        return LabelScene(cubes[0], None)
    if path.suffix.lower() == ".mat":
        return LabelScene(*open_mat_cube(path, options))
    if not is_hyperspectral(path, options.source):
        try:
            image = open_sensor_raster(path, options.source)
        except DataError:
            if options.source or not has_wavelengths(path):
                raise
        else:
            return LabelScene(image, sensor_of(image), image.notes)
    return LabelScene(open_raster(path), None)


def sensor_of(cube: Cube) -> str | None:
    """Name of the source sensor whose bands an image has; None: they are known by wavelength only."""
    for name in sensor_names("source"):
        grid = load_sensor(name).grid
        if set(cube.grid.names) <= set(grid.names):
            own = grid.wavelength_nm[grid.index(cube.grid.names)]
            if np.array_equal(own, cube.grid.wavelength_nm):
                return name
    return None


def has_wavelengths(path: Path, more_than: int = 0) -> bool:
    """Whether the bands of a raster have wavelengths, and are more than a number."""
    with open_dataset(str(path)) as file:
        return file.count > more_than and spectral_of(file) is not None


def is_hyperspectral(path: Path, source: str | None) -> bool:
    """Whether a raster has wavelengths, and more bands than a multispectral sensor: the source, where one is named.

    A probe simulates the source from such an image.
    """
    bands = len(load_sensor(source).grid) if source else MULTISPECTRAL_BANDS
    return has_wavelengths(path, more_than=bands + MAX_EXTRA_BANDS)


def pixel_labels(
    options: LabelOptions, task: str, classes: tuple[str, ...], scene: LabelScene, values: NDArray[Any]
) -> LabelSet:
    """The labelled pixels of an image; blocks are the groups.

    Parameters
    ----------
    values : (row, col) index of the class, -1 = unlabelled; or (row, col, quantity), NaN = unknown.

    Raises
    ------
    DataError : the image has another shape.
    """
    name, block = options.path.stem, options.block
    if values.shape[:2] != scene.cube.shape:
        rows, cols = scene.cube.shape
        raise DataError(
            f"{name}: {values.shape[0]} x {values.shape[1]} labels (rows x columns); the image {scene.cube.name} has "
            f"{rows} x {cols} pixels, and both need one grid. Cut or resample the labels, or give their image."
        )
    image, row, col, labels, thinned = labelled_pixels([values])
    return LabelSet(
        name=name,
        task=task,
        classes=classes,
        grid=scene.cube.grid,
        sensor=scene.sensor,
        images=[(scene.cube,)],
        image=image,
        row=row,
        col=col,
        labels=labels,
        groups=block_names(image, row, col, block),
        grouped_by=f"block of {block} pixels",
        notes=(*scene.notes, *thinned),
    )


class Pixels(NamedTuple):
    """Labelled pixels of images."""

    image: NDArray[np.intp]
    row: NDArray[np.intp]
    col: NDArray[np.intp]
    labels: NDArray[Any]
    notes: tuple[str, ...]


def labelled_pixels(values: Sequence[NDArray[Any]]) -> Pixels:
    """The labelled pixels of images, thinned to a regular grid where there are more than `MAX_PIXELS`.

    Parameters
    ----------
    values : for each image (row, col) index of the class, -1 = unlabelled; or (row, col, quantity), NaN = unknown.
    """
    labelled = [image >= 0 if image.ndim == 2 else np.isfinite(image).all(axis=2) for image in values]
    total = sum(int(pixels.sum()) for pixels in labelled)
    step = int(np.ceil(np.sqrt(total / MAX_PIXELS))) or 1
    places = [np.nonzero(pixels[::step, ::step]) for pixels in labelled]
    row, col = (np.concatenate([place[axis] for place in places]) * step for axis in (0, 1))
    image = np.repeat(np.arange(len(values)), [len(place[0]) for place in places])
    labels = np.concatenate([one[::step, ::step][place] for one, place in zip(values, places, strict=True)])
    notes = (f"{total} pixels are labelled: one of each {step} x {step} is used",) if step > 1 else ()
    return Pixels(image, row, col, labels, notes)
