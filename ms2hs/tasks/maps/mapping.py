"""Maps of whole scenes by a tuned model: classes, values, or probabilities of several labels, as COGs.

`plan` opens the scenes and decides. `run` reads rows of windows, one ahead of its use, predicts each window, and blends
overlapping windows (`inference.blending`). A row of windows finishes a strip of rows, which is written at once: memory
holds one row of windows, whatever the height of the scene. Class and probability are taken from the blended
probabilities. All files are written in a private folder beside the output, and moved into place when complete.
"""

import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.enums import Resampling

from ms2hs._version import __version__
from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.conversion.pipeline import one_ahead
from ms2hs.conversion.planning import ConvertOptions, output_grid
from ms2hs.conversion.result_files import input_files, publish_files
from ms2hs.errors import GridError, SceneError, WeightsError
from ms2hs.files import NO_FILES, FileIds, check_output, check_space, file_name
from ms2hs.inference.blending import Blender
from ms2hs.progress import Progress
from ms2hs.raster.dataset import bounded_cache, open_dataset
from ms2hs.raster.formats.qgis_style import STYLE_SUFFIX
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m
from ms2hs.raster.tiling import Tiling
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.plausibility import check_reflectance, offset_warnings, stored_sample
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import CUSTOM, Scene, SceneOptions
from ms2hs.tasks.maps.map_files import (
    CLASSES,
    PROBABILITIES,
    TABLE_SUFFIX,
    VALUES,
    MapResult,
    MapWriter,
    Stored,
    check_tiff,
    write_class_style,
    write_item,
    write_table,
)
from ms2hs.tasks.maps.map_legend import LONG_SIDE, Legend, draw_classes, draw_values
from ms2hs.tasks.maps.map_model import MapModel
from ms2hs.tasks.maps.scene_bands import select_bands

EXTRA = "no quicklook is drawn: matplotlib is not installed. Install it with: pip install 'ms2hs[tasks]'"
# Largest distance of the corners of two scenes of a change map, in pixels: less is rounding.
MAX_SHIFT = 0.01
Probability = Literal["best", "all"]


@dataclass(frozen=True)
class MapOptions:
    """Options of a map besides scenes, model and output."""

    scene: SceneOptions = field(default_factory=SceneOptions)
    """How the scenes are read."""
    force: bool = False
    """Map although the reflectance is implausible."""
    gsd_m: float | Literal["native"] = "native"
    """Pixel size of the map in metres; `native`: the scene's own."""
    bbox: tuple[float, float, float, float] | None = None
    """Map only west, south, east, north, in degrees."""
    window: tuple[int, int, int, int] | None = None
    """Map only row, column, height, width of the output's pixels."""
    probability: Probability | None = None
    """Also write the probability of the `best` class, or a band for each of `all` classes."""
    overwrite: bool = False
    """Replace existing files."""


@dataclass(frozen=True)
class MapPlan:
    """A map before any pixel is read."""

    scenes: tuple[Scene, ...]
    """One; for a change map two, before and after. Only with the bands of the model, in its order."""
    grid: PixelGrid
    output: Path
    model: MapModel
    provenance: Mapping[str, str]
    """How the map is computed, for tags and the STAC item."""
    options: MapOptions
    inputs: FileIds = NO_FILES
    """The files that are read: no output replaces them."""

    @property
    def kind(self) -> "MapKind":
        """What the map holds."""
        return KINDS[self.model.task]

    @property
    def legend(self) -> Legend | None:
        """The classes; None for a map of values."""
        return Legend.of(self.model.classes) if self.kind.stored is CLASSES else None

    @property
    def probability(self) -> Path | None:
        """Path of the probabilities; None if not requested."""
        return self.output.with_name(f"{self.output.stem}_probability.tif") if self.options.probability else None

    @property
    def tiling(self) -> Tiling:
        """The windows of the prediction."""
        return Tiling(self.grid.height, self.grid.width, self.model.side, self.model.overlap)

    @property
    def names(self) -> list[str]:
        """Names of the files, the map first."""
        of_classes = [f"{self.output.name}{TABLE_SUFFIX}", f"{self.output.stem}{STYLE_SUFFIX}"] if self.legend else []
        probability = [self.probability.name] if self.probability else []
        return [self.output.name, *of_classes, *probability, f"{self.output.stem}.png", f"{self.output.stem}.json"]


class MapKind(NamedTuple):
    """What the map of a task holds."""

    noun: str
    """End of the name of its file."""
    stored: Stored
    dates: int = 1
    """Number of scenes."""


KINDS = {
    "classification": MapKind("classes", CLASSES),
    "segmentation": MapKind("classes", CLASSES),
    "change": MapKind("change", CLASSES, dates=2),
    "multilabel": MapKind("labels", PROBABILITIES),
    "regression": MapKind("values", VALUES),
}
"""By task."""


def map_scene(
    *scenes: str | Path,
    model: str | Path,
    output: str | Path | None = None,
    options: MapOptions | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> MapResult:
    """Map classes or values of a scene by a tuned model, as a COG with quicklook and STAC item.

    Parameters
    ----------
    scenes : one scene, as for `convert`, or a GeoTIFF or ENVI cube with wavelengths; before and after for a change map.
    model : weights with the head of a task, as `ms2hs finetune --labels` writes them.
    output : output .tif, or a directory.
    options : everything else, such as `MapOptions(probability="best")`.
    progress : called with the stage, the rows done and all rows.

    Raises
    ------
    Ms2hsError : bad input, or an output that cannot be written. No file is left then.
    """
    return run(plan(scenes, MapModel.load(model, device), output, options), progress)


def plan(
    scenes: Sequence[str | Path],
    model: MapModel,
    output: str | Path | None = None,
    options: MapOptions | None = None,
) -> MapPlan:
    """The plan of a map.

    Parameters
    ----------
    scenes : one path or address for `open_scene`; before and after for a model of change.
    output : path of the COG. A directory, or None for the working directory, gives `<scene>_classes.tif` there.

    Raises
    ------
    Ms2hsError : scenes that the model does not fit, or an output that cannot be written.
    """
    options, kind = options or MapOptions(), KINDS[model.task]
    if len(scenes) != kind.dates:
        remedy = "Give the scene before, then the scene after." if kind.dates == 2 else "Map one after the other."
        raise SceneError(
            f"{len(scenes)} scene{'s' if len(scenes) > 1 else ''} for a model of {model.task}; {kind.dates} "
            f"{'are' if kind.dates == 2 else 'is'} needed. {remedy}"
        )
    if options.probability and kind.stored is not CLASSES:
        raise SceneError(
            f"--probability {options.probability}: a model of {model.task} gives no probability of one class; models "
            "of classes do. Leave --probability out."
        )
    if kind.stored is CLASSES:
        Legend.of(model.classes)
    whole = [open_scene(str(scene), options.scene) for scene in scenes]
    opened = [select_bands(scene, model.grid, model.sensor) for scene in whole]
    region = ConvertOptions(gsd_m=options.gsd_m, bbox=options.bbox, window=options.window)
    grids = [output_grid(scene, region) for scene in opened]
    _check_same_grid(opened, grids)
    folder = Path(output or ".")
    name = file_name("_".join([*(scene.id for scene in opened), kind.noun]))
    path = folder / f"{name}.tif" if folder.is_dir() else folder
    check_tiff(path)
    ids = [input_files(scene, [given, model.path], ()) for scene, given in zip(opened, scenes, strict=True)]
    warned = [  # bands of a cube may be empty, and all bands of a sensor show more
        replace(
            used, notes=(*used.notes, *_doubts(used if used.source == CUSTOM else scene, grid, force=options.force))
        )
        for scene, used, grid in zip(whole, opened, grids, strict=True)
    ]
    provenance = {
        "version": __version__,
        "task": model.task,
        "scene": ", ".join(scene.id for scene in opened),
        "source": opened[0].source,
        "model": model.name,
        "weights_sha256": model.sha256,
        "offset_rule": "; ".join(dict.fromkeys(scene.offset_rule for scene in opened)),
    }
    planned = MapPlan(tuple(warned), grids[0], path, model, provenance, options, frozenset().union(*ids))
    for file in planned.names:
        check_output(path.with_name(file), overwrite=options.overwrite, inputs=planned.inputs)
    check_space(path.parent, _disk_bytes(planned))
    return planned


def _doubts(scene: Scene, grid: PixelGrid, *, force: bool) -> tuple[str, ...]:
    """Warnings about scale and offset, by a sample of the pixels; SceneError where they cannot be right."""
    warnings = check_reflectance(scene, grid, force=force)
    scale, offset = (np.array([getattr(asset, key) for asset in scene.assets]) for key in ("dn_scale", "dn_offset"))
    sample = (stored_sample(scene.assets, grid) + offset[:, None]) * scale[:, None]
    return (*warnings, *offset_warnings(scene, sample.astype(np.float32)))


def _check_same_grid(scenes: Sequence[Scene], grids: Sequence[PixelGrid]) -> None:
    """Refuse scenes on different grids: a shift of one pixel looks like change."""
    for scene, grid in zip(scenes[1:], grids[1:], strict=True):
        pixel = abs(grid.transform[0]) + abs(grid.transform[3])
        shift = np.abs(np.subtract(grid.bounds, grids[0].bounds)).max() / pixel
        same_shape = (grid.crs, grid.height, grid.width) == (grids[0].crs, grids[0].height, grids[0].width)
        if not same_shape or shift > MAX_SHIFT:
            raise GridError(
                f"{scene.id} has {_grid_text(grid)}, and {scenes[0].id} has {_grid_text(grids[0])}; scenes of a change "
                "map lie on one grid. Warp one to the grid of the other, such as with gdalwarp -te and -ts."
            )


def _grid_text(grid: PixelGrid) -> str:
    a, _, x, _, e, y = grid.transform
    return (
        f"{grid.height} x {grid.width} pixels of {a:g} x {-e:g} from {x:.9g}, {y:.9g} ({(grid.crs or 'no CRS')[:20]})"
    )


def _disk_bytes(planned: MapPlan) -> int:
    """Bytes of the uncompressed rows and the copies of all rasters, at most."""
    bands = 1 if planned.legend else len(planned.model.classes)
    numbers = bands * np.dtype(planned.kind.stored.dtype).itemsize
    numbers += 2 * {"best": 1, "all": len(planned.model.classes), None: 0}[planned.options.probability]
    return 3 * numbers * planned.grid.height * planned.grid.width + 2_000_000


def run(planned: MapPlan, progress: Progress | None = None) -> MapResult:
    """Carry out a plan; no file is left after an error.

    Raises
    ------
    Ms2hsError : a scene that cannot be read or has no valid pixel, or an output that cannot be written.
    """
    began, report = time.perf_counter(), progress or (lambda _stage, _done, _total: None)
    output, legend, grid = planned.output, planned.legend, planned.grid
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.stem[:100]}.") as name:
        folder = Path(name)
        counts, valid = _write_rasters(planned, folder, report)
        if not valid:
            raise SceneError(
                f"{planned.provenance['scene']}: no valid pixel in the requested part; at least 1 is needed. Use "
                "another --bbox or --window, or --no-quality to keep cloudy pixels."
            )
        notes = [note for scene in planned.scenes for note in scene.notes]
        if legend:
            write_table(folder / f"{output.name}{TABLE_SUFFIX}", legend, counts)
            write_class_style(folder / f"{output.stem}{STYLE_SUFFIX}", legend)
        try:
            _draw(planned, folder, counts)
        except ModuleNotFoundError:
            notes.append(EXTRA)
        by_class = dict(zip(planned.model.classes, counts.tolist(), strict=True)) if legend else {}
        names = [name for name in planned.names if name.endswith(".json") or (folder / name).exists()]
        paths = tuple(output.with_name(name) for name in names)
        pixels = grid.height * grid.width
        seconds = round(time.perf_counter() - began, 3)
        result = MapResult(output, paths, by_class, pixels, valid, seconds, tuple(dict.fromkeys(notes)))
        write_item(folder / f"{output.stem}.json", planned.scenes, grid, planned.provenance, result, legend)
        files = [folder / name for name in names]
        publish_files(files, output, overwrite=planned.options.overwrite, inputs=planned.inputs)
    return result


def _write_rasters(planned: MapPlan, folder: Path, report: Progress) -> tuple[NDArray[np.int64], int]:
    """Write all rasters of a map; (class,) counts of pixels, and the number of valid pixels."""
    classes, legend, chosen = planned.model.classes, planned.legend, planned.options.probability
    tags = {f"MS2HS_{name.upper()}": text for name, text in planned.provenance.items()}
    counts, valid_count = np.zeros(len(classes), np.int64), 0
    make = partial(MapWriter, grid=planned.grid, tags=tags)
    writers = [
        make(folder / planned.output.name, names=[planned.kind.noun] if legend else classes,
             stored=planned.kind.stored, legend=legend)
    ]  # fmt: skip
    if planned.probability:
        names = [f"probability of {name}" for name in classes] if chosen == "all" else ["probability"]
        writers.append(make(folder / planned.probability.name, names=names, stored=PROBABILITIES))
    with ExitStack() as stack:
        stack.enter_context(bounded_cache(planned.grid.width, len(planned.model.grid) * len(planned.scenes)))
        for writer in writers:
            stack.enter_context(writer)
        for row, predicted, valid in stack.enter_context(closing(_strips(planned))):
            valid_count += int(valid.sum())
            if not np.isfinite(predicted[:, valid]).all():
                raise WeightsError(
                    f"{planned.model.path}: the prediction of a valid pixel is not a finite number; finite weights are "
                    "needed. Train the head again with `ms2hs finetune --labels LABELS`."
                )
            if legend:
                best = predicted.argmax(axis=0)
                counts += np.bincount(best[valid], minlength=len(classes))
                writers[0].write(row, best[None] + 1, valid)
                if planned.probability:
                    writers[1].write(row, predicted if chosen == "all" else predicted.max(axis=0)[None], valid)
            else:
                writers[0].write(row, predicted, valid)
            report("map", row + len(valid), planned.grid.height)
        report("finish", 0, 0)
        for writer in writers if valid_count else ():
            writer.finish()
        report("finish", planned.grid.height, planned.grid.height)
    return counts, valid_count


def _strips(planned: MapPlan) -> Generator[tuple[int, Float32Array, BoolArray]]:
    """First row, (class or quantity, row, col) predictions and validity of each strip of finished rows."""
    tiling, model = planned.tiling, planned.model
    blender = Blender(tiling, len(model.classes), torch.device("cpu"))
    ends = [*(top for top, _ in tiling.rows[1:]), tiling.height]  # rows before these are finished
    with ExitStack() as stack:
        readers = [stack.enter_context(SceneReader(scene, planned.grid)) for scene in planned.scenes]
        rows = one_ahead(_read(readers, top, bottom, planned.grid.width) for top, bottom in tiling.rows)
        for index, (reflectance, valid) in enumerate(rows):
            blender.begin_row(index)
            for cols in _batches(tiling, valid, model.batch):
                areas = [slice(*tiling.cols[col]) for col in cols]
                windows = np.stack([reflectance[..., area] for area in areas])
                predicted = model.predict(windows, np.stack([valid[:, area] for area in areas]))
                blender.add(cols, torch.from_numpy(predicted))
            top = tiling.rows[index][0]
            finished = slice(0, ends[index] - top)
            yield top, blender.mean(finished).numpy(), valid[finished]


def _batches(tiling: Tiling, valid: BoolArray, size: int) -> Iterator[list[int]]:
    """Positions of the windows of a row that have a valid pixel, in batches of at most `size` windows of one width."""
    cols = [col for col, (left, right) in enumerate(tiling.cols) if valid[:, left:right].any()]
    for _, same in groupby(cols, lambda col: tiling.cols[col][1] - tiling.cols[col][0]):
        row = list(same)
        yield from (row[first : first + size] for first in range(0, len(row), size))


def _read(readers: Sequence[SceneReader], top: int, bottom: int, width: int) -> tuple[Float32Array, BoolArray]:
    """(date, band, row, col) reflectance of full rows, and where every date is valid."""
    pixels = [reader.read_pixels(top, 0, bottom - top, width) for reader in readers]
    valid = np.logical_and.reduce([one.valid for one in pixels])
    return np.stack([one.reflectance for one in pixels]), valid


def _draw(planned: MapPlan, folder: Path, counts: NDArray[np.int64]) -> None:
    """Draw the quicklook; ModuleNotFoundError without matplotlib."""
    path, legend, grid = folder / f"{planned.output.stem}.png", planned.legend, planned.grid
    with open_dataset(str(folder / planned.output.name)) as file:
        factor = max(1, -(-max(file.shape) // LONG_SIDE))
        shape = -(-file.height // factor), -(-file.width // factor)
        kind = Resampling.nearest if legend else Resampling.average
        stored = file.read(out_shape=(file.count, *shape), resampling=kind, masked=not legend)
        scale = file.scales[0]
    pixel_m = pixel_size_m(grid)[1] * grid.width / shape[1] if grid.crs else None
    title = f"{planned.provenance['scene']}, {planned.provenance['model']} ({planned.model.task})"
    if legend:
        draw_classes(path, stored[0], legend, counts, title=title, pixel_m=pixel_m)
    else:
        values = np.ma.filled(stored.astype(np.float32) * np.float32(scale), np.nan)
        draw_values(path, values, planned.model.classes, title=title, pixel_m=pixel_m)
