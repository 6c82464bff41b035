"""A scene without its pixels: the files of its bands, its pixel grid, and the scale and offset of stored numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ms2hs.errors import SceneError, UnknownName
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid

# The source of scenes whose bands are known by their wavelengths only.
CUSTOM = "custom"


@dataclass(frozen=True)
class Asset:
    """One band of a scene, in a file: `reflectance = (dn + dn_offset) * dn_scale`."""

    name: str
    """The band's name in the scene's spectral grid, such as `B8A`."""
    href: str
    """Path or address for `open_dataset`."""
    band: int
    """1-based position in the file."""
    dn_scale: float
    dn_offset: float
    nodata: float | None
    """Stored number that means no data; None without one."""
    label: str = ""
    """The band's name as the file or item gives it; empty: the name of the file."""


@dataclass(frozen=True)
class Scene:
    """A multispectral scene: its bands, its pixel grid, and its metadata."""

    id: str
    source: str
    """Name of the sensor, or `custom` if only wavelengths are known."""
    assets: tuple[Asset, ...]
    grid: PixelGrid
    """The finest pixel grid of its bands."""
    offset_rule: str
    """The rule from stored numbers to reflectance in words, and who declared it."""
    rule_origin: str = ""
    """The origin of the rule, as in `RadiometricRule.origin`."""
    wavelength_nm: tuple[float, ...] = ()
    """Centres of the bands in nm, only where `source` is `custom`."""
    fwhm_nm: tuple[float, ...] = ()
    """Widths of the bands in nm, only where `source` is `custom`."""
    quality: tuple[Asset, ...] = ()
    """The quality layers; a pixel is valid where all are. `name` is a key of `quality.QUALITY_LAYERS`."""
    quality_note: str = ""
    """Which quality layers remove what, or why clouds are kept."""
    datetime: str | None = None
    """Time or day of acquisition, ISO 8601, if known."""
    working_gsd_m: float | None = None
    """Default ground sampling of the conversion in m; None means the scene's own grid."""
    item: str = ""
    """Path or address of the STAC item that the scene was opened from; empty without one."""
    notes: tuple[str, ...] = ()
    """Assumptions and warnings for the user, one sentence each."""

    @cached_property
    def spectral(self) -> SpectralGrid:
        """The spectral grid of its bands, in the order of `assets`."""
        names = [asset.name for asset in self.assets]
        if self.source == CUSTOM:
            centres, widths = np.array(self.wavelength_nm), np.array(self.fwhm_nm)
            return SpectralGrid(tuple(names), centres, widths, np.ones(len(names), bool))
        sensor = load_sensor(self.source)
        return sensor.grid.select(sensor.grid.index(names))

    def adjusted(self, lines: Mapping[str, tuple[float, float]]) -> "Scene":
        """The scene with reflectance `gain * reflectance + offset` in each band named in `lines`.

        Only scale and offset of the stored numbers change.
        """
        assets = []
        for asset in self.assets:
            gain, offset = lines.get(asset.name, (1.0, 0.0))
            scale = gain * asset.dn_scale
            assets.append(replace(asset, dn_scale=scale, dn_offset=asset.dn_offset + offset / scale))
        return replace(self, assets=tuple(assets))


@dataclass(frozen=True)
class SceneOptions:
    """The user's options for a scene; None means that the file's metadata decide."""

    source: str | None = None
    """Name of the sensor, or `custom` for bands identified by their wavelengths only; a camera's are, too."""
    bands: tuple[str, ...] | None = None
    """For a GeoTIFF the name of each band in file order, `-` for a band to skip; for a product the bands to use."""
    scale: float | None = None
    """`reflectance = stored * scale + offset`; replaces the metadata's scale."""
    offset: float | None = None
    """In reflectance; replaces the metadata's offset."""
    dn_offset: float | None = None
    """Added to stored integers before scaling; replaces the metadata's offset. Not together with `offset`."""
    quality: bool = True
    """False keeps cloud, shadow and cirrus as valid pixels."""
    granule: str | None = None
    """The tile or granule to use of a product with several, such as `T33UUP`."""
    level_1c: bool = False
    """True accepts a folder of level 1C, top of atmosphere, and ignores the band that only level 1C has."""

    @property
    def has_offset(self) -> bool:
        """Whether the user gives an offset, in reflectance or in stored numbers."""
        return self.offset is not None or self.dn_offset is not None

    def __post_init__(self) -> None:
        """Check the numbers and the name of the sensor.

        Raises
        ------
        SceneError : a scale that is not above 0, a number that is not finite, or both offsets.
        UnknownName : an unknown sensor; the message lists the known names.
        """
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise SceneError(
                f"--scale {self.scale:g}; a number above 0 is required. Use --scale 0.0001, or leave it out."
            )
        for name, value in (("--offset", self.offset), ("--dn-offset", self.dn_offset)):
            if value is not None and not math.isfinite(value):
                raise SceneError(f"{name} {value:g}; a finite number is required. Leave {name} out, or use 0.")
        if self.offset is not None and self.dn_offset is not None:
            raise SceneError(
                f"both --offset {self.offset:g} and --dn-offset {self.dn_offset:g}; one is allowed. Use --offset, in "
                "reflectance."
            )
        known = [*sensor_names("source"), *sensor_names("camera"), CUSTOM]
        if self.source is not None and self.source not in known:
            raise UnknownName.of("source", self.source, known, "Use one of these with --source.")


def working_grid(scene: Scene, gsd_m: float | None = None) -> PixelGrid:
    """The grid of the conversion, with the upper-left corner of the scene.

    Parameters
    ----------
    gsd_m : pixel size in m; None means the scene's `working_gsd_m`, or without it the scene's own grid.

    Raises
    ------
    SceneError : the size is not above 0, or the scene has no CRS.
    """
    gsd_m = scene.working_gsd_m if gsd_m is None else gsd_m
    if gsd_m is None:
        return scene.grid
    if not gsd_m > 0:
        raise SceneError(f"a pixel size of {gsd_m:g} m; a size above 0 is required. Use --gsd 30, or --gsd native.")
    if scene.grid.crs is None:
        raise SceneError(
            f"a pixel size of {gsd_m:g} m: the scene has no CRS, so the size of its pixels in metres is unknown; a "
            "georeference is needed. Use --gsd native."
        )
    row_m, col_m = pixel_size_m(scene.grid)
    row_step, col_step = gsd_m / row_m, gsd_m / col_m
    # A file may declare 30.000000000004 m instead of 30 m.
    if max(abs(row_step - 1), abs(col_step - 1)) < 1e-6:
        return scene.grid
    return scene.grid.resized(row_step, col_step)
