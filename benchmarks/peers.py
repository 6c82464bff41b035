"""How long `convert` takes with a network, and how much memory, beside others who take the same scene through it.

    python benchmarks/peers.py                        # 1024 x 1024 pixels, spatial-spectral
    python benchmarks/peers.py --size 256 --only loop --repeat 3
    pip install opensr-utils                          # for its rows: minutes a turn, at 1024 perhaps half an hour

| way          | what it does                                                                                          |
|--------------|-------------------------------------------------------------------------------------------------------|
| ours         | `convert`: the cube as a COG, a quicklook and a STAC item                                             |
| loop         | what one would write by hand (`by_hand.py`): scene and cube in memory as a whole, GDAL's COG driver   |
| opensr-utils | `super_resolve` with the network as its model, at factor 1, on the CPU: every window to a file, then  |
|              | all into float32 sums on disk, then a GeoTIFF; told apart: windows alone, and its own step to a COG   |

All give the same windows, with the same overlap, to `Predictor.reconstruct`: nothing of the network differs. The
rest of opensr-utils is not quite the same work. It is made for 4 to 10 bands: its sums lie pixel by pixel, and with 202
bands joining takes nearly all of its time. It shifts the last windows inwards where ours are spread evenly, so they
agree only where a size is 64 + 48 n, as 1024 is (and 128 n, where a network needs no overlap). It blends by a sigmoid,
not a cosine; rounds before, and drops decimals after; stores uint16, so that what is below 0 becomes 0. It clips its
input to 0-1, and shows the network pixels without data as 0. It makes no overviews, picture or item, and compresses
nothing.

Each run is a process of its own, whose peak memory is its own, and has imported all before its clock starts. They take
turns, so that what else the machine does falls on all alike. Told are medians, ratios of medians (each over ours), and
how far the last cubes are from ours where both have a value, in DN of 1e-4 (beside uint16, both within 0-10000).
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
from ms2hs.inference.predictor import Predictor
from ms2hs.raster.cog.encoding import BLOCK

OPENSR = "opensr-utils"
# Pixels on a side of the windows of networks that need no overlap, by hand.
LOCAL_WINDOW = 128


class Network(torch.nn.Module):
    """A network as others want it: (window, source band, row, col) to (window, target band, row, col)."""

    def __init__(self, scene: Path, choices: ConvertOptions) -> None:
        super().__init__()
        planned = plan(scene, "enmap", scene.with_name("planned.tif"), choices)
        if planned.weights.network is None:
            raise SystemExit(f"{choices.model} is no network; the name of one is needed.")
        grids = planned.scene.spectral, planned.spectral
        self.ours = Predictor(planned.weights.network, *grids, device_named(choices.device))
        self.window = LOCAL_WINDOW if self.ours.is_local else self.ours.window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One window after the other, as `convert` does."""
        whole = np.ones(x.shape[2:], np.bool_)
        made = torch.from_numpy(np.stack([self.ours.reconstruct(window, whole) for window in x.cpu().numpy()]))
        self.ended = time.perf_counter()
        return made


def with_ours(scene: Path, output: Path, choices: ConvertOptions) -> dict[str, float]:
    """`convert`. All give seconds, and the peak memory up to then."""
    began = time.perf_counter()
    convert(scene, "enmap", output, choices)
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}


def with_loop(scene: Path, output: Path, choices: ConvertOptions) -> dict[str, float]:
    """By hand."""
    began = time.perf_counter()
    network = Network(scene, choices)
    convert_by_hand(scene, output, network.ours, network.window)
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}


def with_opensr(scene: Path, output: Path, choices: ConvertOptions) -> dict[str, float]:
    """opensr-utils: also seconds until the last window was made, and until its GeoTIFF was a COG too."""
    from opensr_utils.data_utils.transform_to_cog import make_cog  # noqa: PLC0415
    from opensr_utils.pipeline import large_file_processing  # noqa: PLC0415

    began = time.perf_counter()
    network = Network(scene, choices)
    windows = {"window_size": (network.window, network.window), "overlap": network.ours.overlap}
    with large_file_processing(str(scene), network, factor=1, device="cpu", output_path=output, **windows) as job:
        job.run(overwrite=True)
    found = {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}
    make_cog(output, output.with_name("cog.tif"))
    return found | {"seconds_windows": network.ended - began, "seconds_cog": time.perf_counter() - began}


Way = Callable[[Path, Path, ConvertOptions], dict[str, float]]
WAYS: dict[str, Way] = {"ours": with_ours, "loop": with_loop, OPENSR: with_opensr}


def in_its_process(way: str, folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    """The same in a process of its own; what it prints is shown only if it fails."""
    command = [sys.executable, __file__, "--run", way, "--model", asked.model, "--device", asked.device]
    done = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def difference(ours: Path, other: Path) -> dict[str, float]:
    """Of two cubes in DN where both have a value, as far as the other can hold it; a row of blocks at a time."""
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


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """All ways in turns; medians, ratios of these, and how far the cubes are apart."""
    can_opensr = importlib.util.find_spec("opensr_utils") is not None
    ways = [way for way in WAYS if way in ("ours", *(asked.only or WAYS)) and (way != OPENSR or can_opensr)]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        write_scene(folder / "scene.tif", asked.size, asked.size)
        for way in ways * asked.repeat:
            runs[way].append(in_its_process(way, folder, asked))
        apart = {way: difference(folder / "ours.tif", folder / f"{way}.tif") for way in ways[1:]}
    middle = {
        way: {key: statistics.median(one[key] for one in found) for key in found[0]} for way, found in runs.items()
    }
    ours, whole = middle["ours"], middle["ours"]["seconds"]
    ratios = {way: {key: value / ours.get(key, whole) for key, value in found.items()} for way, found in middle.items()}
    about = {"size": asked.size, "weights": asked.model, "device": asked.device, "load": os.getloadavg()}
    return about | {"ratios": ratios, "difference": apart, "median": middle, "runs": runs}


def show(found: dict[str, Any], repeat: int) -> None:
    """The table."""
    print(f"{found['weights']}: {found['size']} x {found['size']} pixels to 202 bands; ", end="")
    print(f"medians of {repeat}; load of the machine {found['load'][0]:.1f}")
    for way, median in found["median"].items():
        ratios = found["ratios"][way]
        print(f"{way:13} {median['seconds']:8.2f} s, {ratios['seconds']:6.2f} times as long as ours; ", end="")
        print(f"peak memory {median['peak_bytes'] / 1e9:6.2f} GB, {ratios['peak_bytes']:5.2f} times ours")
        for key in ("seconds_windows", "seconds_cog") if way == OPENSR else ():
            name = "  its windows" if key == "seconds_windows" else "  then a COG"
            print(f"{name:13} {median[key]:8.2f} s, {ratios[key]:6.2f} times as long as the whole of ours")
        if apart := found["difference"].get(way):
            print(f"{'':13} its cube is {apart['largest_dn']} DN from ours at most, ", end="")
            print(f"and by more than 1 DN in {apart['share_beyond_1_dn']:.2%} of all values")
    if OPENSR in found["median"]:
        print(f"{OPENSR} does not quite the same work: `--help` tells what differs")


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the scene")
    parser.add_argument("--model", default="spatial-spectral", help="shipped weights of a network, or a path")
    parser.add_argument("--device", default="auto", help="of the network, in all ways")
    parser.add_argument("--only", action="append", choices=list(WAYS), help="these beside ours")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work [temporary]")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", choices=list(WAYS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        with contextlib.redirect_stdout(sys.stderr):
            choices = ConvertOptions(overwrite=True, model=asked.model, device=asked.device)
            found = WAYS[asked.run](asked.folder / "scene.tif", asked.folder / f"{asked.run}.tif", choices)
        print(json.dumps(found))
        return
    made = measure(asked)
    print(json.dumps(made, indent=1)) if asked.json else show(made, asked.repeat)


if __name__ == "__main__":
    main()
