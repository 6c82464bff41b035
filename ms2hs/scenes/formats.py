"""The formats of scenes. To add a format, add its functions and its line in `FORMATS`."""

import logging
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ms2hs.errors import SceneError, input_errors
from ms2hs.raster.container import ARCHIVE_SUFFIXES, archive_names, list_rasters
from ms2hs.raster.dataset import REMOTE_PREFIXES
from ms2hs.raster.header import image_of
from ms2hs.remote.providers import owner_of
from ms2hs.remote.url_policy import shown
from ms2hs.scenes.band_files import SUBFOLDERS, band_scenes, is_band_files, open_band_files
from ms2hs.scenes.geotiff import open_geotiff
from ms2hs.scenes.recognition import REFLECTANCE_CUBES, SEN2LIKE_NAME
from ms2hs.scenes.safe import is_product, is_safe, open_safe
from ms2hs.scenes.scene import CUSTOM, Scene, SceneOptions
from ms2hs.scenes.stac_item import WEB, open_item
from ms2hs.spectra.sensors import sensor_names

LOGGER = logging.getLogger(__name__)
RASTER_SUFFIXES = {".tif", ".tiff", ".zip", ".tar", ".jp2", ".vrt", ".nc"}
ITEM_SUFFIXES = {".json", ".geojson"}


@dataclass(frozen=True)
class SceneFormat:
    """A format of scenes on disk."""

    title: str
    matches: Callable[[Path], bool]
    """Whether an existing path has this format."""
    open: Callable[[str, SceneOptions], Scene]


def is_capture(path: Path) -> bool:
    """Whether a path is the folder of one capture of a camera, with its reflectance."""
    return len([*path.glob(REFLECTANCE_CUBES)]) == 1


def open_capture(path: str, options: SceneOptions) -> Scene:
    """The reflectance in the folder of a capture. Errors as of `open_geotiff`."""
    (header,) = Path(path).glob(REFLECTANCE_CUBES)
    return open_geotiff(image_of(str(header)), options)


# The first format that matches is used.
FORMATS = (
    SceneFormat("a STAC item", lambda path: is_item(str(path)), open_item),
    SceneFormat("a .SAFE folder or its zip", is_safe, open_safe),
    SceneFormat("a folder, zip, tar or NetCDF file with one raster per band", is_band_files, open_band_files),
    SceneFormat("the folder of a camera with results/REFLECTANCE_*", is_capture, open_capture),
    SceneFormat(
        "a GeoTIFF or ENVI file",
        lambda path: path.is_file() and path.suffix.lower() not in ARCHIVE_SUFFIXES,
        open_geotiff,
    ),
)


ALLOWED = f"allowed are {', '.join(kind.title for kind in FORMATS)}"
HYPERSPECTRAL = "Convert a multispectral scene of the same place; `ms2hs pairs` matches both."
UNPACK = "Run `mkdir -p {unpacked} && tar -xf {path} -C {unpacked}` and give {unpacked}."
SURFACE = "Use the level-2A product of the same scene, or a GeoTIFF of surface reflectance."
# Names of products and archives that are not read, the product in words, and the user's next step.
FOREIGN = tuple(
    (re.compile(pattern, re.IGNORECASE), what, remedy)
    for pattern, what, remedy in (
        (r"\.(tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz)$", "a compressed tar", UNPACK),
        (r"\.SAFE/", "a tar with a SAFE product", UNPACK),
        (r"\.7z$", "a 7z archive", "Run `7z x {path} -o{unpacked}` and give {unpacked}."),
        (r"\.(tiff?|nc|jp2)\.gz$", "a gzip file", "Run `gunzip -k {path}` and give the unpacked file."),
        (r"\.zarr$", "a Zarr store", "Write it as NetCDF, with xarray.open_zarr(...).to_netcdf(...), or as GeoTIFF."),
        (SEN2LIKE_NAME.pattern, "a Sen2Like product (level 2F or 2H)", SURFACE),
        (r"\.(dim|data)$", "a BEAM-DIMAP product of SNAP", "Export it with SNAP: File > Export > GeoTIFF."),
        (r"\.SEN3(\.zip)?$", "a Sentinel-3 product", SURFACE),
        (r"^ENMAP\d\d-", "a hyperspectral product of EnMAP", HYPERSPECTRAL),
        (r"^PRS_L\d", "a hyperspectral product of PRISMA", HYPERSPECTRAL),
        (r"^EMIT_L\d", "a hyperspectral product of EMIT", HYPERSPECTRAL),
        (r"^DESIS-HSI-", "a hyperspectral product of DESIS", HYPERSPECTRAL),
        (r"^(MOD|MYD|VNP|VJ1)\d\d", "a product of MODIS or VIIRS", SURFACE),
    )
)


def is_item(path: str) -> bool:
    """Whether the path is a STAC item: a JSON file, or a web address without a raster's suffix."""
    if path.startswith(WEB):
        return PurePosixPath(urlsplit(path).path).suffix.lower() not in RASTER_SUFFIXES
    return Path(path).suffix.lower() in ITEM_SUFFIXES and Path(path).is_file()


def open_scene(path: str, options: SceneOptions | None = None) -> Scene:
    """The scene at a path of one of `FORMATS`, or at the address of a STAC item or raster.

    Reads metadata only, and for floats a small sample of pixels; no dataset stays open.

    Raises
    ------
    SceneError : missing, unknown format, not surface reflectance, or without required bands.
    """
    with input_errors(shown(path), SceneError):
        scene = _open(path, options or SceneOptions())
    LOGGER.debug(
        "scene: %s, source %s, %d bands, %d x %d pixels: %s",
        *(scene.id, scene.source, len(scene.assets), scene.grid.width, scene.grid.height, scene.offset_rule),
    )
    return scene


def _open(path: str, options: SceneOptions) -> Scene:
    if path.startswith(WEB) and is_item(path):
        return open_item(path, options)
    path = image_of(path)
    if path.startswith("s3://") and owner_of(urlsplit(path).netloc) is None:
        path = f"/vsis3/{path[5:]}"  # GDAL uses the user's own keys and settings
    place = Path(path)
    if path.startswith(REMOTE_PREFIXES):
        kind: SceneFormat | None = FORMATS[-1]
    elif not place.exists():
        raise SceneError(f"{path}: no such file or folder; {ALLOWED}. Check the path.")
    else:
        refuse_foreign(place, options)
        kind = next((kind for kind in FORMATS if kind.matches(place)), None)
    if kind is None:
        return _open_inner(place, options)
    if options.source in sensor_names("camera") and kind.open not in {open_capture, open_geotiff}:
        raise SceneError(
            f"{path}: is {kind.title}, and {options.source} is a camera; one file with all bands is required. Leave "
            "--source out, or give the file of the camera."
        )
    return kind.open(path, options)


def _open_inner(path: Path, options: SceneOptions) -> Scene:
    """The scene in the only sub-folder of a folder, as archives are often unpacked."""
    members = [] if path.is_file() else list(path.iterdir())
    if len(folders := [member for member in members if member.is_dir()]) == 1:
        return _open(str(folders[0]), options)
    names = archive_names(path) if path.is_file() else sorted(member.name for member in members)
    found = f"contains {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "is empty"
    what = "an archive" if path.is_file() else "a folder"
    raise SceneError(f"{path}: {what} of unknown format that {found}; {ALLOWED}. Give the path of one scene.")


def refuse_foreign(path: Path, options: SceneOptions) -> None:
    """Refuse products that are not scenes by their own name, and archives that must be unpacked first."""
    name, suffix = path.absolute().name, path.suffix.lower()
    own_names = [name, *(archive_names(path) if suffix == ".tar" and path.is_file() else ())]
    for pattern, what, remedy in FOREIGN:
        is_custom = options.source == CUSTOM and suffix in {".tif", ".tiff", ".bsq"}
        if any(map(pattern.search, own_names)) and not is_custom:
            unpacked = path.parent / re.sub(r"\.(tar|tgz|tbz2?|txz|7z)(\.\w+)?$", "", name, flags=re.IGNORECASE)
            command = remedy.format(path=shlex.quote(str(path)), unpacked=shlex.quote(str(unpacked)))
            raise SceneError(f"{path}: is {what}; {ALLOWED}. {command}")


def scene_paths(path: Path, seen: set[str] | None = None) -> list[Path]:
    """Paths for `open_scene` at a path and in its sub-folders, by name and suffix only: some may not be scenes.

    A scene with one file per band is listed once, by one of its files. A folder is listed once: links may form loops.
    """
    seen = set() if seen is None else seen
    if (place := os.path.realpath(path)) in seen:
        return []
    seen.add(place)
    if path.is_file() or is_product(path):
        return [path]
    scenes = band_scenes(list_rasters(path, SUBFOLDERS))
    of_scenes = {file.raster.href for files in scenes.values() for file in files}
    stems = tuple(scene for _, scene in scenes if scene)
    rasters = [
        file
        for file in sorted(path.iterdir())
        if file.suffix.lower() in RASTER_SUFFIXES
        and file.is_file()
        and str(file) not in of_scenes
        and not (stems and file.name.startswith(stems))
    ]
    folders = [
        scene
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not (scenes and folder.name in SUBFOLDERS)
        for scene in scene_paths(folder, seen)
    ]
    of_bands = [Path(next(file.raster.href for file in files if not file.is_quality)) for files in scenes.values()]
    return [*of_bands, *rasters, *folders]
