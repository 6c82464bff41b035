"""How long CogWriter takes, as a ratio to GDAL writing the same numbers as a plain tiled GeoTIFF.

    python benchmarks/writer.py [--bands 202] [--height 1024] [--width 1024] [--rows 96] [--repeat 3] [--json]

Both write the same strips to the same disk, with the same compression, each in a process of its own, whose peak
memory is its own. The plain file has no overviews and is no COG; it is the least that any writer of this cube does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window

from ms2hs.raster.cog import CACHE_BYTES, NODATA, SCALE, CogWriter
from ms2hs.raster.scene import PixelGrid
from ms2hs.spectra.grid import grid_of

TRANSFORM = (30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0)
ENDMEMBERS = 6
NOISE = 0.0015
STRIPS = 8


def make_strips(bands: int, rows: int, width: int) -> list[NDArray[np.int16]]:
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


def rows_of(strips: list[NDArray[np.int16]], height: int) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Strips and their first rows, over and over until the height is full."""
    rows = strips[0].shape[1]
    for i, row in enumerate(range(0, height, rows)):
        yield row, strips[i % len(strips)][:, : height - row]


def write_cog(path: Path, strips: list[NDArray[np.int16]], height: int) -> None:
    """With our writer."""
    bands, _, width = strips[0].shape
    grid = PixelGrid("EPSG:32633", TRANSFORM, height, width)
    with CogWriter(path, grid, grid_of(np.linspace(420, 2450, bands)), {}) as writer:
        for row, strip in rows_of(strips, height):
            writer.write(row, strip)


def write_plain(path: Path, strips: list[NDArray[np.int16]], height: int) -> None:
    """With GDAL alone, in the order that suits it best: a whole band after the other."""
    bands, _, width = strips[0].shape
    profile = {
        "driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": "int16", "nodata": NODATA,
        "crs": "EPSG:32633", "transform": Affine(*TRANSFORM), "TILED": "YES", "BLOCKXSIZE": 256, "BLOCKYSIZE": 256,
        "INTERLEAVE": "BAND", "COMPRESS": "ZSTD", "ZSTD_LEVEL": 1, "PREDICTOR": 2, "BIGTIFF": "YES",
        "NUM_THREADS": "ALL_CPUS",
    }  # fmt: skip
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES), rasterio.open(path, "w", **profile) as file:
        for band in range(bands):
            for row, strip in rows_of(strips, height):
                file.write(strip[band], band + 1, window=Window(0, row, width, strip.shape[1]))


WRITERS = {"cog": write_cog, "plain": write_plain}


def measure(which: str, height: int, folder: Path) -> dict[str, float]:
    """Seconds, megabytes on disk, and peak megabytes of memory without those of the strips."""
    strips = list(np.load(folder / "strips.npy"))
    path = folder / f"{which}.tif"
    start = time.perf_counter()
    WRITERS[which](path, strips, height)
    seconds = time.perf_counter() - start
    size = path.stat().st_size
    path.unlink()
    memory = peak_bytes() - sum(strip.nbytes for strip in strips)
    return {"seconds": seconds, "file_mb": size / 1e6, "memory_mb": memory / 1e6}


def peak_bytes() -> int:
    """Most memory that this process has held (`ru_maxrss` counts its parent's too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    """Measure both in turns, and print the ratio of their best times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("bands", 202), ("height", 1024), ("width", 1024), ("rows", 96), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary directory without")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=sorted(WRITERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.height, options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        np.save(Path(folder) / "strips.npy", make_strips(options.bands, options.rows, options.width))
        runs: dict[str, list[dict[str, float]]] = {which: [] for which in WRITERS}
        for _ in range(options.repeat):
            for which, found in runs.items():
                command = [sys.executable, __file__, "--only", which, "--folder", folder]
                done = subprocess.run([*command, "--height", str(options.height)], capture_output=True, check=True)
                found.append(json.loads(done.stdout))
    best = {which: min(found, key=lambda run: run["seconds"]) for which, found in runs.items()}
    ratio = best["cog"]["seconds"] / best["plain"]["seconds"]
    raw_mb = 2 * options.bands * options.height * options.width / 1e6
    if options.json:
        print(json.dumps({"ratio": ratio, "raw_mb": raw_mb, "best": best, "runs": runs}, indent=1))
        return
    print(f"{options.bands} bands of {options.height} x {options.width}: {raw_mb:.0f} MB of int16")
    for which, run in best.items():
        print(f"{which:6} {run['seconds']:7.2f} s  {run['file_mb']:7.0f} MB  peak memory {run['memory_mb']:5.0f} MB")
    print(f"ratio  {ratio:7.2f}")


if __name__ == "__main__":
    main()
