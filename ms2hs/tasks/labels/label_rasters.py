"""Labels on the grid of one image: class rasters, label arrays in MATLAB files, and abundances.

A class raster has one band of whole numbers. Its nodata is unlabelled, or 0 where none is declared and 0 has no name.
Names of classes come from the header (ENVI) or the .aux.xml beside the raster (GDAL). Abundances are (quantity, row,
col) shares of endmembers; for segmentation the class of a pixel is its largest share.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from ms2hs.errors import DataError, input_errors, visible
from ms2hs.raster.dataset import open_dataset, read_bands, read_pixel_grid
from ms2hs.raster.header import image_of, read_header
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.library import load_npz
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_scenes import LabelScene, open_label_scene, pixel_labels
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.tasks.labels.label_values import class_indices
from ms2hs.tasks.labels.labelled_spectra import array_names
from ms2hs.tasks.labels.mat_file import (
    CLASS_NAMES,
    MatArray,
    check_variables,
    find_classes,
    is_mat,
    mat_arrays,
    read_mat,
)

RASTER_SUFFIXES = {".tif", ".tiff", ".hdr", ".img", ".dat", ".bsq", ".bil", ".bip"}
MAX_XML_BYTES = 10_000_000
UNNAMED = re.compile(r"(un(classified|labell?ed|defined|known)|background|no ?data)?", re.IGNORECASE)


def is_label_raster(path: Path) -> bool:
    """Whether the path is a raster, by its name."""
    return path.is_file() and path.suffix.lower() in RASTER_SUFFIXES


def is_abundances(path: Path) -> bool:
    """Whether the path is an `.npz` with abundances."""
    return path.is_file() and path.suffix.lower() == ".npz" and "abundance" in array_names(path)


def open_label_raster(options: LabelOptions, task: str) -> LabelSet:
    """The labelled pixels of a class raster, or of a raster of quantities (one a band) for regression.

    Raises
    ------
    DataError : no --scene, another grid than the scene, several bands of classes, or classes without a name.
    """
    path = Path(image_of(str(options.path)))
    scene = _scene(options)
    with open_dataset(str(path)) as file:
        grid, nodata = read_pixel_grid(file), file.nodata
        header = read_header(file, str(path))
        values = read_bands(file, file.indexes)
    _check_grid(path, grid, scene)
    if task == "regression":
        quantities = np.where(values == nodata, np.nan, values).astype(np.float32)
        names = tuple(text or f"band {number}" for number, text in enumerate(header.descriptions, 1))
        return pixel_labels(options, task, names, scene, np.moveaxis(quantities, 0, 2))
    if len(values) != 1:
        raise DataError(
            f"{path}: {len(values)} bands; a class raster has one. Cut the band of the classes, or use "
            "--task regression."
        )
    names = _category_names(path, header.tags.get("class names", header.tags.get("class_names", "")))
    unlabelled = nodata if nodata is not None else 0 if not names or UNNAMED.fullmatch(names[0]) else None
    return _segmentation(options, scene, values[0], names, unlabelled)


def open_mat_labels(options: LabelOptions, task: str) -> LabelSet:
    """The labelled pixels of an array (row, col) of classes, or (row, col, quantity) of abundances.

    The image is another file, `options.scene`, or a cube in the same file. Abundances may also be (quantity, pixel),
    with the pixels column by column.

    Raises
    ------
    DataError : no such array or several, another shape than the image, or no wavelengths.
    """
    path = options.path
    check_variables([one for one in (path, options.scene) if one and is_mat(one)], options.variables)
    inside = mat_arrays(path)
    if options.scene is None and not any(len(array.shape) == 3 or array.name == "nRow" for array in inside):
        raise DataError(f"{path}: holds labels without their image; the cube is needed. Give its file with --scene.")
    scene = open_label_scene(options.scene or path, options)
    shape = scene.cube.shape
    has_classes = any(array.shape == shape for array in inside)
    if task == "regression" or (not has_classes and _shares(inside, shape)):
        return _of_quantities(options, task, scene, _abundances(path, options, inside, shape), ())
    array = find_classes(path, shape, options.variables)
    names = CLASS_NAMES.get(array.name.lower(), ())
    return _segmentation(options, scene, read_mat(array), ("", *names) if names else (), 0)


def open_abundances(options: LabelOptions, task: str) -> LabelSet:
    """The pixels of `abundance` (quantity, row, col) in an `.npz`, whose cube is in it, or in the file that it names.

    Raises
    ------
    DataError : the cube is missing or has another shape.
    """
    path = options.path
    arrays = load_npz(path)
    abundance = arrays["abundance"]
    if abundance.ndim != 3 or abundance.dtype.kind not in "iuf":
        raise DataError(f"{path}: abundance is {abundance.dtype} {abundance.shape}; (quantity, row, col) is needed.")
    cube = options.scene or (path if "dn" in arrays else _named_cube(path, str(arrays.get("cube", ""))))
    names = tuple(visible(str(name)) for name in np.atleast_1d(arrays.get("names", ())).tolist())
    values = np.moveaxis(abundance, 0, 2)
    return _of_quantities(options, task, open_label_scene(cube, options), values, names)


def _scene(options: LabelOptions) -> LabelScene:
    """The image of a raster of labels."""
    if options.scene is None:
        raise DataError(f"{options.path}: a raster of labels needs its image on the same grid. Give it with --scene.")
    return open_label_scene(options.scene, options)


def _segmentation(
    options: LabelOptions, scene: LabelScene, values: NDArray[Any], names: tuple[str, ...], unlabelled: float | None
) -> LabelSet:
    """The labelled pixels of (row, col) numbers of classes."""
    numbers = np.where(values == unlabelled, -1, values.astype(np.int64) if values.dtype.kind in "biu" else values)
    classes, index = class_indices(str(options.path), numbers.ravel(), names)
    return pixel_labels(options, "segmentation", classes, scene, index.reshape(values.shape))


def _of_quantities(
    options: LabelOptions, task: str, scene: LabelScene, values: NDArray[Any], names: tuple[str, ...]
) -> LabelSet:
    """The pixels of (row, col, quantity): their values, or for segmentation the class of the largest."""
    count = values.shape[2]
    classes = names if len(names) == count else tuple(f"endmember {number}" for number in range(1, count + 1))
    if task == "regression":
        return pixel_labels(options, task, classes, scene, values.astype(np.float32))
    known = np.isfinite(values).all(axis=2) & (values > 0).any(axis=2)
    return pixel_labels(options, task, classes, scene, np.where(known, values.argmax(axis=2), -1))


def _shares(arrays: Sequence[MatArray], shape: tuple[int, int]) -> list[MatArray]:
    """The arrays that may be abundances of an image: (row, col, quantity), or (quantity, pixel)."""
    pixels = shape[0] * shape[1]
    maps = [array for array in arrays if len(array.shape) == 3 and array.shape[:2] == shape]
    return [*maps, *(array for array in arrays if len(array.shape) == 2 and array.shape[1] == pixels)]


def _abundances(path: Path, options: LabelOptions, arrays: Sequence[MatArray], shape: tuple[int, int]) -> NDArray[Any]:
    """(row, col, quantity) abundances; pixels of a list run column by column."""
    found = [array for array in _shares(arrays, shape) if not options.variables or array.name in options.variables]
    if len(found) != 1:
        raise DataError(
            f"{path}: {len(found)} arrays may be the abundances; one of {shape[0]} x {shape[1]} x quantities or "
            f"quantities x {shape[0] * shape[1]} is needed. Name it with --variable."
        )
    values = read_mat(found[0])
    return values if values.ndim == 3 else values.reshape(-1, *shape[::-1]).transpose(2, 1, 0)


def _named_cube(path: Path, name: str) -> Path:
    """The file of the cube that an `.npz` names, in its folder or the folder above; names never leave these."""
    relative = PurePosixPath(name)
    places = [folder / relative for folder in (path.parent, path.parent.parent)]
    if not name or relative.is_absolute() or ".." in relative.parts or not any(place.is_file() for place in places):
        raise DataError(
            f"{path}: names the cube {visible(name)!r}, which is not in this folder or the folder above; the image of "
            "the abundances is needed. Give its file with --scene."
        )
    return next(place for place in places if place.is_file())


def _check_grid(path: Path, labels: PixelGrid, scene: LabelScene) -> None:
    """DataError unless labels and image have one pixel grid; a raster without a CRS is compared by its shape."""
    file = getattr(scene.cube, "path", None)
    if file is None or labels.crs is None or not Path(file).is_file() or file.suffix.lower() in {".npz", ".mat"}:
        return
    with open_dataset(str(file)) as opened:
        image = read_pixel_grid(opened)
    if image.crs is None:
        return
    size = max(abs(number) for number in image.transform[:2])
    corners = np.abs(np.subtract(labels.bounds, image.bounds)).max() / size
    if CRS.from_user_input(labels.crs) != CRS.from_user_input(image.crs) or corners > 0.5:
        extent = " ".join(f"{number:.12g}" for number in image.bounds)
        warp = f"gdalwarp -r near -t_srs {quote(image.crs)} -te {extent} -ts {image.width} {image.height}"
        raise DataError(
            f"{path}: lies on another grid than {file} ({labels.crs}, {labels.width} x {labels.height} pixels, and "
            f"{image.crs}, {image.width} x {image.height}); labels and image need one grid. Warp the labels "
            f"with `{warp}`."
        )


def _category_names(path: Path, listed: str) -> tuple[str, ...]:
    """Names of the classes 0, 1, ... in an ENVI header, or in the .aux.xml that GDAL writes; empty without."""
    if listed:
        return tuple(part.strip() for part in listed.strip().strip("{}").split(","))
    sidecar = path.with_name(f"{path.name}.aux.xml")
    if not sidecar.is_file() or sidecar.stat().st_size > MAX_XML_BYTES:
        return ()
    with input_errors(str(sidecar), DataError):
        band = ET.fromstring(sidecar.read_text(encoding="utf-8")).find("PAMRasterBand/CategoryNames")  # noqa: S314
    return () if band is None else tuple(category.text or "" for category in band)
