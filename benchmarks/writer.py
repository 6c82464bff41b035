"""Speed, memory and file size of CogWriter compared with other writers of the same cube.

    python benchmarks/writer.py [--bands 202] [--height 1024] [--width 1024] [--rows 64] [--repeat 5] [--json]

| writer      | method                                                                                         |
|-------------|------------------------------------------------------------------------------------------------|
| ours        | `CogWriter`, strip by strip                                                                    |
| plain       | GDAL's GTiff driver, band by band: tiles without overviews, not a COG                          |
| prepared    | GDAL: strips to an uncompressed file, averaged overviews, copied to a COG                      |
| gdal cog    | GDAL's COG driver with its overviews, from a cube in memory                                    |
| odc-geo     | `save_cog_with_dask` from a cube in memory, if odc-geo and dask are installed                  |

All compress with ZSTD level 1 and horizontal differencing, with one thread per processor. Every run is a process of its
own, for its peak memory. Writers take turns, so that other load affects all of them. The output has medians, and the
speed of `ours` relative to each writer.
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
# GDAL's block cache: many rows of blocks of a band.
CACHE_BYTES = 128_000_000
CODEC = {"COMPRESS": "ZSTD", "BIGTIFF": "YES", "NUM_THREADS": "ALL_CPUS"}
GTIFF_CODEC = CODEC | {"ZSTD_LEVEL": 1, "PREDICTOR": 2}
TILES = {"TILED": "YES", "BLOCKXSIZE": BLOCK, "BLOCKYSIZE": BLOCK, "INTERLEAVE": "BAND"}


def make_strips(bands: int, rows: int, width: int) -> Strips:
    """Strips of a simulated landscape: smooth abundance fields times smooth spectra, plus sensor noise."""
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
    """A positive random field with a 1/f² power spectrum, similar to landscapes."""
    noise = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(height, width)
    field = np.fft.irfft2(noise / frequency, (height, width))
    return np.exp(field / field.std()).astype(np.float32)


def rows_of(strips: Strips, height: int) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """First row and strip, repeated cyclically up to the height."""
    rows = strips[0].shape[1]
    for i, row in enumerate(range(0, height, rows)):
        yield row, strips[i % len(strips)][:, : height - row]


def profile_of(strips: Strips, height: int) -> dict[str, Any]:
    """The rasterio profile of the cube."""
    bands, _, width = strips[0].shape
    georeference = {"crs": CRS, "transform": Affine(*TRANSFORM), "nodata": NODATA, "dtype": "int16"}
    return {"driver": "GTiff", "count": bands, "height": height, "width": width} | georeference


def write_ours(path: Path, strips: Strips, height: int) -> None:
    """Write with `CogWriter`."""
    bands, _, width = strips[0].shape
    grid = PixelGrid(CRS, TRANSFORM, height, width)
    with CogWriter(path, grid, grid_of(np.linspace(420, 2450, bands)), {}) as writer:
        for row, strip in rows_of(strips, height):
            writer.write(row, strip)


def write_plain(path: Path, strips: Strips, height: int) -> None:
    """Write with GDAL's GTiff driver in its fastest order, band by band."""
    with rasterio.open(path, "w", **profile_of(strips, height), **TILES, **GTIFF_CODEC) as file:
        for band in range(file.count):
            for row, strip in rows_of(strips, height):
                file.write(strip[band], band + 1, window=Window(0, row, file.width, strip.shape[1]))


def write_prepared(path: Path, strips: Strips, height: int) -> None:
    """Write a COG with GDAL from strips, by the fastest of the measured ways (see the CHANGELOG)."""
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
    """Write with GDAL's COG driver, its overviews and blocks of the same size."""
    profile = profile_of(strips, height) | {"driver": "MEM"}
    with rasterio.open("", "w", **profile) as file:
        for row, strip in rows_of(strips, height):
            file.write(strip, window=Window(0, row, file.width, strip.shape[1]))
        options = CODEC | {"LEVEL": 1, "PREDICTOR": "YES", "BLOCKSIZE": BLOCK}
        rasterio.shutil.copy(file, path, driver="COG", **options)


def write_odc(path: Path, strips: Strips, height: int) -> None:
    """Write with odc-geo, in chunks of one block."""
    import dask.array as da  # noqa: PLC0415
    import xarray as xr  # noqa: PLC0415
    from odc.geo.cog import save_cog_with_dask  # noqa: PLC0415
    from odc.geo.geobox import GeoBox  # noqa: PLC0415
    from odc.geo.xr import xr_coords  # noqa: PLC0415

    cube = np.concatenate([strip for _, strip in rows_of(strips, height)], axis=1)
    geobox = GeoBox(cube.shape[1:], Affine(*TRANSFORM), CRS)
    numbers = da.from_array(cube, chunks=(-1, BLOCK, BLOCK))
    array = xr.DataArray(numbers, xr_coords(geobox), ("band", *geobox.dims), attrs={"nodata": NODATA})
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
    """Seconds, file size in MB, and peak memory in MB without the strips."""
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
    """Peak memory of this process (`ru_maxrss` would include its parent)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure_all(options: argparse.Namespace, writers: list[str]) -> dict[str, list[dict[str, float]]]:
    """The runs of each writer, in turns."""
    runs: dict[str, list[dict[str, float]]] = {which: [] for which in writers}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        np.save(Path(folder) / "strips.npy", make_strips(options.bands, options.rows, options.width))
        for turn in range(options.repeat):
            # random order: memory that a writer frees speeds up the next one
            for which in np.random.default_rng(turn).permutation(writers).tolist():
                settle()
                command = [sys.executable, __file__, "--run", which, "--folder", folder]
                done = subprocess.run([*command, "--height", str(options.height)], stdout=subprocess.PIPE, check=True)
                runs[which].append(json.loads(done.stdout))
    return runs


def main() -> None:
    """Measure all writers and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("bands", 202), ("height", 1024), ("width", 1024), ("rows", 64), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, help="output directory [temporary directory]")
    parser.add_argument(
        "--only", action="append", choices=sorted(WRITERS), help="writers to compare with; may be repeated"
    )
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
    """Print a table, or JSON."""
    raw_mb = 2 * options.bands * options.height * options.width / 1e6
    medians = {
        which: {key: statistics.median(run[key] for run in found) for key in found[0]} for which, found in runs.items()
    }
    ratios = {which: found["seconds"] / medians["ours"]["seconds"] for which, found in medians.items()}
    if options.json:
        facts = {"raw_mb": raw_mb, "load": os.getloadavg(), "ratios": ratios, "median": medians, "runs": runs}
        print(json.dumps(facts, indent=1))
        return
    print(f"{options.bands} bands of {options.height} x {options.width}: {raw_mb:.0f} MB of int16; ", end="")
    print(f"medians of {options.repeat}; load of the machine {os.getloadavg()[0]:.1f}")
    for which, found in medians.items():
        speed, times = raw_mb / found["seconds"], ratios[which]
        print(f"{which:9} {found['seconds']:7.2f} s {speed:5.0f} MB/s  ours is {times:5.2f} times as fast;", end="")
        print(f" processor {found['processor_seconds']:6.2f} s, file {found['file_mb']:5.0f} MB,", end="")
        print(f" peak memory {found['memory_mb']:5.0f} MB")


if __name__ == "__main__":
    main()
