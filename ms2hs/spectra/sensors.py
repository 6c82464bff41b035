"""Sensors by name: a table of bands in `tables/` for each, and published spectral responses in `tables/responses/`.

A sensor is a `source` of multispectral scenes, a `target` to convert to, or a `camera` on a bench, tripod or cart: a
hyperspectral sensor that is both. Cubes of a camera are known by the wavelengths in their own files; its table is
nominal, for conversions to its bands and for files without wavelengths or widths.

To add a sensor, add its table `tables/NAME.csv`: comment lines `# key: value`, then one row per band. Every table has
the keys `title`, `role`, `gsd_m` (not of a camera) and `source`, and the columns `band,center_nm,fwhm_nm,good`. The
table of a source also says how its products are recognised and stored: its other keys are fields of `Sensor`, and the
column `common_names` holds the bands' other names, the first as in STAC. Lower-case letters and digits only; `nir?`
marks a name that some tools use for this band and others for another one. Other modules read these fields instead of
comparing sensor names.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ms2hs.errors import GridError, UnknownName, input_errors
from ms2hs.spectra.spectral_grid import Response, SpectralGrid

TABLES = Path(__file__).parent / "tables"
# Wavelengths covered by the spectral libraries that the spectral prior is estimated from.
RANGE_NM = (370.0, 2510.0)
# Red, green and blue of natural colour in nm, and the largest distance of a band from them.
RGB_NM = (650.0, 550.0, 470.0)
RGB_REACH_NM = 30.0
# Wavelengths in nm of STAC's common names of bands (eo extension 1.1); red, green and blue as in natural colour.
COMMON_NAMES_NM = dict(zip(("red", "green", "blue"), RGB_NM, strict=True)) | {
    "coastal": 443.0, "rededge": 705.0, "nir": 830.0, "nir08": 865.0, "nir09": 945.0, "cirrus": 1375.0,
    "swir16": 1610.0, "swir22": 2190.0,
}  # fmt: skip
# Limits of a user's table: its bytes, its bands (a TIFF holds 65535), and the width of a band in nm.
MAX_TABLE_BYTES, MAX_BANDS, WIDTHS_NM = 2_000_000, 4096, (0.1, 1000.0)
# Largest distance in nm between a band of a camera and its nominal centre: cameras of one model differ by a few nm.
MAX_CAMERA_SHIFT_NM = 5.0
# The regular expression of a table without this key: matches nothing.
NEVER = re.compile("(?!)")


@dataclass(frozen=True, eq=False)
class Sensor:
    """A sensor with known bands: a source of scenes, a target to convert to, or both."""

    name: str
    citation: str
    """Publication of the wavelengths and responses; key `source` of the table."""
    grid: SpectralGrid
    common_names: Mapping[str, str]
    """Band by common name, such as `nir08`: `B8A`."""
    possible_bands: Mapping[str, frozenset[str]]
    """Bands that tools call by one common name, such as `nir`: `B08` in STAC, `B8A` in FORCE."""
    title: str
    """One line for users."""
    role: str = "target"
    """`source` (multispectral), `target` (hyperspectral) or `camera` (hyperspectral, both)."""
    gsd_m: float = 30.0
    """Finest ground sampling distance of its products, in m."""
    working_gsd_m: float | None = None
    """Ground sampling in m at which products are converted by default; None keeps their own."""
    family: str = ""
    """Sensors of one family have one product format, such as SAFE for `sentinel2`."""
    product_pattern: re.Pattern[str] = NEVER
    """Matches complete product names, in file names and tags."""
    platform_pattern: re.Pattern[str] = NEVER
    """Matches names of the satellite, in file names, tags and STAC items."""
    collection_pattern: re.Pattern[str] = NEVER
    """Matches names of STAC collections and items."""
    family_pattern: re.Pattern[str] = NEVER
    """Matches texts that name only the family; then this sensor is assumed, with a note."""
    min_bands: int = 1
    """Number of bands that a scene must have."""
    toa_band: tuple[str, float, float] | None = None
    """Name, centre and width in nm of a band that only top-of-atmosphere products have."""
    quality: str = ""
    """Name of the products' quality layer in `scenes.quality`; empty without one."""
    dtype: str = ""
    """Data type of files that have `scale` and `offset` without declaring them; empty if files declare them."""
    scale: float = 1e-4
    offset: float = 0.0
    """In reflectance: `dn * scale + offset`."""
    nodata: float | None = None
    """Stored number that means no data where a product declares none."""
    product_error: str = ""
    """Table in `tables/errors/` with the measured errors of its products, which conversions assume; empty without."""
    item_rule: str = "declared"
    """Key in `scenes.radiometry.ITEM_RULES` for STAC items of unknown archives."""
    platform: str = ""
    """The satellite by its name in STAC items; empty for products of several satellites."""
    constellation: str = ""
    instruments: tuple[str, ...] = ()


def _band(text: str) -> tuple[str, float, float]:
    name, centre_nm, fwhm_nm = text.split()
    return name, float(centre_nm), float(fwhm_nm)


# Keys of a table and their types. Tables of users have the first three only.
USER_KEYS = {"title": str, "role": str, "gsd_m": float}
KEYS: dict[str, Callable[[str], Any]] = USER_KEYS | {
    **dict.fromkeys(("working_gsd_m", "scale", "offset", "nodata"), float),
    **dict.fromkeys(("product_pattern", "platform_pattern", "collection_pattern", "family_pattern"), re.compile),
    **dict.fromkeys(("family", "quality", "dtype", "item_rule", "product_error"), str),
    **dict.fromkeys(("platform", "constellation"), str),
    "instruments": lambda text: tuple(text.split()),
    "min_bands": int,
    "toa_band": _band,
}


def sensor_names(role: str | None = None) -> list[str]:
    """Names of the sensors in `tables/`, of one `role` or of all."""
    names = sorted(path.stem for path in TABLES.glob("*.csv"))
    return [name for name in names if role is None or load_sensor(name).role == role]


@cache
def load_sensor(name: str) -> Sensor:
    """The sensor with this name, or of a CSV file with columns `center_nm,fwhm_nm` (and optionally `band`, `good`).

    Raises
    ------
    UnknownName : neither a known sensor nor a file; the message lists the known sensors.
    GridError : the table cannot be read, or a band lies outside 370-2510 nm.
    """
    path = TABLES / f"{name}.csv"
    if not path.is_file():
        path = Path(name)
        if path.suffix.lower() != ".csv" or not path.is_file():
            hint = "Use one of these, or a CSV of center_nm,fwhm_nm."
            raise UnknownName.of("sensor", name, sensor_names(), hint)
    with input_errors(str(path), GridError):
        return _read(path)


def shipped_sensor(name: str, role: str | None = None) -> Sensor | None:
    """The shipped sensor of this name and role; None for any other name.

    For names in files, which are text of others: they are looked up in the tables and never used as paths.
    """
    return load_sensor(name) if name in sensor_names(role) else None


def camera_of(wavelength_nm: Sequence[float]) -> Sensor | None:
    """The camera with as many bands, each within `MAX_CAMERA_SHIFT_NM` of these centres; None without one."""
    for camera in map(load_sensor, sensor_names("camera")):
        nominal = camera.grid.wavelength_nm
        if len(nominal) == len(wavelength_nm) and np.abs(nominal - wavelength_nm).max() <= MAX_CAMERA_SHIFT_NM:
            return camera
    return None


def _read(path: Path) -> Sensor:
    try:
        return _parsed(path, _read_text(path))
    except (csv.Error, KeyError, OSError, TypeError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise GridError(
            f"{path}: not a table of bands ({str(error)[:200]}); columns center_nm and fwhm_nm in nm, in UTF-8, are "
            "required, band and good (0 or 1) are optional. Correct the table."
        ) from error


def _read_text(path: Path) -> str:
    if (size := path.stat().st_size) > MAX_TABLE_BYTES:
        raise GridError(
            f"{path}: a table of {size / 1e6:.1f} MB; at most {MAX_TABLE_BYTES / 1e6:g} MB are read. Use fewer bands."
        )
    return path.read_text(encoding="utf-8-sig")


def _parsed(path: Path, table: str) -> Sensor:
    lines = table.splitlines()
    keys = dict(line[1:].strip().split(": ", 1) for line in lines if line.startswith("#") and ": " in line)
    parsers = KEYS if path.parent == TABLES else USER_KEYS
    rows = list(csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")))
    if len(rows) > MAX_BANDS:
        raise GridError(f"{path}: {len(rows)} bands; at most {MAX_BANDS} are allowed. Use fewer bands.")
    centre = np.array([float(row["center_nm"]) for row in rows])
    width = np.array([float(row["fwhm_nm"]) for row in rows])
    good = np.array([int(row.get("good") or 1) == 1 for row in rows], dtype=bool)
    low, high = RANGE_NM
    outside = centre[(centre < low) | (centre > high)]
    if len(outside):
        which = ", ".join(f"{nm:g}" for nm in outside[:5])
        raise GridError(
            f"{path}: bands at {which} nm; {low:.0f}-{high:.0f} nm is allowed. Remove them, or give centres in nm."
        )
    narrow, wide = WIDTHS_NM
    if odd := [nm for nm in width.tolist() if nm > 0 and not narrow <= nm <= wide]:
        raise GridError(f"{path}: a band is {odd[0]:g} nm wide; {narrow:g}-{wide:g} nm is allowed. Give fwhm_nm in nm.")
    names = tuple(row.get("band") or f"B{i + 1:03d}" for i, row in enumerate(rows))
    common = [(text, row["band"]) for row in rows for text in (row.get("common_names") or "").split()]
    possible = {"cirrus": frozenset(keys["toa_band"].split()[:1])} if "toa_band" in keys else {}
    for text, band in common:
        possible[text.rstrip("?")] = possible.get(text.rstrip("?"), frozenset()) | {band}
    return Sensor(
        name=path.stem,
        citation=keys.get("source", str(path)),
        grid=SpectralGrid(names, centre, width, good, _read_response(path)),
        common_names={text: band for text, band in common if not text.endswith("?")},
        possible_bands=possible,
        **{"title": path.stem} | {key: parse(keys[key]) for key, parse in parsers.items() if key in keys},
    )


def _read_response(path: Path) -> Response | None:
    table = TABLES / "responses" / path.name
    if path.parent != TABLES or not table.is_file():
        return None
    values = np.loadtxt(table, delimiter=",", skiprows=2)
    return Response(values[:, 0], values[:, 1:].T)
