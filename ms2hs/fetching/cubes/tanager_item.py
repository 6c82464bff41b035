"""Tanager items: the ortho surface reflectance of a scene, of which only the chunks that a window needs are read."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.tanager import GriddedTanager, open_tanager
from ms2hs.errors import SceneError
from ms2hs.fetching.cubes.item_files import addresses_of, open_source
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.client import WebClient
from ms2hs.remote.hdf5_handle import Hdf5Handle, with_bytes
from ms2hs.remote.range_file import RangeRequest
from ms2hs.remote.url_policy import Access

# The basic product of a scene has the geometry of the sensor; each scene has both.
ORTHO = re.compile(r".+_ortho_sr_hdf5\.h5")
T = TypeVar("T")


class TanagerItem:
    """A scene of Tanager-1, opened by byte ranges; implements `RemoteCube`."""

    def __init__(self, client: WebClient, item: Mapping[str, Any], access: Access, folder: Path | None = None) -> None:
        """Open the ortho product of an item; parameters and errors as in `open_remote_cube`."""
        self.name = str(item["id"])
        self._source = open_source(client, addresses_of(item, ORTHO)[0], access, folder)
        try:
            self._cube = cube = self._open()
        except BaseException:
            self.close()
            raise
        self.grid = PixelGrid(cube.crs, cube.transform, *cube.shape)
        self.spectral, self.block_shape = cube.grid, cube.block_shape

    def requests(self, row: int, col: int, height: int, width: int) -> list[RangeRequest]:
        """As in `RemoteCube`."""
        if not isinstance(self._source, Hdf5Handle):
            return []
        return self._source.file.requests(self._ranges(row, col, height, width))

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """As in `RemoteCube`."""
        if isinstance(self._source, Hdf5Handle):
            self._source.file.fetch_ahead(self._ranges(row, col, height, width))
        return self._run(partial(self._cube.read, row, col, height, width))

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._source, Hdf5Handle):
            self._source.file.close()

    def _ranges(self, row: int, col: int, height: int, width: int) -> list[tuple[int, int]]:
        """The byte ranges of a window."""
        return self._run(partial(self._cube.ranges, row, col, height, width))

    def _run(self, operation: Callable[[], T]) -> T:
        """The result of an operation that reads the file."""
        return with_bytes([self._source], operation)

    def _open(self) -> GriddedTanager:
        cube = self._run(partial(open_tanager, self._source))
        if not isinstance(cube, GriddedTanager):
            raise SceneError(
                f"{self.name}: {cube.name} is in the geometry of the sensor; a file on a grid is needed. Use another "
                "item."
            )
        return cube
