"""pairs: what a multispectral and a hyperspectral sensor measured of one place within a few days, window by window."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ms2hs.datasets.cubes.georeferenced import find_cubes
from ms2hs.datasets.pairs.matching import MatchedPair, find_matches, find_scenes
from ms2hs.datasets.pairs.overlap_cutting import LEAST_VALID, Overlap, Registration
from ms2hs.datasets.pairs.radiometric_check import CONSTANT, Agreement
from ms2hs.datasets.pairs.warping import is_finer
from ms2hs.datasets.pairs.writer import PairWriter, check_folder, split_locations
from ms2hs.errors import DataError, GridError, Ms2hsError, NothingFound, SceneError
from ms2hs.progress import Progress
from ms2hs.raster.tiling import Window
from ms2hs.scenes.reader import SceneReader

# Reasons that a message lists, at most.
NAMED = 5
# A pair is worth little to a model where it is off by more than this, in pixels.
LARGE_RESIDUAL = 0.3


@dataclass(frozen=True)
class PairOptions:
    """What the user can choose."""

    days: int = 3
    """Most calendar days (UTC) between the two."""
    window: int = 128
    """Pixels of the hyperspectral product on a side."""
    dn_offset: float | None = None
    """Added to the scenes' stored numbers, instead of what their metadata say."""
    seed: int = 0
    """Of the splits, and of the windows that tell how the products lie."""


@dataclass(frozen=True, eq=False)
class Match:
    """A product and a scene of which pairs were made."""

    couple: MatchedPair
    registration: Registration
    agreement: Agreement
    windows: int
    """That were cut."""
    ids: list[str] = field(default_factory=list)
    """Of the pairs: the windows that are valid enough."""

    @property
    def left_out(self) -> int:
        """Windows that are not valid enough."""
        return self.windows - len(self.ids)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one sentence each."""
        scene, constant = self.couple.dated.scene, self.agreement.constant
        notes = []
        if constant is not None:
            asset = scene.assets[0]
            remedy = asset.dn_offset - math.copysign(CONSTANT, constant) / asset.dn_scale
            cause = "was not applied" if constant > 0 else "was applied twice"
            notes.append(
                f"warning: looks like an offset that {cause}: {constant:+.3f} in every band ({scene.offset_rule}); "
                f"give --dn-offset {remedy:.0f}"
            )
        if is_finer(self.couple.cube.pixel_grid, scene.grid):
            notes.append("the product's pixels are finer than the scene's, which is interpolated between them")
        if self.registration.residual > LARGE_RESIDUAL:
            notes.append(f"warning: {self.registration.residual:.2f} pixels of shift are left after the correction")
        return (*notes, *scene.notes)

    def row(self, name: str, valid: float) -> dict[str, Any]:
        """A pair's row of `pairs.csv`; shifts in pixels of the product, `difference` in reflectance."""
        registration, couple = self.registration, self.couple
        return {
            "id": name,
            "scene": couple.location,
            "sensor": couple.dated.scene.source,
            "product": couple.cube.name,
            "product_day": couple.cube.day.isoformat(),
            "multispectral": couple.dated.scene.id,
            "multispectral_day": couple.dated.day.isoformat(),
            "days_apart": couple.days_apart,
            "shift_row": f"{registration.row:.3f}",
            "shift_col": f"{registration.col:.3f}",
            "residual": f"{registration.residual:.3f}",
            "difference": f"{np.nanmedian(self.agreement.difference):.4f}",
            "valid": f"{valid:.4f}",
        }

    def bands(self) -> list[dict[str, Any]]:
        """Rows of `bands.csv`: how the scene's values agree with what the product says that they should be."""
        found = self.agreement
        numbers = zip(found.names, found.wavelength_nm, found.difference, found.gain, found.offset, strict=True)
        both = {"product": self.couple.cube.name, "multispectral": self.couple.dated.scene.id}
        keys = ("wavelength_nm", "difference", "gain", "offset")
        return [
            both | {"band": name} | dict(zip(keys, (_text(number) for number in values), strict=True))
            for name, *values in numbers
        ]

    def told(self) -> str:
        """In a line."""
        found = self.registration
        return (
            f"{self.couple.name} ({self.couple.days_apart:+d} days): {len(self.ids)} pairs, {self.left_out} windows "
            f"left out; moved by {found.row:+.2f} rows and {found.col:+.2f} columns, {found.residual:.2f} left; "
            f"difference {np.nanmedian(self.agreement.difference):+.3f}"
        )


def _text(number: float) -> str:
    """Empty where it is not known."""
    return f"{number:.4f}" if math.isfinite(number) else ""


@dataclass(frozen=True, eq=False)
class PairingResult:
    """What was made, and what was not."""

    output: Path
    pairs: int
    matches: tuple[Match, ...]
    splits: dict[str, tuple[str, ...]]
    """By split, its locations."""
    left_out: dict[str, str]
    """Products, scenes and matches of which no pairs were made, and why."""
    notes: tuple[str, ...]

    @property
    def windows_left_out(self) -> int:
        """Windows that are not valid enough, of the matches that gave pairs."""
        return sum(match.left_out for match in self.matches)


def pair(
    hyperspectral: Sequence[Path],
    scenes: Sequence[Path],
    output: Path,
    choices: PairOptions | None = None,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> PairingResult:
    """Find products and scenes of the same places and days, lay them on each other, and write their windows.

    Whatever cannot be used is left out with its reason, and the rest goes on.

    Parameters
    ----------
    hyperspectral : products, or folders of them, as `data.placed.open_placed` takes them.
    scenes : multispectral ones, or folders of them, as `raster.products.scene_paths` finds them.
    output : a directory; it appears when it is whole.
    progress : called with the rows of windows that are done.
    overwrite : replace pairs that are there.

    Raises
    ------
    NothingFound : no product and scene belong together, or none of their windows can be used.
    DataError, SceneError : a path that is not there.
    OutputError : as `data.pair_folders.PairWriter`.
    """
    choices = choices or PairOptions()
    if choices.days < 0 or choices.window < 1:
        raise ValueError(f"{choices.days} days, windows of {choices.window} pixels; from 0 and from 1 on are allowed")
    check_folder(output, overwrite=overwrite)
    left_out: dict[str, str] = {}
    cubes = find_cubes(hyperspectral, left_out)
    scenes_there = find_scenes(scenes, choices.dn_offset, left_out)
    couples = find_matches(cubes, scenes_there, choices.days, left_out)
    _check_found(couples, left_out, choices.days)
    with PairWriter(output, overwrite=overwrite) as writer:
        made = _Made(writer, choices, progress, sum(couple.rows for couple in couples))
        for number, couple in enumerate(couples, 1):
            try:
                made.add(couple, f"{couple.location}-{number:03d}")
            except (DataError, GridError, SceneError) as error:
                left_out[couple.name] = str(error)
            made.rows_done += couple.rows
        _check_found(made.matches, left_out, choices.days)
        splits = made.write_tables()
    parts = {name: tuple(part) for name, part in splits.items()}
    return PairingResult(output, len(made.rows), tuple(made.matches), parts, left_out, _split_notes(parts))


def _check_found(found: Sequence[object], left_out: dict[str, str], days: int) -> None:
    if found:
        return
    reasons = told(left_out)[:NAMED]
    more = [f"and {len(left_out) - NAMED} more"] if len(left_out) > NAMED else []
    raise NothingFound(
        f"no pairs: no product and scene of the same place within {days} days could be used; one such couple is "
        "needed. Give more products or scenes, or more --days." + "\n  ".join(["", *reasons, *more])
    )


def told(left_out: Mapping[str, str]) -> list[str]:
    """A line each for what was left out; most reasons begin with its name."""
    return [reason if name in reason else f"{name}: {reason}" for name, reason in left_out.items()]


def _split_notes(splits: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    count = sum(map(len, splits.values()))
    if count > 2:
        return ()
    where = "all pairs are in train" if count == 1 else "one is train's, the other test's, and val is empty"
    return (f"{count} location{'s' * (count > 1)} only: {where}. Pairs of one place must not be split.",)


class _Made:
    """Writes the pairs of one couple after another, and remembers what has been made."""

    def __init__(self, writer: PairWriter, choices: PairOptions, progress: Progress | None, rows_due: int) -> None:
        self.writer = writer
        self.choices = choices
        self.progress = progress
        self.rows_due, self.rows_done = rows_due, 0
        self.matches: list[Match] = []
        self.rows: list[dict[str, Any]] = []
        """Of `pairs.csv`."""

    def add(self, couple: MatchedPair, stem: str) -> None:
        """Lay the scene on the product and write the windows; DataError, GridError or SceneError where it cannot."""
        scene = couple.dated.scene
        with SceneReader(scene, scene.grid) as reader:
            overlap = Overlap(couple.cube, reader)
            windows = overlap.windows(self.choices.window)
            probes = overlap.probes(windows, self.choices.seed)
            registration = overlap.register(probes)
            match = Match(couple, registration, overlap.agreement(probes), len(windows))
            try:
                rows = list(self._rows(match, overlap, windows, stem))
            except Ms2hsError:
                self.writer.remove_pairs(match.ids)
                raise
        if not rows:
            raise DataError(
                f"none of {len(windows)} windows is {LEAST_VALID:.0%} valid once the scene is moved by "
                f"{registration.row:+.2f} rows and {registration.col:+.2f} columns; one is needed. Give a scene that "
                "covers more of the product."
            )
        self.rows += rows
        self.matches.append(match)

    def _rows(self, match: Match, overlap: Overlap, windows: list[Window], stem: str) -> Iterator[dict[str, Any]]:
        """Write the pairs of the windows that are valid enough."""
        couple = match.couple
        scene = couple.dated.scene
        facts = {"PRODUCT": couple.cube.name, "SCENE": scene.id, "LOCATION": couple.location}
        tags = {f"MS2HS_{key}": text for key, text in facts.items()}
        for done, window in enumerate(windows, 1):
            cut = overlap.cut(window)
            share = float(cut.valid.mean())
            if share >= LEAST_VALID:
                name = f"{stem}-r{window.row:05d}-c{window.col:05d}"
                match.ids.append(name)
                self.writer.write_pair(name, cut, scene.source, tags)
                yield match.row(name, share)
            if self.progress:
                self.progress("pairs", self.rows_done + couple.rows * done // len(windows), self.rows_due)

    def write_tables(self) -> dict[str, list[str]]:
        """Write the tables and the splits; by split its locations."""
        splits = split_locations([row["scene"] for row in self.rows], self.choices.seed)
        ids = {name: [row["id"] for row in self.rows if row["scene"] in part] for name, part in splits.items()}
        self.writer.write_tables(self.rows, [row for match in self.matches for row in match.bands()], ids)
        return splits


def facts(paired: PairingResult) -> dict[str, Any]:
    """What was made, as JSON has it; numbers that are not known are None."""
    return {
        "output": str(paired.output),
        "pairs": paired.pairs,
        "windows_left_out": paired.windows_left_out,
        "splits": {name: list(part) for name, part in paired.splits.items()},
        "matches": [_match_facts(match) for match in paired.matches],
        "left_out": paired.left_out,
        "notes": list(paired.notes),
    }


def _match_facts(match: Match) -> dict[str, Any]:
    couple = match.couple
    return {
        "product": couple.cube.name,
        "product_day": couple.cube.day.isoformat(),
        "multispectral": couple.dated.scene.id,
        "multispectral_day": couple.dated.day.isoformat(),
        "days_apart": couple.days_apart,
        "sensor": couple.dated.scene.source,
        "location": couple.location,
        "pairs": len(match.ids),
        "windows_left_out": match.left_out,
        "registration": {key: _known(value) for key, value in asdict(match.registration).items()},
        "constant_offset": match.agreement.constant,
        "bands": match.bands(),
        "notes": list(match.notes),
    }


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None
