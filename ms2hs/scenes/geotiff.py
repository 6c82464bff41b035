"""A multispectral GeoTIFF, or any single raster that GDAL reads, as a scene."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_bands, read_pixel_grid
from ms2hs.raster.header import Header, read_header
from ms2hs.scenes.bands import (
    CUSTOM,
    SKIP,
    agree,
    canonical,
    check_bands,
    check_source,
    is_sentinel2,
    match_names,
    match_wavelengths,
    needed,
)
from ms2hs.scenes.radiometry import Calibration, from_file, overridden
from ms2hs.scenes.scene import Asset, Scene, SceneOptions
from ms2hs.spectra.sensors import RANGE_NM, sensor_names
from ms2hs.spectra.spectral_grid import grid_of

# Where only the wavelengths of bands are known, fewer than this many say too little of a spectrum.
FEWEST_CUSTOM = 4
DEFAULT_SOURCE = "sentinel2a"
PLATFORM = re.compile(r"(?<![A-Z0-9])S(?:ENTINEL[-_ ]?)?2([ABC])(?![A-Z0-9])", re.IGNORECASE)
# The official names only: a chip called `hls_L30_crop.tif` may hold anything.
HLS = re.compile(r"(?<![A-Z0-9])HLS\.([SL]30)\.T\d{2}[A-Z]{3}\.\d{7}T\d{6}\.v\d\.\d")
LANDSAT = re.compile(r"(?<![A-Z0-9])LC0([89])_L2SP_")
# How `fetch` writes down what it knows.
SOURCE_TAG, TIME_TAG = "MS2HS_SOURCE", "ACQUISITION_DATETIME"
QUALITY = ("SCL", "Fmask")
LEVEL_1C_NAME = re.compile(r"_MSIL1C_|S2MSI1C")
LEVEL_1C_VALUE = re.compile(r"(level[-_ ]?|l)1c", re.IGNORECASE)
SENSING_TIME = re.compile(r"(?<!\d)(20\d\d)(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?!\d)")


def open_geotiff(path: str, choices: SceneOptions) -> Scene:
    """The scene in one raster file.

    Raises
    ------
    SceneError : missing, no raster, level 1C, too few bands, or numbers that cannot be told to be reflectance.
    UnknownName : `choices.source` is no source.
    """
    with open_dataset(path) as dataset:
        header = read_header(dataset, path)
        _refuse(header)
        told = check_source(choices.source) if choices.source else platform_of(header)
        quality = _quality(header) if choices.quality else None
        source, names = _recognise(header, told, choices.bands)
        index = [i for i, name in enumerate(names) if name is not None]
        calibration = _calibration(dataset, index, source, choices.dn_offset)
        notes = _notes(header, dataset, names, told is None and source != CUSTOM)
        assets = _assets(dataset, path, names, calibration, is_sentinel2(source))
        found = [header.wavelengths[i] for i in index] if source == CUSTOM else []
        centres = np.array([band.centre_nm for band in found if band is not None])
        widths = np.array([band.fwhm_nm or np.nan for band in found if band is not None])
        return Scene(
            id=Path(path).stem,
            source=source,
            assets=assets,
            grid=read_pixel_grid(dataset),
            offset_rule=calibration.rule,
            wavelength_nm=tuple(centres.tolist()),
            fwhm_nm=tuple(grid_of(centres, widths).fwhm_nm.tolist()) if found else (),
            quality=quality,
            quality_rule=quality.name.lower() if quality else None,
            datetime=sensing_time(Path(path).name) or header.tags.get(TIME_TAG.lower()),
            notes=notes,
        )


def _refuse(header: Header) -> None:
    """Refuse what is no surface reflectance by its own account: level 1C, and our own results."""
    name = Path(header.path).name
    is_2a = any("MSIL2A" in text for text in (name, *header.tags.values()))
    named = [text for text in (name, *header.tags.values()) if LEVEL_1C_NAME.search(text)]
    tagged = [f"{key}={text}" for key, text in header.tags.items() if LEVEL_1C_VALUE.fullmatch(text.strip())]
    # Products of level 2A name the level-1C product that they come from.
    if tagged or (named and not is_2a):
        raise SceneError(
            f"{header.path}: is level 1C, top of atmosphere ({(tagged or named)[0]}); surface reflectance (level 2A) "
            "is needed. Get the L2A product of the same scene."
        )
    if header.tags.get("ms2hs_synthetic", "").upper() == "YES":
        raise SceneError(
            f"{header.path}: was made by ms2hs (MS2HS_SYNTHETIC=YES); a measured multispectral scene is needed. "
            "Give the scene that it was made from."
        )


def platform_of(header: Header) -> str | None:
    """The sensor that the file's name or tags tell of; None where they tell of none or of several."""
    if (own := header.tags.get(SOURCE_TAG.lower())) in sensor_names("source"):
        return own
    texts = (Path(header.path).name, *header.tags.values())
    found = {f"hls_{match.lower()}" for text in texts for match in HLS.findall(text)}
    found = found or {f"landsat{match}" for text in texts for match in LANDSAT.findall(text)}
    found = found or {f"sentinel2{match.lower()}" for text in texts for match in PLATFORM.findall(text)}
    return found.pop() if len(found) == 1 else None


def _quality(header: Header) -> Asset | None:
    """The band that tells clouds, in the files that `fetch` writes."""
    for band, text in enumerate(header.descriptions, 1):
        if text in QUALITY:
            return Asset(text, header.path, band, 1.0, 0.0, None)
    return None


def _recognise(header: Header, told: str | None, bands: tuple[str, ...] | None) -> tuple[str, list[str | None]]:
    """The source, and for each band of the file the source's own name of it, None for those to leave out.

    The user's names come first, then descriptions, then wavelengths.
    """
    if bands is not None:
        names = _names_from_user(bands, header, told)
        if told == CUSTOM:
            return CUSTOM, _custom_names(header, names)
        return _settled(header, names, told or DEFAULT_SOURCE)
    if told == CUSTOM:
        return CUSTOM, _custom_names(header, [""] * len(header.descriptions))
    source = told or DEFAULT_SOURCE
    names = [canonical(text or "") for text in header.descriptions]
    enough = _count(names, source) >= needed(source) and agree(names, header.wavelengths, source)
    if not enough and any(header.wavelengths):
        by_wavelength = match_wavelengths(header.wavelengths, source)
        has_all = None not in by_wavelength and _count(by_wavelength, source) >= needed(source)
        if told or has_all:
            names = by_wavelength
        else:
            return CUSTOM, _custom_names(header, [""] * len(header.descriptions))
    return _settled(header, names, source)


def _count(names: Sequence[str | None], source: str) -> int:
    return len({name for name in match_names(names, source) if name is not None})


def _settled(header: Header, names: Sequence[str | None], source: str) -> tuple[str, list[str | None]]:
    check_bands(names, source, header.path)
    return source, match_names(names, source)


def _names_from_user(bands: tuple[str, ...], header: Header, told: str | None) -> list[str | None]:
    count = len(header.descriptions)
    if len(bands) != count:
        raise SceneError(
            f"{header.path}: --bands has {len(bands)} names for {count} bands; one a band in file order is needed. "
            f"Write `{SKIP}` for a band to skip."
        )
    if told == CUSTOM:
        return [None if name == SKIP else name for name in bands]
    names = [None if name == SKIP else canonical(name) for name in bands]
    unknown = [text for text, name in zip(bands, names, strict=True) if name is None and text != SKIP]
    if unknown:
        raise SceneError(
            f"{header.path}: --bands has {', '.join(unknown)}; names such as B02 and B8A are allowed. "
            f"Write `{SKIP}` for a band to skip."
        )
    return names


def _custom_names(header: Header, names: Sequence[str | None]) -> list[str | None]:
    """Names of the bands that have a wavelength within reach; `B001` where none is given or it is there before."""
    low, high = RANGE_NM
    chosen: list[str | None] = []
    for i, (name, band) in enumerate(zip(names, header.wavelengths, strict=True)):
        if name is None or band is None or not low <= band.centre_nm <= high:
            chosen.append(None)
        else:
            text = name or header.descriptions[i] or ""
            chosen.append(text if text and text not in chosen else f"B{i + 1:03d}")
    count = sum(name is not None for name in chosen)
    if count < FEWEST_CUSTOM:
        raise SceneError(
            f"{header.path}: {count} of {len(chosen)} bands carry a wavelength within {low:.0f}-{high:.0f} nm; "
            f"at least {FEWEST_CUSTOM} are needed. Give the sensor with --source and the bands with --bands, or write "
            "CENTRAL_WAVELENGTH_UM into the bands' IMAGERY domain."
        )
    return chosen


def _calibration(dataset: DatasetReader, index: Sequence[int], source: str, dn_offset: float | None) -> Calibration:
    dtypes = {dataset.dtypes[i] for i in index}
    dtype = str(np.result_type(*dtypes))
    p99 = None
    if np.dtype(dtype).kind == "f":
        shape = (min(512, dataset.height), min(512, dataset.width))
        stored = read_bands(dataset, [i + 1 for i in index], shape=shape)
        usable = np.isfinite(stored) & (stored != (0 if dataset.nodata is None else dataset.nodata))
        p99 = float(np.percentile(stored[usable], 99)) if usable.any() else 0.0
    scales, offsets = [dataset.scales[i] for i in index], [dataset.offsets[i] for i in index]
    bare = set(scales) == {1.0} and not any(offsets)
    if source.startswith("landsat") and dtype == "uint16" and bare:
        return overridden(_landsat_calibration(len(index)), dn_offset)
    try:
        return from_file(dtype, scales, offsets, p99, dn_offset)
    except SceneError as error:
        raise SceneError(f"{dataset.name}: {error}") from error


def _landsat_calibration(bands: int) -> Calibration:
    """What USGS says of its 16-bit surface reflectance, which the files do not say themselves.

    Landsat 8-9 Collection 2 Level 2 Science Product Guide (LSDS-1619), table of scaling: 0.0000275 and -0.2.
    """
    scale, offset = 2.75e-5, -0.2
    rule = f"Landsat Collection 2 level 2 (uint16): scale {scale:g} and offset {offset:g}"
    return Calibration((scale,) * bands, (offset / scale,) * bands, rule)


def _assets(
    dataset: DatasetReader, path: str, names: Sequence[str | None], calibration: Calibration, zero_is_none: bool
) -> tuple[Asset, ...]:
    assets = []
    rules = iter(zip(calibration.dn_scale, calibration.dn_offset, strict=True))
    for i, name in enumerate(names):
        if name is None:
            continue
        nodata = dataset.nodatavals[i]
        if nodata is None and zero_is_none and np.dtype(dataset.dtypes[i]).kind in "iu":
            nodata = 0.0
        # NaN is never a value, so it needs no number of its own, and JSON has none.
        scale, offset = next(rules)
        assets.append(Asset(name, path, i + 1, scale, offset, None if nodata is None or np.isnan(nodata) else nodata))
    return tuple(assets)


def _notes(header: Header, dataset: DatasetReader, names: Sequence[str | None], is_guessed: bool) -> tuple[str, ...]:
    notes = []
    if is_guessed:
        notes.append(
            f"Which Sentinel-2 took it is not said: taken as {DEFAULT_SOURCE}; give --source if it is another."
        )
    if dataset.crs is None:
        notes.append("The file has no coordinate reference system: the result will have none.")
    left_out = [
        f"{i + 1} ({header.descriptions[i]})" if header.descriptions[i] else str(i + 1)
        for i, name in enumerate(names)
        if name is None and header.descriptions[i] not in QUALITY
    ]
    if left_out:
        notes.append(f"Bands of the file that are not used: {', '.join(left_out)}.")
    baseline = header.tags.get("processing_baseline", "")
    if re.fullmatch(r"0?[4-9]\.\d\d", baseline.strip()):
        notes.append(
            f"Its processing baseline is {baseline}: unless the archive took it out, an offset of -1000 belongs to the "
            "stored numbers (--dn-offset -1000)."
        )
    return tuple(notes)


def sensing_time(name: str) -> str | None:
    """ISO 8601 time in the name of a Sentinel-2 product, such as `20240601T102021`."""
    found = SENSING_TIME.search(name)
    return None if found is None else "{}-{}-{}T{}:{}:{}Z".format(*found.groups())
