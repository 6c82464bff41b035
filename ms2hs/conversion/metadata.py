"""What a result says of itself: tags inside the file, and a STAC item beside it."""

import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ms2hs._version import __version__
from ms2hs.conversion.planning import Plan
from ms2hs.files import write_whole
from ms2hs.models.prior import Posterior
from ms2hs.progress import Progress
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.pixel_grid import footprint, lonlat_bounds
from ms2hs.remote.object_store import Address, ObjectStore, Place
from ms2hs.spectra.spectral_grid import band_support

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
]
# Launch of Landsat 8, the oldest of the sources: when a scene does not tell its time, it was after that.
FIRST_SOURCE = "2013-02-11T00:00:00Z"


@dataclass
class Counts:
    """How many pixels were what."""

    pixels: int = 0
    valid: int = 0
    unlike_training: int = 0
    """Valid pixels whose measured bands are unlike nearly all that the model learnt from."""
    water: int = 0
    """Valid pixels of open water (`spectra.surface`), of which the model learnt little."""
    snow: int = 0
    """Valid pixels of snow or ice cloud, of which the model learnt little."""

    def add(self, other: "Counts") -> None:
        """Take up those of other pixels."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def told(self) -> str:
        """The counts as one line for people."""
        parts = {"unlike the training data": self.unlike_training, "water": self.water, "snow": self.snow}
        shares = ", ".join(f"{100 * count / max(self.valid, 1):.1f} % {what}" for what, count in parts.items())
        return f"{self.valid} of {self.pixels} pixels valid; of these {shares}"


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion left: paths or, in a store, addresses; counts, seconds."""

    output: Place
    quicklook: Place
    item: Place
    """The STAC item, with everything that is known of the result."""
    sigma: Place | None
    counts: Counts
    residual: dict[str, float]
    """RMSE between the input and the result seen through the source's responses: of `all` bands, and of each."""
    seconds: dict[str, float]
    """Of threads in reading, model, compressing and storing (these overlap), in finishing files, and the whole."""
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> list[Place]:
        """Every file that was written, the cube first."""
        return [path for path in (self.output, self.sigma, self.quicklook, self.item) if path]

    def beside(self, output: Place) -> "ConversionResult":
        """The same files, beside another output."""
        return replace(
            self,
            output=output,
            quicklook=output.with_name(self.quicklook.name),
            item=output.with_name(self.item.name),
            sigma=self.sigma and output.with_name(self.sigma.name),
        )

    def moved(self, output: Place, progress: Progress | None = None) -> "ConversionResult":
        """Put the files where they belong: uploaded to an address, renamed on the same disk.

        The cube comes last: where it is, the others are.

        Raises
        ------
        CredentialsError, OutputError : the store of an address does not take them; none is there then.
        """
        began = time.perf_counter()
        paths = [Path(path) for path in reversed(self.paths)]
        if isinstance(output, Address):
            ObjectStore(output.parent).put(paths, progress)
        else:
            for path in paths:
                path.replace(output.with_name(path.name))
        spent = time.perf_counter() - began
        seconds = self.seconds | {"place": spent, "whole": self.seconds["whole"] + spent}
        return replace(self.beside(output), seconds=seconds)


def facts(planned: Plan) -> dict[str, str]:
    """Where a result comes from, as text by name."""
    choices = planned.choices
    told = {
        "synthetic": "YES",
        "version": __version__,
        "scene": planned.scene.id,
        "source": planned.scene.source,
        "target": planned.target,
        "model": planned.weights.name,
        "weights_sha256": planned.weights.sha256,
        "offset_rule": planned.scene.offset_rule,
    }
    if choices.input_error:
        error = choices.input_error
        told["input_error"] = f"gain {error.gain:g}, offset {error.offset:g}, pixel {error.pixel:g}"
    if choices.reference:
        told["reference"] = choices.reference.name
    if choices.site:
        told["site"] = choices.site.name
    return told


def made_of(planned: Plan) -> dict[str, Any]:
    """All that decides what a result will be, so that another process makes the very same of the same."""
    choices = {name: value for name, value in vars(planned.choices).items() if name not in {"overwrite", "resume"}}
    assets = [*planned.scene.assets, *([planned.scene.quality] if planned.scene.quality else [])]
    given = [path for path in (planned.choices.reference, planned.choices.site) if path]
    files = [*(asset.href for asset in assets), *map(str, given)]
    return {
        "facts": facts(planned),
        "choices": choices,
        "scene": planned.scene,
        "grid": planned.grid,
        "bands": [list(map(str, planned.spectral.names)), planned.spectral.wavelength_nm.tolist()],
        "widths": planned.spectral.fwhm_nm.tolist(),
        "files": {file: _stamp(Path(file)) for file in files},
    }


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where it is none of this machine."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def tags(planned: Plan) -> dict[str, str]:
    """The dataset tags of a result."""
    return {f"MS2HS_{name.upper()}": text for name, text in facts(planned).items()}


def write_item(path: Path, planned: Plan, made: ConversionResult, model: Posterior) -> None:
    """Write the STAC 1.1 item of a result."""
    write_whole(path, (json.dumps(_item(planned, made, model), indent=1) + "\n").encode())


def _item(planned: Plan, made: ConversionResult, model: Posterior) -> dict[str, Any]:
    grid = planned.grid
    bbox = lonlat_bounds(grid)
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    properties: dict[str, Any] = {"datetime": planned.scene.datetime, "created": now}
    if planned.scene.datetime is None:
        properties |= {"start_datetime": FIRST_SOURCE, "end_datetime": now}
    properties |= {"proj:shape": [grid.height, grid.width], "proj:transform": list(grid.transform)}
    if grid.crs:
        properties["proj:code" if grid.crs.startswith("EPSG:") else "proj:wkt2"] = grid.crs
    properties |= {f"ms2hs:{name}": text for name, text in facts(planned).items()}
    properties |= {
        "ms2hs:pixels": vars(made.counts),
        "ms2hs:measured_band_residual_rmse": made.residual,
        "ms2hs:seconds": {stage: round(value, 2) for stage, value in made.seconds.items()},
        "ms2hs:notes": list(made.notes),
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": made.output.stem,
        "geometry": footprint(grid),
        **({"bbox": list(bbox)} if bbox else {}),
        "properties": properties,
        "links": [],
        "assets": _assets(planned, made, model),
    }


def _assets(planned: Plan, made: ConversionResult, model: Posterior) -> dict[str, Any]:
    bands = _bands(planned, model)
    assets: dict[str, Any] = {
        "data": _asset(made.output, COG_TYPE, "data") | {"bands": bands},
        "thumbnail": _asset(made.quicklook, "image/png", "thumbnail"),
    }
    if made.sigma:
        title = "Standard uncertainty: value ± 1.645 sigma is the calibrated 90 % interval"
        assets["sigma"] = _asset(made.sigma, COG_TYPE, "uncertainty") | {"title": title, "bands": bands}
    return assets


def _asset(path: Place, media_type: str, role: str) -> dict[str, Any]:
    return {"href": f"./{path.name}", "type": media_type, "roles": [role]}


def _bands(planned: Plan, model: Posterior) -> list[dict[str, Any]]:
    grid = planned.spectral
    support = band_support(planned.scene.spectral, grid)
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
            "ms2hs:support": how if known else "inferred",
        }
        for name, centre, width, how, known in zip(
            grid.names, grid.wavelength_nm, grid.fwhm_nm, support, model.known, strict=True
        )
    ]
