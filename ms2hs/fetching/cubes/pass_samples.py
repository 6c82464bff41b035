"""Samples of hyperspectral passes over a scene: a few thousand clear pixels each, kept as small cubes in a cache.

The scene is cut along the blocks of a pass into cells. A square in the middle of each cell is read, in an order that
spreads over the scene, until enough clear pixels are known. No square lies in two blocks, and large blocks are read
only up to MAX_BYTES. A cloudy pass is given up early.
A sample is a COG of pixels side by side, without a position, and a JSON file with its facts and its checksum, which is
written last: a sample without it, or with another checksum, is fetched again.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.errors import NothingFound, OutputError, visible
from ms2hs.fetching.cubes.remote_cube import RemoteCube, open_remote_cube
from ms2hs.fetching.search_query import SearchArea
from ms2hs.files import file_name, read_json, write_bytes
from ms2hs.raster.cog.encoding import quantise
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.pixel_grid import PixelGrid, window_in
from ms2hs.remote.client import MAX_DOCUMENT_BYTES, WebClient
from ms2hs.remote.providers import PROVIDERS, access_to
from ms2hs.scenes.recognition import TIME_TAG
from ms2hs.scenes.stac_item import ORIGIN, base_of
from ms2hs.scenes.stac_metadata import Item

# Columns of a sample, and its clear pixels: many more than the rank of the prior.
COLUMNS = 64
PIXELS = 64 * COLUMNS
# A pass with fewer clear pixels is not used.
MIN_PIXELS = 500
# Cells that give the pixels, if the scene has as many; and the largest side of a cell, in pixels. With a tenth of one
# half of an image as the site of the other half, the RMSE relative to no site was .73 with 8 and .70 with 32 cells.
CELLS, CELL_SIDE = 32, 16
# Bytes of a pass after which only cells in blocks that were read are sampled: blocks of some files hold 70 MB.
MAX_BYTES = 150_000_000
# A pass is given up if less than this share of a quarter of PIXELS or more is clear, or after this multiple of PIXELS.
MIN_CLEAR, MAX_READ = 0.1, 3
# Simultaneous requests.
JOBS = 8
Window = tuple[int, int, int, int]
"""Row, column, height, width."""
# Changes with the layout and the bands of a sample, so that samples of other versions are fetched again.
LAYOUT = 2


@dataclass(frozen=True)
class Sample:
    """Clear pixels of one pass over a scene."""

    name: str
    """Id of the item."""
    product: str
    day: str
    """Of acquisition, such as 2023-07-14."""
    pixels: int
    cube: Path
    """As `open_cube` opens it."""


def cache_folder() -> Path:
    """The folder of the samples: MS2HS_CACHE, else `ms2hs` in XDG_CACHE_HOME or ~/.cache; it may not exist."""
    given, caches = os.environ.get("MS2HS_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path(caches or Path.home() / ".cache") / "ms2hs") / "site"


def cache_key(*facts: Any) -> str:  # noqa: ANN401 - any JSON
    """The checksum of facts, for the name of a file in the cache."""
    return hashlib.sha256(json.dumps([LAYOUT, PIXELS, *facts]).encode()).hexdigest()[:16]


def sample_path(item: Item, area: SearchArea) -> Path:
    """The cube of a pass over an area in the cache; its name depends on the version of the item."""
    version = item["properties"].get("updated") or item["properties"].get("created")
    key = cache_key(item["id"], item.get("collection"), version, [round(degrees, 6) for degrees in area.bbox])
    return cache_folder() / f"{file_name(item['id'][:100])}_{key}.tif"


def read_sample(cube: Path) -> Sample | None:
    """The sample with this cube; None if it is missing or damaged."""
    try:
        facts = read_json(cube.with_suffix(".json"), MAX_DOCUMENT_BYTES)
        if facts.pop("sha256") != hashlib.sha256(cube.read_bytes()).hexdigest():
            return None
        return Sample(**facts | {"cube": cube})
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None


def sample_pass(client: WebClient, item: Item, product: str, day: str, area: SearchArea) -> Sample:
    """The clear pixels of a pass over an area, from the cache, else from the server.

    Raises
    ------
    NothingFound : the pass is cloudy, or does not reach into the area.
    SceneError, DataError : a damaged item or file. RemoteError, AddressError, CredentialsError : the server failed.
    OutputError : the cache cannot be written.
    """
    path = sample_path(item, area)
    if sample := read_sample(path):
        return sample
    provider = PROVIDERS[item[ORIGIN]["provider"]]
    access = access_to(base_of(item), (provider,))
    with (
        TemporaryDirectory(prefix="ms2hs.") as folder,  # keeps what was read: cells share blocks
        closing(open_remote_cube(client, item, access, Path(folder))) as cube,
    ):
        spectra = _clear_pixels(cube, item["id"], area)
        sample = Sample(item["id"], product, day, len(spectra), path)
        _write(sample, spectra, cube, area)
    return sample


def _clear_pixels(cube: RemoteCube, name: str, area: SearchArea) -> Float32Array:
    """(pixel, band) reflectance of at most PIXELS clear pixels, in the order of the cells."""
    window = window_in(cube.grid, area.bbox)
    if window is None:
        raise NothingFound(f"{name}: the pass does not reach into the scene; an overlap is needed. Use another pass.")
    cells = _cells(_widened(window, cube.grid), cube.block_shape)
    largest = max(height * width for *_, height, width in cells)
    cells = [cell for cell in cells if cell[2] * cell[3] >= largest / 4]  # slivers at the edges cost as much
    most = -(-PIXELS // min(CELLS, len(cells)))
    parts: list[Float32Array] = []
    clear = read = size = 0
    left_out: set[tuple[int, int]] = set()
    with ThreadPoolExecutor(JOBS, "sample") as pool:
        for cell in _spread(cells):
            if clear >= PIXELS or read >= MAX_READ * PIXELS or (4 * read >= PIXELS and clear < MIN_CLEAR * read):
                break
            square = _middle(cell, most)
            block = square[0] // cube.block_shape[0], square[1] // cube.block_shape[1]
            requests = [] if block in left_out else cube.requests(*square)
            size += sum(request.end - request.begin for request in requests)
            if block in left_out or (parts and requests and size > MAX_BYTES):
                left_out.add(block)
                continue
            list(pool.map(lambda request: request.send(), requests))
            pixels = cube.read(*square).reshape(len(cube.spectral), -1).T
            parts.append(pixels[np.isfinite(pixels).all(axis=1)])
            clear, read = clear + len(parts[-1]), read + len(pixels)
    if clear < MIN_PIXELS:
        raise NothingFound(
            f"{name}: {clear} of {read} pixels over the scene are clear; at least {MIN_PIXELS} are needed. Use another "
            "pass."
        )
    return np.concatenate(parts)[:PIXELS]


def _widened(window: Window, grid: PixelGrid) -> Window:
    """A window with at least COLUMNS rows and columns, if the grid has as many."""
    (top, height), (left, width) = (
        (max(0, min(first - (COLUMNS - size) // 2, limit - COLUMNS)), min(COLUMNS, limit))
        if size < COLUMNS
        else (first, size)
        for first, size, limit in ((window[0], window[2], grid.height), (window[1], window[3], grid.width))
    )
    return top, left, height, width


def _cells(window: Window, block_shape: tuple[int, int]) -> list[Window]:
    """A window, cut at the edges of blocks, and every CELL_SIDE pixels of a block."""
    rows, cols = (
        [first, *(at for at in range(first + 1, first + size) if at % block % CELL_SIDE == 0), first + size]
        for first, size, block in zip(window[:2], window[2:], block_shape, strict=True)
    )
    return [(top, left, end - top, stop - left) for top, end in pairwise(rows) for left, stop in pairwise(cols)]


def _middle(cell: Window, pixels: int) -> Window:
    """The square, or the strip, in the middle of a cell, of at most this number of pixels."""
    row, col, height, width = cell
    rows = min(height, max(math.isqrt(pixels), pixels // width))
    cols = min(width, pixels // rows)
    return row + (height - rows) // 2, col + (width - cols) // 2, rows, cols


def _spread(cells: list[Window]) -> Iterator[Window]:
    """The cells from the middle one on, each as far as possible from those before it."""
    corners = np.array(cells, float)
    centres = corners[:, :2] + corners[:, 2:] / 2
    near = -np.hypot(*(centres - (centres.min(axis=0) + centres.max(axis=0)) / 2).T)
    for number in range(len(cells)):
        at = int(near.argmax())
        yield cells[at]
        distance = np.hypot(*(centres - centres[at]).T)
        near = np.minimum(near, distance) if number else distance
        near[at] = -1.0


def _write(sample: Sample, spectra: Float32Array, cube: RemoteCube, area: SearchArea) -> None:
    """Write the cube of a sample, and then its facts."""
    try:
        sample.cube.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{sample.cube.parent} cannot be created ({error.strerror}); a writable folder is needed for the cache. "
            "Set MS2HS_CACHE to another folder."
        ) from error
    rows = -(-len(spectra) // COLUMNS)
    values = np.full((rows * COLUMNS, len(cube.spectral)), np.nan, np.float32)
    values[: len(spectra)] = spectra
    image = np.ascontiguousarray(values.T).reshape(-1, rows, COLUMNS)
    west, south, east, north = area.bbox
    tags = {
        "MS2HS_ITEM": visible(sample.name),
        "MS2HS_PIXELS": str(sample.pixels),
        "MS2HS_BBOX": f"{west},{south},{east},{north}",
        TIME_TAG: visible(sample.day),
    }
    grid = PixelGrid(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), rows, COLUMNS)
    with CogWriter(sample.cube, grid, cube.spectral, tags, threads=1) as writer:
        writer.write(0, quantise(image, np.isfinite(image[0])))
    facts = asdict(sample) | {"sha256": hashlib.sha256(sample.cube.read_bytes()).hexdigest()}
    del facts["cube"]
    write_bytes(sample.cube.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
