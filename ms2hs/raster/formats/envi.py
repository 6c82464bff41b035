"""ENVI files: the numbers band by band (BSQ) in `x.dat`, and a header of text, `x.hdr`.

BSQ is the interleave that strips are written to fastest: ten times as fast as by line (BIL), sixteen times as fast as
by pixel (BIP), since no number is moved. One band is one contiguous read; a spectrum is a short read for each band.
The header has the fields of ENVI's documentation ("ENVI header files", NV5) and, as `ms2hs_…`, the tags of the cube.
GDAL encodes map info and coordinate system.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
import rasterio
from rasterio.transform import Affine

from ms2hs.arrays import DnArray
from ms2hs.raster.cube import SCALE
from ms2hs.raster.cube_writer import cube_names
from ms2hs.raster.dataset import quietly
from ms2hs.raster.formats.strip_writer import StripWriter
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM
from ms2hs.spectra.spectral_grid import nearest_band

INT16 = 2
"""ENVI's number of the data type."""
# Fields of a georeference in a header that GDAL writes.
GEOREFERENCE = re.compile(r"^(map info|projection info|coordinate system string) = .*$", re.MULTILINE)
# Tags of ms2hs: other tags may have the names of fields.
OWN_TAG = re.compile(r"MS2HS_\w+")
# Characters with a meaning in a header.
SPECIAL = re.compile(r"[{}\r\n=]")


class EnviWriter(StripWriter):
    """Writes a cube as an ENVI file of int16, band by band, with its header."""

    _pixels: BinaryIO | None = None

    def begin(self) -> None:
        """Create both files; the pixels have their full size, without content."""
        pixels, header = (self.work(name) for name in cube_names(self.path))
        header.write_text(self.header, encoding="utf-8")
        self._pixels = pixels.open("wb")
        self._pixels.truncate(2 * len(self.bands) * self.grid.height * self.grid.width)

    def store(self, row: int, values: DnArray) -> None:
        """Write the rows of each band."""
        assert self._pixels is not None  # noqa: S101 - `begin` opened the file
        for band, rows in enumerate(values):
            self._pixels.seek(2 * self.grid.width * (band * self.grid.height + row))
            self._pixels.write(np.ascontiguousarray(rows, "<i2").data)

    def close(self) -> None:
        """Close the file of the pixels."""
        if self._pixels is not None:
            self._pixels.close()

    @cached_property
    def header(self) -> str:
        """The text of the header file."""
        bands = self.bands
        rgb = [nearest_band(bands.wavelength_nm, colour_nm, RGB_REACH_NM) for colour_nm in RGB_NM]
        is_natural = None not in rgb and len(set(rgb)) == len(rgb)
        fields: dict[str, object] = {
            "description": f"{{{self.encoding.quantity} of ms2hs}}",
            "samples": self.grid.width,
            "lines": self.grid.height,
            "bands": len(bands),
            "header offset": 0,
            "file type": "ENVI Standard",
            "data type": INT16,
            "interleave": "bsq",
            "byte order": 0,
            "data ignore value": int(self.encoding.nodata or 0),
            "reflectance scale factor": round(1 / SCALE),
            "data gain values": _list([SCALE] * len(bands)),
            "data offset values": _list([0] * len(bands)),
            "wavelength units": "Nanometers",
            "wavelength": _list(f"{centre:.7g}" for centre in bands.wavelength_nm),
            "fwhm": _list(f"{width:.7g}" for width in bands.fwhm_nm),
            "bbl": _list(bands.good.astype(int)),
            "band names": _list(bands.names),
        }
        if is_natural:
            fields["default bands"] = _list(int(band) + 1 for band in rgb if band is not None)
        if bands.support:
            fields["ms2hs_support"] = _list(bands.support)
        own_tags = {name.lower(): _text(text) for name, text in self.tags.items() if OWN_TAG.fullmatch(name)}
        fields |= {name: text for name, text in own_tags.items() if name not in fields}
        lines = ["ENVI", *(f"{name} = {value}" for name, value in fields.items()), *_georeference(self.grid)]
        return "\n".join(lines) + "\n"


def _list(values: Iterable[object]) -> str:
    return f"{{{', '.join(_text(str(value)).replace(',', ';') for value in values)}}}"


def _text(text: str) -> str:
    """A text without characters that have a meaning in a header."""
    return SPECIAL.sub(" ", text).strip()


def _georeference(grid: PixelGrid) -> list[str]:
    """The fields of the georeference, from a file of one pixel that GDAL writes; none without a CRS."""
    if grid.crs is None:
        return []
    profile = {"driver": "ENVI", "count": 1, "height": 1, "width": 1, "dtype": "int16", "SUFFIX": "REPLACE"}
    with quietly(), TemporaryDirectory(prefix="ms2hs.") as folder:
        pixel = Path(folder, "pixel.dat")
        rasterio.open(pixel, "w", **profile, crs=grid.crs, transform=Affine(*grid.transform)).close()
        text = pixel.with_suffix(".hdr").read_text(encoding="utf-8")
    return [match.group(0) for match in GEOREFERENCE.finditer(text)]
