"""A scene before any pixel is read: which bands lie where, and how their numbers become reflectance."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

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
    """A path or address that GDAL opens."""
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

    def to_json(self) -> str:
        """The scene as JSON text, without pixels."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """The scene that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        grid = fields.pop("grid")
        quality = fields.pop("quality")
        return cls(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in fields.items()
                if key != "assets"
            },
            assets=tuple(Asset(**asset) for asset in fields["assets"]),
            grid=PixelGrid(grid["crs"], tuple(grid["transform"]), grid["height"], grid["width"]),
            quality=Asset(**quality) if quality else None,
        )
