"""Any product that can be converted, as a scene."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import REMOTE
from ms2hs.remote.providers import owner_of
from ms2hs.scenes.geotiff import open_geotiff
from ms2hs.scenes.hls import granules, is_hls, open_hls
from ms2hs.scenes.safe import is_product, is_safe, open_safe
from ms2hs.scenes.scene import Scene, SceneOptions
from ms2hs.scenes.stac_item import open_item

SUFFIXES = {".tif", ".tiff", ".zip", ".jp2", ".vrt"}
ITEMS = {".json", ".geojson"}
ALLOWED = "a GeoTIFF, a .SAFE folder or its zip, a folder of HLS files, or a STAC item"


def is_item(path: str) -> bool:
    """Whether this names a STAC item: a JSON file, or an address on the web that is no raster's."""
    is_web = path.startswith(("https://", "http://"))
    suffix = PurePosixPath(urlsplit(path).path if is_web else path).suffix.lower()
    return suffix not in SUFFIXES if is_web else suffix in ITEMS and Path(path).is_file()


def open_scene(path: str, choices: SceneOptions | None = None) -> Scene:
    """The scene at a path: a GeoTIFF, a `.SAFE` folder or its zip, a folder of HLS files, a STAC item or its address.

    Only metadata are read, and for floats a thinned sample; no dataset stays open.

    Raises
    ------
    SceneError : missing, not recognised, not surface reflectance, or without bands that are needed.
    UnknownName : `choices.source` is no source.
    """
    choices = choices or SceneOptions()
    if is_item(path):
        return open_item(path, choices)
    if path.startswith("s3://") and owner_of(urlsplit(path).netloc) is None:
        path = f"/vsis3/{path[5:]}"  # with the keys and settings that GDAL finds for its owner
    if path.startswith(REMOTE):
        return open_geotiff(path, choices)
    place = Path(path)
    if not place.exists():
        raise SceneError(f"{path}: no such file or folder; {ALLOWED} is needed. Check the path.")
    if is_hls(place):
        return open_hls(path, choices)
    if is_safe(place):
        return open_safe(path, choices)
    if place.is_dir():
        raise SceneError(f"{path}: a folder of nothing that is known; {ALLOWED} is needed. Give one of these.")
    return open_geotiff(path, choices)


def scene_paths(path: Path) -> list[Path]:
    """Where each scene is that lies at a path or under it: what `open_scene` takes, whether it is a scene or not."""
    if path.is_file() or is_product(path):
        return [path]
    inside = sorted(path.iterdir())
    own = granules(path)
    files = [file for file in inside if file.suffix.lower() in SUFFIXES and file.is_file() and not is_hls(file)]
    folders = [scene for folder in inside if folder.is_dir() for scene in scene_paths(folder)]
    return [*own, *files, *folders]
