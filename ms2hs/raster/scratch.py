"""Memory that a thread takes once and uses again: a new page costs more than what is done with its numbers."""

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_own = threading.local()


def reused(use: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Room with anything in it, this thread's own, and only until it asks for the same use again.

    It is held as long as the thread is, so for sizes that a task has, none that a scene has.
    """
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    held: NDArray[np.uint8] | None = getattr(_own, use, None)
    if held is None or held.size < needed:
        held = np.empty(needed, np.uint8)
        setattr(_own, use, held)
    return held[:needed].view(dtype).reshape(shape)
