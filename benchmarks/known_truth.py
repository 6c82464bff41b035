"""Scenes whose truth is known whole, and how the prior does on them: what its estimation is judged by."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import FloatArray
from ms2hs.datasets.cubes.spectra_npz import read_corpus, spectra_on
from ms2hs.models.prior import TYPICAL_INPUT_ERROR, Posterior
from ms2hs.spectra.metrics import coverage, rmse, sam
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix


@dataclass(frozen=True, eq=False)
class TruthScene:
    """A scene of which both are known: what a source sensor would measure, and what a target sensor would."""

    name: str
    family: str
    shape: tuple[int, ...]
    """How the pixels lie: (row, col) for an image."""
    measured: NDArray[np.float32]
    """(source band, pixel)."""
    truth: NDArray[np.float32]
    """(target band, pixel) NaN where the scene's own sensor has no good band."""
    known: NDArray[np.bool_]
    """(target band,) which are really known."""
    spectra: NDArray[np.float32]
    """(pixel, own band) as the scene's own sensor measured them."""
    wavelength_nm: FloatArray
    """(own band,) ascending."""


@dataclass(frozen=True)
class Score:
    """How well one scene was reconstructed, over its pixels and known bands."""

    rmse: float
    sam: float
    """Median over pixels, degrees."""
    coverage: float = float("nan")
    """Share of values within the 90 % interval; NaN where the estimate has none."""
    residual: float = float("nan")
    """RMSE between the source's bands and the same bands computed from the reconstruction."""


def read_scene(path: Path, source: SpectralGrid, target: SpectralGrid) -> TruthScene:
    """A cube as both sensors see it; pixels with an unknown value are left out, and then `shape` is (pixel,).

    Raises
    ------
    DataError : not a cube that can be read.
    """
    corpus = read_corpus(path)
    measured, _ = spectra_on(corpus, source, interpolate=True)
    truth, known = spectra_on(corpus, target)
    whole = np.isfinite(measured).all(axis=1) & np.isfinite(truth[:, known]).all(axis=1)
    return TruthScene(
        name=corpus.name,
        family=corpus.family,
        shape=corpus.shape if whole.all() else (int(whole.sum()),),
        measured=np.ascontiguousarray(measured[whole].T),
        truth=np.ascontiguousarray(truth[whole].T),
        known=known,
        spectra=corpus.reflectance[whole],
        wavelength_nm=corpus.wavelength_nm,
    )


def score(estimate: FloatArray, scene: TruthScene, pixels: slice | NDArray[np.generic] = slice(None)) -> Score:
    """Errors of an estimate (target band, pixel) of some pixels of the scene."""
    truth = scene.truth[scene.known][:, pixels]
    return Score(rmse(estimate[scene.known], truth), sam(estimate[scene.known], truth))


def score_prior(
    conditional: Posterior,
    scene: TruthScene,
    *,
    measured: NDArray[np.float32] | None = None,
    to_source: FloatArray | None = None,
    pixels: slice | NDArray[np.generic] = slice(None),
) -> Score:
    """All scores of the prior on some pixels of a scene.

    Parameters
    ----------
    measured : (source band, pixel) instead of the scene's own, such as with noise; of all pixels.
    to_source : (source band, target band) the source's response at the target's bands; without it no residual.
    """
    seen = np.ascontiguousarray((scene.measured if measured is None else measured)[:, pixels])
    estimate = conditional.reconstruct(seen)
    plain = score(estimate, scene, pixels)
    truth = scene.truth[scene.known][:, pixels]
    inside = coverage(estimate[scene.known], conditional.sigma(seen)[scene.known], truth)
    residual = float("nan") if to_source is None else rmse(to_source @ estimate, seen)
    return Score(plain.rmse, plain.sam, inside, residual)


def score_references(
    conditional: Posterior, scene: TruthScene, count: int, draws: int, rng: np.random.Generator
) -> Score:
    """Mean scores of the prior corrected by `count` random pixels of the scene, which are not scored."""
    found = []
    for _ in range(draws):
        chosen = rng.choice(scene.measured.shape[1], count, replace=False)
        others = np.delete(np.arange(scene.measured.shape[1]), chosen)
        corrected = conditional.with_references(scene.measured[:, chosen].T, scene.truth[:, chosen].T)
        found.append(score_prior(corrected, scene, pixels=others))
    return mean_score(found)


def mean_score(scores: list[Score]) -> Score:
    """The mean of each number."""
    return Score(*(float(np.mean([getattr(one, name) for one in scores])) for name in Score.__dataclass_fields__))


def perturbed(measured: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(source band, pixel) with the errors of a real product: gain and offset per band, noise per pixel."""
    bands = (len(measured), 1)
    gain, offset = (
        1 + TYPICAL_INPUT_ERROR.gain * rng.standard_normal(bands),
        TYPICAL_INPUT_ERROR.offset * rng.standard_normal(bands),
    )
    noise = TYPICAL_INPUT_ERROR.pixel * rng.standard_normal(measured.shape)
    return (measured * gain + offset + noise).astype(np.float32)


def halves(shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(pixel,) bool of the upper and of the lower half of an image."""
    upper = np.zeros(shape, bool)
    upper[: shape[0] // 2] = True
    return upper.ravel(), ~upper.ravel()


def score_site(scene: TruthScene, condition: Callable[[NDArray[np.bool_] | None], Posterior]) -> tuple[Score, Score]:
    """Scores of each half of an image without, and with, the other half as a site: means over both halves.

    Parameters
    ----------
    condition : the conditional of the prior sharpened by these pixels; by none, where None.
    """
    plain, sharp = [], []
    without = condition(None)
    for half in halves(scene.shape):
        plain.append(score_prior(without, scene, pixels=~half))
        sharp.append(score_prior(condition(half), scene, pixels=~half))
    return mean_score(plain), mean_score(sharp)


def response_of(source: SpectralGrid, target: SpectralGrid) -> FloatArray:
    """(source band, target band) what the source would measure of a spectrum known at the target's bands."""
    return response_matrix(source, target.wavelength_nm)
