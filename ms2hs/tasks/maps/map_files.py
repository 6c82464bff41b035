"""The files of a map: cloud-optimised GeoTIFFs, the attribute table of their classes, a style for QGIS, a STAC item.

Rows are written to an uncompressed, tiled GeoTIFF; GDAL's COG driver then copies them into the final layout. A GeoTIFF
holds the colours of its classes, but no names. Names and counts stand in GDAL's auxiliary file `<map>.tif.aux.xml`
(category names and a raster attribute table), and again in a QGIS style, which QGIS applies by itself. The item has the
provenance, and the classes by the classification extension.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio import Affine

from ms2hs.errors import OutputError
from ms2hs.files import write_bytes, write_error
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.dataset import FILE_ERRORS, quietly
from ms2hs.raster.formats import COG_TYPE
from ms2hs.raster.formats.qgis_style import STYLE_SUFFIX
from ms2hs.raster.pixel_grid import PixelGrid, footprint, lonlat_bounds, pixel_size_m
from ms2hs.scenes.scene import Scene
from ms2hs.scenes.stac_metadata import PROJECTION_EXTENSION, projection_properties, time_properties, utc_now
from ms2hs.tasks.maps.map_legend import NODATA_CLASS, Legend

TABLE_SUFFIX = ".aux.xml"
"""Added to the whole name of a raster: GDAL's auxiliary file."""
BLOCK = 512
# Classes that the summary names.
MAX_NAMED = 5
# Columns of the attribute table: name, GDAL's type of the values (GDALRATFieldType) and usage (GDALRATFieldUsage).
INTEGER, TEXT = 0, 2
COLUMNS = (
    ("Value", INTEGER, 5),
    ("Count", INTEGER, 1),
    ("Class", TEXT, 2),
    ("Red", INTEGER, 6),
    ("Green", INTEGER, 7),
    ("Blue", INTEGER, 8),
    ("Alpha", INTEGER, 9),
)


CLASSIFICATION_EXTENSION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
# Media type and role of each other file, by its suffix.
ASSETS = {
    ".png": ("thumbnail", "image/png", "thumbnail"),
    STYLE_SUFFIX: ("style", "text/xml", "metadata"),
    TABLE_SUFFIX: ("table", "text/xml", "metadata"),
    "_probability.tif": ("probability", COG_TYPE, "data"),
}


@dataclass(frozen=True)
class Stored:
    """How numbers are stored, and how coarser overviews are computed."""

    dtype: str
    nodata: float
    scale: float
    resampling: str
    predictor: str = "YES"

    def numbers(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
        """(band, row, col) stored numbers of values; nodata where not `valid` or not finite."""
        known = valid & np.isfinite(values)
        scaled = np.where(known, values, 0) / self.scale
        numbers = np.rint(scaled) if self.dtype != "float32" else scaled
        return np.where(known, numbers, self.nodata).astype(self.dtype)


CLASSES = Stored("uint8", NODATA_CLASS, 1.0, "mode", "NO")
PROBABILITIES = Stored("int16", NODATA, SCALE, "average")
VALUES = Stored("float32", float("nan"), 1.0, "average")


@dataclass(frozen=True)
class MapResult:
    """The files of a map, with counts and seconds."""

    output: Path
    """The COG of classes or values."""
    paths: tuple[Path, ...]
    """Every file, the map first."""
    counts: Mapping[str, int]
    """Pixels by class; empty for values."""
    pixels: int
    valid: int
    """Pixels with a class or value."""
    seconds: float
    notes: tuple[str, ...]

    def summary(self) -> str:
        """One line: the share of valid pixels, the largest classes and the time."""
        total = max(self.valid, 1)
        largest = sorted(self.counts, key=self.counts.__getitem__, reverse=True)[:MAX_NAMED]
        shares = ", ".join(f"{name} {self.counts[name] / total:.1%}" for name in largest)
        more = f" and {len(self.counts) - MAX_NAMED} more classes" if len(self.counts) > MAX_NAMED else ""
        parts = [f"{self.valid / self.pixels:.1%} of {self.pixels} pixels valid", *filter(None, [shares + more])]
        return "; ".join([*parts, f"{self.seconds:.1f} s"])

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self) | {"output": str(self.output), "paths": list(map(str, self.paths))}


class MapWriter:
    """Writes one raster of a map, rows from top to bottom, and completes it as a COG in the same folder.

    Raises
    ------
    OutputError : a failed write, from any method.
    """

    def __init__(
        self,
        path: Path,
        grid: PixelGrid,
        names: Sequence[str],
        stored: Stored,
        *,
        tags: Mapping[str, str],
        legend: Legend | None = None,
    ) -> None:
        """Prepare a writer.

        Parameters
        ----------
        path : of the COG; its folder also holds the temporary file.
        names : (band,) descriptions of the bands.
        legend : of classes, for the colour table.
        """
        self.path, self._stored = path, stored
        self._temporary = path.with_name(f"{path.stem}.rows.tif")
        self._profile = {
            "driver": "GTiff", "dtype": stored.dtype, "nodata": stored.nodata, "count": len(names), "crs": grid.crs,
            "height": grid.height, "width": grid.width, "transform": Affine(*grid.transform), "tiled": True,
            "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "band", "BIGTIFF": "IF_SAFER",
        }  # fmt: skip
        self._names, self._tags, self._legend = names, tags, legend
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Create the temporary file."""
        try:
            with quietly():
                self._file = self._stack.enter_context(rasterio.open(self._temporary, "w", **self._profile))
        except (*FILE_ERRORS, OSError) as error:
            raise write_error(self.path, error) from error
        self._file.update_tags(**self._tags)
        self._file.descriptions = tuple(self._names)
        if self._stored.scale != 1:
            self._file.scales = (self._stored.scale,) * len(self._names)
        if self._legend:
            colours = {number: (*rgb, 255) for number, rgb in enumerate(self._legend.rgb.tolist())}
            self._file.write_colormap(1, colours | {NODATA_CLASS: (255, 255, 255, 0)})
        return self

    def write(self, row: int, values: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Write the (band, row, col) values of some full rows, the first being `row`."""
        numbers = self._stored.numbers(values, valid)
        window = rasterio.windows.Window(0, row, numbers.shape[2], numbers.shape[1])
        try:
            self._file.write(numbers, window=window)
        except (*FILE_ERRORS, OSError) as error:
            raise write_error(self.path, error) from error

    def finish(self) -> None:
        """Write the COG, and remove the temporary file."""
        options = {
            "COMPRESS": "DEFLATE", "PREDICTOR": self._stored.predictor, "BLOCKSIZE": BLOCK, "BIGTIFF": "IF_SAFER",
            "OVERVIEW_RESAMPLING": self._stored.resampling, "NUM_THREADS": "ALL_CPUS",
        }  # fmt: skip
        try:
            with quietly():
                self._stack.close()
                rasterio.shutil.copy(self._temporary, self.path, driver="COG", **options)
            self._temporary.unlink()
        except (*FILE_ERRORS, OSError) as error:
            raise write_error(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the temporary file; after an error its folder is removed by the caller."""
        self._stack.close()


def write_table(path: Path, legend: Legend, counts: NDArray[np.int64]) -> None:
    """Write the auxiliary file of a class raster: category names, and the attribute table with counts and colours.

    Parameters
    ----------
    path : of the auxiliary file.
    counts : (class,) number of pixels.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    names = ET.SubElement(band, "CategoryNames")
    for name in ("", *legend.names):
        ET.SubElement(names, "Category").text = name
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(column, tag).text = str(value)
    rows = zip(legend.names, counts.tolist(), legend.rgb[1:].tolist(), strict=True)
    for index, (name, count, rgb) in enumerate(rows):
        row = ET.SubElement(table, "Row", index=str(index))
        for value in (index + 1, count, name, *rgb, 255):
            ET.SubElement(row, "F").text = str(value)
    _write_xml(path, root)


def write_class_style(path: Path, legend: Legend) -> None:
    """Write a QGIS style that shows each class in its colour with its name; OutputError if it cannot be written."""
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = ET.SubElement(
        ET.SubElement(root, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    palette = ET.SubElement(renderer, "colorPalette")
    for value, (name, colour) in enumerate(zip(legend.names, legend.colours, strict=True), 1):
        ET.SubElement(palette, "paletteEntry", value=str(value), label=name, color=colour, alpha="255")
    _write_xml(path, root, "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n")


def _write_xml(path: Path, root: ET.Element, head: str = "") -> None:
    ET.indent(root, " ")
    write_bytes(path, f"{head}{ET.tostring(root, encoding='unicode')}\n".encode())


def check_tiff(path: Path) -> None:
    """Refuse the name of a map that is no GeoTIFF."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        raise OutputError(f"{path}: maps are written as GeoTIFF; the suffix .tif is needed. Use {path.stem}.tif.")


def write_item(  # noqa: PLR0917 - called once, with all that a map knows
    path: Path,
    scenes: Sequence[Scene],
    grid: PixelGrid,
    provenance: Mapping[str, str],
    result: MapResult,
    legend: Legend | None,
) -> None:
    """Write the STAC 1.1 item of a map; OutputError if it cannot be written."""
    now, bbox = utc_now(), lonlat_bounds(grid)
    properties: dict[str, Any] = time_properties(scenes[-1].datetime, now) | {"created": now}
    properties |= {"gsd": round(min(pixel_size_m(grid)), 3)} if grid.crs else {}
    properties |= projection_properties(grid) | {f"ms2hs:{name}": text for name, text in provenance.items()}
    properties |= {"ms2hs:pixels": {"valid": result.valid, "all": result.pixels}, "ms2hs:notes": list(result.notes)}
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [PROJECTION_EXTENSION, *([CLASSIFICATION_EXTENSION] if legend else [])],
        "id": result.output.stem,
        "geometry": footprint(grid),
        **({"bbox": list(bbox)} if bbox else {}),
        "properties": properties,
        "links": [],
        "assets": _assets(result, legend),
    }
    write_bytes(path, (json.dumps(item, indent=1) + "\n").encode())


def _assets(result: MapResult, legend: Legend | None) -> dict[str, Any]:
    data: dict[str, Any] = {"href": f"./{result.output.name}", "type": COG_TYPE, "roles": ["data"]}
    if legend:
        data["classification:classes"] = _classes(legend, result.counts)
    assets = {"data": data}
    for path in result.paths[1:]:
        for suffix, (key, media_type, role) in ASSETS.items():
            if path.name.endswith(suffix):
                assets[key] = {"href": f"./{path.name}", "type": media_type, "roles": [role]}
    return assets


def _classes(legend: Legend, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """The classes; `name` has letters, digits, `-` and `_` only and is unique by its number, `title` is free text."""
    nodata = {"value": NODATA_CLASS, "name": "nodata", "title": "no data", "nodata": True}
    classes = [
        {
            "value": value,
            "name": f"{value}_{re.sub(r'[^0-9A-Za-z_-]+', '_', name)}"[:100],
            "title": name,
            "color_hint": colour[1:].upper(),
            "count": count,
        }
        for value, (name, colour, count) in enumerate(
            zip(legend.names, legend.colours, counts.values(), strict=True), 1
        )
    ]
    return [nodata, *classes]
