"""Fetched scenes of one satellite pass, combined into one mosaic.

Scenes of one sensor that follow each other within MAX_GAP belong to one pass. Each pixel is taken from the clearest of
the scenes that are clear there, else of the scenes with a value. The mosaic lies in the zone with most known pixels.
"""

import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from ms2hs.arrays import BoolArray, DnArray
from ms2hs.fetching.assembling import write_scene
from ms2hs.fetching.band_stack import ROWS_PER_STRIP, StackLayout, StackStrip, write_stack
from ms2hs.fetching.sidecar import Sidecar, checksum, is_output_complete, scene_facts
from ms2hs.fetching.staged_scene import check_staging, prepare_staging
from ms2hs.raster.cube import NODATA
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.recognition import SOURCE_TAG, TIME_TAG
from ms2hs.scenes.scene import Scene

# A pass over land takes at most a quarter of an hour, and the next pass follows after a hundred minutes.
MAX_GAP = timedelta(minutes=20)


@dataclass(frozen=True, eq=False)
class MosaicScene:
    """One scene of a mosaic: a file that `write_scene` wrote."""

    path: Path
    scene: Scene
    known: int
    """Number of pixels with a value."""
    clear: int
    """Number of known pixels of good quality."""

    @property
    def clear_share(self) -> float:
        """Share of the known pixels that are clear, 0 to 1."""
        return self.clear / max(1, self.known)

    @property
    def time(self) -> datetime:
        """Sensing time."""
        return datetime.fromisoformat(self.scene.datetime or "1970-01-01T00:00:00+00:00")

    @property
    def quality(self) -> str | None:
        """Name of the quality layer in the last band; None without one."""
        return self.scene.quality[0].name if self.scene.quality else None

    @property
    def kind(self) -> tuple[object, ...]:
        """Sensor, quality layer and bands, which all scenes of a mosaic share."""
        return self.scene.source, self.quality, self.scene.spectral.names


def common_grid(scenes: Sequence[MosaicScene]) -> PixelGrid:
    """The smallest grid that covers all scenes, in the CRS with the most known pixels.

    Grids of one zone are aligned: corners of MGRS tiles are multiples of 60 m.
    """
    known: dict[str | None, int] = {}
    for member in scenes:
        known[member.scene.grid.crs] = known.get(member.scene.grid.crs, 0) + member.known
    crs = max(known, key=lambda name: known[name])
    reference = next(member.scene.grid for member in scenes if member.scene.grid.crs == crs)
    a, _, west, _, e, north = reference.transform
    bounds = [_bounds_in(member.scene.grid, crs) for member in scenes]
    left = int(np.floor((min(box[0] for box in bounds) - west) / a + 1e-6))
    top = int(np.floor((max(box[3] for box in bounds) - north) / e + 1e-6))
    right = int(np.ceil((max(box[2] for box in bounds) - west) / a - 1e-6))
    bottom = int(np.ceil((min(box[1] for box in bounds) - north) / e - 1e-6))
    return reference.crop(top, left, bottom - top, right - left)


def _bounds_in(grid: PixelGrid, crs: str | None) -> tuple[float, float, float, float]:
    if grid.crs == crs:
        return grid.bounds
    west, south, east, north = transform_bounds(CRS.from_user_input(grid.crs), CRS.from_user_input(crs), *grid.bounds)
    return west, south, east, north


def mosaic_strips(scenes: Sequence[MosaicScene], grid: PixelGrid) -> Generator[StackStrip, None, None]:
    """The mosaic of scenes on a grid, strip by strip.

    Scenes in the CRS of the grid keep their pixels. Other scenes are interpolated linearly, and their quality classes
    are taken from the nearest pixel.

    Raises
    ------
    SceneError : a scene cannot be opened.
    """
    ordered = sorted(scenes, key=lambda member: -member.clear_share)
    layer = ordered[0].quality
    with ExitStack() as opened:
        readers = [_WarpedReader(opened, member, grid) for member in ordered]
        for row in range(0, grid.height, ROWS_PER_STRIP):
            rows = min(ROWS_PER_STRIP, grid.height - row)
            dn = np.full((len(ordered[0].scene.assets) + (layer is not None), rows, grid.width), NODATA, np.int16)
            if layer is not None:
                dn[-1] = QUALITY_LAYERS[layer].fill
            rank = np.zeros((rows, grid.width), np.int8)  # 0: no value, 1: known, 2: clear
            for reader in readers:
                scene_dn, known, clear = reader.read(Window(0, row, grid.width, rows))
                scene_rank = known.astype(np.int8) + (known & clear)
                is_better = scene_rank > rank
                dn[:, is_better], rank[is_better] = scene_dn[:, is_better], scene_rank[is_better]
            yield StackStrip(row, dn, int((rank > 0).sum()), int((rank > 1).sum()))


class _WarpedReader:
    """Reads a scene on the grid of the mosaic."""

    def __init__(self, opened: ExitStack, source: MosaicScene, grid: PixelGrid) -> None:
        dataset = opened.enter_context(open_dataset(str(source.path)))
        self._layer = source.quality
        self._bands = list(range(1, len(source.scene.assets) + 1))
        options = {
            "crs": grid.crs,
            "transform": Affine(*grid.transform),
            "height": grid.height,
            "width": grid.width,
            "src_nodata": NODATA,
            "nodata": NODATA,
        }
        resampling = Resampling.nearest if source.scene.grid.crs == grid.crs else Resampling.bilinear
        self._values = opened.enter_context(WarpedVRT(dataset, resampling=resampling, **options))
        self._classes = opened.enter_context(WarpedVRT(dataset, resampling=Resampling.nearest, **options))

    def read(self, window: Window) -> tuple[DnArray, BoolArray, BoolArray]:
        """(band, row, col) stored numbers with quality last; (row, col) known and clear."""
        values = self._values.read(self._bands, window=window)
        known = (values != NODATA).all(axis=0)
        if self._layer is None:
            return values, known, known
        classes = self._classes.read(len(self._bands) + 1, window=window)
        known &= classes != NODATA
        layer = QUALITY_LAYERS[self._layer]
        clear = layer.valid(np.where(known, classes, layer.fill))
        return np.concatenate([values, classes[None]]), known, clear


def write_mosaics(paths: Sequence[Path], folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Combine the scenes of each pass; a pass with a single scene gets no mosaic.

    Parameters
    ----------
    paths : scenes as `fetch` writes them, all with the same sampling, each with its item beside it.
    folder : of the mosaics; a complete mosaic of the same scenes is kept.

    Returns
    -------
    One path for each pass, in the order of time.

    Raises
    ------
    SceneError : a scene cannot be read. OutputError : a mosaic cannot be written.
    """
    return [
        _write_mosaic(scenes, folder, overwrite=overwrite) if len(scenes) > 1 else scenes[0].path
        for scenes in _group_by_pass(paths)
    ]


def _group_by_pass(paths: Sequence[Path]) -> list[list[MosaicScene]]:
    scenes = sorted(map(_read_scene, paths), key=lambda member: (member.scene.source, member.time))
    passes: list[list[MosaicScene]] = []
    for member in scenes:
        last = passes[-1][-1] if passes else None
        if last is not None and last.kind == member.kind and member.time - last.time <= MAX_GAP:
            passes[-1].append(member)
        else:
            passes.append([member])
    return sorted(passes, key=lambda scenes: scenes[0].time)


def _read_scene(path: Path) -> MosaicScene:
    properties = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["properties"]
    known, clear = int(properties["ms2hs:known_pixels"]), int(properties["ms2hs:clear_pixels"])
    return MosaicScene(path, open_scene(str(path)), known, clear)


def _write_mosaic(scenes: list[MosaicScene], folder: Path, *, overwrite: bool) -> Path:
    first = scenes[0].scene
    name = f"{first.source}_{scenes[0].time:%Y%m%dT%H%M%S}_mosaic"
    path, staging = folder / f"{name}.tif", folder / f".{name}.part"
    parameters = {"mosaic_of": {member.path.name: checksum(member.path) for member in scenes}}
    check_staging(staging)
    if is_output_complete(path, path.with_suffix(".json"), staging, parameters, overwrite=overwrite):
        return path
    grid = common_grid(scenes)
    tags = {
        "MS2HS_MOSAIC_OF": ", ".join(member.path.stem for member in scenes),
        SOURCE_TAG: first.source,
        "MS2HS_OFFSET_RULE": "; ".join(dict.fromkeys(member.scene.offset_rule for member in scenes)),
        TIME_TAG: first.datetime or "",
    }
    layout = StackLayout(grid, first.spectral, scenes[0].quality, tags)
    properties = {"datetime": first.datetime, "platform": first.source}
    item = {"type": "Feature", "stac_version": "1.1.0", "id": name, "properties": properties}
    sidecar = Sidecar(parameters, item, first.datetime, grid, scene_facts(first))
    prepare_staging(staging, parameters)
    write = partial(write_stack, layout=layout, strips=mosaic_strips(scenes, grid))
    write_scene(path, staging, sidecar, write, overwrite=overwrite)
    return path
