"""Finished files of what came in: put together, put in place when whole, and told to be so beside them."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms2hs.errors import OutputError
from ms2hs.fetching.band_stack import StackLayout, strips_of, write_stack
from ms2hs.fetching.cropping import file_name, local_scene
from ms2hs.fetching.fetch_request import Order
from ms2hs.fetching.sidecar import Sidecar
from ms2hs.files import flush
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.recognition import SOURCE_TAG, TIME_TAG
from ms2hs.scenes.scene import Scene


@dataclass(frozen=True, eq=False)
class Cuts:
    """What is cut from a scene's files."""

    scene: Scene
    grid: PixelGrid
    """That it is put on; of native files, that of the finest band."""
    beyond: PixelGrid
    """The same with what is needed around it."""


def resume(one: Order) -> None:
    """Keep what an earlier run left of the same request, and nothing of another."""
    told = json.dumps(one.request, sort_keys=True)
    note = one.part / "request.json"
    try:
        if note.is_file() and note.read_text(encoding="utf-8") != told:
            shutil.rmtree(one.part)
        one.part.mkdir(exist_ok=True)
        with in_place(note) as part:
            part.write_text(told, encoding="utf-8")
    except OSError as error:
        raise unwritten(one.part, error) from error


@contextmanager
def in_place(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when all is written."""
    part = path.with_name(f".{path.name}")
    yield part
    flush(part)
    part.replace(path)


def unwritten(path: Path, error: OSError) -> OutputError:
    """What to say where a file cannot be written."""
    return OutputError(
        f"{path} could not be written ({error}); its directory must be writable and have room. Free some space, or "
        "choose another place."
    )


def put_together(one: Order, cuts: Cuts) -> Path:
    """Make the finished files of those that came, and put them in place, the receipt last."""
    scene = local_scene(cuts.scene, one.part, cuts.grid)
    assets = [*scene.assets, *([scene.quality] if scene.quality else [])]
    try:
        if one.is_native:
            return _keep_files(one, cuts, [Path(asset.href) for asset in assets])
        layout = StackLayout(cuts.grid, scene.spectral, scene.quality_rule, _tags(one, scene))
        stacked = one.part / one.path.name
        counts = write_stack(stacked, layout, strips_of(scene, cuts.grid))
        receipt = Sidecar(one.request, one.item, cuts.scene, cuts.grid, counts.known, counts.clear)
        write_json(one.part / one.receipt.name, receipt.document([stacked], {}))
        one.receipt.unlink(missing_ok=True)
        stacked.replace(one.path)
        one.path.with_name(f"{one.path.name}.aux.xml").unlink(missing_ok=True)
        (one.part / one.receipt.name).replace(one.receipt)
        shutil.rmtree(one.part)
    except OSError as error:
        raise unwritten(one.path, error) from error
    return one.path


def _keep_files(one: Order, cuts: Cuts, files: list[Path]) -> Path:
    receipt = Sidecar(one.request, one.item, cuts.scene, cuts.grid, 0, 0)
    keys = {file.name: key for file in files if (key := _asset_key(one, cuts.scene, file))}
    write_json(one.part / one.receipt.name, receipt.document(files, keys))
    (one.part / "request.json").unlink(missing_ok=True)
    if one.home.exists():
        shutil.rmtree(one.home)
    one.part.replace(one.home)
    return one.path


def _asset_key(one: Order, scene: Scene, file: Path) -> str | None:
    """The item's asset that a file was cut from."""
    assets = [*scene.assets, *([scene.quality] if scene.quality else [])]
    href = next(asset.href for asset in assets if file_name(scene, asset) == file.name)
    given = one.item["assets"].items()
    return next((key for key, asset in given if href.endswith(str(asset.get("href", "")).removeprefix("./"))), None)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write it so that the name stands for all of it; OSError where that fails."""
    with in_place(path) as part:
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _tags(one: Order, scene: Scene) -> dict[str, str]:
    told = {
        "MS2HS_ITEM": str(one.item["id"]),
        "MS2HS_COLLECTION": str(one.item.get("collection") or ""),
        SOURCE_TAG: scene.source,
        "MS2HS_OFFSET_RULE": f"{scene.offset_rule}; applied: what is stored is reflectance in ten-thousandths",
        TIME_TAG: scene.datetime or "",
    }
    return {name: text for name, text in told.items() if text}
