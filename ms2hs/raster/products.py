"""Any product that can be converted, as a scene."""

from pathlib import Path

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import REMOTE
from ms2hs.raster.geotiff import open_geotiff
from ms2hs.raster.scene import Scene, SceneChoices


def open_scene(path: str, choices: SceneChoices | None = None) -> Scene:
    """The scene at a path: a GeoTIFF, a Sentinel-2 L2A `.SAFE` folder or its zip, or a folder of HLS files.

    Only metadata are read, and for floats a thinned sample; no dataset stays open.

    Raises
    ------
    SceneError : missing, not recognised, not surface reflectance, or without bands that are needed.
    UnknownName : `choices.source` is no source.
    """
    choices = choices or SceneChoices()
    if not path.startswith(REMOTE) and not Path(path).exists():
        raise SceneError(
            f"{path}: no such file or folder; a GeoTIFF, a .SAFE folder or its zip, or a folder of HLS files is "
            "needed. Check the path."
        )
    return open_geotiff(path, choices)
