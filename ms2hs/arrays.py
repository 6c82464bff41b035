"""Names for the array types of the package."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating]
DnArray = NDArray[Any]
"""Stored numbers: integers or floats of any width, as a file holds them."""
