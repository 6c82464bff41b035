"""How far spectra are from the truth. Unknown truth is NaN and counts nowhere."""

import numpy as np

from ms2hs.spectra.grid import FloatArray

# Half the width of a Gaussian's central 90 % in standard deviations.
NORMAL_90 = 1.645


def rmse(estimate: FloatArray, truth: FloatArray) -> float:
    """Root mean square error in the unit of the arrays, over all values known in both; NaN if there are none."""
    difference = np.asarray(estimate, float) - np.asarray(truth, float)
    known = np.isfinite(difference)
    return float(np.sqrt(np.mean(difference[known] ** 2))) if known.any() else float("nan")


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
