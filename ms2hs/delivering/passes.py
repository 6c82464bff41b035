"""Fetched scenes of one pass of a satellite, as one."""

import json
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from ms2hs.delivering.delivery import unwritten, write_json
from ms2hs.delivering.receipts import Receipt, State, checksum, state
from ms2hs.errors import OutputError
from ms2hs.raster.geotiff import SOURCE_TAG, TIME_TAG
from ms2hs.raster.mosaicking import Piece, common_grid, mosaic_strips
from ms2hs.raster.products import open_scene
from ms2hs.raster.stacking import StackLayout, write_stack

# Scenes of one sensor nearer in time than this are of one pass: it takes a quarter of an hour from pole to pole of
# land, and the next one comes after a hundred minutes.
APART = timedelta(minutes=20)


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
        facts = Receipt(request, item, first, grid, counts.known, counts.clear)
        write_json(part / receipt.name, facts.document([part / path.name], {}))
        (part / path.name).replace(path)
        (part / receipt.name).replace(receipt)
        shutil.rmtree(part)
    except OSError as error:
        raise unwritten(path, error) from error
    return path
