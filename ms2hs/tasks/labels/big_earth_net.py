"""BigEarthNet, versions 1 and 2: Sentinel-2 patches with several of 19 classes each.

Version 1 has a folder for each patch, with 43 classes in `<patch>_labels_metadata.json`, which become 19, and lists
`bigearthnet-train.csv`. Version 2 has patches in folders of their scenes, and `metadata.parquet` with the 19 classes
and the split. A patch is 120 x 120 pixels of 10 m; bands of 20 and 60 m are brought to them. Nothing is opened before
a patch is read: names, labels and splits come from the lists.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from ms2hs.datasets.cubes.registry import Cube
from ms2hs.datasets.multispectral import SensorCube
from ms2hs.errors import DataError, UnknownName, input_errors, visible
from ms2hs.scenes.recognition import DEFAULT_SOURCE
from ms2hs.scenes.scene import SceneOptions
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_set import WHOLE, LabelSet
from ms2hs.tasks.labels.splits import SIDES

PATCH = re.compile(r"S2[A-D]_MSIL2A_\w+_\d+_\d+")
TILE = re.compile(r"_(T\d{2}[A-Z]{3})(?=_|$)")
FOLDERS = ("BigEarthNet-S2", "BigEarthNet-v1.0", "BigEarthNet-S2-v1.0", "")
METADATA = "metadata.parquet"
MAX_JSON_BYTES = 1_000_000
MAX_LISTED = 100

# The 19 classes in their published order, each with the classes of the 43 (CORINE level 3) that it unites; the other 11
# of the 43 have no class among the 19. Source: Sumbul et al. 2021 (arXiv 2105.07921), table of the new nomenclature.
CLASSES = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        *("Vineyards", "Fruit trees and berry plantations", "Olive groves"),
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
WITHOUT_CLASS = frozenset({
    *("Road and rail networks and associated land", "Port areas", "Airports", "Mineral extraction sites", "Dump sites"),
    *("Construction sites", "Green urban areas", "Sport and leisure facilities", "Bare rock", "Burnt areas"),
    "Intertidal flats",
})  # fmt: skip
NAMES = tuple(CLASSES)
INDEX = {name: number for number, (new, old) in enumerate(CLASSES.items()) for name in (new, *old)}


class Patch(NamedTuple):
    """A patch of the lists."""

    folder: str
    """Within the folder of patches."""
    labels: list[int]
    """Indices of its classes."""
    tile: str
    side: str
    """`train`, `val`, `test`, or empty."""


@dataclass(frozen=True, eq=False)
class Patches(Sequence[tuple[Cube, ...]]):
    """The images, each opened when it is read; half a million are a list of names."""

    root: Path
    folders: list[str]
    tiles: list[str]
    grid: SpectralGrid
    source: str

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.folders)

    @overload
    def __getitem__(self, index: int) -> tuple[Cube, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[Cube, ...]]: ...

    def __getitem__(self, index: int | slice) -> tuple[Cube, ...] | Sequence[tuple[Cube, ...]]:
        """The one cube of a patch; IndexError beyond the last."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        folder = self.folders[index]
        options = SceneOptions(source=self.source)
        return (SensorCube(folder, self.tiles[index], self.root / folder, options, self.grid),)


def is_big_earth_net(path: Path) -> bool:
    """Whether a folder has the folders or lists of BigEarthNet."""
    return path.is_dir() and (
        any((path / folder).is_dir() for folder in FOLDERS[:-1]) or (path / METADATA).is_file() or _is_patches(path)
    )


def _is_patches(folder: Path) -> bool:
    """Whether one of the first entries of a folder is a patch."""
    with os.scandir(folder) as entries:
        return any(PATCH.fullmatch(entry.name) for entry in islice(entries, MAX_LISTED))


def open_big_earth_net(options: LabelOptions, task: str) -> LabelSet:
    """The patches with their classes among 19; tiles are the groups where no split is given.

    Raises
    ------
    DataError : no patches, a class that is unknown, or PyArrow is not installed for version 2.
    """
    path = options.path
    root = next((path / folder for folder in FOLDERS if (path / folder).is_dir()), path)
    source = options.source or DEFAULT_SOURCE
    if source not in sensor_names("source"):
        raise UnknownName.of("source", source, sensor_names("source"), "Use one of these with --source.")
    table = next((folder / METADATA for folder in (path, root) if (folder / METADATA).is_file()), None)
    patches = list(_version_2(table) if table else _version_1(path, root))
    present = _folders_in(root, nested=table is not None)
    found = [patch for patch in patches if patch.folder in present]
    if not found:
        raise DataError(
            f"{path}: none of the {len(patches)} patches of the lists is in {root.name}; patches are needed. Unpack "
            "the archive of Sentinel-2 there."
        )
    labels = np.zeros((len(found), len(NAMES)), bool)
    for number, patch in enumerate(found):
        labels[number, patch.labels] = True
    grid = load_sensor(source).grid
    grid = grid.select(np.argsort(grid.wavelength_nm, kind="stable"))
    tiles, sides = [patch.tile for patch in found], np.array([patch.side for patch in found])
    notes = [f"patches of all platforms are read as {source}; --source names another"] if not options.source else []
    if len(found) < len(patches):
        notes.append(f"{len(patches) - len(found)} of {len(patches)} listed patches are not there, and are left out")
    unlabelled = ~labels.any(axis=1)
    if unlabelled.any():
        notes.append(f"{unlabelled.sum()} patches have none of the 19 classes, and are left out")
    kept = np.flatnonzero(~unlabelled)
    whole = np.full(len(kept), WHOLE)
    return LabelSet(
        name=path.resolve().name,
        task=task,
        classes=NAMES,
        grid=grid,
        sensor=source,
        images=Patches(root, [patch.folder for patch in found], tiles, grid, source),
        image=kept,
        row=whole,
        col=whole,
        labels=labels[kept],
        groups=np.array(tiles)[kept],
        grouped_by="tile",
        given_split=sides[kept] if sides.any() and options.split != "random" else None,
        notes=tuple(notes),
    )


def _folders_in(root: Path, *, nested: bool) -> set[str]:
    """The folders of patches: directly in the root, or in the folders of their scenes."""
    names = set()
    with os.scandir(root) as entries:
        for entry in entries:
            if not nested:
                names.add(entry.name)
            elif entry.is_dir():
                with os.scandir(entry) as inner:
                    names.update(f"{entry.name}/{one.name}" for one in inner)
    return names


def _version_2(table: Path) -> Iterator[Patch]:
    """The patches of `metadata.parquet`."""
    if find_spec("pyarrow") is None:
        raise DataError(f"{table}: PyArrow is not installed; BigEarthNet v2 needs it. `pip install 'ms2hs[tasks]'`.")
    import pyarrow.parquet as pq  # noqa: PLC0415  comes with ms2hs[tasks]

    with input_errors(str(table), DataError):
        columns = pq.read_table(table, columns=["patch_id", "labels", "split"]).to_pydict()
    for patch, labels, side in zip(columns["patch_id"], columns["labels"], columns["split"], strict=True):
        if PATCH.fullmatch(patch) is None:
            raise DataError(f"{table}: patch_id {visible(patch)!r} is no name of a patch. Download the table again.")
        tile = TILE.search(patch)
        name = "val" if side == "validation" else side if side in SIDES else ""
        yield Patch(f"{patch.rsplit('_', 2)[0]}/{patch}", _indices(table, labels), tile[1] if tile else patch, name)


def _version_1(path: Path, root: Path) -> Iterator[Patch]:
    """The patches of the lists of the split, else of the folder; each with its JSON."""
    sides: dict[str, str] = {}
    for side in SIDES:
        for table in (path / f"bigearthnet-{side}.csv", path / "splits" / f"{side}.csv", path / f"{side}.csv"):
            if table.is_file():
                with input_errors(str(table), DataError), table.open(encoding="utf-8-sig", newline="") as file:
                    sides |= {row[0].strip(): side for row in csv.reader(file) if row}
                break
    for folder in sorted(sides or _folders_in(root, nested=False)):
        if PATCH.fullmatch(folder) is None:
            continue
        labels = root / folder / f"{folder}_labels_metadata.json"
        if not labels.is_file() or labels.stat().st_size > MAX_JSON_BYTES:
            yield Patch(folder, [], folder, "")
            continue
        with input_errors(str(labels), DataError):
            facts = json.loads(labels.read_text(encoding="utf-8"))
            tile = TILE.search(str(facts.get("tile_source", "")))
            found = _indices(labels, facts["labels"])
        yield Patch(folder, found, tile[1] if tile else folder.rsplit("_", 2)[0], sides.get(folder, ""))


def _indices(where: Path, labels: Sequence[str]) -> list[int]:
    """Indices among the 19 classes of names of either nomenclature."""
    if unknown := [name for name in labels if name not in INDEX and name not in WITHOUT_CLASS]:
        raise DataError(
            f"{where}: the class {visible(str(unknown[0]))!r} is in neither nomenclature of BigEarthNet (43 or 19 "
            "classes). Download the labels again."
        )
    return sorted({INDEX[name] for name in labels if name in INDEX})
