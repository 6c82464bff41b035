"""The files of a STAC item, chosen by their names: catalogues give the same files different keys."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ms2hs.remote.url_policy import resolved
from ms2hs.scenes.stac_item import base_of
from ms2hs.scenes.stac_metadata import Item


def file_name_of(asset: Mapping[str, Any]) -> str:
    """The file name in the address of an asset."""
    return PurePosixPath(unquote(urlsplit(str(asset.get("href", ""))).path)).name


def files_of(item: Item, pattern: re.Pattern[str]) -> dict[str, str]:
    """Address of each file of an item whose whole name matches, by name, in the order of names."""
    base = base_of(item)
    files = {file_name_of(asset): resolved(str(asset.get("href", "")), base) for asset in item["assets"].values()}
    return {name: files[name] for name in sorted(files) if pattern.fullmatch(name)}
