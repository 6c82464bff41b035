"""Zarr v3 stores: a folder with one sharded array (wavelength, y, x), and the coordinates of `open_cube`.

A shard, one file, holds all bands of a part of a strip. A chunk within it has a few bands of some pixels: a
spectrum and a picture of three bands both read a small part of a shard. The store follows the CF conventions for
coordinates and packed numbers, and GeoZarr's conventions `proj` and `spatial` (v0.1) for CRS and geotransform.
"""

import re
import warnings
from typing import Any, Literal

from rasterio.crs import CRS

from ms2hs.arrays import DnArray
from ms2hs.raster.cube import DIMENSIONS
from ms2hs.raster.formats.cf_variables import CONVENTIONS, coordinates, variable_attributes
from ms2hs.raster.formats.strip_writer import StripWriter
from ms2hs.raster.pixel_grid import PixelGrid

BANDS_PER_CHUNK, SHARD_COLS = 8, 1024
# Chunks that zarr compresses at once, for each thread of the writer: it also waits for files.
TASKS_PER_THREAD = 4
# Blosc's names of the compressions; bytes of equal weight are stored together, which halves the time of DEFLATE.
CODECS: dict[str, Literal["zstd", "zlib"]] = {"zstd": "zstd", "deflate": "zlib"}
LEVEL = 1
# GeoZarr's conventions: identifiers and descriptions.
SPATIAL = ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information")
PROJ = ("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data")
CODE = re.compile(r"[A-Z]+:[0-9]+")


class ZarrWriter(StripWriter):
    """Writes a cube as a Zarr v3 store."""

    def begin(self) -> None:
        """Create the store with its coordinates, and the array without chunks."""
        import zarr  # noqa: PLC0415  slow to load, and other formats need it not
        from zarr.codecs import BloscCodec  # noqa: PLC0415

        attributes = {"Conventions": CONVENTIONS, **self.tags, **_geozarr(self.grid)}
        group = zarr.open_group(self.work(self.path.name), mode="w", zarr_format=3, attributes=attributes)
        for name, (dimensions, values, attrs) in coordinates(self.grid, self.bands).items():
            dtype = "string" if values.dtype == object else values.dtype
            array = group.create_array(
                name, shape=values.shape, dtype=dtype, dimension_names=dimensions, attributes=attrs, chunks=values.shape
            )
            array[...] = values
        block, bands = self.encoding.block, len(self.bands)
        chunk = min(BANDS_PER_CHUNK, bands), block, block
        shard = -(-bands // chunk[0]) * chunk[0], self.block, SHARD_COLS
        self._array = group.create_array(
            self.encoding.quantity,
            shape=(bands, self.grid.height, self.grid.width),
            dtype=self.encoding.dtype,
            chunks=chunk,
            shards=shard,
            compressors=[BloscCodec(cname=CODECS[self.encoding.compression], clevel=LEVEL, shuffle="shuffle")],
            fill_value=self.encoding.nodata,
            dimension_names=DIMENSIONS,
            attributes={**variable_attributes(self.encoding, self.bands), "_FillValue": self.encoding.nodata},
        )

    def store(self, row: int, values: DnArray) -> None:
        """Write a row of shards; zarr compresses in threads."""
        import zarr  # noqa: PLC0415

        with zarr.config.set({"async.concurrency": TASKS_PER_THREAD * self.threads}):
            self._array[:, row : row + values.shape[1]] = values

    def end(self) -> None:
        """Copy the metadata of all arrays to one place, so that a store is opened with one request."""
        import zarr  # noqa: PLC0415
        from zarr.errors import ZarrUserWarning  # noqa: PLC0415

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)  # not in the specification yet; readers may ignore it
            zarr.consolidate_metadata(self.work(self.path.name), zarr_format=3)


def _geozarr(grid: PixelGrid) -> dict[str, Any]:
    """The attributes of GeoZarr's conventions; without a CRS the pixels have no position."""
    if grid.crs is None:
        return {}
    attributes: dict[str, Any] = {
        "zarr_conventions": [_convention(*PROJ), _convention(*SPATIAL)],
        "proj:wkt2": CRS.from_string(grid.crs).to_wkt(version="WKT2_2019"),
        "spatial:dimensions": list(DIMENSIONS[1:]),
        "spatial:transform": list(grid.transform),
        "spatial:shape": [grid.height, grid.width],
        "spatial:registration": "pixel",
    }
    return attributes | ({"proj:code": grid.crs} if CODE.fullmatch(grid.crs) else {})


def _convention(name: str, uuid: str, description: str) -> dict[str, str]:
    repository = f"zarr-conventions/{name}"
    return {
        "name": name,
        "uuid": uuid,
        "description": description,
        "schema_url": f"https://raw.githubusercontent.com/{repository}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/{repository}/blob/v0.1/README.md",
    }
