"""Options of a conversion, and its plan: everything that is decided and checked before any pixel is read."""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np

from ms2hs.conversion.result_files import check_item_options, check_new_output, input_files
from ms2hs.conversion.site_adaptation import find_site_cubes
from ms2hs.errors import GridError, SceneError, WeightsError
from ms2hs.files import NO_FILES, STORE_SUFFIX, FileIds, check_space, file_name
from ms2hs.models.config import MOST
from ms2hs.models.weights import DEFAULT, Weights, load_weights
from ms2hs.raster.cog.encoding import Compression, Encoding
from ms2hs.raster.cube_writer import cube_path, sigma_name
from ms2hs.raster.formats import format_of
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m, subset
from ms2hs.remote.object_store import OutputPath, RemotePath, parse_output
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.plausibility import check_reflectance
from ms2hs.scenes.scene import CUSTOM, Scene, SceneOptions, working_grid
from ms2hs.spectra.product_error import InputError, input_error_named
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

# Largest strip of a local network: rows, and bytes in a wide scene; its rows are a multiple of STRIP_ROW_STEP.
MAX_STRIP_ROWS, MAX_STRIP_BYTES, STRIP_ROW_STEP = 32, 64_000_000, 8
# Memory of the libraries: of all conversions, and of torch with a network on a CPU.
BASE_BYTES, TORCH_BYTES = 300_000_000, 300_000_000
# Output pixels are at most this many times finer than the scene's.
MAX_REFINEMENT = 10.0
# The `site` that stands for passes over the scene.
AUTO: Final = "auto"


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion besides scene and target."""

    source: str | None = None
    """Sensor of the scene; None: from its metadata."""
    bands: tuple[str, ...] | None = None
    """Band names in the order of the file; None: from descriptions or wavelengths."""
    scale: float | None = None
    """`reflectance = stored * scale + offset`; None: from metadata."""
    offset: float | None = None
    """Offset in reflectance; None: from metadata."""
    dn_offset: float | None = None
    """Offset added to stored integers before scaling; None: from metadata."""
    granule: str | None = None
    """Tile or granule of a product with several."""
    force: bool = False
    """Convert although the reflectance is implausible."""
    quality: bool = True
    """Exclude cloud, shadow and cirrus if the product has a quality layer."""
    gsd_m: float | Literal["native"] | None = None
    """Output pixel size in metres; None: 30 m for Sentinel-2 products, else the scene's own."""
    bbox: tuple[float, float, float, float] | None = None
    """Convert only west, south, east, north, in degrees."""
    window: tuple[int, int, int, int] | None = None
    """Convert only row, column, height, width of the working grid."""
    wavelengths_nm: tuple[tuple[float, float], ...] = ()
    """Write only target bands with centres in these ranges."""
    model: str = DEFAULT
    """Name of shipped weights (`default`: the best installed), or a path."""
    device: str = "auto"
    """Device of a network: `cpu`, `cuda`, `mps`, or `auto`."""
    window_size: int | None = None
    """Side of the windows of a network that looks beyond its patch, in pixels, a multiple of its patch; None: 128, or
    the window of its training if that is larger."""
    uncertainty: bool = False
    """Also write `<stem>_sigma.tif`."""
    compress: Compression | None = None
    """Compression of the output; None: ZSTD for a COG."""
    blocksize: int | None = None
    """Height and width of a block of the output, one of `BLOCK_SIZES`; None: 128."""
    reference: Path | None = None
    """Spectra measured in the scene."""
    site: tuple[Path, ...] | Literal["auto"] = ()
    """Hyperspectral cubes of the same site, from any date, or folders of cubes; a single path is allowed. `auto`: the
    cubes of passes over the scene, which `ms2hs.convert` fetches."""
    site_date: str | None = None
    """Period of the passes of `auto`, such as 2023 or 2022-06/2024-09; None: any."""
    site_limit: int = 3
    """Largest number of passes of `auto`."""
    site_notes: tuple[str, ...] = ()
    """Notes about the choice of the cubes, for the result."""
    input_error: InputError | str | None = None
    """Errors of the input reflectance (1 sigma), which the output's uncertainty covers: levels, `none`, or the name of
    measured errors such as `sentinel2`; None: the measured errors of the sensor's products, if any."""
    adjust: bool = True
    """Apply the per-sensor gain and offset that the weights learned from pairs."""
    href_base: str | None = None
    """Web address or absolute path of the folder of the files, for absolute addresses in the item; None: relative."""
    collection: str | None = None
    """The STAC collection of the item."""
    overwrite: bool = False
    """Replace existing files."""
    resume: bool = False
    """Continue an interrupted conversion of the same inputs, and keep the finished part if this one is interrupted."""

    def __post_init__(self) -> None:
        """Take a single path as a tuple, and check the texts for the item."""
        if self.site != AUTO:
            paths = [self.site] if isinstance(self.site, str | Path) else self.site or ()
            object.__setattr__(self, "site", tuple(map(Path, paths)))
        check_item_options(self.href_base, self.collection)

    @property
    def site_cubes(self) -> tuple[Path, ...]:
        """The cubes of the site; none before `auto` is resolved."""
        return () if self.site == AUTO else self.site

    @property
    def scene(self) -> SceneOptions:
        """The options that concern reading the scene."""
        return SceneOptions(
            self.source, self.bands, self.scale, self.offset, self.dn_offset, self.quality, self.granule
        )


@dataclass(frozen=True)
class Plan:
    """A conversion before any pixel is read."""

    scene: Scene
    target: str
    spectral: SpectralGrid
    """Output bands."""
    grid: PixelGrid
    """Output pixels."""
    output: Path
    """The cube on the local disk; for an address, a temporary file."""
    weights: Weights
    options: ConvertOptions
    input_error: InputError
    """Errors of the input that the conversion assumes."""
    address: RemotePath | None = None
    """Address to which the complete cube is uploaded; None: the cube stays at `output`."""
    inputs: FileIds = NO_FILES
    """The local files that are read: no output replaces them."""
    is_temporary: bool = False
    """Whether the files are moved from `output` to another folder, so that no relative link from them can be given."""

    @property
    def final_output(self) -> OutputPath:
        """Path or address of the cube after the conversion."""
        return self.address or self.output

    @property
    def sigma(self) -> Path | None:
        """Path of the uncertainty; None if not requested."""
        return self.output.with_name(sigma_name(self.output)) if self.options.uncertainty else None

    @property
    def encoding(self) -> Encoding:
        """The stored numbers of the cube."""
        return format_of(self.output).encoding(self.options.compress, self.options.blocksize)

    @property
    def block(self) -> int:
        """Height and width of the blocks that the model computes, in pixels: those that the writer requests."""
        return max(self.encoding.block, format_of(self.output).strip)

    @property
    def window_size(self) -> int | None:
        """Side of the windows of a network that looks beyond its patch, in pixels; None for other models."""
        if self.weights.network is None or self.weights.network.config.is_local:
            return None
        return self.weights.network.config.windows(self.options.window_size)[0]

    @property
    def by_block(self) -> bool:
        """Whether the model is the linear model, which a network may correct, and not a network alone."""
        return self.weights.network is None or self.weights.network.config.by_patch

    @property
    def rows_per_strip(self) -> int:
        """Rows that are read and converted together."""
        if self.by_block:
            return self.block
        if self.window_size:
            return self.window_size
        rows = MAX_STRIP_BYTES // (2 * len(self.spectral) * self.grid.width)
        return min(MAX_STRIP_ROWS, max(STRIP_ROW_STEP, rows - rows % STRIP_ROW_STEP))

    @property
    def requirements(self) -> dict[str, int]:
        """Rows in a strip, pixels, bands, and bytes of output, disk and memory."""
        files, output = 2 if self.options.uncertainty else 1, format_of(self.output)
        bands, rows, pixels = len(self.spectral), self.rows_per_strip, self.grid.height * self.grid.width
        strip = rows * self.grid.width
        count = 3 + (3 + self.window_size // self.block if self.by_block and self.window_size else 0)
        strips = count * strip * len(self.scene.assets) * 4  # read ahead, waiting for corrections, converted, written
        base = BASE_BYTES if self.weights.network is None else BASE_BYTES + TORCH_BYTES
        if not self.by_block:
            strips += strip * bands * (4 + 2 * 2)  # blended reflectance, and two strips of stored numbers
        writers = output.memory_bytes(self.grid, bands, self.encoding, strips=not self.by_block)
        return {
            "rows_at_a_time": rows,
            "pixels": pixels,
            "bands": bands,
            "output_bytes_uncompressed": files * bands * pixels * 2,
            "disk_bytes_peak": files * output.disk_bytes(self.grid, bands, self.output.parent, self.encoding),
            "memory_bytes": strips + files * writers + base,
        }


def plan(
    scene: str | Path | Scene,
    target: str = "enmap",
    output: str | Path | None = None,
    options: ConvertOptions | None = None,
) -> Plan:
    """The plan of a conversion; parameters as for `convert`.

    Raises
    ------
    Ms2hsError : an unusable scene, target, model or output.
    """
    options = with_site_cubes(options or ConvertOptions())
    sensor = load_sensor(target)
    spectral = _select_bands(sensor.grid, options.wavelengths_nm)
    weights = load_weights(options.model)
    if options.uncertainty and weights.calibrated_prior is None:
        raise WeightsError(
            f"--uncertainty: {weights.name} has no uncertainty calibrated on held-out scenes; calibrated weights are "
            "needed. Calibrate with `ms2hs finetune --train none`, or use --model linear."
        )
    _check_window_size(weights, options.window_size)
    given = [] if isinstance(scene, Scene) else [str(scene)]
    if not isinstance(scene, Scene):
        scene = open_scene(str(scene), options.scene)
    grid = output_grid(scene, options)
    path = output_path(output, scene.id, sensor.name)
    format_of(path).encoding(options.compress, options.blocksize)  # refuses what the format does not have
    inputs = input_files(scene, [*given, target, weights.path, options.reference], options.site_cubes)
    flags = {flag: getattr(options, flag) for flag in ("uncertainty", "overwrite", "resume")}
    check_new_output(path, **flags, inputs=inputs)
    address, other_disk = None, "choose another disk"
    if isinstance(path, RemotePath):
        address, other_disk = path, "set TMPDIR to a directory of another disk"
        path = Path(tempfile.gettempdir(), path.name)
    warnings = check_reflectance(scene, grid, force=options.force)
    error, assumed = _input_error(scene, weights, options)
    scene = _adjust(replace(scene, notes=(*scene.notes, *warnings, *assumed)), weights, options)
    planned = Plan(scene, sensor.name, spectral, grid, path, weights, options, error, address, inputs)
    check_space(path.parent, planned.requirements["disk_bytes_peak"], other_disk)
    _check_memory(planned)
    return planned


def _check_window_size(weights: Weights, size: int | None) -> None:
    """Refuse a window that the model has no use for, or that its patches do not divide."""
    if size is None:
        return
    network = weights.network
    if network is None or network.config.is_local:
        raise WeightsError(
            f"--window-size {size}: {weights.name} converts each {'patch' if network else 'pixel'} alone; windows are "
            "allowed for networks that look beyond their patch. Leave --window-size out."
        )
    patch, largest = network.config.patch, MOST["window"]
    if size % patch or not patch <= size <= largest:
        raise WeightsError(
            f"--window-size {size}: {weights.name} has patches of {patch} pixels; a multiple of {patch} up to "
            f"{largest} is needed. Use --window-size {min(max(size // patch, 1), largest // patch) * patch}."
        )


def with_site_cubes(options: ConvertOptions) -> ConvertOptions:
    """The options with the cubes of each folder of `site` instead of the folder; DataError for one without cubes."""
    return options if options.site == AUTO else replace(options, site=find_site_cubes(options.site))


class FoundSite(Protocol):
    """The site of a scene, as a search found it."""

    @property
    def cubes(self) -> tuple[Path, ...]:
        """Cubes of the site; none if the search found none."""

    @property
    def note(self) -> str:
        """One line: the cubes, or why there is none."""


def with_found_site(options: ConvertOptions, site: FoundSite) -> ConvertOptions:
    """The options with a site instead of `auto`."""
    return replace(options, site=site.cubes, site_notes=(site.note,))


def cube_name(scene_id: str, sensor_name: str) -> str:
    """File name of the cube of a scene."""
    return f"{file_name(f'{scene_id}_{sensor_name}')}.tif"


def output_path(output: str | Path | None, scene_id: str, sensor_name: str) -> OutputPath:
    """Path or address of the cube of a scene: `output`, or the usual name in that folder or the working directory."""
    name = cube_name(scene_id, sensor_name)
    path = parse_output(output or name)
    is_store = path.name.lower().endswith(STORE_SUFFIX)
    is_folder = not path.is_cube if isinstance(path, RemotePath) else path.is_dir() and not is_store
    return cube_path(path / name if is_folder else path)


def _check_memory(planned: Plan) -> None:
    """Refuse a conversion that needs more memory than the machine has."""
    needed = planned.requirements["memory_bytes"]
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > available:
        raise SceneError(
            f"{planned.scene.id}: {needed / 1e9:.1f} GB of memory are needed for rows of {planned.grid.width} pixels; "
            f"the machine has {available / 1e9:.1f} GB. Use --window or --bbox to convert a narrower part."
        )


def output_grid(scene: Scene, options: ConvertOptions) -> PixelGrid:
    """The output pixels of a scene; SceneError for a pixel size, window or box that the scene does not allow."""
    return _crop(_working_grid(scene, options.gsd_m), options)


def _working_grid(scene: Scene, gsd_m: float | Literal["native"] | None) -> PixelGrid:
    if gsd_m == "native":
        return scene.grid
    if gsd_m is not None and scene.grid.crs:
        finest, (row_m, col_m) = min(pixel_size_m(scene.grid)), pixel_size_m(scene.grid)
        low, high = finest / MAX_REFINEMENT, min(scene.grid.height * row_m, scene.grid.width * col_m)
        if not low <= gsd_m <= max(high, finest):
            raise SceneError(
                f"a pixel size of {gsd_m:g} m; the scene has pixels of {finest:g} m, and {low:g} to "
                f"{max(high, finest):g} m are allowed. Use --gsd 30, or --gsd native."
            )
    return working_grid(scene, gsd_m)


def _select_bands(grid: SpectralGrid, ranges_nm: tuple[tuple[float, float], ...]) -> SpectralGrid:
    if not ranges_nm:
        return grid
    inside = np.any([(low <= grid.wavelength_nm) & (grid.wavelength_nm <= high) for low, high in ranges_nm], axis=0)
    if not inside.any():
        ranges = ", ".join(f"{low:g}-{high:g}" for low, high in ranges_nm)
        low, high = grid.wavelength_nm.min(), grid.wavelength_nm.max()
        raise GridError(
            f"no target band lies within {ranges} nm; the target has bands at {low:.0f}-{high:.0f} nm. Use a wider "
            "--wavelengths."
        )
    return grid.select(inside)


def _adjust(scene: Scene, weights: Weights, options: ConvertOptions) -> Scene:
    """The scene with the gain and offset of its sensor, if the weights have them."""
    lines = weights.adjustments.get(scene.source)
    if not lines or not options.adjust:
        return scene
    bands = ", ".join(f"{name} {gain:.3f} {offset:+.4f}" for name, (gain, offset) in lines.items())
    note = f"bands adjusted by gain and offset that {weights.name} learned from pairs of {scene.source}: {bands}"
    return replace(scene.adjusted(lines), notes=(*scene.notes, note))


def _input_error(scene: Scene, weights: Weights, options: ConvertOptions) -> tuple[InputError, list[str]]:
    """The errors of the input as given, or as measured for the sensor's products, with a note about the latter.

    Weights that learned adjustments from pairs of the sensor are calibrated with these errors already.
    """
    given, notes = options.input_error, []
    if given is None:
        assumed = "" if scene.source == CUSTOM else load_sensor(scene.source).product_error
        given = assumed if assumed and scene.source not in weights.adjustments else "none"
    error = input_error_named(given) if isinstance(given, str) else given
    error.product_covariance(scene.spectral.wavelength_nm)  # refuses bands whose errors were not measured
    if options.input_error is None and error.product:
        use = "Use --input-error none for simulated reflectance."
        notes = [f"input errors {error} are assumed: {error.product.title}. {use}"]
    return error, notes


def _crop(grid: PixelGrid, options: ConvertOptions) -> PixelGrid:
    if options.bbox and options.window:
        raise SceneError("both a bbox and a window were given; only one is allowed. Use --bbox or --window.")
    if options.bbox:
        return grid.crop(*subset(grid, options.bbox))
    if options.window:
        row, col, height, width = options.window
        if min(row, col) < 0 or min(height, width) < 1 or row + height > grid.height or col + width > grid.width:
            raise SceneError(
                f"window {row},{col},{height},{width} (row, column, height, width) exceeds the scene; it has "
                f"{grid.height} rows and {grid.width} columns. Use a --window inside the scene."
            )
        return grid.crop(row, col, height, width)
    return grid
