"""Hyperspectral items of a STAC server, opened by byte ranges as orthorectified cubes of reflectance.

`open_remote_cube` chooses the reader of an item by the names of the item's files (`READERS`). To add a format, write a
class that implements `RemoteCube` in a module of its own, and add one line to the table.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.enmap import ENMAP_METADATA
from ms2hs.errors import SceneError
from ms2hs.fetching.cubes.emit_item import GRANULE, EmitItem
from ms2hs.fetching.cubes.enmap_item import EnmapItem
from ms2hs.fetching.cubes.item_files import file_name_of
from ms2hs.fetching.cubes.raster_item import RASTER, RasterItem
from ms2hs.fetching.cubes.tanager_item import ORTHO, TanagerItem
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.client import WebClient
from ms2hs.remote.range_file import RangeRequest
from ms2hs.remote.url_policy import Access
from ms2hs.spectra.spectral_grid import SpectralGrid


class RemoteCube(Protocol):
    """An open item. Reads nothing that is not requested. One thread at a time may use it."""

    name: str
    grid: PixelGrid
    """Orthorectified pixels, with a CRS."""
    spectral: SpectralGrid
    """Good bands only, in ascending wavelength."""
    block_shape: tuple[int, int]
    """Rows and columns of `grid` that are cheap to read together."""

    def requests(self, row: int, col: int, height: int, width: int) -> list[RangeRequest]:
        """The byte ranges that `read` needs for a window and that are not yet on this machine.

        Threads may send these requests at the same time (`RangeRequest.send`). `read` requests the rest itself.
        """

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance, NaN where invalid or flagged (cloud, cirrus, cloud shadow).

        Raises
        ------
        RemoteError, AddressError, CredentialsError : the server failed. SceneError, DataError : a damaged file.
        """

    def close(self) -> None:
        """Close the files."""


CubeReader = Callable[[WebClient, dict[str, Any], Access, Path | None], RemoteCube]
"""Called with client, item, access to its files, and the folder that keeps the bytes that were read (None: memory)."""

READERS: dict[re.Pattern[str], CubeReader] = {
    GRANULE: EmitItem,
    ENMAP_METADATA: EnmapItem,
    ORTHO: TanagerItem,
    RASTER: RasterItem,
}
"""By the name of a file of the item, such as `EMIT_L2A_RFL_….nc`; the first that matches reads the item."""


def open_remote_cube(client: WebClient, item: dict[str, Any], access: Access, folder: Path | None = None) -> RemoteCube:
    """Open a hyperspectral item; reads headers, and no pixel.

    Parameters
    ----------
    item : a valid STAC item, as a search returns it.
    access : address checks and credentials for the item's files.
    folder : keeps the bytes that are read, so that a later run does not read them again; None: in memory.

    Raises
    ------
    SceneError : no file of the item is a known cube. RemoteError, AddressError, CredentialsError : the server failed.
    """
    names = [file_name_of(asset) for asset in item["assets"].values()]
    for pattern, reader in READERS.items():
        if any(pattern.fullmatch(name) for name in names):
            return reader(client, item, access, folder)
    raise SceneError(
        f"{item['id']}: none of its files is a hyperspectral cube ({', '.join(sorted(names)[:5])}); EMIT, EnMAP or "
        "Tanager reflectance, or a COG with wavelengths, is needed. Use another item."
    )
