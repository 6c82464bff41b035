"""Co-registration: the shift between two images of the same ground, to a fraction of a pixel."""

from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import BoolArray, FloatArray

# Common pixels below which no shift is measured.
MIN_COMMON_PIXELS = 64
MIN_SIDE = 8
# Share of the smaller image that must overlap the larger image at the measured shift.
MIN_SHIFTED_OVERLAP = 0.5
MAX_STEPS = 10
# In pixels: the iteration ends at steps below the first; steps are clipped to the second, since images are not linear.
MIN_STEP, MAX_STEP = 0.002, 0.5


@dataclass(frozen=True)
class Shift:
    """The movement, in pixels, that brings an image onto another one."""

    row: float
    """Positive = down."""
    col: float
    """Positive = to the right."""
    correlation: float
    """Correlation of the images over valid pixels after the movement, -1 to 1."""


def shift_between(reference: FloatArray, moving: FloatArray, valid: BoolArray | None = None) -> Shift | None:
    """The shift that brings `moving` onto `reference`; None if there are too few pixels or too little contrast.

    Whole pixels: peak of the cross-correlation, or with missing pixels the normalised cross-correlation of the rest
    (Padfield 2012, doi:10.1109/TIP.2011.2181402), both from scikit-image. Filling the gaps instead would draw the peak
    to zero, as both images have them at the same pixels. Fractions: least squares of
    `reference - (gain * moved + offset)` over valid pixels, by Gauss-Newton steps (Lucas & Kanade 1981).

    Parameters
    ----------
    reference, moving : (row, col) of one shape; they may differ by a gain above 0, an offset and noise.
    valid : (row, col) True where both are usable; other values are ignored.
    """
    if reference.shape != moving.shape or reference.ndim != 2:
        raise ValueError(f"images of shape {reference.shape} and {moving.shape}; one (row, col) shape is needed")
    usable = np.isfinite(reference) & np.isfinite(moving)
    usable = usable if valid is None else usable & valid
    if usable.sum() < MIN_COMMON_PIXELS or min(reference.shape) < MIN_SIDE:
        return None
    fixed, other = _standardise(reference, usable), _standardise(moving, usable)
    if fixed is None or other is None:
        return None
    return _refine(fixed, other, usable, _whole_pixel_shift(fixed, other, usable))


def _standardise(image: FloatArray, usable: BoolArray) -> FloatArray | None:
    """(row, col) with mean 0 and variance 1 over usable pixels, 0 elsewhere; None for an even image."""
    values = image[usable].astype(float)
    spread = values.std()
    if not spread > 1e-6 * max(1e-6, float(np.abs(values).max())):
        return None
    standard = np.zeros(image.shape)
    standard[usable] = (values - values.mean()) / spread
    return standard


def _whole_pixel_shift(fixed: FloatArray, moving: FloatArray, usable: BoolArray) -> FloatArray:
    from skimage.registration import phase_cross_correlation  # noqa: PLC0415  slow to import, comes with ms2hs[train]

    if usable.all():
        taper = np.outer(*(np.hanning(size + 2)[1:-1] for size in fixed.shape))
        # Without division by the amplitudes, which would give noise the same weight as the signal.
        shift, *_ = phase_cross_correlation(fixed * taper, moving * taper, normalization=None)
    else:
        shift, *_ = phase_cross_correlation(
            fixed, moving, reference_mask=usable, moving_mask=usable, overlap_ratio=MIN_SHIFTED_OVERLAP
        )
    return np.asarray(shift, float)


def _refine(fixed: FloatArray, moving: FloatArray, usable: BoolArray, shift: FloatArray) -> Shift | None:
    correlation = -1.0
    for _ in range(MAX_STEPS):
        moved, moved_usable = _move(moving, usable, shift)
        common = _without_edges(moved_usable) & usable
        if common.sum() < MIN_COMMON_PIXELS:
            return None
        along_rows, along_cols = (np.asarray(np.gradient(moved, axis=axis)) for axis in (0, 1))
        # A further small step changes the image by minus its slope: reference = gain (moved - slope step) + offset.
        parts = (-along_rows[common], -along_cols[common], moved[common], np.ones(common.sum()))
        (down, right, gain, _), *_ = np.linalg.lstsq(np.stack(parts, axis=1), fixed[common], rcond=None)
        correlation = _correlation(fixed[common], moved[common])
        if not gain > 0:
            break
        step = np.clip(np.array([down, right]) / gain, -MAX_STEP, MAX_STEP)
        shift = shift + step
        if np.abs(step).max() < MIN_STEP:
            break
    row, col = shift.tolist()
    return Shift(row, col, correlation)


def _move(image: FloatArray, usable: BoolArray, shift: FloatArray) -> tuple[FloatArray, BoolArray]:
    """The image moved by `shift`, and (row, col) True where it was interpolated from usable pixels alone."""
    from skimage.transform import EuclideanTransform, warp  # noqa: PLC0415

    back = EuclideanTransform(translation=-shift[::-1])
    moved = warp(image, back, order=3, mode="edge")
    moved_usable = warp(usable.astype(float), back, order=1, mode="constant", cval=0.0)
    return np.asarray(moved), np.asarray(moved_usable) > 1 - 1e-6


def _without_edges(usable: BoolArray) -> BoolArray:
    """(row, col) True where the four neighbours, which slopes are taken across, are usable too."""
    inner = np.zeros_like(usable)
    inner[1:-1, 1:-1] = usable[1:-1, 1:-1] & usable[:-2, 1:-1] & usable[2:, 1:-1] & usable[1:-1, :-2] & usable[1:-1, 2:]
    return inner


def _correlation(first: FloatArray, second: FloatArray) -> float:
    first, second = first - first.mean(), second - second.mean()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / length if length > 0 else 0.0
