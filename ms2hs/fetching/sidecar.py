"""The STAC item beside a fetched scene: what was requested, what was fetched, and checksums of the files.

The item of the catalogue gets new assets, links and footprint. It is written last and holds size and checksum of every
file, so that the next run recognises incomplete and different scenes. The item is handled as JSON: `pystac.Item`
rejects items that catalogues serve, and rewrites their times and versions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms2hs._version import __version__
from ms2hs.errors import OutputError
from ms2hs.raster.pixel_grid import PixelGrid, footprint, lonlat_bounds
from ms2hs.remote.url_policy import shown
from ms2hs.scenes.scene import Scene
from ms2hs.scenes.stac_metadata import COG_TYPE, PROJECTION_EXTENSION, projection_properties

EXTENSIONS = ["https://stac-extensions.github.io/file/v2.1.0/schema.json", PROJECTION_EXTENSION]
REQUEST_KEY = "ms2hs:request"
# The prefix of a multihash, the checksum format of STAC's file extension: SHA-256, 32 bytes.
SHA256 = "1220"


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
            "properties": kept | projection_properties(self.grid) | facts,
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


def is_output_complete(
    target: Path, item_path: Path, staging: Path, parameters: Mapping[str, Any], *, overwrite: bool
) -> bool:
    """Whether a previous run completed the output of a request; False with `overwrite`.

    Parameters
    ----------
    target : output file or folder. A run that was killed may leave it without an item, but keeps `staging`.

    Raises
    ------
    OutputError : the output has other content, and `overwrite` is False.
    """
    if overwrite:
        return False
    files: list[tuple[Path, int, str]] = []
    is_different = target.exists() and not staging.exists()
    if item_path.is_file():
        try:
            item = json.loads(item_path.read_text(encoding="utf-8"))
            is_different = item["properties"][REQUEST_KEY] != json.loads(json.dumps(parameters))
            files = [
                (item_path.parent / asset["href"], int(asset["file:size"]), asset["file:checksum"])
                for asset in item["assets"].values()
            ]
        except (OSError, ValueError):
            return False
        except (KeyError, TypeError, AttributeError):
            is_different = True
    if is_different:
        raise OutputError(
            f"{target} exists, with other content: another part, sampling or set of scenes, or a file that fetch did "
            "not write; it is replaced only on request. Use --overwrite, or choose another directory."
        )
    is_complete = (
        file.is_file() and file.stat().st_size == size and checksum(file) == sha for file, size, sha in files
    )
    return bool(files) and all(is_complete)


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, as a multihash in hexadecimal."""
    with path.open("rb") as file:
        return SHA256 + hashlib.file_digest(file, "sha256").hexdigest()
