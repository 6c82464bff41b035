"""The STAC item beside a fetched scene: what was requested, what was fetched, and checksums of the files.

The item of the catalogue gets new assets, links and footprint. It is written last and holds size and checksum of every
file, so that the next run recognises incomplete and different scenes. The item is handled as JSON: `pystac.Item`
rejects items that catalogues serve, and rewrites their times and versions.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ms2hs._version import __version__
from ms2hs.errors import OutputError
from ms2hs.raster.formats import COG_TYPE
from ms2hs.raster.pixel_grid import PixelGrid, footprint, lonlat_bounds
from ms2hs.remote.url_policy import shown
from ms2hs.scenes.scene import Scene
from ms2hs.scenes.stac_item import ORIGIN, cube_bands
from ms2hs.scenes.stac_metadata import PROJECTION_EXTENSION, projection_properties, time_properties, utc_now
from ms2hs.spectra.spectral_grid import SpectralGrid

EXTENSIONS = ["https://stac-extensions.github.io/file/v2.1.0/schema.json", PROJECTION_EXTENSION]
INTERVAL = ("start_datetime", "end_datetime")
# Extensions whose fields stand in assets, by the begin of their fields.
ASSET_EXTENSIONS = {
    "eo": "eo:", "raster": "raster:", "classification": "classification:", "storage": "storage:",
    "alternate-assets": "alternate",
}  # fmt: skip
REQUEST_KEY = "ms2hs:request"
REQUEST_FILE = "request.json"
"""File in a staging folder, with the request that the folder belongs to."""
# The prefix of a multihash, the checksum format of STAC's file extension: SHA-256, 32 bytes.
SHA256 = "1220"


@dataclass(frozen=True)
class Sidecar:
    """The facts of a fetched scene."""

    parameters: Mapping[str, Any]
    """What was requested, as JSON values."""
    item: Mapping[str, Any]
    """The catalogue's item."""
    time: str | None
    """Of acquisition, ISO 8601."""
    grid: PixelGrid
    facts: Mapping[str, Any]
    """Further properties."""
    spectral: SpectralGrid | None = None
    """Bands of a cube, which are written into its asset."""

    def to_json(self, files: Sequence[Path], keys: Mapping[str, str], known: int, clear: int) -> bytes:
        """The STAC item of `files`, as JSON text, with the numbers of known and of clear pixels.

        Parameters
        ----------
        keys : by file name, the key of the catalogue's asset; other files get the key `data`.
        """
        bbox = lonlat_bounds(self.grid)
        item = {name: value for name, value in self.item.items() if name not in {"links", "assets", "bbox", "geometry"}}
        item = {name: value for name, value in item.items() if name != "collection" or value}
        kept = {name: value for name, value in item["properties"].items() if not name.startswith("proj:")}
        kept = {name: value for name, value in kept.items() if name not in KEPT_IF or KEPT_IF[name](value)}
        if not kept.keys() >= set(INTERVAL):  # STAC allows both or none
            kept = {name: value for name, value in kept.items() if name not in INTERVAL}
        facts = {
            REQUEST_KEY: dict(self.parameters),
            "ms2hs:version": __version__,
            **self.facts,
            "ms2hs:known_pixels": known,
            "ms2hs:clear_pixels": clear,
        }
        document = item | {
            **({"bbox": list(bbox), "geometry": footprint(self.grid)} if bbox else {}),
            "properties": kept | time_properties(self.time, utc_now()) | projection_properties(self.grid) | facts,
            "links": self._links(),
            "assets": {keys.get(file.name, "data"): self._asset(file, keys) for file in files},
        }
        extensions = [*_extensions_in_use(item.get("stac_extensions"), json.dumps(document)), *EXTENSIONS]
        document["stac_extensions"] = list(dict.fromkeys(extensions))
        return (json.dumps(document, indent=1) + "\n").encode()

    def _links(self) -> list[dict[str, Any]]:
        """The catalogue's item, and its collection, which STAC wants of an item that names one."""
        addresses = {link.get("rel"): link["href"] for link in self.item.get("links", []) if link.get("href")}
        server, collection = (self.item.get(ORIGIN) or {}).get("url"), self.item.get("collection")
        if not collection:
            addresses.pop("collection", None)
        elif server:
            addresses = {"collection": f"{server}/collections/{quote(collection, safe='')}"} | addresses
        rels = {"self": "derived_from", "collection": "collection"}
        return [{"rel": rels[rel], "href": shown(href)} for rel, href in addresses.items() if rel in rels]

    def _asset(self, file: Path, keys: Mapping[str, str]) -> dict[str, Any]:
        original = self.item.get("assets", {}).get(keys.get(file.name, ""), {})
        kept = {name: value for name, value in original.items() if not name.startswith(("proj:", "file:", "alternate"))}
        facts = {"href": f"./{file.name}", "type": COG_TYPE, "roles": original.get("roles", ["data"])}
        facts |= cube_bands(self.spectral, common_names=True) if self.spectral else {}
        return kept | facts | {"file:size": file.stat().st_size, "file:checksum": checksum(file)}


def _extensions_in_use(extensions: Any, text: str) -> list[str]:  # noqa: ANN401 - any JSON
    """The catalogue's extensions that are in use, and extensions of fields that it does not declare."""
    names = [name for name in extensions if isinstance(name, str)] if isinstance(extensions, list) else []
    unused = ["projection", *(name for name, field in ASSET_EXTENSIONS.items() if f'"{field}' not in text)]
    names = [name for name in names if not any(f"/{one}/" in name for one in unused)]
    missing = [one for one in ("eo", "raster") if one not in unused and not any(f"/{one}/" in name for name in names)]
    versions = {one: "v1.1.0" if f"{one}:bands" in text else "v2.0.0" for one in missing}
    return names + [f"https://stac-extensions.github.io/{one}/{versions[one]}/schema.json" for one in missing]


def _is_utc(text: Any) -> bool:  # noqa: ANN401 - any JSON
    try:
        return str(text).endswith(("Z", "+00:00")) and datetime.fromisoformat(text).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_percent(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(value, int | float) and 0 <= value <= 100


# Properties of the catalogue that are kept only if they are valid.
KEPT_IF: dict[str, Callable[[Any], bool]] = dict.fromkeys(
    ("created", "updated", "start_datetime", "end_datetime"), _is_utc
)
KEPT_IF |= {"eo:cloud_cover": _is_percent}


def scene_facts(scene: Scene) -> dict[str, Any]:
    """The facts of a multispectral scene."""
    return {"ms2hs:source": scene.source, "ms2hs:offset_rule": scene.offset_rule}


def is_output_complete(
    target: Path, item_path: Path, staging: Path, parameters: Mapping[str, Any], *, overwrite: bool
) -> bool:
    """Whether a previous run completed the output of a request; False with `overwrite`.

    Only files of `fetch` are replaced without `overwrite`: the item says which these are. A folder of files is replaced
    only if it has no others.

    Parameters
    ----------
    target : output file, or folder with the item in it.
    staging : a run that was killed may leave a file without its item, which is still in this folder.

    Raises
    ------
    OutputError : the output has other content, and `overwrite` is False; or a folder has other files.
    """
    item = _own_item(item_path)
    is_ours = item is not None and item["properties"][REQUEST_KEY] == json.loads(json.dumps(parameters))
    if not overwrite:
        if item is not None and is_ours and _is_complete(item_path, item):
            return True
        if not is_ours and _is_taken(target, item_path, staging):
            raise OutputError(
                f"{target} exists, with other content: another part, sampling or set of scenes, or a file that fetch "
                "did not write; it is replaced only on request. Use --overwrite, or choose another directory."
            )
    _check_replaceable(target, item_path)
    return False


def files_of_output(target: Path, item_path: Path) -> list[Path]:
    """The files of a folder that `fetch` wrote, the item first, and GDAL's statistics of them."""
    item = _own_item(item_path)
    names = [file.name for file, _, _ in _files_of(item_path, item)] if item else []
    names += [f"{name}.aux.xml" for name in names]
    return [item_path, target / REQUEST_FILE, *(target / name for name in names)]


def _own_item(path: Path) -> dict[str, Any] | None:
    """The item that `fetch` wrote; None if the file does not exist, or is another."""
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
        _files_of(path, item)
        return item if isinstance(item["properties"][REQUEST_KEY], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _files_of(item_path: Path, item: Mapping[str, Any]) -> list[tuple[Path, int, str]]:
    """Path, size and checksum of the files of an item."""
    return [
        (item_path.parent / PurePosixPath(asset["href"]).name, int(asset["file:size"]), asset["file:checksum"])
        for asset in item["assets"].values()
    ]


def _is_complete(item_path: Path, item: Mapping[str, Any]) -> bool:
    files = _files_of(item_path, item)
    return bool(files) and all(
        file.is_file() and file.stat().st_size == size and checksum(file) == sha for file, size, sha in files
    )


def _is_taken(target: Path, item_path: Path, staging: Path) -> bool:
    """Whether another file or folder has the name of an output; a file whose item is still in `staging` is ours."""
    if item_path.parent == target:
        return os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))
    staged = _own_item(staging / item_path.name)
    names = [item_path, target.with_name(f"{target.name}.aux.xml")]
    if staged is not None and _is_complete(item_path, staged):
        return os.path.lexists(item_path)
    return any(map(os.path.lexists, [target, *names]))


def _check_replaceable(target: Path, item_path: Path) -> None:
    """Refuse to replace a folder that has files of others, or a folder by a file."""
    is_folder, others = item_path.parent == target, []
    if target.is_dir() and is_folder:
        others = sorted(
            {path.name for path in target.iterdir()} - {path.name for path in files_of_output(target, item_path)}
        )
    wrong = target.is_symlink() or (os.path.lexists(target) and target.is_dir() != is_folder) or item_path.is_dir()
    if wrong or others:
        reason = (
            f"has files that fetch did not write ({', '.join(others[:3])})"
            if others
            else "is a link or has another type"
        )
        raise OutputError(
            f"{target} {reason}; such a path is never replaced, also with --overwrite. Move it, or choose another "
            "directory."
        )


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, as a multihash in hexadecimal."""
    with path.open("rb") as file:
        return SHA256 + hashlib.file_digest(file, "sha256").hexdigest()
