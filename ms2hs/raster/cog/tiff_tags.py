"""What a cube's file says of its bands and its place: the tags of an image, as GDAL writes them."""

from typing import Any, Protocol

from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from ms2hs.arrays import FloatArray
from ms2hs.raster.cog.encoding import Storage
from ms2hs.raster.cog.overviews import BLOCK
from ms2hs.raster.cog.tiff_ifd import Directory, read_directory, with_places_together
from ms2hs.raster.dataset import quietly
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band


class BandLabels(Protocol):
    """The bands of a file that are not all spectral, such as a scene with its quality layer."""

    def __len__(self) -> int:
        """Number of bands."""
        ...

    def write_to(self, file: Any) -> None:  # noqa: ANN401 - rasterio has no types
        """Set descriptions, scales, colours and tags of every band of an opened rasterio dataset."""
        ...


def describe(grid: PixelGrid, spectral: SpectralGrid | BandLabels, tags: dict[str, str], storage: Storage) -> Directory:
    """The directory of a cube's image, but for its size and blocks, taken from a file of one pixel.

    Parameters
    ----------
    grid : its pixels.
    spectral : its bands, in order, or their labels.
    tags : of the data set.
    storage : how its numbers are stored.
    """
    placed = {} if grid.transform == tuple(Affine.identity())[:6] else {"transform": Affine(*grid.transform)}
    profile = placed | {
        "driver": "GTiff",
        "count": len(spectral),
        "height": 1,
        "width": 1,
        "crs": grid.crs,
        "dtype": storage.dtype,
        "nodata": storage.nodata,
        "BIGTIFF": "YES",
        "ENDIANNESS": "LITTLE",
        "INTERLEAVE": "BAND",
        "TILED": "YES",
        "BLOCKXSIZE": BLOCK,
        "BLOCKYSIZE": BLOCK,
        "COMPRESS": "ZSTD",
        "PREDICTOR": storage.predictor,
        "SPARSE_OK": "TRUE",
    }
    with quietly(), MemoryFile() as memory:
        with memory.open(**profile) as file:
            if isinstance(spectral, SpectralGrid):
                _describe_bands(file, spectral, tags, storage.scale)
            else:
                file.update_tags(**tags)
                spectral.write_to(file)
        return with_places_together(read_directory(memory.read()))


def _describe_bands(file: Any, spectral: SpectralGrid, tags: dict[str, str], scale: float | None) -> None:  # noqa: ANN401 - rasterio has no types
    bands = range(1, len(spectral) + 1)
    if scale is not None:
        file.scales, file.offsets = [scale for _ in bands], [0.0 for _ in bands]
        file.units = ["1" for _ in bands]
    file.colorinterp = _colours(spectral.wavelength_nm)
    for i, name, centre, width in zip(bands, spectral.names, spectral.wavelength_nm, spectral.fwhm_nm, strict=True):
        file.set_band_description(i, f"{name} {centre:.1f} nm")
        micrometres = {"CENTRAL_WAVELENGTH_UM": f"{centre / 1000:.7g}", "FWHM_UM": f"{width / 1000:.7g}"}
        file.update_tags(i, ns="IMAGERY", **micrometres)
    # ENVI's bad band list; copies by GDAL keep it only in the default domain
    good = ", ".join("1" if is_good else "0" for is_good in spectral.good)
    file.update_tags(**tags, bbl=f"{{{good}}}")


def _colours(wavelength_nm: FloatArray) -> list[ColorInterp]:
    found = [nearest_band(wavelength_nm, target, RGB_REACH_NM) for target in RGB_NM]
    colours = [ColorInterp.undefined] * len(wavelength_nm)
    if None not in found and len(set(found)) == len(found):
        for band, colour in zip(found, (ColorInterp.red, ColorInterp.green, ColorInterp.blue), strict=True):
            colours[band or 0] = colour
    return colours
