"""Error metrics between predicted and true spectra. Unknown values are NaN and are ignored."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ms2hs.arrays import BoolArray, FloatArray

# Half-width of the central 90 % of a Gaussian, in standard deviations.
NORMAL_90 = 1.645
# Resampled sets of places behind an interval.
BOOTSTRAPS = 10_000
# Side of the windows of structural similarity, in pixels.
SSIM_PIXELS = 7


def rmse(estimate: FloatArray, truth: FloatArray) -> float:
    """Root mean square error in the unit of the arrays, over all values known in both; NaN without such values."""
    errors = np.asarray(estimate, float) - np.asarray(truth, float)
    known = errors[np.isfinite(errors)]
    return float(np.sqrt(np.mean(known**2))) if known.size else float("nan")


def ratio_interval(values: FloatArray, others: FloatArray, level: float = 0.95) -> tuple[float, float]:
    """Ends of the bootstrap interval of mean(values) / mean(others) over places, drawn with replacement (percentiles).

    Parameters
    ----------
    values, others : (place,).

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    drawn = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAPS, len(values)))
    ratios = values[drawn].mean(axis=1) / others[drawn].mean(axis=1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean square error, -10 log10(MSE); infinite for 0.

    The peak is a reflectance of 1. Other definitions use each image's range, which makes scenes incomparable.
    """
    return float(-10 * np.log10(error)) if error else float("inf")


def ergas(rmse_of_band: FloatArray, mean_of_band: FloatArray) -> float:
    """Relative dimensionless global error of Wald (2000), with a resolution ratio of 1; NaN without a usable band.

    100 sqrt(mean over bands of (RMSE / mean of the truth)²): 0 is perfect, a uniform error of 10 % is 10. Wald
    multiplies by the ratio h / l of pixel sizes; here both images are on one grid. Bands whose mean is unknown or not
    above 0 are ignored.

    Parameters
    ----------
    rmse_of_band, mean_of_band : (band,) NaN = unknown.
    """
    known = np.isfinite(rmse_of_band) & (mean_of_band > 0)
    relative = rmse_of_band[known] / mean_of_band[known]
    return float(100 * np.sqrt(np.mean(np.square(relative)))) if known.any() else float("nan")


def r2(error_of_band: FloatArray, variation_of_band: FloatArray) -> float:
    """Coefficient of determination: mean over the bands that vary of 1 - SSE / SST; NaN without such a band.

    Parameters
    ----------
    error_of_band : (band,) sum of squared errors.
    variation_of_band : (band,) sum of squared deviations of the truth from its mean.
    """
    known = variation_of_band > 0
    return float(np.mean(1 - error_of_band[known] / variation_of_band[known])) if known.any() else float("nan")


def ssim(estimate: FloatArray, truth: FloatArray, valid: BoolArray) -> float:
    """Structural similarity of images (band, row, col): mean over bands and over all valid windows of 7 by 7 pixels.

    Uniform windows, and a data range of 1 (reflectance 0-1, not the range of each image). NaN without a valid window.

    Parameters
    ----------
    valid : (row, col); windows with an invalid pixel are ignored.

    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    from skimage.metrics import structural_similarity  # noqa: PLC0415  installed by ms2hs[train]

    whole = np.zeros(valid.shape, bool)
    if min(valid.shape) >= SSIM_PIXELS:
        inner = slice(SSIM_PIXELS // 2, -(SSIM_PIXELS // 2))
        whole[inner, inner] = sliding_window_view(valid, (SSIM_PIXELS, SSIM_PIXELS)).all(axis=(2, 3))
    if not whole.any():
        return float("nan")
    images = (np.where(valid, np.asarray(image, float), 0.0) for image in (estimate, truth))
    _, similar = structural_similarity(
        *images, win_size=SSIM_PIXELS, data_range=1.0, channel_axis=0, full=True, gaussian_weights=False
    )
    return float(similar[:, whole].mean())


def spectral_angle(estimate: FloatArray, truth: FloatArray) -> FloatArray:
    """(...) angle in degrees between spectra (band, ...), over the bands known in both.

    NaN if a spectrum is zero or has no known band, because it has no direction. Computed by arctan2 of unit vectors:
    for tiny angles, arccos loses half of the digits.

    Source: Kruse et al. 1993, doi:10.1016/0034-4257(93)90013-N.
    """
    first, second = np.asarray(estimate, float), np.asarray(truth, float)
    known = np.isfinite(first) & np.isfinite(second)
    first, second = np.where(known, first, 0.0), np.where(known, second, 0.0)
    lengths = np.linalg.norm(first, axis=0), np.linalg.norm(second, axis=0)
    defined = (lengths[0] > 0) & (lengths[1] > 0)
    first = first / np.where(defined, lengths[0], 1.0)
    second = second / np.where(defined, lengths[1], 1.0)
    apart, together = np.linalg.norm(first - second, axis=0), np.linalg.norm(first + second, axis=0)
    angle: FloatArray = np.where(defined, np.degrees(2 * np.arctan2(apart, together)), np.nan)
    return angle


def sam(estimate: FloatArray, truth: FloatArray) -> float:
    """Median spectral angle in degrees of spectra (band, ...); NaN if no spectrum has a direction."""
    angle = spectral_angle(estimate, truth)
    defined = np.isfinite(angle)
    return float(np.median(angle[defined])) if defined.any() else float("nan")


def coverage(estimate: FloatArray, sigma: FloatArray, truth: FloatArray, factor: float = NORMAL_90) -> float:
    """Share (0-1) of known values within `estimate ± factor * sigma`; `NORMAL_90` means a Gaussian 90 % interval."""
    excess = np.abs(np.asarray(estimate, float) - np.asarray(truth, float)) - factor * np.asarray(sigma, float)
    known = np.isfinite(excess)
    return float(np.mean(excess[known] <= 0)) if known.any() else float("nan")


def band_depth(
    reflectance: FloatArray, wavelength_nm: FloatArray, feature_nm: tuple[float, float, float]
) -> FloatArray:
    """(...) depth of an absorption feature below the line between its shoulders: 1 - R(centre) / R(line).

    Parameters
    ----------
    reflectance : (band, ...).
    feature_nm : left shoulder, centre, right shoulder, in nm; the nearest band represents each.

    Source: Clark & Roush 1984, doi:10.1029/JB089iB07p06329.
    """
    left, centre, right = (int(np.argmin(np.abs(wavelength_nm - nm))) for nm in feature_nm)
    share = (wavelength_nm[centre] - wavelength_nm[left]) / (wavelength_nm[right] - wavelength_nm[left])
    line = (1 - share) * reflectance[left] + share * reflectance[right]
    depth: FloatArray = 1 - reflectance[centre] / np.where(np.abs(line) > 1e-4, line, np.nan)
    return depth
