"""The formats of scenes. To add a format, add its functions and its line in `FORMATS`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ms2hs.errors import SceneError, input_errors
from ms2hs.raster.dataset import REMOTE_PREFIXES
from ms2hs.remote.providers import owner_of
from ms2hs.remote.url_policy import shown
from ms2hs.scenes.geotiff import open_geotiff
from ms2hs.scenes.hls import granules, is_hls, open_hls
from ms2hs.scenes.safe import is_product, is_safe, open_safe
from ms2hs.scenes.scene import Scene, SceneOptions
from ms2hs.scenes.stac_item import WEB, open_item

RASTER_SUFFIXES = {".tif", ".tiff", ".zip", ".jp2", ".vrt"}
ITEM_SUFFIXES = {".json", ".geojson"}


@dataclass(frozen=True)
class SceneFormat:
    """A format of scenes on disk."""

    title: str
    matches: Callable[[Path], bool]
    """Whether an existing path has this format."""
    open: Callable[[str, SceneOptions], Scene]


# The first format that matches is used.
FORMATS = (
    SceneFormat("a STAC item", lambda path: is_item(str(path)), open_item),
    SceneFormat("a folder of HLS files", is_hls, open_hls),
    SceneFormat("a .SAFE folder or its zip", is_safe, open_safe),
    SceneFormat("a GeoTIFF", Path.is_file, open_geotiff),
)


def is_item(path: str) -> bool:
    """Whether the path is a STAC item: a JSON file, or a web address without a raster's suffix."""
    if path.startswith(WEB):
        return PurePosixPath(urlsplit(path).path).suffix.lower() not in RASTER_SUFFIXES
    return Path(path).suffix.lower() in ITEM_SUFFIXES and Path(path).is_file()


def open_scene(path: str, options: SceneOptions | None = None) -> Scene:
    """The scene at a path: a GeoTIFF, a `.SAFE` folder or its zip, a folder of HLS files, a STAC item or its address.

    Reads metadata only, and for floats a small sample of pixels; no dataset stays open.

    Raises
    ------
    SceneError : missing, unknown format, not surface reflectance, or without required bands.
    """
    with input_errors(shown(path), SceneError):
        return _open(path, options or SceneOptions())


def _open(path: str, options: SceneOptions) -> Scene:
    if path.startswith(WEB) and is_item(path):
        return open_item(path, options)
    if path.startswith("s3://") and owner_of(urlsplit(path).netloc) is None:
        path = f"/vsis3/{path[5:]}"  # GDAL uses the user's own keys and settings
    if path.startswith(REMOTE_PREFIXES):
        return open_geotiff(path, options)
    allowed = f"allowed are {', '.join(kind.title for kind in FORMATS)}"
    if not Path(path).exists():
        raise SceneError(f"{path}: no such file or folder; {allowed}. Check the path.")
    kind = next((kind for kind in FORMATS if kind.matches(Path(path))), None)
    if kind is None:
        raise SceneError(f"{path}: a folder of unknown format; {allowed}. Give one of these.")
    return kind.open(path, options)


def scene_paths(path: Path) -> list[Path]:
    """Paths for `open_scene` at a path and in its sub-folders, by name and suffix only: some may not be scenes."""
    if path.is_file() or is_product(path):
        return [path]
    members = sorted(path.iterdir())
    files = [file for file in members if file.suffix.lower() in RASTER_SUFFIXES and file.is_file() and not is_hls(file)]
    folders = [scene for folder in members if folder.is_dir() for scene in scene_paths(folder)]
    return [*granules(path), *files, *folders]
