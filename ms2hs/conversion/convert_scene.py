"""Conversion of one multispectral scene to a hyperspectral COG with quicklook and STAC item.

`plan` decides and checks. `run` carries the plan out: it opens the staging folder, prepares the models, converts
(`pipeline`), writes quicklook and item, and moves or uploads the complete files.
"""

import logging
import time
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from ms2hs.conversion.metadata import provenance, supported_bands, write_item
from ms2hs.conversion.pipeline import LinearPipeline, NetworkPipeline, Pipeline, StripReader
from ms2hs.conversion.planning import AUTO, ConvertOptions, Plan, plan
from ms2hs.conversion.result_files import ConversionResult
from ms2hs.conversion.site_adaptation import adapt_to_site, network_addition, references_in_scene
from ms2hs.conversion.staging import Staging, conversion_inputs
from ms2hs.conversion.statistics import InputResidual, Statistics
from ms2hs.errors import SceneError, WeightsError
from ms2hs.models.prior import Posterior
from ms2hs.progress import Progress
from ms2hs.raster.dataset import bounded_cache
from ms2hs.raster.formats import format_of
from ms2hs.raster.formats.qgis_style import STYLE_SUFFIX, write_style
from ms2hs.raster.quicklook import write_quicklook
from ms2hs.raster.tiling import Window
from ms2hs.scenes.plausibility import offset_warnings
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import Scene
from ms2hs.spectra.indices import CoverShares

if TYPE_CHECKING:
    from ms2hs.inference.predictor import Predictor

LOGGER = logging.getLogger(__name__)
# Results beyond this are no reflectance, for any weights.
LARGEST_REFLECTANCE = 100.0


def convert(
    scene: str | Path | Scene,
    target: str = "enmap",
    output: str | Path | None = None,
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a scene to a hyperspectral COG, with a quicklook and a STAC item beside it.

    Parameters
    ----------
    scene : a GeoTIFF, SAFE folder or zip, folder or archive of band files, STAC item, or a Scene.
    target : name of a sensor, or a CSV of centres and widths in nm.
    output : path of the COG. A directory, or None for the working directory, gives `<scene>_<target>.tif` there. Also
        an fsspec address of a file (s3://bucket/folder/cube.tif) or of a folder, which does not end in .tif.
    progress : called as rows are converted and written.

    Raises
    ------
    Ms2hsError : unusable input, or an output that cannot be written; no file is left.
    """
    return run(plan(scene, target, output, options), progress)


def run(planned: Plan, progress: Progress | None = None) -> ConversionResult:
    """Carry out a planned conversion; ValueError if its `site` is still `auto`, which only `ms2hs.convert` resolves."""
    if planned.options.site == AUTO:
        raise ValueError("the passes of `site` auto are not known; call ms2hs.convert, or give cubes")
    if planned.address:
        with TemporaryDirectory(prefix="ms2hs.") as folder:
            local_plan = replace(planned, output=Path(folder) / planned.output.name, address=None, is_temporary=True)
            return run(local_plan, progress).moved(planned.address, progress, overwrite=planned.options.overwrite)
    began = time.perf_counter()
    report = progress or (lambda _stage, _done, _total: None)
    scene, bands, grid, options = planned.scene, planned.scene.spectral, planned.grid, planned.options
    inputs = conversion_inputs(scene, grid, planned.spectral, vars(options), provenance(planned))
    with (
        Staging(
            planned.output, inputs, resume=options.resume, overwrite=options.overwrite, sources=planned.inputs
        ) as staging,
        bounded_cache(scene.grid.width, len(scene.assets)),
        SceneReader(scene, grid) as reader,
    ):
        models = _Models.prepare(planned, reader)
        planned = replace(planned, options=replace(options, site=models.site))
        residual = InputResidual(bands, planned.spectral)
        statistics = Statistics(bands, models.linear, residual, (grid.height, grid.width))
        pipeline = models.pipeline(planned, StripReader(planned, reader), statistics)
        LOGGER.debug(
            "plan: %d x %d pixels, %d bands, strips of %d rows, staged in %s, %s%s",
            *(grid.width, grid.height, len(planned.spectral), planned.rows_per_strip, staging.folder),
            *(type(pipeline).__name__, f", device {models.network.device}" if models.network else ""),
        )
        seconds = _write_cubes(pipeline, staging, report)
        quicklook, style, item = map(planned.output.with_suffix, (".png", STYLE_SUFFIX, ".json"))
        stretch = write_quicklook(staging.path(planned.output.name), staging.path(quicklook.name))
        write_style(staging.path(style.name), stretch)
        seconds["whole"] = time.perf_counter() - began
        counts, rmse = statistics.counts, statistics.residual_rmse
        warnings = *offset_warnings(scene, statistics.sample), *counts.warnings(*reader.impossible_range)
        notes = (*scene.notes, *warnings, *models.notes, *staging.notes)
        result = ConversionResult(
            planned.output, quicklook, style, item, planned.sigma, counts, rmse, seconds, notes, scene.quality_note
        )
        write_item(staging.path(item.name), planned, result, models.linear, stretch)
        staging.publish(path.name for path in result.paths)
    return result


NO_COVERS = (
    "The source lacks green, red, near infrared or 1610 nm: one map serves all land covers. The 90 % intervals are "
    "calibrated for sources with these bands, and hold fewer values here."
)


@dataclass(frozen=True)
class _Models:
    """The models of one conversion, adapted to its scene."""

    linear: Posterior
    """The adapted spectral prior given the source; with a network only its uncertainty is used."""
    network: "Predictor | None"
    change: Posterior | None
    """Its gain is the change of the linear model's gain by adaptation, for a network."""
    site: tuple[Path, ...]
    """The cubes of the site that are used."""
    notes: list[str]

    @classmethod
    def prepare(cls, planned: Plan, reader: SceneReader) -> "_Models":
        """Load and adapt the models of a plan."""
        options, grids = planned.options, (planned.scene.spectral, planned.spectral)
        prior = planned.weights.calibrated_prior or planned.weights.prior
        notes, site = list(options.site_notes), list[Path]()
        if prior.covers is not None and CoverShares.of(grids[0].wavelength_nm) is None:
            notes.append(NO_COVERS)
        try:
            linear = prior.condition(*grids, planned.input_error)
            if options.site_cubes:
                linear, site, adapted = adapt_to_site(prior, options.site_cubes, reader, grids[1], planned.input_error)
                notes += adapted
        except np.linalg.LinAlgError as error:
            raise _unusable(planned, f"the prior cannot be inverted ({error})") from error
        network = None
        if planned.weights.network is not None:
            from ms2hs.inference.device import device_named  # noqa: PLC0415  the linear model needs no torch
            from ms2hs.inference.patch_corrector import sampled_windows  # noqa: PLC0415
            from ms2hs.inference.predictor import Predictor  # noqa: PLC0415

            # references and cubes of the site tell these errors better
            known = None if options.reference or site else planned.input_error
            settings = device_named(options.device), options.window_size
            network = Predictor(planned.weights.network, *grids, *settings, error=known)
            if network.patch_network and known:
                linear = replace(linear, gain=network.patch_network.prior.gain.cpu().numpy())
                windows = sampled_windows(planned.grid.height, planned.grid.width, network.window)
                network.pool(reader.read_pixels(*astuple(window)) for window in windows)
        unadapted = planned.weights.prior.condition(*grids) if network else linear
        _check_finite(planned, linear, network)
        if options.reference:
            pairs = references_in_scene(options.reference, reader, planned.spectral)
            addition = network_addition(network, unadapted, pairs.measured) if network else np.float32(0)
            linear = linear.with_references(pairs.measured, pairs.truth - addition)
            notes += pairs.notes
        is_adapted = any((options.reference, site, planned.input_error))
        change = linear.minus(unadapted) if network and is_adapted else None
        return cls(linear, network, change, tuple(site), notes)

    def pipeline(self, planned: Plan, reader: StripReader, statistics: Statistics) -> Pipeline:
        """A pipeline with these models."""
        if self.network is None:
            return LinearPipeline(planned, self.linear, reader, statistics)
        if patch_network := self.network.patch_network:
            corrects = patch_network.prior.errors is not None
            return LinearPipeline(planned, self.linear, reader, statistics, patch_network if corrects else None)
        return NetworkPipeline(planned, self.linear, reader, statistics, self.network, self.change)


def _check_finite(planned: Plan, linear: Posterior, network: "Predictor | None") -> None:
    """Refuse weights whose numbers overflow: a pixel of typical reflectance gives a bounded spectrum.

    Raises
    ------
    WeightsError : the spectrum is not finite, or beyond LARGEST_REFLECTANCE.
    """
    side = network.patch if network else 1
    patch = np.full((len(planned.scene.spectral), side, side), 0.25, np.float32)
    spectra = [linear.reconstruct(patch), linear.sigma(patch)]
    if network:
        spectra.append(network.reconstruct_windows([patch], [np.ones((side, side), bool)])[0])
    largest = float(np.max([np.abs(spectrum).max() for spectrum in spectra]))
    if not largest <= LARGEST_REFLECTANCE:  # also NaN
        raise _unusable(planned, f"a reflectance of 0.25 gives {largest:g}")


def _unusable(planned: Plan, problem: str) -> WeightsError:
    return WeightsError(
        f"{planned.weights.path}: {problem}; finite numbers of at most {LARGEST_REFLECTANCE:g} are needed. Download "
        "the weights again, or use other weights with --model."
    )


def _write_cubes(pipeline: Pipeline, staging: Staging, report: Progress) -> dict[str, float]:
    """Write the cube and its uncertainty, or the rows that an interrupted conversion left; returns seconds by stage."""
    planned, statistics, grid = pipeline.planned, pipeline.statistics, pipeline.planned.grid
    tags = {f"MS2HS_{name.upper()}": text for name, text in provenance(planned).items()}
    spectral = supported_bands(planned, pipeline.model)
    writers = [
        format_of(path).writer(
            staging.path(path.name),
            grid,
            spectral,
            tags,
            encoding=replace(planned.encoding, quantity=quantity),
            home=staging.path(f"{path.stem}.blocks"),
        )
        for quantity, path in (("reflectance", planned.output), ("sigma", planned.sigma))
        if path
    ]
    first_row, pending, state = staging.resume_point(writers, grid.height)
    if state:
        statistics.restore(state)
        for row in range(0, first_row, statistics.step):  # the journal does not hold the sample
            statistics.sample_rows(row, *pipeline.reader.read(Window(row, 0, 1, grid.width))[:2])
    if not pending:
        return {}

    def record(rows: int) -> None:
        staging.record(rows, statistics.state())
        LOGGER.debug("rows 0-%d of %d converted and stored", rows - 1, grid.height)

    with pipeline.threads(), ExitStack() as stack:
        for writer in pending:
            stack.enter_context(writer.from_row(first_row))
        if first_row < grid.height:
            pipeline.run(pending, first_row, record, report)
        if statistics.counts.valid == 0:
            raise SceneError(
                f"{planned.scene.id}: no valid pixel in the requested part ({statistics.counts.invalid}); at least 1 "
                "is needed. Use another --bbox or --window, --no-quality to keep cloudy pixels, or another --scale if "
                "reflectance is impossible."
            )
        report("finish", 0, 0)
    report("finish", grid.height, grid.height)
    timers = [{"read": pipeline.reader.seconds, "model": pipeline.seconds}, *(writer.seconds for writer in writers)]
    return {stage: sum(timer.get(stage, 0.0) for timer in timers) for stage in {**timers[0], **timers[1]}}
