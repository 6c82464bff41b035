"""Which pixels of which of a scene's files a part of it needs, and those pixels as small files on disk."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from ms2hs.errors import SceneError
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m, subset
from ms2hs.raster.resampling import axis_weights, relate
from ms2hs.scenes.scene import Asset, Scene

Box = tuple[float, float, float, float]
# Degrees around a scene's box, since edges that are straight on its map are bent in degrees.
MARGIN_DEG = 0.1


@dataclass(frozen=True)
class Cut:
    """Rows and columns of a file."""

    rows: slice
    cols: slice

    @property
    def pixels(self) -> int:
        """How many."""
        return len(range(self.rows.start, self.rows.stop)) * len(range(self.cols.start, self.cols.stop))


def part_within(grid: PixelGrid, boxes: Sequence[Box]) -> tuple[int, int, int, int] | None:
    """Row, column, height and width of the smallest part of a grid that holds what lies in any of the boxes.

    Parameters
    ----------
    boxes : in degrees, west < east; one of any size, or the two on either side of the antimeridian.

    Returns
    -------
    None where no pixel lies in them, or the grid has no CRS.
    """
    if grid.crs is None:
        return None
    parts = [part for box in boxes for near in _clipped(grid, box) if (part := _subset(grid, near))]
    if not parts:
        return None
    row, col = min(part[0] for part in parts), min(part[1] for part in parts)
    bottom, right = max(part[0] + part[2] for part in parts), max(part[1] + part[3] for part in parts)
    return row, col, bottom - row, right - col


def _subset(grid: PixelGrid, box: Box) -> tuple[int, int, int, int] | None:
    try:
        return subset(grid, box)
    except SceneError:
        return None


def _clipped(grid: PixelGrid, box: Box) -> list[Box]:
    """The parts of a box near a grid: what lies far off cannot be told on the grid's map."""
    try:
        west, south, east, north = transform_bounds(CRS.from_user_input(grid.crs), "EPSG:4326", *grid.bounds)
    except RasterioError:
        return []
    sides = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    # A margin may reach over the antimeridian itself.
    sides += [(low - 360, high - 360) for low, high in sides if high + MARGIN_DEG > 180]
    sides += [(low + 360, high + 360) for low, high in sides if low - MARGIN_DEG < -180]
    found = []
    for low, high in sides:
        left, right = max(low - MARGIN_DEG, box[0]), min(high + MARGIN_DEG, box[2])
        bottom, top = max(south - MARGIN_DEG, box[1]), min(north + MARGIN_DEG, box[3])
        if left < right and bottom < top:
            found.append((left, bottom, right, top))
    return found


def cut_of(grid: PixelGrid, file: PixelGrid, name: str) -> Cut | None:
    """The pixels of a file that a working grid is made of, neighbours to interpolate with among them; None if none.

    Raises
    ------
    SceneError : the file lies on another CRS or is turned.
    """
    down, right = relate(grid, file, name)
    rows, cols = axis_weights(down, 0, grid.height), axis_weights(right, 0, grid.width)
    if rows.begin == rows.end or cols.begin == cols.end:
        return None
    return Cut(slice(rows.begin, rows.end), slice(cols.begin, cols.end))


def around(grid: PixelGrid, coarsest_m: float) -> PixelGrid:
    """The grid, grown on every side by a pixel of the coarsest band, which is interpolated from there."""
    row_m, col_m = pixel_size_m(grid)
    down, right = math.ceil(coarsest_m / row_m), math.ceil(coarsest_m / col_m)
    return grid.crop(-down, -right, grid.height + 2 * down, grid.width + 2 * right)


def file_name(scene: Scene, asset: Asset) -> str:
    """The file of one band, by the archive's habit: `HLS....v2.0.B04.tif`, else `<id>_B04.tif`."""
    separator = "." if scene.source.startswith("hls_") else "_"
    return f"{safe_name(scene.id)}{separator}{safe_name(asset.name)}.tif"


def safe_name(text: str) -> str:
    """What others called something, as the name of a file: no path, not hidden, not too long."""
    return re.sub(r"[^\w.+-]", "_", text).lstrip(".")[:150] or "item"


def local_scene(scene: Scene, folder: Path, grid: PixelGrid) -> Scene:
    """The scene whose bands lie in a folder, each in a file of its own as `file_name` has it."""
    assets = tuple(replace(asset, href=str(folder / file_name(scene, asset)), band=1) for asset in scene.assets)
    quality = scene.quality
    if quality is not None:
        quality = replace(quality, href=str(folder / file_name(scene, quality)), band=1)
    return replace(scene, assets=assets, quality=quality, grid=grid)
