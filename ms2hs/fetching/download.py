"""Windows of remote rasters, copied to disk as GeoTIFFs with unchanged stored numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.dtypes import in_dtype_range
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from ms2hs.arrays import DnArray
from ms2hs.files import atomic_write
from ms2hs.raster.dataset import open_dataset, quietly, read_bands, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.client import WebClient
from ms2hs.remote.range_file import GDAL_LOCK, RangedFile, file_of, open_ranged
from ms2hs.remote.url_policy import Access, shown, web_address
from ms2hs.scenes.scene import Asset

# Size of the uncompressed pixels that are read together.
STRIP_BYTES = 64_000_000


@dataclass(frozen=True, eq=False)
class RemoteRaster:
    """An open raster on a server. Not thread-safe."""

    name: str
    """Its URL without secrets."""
    dataset: DatasetReader
    file: RangedFile | None
    grid: PixelGrid

    def read(self, band: int, rows: slice, cols: slice) -> DnArray:
        """(row, col) stored numbers of a band; RemoteError, AddressError or CredentialsError if the server fails."""
        if self.file is not None:
            self.file.fetch_ahead(self._blocks(band, rows, cols))
        with GDAL_LOCK:
            dn: DnArray = read_bands(self.dataset, [band], Window.from_slices(rows, cols))[0]
        return dn

    def blocks_bytes(self, band: int, rows: slice, cols: slice) -> int:
        """Bytes to read for a window: compressed size of its blocks; uncompressed size of its pixels in JPEG 2000."""
        uncompressed = (rows.stop - rows.start) * (cols.stop - cols.start) * np.dtype(self.dataset.dtypes[0]).itemsize
        return sum(size for _, size in self._blocks(band, rows, cols)) or uncompressed

    def _blocks(self, band: int, rows: slice, cols: slice) -> list[tuple[int, int]]:
        """First byte and size of every block that a window touches; empty for JPEG 2000."""
        height, width = self.dataset.block_shapes[band - 1]
        blocks = [
            f"{x}_{y}"
            for y in range(rows.start // height, -(-rows.stop // height))
            for x in range(cols.start // width, -(-cols.stop // width))
        ]
        with GDAL_LOCK:
            ranges = [
                [self.dataset.get_tag_item(f"BLOCK_{key}_{block}", "TIFF", bidx=band) for key in ("OFFSET", "SIZE")]
                for block in blocks
            ]
        return list(dict.fromkeys((int(offset), int(size)) for offset, size in ranges if offset and size))

    def strips(self, rows: slice, cols: slice) -> Iterator[slice]:
        """The rows in strips of whole blocks, each of at most about STRIP_BYTES."""
        height = self.dataset.block_shapes[0][0]
        row_bytes = (cols.stop - cols.start) * np.dtype(self.dataset.dtypes[0]).itemsize
        step = height * max(1, STRIP_BYTES // max(1, row_bytes * height))
        begin = rows.start
        while begin < rows.stop:
            end = min(rows.stop, (begin // step + 1) * step)
            yield slice(begin, end)
            begin = end


@contextmanager
def open_remote(client: WebClient, href: str, access: Access) -> Iterator[RemoteRaster]:
    """Open a raster on a server, or on the local disk.

    Parameters
    ----------
    href : unsigned address, as in a `Scene`.

    Raises
    ------
    RemoteError, AddressError, CredentialsError, SceneError : as `open_ranged`, or as `open_dataset`.
    """
    address = web_address(href)
    if address is None:
        with GDAL_LOCK, open_dataset(href) as dataset:
            yield RemoteRaster(href, dataset, None, read_pixel_grid(dataset))
        return
    with quietly():
        dataset = open_ranged(client, address, access)
    try:
        with GDAL_LOCK:
            grid = read_pixel_grid(dataset)
        yield RemoteRaster(shown(address), dataset, file_of(dataset), grid)
    finally:
        with GDAL_LOCK:
            dataset.close()


def copy_window(raster: RemoteRaster, asset: Asset, rows: slice, cols: slice, path: Path) -> Iterator[int]:
    """Copy a window of a band to a GeoTIFF; yields the number of rows copied, strip by strip.

    The file has the band's name, and the band's rule as scale and offset.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `read_range`; no file remains.
    OutputError : the file cannot be written.
    """
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
        # If the files cannot hold the nodata value that their item declares, no pixel is nodata.
        "nodata": asset.nodata if _fits(asset.nodata, dtype) else None,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "ZSTD",
        "zstd_level": 1,
        "predictor": 2 if np.dtype(dtype).kind in "iu" else 3,
        "bigtiff": "IF_SAFER",
    }
    with atomic_write(path, durable=True, errors=(RasterioError,)) as temporary:
        with GDAL_LOCK, quietly():
            file = rasterio.open(temporary, "w", **profile)
        try:
            with GDAL_LOCK:
                file.scales, file.offsets = [asset.dn_scale], [asset.dn_offset * asset.dn_scale]
                file.set_band_description(1, asset.name)
            for strip in raster.strips(rows, cols):
                dn = raster.read(asset.band, strip, cols)
                with GDAL_LOCK:
                    file.write(dn, 1, window=Window(0, strip.start - rows.start, *dn.shape[::-1]))
                yield len(dn)
        finally:
            with GDAL_LOCK:
                file.close()


def _fits(nodata: float | None, dtype: str) -> bool:
    """Whether a data type can hold this nodata value."""
    if nodata is None:
        return True
    is_integer = np.dtype(dtype).kind in "iu"
    return (float(nodata).is_integer() or not is_integer) and bool(in_dtype_range(nodata, dtype))


def has_data(path: Path, nodata: float | None) -> bool:
    """Whether any pixel of the first band of a local file has data."""
    with GDAL_LOCK, open_dataset(str(path)) as dataset:
        return any((dataset.read(1, window=window) != nodata).any() for _, window in dataset.block_windows(1))
