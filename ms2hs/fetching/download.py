"""Windows of remote rasters, copied to disk as GeoTIFFs with unchanged stored numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import rasterio
from rasterio.dtypes import in_dtype_range
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from ms2hs.arrays import DnArray
from ms2hs.files import atomic_write
from ms2hs.progress import Progress
from ms2hs.raster.dataset import open_dataset, quietly, read_bands, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.client import WebClient
from ms2hs.remote.range_file import GDAL_LOCK, RangedFile, RangeRequest, file_of, open_ranged
from ms2hs.remote.url_policy import Access, shown, web_address
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.scene import Asset, Scene

# Size of the uncompressed pixels that are read together.
STRIP_BYTES = 64_000_000
# Pixels of Sentinel-2 in m; the other bands have 20 m.
SENTINEL2_PIXEL_M = {"B02": 10.0, "B03": 10.0, "B04": 10.0, "B08": 10.0, "B01": 60.0, "B09": 60.0}
QUALITY_NAMES = {layer.name for layer in QUALITY_LAYERS.values()}


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
        dn: DnArray = self.read_cube([band], rows, cols)[0]
        return dn

    def read_cube(self, bands: Sequence[int], rows: slice, cols: slice) -> DnArray:
        """(band, row, col) stored numbers; errors as in `read`."""
        if self.file is not None and self.file.requests(blocks := self.blocks(bands, rows, cols)):
            self.file.fetch_ahead(blocks)
        with GDAL_LOCK:
            return read_bands(self.dataset, bands, Window.from_slices(rows, cols))

    def requests(self, bands: Sequence[int], rows: slice, cols: slice) -> list[RangeRequest]:
        """The requests that `read_cube` needs for a window and that are not cached."""
        return [] if self.file is None else self.file.requests(self.blocks(bands, rows, cols))

    def blocks_bytes(self, band: int, rows: slice, cols: slice) -> int:
        """Bytes to read for a window: compressed size of its blocks; uncompressed size of its pixels in JPEG 2000."""
        uncompressed = (rows.stop - rows.start) * (cols.stop - cols.start) * np.dtype(self.dataset.dtypes[0]).itemsize
        return sum(size for _, size in self.blocks([band], rows, cols)) or uncompressed

    def blocks(self, bands: Sequence[int], rows: slice, cols: slice) -> list[tuple[int, int]]:
        """Offset and size of every block of these bands that a window touches; empty for JPEG 2000."""
        height, width = self.dataset.block_shapes[bands[0] - 1]
        blocks = [
            f"{x}_{y}"
            for y in range(rows.start // height, -(-rows.stop // height))
            for x in range(cols.start // width, -(-cols.stop // width))
        ]
        with GDAL_LOCK:
            ranges = [
                [self.dataset.get_tag_item(f"BLOCK_{key}_{block}", "TIFF", bidx=band) for key in ("OFFSET", "SIZE")]
                for band in bands
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
def open_remote(client: WebClient, href: str, access: Access, kept: Path | None = None) -> Iterator[RemoteRaster]:
    """Open a raster on a server, or on the local disk.

    Parameters
    ----------
    href : unsigned address, as in a `Scene`.
    kept : as in `RangedFile`.

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
        dataset = open_ranged(client, address, access, kept)
    file = file_of(dataset)
    opening = copy_context()  # only in the context of the opening thread rasterio can close a file of an opener
    try:
        with GDAL_LOCK:
            grid = read_pixel_grid(dataset)
        yield RemoteRaster(shown(address), dataset, file, grid)
    finally:
        with GDAL_LOCK:
            opening.run(dataset.close)
        if file is not None:
            file.close()


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


class ByteCounter:
    """Reports the bytes read, and an estimate of all bytes. Thread-safe.

    Bands compress alike, so their bytes are in proportion to their pixels: the bands opened so far give the size of
    all others, also of the scenes that come later. The estimate therefore does not jump with each file and scene.
    """

    def __init__(self, scenes: int, progress: Progress | None) -> None:
        self._scenes, self._progress = scenes, progress
        self._lock = Lock()
        self._sizes: dict[str, float] = {}
        self._missing: dict[str, float] = {}
        self._opened_bytes = self._other_bytes = 0
        self._opened_pixels = self._bytes_read = 0.0

    def scene_started(self, name: str, scene: Scene) -> None:
        """Add a scene whose files will be read."""
        pixels = sum(_relative_pixels(scene.source, asset) for asset in scene.assets)
        with self._lock:
            self._sizes[name] = self._missing[name] = pixels

    def scene_ended(self, name: str) -> None:
        """Expect no further file of a scene, which may have failed."""
        with self._lock:
            self._sizes.setdefault(name, 0.0)
            self._missing[name] = 0.0

    def file_opened(self, name: str, source: str, asset: Asset, size: int | None) -> None:
        """Add the size of a file that is read now; None: of an earlier run."""
        pixels = _relative_pixels(source, asset)
        with self._lock:
            self._missing[name] -= pixels
            if size is not None and pixels:
                self._opened_bytes, self._opened_pixels = self._opened_bytes + size, self._opened_pixels + pixels
            elif size is not None:
                self._other_bytes += size

    def bytes_read(self, size: float) -> None:
        """Add bytes, and report progress."""
        with self._lock:
            self._bytes_read += size
            if self._progress is not None:
                self._progress("fetch", int(self._bytes_read), self._total())

    def _total(self) -> int:
        """The estimate; 0, which is unknown, before the first band is opened."""
        if not self._opened_pixels:
            return 0
        later = (self._scenes - len(self._sizes)) * sum(self._sizes.values()) / max(1, len(self._sizes))
        missing = (sum(self._missing.values()) + later) * self._opened_bytes / self._opened_pixels
        return max(int(self._bytes_read), int(self._opened_bytes + self._other_bytes + missing))


def _relative_pixels(source: str, asset: Asset) -> float:
    """Pixels of a band, relative to a band of 10 m; 0 for a quality layer, which compresses otherwise."""
    if asset.name in QUALITY_NAMES:
        return 0.0
    return 1.0 if source.startswith("hls_") else (10.0 / SENTINEL2_PIXEL_M.get(asset.name, 20.0)) ** 2
