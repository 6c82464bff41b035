"""What a conversion will do, decided and checked before any pixel is read."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ms2hs.conversion.staging import directory_of
from ms2hs.errors import GridError, OutputError, SceneError, WeightsError
from ms2hs.files import check_output, check_space
from ms2hs.models.prior import InputError
from ms2hs.models.weights import DEFAULT, Weights, load_weights
from ms2hs.raster.cog.overviews import BLOCK
from ms2hs.raster.cog.writer import disk_bytes, memory_bytes
from ms2hs.raster.pixel_grid import PixelGrid, subset
from ms2hs.remote.object_store import Address, ObjectStore, Place, place_of
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.scene import Scene, SceneOptions, working_grid
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

# A strip of a network that looks at each pixel alone has at most so many rows and, in a wide scene, bytes.
STRIP_ROWS = 32
STRIP_BYTES = 64_000_000
LEAST_ROWS = 8


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert, beyond scene and target; the defaults suit most."""

    source: str | None = None
    """Sensor of the scene; None: from its metadata."""
    bands: tuple[str, ...] | None = None
    """Band names in the order of the file; None: from descriptions or wavelengths."""
    dn_offset: float | None = None
    """Added to the stored numbers before scaling; None: decided from metadata."""
    quality: bool = True
    """Leave out cloud, shadow and cirrus where the product tells them."""
    gsd_m: float | Literal["native"] | None = None
    """Ground sampling of the result in m; None: 30 m for Sentinel-2 products, else the scene's own."""
    bbox: tuple[float, float, float, float] | None = None
    """Only this part: west, south, east, north in degrees."""
    window: tuple[int, int, int, int] | None = None
    """Only this part: row, column, height, width on the working grid."""
    wavelengths_nm: tuple[tuple[float, float], ...] = ()
    """Only target bands whose centres lie in one of these ranges."""
    model: str = DEFAULT
    """Name of shipped weights (`default`: the best there is), or a path."""
    device: str = "auto"
    """Where a network runs: `cpu`, `cuda`, `mps`, or the best of what is there."""
    uncertainty: bool = False
    """Write `<stem>_sigma.tif` too."""
    reference: Path | None = None
    """A few spectra measured in the scene."""
    site: Path | None = None
    """A hyperspectral cube of the same site, from any date."""
    input_error: InputError | None = None
    """What the product's reflectance is off by; the uncertainty then covers that too."""
    adjust: bool = True
    """Bring the scene's bands to what its sensor's responses give, where the weights learnt that from pairs."""
    overwrite: bool = False
    resume: bool = False
    """Go on where the same conversion was stopped, and keep what is made if this one is."""

    @property
    def is_adapted(self) -> bool:
        """Whether anything is known of this scene in particular."""
        return any((self.reference, self.site, self.input_error))


@dataclass(frozen=True)
class Plan:
    """A conversion before any pixel is read."""

    scene: Scene
    target: str
    spectral: SpectralGrid
    """The bands that will be written."""
    grid: PixelGrid
    """The pixels that will be written."""
    output: Path
    """Where the cube is written; if it goes to an address from there, a file in the directory of temporary ones."""
    weights: Weights
    choices: ConvertOptions
    address: Address | None = None
    """Where the cube goes once it is whole."""

    @property
    def place(self) -> Place:
        """Where the user will find the cube."""
        return self.address or self.output

    def inside(self, folder: str | Path) -> "Plan":
        """The same conversion, left in a folder of this machine."""
        return replace(self, output=Path(folder) / self.output.name, address=None)

    @property
    def sigma(self) -> Path | None:
        """Where the uncertainty goes, if it was asked for."""
        return self.output.with_name(_sigma_name(self.output)) if self.choices.uncertainty else None

    @property
    def rows_at_a_time(self) -> int:
        """Rows that are read and converted together."""
        if self.weights.network is None:
            return BLOCK
        config = self.weights.network.config
        if not config.is_local:
            return config.window
        fitting = STRIP_BYTES // (2 * len(self.spectral) * self.grid.width)
        return min(STRIP_ROWS, max(LEAST_ROWS, fitting - fitting % LEAST_ROWS))

    @property
    def facts(self) -> dict[str, int]:
        """What it will take: rows at a time, pixels, bands, and bytes of the result, of disk and of memory."""
        files = 2 if self.choices.uncertainty else 1
        bands, rows = len(self.spectral), self.rows_at_a_time
        pixels = rows * self.grid.width
        held = 3 * pixels * len(self.scene.assets) * 4  # read ahead, at work, and not yet written
        is_linear = self.weights.network is None
        if not is_linear:
            held += pixels * bands * (4 + 2 * 2)  # blended, and as two strips of stored numbers
        return {
            "rows_at_a_time": rows,
            "pixels": self.grid.height * self.grid.width,
            "bands": bands,
            "output_bytes_uncompressed": files * bands * self.grid.height * self.grid.width * 2,
            "disk_bytes_peak": files * disk_bytes(self.grid, bands),
            "memory_bytes": held + files * memory_bytes(self.grid, bands, strips=not is_linear) + 300_000_000,
        }


def check_place(cube: Place, choices: ConvertOptions, depot: ObjectStore | None = None) -> None:
    """Refuse a place where the files of a result cannot be, before any work starts.

    Parameters
    ----------
    depot : the folder of an address, where it is open already.

    Raises
    ------
    OutputError : files are there and may not be replaced, or there is no place for them.
    CredentialsError : the store of an address wants others.
    """
    cubes = [cube.name, _sigma_name(cube)] if choices.uncertainty else [cube.name]
    if isinstance(cube, Address):
        if choices.resume:
            raise OutputError(
                f"{cube}: --resume goes on with what lies on a disk of this machine; this result goes to a store. Give "
                "a directory here, or leave --resume out."
            )
        depot = depot or ObjectStore(cube.parent)
        depot.check([*cubes, f"{cube.stem}.png", f"{cube.stem}.json"], overwrite=choices.overwrite)
        return
    may_replace = choices.overwrite or (choices.resume and directory_of(cube).exists())
    for name in cubes:
        check_output(cube.with_name(name), overwrite=may_replace)


def _sigma_name(cube: Place) -> str:
    """What the file of a cube's uncertainty is called."""
    return f"{cube.stem}_sigma.tif"


def plan(
    scene: str | Path | Scene,
    target: str = "enmap",
    output: str | Path | None = None,
    choices: ConvertOptions | None = None,
) -> Plan:
    """What `convert` would do, with everything decided and checked that needs no pixels.

    Raises
    ------
    Ms2hsError : a scene, target, model or place that cannot serve.
    """
    choices = choices or ConvertOptions()
    sensor = load_sensor(target)
    spectral = _selected(sensor.grid, choices.wavelengths_nm)
    weights = load_weights(choices.model)
    _check_uncertainty(weights, choices)
    if not isinstance(scene, Scene):
        scene = open_scene(str(scene), SceneOptions(choices.source, choices.bands, choices.dn_offset, choices.quality))
    scene = _adjusted(scene, weights, choices)
    grid = scene.grid if choices.gsd_m == "native" else working_grid(scene, choices.gsd_m)
    grid = _part(grid, choices)
    name = f"{scene.id}_{sensor.name}.tif"
    place = place_of(output or name)
    is_folder = not place.is_cube if isinstance(place, Address) else place.is_dir()
    place = place / name if is_folder else place
    check_place(place, choices)
    address, elsewhere = None, "choose another disk"
    if isinstance(place, Address):
        address, elsewhere = place, "set TMPDIR to a directory of another disk"
        place = Path(tempfile.gettempdir(), place.name)
    planned = Plan(scene, sensor.name, spectral, grid, place, weights, choices, address)
    check_space(place.parent, planned.facts["disk_bytes_peak"], elsewhere)
    return planned


def _check_uncertainty(weights: Weights, choices: ConvertOptions) -> None:
    if choices.uncertainty and weights.calibrated_prior is None:
        raise WeightsError(
            f"--uncertainty: {weights.name} is a network whose uncertainty was never calibrated on scenes held out; "
            "calibrated weights have one. Calibrate them with `ms2hs finetune --train none`, or use --model linear."
        )


def _adjusted(scene: Scene, weights: Weights, choices: ConvertOptions) -> Scene:
    lines = weights.adjustments.get(scene.source)
    if not lines or not choices.adjust:
        return scene
    told = ", ".join(f"{name} {gain:.3f} {offset:+.4f}" for name, (gain, offset) in lines.items())
    note = f"bands are adjusted as {weights.name} learnt from pairs of {scene.source} (gain, offset): {told}"
    return replace(scene.adjusted(lines), notes=(*scene.notes, note))


def _selected(grid: SpectralGrid, ranges_nm: tuple[tuple[float, float], ...]) -> SpectralGrid:
    if not ranges_nm:
        return grid
    inside = np.any([(low <= grid.wavelength_nm) & (grid.wavelength_nm <= high) for low, high in ranges_nm], axis=0)
    if not inside.any():
        asked = ", ".join(f"{low:g}-{high:g}" for low, high in ranges_nm)
        low, high = grid.wavelength_nm.min(), grid.wavelength_nm.max()
        raise GridError(f"no target band lies within {asked} nm; there are bands at {low:.0f}-{high:.0f} nm. Widen it.")
    return grid.select(inside)


def _part(grid: PixelGrid, choices: ConvertOptions) -> PixelGrid:
    if choices.bbox and choices.window:
        raise SceneError("both a bbox and a window were given; one part of the scene is allowed. Leave one out.")
    if choices.bbox:
        return grid.crop(*subset(grid, choices.bbox))
    if choices.window:
        row, col, height, width = choices.window
        if min(row, col) < 0 or min(height, width) < 1 or row + height > grid.height or col + width > grid.width:
            raise SceneError(
                f"window {row},{col},{height},{width} (row, column, height, width) leaves the scene; it has "
                f"{grid.height} rows and {grid.width} columns. Choose a window inside."
            )
        return grid.crop(row, col, height, width)
    return grid
