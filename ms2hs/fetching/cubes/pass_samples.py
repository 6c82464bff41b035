"""Samples of hyperspectral passes over a scene: a few thousand clear pixels each, kept as small cubes in a cache.

Of a pass, whole blocks are read in an order that spreads over the scene, until enough clear pixels are known. A block
gives at most a part of the pixels, so that several blocks count. A cloudy pass is given up after the blocks that would
have sufficed for a clear pass.
A sample is a COG of pixels side by side, without a position, and a JSON file with its facts and its checksum, which is
written last: a sample without it, or with another checksum, is fetched again.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.errors import NothingFound, OutputError
from ms2hs.fetching.cubes.remote_cube import RemoteCube, open_remote_cube
from ms2hs.fetching.search_query import SearchArea
from ms2hs.files import file_name, read_json, write_bytes
from ms2hs.raster.cog.encoding import quantise
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.pixel_grid import PixelGrid, window_in
from ms2hs.remote.client import MAX_DOCUMENT_BYTES, WebClient
from ms2hs.remote.providers import PROVIDERS, access_to
from ms2hs.scenes.stac_item import base_of
from ms2hs.scenes.stac_metadata import Item

# Columns of a sample, and its clear pixels: many more than the rank of the prior.
COLUMNS = 64
PIXELS = 64 * COLUMNS
# A pass with fewer clear pixels is not used.
MIN_PIXELS = 500
# Blocks that give the pixels, if the scene has as many.
MIN_BLOCKS = 4
# A pass is given up if fewer than this share of the pixels that were read is clear, or after this multiple of PIXELS.
MIN_CLEAR, MAX_READ = 0.1, 3
# Simultaneous requests.
JOBS = 4
# Changes with the layout of a sample, so that samples of other versions are fetched again.
LAYOUT = 1


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
    provider = PROVIDERS[item["ms2hs:from"]["provider"]]
    with closing(open_remote_cube(client, item, access_to(base_of(item), (provider,)))) as cube:
        spectra = _clear_pixels(cube, item["id"], area)
        sample = Sample(item["id"], product, day, len(spectra), path)
        _write(sample, spectra, cube, area)
    return sample


def _clear_pixels(cube: RemoteCube, name: str, area: SearchArea) -> Float32Array:
    """(pixel, band) reflectance of at most PIXELS clear pixels, in the order of the blocks."""
    window = window_in(cube.grid, area.bbox)
    if window is None:
        raise NothingFound(f"{name}: the pass does not reach into the scene; an overlap is needed. Use another pass.")
    row, col, height, width = window
    (top, bottom), (left, right) = _widened(row, height, cube.grid.height), _widened(col, width, cube.grid.width)
    blocks = list(_blocks((top, left, bottom - top, right - left), cube.block_shape))
    most = -(-PIXELS // min(MIN_BLOCKS, len(blocks)))
    parts: list[Float32Array] = []
    clear = read = 0
    with ThreadPoolExecutor(JOBS, "sample") as pool:
        for row, col, height, width in _spread(blocks):
            if clear >= PIXELS or read >= MAX_READ * PIXELS or (read >= PIXELS and clear < MIN_CLEAR * read):
                break
            list(pool.map(lambda request: request.send(), cube.requests(row, col, height, width)))
            pixels = cube.read(row, col, height, width).reshape(len(cube.spectral), -1).T
            pixels = pixels[np.isfinite(pixels).all(axis=1)]
            kept = np.linspace(0, len(pixels) - 1, min(most, len(pixels))).astype(int)
            parts.append(pixels[kept])
            clear, read = clear + len(kept), read + min(most, height * width)
    if clear < MIN_PIXELS:
        raise NothingFound(
            f"{name}: {clear} of {read} pixels over the scene are clear; at least {MIN_PIXELS} are needed. Use another "
            "pass."
        )
    return np.concatenate(parts)[:PIXELS]


def _widened(first: int, size: int, limit: int) -> tuple[int, int]:
    """Begin and end of a range around these pixels that has at least COLUMNS pixels, if the limit allows."""
    begin = max(0, first - max(0, COLUMNS - size) // 2)
    return begin, min(limit, max(first + size, begin + COLUMNS))


def _blocks(window: tuple[int, int, int, int], shape: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Row, column, height and width of the parts of all blocks of this shape inside a window."""
    top, left, height, width = window
    for row in range(top - top % shape[0], top + height, shape[0]):
        for col in range(left - left % shape[1], left + width, shape[1]):
            first, start = max(row, top), max(col, left)
            end, stop = min(row + shape[0], top + height), min(col + shape[1], left + width)
            yield first, start, end - first, stop - start


def _spread(blocks: list[tuple[int, int, int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """The blocks from the middle one on, each as far as possible from those before it."""
    corners = np.array(blocks, float)
    centres = corners[:, :2] + corners[:, 2:] / 2
    near = -np.hypot(*(centres - (centres.min(axis=0) + centres.max(axis=0)) / 2).T)
    for number in range(len(blocks)):
        at = int(near.argmax())
        yield blocks[at]
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
    tags = {"item": sample.name, "acquisition_date": sample.day, "bbox": f"{west},{south},{east},{north}"}
    grid = PixelGrid(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), rows, COLUMNS)
    with CogWriter(sample.cube, grid, cube.spectral, tags, threads=1) as writer:
        writer.write(0, quantise(image, np.isfinite(image[0])))
    facts = asdict(sample) | {"sha256": hashlib.sha256(sample.cube.read_bytes()).hexdigest()}
    del facts["cube"]
    write_bytes(sample.cube.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
