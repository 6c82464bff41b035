"""The rules of GDAL's `validate_cloud_optimized_geotiff.py` (full check), implemented with rasterio for every band.

The script itself needs GDAL's Python bindings, which have no wheels. After GDAL's samples, MIT licence.
"""

import re
import struct
from itertools import pairwise
from pathlib import Path

import rasterio

GHOST = re.compile(rb"GDAL_STRUCTURAL_METADATA_SIZE=(\d{6}) bytes\n")


def broken_rules(path):
    """Errors and warnings that GDAL's script would report for a file; empty for a valid COG."""
    data = Path(path).read_bytes()
    with rasterio.open(path) as file:
        levels = [None, *range(len(file.overviews(1)))]
        sizes = [(file.shape, file.block_shapes[0])]
        for level in levels[1:]:
            with rasterio.open(path, overview_level=level) as overview:
                sizes.append((overview.shape, overview.block_shapes[0]))
        ghost, found = _ghost(data)[0], [*_broken_by_sizes(sizes), *_broken_by_order(data, file, levels)]
        for level, size in zip(levels, sizes, strict=True):
            for band in file.indexes:
                found += _broken_in(data, file, band, level, size, ghost)
    return found


def _broken_by_sizes(sizes):
    if max(sizes[0][0]) > 512 and len(sizes) == 1:
        yield "there should be overviews"
    for (height, width), (_, block_width) in sizes:
        if max(height, width) > 512 and block_width == width and block_width > 1024:
            yield "not tiled"
    for ((height, width), _), ((lower, narrower), _) in pairwise(sizes):
        if height < lower or width < narrower:
            yield "overviews are not by descending size"


def _broken_by_order(data, file, levels):
    directories = [int(file.get_tag_item("IFD_OFFSET", "TIFF", bidx=1, ovr=level)) for level in levels]
    blocks = [int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=level) or 0) for level in levels]
    ghost, expected = _ghost(data)
    if directories[0] not in {8, 16} and directories[0] != expected:
        yield f"the first directory is at {directories[0]}, not {expected}"
    if b"KNOWN_INCOMPATIBLE_EDITION=YES" in ghost:
        yield "an incompatible edition is declared"
    if directories != sorted(directories):
        yield "directories of smaller images do not follow those of larger ones"
    if blocks[-1] < directories[-1]:
        yield "blocks come before directories"
    if blocks != sorted(blocks, reverse=True):
        yield "blocks of smaller images do not come before those of larger ones"


def _ghost(data):
    begin = 16 if data[2] == 43 else 8
    said = GHOST.match(data, begin)
    if not said:
        return b"", begin
    end = said.end() + int(said[1])
    return data[said.end() : end], end + end % 2


def _broken_in(data, file, band, level, sizes, ghost):
    (height, width), (rows, cols) = sizes
    last = 0
    for y in range(-(-height // rows)):
        for x in range(-(-width // cols)):
            start, size = (
                int(file.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=band, ovr=level) or 0)
                for what in ("OFFSET", "SIZE")
            )
            name = f"band {band}, level {level}, block {x}, {y}"
            if start == 0:
                continue
            if b"BLOCK_ORDER=ROW_MAJOR" in ghost and start < last:
                yield f"{name} comes before the one before"
            if b"BLOCK_LEADER=SIZE_AS_UINT4" in ghost and struct.unpack_from("<I", data, start - 4)[0] != size:
                yield f"{name}: another size stands before it"
            end = start + size
            repeated = b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED" in ghost
            if repeated and size >= 4 and data[end - 4 : end] != data[end : end + 4]:
                yield f"{name}: its end does not stand behind it"
            last = start
