"""Metadata of a result: its provenance, and the STAC item beside it."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote, urlsplit

from ms2hs._version import __version__
from ms2hs.conversion.planning import Plan
from ms2hs.conversion.result_files import ConversionResult
from ms2hs.conversion.site_adaptation import site_text
from ms2hs.errors import SceneError
from ms2hs.files import read_json, write_bytes
from ms2hs.models.prior import Posterior
from ms2hs.raster.container import file_of
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.cube_writer import cube_names
from ms2hs.raster.formats import format_of
from ms2hs.raster.pixel_grid import footprint, lonlat_bounds, pixel_size_m
from ms2hs.raster.quicklook import Stretch
from ms2hs.remote.client import MAX_DOCUMENT_BYTES
from ms2hs.remote.object_store import OutputPath
from ms2hs.remote.url_policy import shown
from ms2hs.scenes.recognition import platform_note
from ms2hs.scenes.scene import CUSTOM, Scene
from ms2hs.scenes.stac_item import cube_bands
from ms2hs.scenes.stac_metadata import PROJECTION_EXTENSION, parse_item, projection_properties, time_properties, utc_now
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM, load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, Support, band_support

EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    PROJECTION_EXTENSION,
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/render/v2.0.0/schema.json",
]
GEOJSON_TYPE = "application/geo+json"


def provenance(planned: Plan) -> dict[str, str]:
    """How a result is computed: text by name, for tags and the STAC item."""
    scene, weights, options = planned.scene, planned.weights, planned.options
    facts = {
        "synthetic": "YES",
        "version": __version__,
        "scene": scene.id,
        "source": scene.source,
        "target": planned.target,
        "model": weights.name,
        "weights_sha256": weights.sha256,
        "offset_rule": scene.offset_rule,
    }
    if planned.window_size:
        facts["window_size"] = str(planned.window_size)
    if planned.input_error:
        facts["input_error"] = str(planned.input_error)
    if options.reference:
        facts["reference"] = options.reference.name
    if options.site_cubes:
        facts["site"] = ", ".join(map(site_text, options.site_cubes))
    return facts


def supported_bands(planned: Plan, model: Posterior) -> SpectralGrid:
    """The output bands with their support; bands that the prior `model` has never seen are inferred."""
    support = band_support(planned.scene.spectral, planned.spectral)
    known: list[Support] = [how if seen else "inferred" for how, seen in zip(support, model.known, strict=True)]
    return replace(planned.spectral, support=tuple(known))


def write_item(path: Path, planned: Plan, result: ConversionResult, model: Posterior, stretch: Stretch) -> None:
    """Write the STAC 1.1 item of a result, with the support by the adapted prior, and the quicklook's contrast."""
    grid, bbox, bands = planned.grid, lonlat_bounds(planned.grid), supported_bands(planned, model)
    now = utc_now()
    properties: dict[str, Any] = time_properties(planned.scene.datetime, now) | {"created": now}
    properties |= _source_properties(planned.scene)
    properties |= {"gsd": round(min(pixel_size_m(grid)), 3)} if grid.crs else {}
    properties |= projection_properties(grid) | {f"ms2hs:{name}": text for name, text in provenance(planned).items()}
    properties |= {
        "renders": {"natural": _render(bands, stretch)},
        "ms2hs:pixels": vars(result.counts),
        "ms2hs:measured_band_residual_rmse": result.residual,
        "ms2hs:seconds": {stage: round(value, 2) for stage, value in result.seconds.items()},
        "ms2hs:notes": [*result.notes, *filter(None, [result.clouds])],
    }
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": result.output.stem,
        **({"collection": planned.options.collection} if planned.options.collection else {}),
        "geometry": footprint(grid),
        **({"bbox": list(bbox)} if bbox else {}),
        "properties": properties,
        "links": list(_links(planned, result)),
        "assets": _assets(planned, result, bands),
    }
    write_bytes(path, (json.dumps(item, indent=1) + "\n").encode())


def _source_properties(scene: Scene) -> dict[str, Any]:
    """Satellite and instruments of the input; no satellite if it is assumed."""
    if scene.source == CUSTOM:
        return {}
    sensor = load_sensor(scene.source)
    platform = "" if platform_note(scene.source) in scene.notes else sensor.platform
    facts = {"platform": platform, "constellation": sensor.constellation, "instruments": list(sensor.instruments)}
    return {name: value for name, value in facts.items() if value}


def _render(bands: SpectralGrid, stretch: Stretch) -> dict[str, Any]:
    """The quicklook's colours for tile servers, in stored numbers; `bidx` for servers that do not know `bands`."""
    limits = [round(value / SCALE) for value in (stretch.low, stretch.high)]
    colours = zip(bands.wavelength_nm[list(stretch.bands)], RGB_NM, strict=False)
    is_natural = all(abs(shown_nm - colour_nm) <= RGB_REACH_NM for shown_nm, colour_nm in colours)
    return {
        "title": "Natural colour" if is_natural else "False colour",
        "assets": ["data"],
        "bands": [[bands.names[band] for band in stretch.bands]],
        "bidx": [band + 1 for band in stretch.bands],
        "rescale": [limits] * len(stretch.bands),
        "nodata": NODATA,
        "resampling": "nearest",
    }


# ---- links and addresses --------------------------------------------------------------------------------------------


def _href(planned: Plan, name: str) -> str:
    """The address of a file of the result: relative to the item, or below `href_base`."""
    base = planned.options.href_base
    if base is None:
        return f"./{name}"
    return f"{base.rstrip('/')}/{quote(name) if '://' in base else name}"


def _links(planned: Plan, result: ConversionResult) -> Iterator[dict[str, str]]:
    """The item itself, its collection, and the item of the input and where that came from, as far as known."""
    if planned.options.href_base:
        yield {"rel": "self", "href": _href(planned, result.item.name), "type": GEOJSON_TYPE}
    if planned.options.collection:
        yield {"rel": "collection", "href": _href(planned, "collection.json"), "type": "application/json"}
    local, web = _source_items(planned.scene)
    if local and not planned.options.href_base and not planned.is_temporary:
        relative = PurePath(os.path.relpath(local, planned.output.parent)).as_posix()
        yield {"rel": "derived_from", "href": relative, "type": GEOJSON_TYPE}
    elif web:
        yield {"rel": "derived_from", "href": web, "type": GEOJSON_TYPE}
    if web:
        yield {"rel": "via", "href": web, "type": GEOJSON_TYPE}


def _source_items(scene: Scene) -> tuple[Path | None, str]:
    """The item of the input on this machine, and its address in a catalogue; None and empty if unknown.

    `fetch` writes an item beside a scene, or into a folder of band files, which names the catalogue's item.
    """
    if "://" in scene.item:
        return None, shown(scene.item)
    file = file_of(scene.assets[0].href)
    candidates = (
        [Path(scene.item)] if scene.item else [file.with_suffix(".json"), file.parent / f"{file.parent.name}.json"]
    )
    for path in candidates:
        try:
            item = parse_item(read_json(path, MAX_DOCUMENT_BYTES))
        except (OSError, ValueError, RecursionError, SceneError):
            continue
        names = {PurePath(urlsplit(str(asset.get("href"))).path).name for asset in item["assets"].values()}
        if scene.item or file.name in names:
            return path, _catalogue_address(item["links"])
    return None, ""


def _catalogue_address(links: Iterable[dict[str, Any]]) -> str:
    addresses = {link.get("rel"): str(link.get("href")) for link in links}
    address = addresses.get("derived_from") or addresses.get("self") or ""
    return shown(address) if address.startswith(("https://", "http://")) else ""


# ---- assets ---------------------------------------------------------------------------------------------------------


def _assets(planned: Plan, result: ConversionResult, bands: SpectralGrid) -> dict[str, Any]:
    def asset(name: str, media_type: str, role: str) -> dict[str, Any]:
        return {"href": _href(planned, name), "type": media_type, "roles": [role]}

    def cube(key: str, path: OutputPath, role: str, bands: dict[str, Any]) -> dict[str, Any]:
        name, *headers = cube_names(path)
        header = {f"{key}-header": asset(one, "text/plain", "metadata") for one in headers}
        return {key: asset(name, format_of(path).media_type, role) | bands} | header

    assets = cube("data", result.output, "data", cube_bands(bands, common_names=True))
    assets["thumbnail"] = asset(result.quicklook.name, "image/png", "thumbnail")
    assets["style"] = asset(result.style.name, "text/xml", "metadata") | {"title": "QGIS style: natural colour"}
    if result.sigma:
        title = "Standard uncertainty: value ± 1.645 sigma is the calibrated 90 % interval"
        names = cube_bands(replace(bands, names=tuple(f"{name}_sigma" for name in bands.names)))
        assets |= cube("sigma", result.sigma, "uncertainty", {"title": title} | names)
    return assets
