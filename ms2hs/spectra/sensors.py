"""Sensors by name: one table a sensor in `tables/`, and `tables/responses/` for those whose responses are published.

To add a sensor, add its table: comment lines `# title:`, `# role: source|target`, `# gsd_m:`, `# source:`, then
`band,center_nm,fwhm_nm,good`.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ms2hs.errors import GridError, UnknownName
from ms2hs.spectra.spectral_grid import Response, SpectralGrid

TABLES = Path(__file__).parent / "tables"
# What the spectral prior reaches: the shortest and longest wavelength that the libraries it learns from cover.
RANGE_NM = (370.0, 2510.0)
# Red, green, blue for natural colour, in nm, and how far a band may lie from it.
RGB_NM = (650.0, 550.0, 470.0)
RGB_REACH_NM = 30.0


@dataclass(frozen=True, eq=False)
class Sensor:
    """A sensor whose bands are known: a source of multispectral scenes, or a target to convert to."""

    name: str
    title: str
    """One line for people."""
    role: str
    """`source` (multispectral) or `target` (hyperspectral)."""
    gsd_m: float
    """Finest ground sampling distance of its products, in m."""
    citation: str
    """Where its numbers come from."""
    grid: SpectralGrid


def sensor_names(role: str | None = None) -> list[str]:
    """Names of the sensors that come with the package, of one `role` or of both."""
    names = sorted(path.stem for path in TABLES.glob("*.csv"))
    return [name for name in names if role is None or load_sensor(name).role == role]


@cache
def load_sensor(name: str) -> Sensor:
    """The sensor of this name, or of a CSV file with `center_nm,fwhm_nm` columns (`band` and `good` if known).

    Raises
    ------
    UnknownName : neither a known sensor nor a file; the message lists the known ones.
    GridError : a table that cannot be read, or bands outside 370-2510 nm.
    """
    path = TABLES / f"{name}.csv"
    if not path.is_file():
        path = Path(name)
        if path.suffix.lower() != ".csv" or not path.is_file():
            hint = "Give one of these, or a CSV of center_nm,fwhm_nm."
            raise UnknownName.of("sensor", name, sensor_names(), hint)
    return _read(path)


def _read(path: Path) -> Sensor:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    notes = dict(line[1:].strip().split(": ", 1) for line in lines if line.startswith("#") and ": " in line)
    rows = list(csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")))
    try:
        centre = np.array([float(row["center_nm"]) for row in rows])
        width = np.array([float(row["fwhm_nm"]) for row in rows])
        good = np.array([int(row.get("good") or 1) == 1 for row in rows], dtype=bool)
    except (KeyError, TypeError, ValueError) as error:
        raise GridError(
            f"{path}: not a table of bands ({error}); columns center_nm and fwhm_nm in nm are needed, and band and "
            "good (0 or 1) are read. Correct the table."
        ) from error
    low, high = RANGE_NM
    outside = centre[(centre < low) | (centre > high)]
    if len(outside):
        which = ", ".join(f"{nm:g}" for nm in outside[:5])
        raise GridError(
            f"{path}: bands at {which} nm; {low:.0f}-{high:.0f} nm is allowed. Leave them out, or give centres in nm."
        )
    names = tuple(row.get("band") or f"B{i + 1:03d}" for i, row in enumerate(rows))
    grid = SpectralGrid(names, centre, width, good, _read_response(path))
    gsd_m = float(notes.get("gsd_m", "30"))
    title = notes.get("title", path.stem)
    return Sensor(path.stem, title, notes.get("role", "target"), gsd_m, notes.get("source", str(path)), grid)


def _read_response(path: Path) -> Response | None:
    table = TABLES / "responses" / path.name
    if path.parent != TABLES or not table.is_file():
        return None
    values = np.loadtxt(table, delimiter=",", skiprows=2)
    return Response(values[:, 0], values[:, 1:].T)
