"""The work of `ms2hs pairs`: products and scenes of the same ground are matched, registered and written in windows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ms2hs.datasets.cubes.georeferenced import find_cubes
from ms2hs.datasets.pairs.matching import Match, find_matches, find_scenes
from ms2hs.datasets.pairs.overlap_cutting import MIN_VALID_SHARE, Overlap, Registration
from ms2hs.datasets.pairs.radiometric_check import BASELINE_OFFSET, BandComparison
from ms2hs.datasets.pairs.warping import is_finer
from ms2hs.datasets.pairs.writer import PairWriter, check_folder, pair_writer, split_locations
from ms2hs.errors import DataError, NothingFound, OutputError, failure
from ms2hs.files import file_ids, file_name, files_in
from ms2hs.progress import Progress
from ms2hs.raster.tiling import Window
from ms2hs.scenes.plausibility import offset_remedy
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions

MAX_LISTED_REASONS = 5
# Shift in pixels after correction that is worth a warning.
LARGE_RESIDUAL = 0.3


@dataclass(frozen=True)
class PairOptions:
    """Options of `ms2hs pairs`."""

    days: int = 3
    """Largest difference in calendar days (UTC)."""
    window: int = 128
    """Side of a window in pixels of the hyperspectral product."""
    scale: float | None = None
    """`reflectance = stored * scale + offset` in all scenes, instead of their metadata's scale."""
    offset: float | None = None
    """Offset in reflectance, instead of their metadata's."""
    dn_offset: float | None = None
    """Offset added to stored integers before scaling, instead of `offset`."""
    seed: int = 0
    """Random seed of the splits and of the windows in which the shift is measured."""


@dataclass(frozen=True, eq=False)
class MatchResult:
    """The pairs made from one match of a product and a scene."""

    match: Match
    registration: Registration
    comparison: BandComparison
    windows: int
    """Number of windows in the overlap."""
    ids: list[str] = field(default_factory=list)
    """Ids of the pairs: windows that are valid enough."""

    @property
    def windows_left_out(self) -> int:
        """Number of windows that are not valid enough."""
        return self.windows - len(self.ids)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, one sentence each."""
        scene, constant = self.match.dated.scene, self.comparison.constant_offset
        notes = []
        if constant is not None:
            cause = "was not applied" if constant > 0 else "was applied twice"
            notes.append(
                f"warning: looks like an offset that {cause}: {constant:+.3f} in every band ({scene.offset_rule})."
                + offset_remedy(scene, -math.copysign(BASELINE_OFFSET, constant))
            )
        if is_finer(self.match.cube.pixel_grid, scene.grid):
            notes.append("The product's pixels are finer than the scene's; the scene is interpolated.")
        if self.registration.residual > LARGE_RESIDUAL:
            notes.append(f"warning: a shift of {self.registration.residual:.2f} pixels remains after the correction.")
        return (*notes, *scene.notes, *filter(None, [scene.quality_note]))

    def row(self, name: str, valid: float) -> dict[str, Any]:
        """The row of a pair in `pairs.csv`; shifts in pixels of the product, `difference` in reflectance."""
        shift = self.registration
        return {
            "id": name,
            "scene": self.match.location,
            "sensor": self.match.dated.scene.source,
            **self.match.facts(),
            "shift_row": f"{shift.row:.3f}",
            "shift_col": f"{shift.col:.3f}",
            "residual": f"{shift.residual:.3f}",
            "difference": f"{np.nanmedian(self.comparison.difference):.4f}",
            "valid": f"{valid:.4f}",
        }

    def bands(self) -> list[dict[str, Any]]:
        """Rows of `bands.csv`: measured against expected reflectance, band by band."""
        products = {"product": self.match.cube.name, "multispectral": self.match.dated.scene.id}
        columns = {key: getattr(self.comparison, key) for key in ("wavelength_nm", "difference", "gain", "offset")}
        return [
            products | {"band": name} | {key: _text_or_empty(column[band]) for key, column in columns.items()}
            for band, name in enumerate(self.comparison.names)
        ]

    def summary(self) -> str:
        """One line for the user."""
        shift = self.registration
        return (
            f"{self.match.name} ({self.match.days_apart:+d} days): {len(self.ids)} pairs, "
            f"{self.windows_left_out} windows left out; moved by {shift.row:+.2f} rows and {shift.col:+.2f} columns, "
            f"residual {shift.residual:.2f}; difference {np.nanmedian(self.comparison.difference):+.3f}"
        )


def _text_or_empty(number: float) -> str:
    return f"{number:.4f}" if math.isfinite(number) else ""


@dataclass(frozen=True, eq=False)
class PairingResult:
    """A written folder of pairs."""

    output: Path
    pairs: int
    """Number of pairs."""
    matches: tuple[MatchResult, ...]
    splits: dict[str, list[str]]
    """Locations of each split."""
    left_out: dict[str, str]
    """Reasons why products, scenes and matches gave no pairs, by name."""
    notes: tuple[str, ...]

    @property
    def windows_left_out(self) -> int:
        """Number of windows that are not valid enough, in matches that gave pairs."""
        return sum(result.windows_left_out for result in self.matches)


def pair(
    hyperspectral: Sequence[Path],
    scenes: Sequence[Path],
    output: Path,
    options: PairOptions | None = None,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> PairingResult:
    """Match products and scenes of the same ground and days, register them, and write their windows as pairs.

    Unusable products, scenes and matches do not stop the others; they are reported with their reason.

    Parameters
    ----------
    hyperspectral : products or folders of products, as in `georeferenced.find_cubes`.
    scenes : multispectral scenes or folders of scenes, as in `scenes.formats.scene_paths`.
    output : a directory, written under a temporary name and renamed at the end.
    progress : called with the number of rows done.
    overwrite : replace existing pairs.

    Raises
    ------
    NothingFound : no product and scene match, or none of their windows can be used.
    DataError, SceneError : a path is missing.
    OutputError : as in `pair_writer`.
    """
    options = options or PairOptions()
    if options.days < 0 or options.window < 1:
        raise ValueError(f"{options.days} days, windows of {options.window} pixels; at least 0 and 1 are needed")
    scene_options = SceneOptions(scale=options.scale, offset=options.offset, dn_offset=options.dn_offset)
    inputs = file_ids(files_in([*hyperspectral, *scenes]))
    check_folder(output, overwrite=overwrite, inputs=inputs)
    left_out: dict[str, str] = {}
    cubes = find_cubes(hyperspectral, left_out)
    dated = find_scenes(scenes, scene_options, left_out)
    matches = find_matches(cubes, dated, options.days, left_out)
    _check_found(matches, left_out, options.days)
    with pair_writer(Path(output), overwrite=overwrite, inputs=inputs) as writer:
        pairing = _Pairing(writer, options, progress, sum(match.rows for match in matches))
        for number, match in enumerate(matches, 1):
            try:
                pairing.add(match, f"{file_name(match.location)}-{number:03d}")
            except OutputError:
                raise
            except Exception as error:  # noqa: BLE001  one match must not stop the others
                left_out[match.name] = failure(match.name, error)
            pairing.rows_done += match.rows
        _check_found(pairing.results, left_out, options.days)
        splits = pairing.write_tables()
    return PairingResult(output, len(pairing.rows), tuple(pairing.results), splits, left_out, _split_notes(splits))


def _check_found(matches: Sequence[object], left_out: dict[str, str], days: int) -> None:
    """NothingFound, with the first reasons, if there are no matches."""
    if matches:
        return
    reasons = left_out_lines(left_out)[:MAX_LISTED_REASONS]
    more = [f"and {len(left_out) - MAX_LISTED_REASONS} more"] if len(left_out) > MAX_LISTED_REASONS else []
    raise NothingFound(
        f"no pairs: no product and scene of the same ground within {days} days could be used. "
        "Give more products or scenes, or use a larger --days." + "\n  ".join(["", *reasons, *more])
    )


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """A line for each product, scene or match left out: name and reason (most reasons begin with the name)."""
    return [reason if name in reason else f"{name}: {reason}" for name, reason in left_out.items()]


def _split_notes(splits: dict[str, list[str]]) -> tuple[str, ...]:
    count = sum(map(len, splits.values()))
    if count > 2:
        return ()
    use = "all pairs are in train" if count == 1 else "one is in train and one in test; val is empty"
    return (f"{count} location{'s' * (count > 1)} only: {use}. A split keeps the pairs of a location together.",)


class _Pairing:
    """Writes the pairs of one match after another, and collects their results and table rows."""

    def __init__(self, writer: PairWriter, options: PairOptions, progress: Progress | None, rows_due: int) -> None:
        self.writer = writer
        self.options = options
        self.progress = progress
        self.rows_due, self.rows_done = rows_due, 0
        self.results: list[MatchResult] = []
        self.rows: list[dict[str, Any]] = []
        """Rows of `pairs.csv`."""

    def add(self, match: Match, stem: str) -> None:
        """Register the scene on the product and write the windows; DataError, GridError or SceneError on failure."""
        scene = match.dated.scene
        with SceneReader(scene, scene.grid) as reader:
            overlap = Overlap(match.cube, reader)
            windows = overlap.windows(self.options.window)
            probes = overlap.probes(windows, self.options.seed)
            registration = overlap.register(probes)
            result = MatchResult(match, registration, overlap.compare(probes), len(windows))
            try:
                rows = list(self._write_windows(result, overlap, windows, stem))
            except Exception:
                self.writer.remove_pairs(result.ids)
                raise
        if not rows:
            raise DataError(
                f"none of {len(windows)} windows is {MIN_VALID_SHARE:.0%} valid after the scene is moved by "
                f"{registration.row:+.2f} rows and {registration.col:+.2f} columns; at least one is needed. Give a "
                "scene that covers more of the product."
            )
        self.rows += rows
        self.results.append(result)

    def _write_windows(
        self, result: MatchResult, overlap: Overlap, windows: list[Window], stem: str
    ) -> Iterator[dict[str, Any]]:
        """Write the windows that are valid enough, and yield their rows of `pairs.csv`."""
        match = result.match
        scene = match.dated.scene
        tags = {"MS2HS_PRODUCT": match.cube.name, "MS2HS_SCENE": scene.id, "MS2HS_LOCATION": match.location}
        for done, window in enumerate(windows, 1):
            reflectance = overlap.cut(window)
            valid = float(reflectance.valid.mean())
            if valid >= MIN_VALID_SHARE:
                name = f"{stem}-r{window.row:05d}-c{window.col:05d}"
                result.ids.append(name)
                self.writer.write_pair(name, reflectance, scene.source, tags)
                yield result.row(name, valid)
            if self.progress:
                self.progress("pairs", self.rows_done + match.rows * done // len(windows), self.rows_due)

    def write_tables(self) -> dict[str, list[str]]:
        """Write the tables and the splits; returns the locations of each split."""
        splits = split_locations([row["scene"] for row in self.rows], self.options.seed)
        ids = {name: [row["id"] for row in self.rows if row["scene"] in part] for name, part in splits.items()}
        self.writer.write_tables(self.rows, [row for result in self.results for row in result.bands()], ids)
        return splits


def facts(paired: PairingResult) -> dict[str, Any]:
    """The result as JSON values; an unknown number is None."""
    return {
        "output": str(paired.output),
        "pairs": paired.pairs,
        "windows_left_out": paired.windows_left_out,
        "splits": paired.splits,
        "matches": [_match_facts(result) for result in paired.matches],
        "left_out": paired.left_out,
        "notes": list(paired.notes),
    }


def _match_facts(result: MatchResult) -> dict[str, Any]:
    match = result.match
    return match.facts() | {
        "sensor": match.dated.scene.source,
        "location": match.location,
        "pairs": len(result.ids),
        "windows_left_out": result.windows_left_out,
        "registration": {key: n if math.isfinite(n) else None for key, n in asdict(result.registration).items()},
        "constant_offset": result.comparison.constant_offset,
        "bands": result.bands(),
        "notes": list(result.notes),
    }
