"""A multispectral GeoTIFF, or any single raster that GDAL reads, as a scene."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.header import Header, declared_in, read_header
from ms2hs.scenes.bands import SKIP, canonical, check_bands, match_names, match_wavelengths, names_fit_wavelengths
from ms2hs.scenes.plausibility import most_plausible, stored_sample
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.radiometry import BASELINE_IN_NAME, RadiometricRule, rules_of_raster
from ms2hs.scenes.recognition import DEFAULT_SOURCE, TIME_TAG, platform_note, refuse_unsuitable, source_of_file
from ms2hs.scenes.scene import CUSTOM, Scene, SceneOptions
from ms2hs.spectra.sensors import RANGE_NM, load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

# With fewer bands of a custom sensor, most of the spectrum is unknown.
MIN_CUSTOM_BANDS = 4
SENSING_TIME = re.compile(r"(?<!\d)(20\d\d)(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?!\d)")
LAYER_KEYS = {layer.name: key for key, layer in QUALITY_LAYERS.items()}


def open_geotiff(path: str, options: SceneOptions) -> Scene:
    """The scene in one raster file.

    Raises
    ------
    SceneError : missing, not a raster, level 1C, too few bands, or numbers that cannot be identified as reflectance.
    """
    with open_dataset(path) as dataset:
        header = read_header(dataset, path)
        refuse_unsuitable(header)
        known = options.source or source_of_file(header)
        source, names = _identify_bands(header, known, options.bands)
        index = [i for i, name in enumerate(names) if name is not None]
        chosen = [name for name in names if name is not None]
        wavelengths = [header.wavelengths[i] for i in index] if source == CUSTOM else []
        centres = np.array([band.centre_nm for band in wavelengths if band is not None])
        widths = np.array([band.fwhm_nm or np.nan for band in wavelengths if band is not None])
        spectral = grid_of(centres, widths) if wavelengths else _grid_of_source(source, chosen)
        rule = _rule(dataset, header, [i + 1 for i in index], spectral, options=options, source=source)
        quality, quality_band = _quality_band(header) if options.quality else (None, 0)
        return Scene(
            id=Path(path).stem,
            source=source,
            assets=rule.assets(chosen, [path] * len(index), [i + 1 for i in index]),
            grid=read_pixel_grid(dataset),
            offset_rule=rule.description,
            wavelength_nm=tuple(centres.tolist()),
            fwhm_nm=tuple(spectral.fwhm_nm.tolist()) if wavelengths else (),
            quality=QUALITY_LAYERS[quality].asset(path, quality_band) if quality else None,
            quality_rule=quality,
            datetime=sensing_time(Path(path).name) or header.tags.get(TIME_TAG.lower()),
            notes=(
                *_notes(header, dataset, names, [platform_note(source)] if known is None and source != CUSTOM else []),
                *rule.notes,
            ),
        )


def _grid_of_source(source: str, names: Sequence[str]) -> SpectralGrid:
    grid = load_sensor(source).grid
    return grid.select(grid.index(names))


def _quality_band(header: Header) -> tuple[str | None, int]:
    """Key in `QUALITY_LAYERS` and 1-based band of the quality layer in a file by `ms2hs fetch`; None without one."""
    layers = ((LAYER_KEYS[text], band) for band, text in enumerate(header.descriptions, 1) if text in LAYER_KEYS)
    return next(layers, (None, 0))


def _identify_bands(header: Header, known: str | None, bands: tuple[str, ...] | None) -> tuple[str, list[str | None]]:
    """The source, and the source's own name of each band in the file; None for a band that is not used.

    The user's names come first, then descriptions, then wavelengths.

    Parameters
    ----------
    known : the source that the user or the file names; None if neither does.
    bands : the user's name of each band.
    """
    source = known or DEFAULT_SOURCE
    if bands is not None:
        names = _names_from_user(bands, header, source)
    elif source == CUSTOM:
        names = [""] * len(header.descriptions)
    else:
        names = [canonical(text or "", source) for text in header.descriptions]
        is_named = _is_enough(names, source) and names_fit_wavelengths(names, header.wavelengths, source)
        if not is_named and any(header.wavelengths):
            names = match_wavelengths(header.wavelengths, source)
            if known is None and (None in names or not _is_enough(names, source)):
                return CUSTOM, _custom_names(header, [""] * len(names))
    if source == CUSTOM:
        return CUSTOM, _custom_names(header, names)
    check_bands(names, source, header.path)
    return source, match_names(names, source)


def _is_enough(names: Sequence[str | None], source: str) -> bool:
    return len(set(match_names(names, source)) - {None}) >= load_sensor(source).min_bands


def _names_from_user(bands: tuple[str, ...], header: Header, source: str) -> list[str | None]:
    count = len(header.descriptions)
    if len(bands) != count:
        raise SceneError(
            f"{header.path}: --bands has {len(bands)} names for {count} bands; one name per band in file order is "
            f"required. Use `{SKIP}` for a band to skip."
        )
    if source == CUSTOM:
        return [None if name == SKIP else name for name in bands]
    names = [None if name == SKIP else canonical(name, source) for name in bands]
    unknown = [text for text, name in zip(bands, names, strict=True) if name is None and text != SKIP]
    if unknown:
        raise SceneError(
            f"{header.path}: --bands has {', '.join(unknown)}; names such as B02 and B8A are allowed. "
            f"Use `{SKIP}` for a band to skip."
        )
    return names


def _custom_names(header: Header, names: Sequence[str | None]) -> list[str | None]:
    """Names of the bands with a wavelength in range; `B001` for a band without a name of its own."""
    low, high = RANGE_NM
    chosen: list[str | None] = []
    for i, (name, band) in enumerate(zip(names, header.wavelengths, strict=True)):
        if name is None or band is None or not low <= band.centre_nm <= high:
            chosen.append(None)
        else:
            text = name or header.descriptions[i] or ""
            chosen.append(text if text and text not in chosen else f"B{i + 1:03d}")
    count = sum(name is not None for name in chosen)
    if count < MIN_CUSTOM_BANDS:
        raise SceneError(
            f"{header.path}: {count} of {len(chosen)} bands have a wavelength within {low:.0f}-{high:.0f} nm; at least "
            f"{MIN_CUSTOM_BANDS} are required. Give the sensor with --source and the bands with --bands, or write "
            "CENTRAL_WAVELENGTH_UM into the bands' IMAGERY domain."
        )
    return chosen


def _rule(
    dataset: DatasetReader, header: Header, bands: Sequence[int], spectral: SpectralGrid, *, source: str,
    options: SceneOptions,
) -> RadiometricRule:  # fmt: skip
    """The rule of the 1-based `bands`, whose spectral grid is `spectral`."""
    declared, where = declared_in(dataset, bands), Path(header.path).name
    rules = rules_of_raster(
        declared,
        options=options,
        sensor=None if source == CUSTOM else load_sensor(source),
        baseline=_baseline(header),
        where=where,
    )
    is_float = any(np.dtype(band.dtype).kind == "f" for band in declared)
    rule = most_plausible(rules, lambda: stored_sample(dataset, bands), spectral)
    return rule.with_options(options, where, is_float=is_float)


def _baseline(header: Header) -> str | None:
    """The processing baseline of Sentinel-2 by a file's tags or name, such as `05.10`; None if unknown."""
    tag = re.fullmatch(r"0?(\d)\.(\d\d)", header.tags.get("processing_baseline", "").strip())
    names = (BASELINE_IN_NAME.search(text) for text in (Path(header.path).name, *header.tags.values()))
    found = tag or next(filter(None, names), None)
    return None if found is None else f"{int(found[1]):02d}.{found[2]}"


def _notes(
    header: Header, dataset: DatasetReader, names: Sequence[str | None], notes: Sequence[str]
) -> tuple[str, ...]:
    notes = list(notes)
    if dataset.crs is None:
        notes.append("The file has no coordinate reference system, so the output has none.")
    unused = [
        f"{i + 1} ({text})" if text else str(i + 1)
        for i, (name, text) in enumerate(zip(names, header.descriptions, strict=True))
        if name is None and text not in LAYER_KEYS
    ]
    if unused:
        notes.append(f"Bands of the file that are not used: {', '.join(unused)}.")
    return tuple(notes)


def sensing_time(name: str) -> str | None:
    """ISO 8601 time in the name of a Sentinel-2 product, such as `20240601T102021`."""
    time = SENSING_TIME.search(name)
    return None if time is None else "{}-{}-{}T{}:{}:{}Z".format(*time.groups())
