"""Rasters on servers: windows of them copied to disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.dtypes import in_dtype_range
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from ms2hs.errors import OutputError
from ms2hs.files import flush
from ms2hs.raster.dataset import open_dataset, quietly, read_bands, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.client import Access, WebClient
from ms2hs.remote.range_file import TURN, RangedFile, file_of, open_ranged
from ms2hs.remote.url_policy import shown, web_address
from ms2hs.scenes.scene import Asset

# Rows of blocks are read together up to so many bytes of numbers.
STRIP_BYTES = 64_000_000
Stored = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class RemoteRaster:
    """An opened raster on a server. For one thread."""

    name: str
    """Its address as it may be shown."""
    dataset: DatasetReader
    file: RangedFile | None
    grid: PixelGrid

    def read(self, band: int, rows: slice, cols: slice) -> Stored:
        """(row, col) stored numbers of a band; RemoteError and the like where the server does not give them."""
        if self.file is not None:
            self.file.fetch_ahead(self._blocks(band, rows, cols))
        with TURN:
            numbers: Stored = read_bands(self.dataset, [band], Window.from_slices(rows, cols))[0]
        return numbers

    def blocks_bytes(self, band: int, rows: slice, cols: slice) -> int:
        """Size of the blocks that a window touches, as they are stored; its numbers', where blocks tell no size."""
        numbers = (rows.stop - rows.start) * (cols.stop - cols.start) * np.dtype(self.dataset.dtypes[0]).itemsize
        return sum(size for _, size in self._blocks(band, rows, cols)) or numbers

    def _blocks(self, band: int, rows: slice, cols: slice) -> list[tuple[int, int]]:
        """First byte and size of the blocks that a window touches; JPEG 2000 does not tell."""
        high, wide = self.dataset.block_shapes[band - 1]
        places = [
            f"{x}_{y}"
            for y in range(rows.start // high, -(-rows.stop // high))
            for x in range(cols.start // wide, -(-cols.stop // wide))
        ]
        with TURN:
            told = [
                [self.dataset.get_tag_item(f"BLOCK_{fact}_{place}", "TIFF", bidx=band) for fact in ("OFFSET", "SIZE")]
                for place in places
            ]
        return list(dict.fromkeys((int(offset), int(size)) for offset, size in told if offset and size))

    def strips(self, rows: slice, cols: slice) -> Iterator[slice]:
        """The rows in parts that end where blocks do, as many blocks high as is no burden."""
        high = self.dataset.block_shapes[0][0]
        row_bytes = (cols.stop - cols.start) * np.dtype(self.dataset.dtypes[0]).itemsize
        step = high * max(1, STRIP_BYTES // max(1, row_bytes * high))
        begin = rows.start
        while begin < rows.stop:
            end = min(rows.stop, (begin // step + 1) * step)
            yield slice(begin, end)
            begin = end


@contextmanager
def open_remote(client: WebClient, href: str, access: Access) -> Iterator[RemoteRaster]:
    """Open a raster on a server, or on the own disk.

    Parameters
    ----------
    href : as a `Scene` has it; unsigned.

    Raises
    ------
    RemoteError, AddressError, CredentialsError, SceneError : as `open_ranged`, or as `open_dataset`.
    """
    address = web_address(href)
    if address is None:
        with TURN, open_dataset(href) as dataset:
            yield RemoteRaster(href, dataset, None, read_pixel_grid(dataset))
        return
    with quietly():
        dataset = open_ranged(client, address, access)
    try:
        with TURN:
            grid = read_pixel_grid(dataset)
        yield RemoteRaster(shown(address), dataset, file_of(dataset), grid)
    finally:
        with TURN:
            dataset.close()


def copy_window(raster: RemoteRaster, asset: Asset, rows: slice, cols: slice, path: Path) -> Iterator[int]:
    """Copy a window of a band to a GeoTIFF, number for number; yields how many rows have come, again and again.

    The file stands under its name once it is whole. It has the band's name, and its rule as scale and offset.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `read_range`; no file is left then.
    OutputError : it cannot be written.
    """
    part = path.with_name(f".{path.name}")
    grid = raster.grid.crop(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
    dtype = raster.dataset.dtypes[asset.band - 1]
    profile = {
        "driver": "GTiff",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": Affine(*grid.transform),
        "dtype": dtype,
        # An item may declare what its files cannot hold: then no number of them means nodata.
        "nodata": asset.nodata if _fits(asset.nodata, dtype) else None,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "ZSTD",
        "zstd_level": 1,
        "predictor": 2 if np.dtype(dtype).kind in "iu" else 3,
        "bigtiff": "IF_SAFER",
    }
    try:
        with TURN, quietly():
            file = rasterio.open(part, "w", **profile)
        try:
            with TURN:
                file.scales, file.offsets = [asset.dn_scale], [asset.dn_offset * asset.dn_scale]
                file.set_band_description(1, asset.name)
            for strip in raster.strips(rows, cols):
                numbers = raster.read(asset.band, strip, cols)
                with TURN:
                    file.write(numbers, 1, window=Window(0, strip.start - rows.start, *numbers.shape[::-1]))
                yield len(numbers)
        finally:
            with TURN:
                file.close()
        flush(part)
        part.replace(path)
    except (RasterioError, OSError) as error:
        raise OutputError(
            f"{path} could not be written ({error}); its directory must be writable and have room. "
            "Free some space, or choose another place."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _fits(number: float | None, dtype: str) -> bool:
    """Whether numbers of a type can be this one."""
    if number is None or np.dtype(dtype).kind not in "iu":
        return number is None or bool(in_dtype_range(number, dtype))
    return float(number).is_integer() and bool(in_dtype_range(number, dtype))


def holds_data(path: Path, nodata: float | None) -> bool:
    """Whether any number of a small file's first band is none that means nodata."""
    with TURN, open_dataset(str(path)) as dataset:
        return any((dataset.read(1, window=window) != nodata).any() for _, window in dataset.block_windows(1))
