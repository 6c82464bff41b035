"""The head of a COG: BigTIFF directories (IFDs) read from a GDAL file, completed and packed.

Formats: TIFF 6.0 (Adobe, 1992); the BigTIFF design (AWare Systems); GDAL's "COG driver", header ghost area.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Bytes of one value, by TIFF field type: BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, …, DOUBLE, LONG8.
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
SHORT, LONG, LONG8 = 3, 4, 16
HEADER = struct.Struct("<2sHHHQ")
ENTRY = struct.Struct("<HHQ8s")
BIG_TIFF = 43
METADATA_END = b"</GDALMetadata>"
INTERLEAVE_ITEM = b'  <Item name="INTERLEAVE" domain="IMAGE_STRUCTURE">TILE</Item>\n'
NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_LENGTH, GDAL_METADATA, GDAL_NODATA = 254, 256, 257, 42112, 42113
TILE_OFFSETS, TILE_BYTE_COUNTS = 324, 325
REDUCED = 1
"""The subfile type of an overview."""
# Tags that overviews share with the image: bits, codec, colours, planes, predictor, blocks.
SHARED_TAGS = (258, 259, 262, 277, 284, 317, 322, 323, 338, 339, GDAL_NODATA)
# GDAL's ghost area, with which readers find blocks without the lists of sizes: each block has its size in front and its
# last four bytes repeated behind. The last space leaves room for the YES of editors that break the layout. The COG
# driver of GDAL 3.12 writes the same text with INTERLEAVE=TILE, which the metadata declares.
LAYOUT = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nINTERLEAVE=BAND\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)


@dataclass(frozen=True)
class Tag:
    """One TIFF tag: field type, number of values, and the values as bytes."""

    field_type: int
    count: int
    value: bytes


Directory = dict[int, Tag]


def read_directory(tiff: bytes) -> Directory:
    """Tags of the first image of a little-endian BigTIFF, by tag number.

    Raises
    ------
    ValueError : not a little-endian BigTIFF.
    """
    order, version, _, _, first = HEADER.unpack_from(tiff)
    if (order, version) != (b"II", BIG_TIFF):
        raise ValueError(f"file begins with {tiff[:4]!r}; expected a little-endian BigTIFF")
    (entries,) = struct.unpack_from("<Q", tiff, first)
    tags = {}
    for i in range(entries):
        number, field_type, count, field = ENTRY.unpack_from(tiff, first + 8 + i * ENTRY.size)
        size = TYPE_BYTES[field_type] * count
        offset = int.from_bytes(field, "little")
        tags[number] = Tag(field_type, count, field[:size] if size <= 8 else tiff[offset : offset + size])
    return tags


def with_tile_interleave(image: Directory) -> Directory:
    """The directory with INTERLEAVE=TILE (GDAL 3.11): the blocks of all bands of a location are stored together.

    Raises
    ------
    ValueError : the directory has no GDAL metadata.
    """
    metadata = image[GDAL_METADATA].value if GDAL_METADATA in image else b""
    if METADATA_END not in metadata:
        raise ValueError("directory without GDAL metadata; expected a directory with tags that GDAL wrote")
    value = metadata.replace(METADATA_END, INTERLEAVE_ITEM + METADATA_END)
    return image | {GDAL_METADATA: Tag(image[GDAL_METADATA].field_type, len(value), value)}


def overview_directory(image: Directory) -> Directory:
    """The directory of an image's overview, without size and blocks."""
    return {number: image[number] for number in SHARED_TAGS if number in image} | {NEW_SUBFILE_TYPE: _number(REDUCED)}


def with_blocks(
    directory: Directory, shape: tuple[int, int], offsets: NDArray[np.uint64], sizes: NDArray[np.uint32]
) -> Directory:
    """The directory with the image's shape (rows, columns) and the offset and size of each block in bytes."""
    return directory | {
        IMAGE_WIDTH: _number(shape[1]),
        IMAGE_LENGTH: _number(shape[0]),
        TILE_OFFSETS: Tag(LONG8, offsets.size, offsets.astype("<u8").tobytes()),
        TILE_BYTE_COUNTS: Tag(LONG, sizes.size, sizes.astype("<u4").tobytes()),
    }


def pack(directories: Sequence[Directory]) -> bytes:
    """A BigTIFF up to its first block: header, ghost area, directories, and the lists of block offsets and sizes.

    The length depends on the number of blocks but not on their offsets.
    """
    ghost = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(LAYOUT) + LAYOUT
    ghost += b"\0" * (len(ghost) % 2)  # directories begin at even offsets
    tables, lists = b"", b""
    begin = HEADER.size + len(ghost)
    lists_begin = begin + sum(map(_table_bytes, directories))
    for i, directory in enumerate(directories):
        table_begin = begin + len(tables)
        next_directory = table_begin + _table_bytes(directory) if i + 1 < len(directories) else 0
        values_begin, entries, values = table_begin + _entries_bytes(directory), b"", b""
        for number, tag in sorted(directory.items()):
            field = tag.value
            if len(tag.value) > 8 and _is_list(number):
                field = struct.pack("<Q", lists_begin + len(lists))
                lists += _padded(tag.value)
            elif len(tag.value) > 8:
                field = struct.pack("<Q", values_begin + len(values))
                values += _padded(tag.value)
            entries += ENTRY.pack(number, tag.field_type, tag.count, field)
        tables += struct.pack("<Q", len(directory)) + entries + struct.pack("<Q", next_directory) + values
    return HEADER.pack(b"II", BIG_TIFF, 8, 0, begin) + ghost + tables + lists


def _number(value: int) -> Tag:
    return Tag(LONG, 1, struct.pack("<L", value))


def _is_list(number: int) -> bool:
    return number in {TILE_OFFSETS, TILE_BYTE_COUNTS}


def _entries_bytes(directory: Directory) -> int:
    return 8 + len(directory) * ENTRY.size + 8


def _table_bytes(directory: Directory) -> int:
    """Bytes of a directory with the values that do not fit into its entries, without the lists of blocks."""
    outside = (tag.value for number, tag in directory.items() if len(tag.value) > 8 and not _is_list(number))
    return _entries_bytes(directory) + sum(len(_padded(value)) for value in outside)


def _padded(value: bytes) -> bytes:
    """The value padded to a multiple of eight bytes."""
    return value + b"\0" * (-len(value) % 8)
