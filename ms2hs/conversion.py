"""convert: one multispectral scene to one hyperspectral COG."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ms2hs.adaptation import added_by, references_in_scene, sharpen_to_site
from ms2hs.errors import SceneError
from ms2hs.models.denoising import REACH, denoise
from ms2hs.models.prior import Conditional
from ms2hs.planning import BLOCK_PIXELS, PART_PIXELS, Choices, Plan, plan
from ms2hs.progress import Progress
from ms2hs.provenance import Counts, Reconstruction, tags, write_item
from ms2hs.raster.calibration import offset_warnings
from ms2hs.raster.cog import CogWriter, processors
from ms2hs.raster.dataset import bounded_cache
from ms2hs.raster.quicklook import write_quicklook
from ms2hs.raster.reader import SceneReader
from ms2hs.raster.scene import Scene
from ms2hs.raster.storage import quantise
from ms2hs.raster.windows import Blender, Tiling, Window
from ms2hs.spectra.grid import SpectralGrid, response_matrix
from ms2hs.spectra.surface import is_snow, is_water

if TYPE_CHECKING:
    from ms2hs.models.reconstruction import Reconstructor

# One row in so many is compared with what was measured.
COMPARED = 8


def convert(
    scene: str | Path | Scene,
    target: str = "enmap",
    output: str | Path | None = None,
    choices: Choices | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
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


def run(planned: Plan, progress: Progress | None = None) -> Reconstruction:
    """Carry out a plan."""
    if planned.address:
        with TemporaryDirectory(prefix="ms2hs.") as folder:
            return run(planned.inside(folder), progress).moved(planned.address, progress)
    began = time.perf_counter()
    tell = progress or (lambda _stage, _done, _total: None)
    prior = planned.weights.spread or planned.weights.prior
    if planned.choices.site:
        prior = sharpen_to_site(prior, planned.choices.site, planned.scene.spectral)
    grids = planned.scene.spectral, planned.spectral
    model = prior.condition(*grids, planned.choices.input_error)
    network, plain = _network_of(planned), planned.weights.prior.condition(*grids)
    notes = [*planned.scene.notes, *offset_warnings(planned.scene)]
    cache = bounded_cache(planned.scene.grid.width, len(planned.scene.assets))
    with cache, SceneReader(planned.scene, planned.grid) as reader:
        if planned.choices.reference:
            pairs = references_in_scene(planned.choices.reference, reader, planned.spectral)
            added = added_by(network, plain, pairs.measured) if network else np.float32(0)
            model = model.with_references(pairs.measured, pairs.truth - added)
            notes += pairs.notes
        flow = _Flow(planned, model, reader, tell, network)
        if network and planned.choices.is_adapted:
            flow.change = model.gain - plain.gain
        with _writers(planned) as writers:
            flow.run(writers)
            if flow.counts.valid == 0:
                raise SceneError(
                    f"{planned.scene.id}: no valid pixel in the part asked for (all nodata, cloud or shadow); at least "
                    "one is needed. Choose another part, or keep cloudy pixels with --no-quality."
                )
            ended = time.perf_counter()
            tell("finish", 0, 0)
    tell("finish", planned.grid.height, planned.grid.height)
    flow.seconds["finish"] = time.perf_counter() - ended
    picture = planned.output.with_suffix(".png")
    write_quicklook(planned.output, picture)
    seconds = flow.seconds | {"whole": time.perf_counter() - began}
    item = planned.output.with_suffix(".json")
    made = Reconstruction(
        planned.output, picture, item, planned.sigma, flow.counts, flow.closure.rmse, seconds, tuple(notes)
    )
    write_item(planned, made, model)
    return made


def _network_of(planned: Plan) -> "Reconstructor | None":
    """The network of the weights, if they are one, for the source and target of the plan."""
    if planned.weights.network is None:
        return None
    from ms2hs.models.device import device_named  # noqa: PLC0415  the linear model needs no torch
    from ms2hs.models.reconstruction import Reconstructor  # noqa: PLC0415

    device = device_named(planned.choices.device)
    return Reconstructor(planned.weights.network, planned.scene.spectral, planned.spectral, device)


@contextmanager
def _writers(planned: Plan) -> Iterator[list[CogWriter]]:
    """Writers of the cube and, if asked, of its uncertainty; neither file stays if the other fails."""
    paths = [path for path in (planned.output, planned.sigma) if path]
    writers = [CogWriter(path, planned.grid, planned.spectral, tags(planned)) for path in paths]
    try:
        with ExitStack() as stack:
            for writer in writers:
                stack.enter_context(writer)
            yield writers
    except BaseException:
        for writer in writers:
            if writer.is_done:
                writer.path.unlink()
        raise


class _Closure:
    """Compares the result, seen through the source's responses, with what the source measured."""

    def __init__(self, source: SpectralGrid, target: SpectralGrid) -> None:
        half = source.fwhm_nm / 2
        low, high = target.range_nm
        inside = (source.wavelength_nm - half >= low) & (source.wavelength_nm + half <= high)
        self.bands = np.flatnonzero(inside)
        self.names = [source.names[i] for i in self.bands]
        seen = source.select(self.bands) if len(self.bands) else None
        self.matrix = response_matrix(seen, target.wavelength_nm).astype(np.float32) if seen else None
        self.squares, self.count = np.zeros(len(self.bands)), 0

    def squares_of(self, measured: NDArray[np.float32], made: NDArray[np.float32]) -> NDArray[np.float64]:
        """(band,) sums over pixels, which are given as (source band, pixel) and (target band, pixel)."""
        if self.matrix is None:
            return np.zeros(0)
        differences = self.matrix @ made - measured[self.bands]
        return np.asarray(np.square(differences).sum(axis=1), float)

    def add(self, squares: NDArray[np.float64], count: int) -> None:
        """Take up the sums over so many pixels."""
        self.squares += squares
        self.count += count

    @property
    def rmse(self) -> dict[str, float]:
        """In reflectance: of `all` bands together, and by band name; empty where no band can be compared."""
        if not self.count or not self.names:
            return {}
        squares = self.squares / self.count
        values = zip(("all", *self.names), (squares.mean(), *squares), strict=True)
        return {name: round(float(np.sqrt(value)), 6) for name, value in values}


@dataclass
class _Flow:
    """Reads one strip ahead and writes one behind, so that disk and processor work at once.

    Parts of a strip are converted at once too, unless by a network, which fills the processors by itself.
    """

    planned: Plan
    model: Conditional
    reader: SceneReader
    tell: Progress
    network: "Reconstructor | None" = None
    change: NDArray[np.float32] | None = None
    """(target band, source band) what adaptation changes of the linear model; a network's result changes by as much."""
    counts: Counts = field(default_factory=Counts)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "model": 0.0, "write": 0.0})

    def __post_init__(self) -> None:
        self.closure = _Closure(self.planned.scene.spectral, self.planned.spectral)
        self._memory: list[NDArray[np.int16] | None] = [None, None]

    def run(self, writers: list[CogWriter]) -> None:
        """Convert every strip; an error in a thread is raised here."""
        grid = self.planned.grid
        with ExitStack() as stack:
            reading, writing, self._parts = (
                stack.enter_context(ThreadPoolExecutor(threads, name))
                for name, threads in (("reader", 1), ("writer", 1), ("model", processors()))
            )
            if not self.network:  # threads of its own would wait for each other
                stack.enter_context(threadpool_limits(1, user_api="blas"))
            written: Future[None] | None = None
            for i, (row, reflectance, valid, made) in enumerate(self._finished(reading)):
                with self._clock("model"):
                    strips = self._strips_for(i, len(writers), valid.shape)
                    self._convert(reflectance, valid, made, strips)
                if written:
                    written.result()
                written = writing.submit(self._write, writers, row, strips)
                self.tell("convert", row + valid.shape[0], grid.height)
            if written:
                written.result()

    def _finished(
        self, reading: ThreadPoolExecutor
    ) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32] | None]]:
        """First row, reflectance, valid, and what a network that looks beyond a strip made of it, strip by strip."""
        grid = self.planned.grid
        if self.network is None or self.network.is_local:
            tiling = Tiling(grid.height, grid.width, (self.planned.strip_rows, grid.width), overlap=0)
            for window, reflectance, valid in self._strips(reading, tiling):
                yield window.row, reflectance, valid, None
            return
        tiling = Tiling(grid.height, grid.width, self.network.window, self.network.overlap)
        blender = Blender(tiling, len(self.planned.spectral))
        whole = max(
            grid.width, self.network.window
        )  # one window across, also where a scene is narrower than an overlap
        rows = Tiling(grid.height, grid.width, (self.network.window, whole), self.network.overlap)
        for window, reflectance, valid in self._strips(reading, rows):
            for row, made in self._blend(blender, tiling, window, reflectance, valid):
                size = made.shape[1]
                yield row, reflectance[:, :size], valid[:size], made

    def _blend(
        self,
        blender: Blender,
        tiling: Tiling,
        row: Window,
        reflectance: NDArray[np.float32],
        valid: NDArray[np.bool_],
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """First row and values of the strip that a whole row of windows finishes."""
        assert self.network is not None  # noqa: S101  asked for only then
        for left, right in tiling.cols:
            with self._clock("model"):
                cut, ok = reflectance[:, :, left:right], valid[:, left:right]
                made = self.network.reconstruct(cut, ok)
                strips = blender.add(Window(row.row, left, row.height, right - left), made, ok)
            for strip in strips:
                yield strip.row, strip.values

    def _strips(
        self, reading: ThreadPoolExecutor, tiling: Tiling
    ) -> Iterator[tuple[Window, NDArray[np.float32], NDArray[np.bool_]]]:
        windows = list(tiling)
        ahead = None
        for window, following in zip(windows, [*windows[1:], None], strict=True):
            strip = (ahead or reading.submit(self._read, window)).result()
            ahead = reading.submit(self._read, following) if following else None
            yield window, *strip

    def _read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        with self._clock("read"):
            error = self.planned.choices.input_error
            if error is None or not error.pixel:
                return self.reader.read(window.row, window.col, window.height, window.width)
            # rows beyond the window too, so that a value does not depend on how the scene was cut; windows are as wide
            above = min(REACH, window.row)
            below = min(REACH, self.planned.grid.height - window.row - window.height)
            rows = slice(above, above + window.height)
            seen, valid = self.reader.read(window.row - above, window.col, above + window.height + below, window.width)
            return np.ascontiguousarray(denoise(seen, valid, error.pixel)[:, rows]), valid[rows]

    def _convert(
        self,
        reflectance: NDArray[np.float32],
        valid: NDArray[np.bool_],
        whole: NDArray[np.float32] | None,
        strips: list[NDArray[np.int16]],
    ) -> None:
        """Fill the strips of the files; counts and sums are taken up in order, so that they are the same each time."""
        rows, width = valid.shape
        patch = self.network.patch if self.network else 1
        step = max(1, (BLOCK_PIXELS if self.network else PART_PIXELS) // width // patch) * patch
        parts = [slice(top, min(top + step, rows)) for top in range(0, rows, step)]
        convert_part = partial(self._convert_part, reflectance, valid, whole, strips)
        at_once = map if self.network else self._parts.map
        for counts, squares, compared in at_once(convert_part, parts):
            self.counts.add(counts)
            self.closure.add(squares, compared)

    def _convert_part(
        self,
        reflectance: NDArray[np.float32],
        valid: NDArray[np.bool_],
        whole: NDArray[np.float32] | None,
        strips: list[NDArray[np.int16]],
        part: slice,
    ) -> tuple[Counts, NDArray[np.float64], int]:
        model = self.network or self.model
        x, ok = np.ascontiguousarray(reflectance[:, part]), valid[part]
        made = model.reconstruct(x, ok) if whole is None else whole[:, part]
        if self.change is not None:
            made = made + np.tensordot(self.change, x, axes=1)
        quantise(made, ok, out=strips[0][:, part])
        if len(strips) > 1:
            quantise(self.model.sigma(x), ok, out=strips[1][:, part])
        some = slice(-part.start % COMPARED, None, COMPARED)
        few = ok[some]
        squares = self.closure.squares_of(x[:, some][:, few], made[:, some][:, few])
        return self._counts_of(x, ok), squares, int(few.sum())

    def _counts_of(self, x: NDArray[np.float32], ok: NDArray[np.bool_]) -> Counts:
        source = self.planned.scene.spectral
        return Counts(
            pixels=ok.size,
            valid=int(ok.sum()),
            unlike_training=int((self.model.unlike(x) & ok).sum()),
            water=int((is_water(x, source) & ok).sum()),
            snow=int((is_snow(x, source) & ok).sum()),
        )

    def _strips_for(self, i: int, files: int, shape: tuple[int, int]) -> list[NDArray[np.int16]]:
        """(band, rows, width) of each file, in memory that was touched before: that of the last strip but one."""
        needed = files, len(self.planned.spectral), *shape
        held = self._memory[i % 2]
        if held is None or held.shape[2] < shape[0]:
            held = self._memory[i % 2] = np.empty(needed, np.int16)
        return list(held[:, :, : shape[0]])

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - began

    def _write(self, writers: list[CogWriter], row: int, strips: list[NDArray[np.int16]]) -> None:
        with self._clock("write"):
            for writer, strip in zip(writers, strips, strict=True):
                writer.write(row, strip)
