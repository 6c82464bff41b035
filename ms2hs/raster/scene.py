"""A scene before any pixel is read: which bands lie where, and how their numbers become reflectance."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.spectra.grid import SpectralGrid
from ms2hs.spectra.sensors import load_sensor


@dataclass(frozen=True)
class PixelGrid:
    """Where the pixels of a raster lie. Immutable."""

    crs: str | None
    """Coordinate reference system as GDAL understands it (`EPSG:32633`, or WKT); None where the raster has none."""
    transform: tuple[float, float, float, float, float, float]
    """Affine a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f, at pixel corners, in CRS units."""
    height: int
    """Rows."""
    width: int
    """Columns."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north, in CRS units, of the raster's corners."""
        a, b, c, d, e, f = self.transform
        xs = [c + a * col + b * row for row in (0, self.height) for col in (0, self.width)]
        ys = [f + d * col + e * row for row in (0, self.height) for col in (0, self.width)]
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(3, 3) the transform as it multiplies (col, row, 1)."""
        return np.array([self.transform[:3], self.transform[3:], (0.0, 0.0, 1.0)])

    def resized(self, row_step: float, col_step: float) -> "PixelGrid":
        """The grid from the same upper-left corner whose pixels are that many of these high and wide.

        A last row or column is there if at least half of it lies on this grid.
        """
        a, b, c, d, e, f = self.transform
        height = max(1, math.floor(self.height / row_step + 0.5))
        width = max(1, math.floor(self.width / col_step + 0.5))
        return PixelGrid(self.crs, (a * col_step, b * row_step, c, d * col_step, e * row_step, f), height, width)

    def crop(self, row: int, col: int, height: int, width: int) -> "PixelGrid":
        """The grid of a part that begins at `row`, `col`."""
        a, b, c, d, e, f = self.transform
        corner = (a, b, c + a * col + b * row, d, e, f + d * col + e * row)
        return PixelGrid(self.crs, corner, height, width)


@dataclass(frozen=True)
class Asset:
    """One band of a scene, in a file: `reflectance = (dn + dn_offset) * dn_scale`."""

    name: str
    """The band's name in the scene's spectral grid, such as `B8A`."""
    href: str
    """A path, or an address, as `open_dataset` takes it."""
    band: int
    """1-based position in the file."""
    dn_scale: float
    dn_offset: float
    nodata: float | None
    """The stored number that means there is none."""


@dataclass(frozen=True)
class Scene:
    """A multispectral scene: its bands, its pixel grid, and what is known of it. JSON both ways."""

    id: str
    source: str
    """Name of the sensor, or `custom` where only wavelengths are known."""
    assets: tuple[Asset, ...]
    grid: PixelGrid
    """The finest grid among its bands."""
    offset_rule: str
    """In words, how stored numbers become reflectance, and what decided it."""
    wavelength_nm: tuple[float, ...] = ()
    """Centres of the bands in nm, only where `source` is `custom`."""
    fwhm_nm: tuple[float, ...] = ()
    """Widths of the bands in nm, only where `source` is `custom`."""
    quality: Asset | None = None
    """The layer that tells cloud and shadow, if there is one; scale and offset mean nothing."""
    quality_rule: str | None = None
    """A name in `quality.RULES`: `scl` or `fmask`."""
    datetime: str | None = None
    """Time of acquisition, ISO 8601, if known."""
    working_gsd_m: float | None = None
    """The ground sampling in m that it is converted at unless asked otherwise; None means its own grid."""
    notes: tuple[str, ...] = ()
    """What the user should know: assumptions and warnings, one sentence each."""

    @cached_property
    def spectral(self) -> SpectralGrid:
        """The grid of its bands, in the order of `assets`."""
        names = [asset.name for asset in self.assets]
        if self.source == "custom":
            good = np.ones(len(names), bool)
            return SpectralGrid(tuple(names), np.array(self.wavelength_nm), np.array(self.fwhm_nm), good)
        sensor = load_sensor(self.source)
        return sensor.grid.select(sensor.grid.index(names))

    def adjusted(self, lines: Mapping[str, tuple[float, float]]) -> "Scene":
        """The scene with each band brought to `gain * reflectance + offset`, of those that `lines` has by name.

        It is the rule that turns stored numbers into reflectance that changes: nothing else needs to know.
        """
        assets = tuple(_adjusted(asset, *lines.get(asset.name, (1.0, 0.0))) for asset in self.assets)
        return replace(self, assets=assets)

    def to_json(self) -> str:
        """The scene as JSON text, without pixels."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """The scene that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        grid, quality = fields["grid"], fields["quality"]
        return cls(
            id=fields["id"],
            source=fields["source"],
            assets=tuple(Asset(**asset) for asset in fields["assets"]),
            grid=PixelGrid(grid["crs"], tuple(grid["transform"]), grid["height"], grid["width"]),
            offset_rule=fields["offset_rule"],
            wavelength_nm=tuple(fields["wavelength_nm"]),
            fwhm_nm=tuple(fields["fwhm_nm"]),
            quality=Asset(**quality) if quality else None,
            quality_rule=fields["quality_rule"],
            datetime=fields["datetime"],
            working_gsd_m=fields["working_gsd_m"],
            notes=tuple(fields["notes"]),
        )


def _adjusted(asset: Asset, gain: float, offset: float) -> Asset:
    if (gain, offset) == (1.0, 0.0):
        return asset
    scale = gain * asset.dn_scale
    return replace(asset, dn_scale=scale, dn_offset=asset.dn_offset + offset / scale)


@dataclass(frozen=True)
class SceneChoices:
    """What the user says about a scene; None leaves it to the file's metadata."""

    source: str | None = None
    """Name of the sensor, or `custom` for bands that are known by their wavelengths alone."""
    bands: tuple[str, ...] | None = None
    """Of a GeoTIFF: the name of each band, in file order, `-` for one to skip. Of a product: the bands to use."""
    dn_offset: float | None = None
    """Added to the stored numbers before they are scaled, instead of what the metadata say."""
    quality: bool = True
    """False keeps cloud, shadow and cirrus."""
