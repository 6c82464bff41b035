"""TIFF tags that describe a cube: georeference, data type, bands, wavelengths. GDAL encodes them."""

from typing import Any, Protocol

from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from ms2hs.arrays import FloatArray
from ms2hs.raster.cog.encoding import Encoding
from ms2hs.raster.cog.tiff_ifd import Directory, read_directory, with_tile_interleave
from ms2hs.raster.cube import SUPPORT_TAG
from ms2hs.raster.dataset import quietly
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

# One-pixel GeoTIFF with the layout of our blocks.
PIXEL = {
    "driver": "GTiff",
    "height": 1,
    "width": 1,
    "BIGTIFF": "YES",
    "ENDIANNESS": "LITTLE",
    "SPARSE_OK": "TRUE",
    "TILED": "YES",
    "INTERLEAVE": "BAND",
}


class BandLabels(Protocol):
    """Names and tags of bands, some without a wavelength, such as the quality band of a scene."""

    def __len__(self) -> int:
        """Number of bands."""

    def write_to(self, file: Any) -> None:  # noqa: ANN401 - rasterio has no types
        """Set descriptions, scales, colours and tags of all bands of an open rasterio dataset."""


def image_directory(
    grid: PixelGrid, bands: SpectralGrid | BandLabels, tags: dict[str, str], encoding: Encoding
) -> Directory:
    """The TIFF directory of a cube without size and blocks, read from a one-pixel file that GDAL writes."""
    georeference = {} if grid.transform == tuple(Affine.identity())[:6] else {"transform": Affine(*grid.transform)}
    numbers = {"dtype": encoding.dtype, "nodata": encoding.nodata, "PREDICTOR": encoding.predictor}
    blocks = {"BLOCKXSIZE": encoding.block, "BLOCKYSIZE": encoding.block, "COMPRESS": encoding.compression.upper()}
    profile = PIXEL | blocks | numbers | georeference | {"count": len(bands), "crs": grid.crs}
    with quietly(), MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.update_tags(**tags)
            if isinstance(bands, SpectralGrid):
                _label_spectral_bands(file, bands, encoding.scale)
            else:
                bands.write_to(file)
        return with_tile_interleave(read_directory(memory.read()))


def _label_spectral_bands(file: Any, spectral: SpectralGrid, scale: float | None) -> None:  # noqa: ANN401 - rasterio has no types
    bands = range(1, len(spectral) + 1)
    if scale is not None:
        file.scales, file.offsets = [scale for _ in bands], [0.0 for _ in bands]
        file.units = ["1" for _ in bands]
    file.colorinterp = _colours(spectral.wavelength_nm)
    for i, name, centre, width in zip(bands, spectral.names, spectral.wavelength_nm, spectral.fwhm_nm, strict=True):
        file.set_band_description(i, f"{name} {centre:.1f} nm")
        micrometres = {"CENTRAL_WAVELENGTH_UM": f"{centre / 1000:.7g}", "FWHM_UM": f"{width / 1000:.7g}"}
        file.update_tags(i, ns="IMAGERY", **micrometres)
        # ENVI's names in the default domain: gdal_translate and gdalwarp copy only this domain to new files
        file.update_tags(i, wavelength=f"{centre:.7g}", wavelength_units="Nanometers", fwhm=f"{width:.7g}")
    for i, support in enumerate(spectral.support, 1):
        file.update_tags(i, **{SUPPORT_TAG: support})
    # bad band list of ENVI; GDAL copies it only from the default domain
    good = ", ".join("1" if is_good else "0" for is_good in spectral.good)
    file.update_tags(bbl=f"{{{good}}}")


def _colours(wavelength_nm: FloatArray) -> list[ColorInterp]:
    rgb = [nearest_band(wavelength_nm, colour_nm, RGB_REACH_NM) for colour_nm in RGB_NM]
    colours = [ColorInterp.undefined] * len(wavelength_nm)
    if None not in rgb and len(set(rgb)) == len(rgb):
        for band, colour in zip(rgb, (ColorInterp.red, ColorInterp.green, ColorInterp.blue), strict=True):
            colours[band or 0] = colour
    return colours
