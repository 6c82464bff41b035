"""How far an image lies from another of the same place, to a fraction of a pixel."""

from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import BoolArray, FloatArray

# Fewer pixels than this in common say too little.
FEWEST_PIXELS = 64
# At least this share of the smaller image must overlap the other at the shift that is found.
LEAST_OVERLAP = 0.5
STEPS = 10
# A step of less than this, in pixels, is the end.
SMALLEST_STEP = 0.002
# A step of more than this, in pixels, reaches beyond where an image is a straight line.
LARGEST_STEP = 0.5


@dataclass(frozen=True)
class Shift:
    """By how much an image must be moved to lie on another, in pixels."""

    row: float
    """Down."""
    col: float
    """To the right."""
    correlation: float
    """Of the two images once it is moved, over what is valid; -1 to 1."""


def shift_between(reference: FloatArray, moving: FloatArray, valid: BoolArray | None = None) -> Shift | None:
    """By how much `moving` must be moved to lie on `reference`; None where they cannot tell.

    Whole pixels come from the peak of the phase correlation, or where pixels are missing from the normalised
    cross-correlation of the rest (Padfield 2012, doi:10.1109/TIP.2011.2181402), both scikit-image's: filling holes
    instead would draw the peak to zero, as both images have them in the same place. Fractions come from the least
    squares of `reference - (gain * moved + offset)` over valid pixels, by Gauss-Newton steps (Lucas & Kanade 1981).

    Parameters
    ----------
    reference, moving : (row, col) of one shape; they may differ by a gain above 0, an offset and noise.
    valid : (row, col) True where both are usable; anything may stand elsewhere.
    """
    if reference.shape != moving.shape or reference.ndim != 2:
        raise ValueError(f"images of shape {reference.shape} and {moving.shape}; two (row, col) of one shape are due")
    usable = np.isfinite(reference) & np.isfinite(moving)
    usable = usable if valid is None else usable & valid
    if usable.sum() < FEWEST_PIXELS or min(reference.shape) < 8:
        return None
    still, other = _standard(reference, usable), _standard(moving, usable)
    if still is None or other is None:
        return None
    return _refined(still, other, usable, _whole_pixels(still, other, usable))


def _standard(image: FloatArray, usable: BoolArray) -> FloatArray | None:
    """Of mean 0 and variance 1 over usable pixels, 0 elsewhere; None where it shows nothing."""
    values = image[usable].astype(float)
    spread = values.std()
    if not spread > 1e-6 * max(1e-6, float(np.abs(values).max())):
        return None
    standard = np.zeros(image.shape)
    standard[usable] = (values - values.mean()) / spread
    return standard


def _whole_pixels(still: FloatArray, moving: FloatArray, usable: BoolArray) -> FloatArray:
    from skimage.registration import phase_cross_correlation  # noqa: PLC0415  slow to import, comes with ms2hs[train]

    if usable.all():
        taper = np.outer(*(np.hanning(size + 2)[1:-1] for size in still.shape))
        # Not divided by the amplitudes: that gives noise the same weight as what the images show.
        found = phase_cross_correlation(still * taper, moving * taper, normalization=None)
    else:
        found = phase_cross_correlation(
            still, moving, reference_mask=usable, moving_mask=usable, overlap_ratio=LEAST_OVERLAP
        )
    return np.asarray(found[0], float)


def _refined(still: FloatArray, moving: FloatArray, usable: BoolArray, shift: FloatArray) -> Shift | None:
    correlation = -1.0
    for _ in range(STEPS):
        moved, there = _moved(moving, usable, shift)
        common = _inner(there) & usable
        if common.sum() < FEWEST_PIXELS:
            return None
        along_rows, along_cols = (np.asarray(np.gradient(moved, axis=axis)) for axis in (0, 1))
        # Moving by a bit more changes the image by minus its slope: reference = gain (moved - slope step) + offset.
        parts = (-along_rows[common], -along_cols[common], moved[common], np.ones(common.sum()))
        (down, right, gain, _), *_ = np.linalg.lstsq(np.stack(parts, axis=1), still[common], rcond=None)
        correlation = _correlation(still[common], moved[common])
        if not gain > 0:
            break
        step = np.clip(np.array([down, right]) / gain, -LARGEST_STEP, LARGEST_STEP)
        shift = shift + step
        if np.abs(step).max() < SMALLEST_STEP:
            break
    row, col = shift.tolist()
    return Shift(row, col, correlation)


def _moved(image: FloatArray, usable: BoolArray, shift: FloatArray) -> tuple[FloatArray, BoolArray]:
    """The image moved by `shift`, and where it is made of usable pixels of it alone."""
    from skimage.transform import EuclideanTransform, warp  # noqa: PLC0415

    back = EuclideanTransform(translation=-shift[::-1])
    moved = warp(image, back, order=3, mode="edge")
    there = warp(usable.astype(float), back, order=1, mode="constant", cval=0.0)
    return np.asarray(moved), np.asarray(there) > 1 - 1e-6


def _inner(there: BoolArray) -> BoolArray:
    """Where the four neighbours are there too, without the border: slopes are taken across them."""
    inner = np.zeros_like(there)
    inner[1:-1, 1:-1] = there[1:-1, 1:-1] & there[:-2, 1:-1] & there[2:, 1:-1] & there[1:-1, :-2] & there[1:-1, 2:]
    return inner


def _correlation(first: FloatArray, second: FloatArray) -> float:
    first, second = first - first.mean(), second - second.mean()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / length if length > 0 else 0.0
