"""The pixels of a scene's files that a search area needs, and the local copies of these files."""

import math
from dataclasses import replace
from pathlib import Path

from ms2hs.files import file_name
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m
from ms2hs.raster.resampling import axis_weights, relate
from ms2hs.scenes.scene import Asset, Scene


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
    """The bands of a scene, and the quality layers."""
    return [*scene.assets, *scene.quality]


def local_scene(scene: Scene, folder: Path, grid: PixelGrid) -> Scene:
    """The scene whose bands are single files in a folder, named by `band_file_name`."""

    def local(asset: Asset) -> Asset:
        return replace(asset, href=str(folder / band_file_name(scene, asset)), band=1)

    return replace(scene, assets=tuple(map(local, scene.assets)), quality=tuple(map(local, scene.quality)), grid=grid)
