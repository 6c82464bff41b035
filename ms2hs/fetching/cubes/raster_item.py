"""Cubes in a COG on a server, whose bands carry wavelengths."""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of
from ms2hs.datasets.cubes.raster_cube import RasterCube, read_cube
from ms2hs.errors import SceneError
from ms2hs.fetching.cubes.item_files import addresses_of, file_name_of, kept_path
from ms2hs.fetching.download import RemoteRaster, open_remote
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.client import WebClient
from ms2hs.remote.range_file import GDAL_LOCK, RangeRequest
from ms2hs.remote.url_policy import Access
from ms2hs.spectra.spectral_grid import SpectralGrid

RASTER = re.compile(r".+\.tiff?", re.IGNORECASE)
# Largest number of rasters of an item whose headers are read.
MAX_RASTERS = 10


class RasterItem:
    """A cube in a COG, opened by byte ranges; implements `RemoteCube`. It has no flags of cloud."""

    grid: PixelGrid
    spectral: SpectralGrid
    block_shape: tuple[int, int]

    def __init__(self, client: WebClient, item: Mapping[str, Any], access: Access, folder: Path | None = None) -> None:
        """Open the first raster with wavelengths; parameters and errors as in `open_remote_cube`."""
        self.name = str(item["id"])
        self._stack = ExitStack()
        try:
            self._raster, self._cube = self._open(client, addresses_of(item, RASTER), access, folder)
        except BaseException:
            self.close()
            raise
        self.grid, self.spectral = self._raster.grid, self._cube.grid
        with GDAL_LOCK:
            self.block_shape = self._raster.dataset.block_shapes[0]

    def requests(self, row: int, col: int, height: int, width: int) -> list[RangeRequest]:
        """As in `RemoteCube`."""
        return self._raster.requests(self._cube.encoding.bands, *np.s_[row : row + height, col : col + width])

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """As in `RemoteCube`."""
        check_window((self.grid.height, self.grid.width), row, col, height, width)
        encoding = self._cube.encoding
        dn = self._raster.read_cube(encoding.bands, *np.s_[row : row + height, col : col + width])
        return reflectance_of(dn, encoding.scale, encoding.offset, encoding.nodata)

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def _open(
        self, client: WebClient, addresses: list[str], access: Access, folder: Path | None
    ) -> tuple[RemoteRaster, RasterCube]:
        for address in addresses[:MAX_RASTERS]:
            access.check(address)
            with ExitStack() as opened:
                raster = opened.enter_context(open_remote(client, address, access, kept_path(folder, address)))
                name = PurePosixPath(file_name_of({"href": address}))
                with GDAL_LOCK:
                    cube = read_cube(Path(), Path(name), raster.dataset) if raster.dataset.count > 1 else None
                if cube is not None and raster.grid.crs is not None:
                    self._stack = opened.pop_all()
                    return raster, cube
        raise SceneError(
            f"{self.name}: no raster has a CRS and wavelengths; a hyperspectral cube is needed. Use another item."
        )
