"""A multispectral GeoTIFF, or any single raster that GDAL reads, as a scene."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import alpha_bands, georeference_note, open_dataset, read_bands, read_pixel_grid
from ms2hs.raster.dates import acquisition_time
from ms2hs.raster.header import Header, read_header
from ms2hs.scenes.bands import SKIP, canonical, check_bands, match_names, match_wavelengths, names_fit_wavelengths
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.radiometry import RadiometricRule, rule_of_raster
from ms2hs.scenes.recognition import DEFAULT_SOURCE, platform_note, refuse_unsuitable, source_of_file
from ms2hs.scenes.scene import CUSTOM, Scene, SceneOptions
from ms2hs.spectra.sensors import RANGE_NM, load_sensor
from ms2hs.spectra.spectral_grid import grid_of

# With fewer bands of a custom sensor, most of the spectrum is unknown.
MIN_CUSTOM_BANDS = 4
# Side in pixels of the sample from which the 99th percentile of floats is estimated.
SAMPLE_PIXELS = 512
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
        rule = _rule(dataset, index, source, options.dn_offset)
        quality, quality_band = _quality_band(header) if options.quality else (None, 0)
        wavelengths = [header.wavelengths[i] for i in index] if source == CUSTOM else []
        centres = np.array([band.centre_nm for band in wavelengths if band is not None])
        widths = np.array([band.fwhm_nm or np.nan for band in wavelengths if band is not None])
        time, time_notes = acquisition_time(Path(path).name, header.tags)
        platform = [platform_note(source)] if known is None and source != CUSTOM else []
        return Scene(
            id=Path(path).stem,
            source=source,
            assets=rule.assets([*filter(None, names)], [path] * len(index), [i + 1 for i in index]),
            grid=read_pixel_grid(dataset),
            offset_rule=rule.description,
            wavelength_nm=tuple(centres.tolist()),
            fwhm_nm=tuple(grid_of(centres, widths).fwhm_nm.tolist()) if wavelengths else (),
            quality=QUALITY_LAYERS[quality].asset(path, quality_band) if quality else None,
            quality_rule=quality,
            datetime=time,
            notes=_notes(header, dataset, names, [*platform, *time_notes]),
        )


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


def _rule(dataset: DatasetReader, index: Sequence[int], source: str, dn_offset: float | None) -> RadiometricRule:
    dtypes = [dataset.dtypes[i] for i in index]
    p99 = None
    if np.result_type(*dtypes).kind == "f":
        shape = (min(SAMPLE_PIXELS, dataset.height), min(SAMPLE_PIXELS, dataset.width))
        stored = read_bands(dataset, [i + 1 for i in index], shape=shape)
        usable = np.isfinite(stored) & (stored != (0 if dataset.nodata is None else dataset.nodata))
        p99 = float(np.percentile(stored[usable], 99)) if usable.any() else 0.0
    try:
        return rule_of_raster(
            dtypes,
            [dataset.scales[i] for i in index],
            [dataset.offsets[i] for i in index],
            nodata=[dataset.nodatavals[i] for i in index],
            p99=p99,
            dn_offset=dn_offset,
            sensor=None if source == CUSTOM else load_sensor(source),
        )
    except SceneError as error:
        raise SceneError(f"{dataset.name}: {error}") from error


def _notes(
    header: Header, dataset: DatasetReader, names: Sequence[str | None], notes: Sequence[str]
) -> tuple[str, ...]:
    notes = list(notes)
    notes += filter(None, [georeference_note(dataset)])
    alpha = {band - 1 for band in alpha_bands(dataset)}
    unused = [
        f"{i + 1} ({text})" if text else str(i + 1)
        for i, (name, text) in enumerate(zip(names, header.descriptions, strict=True))
        if name is None and text not in LAYER_KEYS and i not in alpha
    ]
    if unused:
        notes.append(f"Bands of the file that are not used: {', '.join(unused)}.")
    baseline = header.tags.get("processing_baseline", "").strip()
    if re.fullmatch(r"0?[4-9]\.\d\d", baseline):
        notes.append(
            f"The processing baseline is {baseline}: unless the archive subtracted it, the stored numbers contain an "
            "offset of 1000 (--dn-offset -1000)."
        )
    return tuple(notes)
