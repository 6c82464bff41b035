"""The contract of a scene: how its files are read, for the user to check before converting (`convert --dry-run`)."""

import math
from pathlib import Path
from typing import Any

from ms2hs.conversion.planning import Plan
from ms2hs.conversion.site_adaptation import site_text
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m
from ms2hs.scenes.quality import removed_share
from ms2hs.scenes.scene import Asset, Scene


def contract(planned: Plan) -> dict[str, Any]:
    """What a conversion reads and writes, as JSON values.

    `input` holds what was found in the scene: `scene`, `sensor`, `bands` (each with `name`, `read_as`, `file`, `band`,
    `wavelength_nm`, `fwhm_nm`, `scale`, `offset`, `nodata`), `offset_rule` and its `rule_origin`, `quality`, `clouds`,
    `crs`, `pixel_size_m`, `shape`, `datetime` and `notes`. `site` names the cubes of the site. `grid` is
    the output's. The other keys are the plan's requirements.

    Raises
    ------
    SceneError : a quality layer cannot be read, or has another grid.
    """
    scene = planned.scene
    found = {
        "scene": scene.id,
        "sensor": scene.source,
        "bands": _bands(scene),
        "offset_rule": scene.offset_rule,
        "rule_origin": scene.rule_origin,
        "quality": [_quality(asset, planned.grid) for asset in scene.quality],
        "clouds": scene.quality_note,
        **_grid(scene.grid),
        "datetime": scene.datetime,
        "notes": [*scene.notes, *planned.options.site_notes],
    }
    return {
        "input": found,
        "target": planned.target,
        "model": planned.weights.name,
        "site": [site_text(path) for path in planned.options.site_cubes],
        "input_error": str(planned.input_error),
        "grid": _grid(planned.grid),
        "output": str(planned.final_output),
        "offset_rule": scene.offset_rule,
        **planned.requirements,
    }


def _bands(scene: Scene) -> list[dict[str, Any]]:
    """The bands in the order of the scene; `reflectance = stored * scale + offset`."""
    spectral = scene.spectral
    return [
        {
            "name": asset.name,
            "read_as": asset.label or Path(asset.href).name,
            "file": asset.href,
            "band": asset.band,
            "wavelength_nm": round(centre, 1),
            "fwhm_nm": round(width, 1),
            "scale": float(f"{asset.dn_scale:.9g}"),
            "offset": float(f"{asset.dn_offset * asset.dn_scale:.9g}") + 0.0,
            "nodata": asset.nodata if asset.nodata is None or math.isfinite(asset.nodata) else None,
        }
        for asset, centre, width in zip(
            scene.assets, spectral.wavelength_nm.tolist(), spectral.fwhm_nm.tolist(), strict=True
        )
    ]


def _quality(asset: Asset, grid: PixelGrid) -> dict[str, Any]:
    """A quality layer, and the share of the output's pixels that it removes."""
    removes = round(removed_share(asset, grid), 4)
    return {"layer": asset.name, "file": asset.href, "band": asset.band, "removes": removes}


def _grid(grid: PixelGrid) -> dict[str, Any]:
    """CRS, height and width of a pixel in metres (None without a CRS), rows and columns."""
    size_m = [round(metres, 6) for metres in pixel_size_m(grid)] if grid.crs else None
    return {"crs": grid.crs, "pixel_size_m": size_m, "shape": [grid.height, grid.width]}
