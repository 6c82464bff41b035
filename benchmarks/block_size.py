"""Block size and compression of a COG: time to write, size, and the bytes that a click or a picture reads over HTTP.

    python benchmarks/block_size.py                          # 3660 x 3660 pixels, 202 bands
    python benchmarks/block_size.py --size 1024 --repeat 1   # faster
    python benchmarks/block_size.py --scene scene.tif --json

Every row is a `convert --model linear` with one block size and compression, in a process of its own. A server on this
machine then delivers ranges of the cube and counts bytes and requests. Three readers open the cube anew each time:

| read     | part                                                                        |
|----------|-----------------------------------------------------------------------------|
| spectrum | all bands of one pixel                                                      |
| view     | red, green and blue of the whole scene in 1024 pixels, from the overviews   |
| window   | red, green and blue of 1024 x 1024 pixels in full size                      |

`gdal` is GDAL's own HTTP reader, as in QGIS and rioxarray; `ours` the reader of `ms2hs spectrum` and `view`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

from conversion import settle, shape_of, write_scene

from ms2hs.raster.cog.encoding import BLOCK_SIZES

COMPRESSIONS = ("zstd", "deflate")
CONVERT = """
import json, sys, time
from pathlib import Path
from ms2hs import ConvertOptions, convert
options = ConvertOptions(overwrite=True, model="linear", compress=sys.argv[3], blocksize=int(sys.argv[4]))
result = convert(sys.argv[1], "enmap", Path(sys.argv[2]), options)
peak_kib = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss includes the parent's
print(json.dumps({**result.seconds, "peak_bytes": int(peak_kib) * 1024, "processors": time.process_time()}))
"""
READ = """
import sys, time
import rasterio
from rasterio.windows import Window
from ms2hs.raster.dataset import open_dataset
what, reader, address = sys.argv[1:]
environment = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")
began = time.perf_counter()
with environment, (rasterio.open(f"/vsicurl/{address}") if reader == "gdal" else open_dataset(address)) as file:
    rgb, middle = [45, 28, 11], (file.height // 2 + 77, file.width // 2 + 77)
    if what == "spectrum":
        file.read(window=Window(middle[1], middle[0], 1, 1))
    elif what == "view":
        factor = max(1, -(-max(file.shape) // 1024))
        file.read(rgb, out_shape=(3, -(-file.height // factor), -(-file.width // factor)))
    else:
        file.read(rgb, window=Window(middle[1] - 512, middle[0] - 512, 1024, 1024))
print(time.perf_counter() - began)
"""
READERS, READS = ("gdal", "ours"), ("spectrum", "view", "window")


class RangeServer(BaseHTTPRequestHandler):
    """Delivers ranges of one file, and counts them."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and content in one packet
    disable_nagle_algorithm = True
    path_on_disk: Path
    served: list[int]

    def do_HEAD(self) -> None:
        """The size of the file."""
        self._send_head(200, self.path_on_disk.stat().st_size)

    def do_GET(self) -> None:
        """A range of the file."""
        size = self.path_on_disk.stat().st_size
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or size - 1), size - 1)
        with self.path_on_disk.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin + 1)
        self.served.append(len(content))
        self._send_head(206, len(content), {"Content-Range": f"bytes {begin}-{end}/{size}"})
        self.wfile.write(content)

    def _send_head(self, status: int, length: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class ManyConnections(ThreadingHTTPServer):
    """A server on which GDAL may open a connection for each block at once."""

    request_queue_size = 1024


@contextmanager
def served(path: Path) -> Iterator[tuple[str, list[int]]]:
    """The address of a file, and the sizes of the delivered ranges."""
    sizes: list[int] = []
    handler = type("Handler", (RangeServer,), {"path_on_disk": path, "served": sizes})
    with ManyConnections(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{path.name}", sizes
        server.shutdown()


def converted(scene: Path, output: Path, compression: str, block: int) -> dict[str, float]:
    """One `convert` in its own process: seconds by stage, peak memory, size."""
    output.unlink(missing_ok=True)
    settle()
    command = [sys.executable, "-c", CONVERT, str(scene), str(output), compression, str(block)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {**json.loads(run.stdout), "file_bytes": output.stat().st_size}


def measure_reads(path: Path) -> dict[str, dict[str, float]]:
    """Megabytes, requests and seconds of each reader and read, each in a process of its own."""
    found = {}
    with served(path) as (address, sizes):
        for reader, what in product(READERS, READS):
            sizes.clear()
            command = [sys.executable, "-c", READ, what, reader, address]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            facts = {"megabytes": sum(sizes) / 1e6, "requests": len(sizes), "seconds": float(run.stdout)}
            found[f"{reader} {what}"] = facts
    return found


def measure(scene: Path, folder: Path, repeat: int) -> list[dict[str, Any]]:
    """One row for each compression and block size; conversions take turns, so that other load affects all alike."""
    kinds = [*product(COMPRESSIONS, BLOCK_SIZES)]
    runs: dict[tuple[str, int], list[dict[str, float]]] = {kind: [] for kind in kinds}
    reads: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    for turn in range(repeat):
        for kind in kinds:
            output = folder / "cube.tif"
            runs[kind].append(converted(scene, output, *kind))
            if turn == 0:
                reads[kind] = measure_reads(output)
    return [
        {"codec": kind[0], "blocksize": kind[1], "runs": found, "reads": reads[kind]}
        | {name: statistics.median(run[name] for run in found) for name in found[0]}
        for kind, found in runs.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    reads = [f"{reader} {what}" for reader, what in product(READERS, READS)]
    head = ["compress", "blocksize", "convert s", "memory GB", "size GB", *(f"{name} MB (requests)" for name in reads)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        facts = [row["reads"][name] for name in reads]
        numbers = [f"{row['whole']:.1f}", f"{row['peak_bytes'] / 1e9:.2f}", f"{row['file_bytes'] / 1e9:.2f}"]
        cells = [f"{one['megabytes']:.1f} ({one['requests']:.0f})" for one in facts]
        lines.append([row["codec"], str(row["blocksize"]), *numbers, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="scene to convert [the example scene, repeated]")
    parser.add_argument("--size", type=shape_of, default=(3660, 3660), help="rows x columns of the example scene")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="working directory; needs 13 GB [temporary]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder, scene = Path(name), args.scene or Path(name) / "scene.tif"
        if args.scene is None:
            write_scene(scene, *args.size)
        began = time.perf_counter()
        rows = measure(scene, folder, args.repeat)
    load = os.getloadavg()[0]
    if args.json:
        print(json.dumps({"load": load, "rows": rows}, indent=1))
        return
    print(table(rows))
    print(f"medians of {args.repeat} conversions; load {load:.1f}; {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
