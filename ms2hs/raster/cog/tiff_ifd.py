"""The head of a BigTIFF: directories of tags, read from what GDAL writes, and put before the blocks of a COG.

Formats: TIFF 6.0 (Adobe, 1992); the BigTIFF design (AWare Systems); GDAL's "COG driver", header ghost area.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Bytes of one value, by kind of tag: BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, …, DOUBLE, LONG8.
KIND_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
SHORT, LONG, LONG8 = 3, 4, 16
HEADER = struct.Struct("<2sHHHQ")
ENTRY = struct.Struct("<HHQ8s")
BIG_TIFF = 43
METADATA_END = b"</GDALMetadata>"
TOGETHER = b'  <Item name="INTERLEAVE" domain="IMAGE_STRUCTURE">TILE</Item>\n'
SUBFILE_TYPE, WIDTH, HEIGHT, METADATA, NODATA = 254, 256, 257, 42112, 42113
TILE_OFFSETS, TILE_SIZES = 324, 325
REDUCED = 1
"""The subfile type of an overview."""
# What a directory of an overview says as that of the image does: bits, codec, colours, planes, predictor, blocks.
STRUCTURE = (258, 259, 262, 277, 284, 317, 322, 323, 338, 339, NODATA)
# What GDAL looks for behind the header to read blocks without their sizes: each has its size before it, and its last
# four bytes again behind it. The space at the end is for the YES of editors that break this. Byte for byte as the COG
# driver of GDAL 3.12 writes it with INTERLEAVE=TILE; that the blocks of all bands of a place stand together is said in
# the metadata.
LAYOUT = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nINTERLEAVE=BAND\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)


@dataclass(frozen=True)
class Tag:
    """One fact of a directory."""

    kind: int
    count: int
    value: bytes


Directory = dict[int, Tag]


def read_directory(tiff: bytes) -> Directory:
    """The tags of the first image of a little-endian BigTIFF, by number.

    Raises
    ------
    ValueError : it is none.
    """
    order, version, _, _, first = HEADER.unpack_from(tiff)
    if (order, version) != (b"II", BIG_TIFF):
        raise ValueError(f"a file that begins with {tiff[:4]!r}: a little-endian BigTIFF is due")
    (entries,) = struct.unpack_from("<Q", tiff, first)
    tags = {}
    for i in range(entries):
        number, kind, count, inside = ENTRY.unpack_from(tiff, first + 8 + i * ENTRY.size)
        size = KIND_BYTES[kind] * count
        at = int.from_bytes(inside, "little")
        tags[number] = Tag(kind, count, inside[:size] if size <= 8 else tiff[at : at + size])
    return tags


def with_places_together(image: Directory) -> Directory:
    """The tags of an image, saying too that the blocks of all bands of one place stand together, as GDAL 3.11 does.

    Raises
    ------
    ValueError : it has no metadata of GDAL's.
    """
    said = image[METADATA].value if METADATA in image else b""
    if METADATA_END not in said:
        raise ValueError("no GDAL metadata: a directory that GDAL wrote, with tags, is due")
    value = said.replace(METADATA_END, TOGETHER + METADATA_END)
    return image | {METADATA: Tag(image[METADATA].kind, len(value), value)}


def overview_of(image: Directory) -> Directory:
    """The tags of an overview of an image, but for its size and blocks."""
    return {number: image[number] for number in STRUCTURE if number in image} | {SUBFILE_TYPE: _number(REDUCED)}


def with_blocks(
    directory: Directory, shape: tuple[int, int], offsets: NDArray[np.uint64], sizes: NDArray[np.uint32]
) -> Directory:
    """The directory of an image of this shape, (rows, columns), and of these blocks: where they begin, their bytes."""
    return directory | {
        WIDTH: _number(shape[1]),
        HEIGHT: _number(shape[0]),
        TILE_OFFSETS: Tag(LONG8, offsets.size, offsets.astype("<u8").tobytes()),
        TILE_SIZES: Tag(LONG, sizes.size, sizes.astype("<u4").tobytes()),
    }


def pack(directories: Sequence[Directory]) -> bytes:
    """A BigTIFF up to its first block: header, layout, directories, and behind them the lists of blocks.

    Its length depends on how many blocks there are, not on where they are.
    """
    layout = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(LAYOUT) + LAYOUT
    layout += b"\0" * (len(layout) % 2)  # directories begin at even bytes
    tables = b""
    begin = HEADER.size + len(layout)
    ends = begin + sum(_table_bytes(directory) for directory in directories)
    lists = b""
    for i, directory in enumerate(directories):
        at = begin + len(tables)
        following = at + _table_bytes(directory) if i + 1 < len(directories) else 0
        behind, values = at + _entries_bytes(directory), b""
        entries = b""
        for number, tag in sorted(directory.items()):
            inside = tag.value
            if len(tag.value) > 8 and _is_list(number):
                inside = struct.pack("<Q", ends + len(lists))
                lists += _padded(tag.value)
            elif len(tag.value) > 8:
                inside = struct.pack("<Q", behind + len(values))
                values += _padded(tag.value)
            entries += ENTRY.pack(number, tag.kind, tag.count, inside)
        tables += struct.pack("<Q", len(directory)) + entries + struct.pack("<Q", following) + values
    return HEADER.pack(b"II", BIG_TIFF, 8, 0, begin) + layout + tables + lists


def _number(value: int) -> Tag:
    return Tag(LONG, 1, struct.pack("<L", value))


def _is_list(number: int) -> bool:
    return number in {TILE_OFFSETS, TILE_SIZES}


def _entries_bytes(directory: Directory) -> int:
    return 8 + len(directory) * ENTRY.size + 8


def _table_bytes(directory: Directory) -> int:
    """Entries, and the values that fit into none but the lists of blocks."""
    outside = (tag.value for number, tag in directory.items() if len(tag.value) > 8 and not _is_list(number))
    return _entries_bytes(directory) + sum(len(_padded(value)) for value in outside)


def _padded(value: bytes) -> bytes:
    """Values begin at multiples of eight bytes of those before."""
    return value + b"\0" * (-len(value) % 8)
