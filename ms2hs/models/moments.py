"""Second moments of spectra with unknown wavelengths, and their completion.

The moments of spectra with the same unknown wavelengths are summed once. Sets can then be left out at no cost, and the
expectation-maximisation of a Gaussian with missing values (Little & Rubin 2002, ch. 8 and 11) needs only these sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.spectra.library import by_pattern


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean outer product of brightness-scaled spectra at their known wavelengths."""

    known: BoolArray
    """(wavelength,) True where the spectra have values."""
    second: FloatArray
    """(known, known) float64, unitless."""
    weight: float
    """Weight of the set in a sum of sets."""


def scale_of(brightness: FloatArray, floor: float) -> FloatArray:
    """Divisor of spectra that makes errors relative to brightness, with less weight on dark spectra."""
    scale: FloatArray = np.sqrt(np.square(brightness) + floor**2)
    return scale


def moments_of(spectra: FloatArray, scale: FloatArray, weights: FloatArray, total: float) -> Iterator[Moments]:
    """Moments of spectra (spectrum, wavelength), NaN = unknown: one set for each pattern of unknown wavelengths.

    Parameters
    ----------
    scale, weights : (spectrum,) divisor and relative weight of each spectrum.
    total : the sum of the weights of the sets.
    """
    share = weights * (total / weights.sum())
    for known, members in by_pattern(np.isfinite(spectra)):
        rows = members[weights[members] > 0]
        if not len(rows) or not known.any():
            continue
        weight = float(share[rows].sum())
        scaled = spectra[np.ix_(rows, known)] * (np.sqrt(share[rows] / weight) / scale[rows])[:, None]
        yield Moments(known, scaled.T.astype(float) @ scaled.astype(float), weight)


def expect(spectra: FloatArray, model: FloatArray, noise: float) -> FloatArray:
    """Spectra (spectrum, wavelength) of scale about 1 with each NaN replaced by the expectation of `model`."""
    result = np.array(spectra, float)
    for known, rows in by_pattern(np.isfinite(spectra)):
        if known.all() or not known.any():
            continue
        seen = model[np.ix_(known, known)] + noise**2 * np.eye(int(known.sum()))
        gain = np.linalg.solve(seen, model[np.ix_(known, ~known)])
        result[np.ix_(rows, ~known)] = result[np.ix_(rows, known)] @ gain
    return result


def complete(moments: Moments, model: FloatArray, noise: float) -> FloatArray:
    """(wavelength, wavelength) the moments, completed where unknown by the expectation of `model` and its uncertainty.

    Parameters
    ----------
    model : (wavelength, wavelength) second moment of all kinds of spectra.
    noise : standard deviation of the known values, relative to brightness.
    """
    known, unknown = np.flatnonzero(moments.known), np.flatnonzero(~moments.known)
    if not len(unknown):
        return moments.second
    seen = model[np.ix_(known, known)] + noise**2 * np.eye(len(known))
    across = model[np.ix_(known, unknown)]
    gain = np.linalg.solve(seen, across).T
    result = np.empty_like(model)
    expected = gain @ moments.second
    result[np.ix_(known, known)] = moments.second
    result[np.ix_(unknown, known)] = expected
    result[np.ix_(known, unknown)] = expected.T
    result[np.ix_(unknown, unknown)] = expected @ gain.T + model[np.ix_(unknown, unknown)] - gain @ across
    return result


def start(sets: Sequence[Moments], noise: float) -> FloatArray:
    """Initial second moment for `pool`: of the set with the most known wavelengths, held constant beyond them."""
    furthest = max(sets, key=lambda part: (part.known.sum(), part.weight))
    known = np.flatnonzero(furthest.known)
    nearest = np.abs(np.arange(len(furthest.known))[:, None] - known).argmin(axis=1)
    return furthest.second[np.ix_(nearest, nearest)] + noise**2 * np.eye(len(nearest))


def pool(sets: Sequence[Moments], model: FloatArray, noise: float, iterations: int) -> FloatArray:
    """(wavelength, wavelength) weighted second moment of all sets: expectation-maximisation from an initial `model`."""
    total = sum(part.weight for part in sets)
    groups = by_pattern(np.array([part.known for part in sets]))  # completion is linear, and costs most
    merged = [_merge([sets[row] for row in rows]) for _, rows in groups]
    for _ in range(iterations):
        updated = np.zeros_like(model)
        for part in merged:
            updated += (part.weight / total) * complete(part, model, noise)
        model = (updated + updated.T) / 2
    return model


def _merge(sets: Sequence[Moments]) -> Moments:
    """The sum of sets with the same known wavelengths."""
    weight = sum(part.weight for part in sets)
    second = sum((part.weight * part.second for part in sets), np.zeros(1)) / (weight or 1)
    return replace(sets[0], second=second, weight=weight)
