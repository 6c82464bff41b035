"""The speed-up of several conversions with 1, 2 and 4 workers.

    python benchmarks/scaling.py                     # 8 scenes of 1000 x 1000 pixels
    python benchmarks/scaling.py --workers 1 2 --json

A worker is a process with one task thread, pinned to one core: otherwise the reading and compressing threads of a
single worker would use the cores of the others, and the speed-up would mean little. `--free` does not pin. Workers are
started and have loaded their code before the clock starts; the start is reported separately. The scenes are the same in
each turn, and the median over the turns is reported.
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
    """Pin this process, and threads that it starts later, to one core."""
    cores = sorted(os.sched_getaffinity(0))
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cores[name % len(cores)]})


def make_scenes(folder: Path, count: int, size: int) -> list[Path]:
    """`count` scenes of the same content under different names."""
    folder.mkdir()
    scenes = [folder / f"scene_{number:03}.tif" for number in range(count)]
    write_scene(scenes[0], size, size)
    for scene in scenes[1:]:
        shutil.copy(scenes[0], scene)
    return scenes


def measure(workers: int, scenes: list[Path], args: argparse.Namespace) -> dict[str, object]:
    """Seconds of each turn with this many workers, and seconds of their start."""
    out = scenes[0].parent.parent / "out"
    options = ConvertOptions(model=args.model, overwrite=True)
    began = time.perf_counter()
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0") as local,
        Client(local) as client,
    ):
        if not args.free:
            for name, worker in local.workers.items():
                client.run(pin, name, workers=[worker.worker_address])
        executor = Executor(scheduler=local.scheduler_address)
        convert_all(scenes[: 2 * workers], folder=out, options=options, executor=executor).check()
        start_s = time.perf_counter() - began
        turns = []
        for _ in range(args.repeat):
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
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of workers; the first is the reference"
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--model", default="linear", help="name of shipped weights, or a path")
    parser.add_argument("--free", action="store_true", help="do not pin workers to cores")
    parser.add_argument("--folder", type=Path, help="working directory [temporary]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        args.free = True
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        scenes = make_scenes(Path(folder) / "in", args.scenes, args.size)
        rows = [measure(workers, scenes, args) for workers in args.workers]
    for row in rows:
        row["ratio"] = float(rows[0]["seconds"]) / float(row["seconds"])
    result = {"cores": os.cpu_count(), "scenes": args.scenes, "size": args.size, "model": args.model}
    result |= {"pinned": not args.free, "rows": rows}
    if args.json:
        json.dump(result, sys.stdout, indent=1)
        return
    print(f"{args.scenes} scenes of {args.size} x {args.size} pixels, model {args.model}, {result['cores']} cores")
    for row in rows:
        took = f"{row['seconds']:.1f} s, {row['ratio']:.2f} times as fast as {args.workers[0]}"
        print(f"  {row['workers']} workers: {took}; started in {row['start_s']:.1f} s")


if __name__ == "__main__":
    main()
