"""Time and memory of `convert`, compared with GDAL writing the same cube.

    python benchmarks/conversion.py                              # 1000², 3660², three times that height, a wide scene
    python benchmarks/conversion.py --size 1000 --repeat 1       # faster
    python benchmarks/conversion.py --size 1024 --model default  # with the network

Every `convert` runs in its own process, whose peak memory is reported. The ratio is its time over that of GDAL writing
the same cube as a tiled ZSTD GeoTIFF. Both alternate, so that other load on the machine affects them alike. For scenes
of one width and several heights, the last line compares the peak memory of the highest and the lowest.
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
from ms2hs import ConvertOptions, convert
options = ConvertOptions(overwrite=True, model=sys.argv[3], device=sys.argv[4])
result = convert(sys.argv[1], "enmap", Path(sys.argv[2]), options)
peak_kib = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss includes the parent's
print(json.dumps({**result.seconds, "peak_bytes": int(peak_kib) * 1024, "processors": time.process_time()}))
"""


def write_scene(path: Path, height: int, width: int) -> None:
    """Write a 12-band scene of this size: the example scene, repeated with mirrored copies."""
    dn = example_dn()[:, :, :280]  # without the edge of the orbit
    dn = np.concatenate([dn, dn[:, ::-1]], axis=1)
    dn = np.concatenate([dn, dn[:, :, ::-1]], axis=2)
    across = np.tile(dn, (1, 1, -(-width // dn.shape[2])))[:, :, :width]
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": 12,
        "dtype": "uint16",
        "height": height,
        "width": width,
        "nodata": 0,
    }
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2}
    profile |= {"crs": "EPSG:32633", "transform": Affine(30, 0, 399960, 0, -30, 5900040)}
    with rasterio.open(path, "w", **profile, **layout, num_threads="ALL_CPUS", bigtiff="IF_SAFER") as scene:
        for top in range(0, height, 512):
            rows = (np.arange(top, min(top + 512, height))) % dn.shape[1]
            scene.write(across[:, rows], window=Window(0, top, width, len(rows)))
        scene.descriptions = load_sensor("sentinel2a").grid.names


def plain_write_seconds(cube: Path, copy: Path) -> float:
    """Seconds of GDAL to write this cube as a tiled, band-interleaved ZSTD GeoTIFF without overviews."""
    seconds = 0.0
    with rasterio.open(cube) as source, rasterio.Env(GDAL_CACHEMAX=512_000_000):
        layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "band"}
        codec = {"compress": "zstd", "zstd_level": 1, "predictor": 2, "bigtiff": "YES", "num_threads": "ALL_CPUS"}
        profile = {"driver": "GTiff", "dtype": "int16", "count": source.count, "nodata": source.nodata}
        size = {"height": source.height, "width": source.width, "crs": source.crs, "transform": source.transform}
        out = rasterio.open(copy, "w", **profile, **size, **layout, **codec)
        for top in range(0, source.height, 256):
            window = Window(0, top, source.width, min(256, source.height - top))
            strip = source.read(window=window)
            began = time.perf_counter()
            out.write(strip, window=window)
            seconds += time.perf_counter() - began
        began = time.perf_counter()
        out.close()
    return seconds + time.perf_counter() - began


def settle() -> None:
    """Flush the disk cache, so that the next measurement does not wait for earlier writes."""
    if hasattr(os, "sync"):
        os.sync()


def converted(scene: Path, output: Path, model: str, device: str = "auto") -> dict[str, float]:
    """One `convert` in its own process: seconds by stage, processor seconds, peak memory."""
    output.unlink(missing_ok=True)  # deleting a file is not part of the measurement
    settle()
    command = [sys.executable, "-c", CONVERT, str(scene), str(output), model, device]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(run.stdout)
    return result


def measure(folder: Path, shape: tuple[int, int], args: argparse.Namespace) -> dict[str, Any]:
    """Convert a scene of this size and write its cube with GDAL, alternately; medians over the runs."""
    scene, output, copy = folder / "scene.tif", folder / "cube.tif", folder / "plain.tif"
    write_scene(scene, *shape)
    runs = []
    for _ in range(args.repeat):
        copy.unlink(missing_ok=True)
        seconds = converted(scene, output, args.model)
        settle()
        runs.append(seconds | {"plain_write": plain_write_seconds(output, copy)})
    medians: dict[str, Any] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    medians["ratio"] = medians["whole"] / medians["plain_write"]
    medians["file_bytes"] = output.stat().st_size
    for path in (scene, output, copy):
        path.unlink()
    about = {"height": shape[0], "width": shape[1], "cube_bytes": 202 * shape[0] * shape[1] * 2, "weights": args.model}
    return about | medians | {"load": os.getloadavg(), "runs": runs}


def compare_heights(rows: list[dict[str, Any]]) -> None:
    """Add `memory_over_height` to the highest scene of each width: its peak memory over that of the lowest."""
    for width in {row["width"] for row in rows}:
        same_width = sorted((row for row in rows if row["width"] == width), key=lambda row: int(row["height"]))
        low, high = same_width[0], same_width[-1]
        if low["height"] < high["height"]:
            high["memory_over_height"] = high["peak_bytes"] / low["peak_bytes"]
            high["lower"] = low["height"]


def shape_of(text: str) -> tuple[int, int]:
    """Rows and columns of `3660x1000`; a single number is both."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=shape_of, action="append", help="rows x columns; can be repeated")
    parser.add_argument("--model", default="linear", help="name of shipped weights, or a path")
    parser.add_argument("--folder", type=Path, help="working directory; needs 25 GB for 10980x3660 [temporary]")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = [measure(Path(folder), shape, args) for shape in args.size or SIZES]
    compare_heights(rows)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['height']} x {row['width']} pixels to 202 bands, {row['cube_bytes'] / 1e9:.2f} GB; ", end="")
        print(f"medians of {args.repeat}; load {row['load'][0]:.1f}")
        print(f"  convert {row['whole']:.1f} s; GDAL tiled ZSTD write {row['plain_write']:.1f} s")
        print(f"  ratio {row['ratio']:.2f}; peak memory {row['peak_bytes'] / 1e9:.2f} GB")
        stages = ", ".join(f"{stage} {row[stage]:.1f}" for stage in ("read", "model", "compress", "store"))
        print(f"  thread seconds by stage (overlapping): {stages}; finishing the file {row['finish']:.1f}; ", end="")
        print(f"processor seconds {row['processors']:.1f}")
    for row in rows:
        if "memory_over_height" in row:
            times = f"{row['memory_over_height']:.2f} times the peak memory of {row['lower']} x {row['width']}"
            print(f"memory and height: {row['height']} x {row['width']} needs {times}")


if __name__ == "__main__":
    main()
