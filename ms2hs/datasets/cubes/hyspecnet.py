"""Data sets of EnMAP patches whose files carry no wavelengths: HySpecNet-11k and SpectralEarth.

Both are level-2A surface reflectance in ten-thousandths, in ascending wavelength, 128 x 128 pixels of 30 m. Patches of
HySpecNet-11k have the flag layers of EnMAP products; SpectralEarth has none. The table `enmap-224` marks the 202 of 224
bands that HySpecNet-11k keeps; the files do not, since only some of the dropped bands are empty. Two public tables are
wrong: one lists the bands in detector order, another drops 0-based 145-151 instead of 160-166.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ms2hs.datasets.cubes.enmap import ENMAP_IMAGE, ENMAP_NODATA, find_flags
from ms2hs.datasets.cubes.raster_cube import TIFF_SUFFIXES, RasterCube, ReflectanceEncoding
from ms2hs.errors import DataError
from ms2hs.spectra.sensors import load_sensor

PATCH_SCALE = 1e-4


def find_hyspecnet(folder: Path) -> list[Path]:
    """The folder of every patch, `patches/<tile>/<patch>`."""
    tiles = (tile for tile in _folders(folder / "patches") if tile.name.startswith("ENMAP"))
    return [patch for tile in tiles for patch in _folders(tile)]


def open_hyspecnet(folder: Path, paths: Sequence[Path]) -> list[RasterCube]:
    """`<patch>-SPECTRAL_IMAGE.TIF` of 224 bands in these folders; a scene is a tile. DataError if one is missing."""
    bands = tuple(int(band) + 1 for band in np.flatnonzero(load_sensor("enmap-224").grid.good))
    encoding = ReflectanceEncoding(224, bands, PATCH_SCALE, 0.0, ENMAP_NODATA)
    grid = load_sensor("enmap").grid
    cubes, missing = [], []
    for patch in paths:
        images = [patch / f"{patch.name}{ENMAP_IMAGE}{suffix}" for suffix in (".TIF", ".tif")]
        image = next((path for path in images if path.is_file()), None)
        if image is None:
            missing.append(patch.name)
        else:
            cubes.append(RasterCube(patch.name, patch.parent.name, image, grid, encoding, flags=find_flags(image)))
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(paths)} patches have no {ENMAP_IMAGE[1:]}.TIF (the first: "
            f"{min(missing)}); each needs one. Unpack the archives again, or remove the folders without."
        )
    return cubes


def find_spectral_earth(folder: Path) -> list[Path]:
    """Every `enmap/<location>/<scene>.tif` whose location is a number."""
    locations = (location for location in _folders(folder / "enmap") if location.name.isdigit())
    return [path for location in locations for path in location.iterdir() if path.suffix.lower() in TIFF_SUFFIXES]


def open_spectral_earth(_folder: Path, paths: Sequence[Path]) -> list[RasterCube]:
    """Patches of 202 bands; a scene is a location."""
    grid = load_sensor("enmap").grid
    encoding = ReflectanceEncoding(len(grid), tuple(range(1, len(grid) + 1)), PATCH_SCALE, 0.0, ENMAP_NODATA)
    return [RasterCube(f"{path.parent.name}/{path.stem}", path.parent.name, path, grid, encoding) for path in paths]


def _folders(folder: Path) -> Iterable[Path]:
    return (path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()
