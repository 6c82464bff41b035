"""Data sets of EnMAP patches in trees of their own, without wavelengths: HySpecNet-11k and SpectralEarth.

Both are surface reflectance of level 2A in ten-thousandths, in ascending wavelength, 128 x 128 pixels of 30 m. Which
202 of the 224 bands HySpecNet-11k keeps is in our table `enmap-224`; no file is asked, since only some of the dropped
bands are empty in it. Two public tables are wrong here: one lists the bands in the order of the detectors, another
drops 0-based 145-151 instead of 160-166.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ms2hs.datasets.cubes.raster_cube import TIFF_SUFFIXES, RasterCube, Storage
from ms2hs.errors import DataError
from ms2hs.spectra.sensors import load_sensor

SCALE, NODATA = 1e-4, -32768
IMAGE = "-SPECTRAL_IMAGE"


def open_hyspecnet(folder: Path) -> list[RasterCube]:
    """`patches/<tile>/<patch>/<patch>-SPECTRAL_IMAGE.TIF` of 224 bands; a scene is a tile. Nothing for other trees.

    Raises
    ------
    DataError : folders of patches without their image.
    """
    if not (folder / "patches").is_dir():
        return []
    bands = tuple(int(band) + 1 for band in np.flatnonzero(load_sensor("enmap-224").grid.good))
    storage = Storage(224, bands, SCALE, 0.0, NODATA)
    grid = load_sensor("enmap").grid
    cubes, missing = [], []
    tiles = (tile for tile in _folders(folder / "patches") if tile.name.startswith("ENMAP"))
    for patch in (patch for tile in tiles for patch in _folders(tile)):
        images = [patch / f"{patch.name}{IMAGE}{suffix}" for suffix in (".TIF", ".tif")]
        image = next((path for path in images if path.is_file()), None)
        if image is None:
            missing.append(patch.name)
        else:
            cubes.append(RasterCube(patch.name, patch.parent.name, image, grid, storage))
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(missing) + len(cubes)} patches have no {IMAGE[1:]}.TIF (the first: "
            f"{min(missing)}); each folder of a patch needs its own. Unpack the archives again, or remove "
            "those folders."
        )
    return cubes


def open_spectral_earth(folder: Path) -> list[RasterCube]:
    """`enmap/<location>/<scene>.tif` of 202 bands; a scene is a location. Nothing for other trees."""
    if not (folder / "enmap").is_dir():
        return []
    grid = load_sensor("enmap").grid
    storage = Storage(len(grid), tuple(range(1, len(grid) + 1)), SCALE, 0.0, NODATA)
    return [
        RasterCube(f"{location.name}/{path.stem}", location.name, path, grid, storage)
        for location in _folders(folder / "enmap")
        if location.name.isdigit()
        for path in location.iterdir()
        if path.suffix.lower() in TIFF_SUFFIXES
    ]


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_dir())
