"""Pairs by the folder: those that were measured, and those that are simulated from cubes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from ms2hs.datasets.cubes.registry import check_scenes, open_cubes
from ms2hs.datasets.pairs.pair_types import Pair, SimulatedPair, open_pairs
from ms2hs.spectra.sensors import load_sensor


@dataclass(frozen=True)
class PairSet:
    """Pairs, and what they are."""

    title: str
    """In a few words, for people."""
    pairs: Sequence[Pair]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """By name, why a pair cannot be used."""

    def of_scenes(self, scenes: Sequence[str]) -> Self:
        """Those of these scenes; of none given, all. UnknownName where one is not there."""
        check_scenes(self.pairs, scenes, "Give scenes that are there.")
        return replace(self, pairs=[pair for pair in self.pairs if not scenes or pair.scene in scenes])


def measured_pairs(folder: Path, split: str | None = None) -> PairSet:
    """The pairs of a folder, or of a list in its `splits/`. Errors as of `open_pairs`."""
    found = open_pairs(folder, split)
    title = f"pairs of {folder}"
    if split is not None:
        title += f", split {split}"
    elif (folder / "splits" / "train.csv").is_file():
        title += ", those of splits/train.csv too"
    return PairSet(title, found.pairs, found.left_out)


def simulated_pairs(corpus: Path, source: str, target: str | None, split: str | None = None) -> PairSet:
    """What a source sensor would see of the cubes of a folder, beside the target's bands; None: the cubes' own.

    Raises
    ------
    Ms2hsError : as `open_cubes` and `load_sensor` say.
    """
    load_sensor(source)
    grid = None if target is None else load_sensor(target).grid
    title = f"simulated {source} to {target or 'the own bands'}, from {corpus}"
    pairs = [SimulatedPair(cube, source, grid) for cube in open_cubes(corpus, split)]
    return PairSet(title if split is None else f"{title}, split {split}", pairs)
