"""Time, memory and size of every output format by `convert`, and by `export` from a COG, whose numbers must be equal.

    python benchmarks/formats.py                         # 3660 x 3660 pixels, 202 bands
    python benchmarks/formats.py --size 512 --repeat 1   # faster
    python benchmarks/formats.py --json

Every `convert` (by the linear model) and every `export` runs in its own process, whose peak memory is reported. Formats
take turns, so that other load on the machine affects all alike. Every exported cube is compared with its COG, number by
number.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from conversion import settle, shape_of, write_scene
from rasterio.windows import Window

from ms2hs.raster.cube import ENGINES
from ms2hs.raster.cube_writer import cube_names

NAMES = ("cube.tif", "cube.zarr", "cube.dat", "cube.nc")
STEPS = {
    "convert": 'ms2hs.convert(source, "enmap", output, ms2hs.ConvertOptions(model="linear"))',
    "export": "ms2hs.export(source, output)",
}
RUN = """
import json, sys, time
from pathlib import Path
import ms2hs
source, output = sys.argv[1:]
began = time.perf_counter()
{step}
seconds = time.perf_counter() - began
peak_kib = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss includes the parent's
print(json.dumps({{"seconds": seconds, "peak_bytes": int(peak_kib) * 1024, "processors": time.process_time()}}))
"""
ROWS = 128


def files_of(cube: Path) -> list[Path]:
    """The files of a cube and those beside it."""
    beside = [cube.with_suffix(suffix) for suffix in (".png", ".json", ".qml")]
    return [path for path in (*(cube.with_name(name) for name in cube_names(cube)), *beside) if path.exists()]


def remove(cube: Path) -> None:
    """Delete a cube and the files beside it."""
    for path in files_of(cube):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def run(step: str, source: Path, output: Path) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of one conversion or export, and the size of its cube."""
    remove(output)
    settle()
    command = [sys.executable, "-c", RUN.format(step=STEPS[step]), str(source), str(output)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    files = [file for path in files_of(output) for file in ([path] if path.is_file() else path.rglob("*"))]
    cube = [file for file in files if file.suffix not in {".png", ".json", ".qml"} or ".zarr" in file.parent.name]
    return {**json.loads(done.stdout), "file_bytes": sum(file.stat().st_size for file in cube if file.is_file())}


def are_equal(cog: Path, cube: Path) -> bool:
    """Whether a cube has the stored numbers of its COG everywhere."""
    with ExitStack() as stack:
        file = stack.enter_context(rasterio.open(cog))
        windows = [Window(0, top, file.width, min(ROWS, file.height - top)) for top in range(0, file.height, ROWS)]
        if cube.suffix in ENGINES:
            stored = stack.enter_context(xr.open_dataset(cube, **ENGINES[cube.suffix], mask_and_scale=False))
            found = (stored.reflectance[:, slice(*window.toranges()[0])].values for window in windows)
        else:
            other = stack.enter_context(rasterio.open(cube))
            found = (other.read(window=window) for window in windows)
        return all(np.array_equal(file.read(window=one), two) for one, two in zip(windows, found, strict=True))


def measure(scene: Path, folder: Path, repeat: int) -> list[dict[str, Any]]:
    """One row for each format."""
    cog = folder / "source.tif"
    runs: dict[str, dict[str, list[dict[str, float]]]] = {name: {step: [] for step in STEPS} for name in NAMES}
    equal = {}
    for turn in range(repeat):
        runs["cube.tif"]["convert"].append(run("convert", scene, cog))
        for name in NAMES:
            if name != "cube.tif":
                runs[name]["convert"].append(run("convert", scene, folder / name))
            runs[name]["export"].append(run("export", cog, folder / name))
            if turn == 0:
                equal[name] = are_equal(cog, folder / name)
            remove(folder / name)
    remove(cog)
    return [
        {"format": name.removeprefix("cube"), "equal": equal[name]}
        | {
            f"{step} {what}": statistics.median(one[what] for one in found)
            for step, found in steps.items()
            for what in found[0]
        }
        for name, steps in runs.items()
    ]


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=shape_of, default=(3660, 3660), help="rows x columns")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="working directory; needs 17 GB [temporary]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        scene = Path(name) / "scene.tif"
        write_scene(scene, *args.size)
        rows = measure(scene, Path(name), args.repeat)
    load = os.getloadavg()[0]
    if args.json:
        print(json.dumps({"load": load, "rows": rows}, indent=1))
        return
    print("| format | size GB | convert s | memory GB | export from the COG s | memory GB | equal |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [row["format"], f"{row['export file_bytes'] / 1e9:.2f}"]
        for step in STEPS:
            cells += [f"{row[f'{step} seconds']:.1f}", f"{row[f'{step} peak_bytes'] / 1e9:.2f}"]
        print(f"| {' | '.join([*cells, 'yes' if row['equal'] else 'NO'])} |")
    print(f"medians of {args.repeat}; load {load:.1f}")


if __name__ == "__main__":
    main()
