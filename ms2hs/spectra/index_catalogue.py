"""The catalogue of spectral indices, and the bands of a cube that each index is computed from.

Broad-band indices come from spyndex (Awesome Spectral Indices: Montero et al. 2023, doi:10.1038/s41597-023-02096-0);
thermal, radar and kernel indices, and indices with a constant that has no value of its own, are left out. Narrow-band
indices are lines of `tables/indices/narrow_band.csv`; they replace indices of spyndex with the same name. In their
formulas R531 is the reflectance at 531 nm, R2000_2050 the mean over this range, and W531 the wavelength that is used.

A band of spyndex is a range of wavelengths (`min_wavelength` to `max_wavelength` of its band table). Its reflectance is
the plain mean of the cube's good bands with a centre in the range. A single wavelength is the nearest good band.
"""

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import spyndex

from ms2hs.arrays import FloatArray
from ms2hs.errors import GridError, QueryError, UnknownName
from ms2hs.spectra.formulas import Formula
from ms2hs.spectra.sensors import TABLES
from ms2hs.spectra.spectral_grid import SpectralGrid

NARROW_BAND_TABLE = TABLES / "indices" / "narrow_band.csv"
NARROW_BAND = re.compile(r"R(\d+)(?:_(\d+))?")
# Names of wavelengths: of a narrow band, and of a band of spyndex.
WAVELENGTH = re.compile(r"W(\d+(?:_\d+)?)|lambda(\w+)")
MAX_REFLECTED_NM = 2600.0
"""Longer waves are emitted and not reflected."""
# Largest distance of a band from a wavelength: more than half the spacing of PRISMA's bands, up to 14 nm.
REACH_NM = 8.0
# Least share of a range that is within `REACH_NM` of a band; the water-vapour bands of EnMAP and EMIT are missing.
LEAST_COVERED = 0.6
# Its constant is a statistic of the scene.
LEFT_OUT = {"RWI"}
# Values that spyndex gives in the description of a constant, for some indices only.
OWN_CONSTANTS = {("WCI1", "epsilon"): 1e-10, ("WCI2", "epsilon"): 1e-10}
CLOSE_NAMES = 5

BandRange = tuple[float, float]
"""Lowest and highest wavelength in nm; equal for a single wavelength."""


@dataclass(frozen=True)
class SpectralIndex:
    """An index: its formula and where each name of the formula comes from."""

    name: str
    title: str
    formula: Formula
    bands: Mapping[str, BandRange]
    """Names of reflectances."""
    wavelengths: Mapping[str, str]
    """Names of wavelengths in nm, each with the band that it is of."""
    constants: Mapping[str, float]
    """Names of numbers, with their defaults."""
    source: str
    """Literature, with a DOI or address."""

    def facts(self) -> dict[str, Any]:
        """The index as JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "formula": self.formula.text,
            "bands_nm": {name: range_text(band) for name, band in self.bands.items()},
            "constants": dict(self.constants),
            "source": self.source,
        }


def range_text(band: BandRange) -> str:
    """A range of wavelengths, such as `620-690` or `531`."""
    return f"{band[0]:g}" if band[0] == band[1] else f"{band[0]:g}-{band[1]:g}"


@cache
def indices_by_name() -> dict[str, SpectralIndex]:
    """All indices by name, sorted without regard to case."""
    ranges = {
        name: (float(band.min_wavelength), float(band.max_wavelength))
        for name, band in spyndex.bands.items()
        if band.max_wavelength <= MAX_REFLECTED_NM
    }
    defaults = {name: constant.default for name, constant in spyndex.constants.items() if constant.default is not None}
    known = [
        _index(one.short_name, one.long_name, one.formula, one.reference, ranges, defaults)
        for name, one in spyndex.indices.items()
        if name not in LEFT_OUT
    ]
    with NARROW_BAND_TABLE.open(encoding="utf-8", newline="") as file:
        known += [_index(**row, ranges={}, defaults={}) for row in csv.DictReader(file)]
    by_name = {index.name: index for index in known if index}
    return dict(sorted(by_name.items(), key=lambda item: item[0].lower()))


def _index(  # noqa: PLR0917 - called with keywords but for a row of the catalogue
    name: str, title: str, formula: str, source: str, ranges: Mapping[str, BandRange], defaults: Mapping[str, float]
) -> SpectralIndex | None:
    """An index; None if a name of its formula has neither a band nor a number."""
    parsed = Formula(formula)
    bands, wavelengths, constants = dict[str, BandRange](), dict[str, str](), dict[str, float]()
    for part in parsed.names:
        of_band = WAVELENGTH.fullmatch(part)
        band = (of_band[2] or f"R{of_band[1]}") if of_band else part
        narrow = NARROW_BAND.fullmatch(band)
        if band in ranges or narrow:
            bands[band] = (float(narrow[1]), float(narrow[2] or narrow[1])) if narrow else ranges[band]
            wavelengths |= {part: band} if of_band else {}
        elif part in defaults:
            constants[part] = OWN_CONSTANTS.get((name, part), float(defaults[part]))
        else:
            return None
    return SpectralIndex(name, title, parsed, bands, wavelengths, constants, source)


def find_index(name: str) -> SpectralIndex:
    """The index of this name; the case of letters matters only where two names differ by it.

    Raises
    ------
    UnknownName : no such index; the message has close names.
    """
    catalogue = indices_by_name()
    if name in catalogue:
        return catalogue[name]
    same = [known for known in catalogue if known.lower() == name.lower()]
    if len(same) == 1:
        return catalogue[same[0]]
    by_lower = {known.lower(): known for known in catalogue}
    close = same or [by_lower[text] for text in difflib.get_close_matches(name.lower(), by_lower, CLOSE_NAMES)]
    closest = f"; close names: {', '.join(close)}" if close else ""
    raise UnknownName(
        f"unknown index {name[:50]!r}; {len(catalogue)} names are known{closest}. Run `ms2hs index --list` for all."
    )


def with_constants(indices: list[SpectralIndex], values: Mapping[str, float]) -> list[SpectralIndex]:
    """The indices with other constants.

    Raises
    ------
    QueryError : none of the indices has a constant of this name.
    """
    known = sorted({name for index in indices for name in index.constants})
    for name in values:
        if name not in known:
            names = ", ".join(known) or "no constants"
            raise QueryError(f"no constant {name[:50]!r}; these indices have {names}. Leave --set {name[:50]} out.")
    return [
        replace(index, constants={name: values.get(name, number) for name, number in index.constants.items()})
        for index in indices
    ]


def band_weights(index: SpectralIndex, grid: SpectralGrid) -> FloatArray:
    """(name, band) weights, with a sum of 1, of the grid's bands in each reflectance of an index.

    Raises
    ------
    GridError : the grid has no good band at a wavelength, or too few in a range.
    """
    weights = np.zeros((len(index.bands), len(grid)))
    for row, (name, (low, high)) in zip(weights, index.bands.items(), strict=True):
        centres = np.where(grid.good, grid.wavelength_nm, np.inf)
        inside = (centres >= low) & (centres <= high)
        nearest = np.abs(centres[:, None] - np.arange(low, high + 1)).min(axis=0)
        if (nearest <= REACH_NM).mean() < LEAST_COVERED:
            span = f"{grid.wavelength_nm[grid.good].min():.0f}-{grid.wavelength_nm[grid.good].max():.0f}"
            raise GridError(
                f"{index.name} needs good bands at {range_text((low, high))} nm ({name}); the cube has bands at {span} "
                "nm, with gaps. Leave the index out, or convert to another target, such as emit."
            )
        if not inside.any() or low == high:
            inside = np.arange(len(grid)) == np.abs(centres - (low + high) / 2).argmin()
        row[inside] = 1 / inside.sum()
    return weights
