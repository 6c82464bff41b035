"""The pixels of a scene's files that a search area needs, and the local copies of these files.

Boxes are in degrees and grids in metres of a map projection. A box far away from a scene cannot be transformed to the
scene's projection, so `grid_window` first clips every box to the surroundings of the scene.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from ms2hs.errors import SceneError
from ms2hs.fetching.search_query import Box
from ms2hs.files import file_name
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m, subset
from ms2hs.raster.resampling import axis_weights, relate
from ms2hs.scenes.scene import Asset, Scene

# Degrees around a scene's box: edges that are straight in its projection are curved in degrees.
MARGIN_DEG = 0.1


def grid_window(grid: PixelGrid, boxes: Sequence[Box]) -> tuple[int, int, int, int] | None:
    """Row, column, height and width of the smallest window of a grid that covers the boxes.

    Parameters
    ----------
    boxes : in degrees, west < east; one box, or the two on either side of the antimeridian.

    Returns
    -------
    None where no pixel lies in a box, or the grid has no CRS.
    """
    if grid.crs is None:
        return None
    parts = [part for box in boxes for near in _clip_to_surroundings(grid, box) if (part := _subset(grid, near))]
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


def _clip_to_surroundings(grid: PixelGrid, box: Box) -> list[Box]:
    """The parts of a box near a grid: positions far away cannot be transformed to the grid's CRS."""
    try:
        west, south, east, north = transform_bounds(CRS.from_user_input(grid.crs), "EPSG:4326", *grid.bounds)
    except RasterioError:
        return []
    sides = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    # The margin itself may reach across the antimeridian.
    sides += [(low - 360, high - 360) for low, high in sides if high + MARGIN_DEG > 180]
    sides += [(low + 360, high + 360) for low, high in sides if low - MARGIN_DEG < -180]
    clipped = []
    for low, high in sides:
        left, right = max(low - MARGIN_DEG, box[0]), min(high + MARGIN_DEG, box[2])
        bottom, top = max(south - MARGIN_DEG, box[1]), min(north + MARGIN_DEG, box[3])
        if left < right and bottom < top:
            clipped.append((left, bottom, right, top))
    return clipped


def source_pixels(grid: PixelGrid, file: PixelGrid, name: str) -> tuple[slice, slice] | None:
    """Rows and columns of a file from which a working grid is computed, including neighbours for interpolation.

    Returns
    -------
    None where the file does not reach into the grid.

    Raises
    ------
    SceneError : the file has another CRS or is rotated.
    """
    down, right = relate(grid, file, name)
    rows, cols = axis_weights(down, 0, grid.height), axis_weights(right, 0, grid.width)
    if rows.begin == rows.end or cols.begin == cols.end:
        return None
    return slice(rows.begin, rows.end), slice(cols.begin, cols.end)


def padded(grid: PixelGrid, margin_m: float) -> PixelGrid:
    """The grid, extended by a margin on every side."""
    row_m, col_m = pixel_size_m(grid)
    down, right = math.ceil(margin_m / row_m), math.ceil(margin_m / col_m)
    return grid.crop(-down, -right, grid.height + 2 * down, grid.width + 2 * right)


def band_file_name(scene: Scene, asset: Asset) -> str:
    """File name of one band, as its archive names files: `HLS….v2.0.B04.tif`, else `<id>_B04.tif`."""
    separator = "." if scene.source.startswith("hls_") else "_"
    return f"{file_name(scene.id)}{separator}{file_name(asset.name)}.tif"


def all_assets(scene: Scene) -> list[Asset]:
    """The bands of a scene, and the quality layer if the scene has one."""
    return [*scene.assets, *([scene.quality] if scene.quality else [])]


def local_scene(scene: Scene, folder: Path, grid: PixelGrid) -> Scene:
    """The scene whose bands are single files in a folder, named by `band_file_name`."""

    def local(asset: Asset) -> Asset:
        return replace(asset, href=str(folder / band_file_name(scene, asset)), band=1)

    quality = None if scene.quality is None else local(scene.quality)
    return replace(scene, assets=tuple(map(local, scene.assets)), quality=quality, grid=grid)
