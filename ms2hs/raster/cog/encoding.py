"""How numbers stand in our files: reflectance as integers, blocks of them compressed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.raster.cog.overviews import Numbers, reused
from ms2hs.raster.cube import NODATA, SCALE

ZSTD_LEVEL = 1
# Numbers that cannot be compressed take 1/256 more, and small blocks some bytes.
LARGEST_GROWTH = 2
# So many numbers are made to integers at a time: they stay near the processor.
NUMBERS_AT_A_TIME = 1 << 18
LARGEST = np.float32(32767)
# 1.5 · 2²³: added to a float32 up to 2²², it leaves the nearest whole number, of two the even one, in the last bits.
ROUNDING = np.float32(12_582_912)
# The format's numbers of predictors: what a block is made of before it is compressed.
DIFFERENCES, FLOATING_POINT = 2, 3


@dataclass(frozen=True)
class Storage:
    """How numbers stand in the file."""

    dtype: str = "int16"
    """Integers of at most 32 bits, or floats."""
    nodata: float | None = NODATA
    """The number that means none; None: every number is usable."""
    scale: float | None = SCALE
    """Reflectance of one stored step; None: not told."""
    averages: bool = True
    """Whether overviews hold means; else every second pixel, as classes need."""

    @property
    def predictor(self) -> int:
        """By the format's numbers."""
        return FLOATING_POINT if np.dtype(self.dtype).kind == "f" else DIFFERENCES

    def compress(self, blocks: Numbers) -> list[bytes]:
        """Blocks (band, row, col) as the file has them: differences along their rows, compressed, each for itself."""
        encode = imagecodecs.floatpred_encode if self.predictor == FLOATING_POINT else imagecodecs.delta_encode
        differences: Any = reused("differences", blocks.shape, blocks.dtype)
        encode(blocks, axis=-1, out=differences)
        room: Any = reused("compressed", (LARGEST_GROWTH * differences[:1].nbytes,), np.uint8)
        # told to take bytes only, it takes every buffer
        return [bytes(imagecodecs.zstd_encode(block, level=ZSTD_LEVEL, out=room)) for block in differences]

    def expand(self, blocks: Sequence[bytes], side: int) -> Numbers:
        """Blocks (band, side, side) that `compress` made these of."""
        decode = imagecodecs.floatpred_decode if self.predictor == FLOATING_POINT else imagecodecs.delta_decode
        dtype = np.dtype(self.dtype)
        numbers = np.empty((len(blocks), side, side), dtype)
        for block, plain in zip(blocks, numbers, strict=True):
            differences: Any = np.frombuffer(imagecodecs.zstd_decode(block), dtype).reshape(side, side)
            plain[:] = decode(differences, axis=-1)
        return numbers


REFLECTANCE = Storage()


def quantise(reflectance: Float32Array, valid: BoolArray, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
    """Reflectance as stored numbers: `round(reflectance / SCALE)`, at most ±32767, NODATA where there is none.

    Parameters
    ----------
    reflectance : (band, row, col) float32, unitless; NaN is taken as invalid.
    valid : (row, col) True where usable.
    out : (band, row, col) int16 to write to, such as the one of the strip before.
    """
    dn = np.empty(reflectance.shape, np.int16) if out is None else out
    step = max(1, NUMBERS_AT_A_TIME // max(valid.size, 1))
    sunk = None if valid.all() else np.where(valid, np.float32(0), np.float32(-1e9))
    scratch = np.empty((min(step, len(dn)), *valid.shape), np.float32)
    for first in range(0, len(dn), step):
        some = reflectance[first : first + step]
        numbers = scratch[: len(some)]
        np.multiply(some, np.float32(1 / SCALE), out=numbers)
        if sunk is not None or not (numbers.min(initial=0) >= -LARGEST and numbers.max(initial=0) <= LARGEST):
            np.clip(numbers, -LARGEST, LARGEST, out=numbers)
            if sunk is not None:
                numbers += sunk
            np.fmax(numbers, NODATA, out=numbers)  # of NaN too
        # the float32 that are this large are whole numbers: the nearest is in the last bits
        numbers += ROUNDING
        np.copyto(dn[first : first + step], numbers.view(np.int32), casting="unsafe")
    return dn
