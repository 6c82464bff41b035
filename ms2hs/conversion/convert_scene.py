"""convert: one multispectral scene to one hyperspectral COG."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.conversion.metadata import ConversionResult, made_of, tags, write_item
from ms2hs.conversion.pipeline import PixelFlow, Source, WindowFlow
from ms2hs.conversion.planning import ConvertOptions, Plan, plan
from ms2hs.conversion.site_adaptation import added_by, references_in_scene, sharpen_to_site
from ms2hs.conversion.staging import Staging
from ms2hs.conversion.statistics import Closure, Statistics
from ms2hs.errors import SceneError
from ms2hs.models.prior import Posterior
from ms2hs.progress import Progress
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.dataset import bounded_cache
from ms2hs.raster.quicklook import write_quicklook
from ms2hs.raster.tiling import Window
from ms2hs.scenes.radiometry import offset_warnings
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import Scene

if TYPE_CHECKING:
    from ms2hs.inference.predictor import Predictor


def convert(
    scene: str | Path | Scene,
    target: str = "enmap",
    output: str | Path | None = None,
    choices: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a scene to a hyperspectral COG, with a quicklook and a STAC item beside it.

    Parameters
    ----------
    scene : a GeoTIFF, a Sentinel-2 L2A SAFE folder or zip, an HLS folder, or a Scene.
    target : a sensor's name, or a CSV of centres and widths in nm.
    output : the COG; a directory, or None for the working directory, means `<scene>_<target>.tif` there. Also an
        address that fsspec can write, s3://bucket/folder/cube.tif, or of a folder, which does not end in .tif.
    progress : called as rows are converted and written.

    Raises
    ------
    Ms2hsError : bad input or a place that cannot be written; no file is left then.
    """
    return run(plan(scene, target, output, choices), progress)


def run(planned: Plan, progress: Progress | None = None) -> ConversionResult:
    """Carry out a plan."""
    if planned.address:
        with TemporaryDirectory(prefix="ms2hs.") as folder:
            return run(planned.inside(folder), progress).moved(planned.address, progress)
    began = time.perf_counter()
    tell = progress or (lambda _stage, _done, _total: None)
    cache = bounded_cache(planned.scene.grid.width, len(planned.scene.assets))
    with (
        Staging(planned.output, made_of(planned), resume=planned.choices.resume) as unfinished,
        cache,
        SceneReader(planned.scene, planned.grid) as reader,
    ):
        models, source = _Models.of(planned, reader), Source(planned, reader)
        bands, grid = planned.scene.spectral, planned.grid
        census = Statistics(bands, models.linear, Closure(bands, planned.spectral), (grid.height, grid.width))
        seconds = _write(models.flow(planned, source, census), unfinished, tell)
        picture = planned.output.with_suffix(".png")
        write_quicklook(unfinished.place(planned.output.name), unfinished.place(picture.name))
        seconds["whole"] = time.perf_counter() - began
        warnings = offset_warnings(planned.scene, census.sample)
        notes = [*planned.scene.notes, *warnings, *models.notes, *unfinished.notes]
        item = planned.output.with_suffix(".json")
        made = ConversionResult(
            planned.output, picture, item, planned.sigma, census.counts, census.residual, seconds, tuple(notes)
        )
        write_item(unfinished.place(item.name), planned, made, models.linear)
        unfinished.put(unfinished.place(path.name) for path in made.paths)
    return made


@dataclass(frozen=True)
class _Models:
    """What converts one scene."""

    linear: Posterior
    """The spectral prior with all that is known of the scene; where a network converts, of its uncertainty."""
    network: "Predictor | None"
    change: Float32Array | None
    """(target band, source band) what is known of the scene changes of the linear model; None: nothing is."""
    notes: list[str]

    @classmethod
    def of(cls, planned: Plan, reader: SceneReader) -> "_Models":
        """Those of a plan."""
        choices, grids = planned.choices, (planned.scene.spectral, planned.spectral)
        prior = planned.weights.calibrated_prior or planned.weights.prior
        if choices.site:
            prior = sharpen_to_site(prior, choices.site, planned.scene.spectral)
        linear, notes = prior.condition(*grids, choices.input_error), []
        network = _network_of(planned)
        plain = planned.weights.prior.condition(*grids) if network else linear
        if choices.reference:
            pairs = references_in_scene(choices.reference, reader, planned.spectral)
            added = added_by(network, plain, pairs.measured) if network else np.float32(0)
            linear = linear.with_references(pairs.measured, pairs.truth - added)
            notes += pairs.notes
        change = linear.gain - plain.gain if network and choices.is_adapted else None
        return cls(linear, network, change, notes)

    def flow(self, planned: Plan, source: Source, census: Statistics) -> PixelFlow | WindowFlow:
        """What brings pixels through them."""
        if self.network is None:
            return PixelFlow(planned, self.linear, source, census)
        return WindowFlow(planned, self.linear, source, census, self.network, self.change)


def _network_of(planned: Plan) -> "Predictor | None":
    """The network of the weights, if they are one, for the source and target of the plan."""
    if planned.weights.network is None:
        return None
    from ms2hs.inference.device import device_named  # noqa: PLC0415  the linear model needs no torch
    from ms2hs.inference.predictor import Predictor  # noqa: PLC0415

    device = device_named(planned.choices.device)
    return Predictor(planned.weights.network, planned.scene.spectral, planned.spectral, device)


def _write(flow: PixelFlow | WindowFlow, unfinished: Staging, tell: Progress) -> dict[str, float]:
    """Make the cube and, if asked, its uncertainty, from where they were left; thread-seconds by stage."""
    planned, census = flow.planned, flow.census
    paths = [path for path in (planned.output, planned.sigma) if path]
    writers = [
        CogWriter(
            unfinished.place(path.name),
            planned.grid,
            planned.spectral,
            tags(planned),
            home=unfinished.place(f"{path.stem}.blocks"),
        )
        for path in paths
    ]
    states = unfinished.states()
    due = [writer for writer in writers if not writer.path.exists()]  # others are whole, but for their names
    begin = _row_to_begin(due, states, planned.grid.height)
    if begin < planned.grid.height:
        due, begin = writers, _row_to_begin(writers, states, planned.grid.height)
    if begin:
        unfinished.notes.append(f"went on at row {begin} of {planned.grid.height}, where it was stopped")
        census.restore(states[begin])
        for row in range(0, begin, census.step):  # a sample is all that was not noted
            census.keep(row, *flow.source.read(Window(row, 0, 1, planned.grid.width)))
    if not due:
        return {}
    with flow.threads(), ExitStack() as stack:
        for writer in due:
            stack.enter_context(writer.from_row(begin))
        if begin < planned.grid.height:
            flow.run(due, begin, lambda rows: unfinished.note(rows, census.state()), tell)
        _check_valid(census, planned)
        tell("finish", 0, 0)
    tell("finish", planned.grid.height, planned.grid.height)
    spent = [{"read": flow.source.seconds, "model": flow.seconds}, *(writer.seconds for writer in writers)]
    return {stage: sum(one.get(stage, 0.0) for one in spent) for stage in {**spent[0], **spent[1]}}


def _row_to_begin(writers: list[CogWriter], states: dict[int, dict[str, Any]], height: int) -> int:
    """The last row that is noted and up to which all of them have kept what they wrote."""
    kept = min((writer.kept_rows for writer in writers), default=height)
    return max((rows for rows in states if rows <= kept), default=0)


def _check_valid(census: Statistics, planned: Plan) -> None:
    if census.counts.valid == 0:
        raise SceneError(
            f"{planned.scene.id}: no valid pixel in the part asked for (all nodata, cloud or shadow); at least "
            "one is needed. Choose another part, or keep cloudy pixels with --no-quality."
        )
