"""How long `convert` takes beside GDAL writing the same cube, where the time goes, and what memory it needs.

    python benchmarks/conversion.py                 # 3660 x 3660, and twice the height for memory
    python benchmarks/conversion.py --size 1000     # quicker

Each step runs in a process of its own, so that its peak memory is its own. The ratio compares one `convert` with one
plain tiled ZSTD GeoTIFF write of the cube that it made, in one run on one machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.windows import Window

from ms2hs.data.example import example_dn
from ms2hs.spectra.sensors import load_sensor

CONVERT = """
import json, sys
from pathlib import Path
from ms2hs.conversion import convert
from ms2hs.planning import Choices
made = convert(sys.argv[1], "enmap", Path(sys.argv[2]), Choices(overwrite=True, model=sys.argv[3]))
peak_kib = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss counts the parent's too
print(json.dumps({**made.seconds, "peak_bytes": int(peak_kib) * 1024}))
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


def converted(scene: Path, output: Path, model: str) -> dict[str, float]:
    """Seconds by stage, and peak memory, of one `convert` in a process of its own."""
    command = [sys.executable, "-c", CONVERT, str(scene), str(output), model]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(run.stdout)
    return found


def measure(folder: Path, height: int, width: int, model: str) -> dict[str, float]:
    """One scene of that size, converted, and its cube written plainly."""
    scene, output, copy = folder / "scene.tif", folder / "cube.tif", folder / "plain.tif"
    write_scene(scene, height, width)
    found = converted(scene, output, model)
    found["plain_write"] = plain_write_seconds(output, copy)
    found["ratio"] = found["whole"] / found["plain_write"]
    found["cube_bytes"] = 202 * height * width * 2
    found["file_bytes"] = output.stat().st_size
    for path in (scene, output, copy):
        path.unlink()
    return found


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=3660, help="rows and columns of the scene")
    parser.add_argument("--model", default="linear", help="shipped weights, or a path")
    parser.add_argument("--folder", type=Path, help="where to work; needs about 20 GB at 3660 [default: temporary]")
    parser.add_argument("--once", action="store_true", help="skip the scene of twice the height")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    heights = [asked.size] if asked.once else [asked.size, 2 * asked.size]
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = [
            {"height": height, "width": asked.size, **measure(Path(folder), height, asked.size, asked.model)}
            for height in heights
        ]
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['height']} x {row['width']} pixels to 202 bands, {row['cube_bytes'] / 1e9:.2f} GB")
        print(f"  convert {row['whole']:.1f} s; GDAL's plain tiled ZSTD write {row['plain_write']:.1f} s")
        print(f"  ratio {row['ratio']:.2f}; peak memory {row['peak_bytes'] / 1e9:.2f} GB")
        stages = ", ".join(f"{stage} {row[stage]:.1f}" for stage in ("read", "model", "write"))
        print(f"  busy seconds (they overlap): {stages}; finishing the file {row['finish']:.1f}")


if __name__ == "__main__":
    main()
