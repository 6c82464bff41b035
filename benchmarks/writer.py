"""How fast CogWriter is beside other ways to write the same numbers to the same disk.

    python benchmarks/writer.py [--bands 202] [--height 1024] [--width 1024] [--rows 64] [--repeat 5] [--json]

| writer      | what it does                                                                                   |
|-------------|------------------------------------------------------------------------------------------------|
| ours        | strips, as they come, to a COG                                                                 |
| plain       | GDAL's GTiff driver, a whole band after the other: tiles without overviews, no COG             |
| prepared    | GDAL: strips to a plain file that is not compressed, its averaged overviews, a copy as a COG   |
| gdal cog    | GDAL's COG driver, which makes the overviews; it gets the cube in memory                       |
| odc-geo     | `save_cog_with_dask` of the cube in memory, if odc-geo and dask are there                      |

All compress with ZSTD level 1 and differences, in as many threads as there are processors. Each run is a
process of its own, whose peak memory is its own; the writers take turns, so that what else the machine does falls on
all alike. Printed are medians, and ratios of speed: ours over each.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from conversion import settle
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.windows import Window

from ms2hs.raster.cog.encoding import BLOCK
from ms2hs.raster.cog.overviews import Levels
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import grid_of

Strips = list[NDArray[np.int16]]

CRS = "EPSG:32633"
TRANSFORM = (30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0)
ENDMEMBERS = 6
NOISE = 0.0015
STRIPS = 8
# What GDAL may keep of blocks that are not written yet: a row of blocks of a band many times over.
CACHE_BYTES = 128_000_000
CODEC = {"COMPRESS": "ZSTD", "BIGTIFF": "YES", "NUM_THREADS": "ALL_CPUS"}
GTIFF_CODEC = CODEC | {"ZSTD_LEVEL": 1, "PREDICTOR": 2}
TILES = {"TILED": "YES", "BLOCKXSIZE": BLOCK, "BLOCKYSIZE": BLOCK, "INTERLEAVE": "BAND"}


def make_strips(bands: int, rows: int, width: int) -> Strips:
    """A few strips of a made-up landscape: smooth fields of abundance times smooth spectra, plus sensor noise.

    They are made before the clock starts, and written in turns.
    """
    rng = np.random.default_rng(0)
    knots = rng.uniform(0.02, 0.5, (ENDMEMBERS, 12))
    at = np.linspace(0, 11, bands)
    spectra = np.stack([np.interp(at, np.arange(12), knot) for knot in knots], 1).astype(np.float32)
    fields = np.stack([_smooth(rng, rows * STRIPS, width) for _ in range(ENDMEMBERS)])
    fields /= fields.sum(axis=0)
    strips = []
    for part in np.split(fields, STRIPS, axis=1):
        cube = np.tensordot(spectra, part, 1) + NOISE * rng.standard_normal((bands, rows, width), np.float32)
        strips.append(np.rint(cube / SCALE).astype(np.int16))
        strips[-1][:, : rows // 4, : width // 8] = NODATA
    return strips


def _smooth(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """A random field above 0 whose power falls as 1/f², about as that of landscapes does."""
    noise = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(height, width)
    field = np.fft.irfft2(noise / frequency, (height, width))
    return np.exp(field / field.std()).astype(np.float32)


def rows_of(strips: Strips, height: int) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Strips and their first rows, over and over until the height is full."""
    rows = strips[0].shape[1]
    for i, row in enumerate(range(0, height, rows)):
        yield row, strips[i % len(strips)][:, : height - row]


def profile_of(strips: Strips, height: int) -> dict[str, Any]:
    """What rasterio needs to know of the cube."""
    bands, _, width = strips[0].shape
    placed = {"crs": CRS, "transform": Affine(*TRANSFORM), "nodata": NODATA, "dtype": "int16"}
    return {"driver": "GTiff", "count": bands, "height": height, "width": width} | placed


def write_ours(path: Path, strips: Strips, height: int) -> None:
    """With our writer."""
    bands, _, width = strips[0].shape
    grid = PixelGrid(CRS, TRANSFORM, height, width)
    with CogWriter(path, grid, grid_of(np.linspace(420, 2450, bands)), {}) as writer:
        for row, strip in rows_of(strips, height):
            writer.write(row, strip)


def write_plain(path: Path, strips: Strips, height: int) -> None:
    """With GDAL alone, in the order that suits it best: a whole band after the other."""
    with rasterio.open(path, "w", **profile_of(strips, height), **TILES, **GTIFF_CODEC) as file:
        for band in range(file.count):
            for row, strip in rows_of(strips, height):
                file.write(strip[band], band + 1, window=Window(0, row, file.width, strip.shape[1]))


def write_prepared(path: Path, strips: Strips, height: int) -> None:
    """With GDAL alone, as fast as it makes COGs of strips that were measured: see the CHANGELOG."""
    temporary, width = path.with_suffix(".strips.tif"), strips[0].shape[2]
    low = TILES | {"BLOCKYSIZE": 16, "BIGTIFF": "YES"}
    with rasterio.open(temporary, "w", **profile_of(strips, height), **low) as file:
        for row, strip in rows_of(strips, height):
            file.write(strip, window=Window(0, row, width, strip.shape[1]))
    with rasterio.open(temporary, "r+") as file:
        factors = [2**level for level in range(1, Levels(height, width).count)]
        file.build_overviews(factors, Resampling.average)
    rasterio.shutil.copy(temporary, path, driver="GTiff", COPY_SRC_OVERVIEWS="YES", **TILES, **GTIFF_CODEC)
    temporary.unlink()


def write_gdal_cog(path: Path, strips: Strips, height: int) -> None:
    """With GDAL's COG driver; its own overviews, and blocks as wide as ours."""
    profile = profile_of(strips, height) | {"driver": "MEM"}
    with rasterio.open("", "w", **profile) as file:
        for row, strip in rows_of(strips, height):
            file.write(strip, window=Window(0, row, file.width, strip.shape[1]))
        options = CODEC | {"LEVEL": 1, "PREDICTOR": "YES", "BLOCKSIZE": BLOCK}
        rasterio.shutil.copy(file, path, driver="COG", **options)


def write_odc(path: Path, strips: Strips, height: int) -> None:
    """With odc-geo, of chunks as high as a block."""
    import dask.array as da  # noqa: PLC0415
    import xarray as xr  # noqa: PLC0415
    from odc.geo.cog import save_cog_with_dask  # noqa: PLC0415
    from odc.geo.geobox import GeoBox  # noqa: PLC0415
    from odc.geo.xr import xr_coords  # noqa: PLC0415

    cube = np.concatenate([strip for _, strip in rows_of(strips, height)], axis=1)
    place = GeoBox(cube.shape[1:], Affine(*TRANSFORM), CRS)
    numbers = da.from_array(cube, chunks=(-1, BLOCK, BLOCK))
    array = xr.DataArray(numbers, xr_coords(place), ("band", *place.dims), attrs={"nodata": NODATA})
    options = {"compression": "zstd", "level": 1, "predictor": 2, "blocksize": BLOCK, "bigtiff": True}
    save_cog_with_dask(array, str(path), overview_resampling="average", **options).compute()


WRITERS = {
    "ours": write_ours,
    "plain": write_plain,
    "prepared": write_prepared,
    "gdal cog": write_gdal_cog,
    "odc-geo": write_odc,
}


def measure(which: str, height: int, folder: Path) -> dict[str, float]:
    """Seconds, megabytes on disk, and peak megabytes of memory without those of the strips."""
    strips = list(np.load(folder / "strips.npy"))
    path = folder / "cube.tif"
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_TIFF_OVR_BLOCKSIZE=BLOCK):
        start, busy = time.perf_counter(), time.process_time()
        WRITERS[which](path, strips, height)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    size = path.stat().st_size
    path.unlink()
    memory = peak_bytes() - sum(strip.nbytes for strip in strips)
    return {"seconds": seconds, "processor_seconds": busy, "file_mb": size / 1e6, "memory_mb": memory / 1e6}


def peak_bytes() -> int:
    """Most memory that this process has held (`ru_maxrss` counts its parent's too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure_all(options: argparse.Namespace, writers: list[str]) -> dict[str, list[dict[str, float]]]:
    """Of each writer its runs, in turns."""
    runs: dict[str, list[dict[str, float]]] = {which: [] for which in writers}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        np.save(Path(folder) / "strips.npy", make_strips(options.bands, options.rows, options.width))
        for turn in range(options.repeat):
            # in an order of its own: what one leaves of memory is at hand for the next
            for which in np.random.default_rng(turn).permutation(writers).tolist():
                settle()
                command = [sys.executable, __file__, "--run", which, "--folder", folder]
                done = subprocess.run([*command, "--height", str(options.height)], stdout=subprocess.PIPE, check=True)
                runs[which].append(json.loads(done.stdout))
    return runs


def main() -> None:
    """Measure in turns, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("bands", 202), ("height", 1024), ("width", 1024), ("rows", 64), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary directory without")
    parser.add_argument("--only", action="append", choices=sorted(WRITERS), help="these beside ours")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", choices=sorted(WRITERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(measure(options.run, options.height, options.folder)))
        return
    can_odc = all(importlib.util.find_spec(name) for name in ("odc", "dask"))
    writers = [which for which in WRITERS if which in ("ours", *(options.only or WRITERS))]
    runs = measure_all(options, [which for which in writers if which != "odc-geo" or can_odc])
    report(options, runs)


def report(options: argparse.Namespace, runs: dict[str, list[dict[str, float]]]) -> None:
    """Print the table, or JSON."""
    raw_mb = 2 * options.bands * options.height * options.width / 1e6
    middle = {
        which: {key: statistics.median(run[key] for run in found) for key in found[0]} for which, found in runs.items()
    }
    ratios = {which: found["seconds"] / middle["ours"]["seconds"] for which, found in middle.items()}
    if options.json:
        facts = {"raw_mb": raw_mb, "load": os.getloadavg(), "ratios": ratios, "median": middle, "runs": runs}
        print(json.dumps(facts, indent=1))
        return
    print(f"{options.bands} bands of {options.height} x {options.width}: {raw_mb:.0f} MB of int16; ", end="")
    print(f"medians of {options.repeat}; load of the machine {os.getloadavg()[0]:.1f}")
    for which, found in middle.items():
        speed, times = raw_mb / found["seconds"], ratios[which]
        print(f"{which:9} {found['seconds']:7.2f} s {speed:5.0f} MB/s  ours is {times:5.2f} times as fast;", end="")
        print(f" processor {found['processor_seconds']:6.2f} s, file {found['file_mb']:5.0f} MB,", end="")
        print(f" peak memory {found['memory_mb']:5.0f} MB")


if __name__ == "__main__":
    main()
