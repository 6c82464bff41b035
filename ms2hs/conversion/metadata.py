"""Provenance of a result: dataset tags of the cube, and the STAC item beside it."""

import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ms2hs._version import __version__
from ms2hs.conversion.planning import Plan
from ms2hs.conversion.result_files import publish_files
from ms2hs.conversion.site_adaptation import site_text
from ms2hs.conversion.statistics import Counts
from ms2hs.files import NO_FILES, FileIds, write_bytes
from ms2hs.models.prior import Posterior
from ms2hs.progress import Progress
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.cube_writer import cube_names
from ms2hs.raster.dates import rfc3339
from ms2hs.raster.formats import format_of
from ms2hs.raster.pixel_grid import footprint, lonlat_bounds
from ms2hs.remote.object_store import ObjectStore, OutputPath, RemotePath
from ms2hs.scenes.stac_metadata import LANDSAT8_LAUNCH, PROJECTION_EXTENSION, projection_properties
from ms2hs.spectra.spectral_grid import SpectralGrid, Support, band_support

EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    PROJECTION_EXTENSION,
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
]


@dataclass(frozen=True)
class ConversionResult:
    """The files of a conversion (paths, or addresses in a store), with counts and seconds."""

    output: OutputPath
    """The cube."""
    quicklook: OutputPath
    item: OutputPath
    """The STAC item with the provenance of the result."""
    sigma: OutputPath | None
    counts: Counts
    residual: dict[str, float]
    """RMSE in reflectance between input and result on the source's bands: `all`, and by band name."""
    seconds: dict[str, float]
    """Thread seconds of reading, model, compressing and storing (which overlap), finishing, and `whole`."""
    notes: tuple[str, ...] = ()
    clouds: str = ""
    """Which quality layers remove what, or why clouds are kept."""

    @property
    def paths(self) -> list[OutputPath]:
        """Every file, the cube first."""
        cubes = [cube.with_name(name) for cube in (self.output, self.sigma) if cube for name in cube_names(cube)]
        return [*cubes, self.quicklook, self.item]

    def beside(self, output: OutputPath) -> "ConversionResult":
        """The same result with its files beside another output."""
        quicklook, item = (output.with_name(path.name) for path in (self.quicklook, self.item))
        sigma = self.sigma and output.with_name(self.sigma.name)
        return replace(self, output=output, quicklook=quicklook, item=item, sigma=sigma)

    def moved(
        self,
        output: OutputPath,
        progress: Progress | None = None,
        *,
        overwrite: bool,
        inputs: FileIds = NO_FILES,
        own: FileIds = NO_FILES,
    ) -> "ConversionResult":
        """Upload the files to an address, or move them on the same disk; the cube comes last.

        Parameters
        ----------
        overwrite, inputs, own : as in `publish_files`.

        Raises
        ------
        CredentialsError, OutputError : files exist, or the store refuses the files; none of them is left there.
        """
        began = time.perf_counter()
        paths = [Path(path) for path in reversed(self.paths)]
        if isinstance(output, RemotePath):
            store = ObjectStore(output.parent)
            store.check([path.name for path in paths], overwrite=overwrite)
            store.put(paths, progress)
        else:
            publish_files(paths, output, overwrite=overwrite, inputs=inputs, own=own)
        spent = time.perf_counter() - began
        seconds = self.seconds | {"place": spent, "whole": self.seconds["whole"] + spent}
        return replace(self.beside(output), seconds=seconds)


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


def write_item(path: Path, planned: Plan, result: ConversionResult, model: Posterior) -> None:
    """Write the STAC 1.1 item of a result; `model` is the adapted spectral prior."""
    grid, bbox = planned.grid, lonlat_bounds(planned.grid)
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    time = rfc3339(planned.scene.datetime)
    properties: dict[str, Any] = {"datetime": time, "created": now}
    if time is None:
        properties |= {"start_datetime": LANDSAT8_LAUNCH, "end_datetime": now}
    elif "T" not in time:
        properties |= {"datetime": None, "start_datetime": f"{time}T00:00:00Z", "end_datetime": f"{time}T23:59:59Z"}
    properties |= projection_properties(grid) | {f"ms2hs:{name}": text for name, text in provenance(planned).items()}
    properties |= {
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
        "geometry": footprint(grid),
        **({"bbox": list(bbox)} if bbox else {}),
        "properties": properties,
        "links": [],
        "assets": _assets(planned, result, model),
    }
    write_bytes(path, (json.dumps(item, indent=1) + "\n").encode())


def _assets(planned: Plan, result: ConversionResult, model: Posterior) -> dict[str, Any]:
    bands = _bands(planned, model)
    media_type = format_of(planned.output).media_type
    assets = {
        "data": _asset(result.output, media_type, "data") | {"bands": bands},
        "thumbnail": _asset(result.quicklook, "image/png", "thumbnail"),
    }
    if result.sigma:
        title = "Standard uncertainty: value ± 1.645 sigma is the calibrated 90 % interval"
        assets["sigma"] = _asset(result.sigma, media_type, "uncertainty") | {"title": title, "bands": bands}
    return assets


def _asset(path: OutputPath, media_type: str, role: str) -> dict[str, Any]:
    return {"href": f"./{path.name}", "type": media_type, "roles": [role]}


def _bands(planned: Plan, model: Posterior) -> list[dict[str, Any]]:
    grid = supported_bands(planned, model)
    return [
        {
            "name": name,
            "eo:center_wavelength": round(float(centre) / 1000, 7),
            "eo:full_width_half_max": round(float(width) / 1000, 7),
            "data_type": "int16",
            "nodata": NODATA,
            "unit": "1",
            "raster:scale": SCALE,
            "raster:offset": 0,
            "ms2hs:support": support,
        }
        for name, centre, width, support in zip(grid.names, grid.wavelength_nm, grid.fwhm_nm, grid.support, strict=True)
    ]
