"""NetCDF-4 files by the CF conventions: one chunked variable (wavelength, y, x), and the coordinates of `open_cube`.

h5netcdf creates the dimensions, the coordinates and the empty variable. Chunks are compressed in threads, with HDF5's
filters shuffle and DEFLATE, which every reader of NetCDF has, and are passed to HDF5 compressed.
"""

from itertools import product
from typing import Any

import h5py
import imagecodecs
import numpy as np

from ms2hs.arrays import DnArray
from ms2hs.raster.cube import DIMENSIONS
from ms2hs.raster.formats.cf_variables import CONVENTIONS, coordinates, variable_attributes
from ms2hs.raster.formats.strip_writer import StripWriter

BANDS_PER_CHUNK = 8
LEVEL = 1


class NetcdfWriter(StripWriter):
    """Writes a cube as a NetCDF-4 file."""

    _file: h5py.File | None = None

    def begin(self) -> None:
        """Create the file with its coordinates, and the variable without chunks."""
        import h5netcdf  # noqa: PLC0415  slow to load, and other formats need it not

        path, block = self.work(self.path.name), self.encoding.block
        sizes = dict(zip(DIMENSIONS, (len(self.bands), self.grid.height, self.grid.width), strict=True))
        self._chunk = tuple(
            min(size, side) for size, side in zip(sizes.values(), (BANDS_PER_CHUNK, block, block), strict=True)
        )
        with h5netcdf.File(path, "w") as file:
            file.dimensions = sizes
            file.attrs.update({"Conventions": CONVENTIONS, **self.tags})
            for name, (dimensions, values, attributes) in coordinates(self.grid, self.bands).items():
                dtype = h5py.string_dtype() if values.dtype == object else values.dtype
                file.create_variable(name, dimensions, dtype, data=values).attrs.update(attributes)
            numbers = file.create_variable(
                self.encoding.quantity,
                DIMENSIONS,
                self.encoding.dtype,
                fillvalue=self.encoding.nodata,
                chunks=self._chunk,
                shuffle=True,
                compression="gzip",
                compression_opts=LEVEL,
            )
            numbers.attrs.update(variable_attributes(self.encoding, self.bands))
        self._file = h5py.File(path, "r+")

    def store(self, row: int, values: DnArray) -> None:
        """Compress the chunks of a strip in threads, and write them."""
        assert self._file is not None  # noqa: S101 - `begin` opened the file
        variable = self._file[self.encoding.quantity].id
        corners = [*product(*(range(0, size, side) for size, side in zip(values.shape, self._chunk, strict=True)))]

        def compress(corner: tuple[int, ...]) -> bytes:
            bounds = zip(corner, self._chunk, strict=True)
            part = values[tuple(slice(first, first + side) for first, side in bounds)]
            chunk = np.full(self._chunk, self.encoding.nodata, values.dtype)
            chunk[: part.shape[0], : part.shape[1], : part.shape[2]] = part
            shuffled: Any = imagecodecs.byteshuffle_encode(chunk.reshape(-1))
            return bytes(imagecodecs.deflate_encode(shuffled, level=LEVEL))

        for (band, below, col), compressed in zip(corners, self.pool.map(compress, corners), strict=True):
            variable.write_direct_chunk((band, row + below, col), compressed)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
