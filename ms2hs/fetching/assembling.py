"""The output files of a fetched scene: written in a staging folder, then moved into place, the STAC item last."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ms2hs.errors import visible
from ms2hs.fetching.band_stack import StackLayout, read_strips, write_stack
from ms2hs.fetching.cropping import all_assets, band_file_name, local_scene
from ms2hs.fetching.fetch_request import FetchRequest
from ms2hs.fetching.sidecar import REQUEST_FILE, Sidecar, files_of_output, is_output_complete, scene_facts
from ms2hs.fetching.staged_scene import remove_staging
from ms2hs.files import move_into_place, write_bytes, write_error
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.recognition import SOURCE_TAG, TIME_TAG
from ms2hs.scenes.scene import Scene


@dataclass(frozen=True, eq=False)
class ScenePart:
    """The part of a scene that is fetched."""

    scene: Scene
    grid: PixelGrid
    """Grid of the output; for native files, the grid of the finest band."""
    quality_grid: PixelGrid
    """`grid` with a margin, for the quality layer."""


def assemble(request: FetchRequest, part: ScenePart) -> Path:
    """Write the output files from the bands in the staging folder, and return the path to give to `convert`.

    Other threads call GDAL between two strips, so that their scenes arrive meanwhile.

    Raises
    ------
    OutputError : a file cannot be written.
    """
    scene = local_scene(part.scene, request.staging_folder, part.grid)
    sidecar = Sidecar(request.parameters, request.item, part.scene.datetime, part.grid, scene_facts(part.scene))
    if request.is_native:
        _keep_band_files(request, part.scene, scene, sidecar)
    else:
        layout = StackLayout(
            part.grid, scene.spectral, scene.quality[0].name if scene.quality else None, _tags(request, scene)
        )
        write = partial(write_stack, layout=layout, strips=read_strips(scene, part.grid))
        write_scene(request.scene_path, request.staging_folder, sidecar, write, overwrite=request.overwrite)
    return request.scene_path


def write_scene(
    path: Path, staging: Path, sidecar: Sidecar, write: Callable[[Path], tuple[int, int]], *, overwrite: bool
) -> None:
    """Write a COG and its STAC item in a staging folder, move them to `path`, the item last, and delete the folder.

    Parameters
    ----------
    write : writes the COG to a path, and returns the numbers of known and of clear pixels.

    Raises
    ------
    OutputError : a file cannot be written, or a file of others appeared at its place in the meantime.
    """
    item_path = path.with_suffix(".json")
    staged, staged_item = staging / path.name, staging / item_path.name
    try:
        known, clear = write(staged)
        write_bytes(staged_item, sidecar.to_json([staged], {}, known, clear), durable=True)
        is_output_complete(path, item_path, staging, sidecar.parameters, overwrite=overwrite)
        for own in (item_path, path):
            own.unlink(missing_ok=True)
        move_into_place(staged, path, overwrite=overwrite)
        path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
        move_into_place(staged_item, item_path, overwrite=overwrite)
        remove_staging(staging)
    except OSError as error:
        raise write_error(path, error) from error


def _keep_band_files(request: FetchRequest, remote: Scene, local: Scene, sidecar: Sidecar) -> None:
    files = [Path(asset.href) for asset in all_assets(local)]
    keys = {file.name: key for file in files if (key := _asset_key(request, remote, file))}
    staging, target = request.staging_folder, request.target_folder
    try:
        write_bytes(staging / request.item_path.name, sidecar.to_json(files, keys, 0, 0), durable=True)
        is_output_complete(target, request.item_path, staging, request.parameters, overwrite=request.overwrite)
        if target.exists():
            for path in files_of_output(target, request.item_path):
                path.unlink(missing_ok=True)
            target.rmdir()
        move_into_place(staging, target)
        (target / REQUEST_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise write_error(request.scene_path, error) from error


def _asset_key(request: FetchRequest, scene: Scene, file: Path) -> str | None:
    """Key of the asset from which a file was copied; None if unknown."""
    href = next(asset.href for asset in all_assets(scene) if band_file_name(scene, asset) == file.name)
    assets = request.item["assets"].items()
    return next((key for key, asset in assets if href.endswith(str(asset.get("href", "")).removeprefix("./"))), None)


def _tags(request: FetchRequest, scene: Scene) -> dict[str, str]:
    tags = {
        "MS2HS_ITEM": str(request.item["id"]),
        "MS2HS_COLLECTION": str(request.item.get("collection") or ""),
        SOURCE_TAG: scene.source,
        "MS2HS_OFFSET_RULE": f"{scene.offset_rule}; applied: what is stored is reflectance in ten-thousandths",
        TIME_TAG: scene.datetime or "",
    }
    return {name: visible(text) for name, text in tags.items() if text}
