"""How numbers stand in our files: reflectance as integers, blocks of them compressed."""

from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.pyramid import Numbers

ZSTD_LEVEL = 1
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

    @property
    def predictor(self) -> int:
        """By the format's numbers."""
        return FLOATING_POINT if np.dtype(self.dtype).kind == "f" else DIFFERENCES

    def compress(self, block: Numbers) -> bytes:
        """A block as the file has it: differences along its rows, compressed."""
        encode = imagecodecs.floatpred_encode if self.predictor == FLOATING_POINT else imagecodecs.delta_encode
        differences: Any = encode(block, axis=-1)  # told to take bytes only, it takes every buffer
        return bytes(imagecodecs.zstd_encode(differences, level=ZSTD_LEVEL))


REFLECTANCE = Storage()


def quantise(
    reflectance: NDArray[np.float32], valid: NDArray[np.bool_], out: NDArray[np.int16] | None = None
) -> NDArray[np.int16]:
    """Reflectance as stored numbers: `round(reflectance / SCALE)`, at most ±32767, NODATA where there is none.

    Parameters
    ----------
    reflectance : (band, row, col) float32, unitless; NaN is taken as invalid.
    valid : (row, col) True where usable.
    out : (band, row, col) int16 to write to, such as the one of the strip before.
    """
    dn = np.empty(reflectance.shape, np.int16) if out is None else out
    scratch = np.empty(valid.shape, np.float32)
    sunk = np.where(valid, np.float32(0), np.float32(-1e9))
    all_valid = bool(valid.all())
    for band, plane in zip(dn, reflectance, strict=True):
        np.multiply(plane, np.float32(1 / SCALE), out=scratch)
        np.rint(scratch, out=scratch)
        np.clip(scratch, -32767, 32767, out=scratch)
        if not all_valid or np.isnan(scratch).any():
            scratch += sunk
            np.fmax(scratch, NODATA, out=scratch)  # of NaN too
        np.copyto(band, scratch, casting="unsafe")
    return dn
