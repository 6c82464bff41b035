"""Stacked scenes of one pass on one grid, clearest first.

Fetched scenes of one pass of a satellite, as one.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from ms2hs.arrays import BoolArray
from ms2hs.errors import OutputError
from ms2hs.fetching.assembling import unwritten, write_json
from ms2hs.fetching.band_stack import NO_DATA, STRIP_ROWS, StackLayout, Strip, write_stack
from ms2hs.fetching.sidecar import Sidecar, State, checksum, state
from ms2hs.raster.cube import NODATA
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.recognition import SOURCE_TAG, TIME_TAG
from ms2hs.scenes.scene import Scene

Stored = NDArray[np.int16]
# Scenes of one sensor nearer in time than this are of one pass: it takes a quarter of an hour from pole to pole of
# land, and the next one comes after a hundred minutes.
APART = timedelta(minutes=20)


@dataclass(frozen=True, eq=False)
class Piece:
    """One scene of a mosaic: a file that `stacking` wrote."""

    path: Path
    scene: Scene
    known: int
    """Pixels with a value."""
    clear: int
    """Of these, those of good quality."""

    @property
    def clearness(self) -> float:
        """Share of what it knows."""
        return self.clear / max(1, self.known)


def common_grid(pieces: Sequence[Piece]) -> PixelGrid:
    """The grid of the zone that most of what is known lies in, as large as all of them together.

    Grids of one zone fit: corners of MGRS tiles lie on whole multiples of 60 m.
    """
    known: dict[str | None, int] = {}
    for piece in pieces:
        known[piece.scene.grid.crs] = known.get(piece.scene.grid.crs, 0) + piece.known
    crs = max(known, key=lambda name: known[name])
    home = next(piece.scene.grid for piece in pieces if piece.scene.grid.crs == crs)
    a, _, west, _, e, north = home.transform
    bounds = [_bounds_in(piece.scene.grid, crs) for piece in pieces]
    left = int(np.floor((min(box[0] for box in bounds) - west) / a + 1e-6))
    top = int(np.floor((max(box[3] for box in bounds) - north) / e + 1e-6))
    right = int(np.ceil((max(box[2] for box in bounds) - west) / a - 1e-6))
    bottom = int(np.ceil((min(box[1] for box in bounds) - north) / e - 1e-6))
    return home.crop(top, left, bottom - top, right - left)


def _bounds_in(grid: PixelGrid, crs: str | None) -> tuple[float, float, float, float]:
    if grid.crs == crs:
        return grid.bounds
    west, south, east, north = transform_bounds(CRS.from_user_input(grid.crs), CRS.from_user_input(crs), *grid.bounds)
    return west, south, east, north


def mosaic_strips(pieces: Sequence[Piece], grid: PixelGrid) -> Iterator[Strip]:
    """The pieces on a grid, strip by strip: of each place the clearest scene's pixel that is good, else any's.

    Pixels of the same zone are taken as they are; others are interpolated linearly, their quality taken from the
    nearest.

    Raises
    ------
    SceneError : a piece cannot be opened.
    """
    ordered = sorted(pieces, key=lambda piece: -piece.clearness)
    rule = ordered[0].scene.quality_rule
    with ExitStack() as opened:
        views = [_View(opened, piece, grid) for piece in ordered]
        for row in range(0, grid.height, STRIP_ROWS):
            rows = min(STRIP_ROWS, grid.height - row)
            numbers = np.full((len(ordered[0].scene.assets) + (rule is not None), rows, grid.width), NODATA, np.int16)
            if rule is not None:
                numbers[-1] = NO_DATA[rule]
            rank = np.zeros((rows, grid.width), np.int8)
            for view in views:
                found, known, clear = view.read(Window(0, row, grid.width, rows))
                own = known.astype(np.int8) + (known & clear)
                better = own > rank
                numbers[:, better], rank[better] = found[:, better], own[better]
            yield Strip(row, numbers, int((rank > 0).sum()), int((rank > 1).sum()))


class _View:
    """A piece as if it lay on the grid."""

    def __init__(self, opened: ExitStack, piece: Piece, grid: PixelGrid) -> None:
        dataset = opened.enter_context(open_dataset(str(piece.path)))
        self._rule = piece.scene.quality_rule
        self._bands = list(range(1, len(piece.scene.assets) + 1))
        facts = {
            "crs": grid.crs,
            "transform": Affine(*grid.transform),
            "height": grid.height,
            "width": grid.width,
            "src_nodata": NODATA,
            "nodata": NODATA,
        }
        is_home = piece.scene.grid.crs == grid.crs
        smooth = Resampling.nearest if is_home else Resampling.bilinear
        self._values = opened.enter_context(WarpedVRT(dataset, resampling=smooth, **facts))
        self._classes = opened.enter_context(WarpedVRT(dataset, resampling=Resampling.nearest, **facts))

    def read(self, window: Window) -> tuple[Stored, BoolArray, BoolArray]:
        """(band, row, col) numbers, quality last; where they are known, and where they are good."""
        values = self._values.read(self._bands, window=window)
        known = (values != NODATA).all(axis=0)
        if self._rule is None:
            return values, known, known
        layer = self._classes.read(len(self._bands) + 1, window=window)
        known &= layer != NODATA
        clear = QUALITY_LAYERS[self._rule].flags(np.where(known, layer, NO_DATA[self._rule])).valid
        return np.concatenate([values, layer[None]]), known, clear


def mosaics(paths: Sequence[Path], folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Put the scenes of each pass together; a scene that is alone in its pass stays as it is.

    Parameters
    ----------
    paths : scenes as `fetch` writes them, on one sampling, each with its item beside it.
    folder : where the mosaics go; one that is whole is kept.

    Returns
    -------
    A path for each pass, by time.

    Raises
    ------
    SceneError : a scene cannot be read. OutputError : a mosaic cannot be written.
    """
    return [
        _mosaic(pieces, folder, overwrite=overwrite) if len(pieces) > 1 else pieces[0].path for pieces in _passes(paths)
    ]


def _passes(paths: Sequence[Path]) -> list[list[Piece]]:
    """The scenes by pass: of one sensor, with the same bands, taken one soon after the other."""
    found = sorted((_piece(path) for path in paths), key=lambda piece: (piece.scene.source, _time(piece)))
    passes: list[list[Piece]] = []
    for piece in found:
        last = passes[-1][-1] if passes else None
        if last is not None and _kind(last) == _kind(piece) and _time(piece) - _time(last) <= APART:
            passes[-1].append(piece)
        else:
            passes.append([piece])
    return sorted(passes, key=lambda pieces: _time(pieces[0]))


def _piece(path: Path) -> Piece:
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["properties"]
    return Piece(path, open_scene(str(path)), int(told["ms2hs:known_pixels"]), int(told["ms2hs:clear_pixels"]))


def _kind(piece: Piece) -> tuple[object, ...]:
    scene = piece.scene
    return scene.source, scene.quality_rule, scene.spectral.names


def _time(piece: Piece) -> datetime:
    return datetime.fromisoformat(piece.scene.datetime or "1970-01-01T00:00:00+00:00")


def _mosaic(pieces: list[Piece], folder: Path, *, overwrite: bool) -> Path:
    first = pieces[0].scene
    name = f"{first.source}_{_time(pieces[0]):%Y%m%dT%H%M%S}_mosaic"
    path, receipt = folder / f"{name}.tif", folder / f"{name}.json"
    request = {"mosaic_of": {piece.path.name: checksum(piece.path) for piece in pieces}}
    there = state(receipt, request)
    if there is State.WHOLE and not overwrite:
        return path
    if there is State.OTHER and not overwrite:
        raise OutputError(
            f"{path} is there, but of other scenes; it is replaced only when asked. Pass --overwrite, or give another "
            "directory."
        )
    grid = common_grid(pieces)
    tags = {
        "MS2HS_MOSAIC_OF": ", ".join(piece.path.stem for piece in pieces),
        SOURCE_TAG: first.source,
        "MS2HS_OFFSET_RULE": "; ".join(dict.fromkeys(piece.scene.offset_rule for piece in pieces)),
        TIME_TAG: first.datetime or "",
    }
    layout = StackLayout(grid, first.spectral, first.quality_rule, tags)
    part = folder / f".{name}.part"
    try:
        part.mkdir(exist_ok=True)
        counts = write_stack(part / path.name, layout, mosaic_strips(pieces, grid))
        properties = {"datetime": first.datetime, "platform": first.source}
        item = {"type": "Feature", "stac_version": "1.1.0", "id": name, "properties": properties}
        facts = Sidecar(request, item, first, grid, counts.known, counts.clear)
        write_json(part / receipt.name, facts.document([part / path.name], {}))
        (part / path.name).replace(path)
        (part / receipt.name).replace(receipt)
        shutil.rmtree(part)
    except OSError as error:
        raise unwritten(path, error) from error
    return path
