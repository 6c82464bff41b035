"""Rasters in a folder, zip, tar or NetCDF file, listed by name: nothing outside the container is opened."""

import re
import shlex
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

import numpy as np
from rasterio import Affine
from rasterio.io import DatasetReader

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.driver_policy import SIDECAR_SUFFIXES, VRT_SUFFIX
from ms2hs.raster.pixel_grid import PixelGrid

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".img", ".vrt")
ARCHIVE_SUFFIXES = (".zip", ".tar")
# xarray writes x and y without these attributes, by which GDAL finds the position of the pixels.
ADD_ATTRIBUTES = (
    "import xarray; d = xarray.load_dataset('{path}', decode_cf=False); "
    "d.x.attrs.update(standard_name='projection_x_coordinate', units='m'); "
    "d.y.attrs.update(standard_name='projection_y_coordinate', units='m'); d.to_netcdf('{new}')"
)


@dataclass(frozen=True)
class Raster:
    """A raster of a folder, archive or NetCDF file."""

    name: str
    """Name inside the folder or archive, with `/`."""
    href: str
    """Path for `open_dataset`."""
    band: int = 1
    """1-based position of the layer in the raster."""


def archive_names(path: Path) -> list[str]:
    """Names of the files in a zip or tar, without `./`; SceneError if the archive cannot be read."""
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.namelist()
        with tarfile.open(path, "r:") as tar:
            members = [member for member in tar if member.isfile()]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise SceneError(
            f"{path}: not a readable {path.suffix[1:]} ({error}); the whole file is required. Copy or download it "
            "again."
        ) from error
    # GDAL reads GNU's long names, and no names of POSIX's extended headers.
    if extended := next((file.name for file in members if "path" in file.pax_headers and _is_raster(file.name)), None):
        folder = path.with_suffix("")
        raise SceneError(
            f"{path}: a tar in POSIX format with the name {extended[:200]}; names of at most 100 ASCII characters are "
            f"required. Run `mkdir -p {shlex.quote(str(folder))} && tar -xf {shlex.quote(str(path))} -C "
            f"{shlex.quote(str(folder))}` and give {shlex.quote(str(folder))}."
        )
    return [member.name.removeprefix("./") for member in members]


def check_sidecars(root: str, names: Sequence[str]) -> None:
    """SceneError if an overview or mask in an archive is not a raster that may be opened; GDAL tries any driver."""
    for name in names:
        if name.lower().endswith(SIDECAR_SUFFIXES):
            open_dataset(root + name).close()


def file_of(href: str) -> Path:
    """The file on disk that contains a raster: the archive, the NetCDF file, or the raster's own."""
    found = re.match(r"/vsi(?:zip|tar)/\{(.*)\}/|netcdf:(.*):", href)
    return Path(href if found is None else found[1] or found[2])


def list_rasters(path: Path, subfolders: Sequence[str] = ()) -> list[Raster]:
    """The rasters of a folder with its `subfolders`, of an archive, or the variables of a NetCDF file, by name."""
    if path.is_dir():
        folders = [path, *(path / name for name in subfolders)]
        files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
        rasters = [Raster(file.relative_to(path).as_posix(), str(file)) for file in files if _is_raster(file.name)]
    elif path.suffix.lower() in ARCHIVE_SUFFIXES:
        root = f"/vsi{path.suffix[1:].lower()}/{{{path.absolute().as_posix()}}}/"
        names = [name for name in sorted(archive_names(path)) if ".." not in name.split("/")]
        check_sidecars(root, names)
        rasters = [Raster(name, root + name) for name in names if _is_raster(name)]
    else:
        rasters = _variables(path)
    return rasters


def _is_raster(name: str) -> bool:
    """Whether a name is that of a raster; a VRT inside a product could name any other file."""
    return (
        name.lower().endswith(RASTER_SUFFIXES)
        and not name.lower().endswith(VRT_SUFFIX)
        and not PurePosixPath(name).name.startswith("._")
    )


def _variables(path: Path) -> list[Raster]:
    """The variables of a NetCDF file, once for each time step; their names begin with the names of file and step."""
    with open_dataset(str(path)) as dataset:
        hrefs = dataset.subdatasets
    return [raster for href in hrefs for raster in _time_slices(path, href)]


def _time_slices(path: Path, href: str) -> list[Raster]:
    name = href.rsplit(":", maxsplit=1)[-1]
    try:
        with open_dataset(href) as dataset:
            tags, count = dataset.tags(), dataset.count
            has_no_place = dataset.crs is not None and dataset.transform == Affine.identity()
    except SceneError:  # not a grid, such as the text of a CRS
        return []
    if has_no_place:
        command = ADD_ATTRIBUTES.format(path=path, new=path.with_suffix(".named.nc"))
        raise SceneError(
            f"{path}: variable {name} has a CRS, but its coordinates have no standard_name; projection_x_coordinate "
            f'and projection_y_coordinate are required. Run `python -c "{command}"` and use the new file.'
        )
    extra = tags.get("NETCDF_DIM_EXTRA", "").strip("{}")
    if "," in extra:
        raise SceneError(
            f"{path}: variable {name} has the dimensions {extra} besides y and x; one of time is allowed. Write one "
            "variable per band."
        )
    steps = _time_steps(tags.get(f"NETCDF_DIM_{extra}_VALUES", ""), tags.get(f"{extra}#units", ""))
    if len(steps) != count:
        steps = [f"step{i + 1}" for i in range(count)] if count > 1 else [""]
    return [Raster(f"{path.stem}_{step}_{name}.nc", href, i + 1) for i, step in enumerate(steps)]


def _time_steps(values: str, units: str) -> list[str]:
    """ISO 8601 times of a CF time axis: `{0,5}` and `days since 2024-06-07`; empty if they cannot be read."""
    try:
        unit, start = units.split(" since ")
        first = datetime.fromisoformat(start.strip())
        steps = [first + timedelta(**{unit.strip(): float(text)}) for text in values.strip("{}").split(",")]
    except (ValueError, TypeError, OverflowError):
        return []
    return [step.strftime("%Y-%m-%d" if step.time() == first.min.time() else "%Y-%m-%dT%H:%M:%S") for step in steps]


def common_grid(datasets: Sequence[DatasetReader], rasters: Sequence[Raster], path: str) -> PixelGrid:
    """The finest grid; SceneError unless the others have its CRS, and its extent in blocks of its pixels.

    The extents may differ by less than one pixel of the coarser grid, as with bands cut one by one.
    """
    grids = [read_pixel_grid(dataset) for dataset in datasets]
    finest = min(grids, key=lambda grid: abs(grid.transform[0]))
    for grid, raster, dataset in zip(grids, rasters, datasets, strict=True):
        if raster.href.lower().endswith(RASTER_SUFFIXES) and dataset.count != 1:
            raise SceneError(
                f"{path}: {raster.name} has {dataset.count} bands; one per file is required. Give the path of one file "
                "with all bands, or a folder with one file per band."
            )
        # Pixels and corner of the file, in pixels of the finest grid.
        (step, skew, left), (other_skew, row_step, top), _ = np.linalg.solve(finest.matrix, grid.matrix).tolist()
        size = max(round(step), 1)
        numbers = np.array([step - size, row_step - size, skew, other_skew, left - round(left), top - round(top)])
        right, bottom = left + grid.width * size - finest.width, top + grid.height * size - finest.height
        is_multiple = np.abs(numbers).max() < 1e-3 and max(map(abs, (left, top, right, bottom))) < size - 1e-3
        if grid.crs != finest.crs or not is_multiple:
            raise SceneError(
                f"{path}: {raster.name} has another grid ({grid.crs}, {grid.width} x {grid.height} pixels of "
                f"{grid.transform[0]:g}) than the finest band ({finest.crs}, {finest.width} x {finest.height} of "
                f"{finest.transform[0]:g}); one CRS, one extent and pixels of integer multiples are required. Warp the "
                "files to one grid with gdalwarp."
            )
    return finest
