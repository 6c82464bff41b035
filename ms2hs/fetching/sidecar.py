"""The STAC item beside a fetched scene: what was requested, what was fetched, and checksums of the files.

The item is that of the catalogue, with its own assets, links and footprint. It is written last and holds size and
checksum of every file, so that the next run can tell a complete scene from an incomplete or a different one. The item
is handled as JSON: `pystac.Item` rejects items that catalogues do serve, and rewrites their times and versions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ms2hs._version import __version__
from ms2hs.raster.pixel_grid import PixelGrid, footprint, lonlat_bounds
from ms2hs.remote.url_policy import shown
from ms2hs.scenes.scene import Scene

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = [
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
]
REQUEST_KEY = "ms2hs:request"
# The prefix of a multihash, the checksum format of STAC's file extension: SHA-256, 32 bytes.
SHA256 = "1220"


class SceneState(Enum):
    """What a previous run left of a scene."""

    MISSING = "nothing"
    COMPLETE = "the requested scene"
    INCOMPLETE = "a part of the requested scene"
    DIFFERENT = "other content: another part of the scene, another sampling, or a file that fetch did not write"


@dataclass(frozen=True)
class Sidecar:
    """The facts of a fetched scene."""

    parameters: Mapping[str, Any]
    """What was requested, as JSON values."""
    item: Mapping[str, Any]
    """The catalogue's item."""
    scene: Scene
    grid: PixelGrid

    def to_json(self, files: Sequence[Path], keys: Mapping[str, str], known: int, clear: int) -> bytes:
        """The STAC item of `files`, as JSON text, with the numbers of known and of clear pixels.

        Parameters
        ----------
        keys : by file name, the key of the catalogue's asset; other files get the key `data`.
        """
        bbox = lonlat_bounds(self.grid)
        item = {name: value for name, value in self.item.items() if name not in {"links", "assets", "bbox", "geometry"}}
        kept = {name: value for name, value in item.get("properties", {}).items() if not name.startswith("proj:")}
        projection = {"proj:shape": [self.grid.height, self.grid.width], "proj:transform": list(self.grid.transform)}
        if self.grid.crs:
            projection["proj:code" if self.grid.crs.startswith("EPSG:") else "proj:wkt2"] = self.grid.crs
        facts = {
            REQUEST_KEY: dict(self.parameters),
            "ms2hs:version": __version__,
            "ms2hs:source": self.scene.source,
            "ms2hs:offset_rule": self.scene.offset_rule,
            "ms2hs:known_pixels": known,
            "ms2hs:clear_pixels": clear,
        }
        extensions = [name for name in item.get("stac_extensions", []) if "/projection/" not in name]
        document = item | {
            "stac_extensions": list(dict.fromkeys([*extensions, *EXTENSIONS])),
            **({"bbox": list(bbox), "geometry": footprint(self.grid)} if bbox else {}),
            "properties": kept | projection | facts,
            "links": self._links(),
            "assets": {keys.get(file.name, "data"): self._asset(file, keys) for file in files},
        }
        return (json.dumps(document, indent=1) + "\n").encode()

    def _links(self) -> list[dict[str, Any]]:
        origin = next((link["href"] for link in self.item.get("links", []) if link.get("rel") == "self"), None)
        return [{"rel": "derived_from", "href": shown(origin)}] if origin else []

    def _asset(self, file: Path, keys: Mapping[str, str]) -> dict[str, Any]:
        original = self.item.get("assets", {}).get(keys.get(file.name, ""), {})
        kept = {name: value for name, value in original.items() if not name.startswith(("proj:", "file:", "alternate"))}
        facts = {"href": f"./{file.name}", "type": COG_TYPE, "roles": original.get("roles", ["data"])}
        return kept | facts | {"file:size": file.stat().st_size, "file:checksum": checksum(file)}


def scene_state(item_path: Path, parameters: Mapping[str, Any]) -> SceneState:
    """Compare the item on disk, and the files that it lists, with a request."""
    if not item_path.is_file():
        return SceneState.MISSING
    try:
        item = json.loads(item_path.read_text(encoding="utf-8"))
        written = item["properties"][REQUEST_KEY]
        assets = [(item_path.parent / asset["href"], asset) for asset in item["assets"].values()]
        facts = [(path, int(asset["file:size"]), str(asset["file:checksum"])) for path, asset in assets]
    except (OSError, ValueError):
        return SceneState.INCOMPLETE
    except (KeyError, TypeError, AttributeError):
        return SceneState.DIFFERENT
    if written != json.loads(json.dumps(parameters)):
        return SceneState.DIFFERENT
    is_complete = all(
        path.is_file() and path.stat().st_size == size and checksum(path) == digest for path, size, digest in facts
    )
    return SceneState.COMPLETE if is_complete and facts else SceneState.INCOMPLETE


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, as a multihash in hexadecimal."""
    with path.open("rb") as file:
        return SHA256 + hashlib.file_digest(file, "sha256").hexdigest()
