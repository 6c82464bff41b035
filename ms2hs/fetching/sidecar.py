"""What lies beside a fetched scene: its STAC item, with what was fetched of it and how to tell that it is whole."""

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
REQUEST = "ms2hs:request"
# A multihash, as the file extension of STAC wants checksums: SHA-256, 32 bytes.
SHA256 = "1220"


class State(Enum):
    """What is there of a scene."""

    MISSING = "nothing"
    WHOLE = "all of it, as asked"
    BROKEN = "of this request, but not whole"
    OTHER = "something else: another part of the scene, at another sampling, or not of fetch at all"


@dataclass(frozen=True)
class Sidecar:
    """What was asked for and what was got."""

    request: Mapping[str, Any]
    item: Mapping[str, Any]
    """As the catalogue gave it."""
    scene: Scene
    grid: PixelGrid
    known: int
    """Pixels with a value in every band."""
    clear: int
    """Of these, those that quality calls good."""

    def document(self, files: Sequence[Path], keys: Mapping[str, str]) -> dict[str, Any]:
        """The STAC item of `files`; assets that were not fetched are kept under `derived_from` alone.

        Parameters
        ----------
        keys : by name of a file, the asset of the item that it is; others are new ones.
        """
        bbox = lonlat_bounds(self.grid)
        own = {name: value for name, value in self.item.items() if name not in {"links", "assets", "bbox", "geometry"}}
        told = {name: value for name, value in own.get("properties", {}).items() if not name.startswith("proj:")}
        placed = {"proj:shape": [self.grid.height, self.grid.width], "proj:transform": list(self.grid.transform)}
        if self.grid.crs:
            placed["proj:code" if self.grid.crs.startswith("EPSG:") else "proj:wkt2"] = self.grid.crs
        facts = {
            REQUEST: dict(self.request),
            "ms2hs:version": __version__,
            "ms2hs:source": self.scene.source,
            "ms2hs:offset_rule": self.scene.offset_rule,
            "ms2hs:known_pixels": self.known,
            "ms2hs:clear_pixels": self.clear,
        }
        extensions = [name for name in own.get("stac_extensions", []) if "/projection/" not in name]
        return own | {
            "stac_extensions": list(dict.fromkeys([*extensions, *EXTENSIONS])),
            **({"bbox": list(bbox), "geometry": footprint(self.grid)} if bbox else {}),
            "properties": told | placed | facts,
            "links": self._links(),
            "assets": {keys.get(file.name, "data"): self._asset(file, keys) for file in files},
        }

    def _links(self) -> list[dict[str, Any]]:
        origin = next((link["href"] for link in self.item.get("links", []) if link.get("rel") == "self"), None)
        return [{"rel": "derived_from", "href": shown(origin)}] if origin else []

    def _asset(self, file: Path, keys: Mapping[str, str]) -> dict[str, Any]:
        before = self.item.get("assets", {}).get(keys.get(file.name, ""), {})
        kept = {name: value for name, value in before.items() if not name.startswith(("proj:", "file:", "alternate"))}
        facts = {"href": f"./{file.name}", "type": COG_TYPE, "roles": before.get("roles", ["data"])}
        return kept | facts | {"file:size": file.stat().st_size, "file:checksum": checksum(file)}


def state(item: Path, request: Mapping[str, Any]) -> State:
    """What is there, by the item that lies beside it, for what is asked now."""
    if not item.is_file():
        return State.MISSING
    try:
        found = json.loads(item.read_text(encoding="utf-8"))
        told = found["properties"][REQUEST]
        assets = [(item.parent / asset["href"], asset) for asset in found["assets"].values()]
        facts = [(path, int(asset["file:size"]), str(asset["file:checksum"])) for path, asset in assets]
    except (OSError, ValueError):
        return State.BROKEN
    except (KeyError, TypeError, AttributeError):
        return State.OTHER
    if told != json.loads(json.dumps(request)):
        return State.OTHER
    whole = all(
        path.is_file() and path.stat().st_size == size and checksum(path) == digest for path, size, digest in facts
    )
    return State.WHOLE if whole and facts else State.BROKEN


def checksum(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return SHA256 + hashlib.file_digest(file, "sha256").hexdigest()
