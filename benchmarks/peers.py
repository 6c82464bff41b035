"""Time and memory of `convert` with a network, compared with other implementations on the same scene.

    python benchmarks/peers.py                        # 1024 x 1024 pixels, spatial-spectral
    python benchmarks/peers.py --size 256 --only loop --repeat 3
    pip install opensr-utils                          # for its rows: minutes per turn, up to half an hour at 1024

| method       | what it does                                                                                          |
|--------------|-------------------------------------------------------------------------------------------------------|
| ours         | `convert`: the cube as a COG, a quicklook and a STAC item                                             |
| loop         | a simple script (`by_hand.py`): whole scene and cube in memory, GDAL's COG driver                     |
| opensr-utils | `super_resolve` with the network as its model, at factor 1, on the CPU: every window to a file, then  |
|              | all into float32 sums on disk, then a GeoTIFF; windows and its step to a COG are also timed alone     |

All pass the same windows, with the same overlap, to `Predictor.reconstruct`, so the network part is equal. The rest of
opensr-utils differs. It is designed for 4 to 10 bands: its sums are pixel-interleaved, and with 202 bands merging takes
nearly all of its time. It shifts the last windows inwards, while `convert` spreads windows evenly; both agree for sizes
of 64 + 48 n such as 1024 (128 n for a network without overlap). It blends by a sigmoid instead of a cosine, rounds
before blending and truncates after it, and stores uint16, so that negative values become 0. It clips its input to 0-1
and passes nodata as 0. It writes no overviews, quicklook or item, and does not compress.

Each run has its own process, whose peak memory is reported; imports end before its clock starts. Methods alternate, so
that other load on the machine affects them alike. The table shows medians, their ratios to ours, and differences from
our last cube in DN of 1e-4 where both are valid (for uint16 both limited to 0-10000).
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from by_hand import convert_by_hand
from conversion import write_scene
from rasterio.windows import Window
from writer import peak_bytes

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions, plan
from ms2hs.inference.device import device_named
from ms2hs.inference.patch_corrector import sampled_windows
from ms2hs.inference.predictor import Predictor
from ms2hs.models.weights import load_weights
from ms2hs.raster.cog.encoding import BLOCK
from ms2hs.scenes.reader import SceneReader

OPENSR = "opensr-utils"
# Window size of local networks in the other implementations, in pixels.
LOCAL_WINDOW = 128


class Network(torch.nn.Module):
    """A network as a torch module: (window, source band, row, col) to (window, target band, row, col)."""

    def __init__(self, scene: Path, options: ConvertOptions) -> None:
        super().__init__()
        planned = plan(scene, "enmap", scene.with_name("planned.tif"), options)
        if planned.weights.network is None:
            raise SystemExit(f"{options.model} is not a network; weights of a network are needed. Use another --model.")
        grids = planned.scene.spectral, planned.spectral
        device = device_named(options.device)
        self.ours = Predictor(planned.weights.network, *grids, device, error=planned.input_error)
        self.window = LOCAL_WINDOW if self.ours.is_local else self.ours.window
        windows = sampled_windows(planned.grid.height, planned.grid.width, self.ours.window)
        with SceneReader(planned.scene, planned.grid) as reader:
            self.ours.pool(reader.read_pixels(*astuple(window)) for window in windows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One window after the other, as `convert` does."""
        valid = np.ones(x.shape[2:], np.bool_)
        predicted = torch.from_numpy(np.stack([self.ours.reconstruct(window, valid) for window in x.cpu().numpy()]))
        self.ended = time.perf_counter()
        return predicted


def with_ours(scene: Path, output: Path, options: ConvertOptions) -> dict[str, float]:
    """Seconds and peak memory of `convert`."""
    began = time.perf_counter()
    convert(scene, "enmap", output, options)
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}


def with_loop(scene: Path, output: Path, options: ConvertOptions) -> dict[str, float]:
    """Seconds and peak memory of `convert_by_hand`."""
    began = time.perf_counter()
    network = Network(scene, options)
    convert_by_hand(scene, output, network.ours, network.window)
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}


def with_opensr(scene: Path, output: Path, options: ConvertOptions) -> dict[str, float]:
    """Seconds and peak memory of opensr-utils, and seconds until the last window and until its COG are complete."""
    from opensr_utils.data_utils.transform_to_cog import make_cog  # noqa: PLC0415
    from opensr_utils.pipeline import large_file_processing  # noqa: PLC0415

    began = time.perf_counter()
    network = Network(scene, options)
    windows = {"window_size": (network.window, network.window), "overlap": network.ours.overlap}
    with large_file_processing(str(scene), network, factor=1, device="cpu", output_path=output, **windows) as job:
        job.run(overwrite=True)
    result = {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}
    make_cog(output, output.with_name("cog.tif"))
    return result | {"seconds_windows": network.ended - began, "seconds_cog": time.perf_counter() - began}


Method = Callable[[Path, Path, ConvertOptions], dict[str, float]]
METHODS: dict[str, Method] = {"ours": with_ours, "loop": with_loop, OPENSR: with_opensr}


def run_in_process(method: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run one method in its own process; its output is shown only if it fails."""
    command = [sys.executable, __file__, "--run", method, "--model", args.model, "--device", args.device]
    done = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method}:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def difference(ours: Path, other: Path) -> dict[str, float]:
    """Differences of two cubes in DN where both are valid, within the range of the other's data type."""
    largest, beyond, count = 0, 0, 0
    with rasterio.open(ours) as one, rasterio.open(other) as two:
        ends = (0, 10000) if two.dtypes[0] == "uint16" else (-32767, 32767)
        for top in range(0, one.height, BLOCK):
            window = Window(0, top, one.width, min(BLOCK, one.height - top))
            known = (one.read_masks(1, window=window) > 0) & (two.read_masks(1, window=window) > 0)
            mine, theirs = (file.read(window=window)[:, known].astype(np.int32).clip(*ends) for file in (one, two))
            apart = np.abs(mine - theirs)
            largest, beyond = max(largest, int(apart.max(initial=0))), beyond + int((apart > 1).sum())
            count += apart.size
    return {"largest_dn": largest, "share_beyond_1_dn": beyond / count}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all methods in turns; medians, their ratios, and differences of the cubes."""
    can_opensr = importlib.util.find_spec("opensr_utils") is not None
    methods = [
        method for method in METHODS if method in ("ours", *(args.only or METHODS)) and (method != OPENSR or can_opensr)
    ]
    runs: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_scene(folder / "scene.tif", args.size, args.size)
        for method in methods * args.repeat:
            runs[method].append(run_in_process(method, folder, args))
        apart = {method: difference(folder / "ours.tif", folder / f"{method}.tif") for method in methods[1:]}
    medians = {
        method: {key: statistics.median(run[key] for run in of_method) for key in of_method[0]}
        for method, of_method in runs.items()
    }
    ours, whole = medians["ours"], medians["ours"]["seconds"]
    ratios = {
        method: {key: value / ours.get(key, whole) for key, value in median.items()}
        for method, median in medians.items()
    }
    about = {"size": args.size, "weights": args.model, "device": args.device, "load": os.getloadavg()}
    return about | {"ratios": ratios, "difference": apart, "median": medians, "runs": runs}


def show(result: dict[str, Any], repeat: int) -> None:
    """Print the table."""
    print(f"{result['weights']}: {result['size']} x {result['size']} pixels to 202 bands; ", end="")
    print(f"medians of {repeat}; load {result['load'][0]:.1f}")
    for method, median in result["median"].items():
        ratios = result["ratios"][method]
        print(f"{method:13} {median['seconds']:8.2f} s, {ratios['seconds']:6.2f} times ours; ", end="")
        print(f"peak memory {median['peak_bytes'] / 1e9:6.2f} GB, {ratios['peak_bytes']:5.2f} times ours")
        for key in ("seconds_windows", "seconds_cog") if method == OPENSR else ():
            name = "  its windows" if key == "seconds_windows" else "  then a COG"
            print(f"{name:13} {median[key]:8.2f} s, {ratios[key]:6.2f} times the whole of ours")
        if apart := result["difference"].get(method):
            print(f"{'':13} largest difference from our cube {apart['largest_dn']} DN, ", end="")
            print(f"more than 1 DN in {apart['share_beyond_1_dn']:.2%} of all values")
    if OPENSR in result["median"]:
        print(f"{OPENSR} does not do the same work; see --help for the differences")


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the scene")
    parser.add_argument("--model", default="spatial-spectral", help="shipped weights of a network, or a path")
    parser.add_argument("--device", default="auto", help="device of the network")
    parser.add_argument("--only", action="append", choices=list(METHODS), help="methods to run besides ours")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="working directory [temporary]")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", choices=list(METHODS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        with contextlib.redirect_stdout(sys.stderr):
            # a network of patch tokens corrects errors of the input; the loop adds no change of the prior by them
            by_patch = (network := load_weights(args.model).network) is not None and network.config.by_patch
            error = None if by_patch else "none"
            options = ConvertOptions(overwrite=True, model=args.model, device=args.device, input_error=error)
            result = METHODS[args.run](args.folder / "scene.tif", args.folder / f"{args.run}.tif", options)
        print(json.dumps(result))
        return
    result = measure(args)
    print(json.dumps(result, indent=1)) if args.json else show(result, args.repeat)


if __name__ == "__main__":
    main()
