"""A multispectral GeoTIFF, or any single raster that GDAL reads, as a scene."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import ALPHA, alpha_bands, georeference_note, open_dataset, read_pixel_grid
from ms2hs.raster.dates import acquisition_time
from ms2hs.raster.header import Header, Wavelength, declared_in, read_header
from ms2hs.scenes.bands import (
    SKIP,
    canonical,
    check_bands,
    check_names,
    check_user_names,
    contradiction,
    is_enough,
    match_names,
    match_wavelengths,
    name_bands,
    names_fit_wavelengths,
)
from ms2hs.scenes.plausibility import most_plausible
from ms2hs.scenes.quality import Candidate, QualityChoice, choose_layers, layer_named
from ms2hs.scenes.radiometry import RadiometricRule, rules_of_raster
from ms2hs.scenes.recognition import DEFAULT_SOURCE, baseline_of_file, platform_note, refuse_unsuitable, source_of_file
from ms2hs.scenes.scene import CUSTOM, Asset, Scene, SceneOptions
from ms2hs.spectra.sensors import RANGE_NM, Sensor, load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

# With fewer bands of a custom sensor, most of the spectrum is unknown.
MIN_CUSTOM_BANDS = 4
# With more bands of unknown wavelength, a file is no multispectral scene with a few layers.
MOST_UNKNOWN_BANDS = 40
# Files of FORCE: reflectance, and the quality layer beside it.
FORCE_FILE = re.compile(r"(.*)_BOA\.(tif|dat)", re.IGNORECASE)


def open_geotiff(path: str, options: SceneOptions) -> Scene:
    """The scene in one raster file.

    Raises
    ------
    SceneError : missing, not a raster, level 1C, too few bands, or numbers that cannot be identified as reflectance.
    """
    if options.granule is not None:
        raise SceneError(
            f"{path}: --granule {options.granule}, but a raster file is one scene; a product with several granules is "
            "required. Remove --granule."
        )
    with open_dataset(path) as dataset:
        if dataset.count < 2:
            raise SceneError(
                f"{path}: has {'one band' if dataset.count else 'no bands'}; a multispectral scene is required. Give a "
                "file with all bands, a folder or archive with one file per band, or a NetCDF file with the suffix .nc."
            )
        header = read_header(dataset, path)
        refuse_unsuitable(header)
        known = options.source or source_of_file(header)
        if known in sensor_names("camera"):
            header, known = _of_camera(header, load_sensor(known)), CUSTOM
        source, names = _identify_bands(header, known, options.bands)
        index = [i for i, name in enumerate(names) if name is not None]
        chosen = [name for name in names if name is not None]
        wavelengths = [header.wavelengths[i] for i in index] if source == CUSTOM else []
        centres = np.array([band.centre_nm for band in wavelengths if band is not None])
        widths = np.array([band.fwhm_nm or np.nan for band in wavelengths if band is not None])
        spectral = grid_of(centres, widths) if wavelengths else _grid_of_source(source, chosen)
        rule = _rule(dataset, header, [i + 1 for i in index], spectral, options=options, source=source)
        quality = _quality(header, names, options, source)
        time, time_notes = acquisition_time(Path(path).name, header.tags)
        return Scene(
            id=Path(path).stem,
            source=source,
            assets=_labelled(rule.assets(chosen, [path] * len(index), [i + 1 for i in index]), header),
            grid=read_pixel_grid(dataset),
            offset_rule=rule.description,
            rule_origin=rule.origin,
            wavelength_nm=tuple(centres.tolist()),
            fwhm_nm=tuple(spectral.fwhm_nm.tolist()) if wavelengths else (),
            quality=quality.layers,
            quality_note=quality.note,
            datetime=time,
            notes=_notes(
                header,
                dataset,
                [*index, *(layer.band - 1 for layer in quality.layers if layer.href == path)],
                [*_doubts(header, source, names, options, is_known=known is not None), *time_notes, *rule.notes],
            ),
        )


def _of_camera(header: Header, camera: Sensor) -> Header:
    """The header with the camera's nominal wavelengths, or with its widths, if the file has none."""
    nominal, count = camera.grid, len(header.wavelengths)
    known = [band for band in header.wavelengths if band is not None]
    if not known and count != len(nominal):
        raise SceneError(
            f"{header.path}: {count} bands without wavelengths; {camera.name} has {len(nominal)}. Write the centres in "
            "nm into the header, as `wavelength = {...}`."
        )
    centres = [band.centre_nm for band in known] if len(known) == count else nominal.wavelength_nm.tolist()
    widths = [band.fwhm_nm for band in known]
    if known and (len(known) < count or None not in widths):
        return header
    widths = np.interp(centres, nominal.wavelength_nm, nominal.fwhm_nm).tolist()
    wavelengths = tuple(Wavelength(centre, width) for centre, width in zip(centres, widths, strict=True))
    return replace(header, wavelengths=wavelengths, camera=camera.name)


def _labelled(assets: Sequence[Asset], header: Header) -> tuple[Asset, ...]:
    """The bands, each with its position and description in the file."""
    texts = {band: text for band, text in enumerate(header.descriptions, 1) if text}
    return tuple(
        replace(asset, label=f"band {asset.band}" + (f" ({texts[asset.band]})" if asset.band in texts else ""))
        for asset in assets
    )


def _grid_of_source(source: str, names: Sequence[str]) -> SpectralGrid:
    grid = load_sensor(source).grid
    return grid.select(grid.index(names))


def _doubts(
    header: Header, source: str, names: Sequence[str | None], options: SceneOptions, *, is_known: bool
) -> list[str]:
    """Notes about a platform that is assumed, and about names and wavelengths that contradict the user's names."""
    if source == CUSTOM:
        return []
    notes = [] if is_known else [platform_note(source)]
    if options.bands and not any(header.wavelengths):
        described = match_names(name_bands(header.descriptions, source), source)
        if other := [f"{b} of the file is {a}" for a, b in zip(names, described, strict=True) if a and b and a != b]:
            notes.append(f"warning: The names of --bands contradict the file's, and are used ({', '.join(other[:3])}).")
    if not names_fit_wavelengths([name and canonical(name, source) for name in names], header.wavelengths, source):
        notes.append("warning: The wavelengths in the file contradict the names of --bands, which are used.")
    return notes


def _quality(header: Header, names: Sequence[str | None], options: SceneOptions, source: str) -> QualityChoice:
    """The quality layers among the bands that have no spectral name, or in FORCE's file beside the scene."""
    if not options.quality:
        return QualityChoice((), "clouds are kept: --no-quality")
    given = options.bands or (SKIP,) * len(names)
    candidates = [
        Candidate(text, header.path, band, f"band {band}")
        for band, (name, own, user) in enumerate(zip(names, header.descriptions, given, strict=True), 1)
        if name is None and (text := (own or "") if user == SKIP else user) and not ALPHA.fullmatch(text)
    ]
    match = FORCE_FILE.fullmatch(header.path)
    if match and (beside := Path(f"{match[1]}_QAI.{match[2]}")).is_file():
        candidates.append(Candidate("QAI", str(beside), 1, beside.name))
    return choose_layers(candidates, "file", "" if source == CUSTOM else load_sensor(source).quality)


def _identify_bands(header: Header, known: str | None, bands: tuple[str, ...] | None) -> tuple[str, list[str | None]]:
    """The source, and the source's own name of each band in the file; None for a band that is not used.

    The user's names decide, then descriptions and wavelengths, which must agree.

    Parameters
    ----------
    known : the source that the user or the file names; None if neither does.
    bands : the user's name of each band.
    """
    source = known or DEFAULT_SOURCE
    if bands is not None and len(bands) != len(header.descriptions):
        raise SceneError(
            f"{header.path}: --bands has {len(bands)} names for {len(header.descriptions)} bands; one name per band in "
            f"file order is required. Use `{SKIP}` for a band to skip."
        )
    if bands is None and len(header.descriptions) > MOST_UNKNOWN_BANDS and not any(header.wavelengths):
        raise SceneError(
            f"{header.path}: {len(header.descriptions)} bands without wavelengths; a hyperspectral cube requires "
            "one for each band. Write `wavelength = {...}` in nm into its ENVI header, or name the camera: --source "
            f"{' or '.join(sensor_names('camera'))}."
        )
    if source == CUSTOM:
        own = ["" for _ in header.descriptions] if bands is None else [None if name == SKIP else name for name in bands]
        return CUSTOM, _custom_names(header, own)
    if bands is not None:
        # The number in `Band 12: SCL` is the position in the file, so names of quality layers are not read as bands.
        given = [SKIP if layer_named(name) else name for name in bands]
        names = check_user_names(given, source, header.path, is_known=known is not None)
        return source, match_names(names, source)
    texts = [SKIP if layer_named(text or "") else text for text in header.descriptions]
    named = name_bands(texts, source)
    agree = names_fit_wavelengths(named, header.wavelengths, source)
    if any(header.wavelengths) and not (is_enough(named, source) and agree):
        measured = match_wavelengths(header.wavelengths, source)
        if is_enough(named, source) and is_enough(measured, source):
            raise contradiction(named, measured, header.path)
        if known is None and (None in measured or not is_enough(measured, source)):
            return CUSTOM, _custom_names(header, [""] * len(measured))
        check_bands(measured, source, header.path)
        return source, match_names(measured, source)
    names = check_names(texts, source, header.path, is_known=known is not None)
    return source, match_names(names, source)


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
        baseline=baseline_of_file(header),
        where=where,
    )
    rule = most_plausible(rules, [header.path] * len(bands), bands, read_pixel_grid(dataset), spectral)
    return rule.with_options(options, where)


def _notes(header: Header, dataset: DatasetReader, used: Sequence[int], notes: Sequence[str]) -> tuple[str, ...]:
    notes = list(notes)
    notes += filter(None, [georeference_note(dataset)])
    if header.camera:
        notes.append(f"Wavelengths or widths that the file lacks are nominal, of {header.camera}.")
    alpha = {band - 1 for band in alpha_bands(dataset)}
    unused = [
        f"{i + 1} ({text})" if text else str(i + 1)
        for i, text in enumerate(header.descriptions)
        if i not in used and i not in alpha
    ]
    if unused:
        notes.append(f"Bands of the file that are not used: {', '.join(unused)}.")
    return tuple(notes)
