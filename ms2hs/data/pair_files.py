"""How a folder of pairs is laid out.

A pair is two GeoTIFFs on one grid, `<id>_ms.tif` and `<id>_hs.tif`, with wavelengths on the bands. Beside them may lie
`pairs.csv` with columns `id` and `scene`, and `splits/<name>.csv` with an id a line.
"""

import csv
import re
from pathlib import Path, PurePosixPath

from ms2hs.data.rasters import TIFF_SUFFIXES
from ms2hs.errors import DataError

MULTISPECTRAL, HYPERSPECTRAL = "_ms", "_hs"
TABLE = "pairs.csv"
# The tag of a multispectral file that names its sensor, whose responses are taken then.
SOURCE_TAG = "MS2HS_SOURCE"
# What ends an id and only numbers a window: `_0012`, `-r00128-c00256`. A date is longer.
NUMBERING = re.compile(r"([-_][rcxy]?\d{1,5})+$", re.IGNORECASE)


def files_of_pairs(folder: Path) -> dict[str, dict[str, Path]]:
    """By name of the pair, its files by their kind."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*")):
        kind = path.stem[-3:].lower()
        if path.suffix.lower() in TIFF_SUFFIXES and kind in {MULTISPECTRAL, HYPERSPECTRAL}:
            name = path.relative_to(folder).with_name(path.stem[:-3]).as_posix()
            found.setdefault(name, {})[kind] = path
    return found


def names_of_split(folder: Path, split: str) -> list[str]:
    """Names of the pairs that `splits/<split>.csv` lists; DataError if there is no such list, or nothing in it."""
    listing = folder / "splits" / f"{split}.csv"
    if not listing.is_file():
        known = ", ".join(sorted(path.stem for path in (folder / "splits").glob("*.csv")))
        raise DataError(
            f"{folder}: no split {split!r}; there are {known or 'none (no splits/*.csv)'}. Give one of these, or none "
            "to take every pair."
        )
    lines = [line.split(",")[0].strip().strip('"') for line in listing.read_text(encoding="utf-8-sig").splitlines()]
    names = {_name_in_split(line) for line in lines if line and line != "id"}
    if not names:
        raise DataError(
            f"{listing}: lists no pair; one is needed at least. Few locations fill few splits: take another split, or "
            "make pairs of more locations."
        )
    return sorted(names)


def _name_in_split(line: str) -> str:
    path = PurePosixPath(line.replace("\\", "/"))
    bare = path.with_suffix("") if path.suffix.lower() in TIFF_SUFFIXES else path
    return re.sub(f"({MULTISPECTRAL}|{HYPERSPECTRAL})$", "", str(bare))


def scenes_of(folder: Path) -> dict[str, str]:
    """By name of the pair its scene, as the table says."""
    table = folder / TABLE
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["id"]: row["scene"] for row in rows if row.get("id") and row.get("scene")}


def scene_of(name: str) -> str:
    """The scene of a pair that no table tells of: its subfolder, else its name without what numbers windows."""
    folder, _, stem = name.rpartition("/")
    return folder.split("/")[0] or NUMBERING.sub("", stem)
