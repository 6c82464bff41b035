"""Names for the array types of the package."""

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating]
