"""Time and memory of `convert` of two installed revisions, in turns in one run.

    python benchmarks/revisions.py --before OLD/bin/ms2hs --after NEW/bin/ms2hs
    python benchmarks/revisions.py --before OLD/bin/ms2hs --after NEW/bin/ms2hs --size 1000 --repeat 3

Every turn runs both command lines on the same scene, each in its own process; the order alternates. Ratios are medians
over the turns of after / before.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from conversion import settle, shape_of, write_scene


def run(executable: Path, scene: Path, output: Path, model: str) -> tuple[float, float]:
    """Seconds and peak memory in bytes of one `convert`."""
    output.unlink(missing_ok=True)
    settle()
    start = time.perf_counter()
    words = [str(executable), "convert", str(scene), "-o", str(output), "--model", model, "--overwrite", "--quiet"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{executable} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024.0


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="command line of the older revision")
    parser.add_argument("--after", type=Path, required=True, help="command line of the newer revision")
    parser.add_argument("--size", type=shape_of, default=(3660, 3660), help="rows x columns of the scene")
    parser.add_argument("--repeat", type=int, default=5, help="turns")
    parser.add_argument("--model", default="linear")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scene, output = Path(name) / "scene.tif", Path(name) / "cube.tif"
        write_scene(scene, *args.size)
        ratios = []
        for turn in range(args.repeat):
            order = (args.before, args.after)[:: 1 if turn % 2 == 0 else -1]
            results = {executable: run(executable, scene, output, args.model) for executable in order}
            before, after = results[args.before], results[args.after]
            ratios.append((after[0] / before[0], after[1] / before[1]))
            print(
                f"before {before[0]:.1f} s, {before[1] / 1e9:.2f} GB; after {after[0]:.1f} s, {after[1] / 1e9:.2f} GB",
                flush=True,
            )
    seconds, memory = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"after / before, median of {args.repeat} turns: {seconds:.2f} in time, {memory:.2f} in memory")


if __name__ == "__main__":
    main()
