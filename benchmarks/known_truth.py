"""Scenes with known truth, and scores of the prior on them: the evaluation behind the prior's settings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import FloatArray
from ms2hs.datasets.cubes.spectra_npz import read_spectra, spectra_on
from ms2hs.models.prior import TYPICAL_INPUT_ERROR, Posterior
from ms2hs.spectra.metrics import coverage, rmse, sam
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix


@dataclass(frozen=True, eq=False)
class TruthScene:
    """A scene with the bands of a source sensor, simulated, and the bands of a target sensor, as truth."""

    name: str
    place: str
    shape: tuple[int, ...]
    """(row, col) for an image, or (pixel,)."""
    measured: NDArray[np.float32]
    """(source band, pixel)."""
    truth: NDArray[np.float32]
    """(target band, pixel) NaN where the scene's own sensor has no good band."""
    known: NDArray[np.bool_]
    """(target band,) True where the scene's own sensor measured the band."""
    spectra: NDArray[np.float32]
    """(pixel, own band) measured by the scene's own sensor."""
    wavelength_nm: FloatArray
    """(own band,) ascending."""


@dataclass(frozen=True)
class Score:
    """Scores of one scene, over its pixels and known bands."""

    rmse: float
    sam: float
    """Median over pixels, degrees."""
    coverage: float = float("nan")
    """Share of values within the 90 % interval; NaN for an estimate without intervals."""
    residual: float = float("nan")
    """RMSE between the source's bands and the same bands computed from the reconstruction."""


def read_scene(path: Path, source: SpectralGrid, target: SpectralGrid) -> TruthScene:
    """A cube as a `TruthScene`; pixels with an unknown value are left out, and `shape` is then (pixel,).

    Raises
    ------
    DataError : the cube cannot be read.
    """
    corpus = read_spectra(path)
    measured, _ = spectra_on(corpus, source, interpolate=True)
    truth, known = spectra_on(corpus, target)
    whole = np.isfinite(measured).all(axis=1) & np.isfinite(truth[:, known]).all(axis=1)
    return TruthScene(
        name=corpus.name,
        place=corpus.place,
        shape=corpus.shape if whole.all() else (int(whole.sum()),),
        measured=np.ascontiguousarray(measured[whole].T),
        truth=np.ascontiguousarray(truth[whole].T),
        known=known,
        spectra=corpus.reflectance[whole],
        wavelength_nm=corpus.wavelength_nm,
    )


def score(estimate: FloatArray, scene: TruthScene, pixels: slice | NDArray[np.generic] = slice(None)) -> Score:
    """RMSE and SAM of an estimate (target band, pixel) of some pixels of the scene."""
    truth = scene.truth[scene.known][:, pixels]
    return Score(rmse(estimate[scene.known], truth), sam(estimate[scene.known], truth))


def score_prior(
    posterior: Posterior,
    scene: TruthScene,
    *,
    measured: NDArray[np.float32] | None = None,
    to_source: FloatArray | None = None,
    pixels: slice | NDArray[np.generic] = slice(None),
) -> Score:
    """All scores of the prior on some pixels of a scene.

    Parameters
    ----------
    measured : (source band, pixel) input in place of the scene's own, such as with noise; all pixels.
    to_source : (source band, target band) the source's response at the target's bands; None: no residual.
    """
    seen = np.ascontiguousarray((scene.measured if measured is None else measured)[:, pixels])
    estimate = posterior.reconstruct(seen)
    plain = score(estimate, scene, pixels)
    truth = scene.truth[scene.known][:, pixels]
    inside = coverage(estimate[scene.known], posterior.sigma(seen)[scene.known], truth)
    residual = float("nan") if to_source is None else rmse(to_source @ estimate, seen)
    return Score(plain.rmse, plain.sam, inside, residual)


def score_references(
    posterior: Posterior, scene: TruthScene, count: int, draws: int, rng: np.random.Generator
) -> Score:
    """Mean scores of the prior corrected by `count` random pixels of the scene, which are not scored."""
    scores = []
    for _ in range(draws):
        chosen = rng.choice(scene.measured.shape[1], count, replace=False)
        others = np.delete(np.arange(scene.measured.shape[1]), chosen)
        corrected = posterior.with_references(scene.measured[:, chosen].T, scene.truth[:, chosen].T)
        scores.append(score_prior(corrected, scene, pixels=others))
    return mean_score(scores)


def mean_score(scores: list[Score]) -> Score:
    """Mean of each score."""
    return Score(*(float(np.mean([getattr(one, name) for one in scores])) for name in Score.__dataclass_fields__))


def perturbed(measured: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(source band, pixel) with the typical errors of a product: gain and offset per band, noise per pixel."""
    bands = (len(measured), 1)
    gain, offset = (
        1 + TYPICAL_INPUT_ERROR.gain * rng.standard_normal(bands),
        TYPICAL_INPUT_ERROR.offset * rng.standard_normal(bands),
    )
    noise = TYPICAL_INPUT_ERROR.pixel * rng.standard_normal(measured.shape)
    return (measured * gain + offset + noise).astype(np.float32)


def halves(shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(pixel,) bool for the upper and the lower half of an image."""
    upper = np.zeros(shape, bool)
    upper[: shape[0] // 2] = True
    return upper.ravel(), ~upper.ravel()


def score_site(
    scene: TruthScene, plain: Posterior, fitted: Callable[[NDArray[np.bool_]], Posterior]
) -> tuple[Score, Score]:
    """Scores of an image's halves without and with the other half as a site: means over both halves.

    Parameters
    ----------
    fitted : the posterior fitted to these pixels as a site, for the other pixels.
    """
    pairs = [
        (score_prior(plain, scene, pixels=~half), score_prior(fitted(half), scene, pixels=~half))
        for half in halves(scene.shape)
    ]
    without, with_site = zip(*pairs, strict=True)
    return mean_score(list(without)), mean_score(list(with_site))


def response_of(source: SpectralGrid, target: SpectralGrid) -> FloatArray:
    """(source band, target band) response of the source's bands at the target's wavelengths."""
    return response_matrix(source, target.wavelength_nm)
