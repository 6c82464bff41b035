"""How long `convert` takes beside GDAL writing the same cube, where the time goes, and what memory it needs.

    python benchmarks/conversion.py                              # 1000², 3660², thrice that height for memory, wide
    python benchmarks/conversion.py --size 1000 --repeat 1       # quicker
    python benchmarks/conversion.py --size 1024 --model default  # with the network

Each `convert` runs in a process of its own, so that its peak memory is its own. The ratio compares it with the plain
tiled ZSTD GeoTIFF write of the cube that it made; they take turns, so that what else the machine does falls on both.
Where scenes of one width and several heights were measured, as they are without options, a last line tells how much
more memory the highest took than the lowest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.windows import Window

from ms2hs.datasets.simulation.example_scene import example_dn
from ms2hs.spectra.sensors import load_sensor

SIZES = [(1000, 1000), (3660, 3660), (10980, 3660), (512, 10980)]
CONVERT = """
import json, sys, time
from pathlib import Path
from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
choices = ConvertOptions(overwrite=True, model=sys.argv[3], device=sys.argv[4])
made = convert(sys.argv[1], "enmap", Path(sys.argv[2]), choices)
peak_kib = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss counts the parent's too
print(json.dumps({**made.seconds, "peak_bytes": int(peak_kib) * 1024, "processors": time.process_time()}))
"""


def write_scene(path: Path, height: int, width: int) -> None:
    """A 12-band scene of that size: the example, repeated and turned over so that its edges meet."""
    dn = example_dn()[:, :, :280]  # without the orbit's edge
    dn = np.concatenate([dn, dn[:, ::-1]], axis=1)
    dn = np.concatenate([dn, dn[:, :, ::-1]], axis=2)
    across = np.tile(dn, (1, 1, -(-width // dn.shape[2])))[:, :, :width]
    profile = {"driver": "GTiff", "count": 12, "dtype": "uint16", "height": height, "width": width, "nodata": 0}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2}
    place = {"crs": "EPSG:32633", "transform": Affine(30, 0, 399960, 0, -30, 5900040)}
    with rasterio.open(path, "w", **profile, **layout, **place, num_threads="ALL_CPUS", bigtiff="IF_SAFER") as scene:
        for top in range(0, height, 512):
            rows = (np.arange(top, min(top + 512, height))) % dn.shape[1]
            scene.write(across[:, rows], window=Window(0, top, width, len(rows)))
        scene.descriptions = load_sensor("sentinel2a").grid.names


def plain_write_seconds(cube: Path, copy: Path) -> float:
    """Seconds that GDAL needs to write this cube as a tiled, band-interleaved ZSTD GeoTIFF, without overviews."""
    seconds = 0.0
    with rasterio.open(cube) as made, rasterio.Env(GDAL_CACHEMAX=512_000_000):
        layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "band"}
        codec = {"compress": "zstd", "zstd_level": 1, "predictor": 2, "bigtiff": "YES", "num_threads": "ALL_CPUS"}
        profile = {"driver": "GTiff", "dtype": "int16", "count": made.count, "nodata": made.nodata}
        size = {"height": made.height, "width": made.width, "crs": made.crs, "transform": made.transform}
        out = rasterio.open(copy, "w", **profile, **size, **layout, **codec)
        for top in range(0, made.height, 256):
            window = Window(0, top, made.width, min(256, made.height - top))
            strip = made.read(window=window)
            began = time.perf_counter()
            out.write(strip, window=window)
            seconds += time.perf_counter() - began
        began = time.perf_counter()
        out.close()
    return seconds + time.perf_counter() - began


def settle() -> None:
    """Wait until the disk has what was written before: whoever writes next would wait for it."""
    if hasattr(os, "sync"):
        os.sync()


def converted(scene: Path, output: Path, model: str, device: str = "auto") -> dict[str, float]:
    """Seconds by stage, of processors in all, and peak memory, of one `convert` in a process of its own."""
    output.unlink(missing_ok=True)  # what a disk takes to forget a file is no part of writing another
    settle()
    command = [sys.executable, "-c", CONVERT, str(scene), str(output), model, device]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(run.stdout)
    return found


def measure(folder: Path, shape: tuple[int, int], asked: argparse.Namespace) -> dict[str, Any]:
    """One scene of that size, converted, and its cube written plainly, in turns; medians over the turns."""
    scene, output, copy = folder / "scene.tif", folder / "cube.tif", folder / "plain.tif"
    write_scene(scene, *shape)
    runs = []
    for _ in range(asked.repeat):
        copy.unlink(missing_ok=True)
        found = converted(scene, output, asked.model)
        settle()
        runs.append(found | {"plain_write": plain_write_seconds(output, copy)})
    middle: dict[str, Any] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    middle["ratio"] = middle["whole"] / middle["plain_write"]
    middle["file_bytes"] = output.stat().st_size
    for path in (scene, output, copy):
        path.unlink()
    about = {"height": shape[0], "width": shape[1], "cube_bytes": 202 * shape[0] * shape[1] * 2, "weights": asked.model}
    return about | middle | {"load": os.getloadavg(), "runs": runs}


def compare_heights(rows: list[dict[str, Any]]) -> None:
    """Tell the highest scene of each width how much more memory it took than the lowest: `memory_over_height`."""
    for width in {row["width"] for row in rows}:
        alike = sorted((row for row in rows if row["width"] == width), key=lambda row: int(row["height"]))
        low, high = alike[0], alike[-1]
        if low["height"] < high["height"]:
            high["memory_over_height"] = high["peak_bytes"] / low["peak_bytes"]
            high["lower"] = low["height"]


def shape_of(text: str) -> tuple[int, int]:
    """`3660x3660` as rows and columns; one number is both."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=shape_of, action="append", help="rows x columns; may be given again")
    parser.add_argument("--model", default="linear", help="shipped weights, or a path")
    parser.add_argument("--folder", type=Path, help="where to work; needs about 25 GB at 10980x3660 [temporary]")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = [measure(Path(folder), shape, asked) for shape in asked.size or SIZES]
    compare_heights(rows)
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['height']} x {row['width']} pixels to 202 bands, {row['cube_bytes'] / 1e9:.2f} GB; ", end="")
        print(f"medians of {asked.repeat}; load of the machine {row['load'][0]:.1f}")
        print(f"  convert {row['whole']:.1f} s; GDAL's plain tiled ZSTD write {row['plain_write']:.1f} s")
        print(f"  ratio {row['ratio']:.2f}; peak memory {row['peak_bytes'] / 1e9:.2f} GB")
        stages = ", ".join(f"{stage} {row[stage]:.1f}" for stage in ("read", "model", "compress", "store"))
        print(f"  seconds of stages (they overlap): {stages}; finishing the file {row['finish']:.1f}; ", end="")
        print(f"processors {row['processors']:.1f} in all")
    for row in rows:
        if "memory_over_height" in row:
            times = f"{row['memory_over_height']:.2f} times the peak memory of {row['lower']} x {row['width']}"
            print(f"memory against height: {row['height']} x {row['width']} took {times}")


if __name__ == "__main__":
    main()
