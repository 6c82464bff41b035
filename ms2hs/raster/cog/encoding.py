"""Encoding of values in files of ms2hs: block size, reflectance as integers, compression of blocks, scratch arrays."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import DTypeLike, NDArray

from ms2hs.arrays import BoolArray, DnArray, Float32Array
from ms2hs.raster.cube import NODATA, SCALE

BLOCK = 256
"""Height and width of a block, in pixels, unless an encoding has others."""
BLOCK_SIZES = (64, 128, 256)
Compression = Literal["zstd", "deflate"]
"""ZSTD is smaller and faster; DEFLATE is read by every TIFF library, also by geotiff.js before version 3."""
# Levels of compression, by which the writer keeps up with the model.
ZSTD_LEVEL, DEFLATE_LEVEL = 1, 1
# Buffer for one compressed block, as a multiple of its uncompressed size. Incompressible data grows by 1/256 and, in
# small blocks, by some bytes.
COMPRESS_BUFFER_FACTOR = 2
# Values quantised in one step: few enough to stay in the processor's cache.
QUANTISE_VALUES = 1 << 18
MAX_DN = 32767.0
# 1.5 · 2²³: added to a float32 of magnitude up to 2²², it leaves the nearest integer (half to even) in the low bits.
ROUNDING = np.float32(12_582_912)
# TIFF predictors: horizontal differencing for integers, byte-wise differencing for floats.
PREDICTOR_HORIZONTAL, PREDICTOR_FLOAT = 2, 3
_scratch = threading.local()


def scratch_array(use: str, shape: tuple[int, ...], dtype: DTypeLike) -> DnArray:
    """An uninitialised array of the calling thread, valid until the thread requests the same `use` again.

    The first access to a new memory page takes longer than the arithmetic on it, hence the reuse. A buffer lives as
    long as its thread: request sizes that do not grow with the scene.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer: NDArray[np.uint8] | None = getattr(_scratch, use, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, np.uint8)
        setattr(_scratch, use, buffer)
    return buffer[:size].view(dtype).reshape(shape)


@dataclass(frozen=True)
class Encoding:
    """Data type, nodata value, scale and compression of the stored numbers."""

    dtype: str = "int16"
    """Integers of at most 32 bits, or floats."""
    nodata: float | None = NODATA
    """Stored number of invalid pixels; None: every number is valid."""
    scale: float | None = SCALE
    """Reflectance of one stored step; None: not written into the file."""
    averages: bool = True
    """Whether overviews are averages; else every second pixel, for example of quality classes."""
    compression: Compression = "zstd"
    block: int = BLOCK
    """Height and width of a block, in pixels: one of `BLOCK_SIZES`."""
    quantity: str = "reflectance"
    """Name of the numbers, in formats that have one: `reflectance` or `sigma`."""

    @property
    def predictor(self) -> int:
        """The TIFF predictor number."""
        return PREDICTOR_FLOAT if np.dtype(self.dtype).kind == "f" else PREDICTOR_HORIZONTAL

    def compress(self, blocks: DnArray) -> list[bytes]:
        """Blocks (band, row, col), each differenced along its rows and compressed separately."""
        encode = imagecodecs.floatpred_encode if self.predictor == PREDICTOR_FLOAT else imagecodecs.delta_encode
        differences: Any = scratch_array("differences", blocks.shape, blocks.dtype)
        encode(blocks, axis=-1, out=differences)
        buffer: Any = scratch_array("compressed", (COMPRESS_BUFFER_FACTOR * differences[:1].nbytes,), np.uint8)
        if self.compression == "deflate":
            return [bytes(imagecodecs.deflate_encode(block, level=DEFLATE_LEVEL, out=buffer)) for block in differences]
        return [bytes(imagecodecs.zstd_encode(block, level=ZSTD_LEVEL, out=buffer)) for block in differences]

    def decompress(self, blocks: Sequence[bytes]) -> DnArray:
        """(band, row, col) stored numbers of compressed blocks."""
        expand = imagecodecs.deflate_decode if self.compression == "deflate" else imagecodecs.zstd_decode
        decode = imagecodecs.floatpred_decode if self.predictor == PREDICTOR_FLOAT else imagecodecs.delta_decode
        dtype = np.dtype(self.dtype)
        numbers = np.empty((len(blocks), self.block, self.block), dtype)
        for block, plain in zip(blocks, numbers, strict=True):
            differences: Any = np.frombuffer(expand(block), dtype).reshape(self.block, self.block)
            plain[:] = decode(differences, axis=-1)
        return numbers


REFLECTANCE = Encoding()
"""Reflectance as int16 with a step of 1e-4."""


def quantise(reflectance: Float32Array, valid: BoolArray, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
    """Reflectance as int16: `round(reflectance / SCALE)`, clipped to ±32767, and NODATA at invalid pixels.

    Parameters
    ----------
    reflectance : (band, row, col) float32, unitless; NaN is invalid.
    valid : (row, col) True where usable.
    out : (band, row, col) int16 to write to.
    """
    dn = np.empty(reflectance.shape, np.int16) if out is None else out
    step = max(1, QUANTISE_VALUES // max(valid.size, 1))
    # Added after clipping: invalid pixels fall below NODATA, and the maximum raises them to NODATA.
    below_nodata = None if valid.all() else np.where(valid, np.float32(0), np.float32(-1e9))
    scratch = np.empty((min(step, len(dn)), *valid.shape), np.float32)
    for first in range(0, len(dn), step):
        part = reflectance[first : first + step]
        numbers = scratch[: len(part)]
        np.multiply(part, np.float32(1 / SCALE), out=numbers)
        in_range = numbers.min(initial=0) >= -MAX_DN and numbers.max(initial=0) <= MAX_DN
        if below_nodata is not None or not in_range:
            np.clip(numbers, -MAX_DN, MAX_DN, out=numbers)
            if below_nodata is not None:
                numbers += below_nodata
            np.fmax(numbers, NODATA, out=numbers)  # NaN becomes NODATA too
        numbers += ROUNDING
        np.copyto(dn[first : first + step], numbers.view(np.int32), casting="unsafe")
    return dn
