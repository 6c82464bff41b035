"""How much sooner several scenes are done by more workers.

    python benchmarks/scaling.py                     # 8 scenes of 1000 x 1000, by 1, 2 and 4 workers
    python benchmarks/scaling.py --workers 1 2 --json

Each worker is a process with one thread for its tasks, on a core of its own (the i-th on the i-th, where there are as
many): left alone, one worker would let its reader, writer and compression run on the others' cores, and a ratio would
say little. `--free` leaves them alone. The workers are there and have loaded all they need before the clock starts; how
long that takes is told apart. The scenes are the same in each turn; turns are repeated, and the median is taken.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from conversion import write_scene
from distributed import Client, LocalCluster

from ms2hs.conversion.dask_backend import Executor, convert_all
from ms2hs.conversion.planning import ConvertOptions


def pin(name: int) -> None:
    """Keep this process, and threads that it starts from now on, to one core."""
    cores = sorted(os.sched_getaffinity(0))
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cores[name % len(cores)]})


def make_scenes(folder: Path, count: int, size: int) -> list[Path]:
    """So many scenes, of one content under different names."""
    folder.mkdir()
    scenes = [folder / f"scene_{number:03}.tif" for number in range(count)]
    write_scene(scenes[0], size, size)
    for scene in scenes[1:]:
        shutil.copy(scenes[0], scene)
    return scenes


def measure(workers: int, scenes: list[Path], asked: argparse.Namespace) -> dict[str, object]:
    """Seconds of each turn by so many workers, and of starting these."""
    out = scenes[0].parent.parent / "out"
    options = ConvertOptions(model=asked.model, overwrite=True)
    began = time.perf_counter()
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0") as local,
        Client(local) as client,
    ):
        if not asked.free:
            for name, worker in local.workers.items():
                client.run(pin, name, workers=[worker.worker_address])
        executor = Executor(scheduler=local.scheduler_address)
        convert_all(scenes[: 2 * workers], folder=out, options=options, executor=executor).check()
        start_s = time.perf_counter() - began
        turns = []
        for _ in range(asked.repeat):
            began = time.perf_counter()
            convert_all(scenes, folder=out, options=options, executor=executor).check()
            turns.append(time.perf_counter() - began)
    shutil.rmtree(out)
    return {"workers": workers, "start_s": start_s, "turns_s": turns, "seconds": statistics.median(turns)}


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--size", type=int, default=1000, help="rows and columns of a scene")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="the first is what others are beside")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--model", default="linear", help="shipped weights, or a path")
    parser.add_argument("--free", action="store_true", help="keep no worker to a core")
    parser.add_argument("--folder", type=Path, help="where to work [default: temporary]")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        asked.free = True
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        scenes = make_scenes(Path(folder) / "in", asked.scenes, asked.size)
        rows = [measure(workers, scenes, asked) for workers in asked.workers]
    for row in rows:
        row["ratio"] = float(rows[0]["seconds"]) / float(row["seconds"])
    found = {"cores": os.cpu_count(), "scenes": asked.scenes, "size": asked.size, "model": asked.model}
    found |= {"pinned": not asked.free, "rows": rows}
    if asked.json:
        json.dump(found, sys.stdout, indent=1)
        return
    print(f"{asked.scenes} scenes of {asked.size} x {asked.size} pixels, model {asked.model}, {found['cores']} cores")
    for row in rows:
        took = f"{row['seconds']:.1f} s, {row['ratio']:.2f} times as fast as {asked.workers[0]}"
        print(f"  {row['workers']} workers: {took}; started in {row['start_s']:.1f} s")


if __name__ == "__main__":
    main()
