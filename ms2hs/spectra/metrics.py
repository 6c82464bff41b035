"""How far spectra are from the truth. Unknown truth is NaN and counts nowhere."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ms2hs.arrays import BoolArray, FloatArray

# Half the width of a Gaussian's central 90 % in standard deviations.
NORMAL_90 = 1.645
# Side of the windows in which structural similarity is measured.
SSIM_PIXELS = 7


def rmse(estimate: FloatArray, truth: FloatArray) -> float:
    """Root mean square error in the unit of the arrays, over all values known in both; NaN if there are none."""
    difference = np.asarray(estimate, float) - np.asarray(truth, float)
    known = np.isfinite(difference)
    return float(np.sqrt(np.mean(difference[known] ** 2))) if known.any() else float("nan")


def mse(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean square error over all values known in both; NaN if there are none."""
    return rmse(estimate, truth) ** 2


def bias(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean of estimate minus truth, over all values known in both; NaN if there are none."""
    difference = np.asarray(estimate, float) - np.asarray(truth, float)
    known = np.isfinite(difference)
    return float(difference[known].mean()) if known.any() else float("nan")


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean square error, -10 log10(MSE): the peak is a reflectance of 1.

    Not the range of each image, which some take and which makes ratios of two scenes incomparable. Infinite for 0.
    """
    if error == 0:
        return float("inf")
    return float(-10 * np.log10(error))


def ergas(rmse_of_band: FloatArray, mean_of_band: FloatArray) -> float:
    """Wald's (2000) relative dimensionless global error with a resolution ratio of 1.

    100 sqrt(mean over bands of (RMSE / mean of the truth)²), so that 0 is perfect and a uniform error of 10 % is 10.
    With a ratio h / l of pixel sizes it would be multiplied by it; both of ours are on one grid. (torchmetrics
    multiplies by the `ratio` that it is given.) Bands whose mean is unknown or not above 0 are left out; NaN if all.

    Parameters
    ----------
    rmse_of_band, mean_of_band : (band,) NaN where unknown.
    """
    known = np.isfinite(rmse_of_band) & (mean_of_band > 0)
    if not known.any():
        return float("nan")
    return float(100 * np.sqrt(np.mean(np.square(rmse_of_band[known] / mean_of_band[known]))))


def r2(error_of_band: FloatArray, variation_of_band: FloatArray) -> float:
    """Coefficient of determination: mean over bands of 1 - SSE / SST.

    Bands that do not vary have none and are left out; NaN if all.

    Parameters
    ----------
    error_of_band : (band,) sum of squared errors.
    variation_of_band : (band,) sum of squared deviations of the truth from its mean.
    """
    known = variation_of_band > 0
    if not known.any():
        return float("nan")
    return float(np.mean(1 - error_of_band[known] / variation_of_band[known]))


def ssim(estimate: FloatArray, truth: FloatArray, valid: BoolArray) -> float:
    """Structural similarity of images (band, row, col): mean over bands and over all valid windows of 7 by 7 pixels.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861, with uniform windows and a data range of 1: reflectance of 0-1, not
    the range of each image. NaN where no window is all valid.

    Parameters
    ----------
    valid : (row, col); anything may stand in the others.
    """
    from skimage.metrics import structural_similarity  # noqa: PLC0415  comes with ms2hs[train]

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

    NaN where one of the spectra is zero or has no known band: such a spectrum has no direction (Kruse et al. 1993,
    doi:10.1016/0034-4257(93)90013-N). Computed by arctan2 of the unit vectors, exact also for tiny angles, where
    arccos loses half of the digits.
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
    """Median spectral angle in degrees of spectra (band, ...); NaN if none has a direction."""
    angle = spectral_angle(estimate, truth)
    defined = np.isfinite(angle)
    return float(np.median(angle[defined])) if defined.any() else float("nan")


def sam_mean(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean spectral angle in degrees of spectra (band, ...), zero ones left out; NaN if none has a direction."""
    angle = spectral_angle(estimate, truth)
    defined = np.isfinite(angle)
    return float(angle[defined].mean()) if defined.any() else float("nan")


def coverage(estimate: FloatArray, sigma: FloatArray, truth: FloatArray, factor: float = NORMAL_90) -> float:
    """Share, 0-1, of known values within `estimate ± factor * sigma`; NORMAL_90 is the 90 % interval of a Gaussian."""
    excess = np.abs(np.asarray(estimate, float) - np.asarray(truth, float)) - factor * np.asarray(sigma, float)
    known = np.isfinite(excess)
    return float(np.mean(excess[known] <= 0)) if known.any() else float("nan")


def band_depth(
    reflectance: FloatArray, wavelength_nm: FloatArray, feature_nm: tuple[float, float, float]
) -> FloatArray:
    """(...) depth of an absorption feature below the line between its shoulders: 1 - R(centre) / R(line).

    Clark & Roush 1984, doi:10.1029/JB089iB07p06329. Each of the three is the band nearest to it.

    Parameters
    ----------
    reflectance : (band, ...).
    feature_nm : left shoulder, centre, right shoulder, in nm.
    """
    left, centre, right = (int(np.argmin(np.abs(wavelength_nm - nm))) for nm in feature_nm)
    share = (wavelength_nm[centre] - wavelength_nm[left]) / (wavelength_nm[right] - wavelength_nm[left])
    line = (1 - share) * reflectance[left] + share * reflectance[right]
    depth: FloatArray = 1 - reflectance[centre] / np.where(np.abs(line) > 1e-4, line, np.nan)
    return depth
