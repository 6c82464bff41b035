"""`ms2hs pretrain --cross-fit`: scaling of a network's correction and uncertainty, by cross-validation over places.

Places are dealt to folds. A network and a prior are trained again without all places of a fold, and applied to these
places. Two curves over the wavelength are fitted to these predictions: `share`, the factor on the network's correction
of the prior, and `sigma_scale`, the factor on its uncertainty. Each place is scored with the curves of other places.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.pairs.pair_sampling import HeldOutWindow, Kind, held_out_windows
from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.errors import DataError, WeightsError
from ms2hs.inference.predictor import Predictor
from ms2hs.models.intervals import scale_needed
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.progress import FitProgress
from ms2hs.spectra.metrics import coverage, ratio_interval, rmse
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR, InputError, input_error_named
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.training.conformal import scale_of_scenes
from ms2hs.training.engine.checkpointing import CHECKPOINT
from ms2hs.training.engine.distributed import Note
from ms2hs.training.pretraining import PretrainOptions, pretrain, settings_of
from ms2hs.training.prior_fit import Evidence, PriorSettings, calibrate, fit, gather

# Source sensor of the evaluation.
SOURCE = "sentinel2a"
# Folds by default: three of 18 places in each.
FOLDS = 6
# Standard deviation of the Gaussian that smooths the share.
SHARE_SMOOTHING_NM = 60.0
# Shrinkage of the share: as if this many more places had a share of 0.
PLACES_AGAINST = 1.0


KINDS = {
    "clean": Kind(InputError()),
    "noisy": Kind(TYPICAL_INPUT_ERROR, draws=8),
    "sentinel2": Kind(input_error_named("sentinel2"), draws=8),
}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Pixels with the predictions of a prior and of a network."""

    measured: Float32Array
    """(source band, pixel) reflectance with errors."""
    truth: Float32Array
    """(wavelength, pixel) reflectance, NaN = unknown."""
    scale: Float32Array
    """(pixel,) scale of each spectrum; errors are proportional to it."""
    sigma: Float32Array
    """(wavelength, pixel) standard deviation of the prior's posterior."""
    expected: Float32Array
    """(wavelength, pixel) the prior's expectation."""
    correction: Float32Array
    """(wavelength, pixel) the network's correction of the prior; 0 without a network."""

    def blended(self, share: FloatArray) -> Float32Array:
        """(wavelength, pixel) the expectation plus the correction times `share` (wavelength,)."""
        blended: Float32Array = self.expected + share[:, None].astype(np.float32) * self.correction
        return blended


@dataclass(frozen=True, eq=False)
class HeldOutPlace:
    """A place with the predictions of a prior and a network that were trained without the place."""

    place: str
    inputs: Mapping[str, Predictions]
    """By kind of input, of `KINDS`."""


@dataclass(frozen=True)
class Fold:
    """Places that a network and a prior are trained without."""

    places: tuple[str, ...]
    network: Path
    prior: Path


@dataclass(frozen=True)
class CrossFit:
    """Result of the cross-validation."""

    share: Float32Array
    """(wavelength,) 0-1."""
    sigma_scale: Float32Array
    """(wavelength,)."""
    scores: Mapping[str, Mapping[str, float]]
    """By place: RMSE of prior, network and blend by kind of input, and coverage of the 90 % interval."""
    summary: Mapping[str, float]
    """By kind of input: mean RMSE of the blend relative to the prior, and the ends of its 95 % interval."""
    without_place: Mapping[str, tuple[Float32Array, Float32Array | None]]
    """By place: share and sigma scale from the places of other folds."""


def folds_of(places: Sequence[str], count: int, folder: Path) -> list[Fold]:
    """`count` folds, or one for each place; sorted places are dealt in turn, so that folds differ in size by 1."""
    names = sorted(set(places))
    dealt = [tuple(names[first::count]) for first in range(min(count, len(names)))]
    return [
        Fold(part, folder / f"fold-{number}.safetensors", folder / f"fold-{number}.prior.safetensors")
        for number, part in enumerate(dealt, 1)
    ]


def read_folds(folder: Path) -> list[Fold]:
    """The folds in a folder that `cross_fit` has written."""
    priors = sorted(folder.glob("fold-*.prior.safetensors"))
    settings = [load_weights(str(path)).card["settings"] for path in priors]
    return [
        Fold(tuple(own["leave_out"]), path.with_name(path.name.replace(".prior", "")), path)
        for path, own in zip(priors, settings, strict=True)
    ]


def train_folds(options: PretrainOptions, folds: Sequence[Fold], progress: FitProgress | None = None) -> None:
    """Train the prior and the network of each fold; files of the same settings are kept, broken runs resumed.

    Parameters
    ----------
    progress : its total has the steps of one more training, of all places.

    Raises
    ------
    Ms2hsError : raised by `gather` and `pretrain`.
    """
    evidence: Evidence | None = None
    for done, fold in enumerate(folds):
        run = replace(options, leave_out=(*options.leave_out, *fold.places), prior=str(fold.prior))
        settings = {"leave_out": run.leave_out, **asdict(PriorSettings())}
        has_prior = _has(fold.prior, settings)
        if not has_prior:
            evidence = evidence or gather(options.data[0], PriorSettings())
            prior = calibrate(fit(evidence, run.leave_out), evidence, run.leave_out)
            save_weights(fold.prior, prior, {"command": "a fold of cross-fitting", "settings": settings})
        if not (has_prior and _has(fold.network, settings_of(run))):
            _train(run, fold.network, _part_of(progress, done, len(folds) + 1))


def _has(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the file exists, with these settings in its card."""
    return path.is_file() and load_weights(str(path)).card.get("settings") == json.loads(json.dumps(settings))


def _train(options: PretrainOptions, output: Path, progress: FitProgress | None, note: Note | None = None) -> None:
    """Pretrain, from the checkpoint of a broken run with the same settings if there is one."""
    checkpoint = output.with_suffix(".run") / CHECKPOINT
    if checkpoint.is_file():
        try:
            pretrain(options, output, resume=True, overwrite=True, progress=progress, note=note)
        except WeightsError:  # of other settings
            checkpoint.unlink()
        else:
            return
    pretrain(options, output, overwrite=True, progress=progress, note=note)


def _part_of(progress: FitProgress | None, done: int, total: int) -> FitProgress | None:
    """Progress of one of `total` trainings of equal length, as progress of all; `done` are complete."""
    if progress is None:
        return None
    return lambda step, steps, loss: progress(done * steps + step, total * steps, loss)


def predict(
    windows: Mapping[str, Sequence[HeldOutWindow]],
    prior: SpectralPrior,
    network: SpectralMAE | None,
    grids: tuple[SpectralGrid, SpectralGrid],
) -> dict[str, Predictions]:
    """Predictions of a target from a source for the chosen pixels of the windows, by kind of input, as by `convert`."""
    result = {}
    for kind, of_kind in windows.items():
        posterior = prior.condition(*grids, of_kind[0].assumed)
        predictor = None if network is None else Predictor(network, *grids, error=of_kind[0].assumed)
        given = posterior if predictor and predictor.patch_network else prior.condition(*grids)
        parts = []
        for window in of_kind:
            some = np.ascontiguousarray(window.at_pixels(window.measured))
            expected = posterior.reconstruct(some)
            correction = np.zeros_like(expected)
            if predictor:
                whole = predictor.reconstruct(window.measured, window.valid)
                correction = window.at_pixels(whole) - given.reconstruct(some)
            parts.append((some, window.truth, posterior.scale(some), posterior.sigma(some), expected, correction))
        result[kind] = Predictions(*(np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)))
    return result


def fit_share(places: Sequence[HeldOutPlace], step_nm: float) -> FloatArray:
    """(wavelength,) share, 0-1, of the networks' correction with the least squared error; each place counts equally.

    Least squares of the prior's errors on the network's corrections, both relative to brightness. Kinds of input count
    equally too: each by its errors relative to the prior's. The share is smoothed along the wavelength and shrunk,
    since it must hold in new places.
    """
    size = len(places[0].inputs["clean"].truth)
    product, square = np.zeros((2, size))
    for kind in places[0].inputs:
        sums = np.zeros((3, size))
        for part in (place.inputs[kind] for place in places):
            known = np.isfinite(part.truth)
            correction = np.where(known, part.correction, 0) / part.scale
            error = np.where(known, part.truth - part.expected, 0) / part.scale
            pairs = (correction, error), (correction, correction), (error, error)
            sums += np.array([(a * b).sum(axis=1) for a, b in pairs]) / np.maximum(known.sum(axis=1), 1)
        product += sums[0] / max(sums[2].sum(), 1e-12)
        square += sums[1] / max(sums[2].sum(), 1e-12)
    distance_nm = np.subtract.outer(np.arange(size), np.arange(size)) * step_nm
    near = np.exp(-0.5 * (distance_nm / SHARE_SMOOTHING_NM) ** 2)
    against = PLACES_AGAINST / len(places)
    share: FloatArray = np.clip(near @ product / np.maximum((1 + against) * (near @ square), 1e-12), 0, 1)
    return share


def fit_scale(places: Sequence[HeldOutPlace], share: FloatArray) -> Float32Array | None:
    """(wavelength,) factor on the posterior's standard deviation so that intervals hold on new places."""
    factors = []
    for place in places:
        clean = place.inputs["clean"]
        factors.append(scale_needed((clean.truth - clean.blended(share)).astype(float), clean.sigma))
    return scale_of_scenes(factors)


def fit_and_score(folds: Sequence[Sequence[HeldOutPlace]], step_nm: float) -> CrossFit:
    """Share and sigma scale from all places, and scores of each place with the curves of the other folds.

    Raises
    ------
    DataError : no place has enough pixels.
    """
    scores: dict[str, dict[str, float]] = {}
    without_place: dict[str, tuple[Float32Array, Float32Array | None]] = {}
    for fold in folds:
        others = [place for other in folds if other is not fold for place in other] or fold
        share = fit_share(others, step_nm) if others is not fold else np.zeros(len(fold[0].inputs["clean"].truth))
        for place in fold:
            scale = fit_scale(others, share) if others else None
            scores[place.place] = _scores(place, share, scale)
            without_place[place.place] = (share.astype(np.float32), scale)
    places = [place for fold in folds for place in fold]
    share = fit_share(places, step_nm) if places else np.zeros(0)
    scale = fit_scale(places, share) if places else None
    if scale is None:
        raise DataError("no place has enough pixels to calibrate on; one is needed. Give more data.")
    summary: dict[str, float] = {}
    for kind in places[0].inputs:
        blend, prior = (np.array([own[f"{name} {kind}"] for own in scores.values()]) for name in ("blend", "prior"))
        low, high = ratio_interval(blend, prior)
        ratio = blend.mean() / prior.mean()
        summary |= {f"ratio {kind}": float(ratio), f"ratio {kind}, low": low, f"ratio {kind}, high": high}
    return CrossFit(share.astype(np.float32), scale, scores, summary, without_place)


def _scores(place: HeldOutPlace, share: FloatArray, scale: Float32Array | None) -> dict[str, float]:
    scores = {}
    for kind, part in place.inputs.items():
        network = part.expected + part.correction
        for name, predicted in (("prior", part.expected), ("network", network), ("blend", part.blended(share))):
            scores[f"{name} {kind}"] = rmse(predicted, part.truth)
    if scale is not None:
        clean = place.inputs["clean"]
        scores["coverage"] = coverage(clean.blended(share), scale[:, None] * clean.sigma, clean.truth)
    return scores


def cross_fit(
    options: PretrainOptions, folder: Path, count: int = FOLDS, progress: FitProgress | None = None
) -> CrossFit:
    """Train the folds, predict their places, and fit share and sigma scale.

    The network of a fold is saved with the share and scale of the other folds.

    Raises
    ------
    DataError : the data are not one folder of cubes and libraries, or no place has enough pixels.
    Ms2hsError : raised by `train_folds`.
    """
    if len(options.data) != 1:
        raise DataError(
            f"{len(options.data)} folders of data; one folder with hyperspectral/ and spectra/ is needed, to leave "
            "places out of the prior too. Give it with --data."
        )
    cubes = open_cubes(options.data[0])
    folds = folds_of([cube.scene for cube in cubes if cube.scene not in options.leave_out], count, folder)
    if not folds:
        raise DataError(f"{options.data[0]}: every place is left out; at least one is needed. Leave out fewer places.")
    folder.mkdir(parents=True, exist_ok=True)
    train_folds(options, folds, progress)
    held_out: list[list[HeldOutPlace]] = []
    source = load_sensor(SOURCE).grid
    for fold in folds:
        weights = load_weights(str(fold.network))
        assert weights.network is not None  # noqa: S101  folds are networks
        weights.network.set_share(None)
        raw = weights.prior.with_sigma_scale(np.ones_like(weights.prior.sigma_scale))
        held_out.append([])
        for place in fold.places:
            pairs = [SimulatedPair(cube, SOURCE, raw.grid) for cube in cubes if cube.scene == place]
            windows = held_out_windows(pairs, KINDS, raw.condition(source, source).scale, options.fit.seed)
            if windows["clean"]:
                inputs = predict(windows, raw, weights.network, (source, raw.grid))
                held_out[-1].append(HeldOutPlace(place, inputs))
    result = fit_and_score(held_out, raw.step_nm)
    for fold in folds:
        weights = load_weights(str(fold.network))
        assert weights.network is not None  # noqa: S101  folds are networks
        share, sigma_scale = next(result.without_place[place] for place in fold.places if place in result.without_place)
        weights.network.set_share(share.astype(float))
        save_weights(weights.path, weights.prior, weights.card, weights.network, sigma_scale=sigma_scale)
    return result


def pretrain_cross_fitted(
    options: PretrainOptions,
    output: Path,
    folds: int = FOLDS,
    *,
    overwrite: bool = False,
    progress: FitProgress | None = None,
    note: Note | None = None,
) -> CrossFit:
    """Pretrain on all places, and write weights with the share and the sigma scale of the cross-validation.

    The next call reuses the networks of the folds, in `<output stem>.folds/`, and resumes a broken training. Raises the
    errors of `cross_fit` and `pretrain`.
    """
    result = cross_fit(options, output.with_suffix(".folds"), folds, progress)
    last = _part_of(progress, folds, folds + 1)
    if output.exists():
        pretrain(options, output, overwrite=overwrite, progress=last, note=note)
    else:
        _train(options, output, last, note)
    weights = load_weights(str(output))
    assert weights.network is not None  # noqa: S101  it was just trained
    weights.network.set_share(result.share.astype(float))
    scores = dict(weights.card.get("scores", {})) | {f"without {name}": own for name, own in result.scores.items()}
    scores["cross-fitted"] = result.summary
    card = {
        **weights.card,
        "command": f"{weights.card['command']} --cross-fit --folds {folds}",
        "scores": {name: {key: round(float(value), 6) for key, value in own.items()} for name, own in scores.items()},
        "share": round(float(result.share.mean()), 3),
    }
    save_weights(output, weights.prior, card, weights.network, sigma_scale=result.sigma_scale)
    return result
