"""Scratch arrays that a thread allocates once and reuses."""

import math
import threading

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ms2hs.arrays import DnArray

_buffers = threading.local()


def scratch_array(use: str, shape: tuple[int, ...], dtype: DTypeLike) -> DnArray:
    """An uninitialised array of the calling thread, valid until the thread requests the same `use` again.

    The first access to a new memory page takes longer than the arithmetic on it, hence the reuse. A buffer lives as
    long as its thread: request sizes that do not grow with the scene.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer: NDArray[np.uint8] | None = getattr(_buffers, use, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, np.uint8)
        setattr(_buffers, use, buffer)
    return buffer[:size].view(dtype).reshape(shape)
