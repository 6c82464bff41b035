"""Tables on stdout: of `ms2hs info`, and the contract of a scene."""

from typing import Any

from ms2hs.errors import UnknownName, visible
from ms2hs.models.config import PRESETS, ModelConfig
from ms2hs.models.weights import SUFFIX, Weights, load_weights, weights_names
from ms2hs.spectra.sensors import Sensor, load_sensor, sensor_names

KINDS = {"linear": "spectral prior, in closed form", "mae": "masked autoencoder"}


def entries() -> dict[str, Any]:
    """All sources, targets, cameras, weights, presets and data formats by name, with a summary of each."""
    from ms2hs.datasets.cubes.registry import FORMATS

    return {
        "sources": {name: load_sensor(name).title for name in sensor_names("source")},
        "targets": {name: load_sensor(name).title for name in sensor_names("target")},
        "cameras": {name: f"source and target: {load_sensor(name).title}" for name in sensor_names("camera")},
        "weights": {name: _summary(load_weights(name)) for name in weights_names()},
        "presets": {name: _preset_summary(config) for name, config in PRESETS.items()},
        "data_formats": {data_format.name: data_format.layout for data_format in FORMATS},
    }


def entry(name: str) -> dict[str, Any]:
    """The description of one sensor or preset, or the card of one set of weights.

    Raises
    ------
    UnknownName : the name does not exist; the message lists the names that do.
    WeightsError : a weights file that cannot be read.
    """
    if name in weights_names() or name.endswith(SUFFIX):
        return _card(load_weights(name))
    if name in sensor_names():
        return _sensor(load_sensor(name))
    if name in PRESETS:
        return {"name": name, **PRESETS[name].to_dict()}
    known = [*sensor_names(), *weights_names(), *PRESETS]
    raise UnknownName.of("name", name, list(dict.fromkeys(known)), "Run `ms2hs info` for the list.")


def _summary(weights: Weights) -> str:
    low, high = weights.range_nm
    return f"{KINDS[weights.kind]}, {low:.0f}-{high:.0f} nm"


def _preset_summary(config: ModelConfig) -> str:
    correction = "corrects the prior, " if config.rank else ""
    return (
        f"{correction}tokens of {config.patch} by {config.patch} pixels by {config.group} bands, {config.depth} blocks "
        f"of {config.width}, then {config.decoder_depth} of {config.decoder_width}; masking {', '.join(config.masking)}"
    )


def _card(weights: Weights) -> dict[str, Any]:
    low, high = weights.range_nm
    facts = {"name": weights.name, "kind": weights.kind, "sha256": weights.sha256, "range_nm": f"{low:.0f}-{high:.0f}"}
    return facts | dict(weights.card)


def _sensor(sensor: Sensor) -> dict[str, Any]:
    grid = sensor.grid
    return {
        "name": sensor.name,
        "title": sensor.title,
        "role": sensor.role,
        **({} if sensor.role == "camera" else {"gsd_m": sensor.gsd_m}),
        "citation": sensor.citation,
        "bands": {
            name: f"{centre:.1f} nm, FWHM {width:.1f} nm{'' if good else ' (bad band)'}"
            for name, centre, width, good in zip(grid.names, grid.wavelength_nm, grid.fwhm_nm, grid.good, strict=True)
        },
    }


def text(found: dict[str, Any], indent: str = "") -> str:
    """Nested entries as aligned lines."""
    width = max((len(str(key)) for key in found), default=0)
    lines = []
    for key, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{visible(str(key))}:", text(value, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{visible(str(key)):<{width}}  {visible(str(shown))}")
    return "\n".join(lines)


def contract_text(facts: dict[str, Any]) -> str:
    """What `conversion.scene_contract` found: a table of the bands, then one line per fact."""
    found, quality = facts["input"], facts["input"]["quality"]
    columns = {"band": "name", "read as": "read_as", "nm": "wavelength_nm", "FWHM": "fwhm_nm"}
    columns |= {key: key for key in ("scale", "offset", "nodata")}
    rows = [tuple(columns), *(tuple(_shown(band[key]) for key in columns.values()) for band in found["bands"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    grid = ", ".join(f"{key} {_shown(value)}" for key, value in facts["grid"].items())
    removes = ", ".join(f"{layer['layer']} removes {layer['removes']:.1%} of the pixels" for layer in quality) or None
    facts_by_name = {key: value for key, value in found.items() if key not in {"bands", "notes"}} | {"quality": removes}
    facts_by_name |= {key: value for key, value in facts.items() if key != "input"}
    facts_by_name |= {"grid": grid, "site": ", ".join(facts["site"]) or None}
    lines += ["", *(f"{key}: {_shown(value)}" for key, value in facts_by_name.items())]
    return "\n".join([*lines, *(f"note: {visible(note)}" for note in found["notes"])])


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON
    """A value as text: `none` without one, sides as `rows x columns`."""
    return visible("none" if value is None else " x ".join(map(str, value)) if isinstance(value, list) else str(value))
