"""How far a network is to be trusted: trained again without each scene, it is asked about that scene.

What it adds to the prior counts by a share of each wavelength, and its uncertainty by a scale, both learnt where
neither network nor prior had seen the scene. The scores of a scene come from share and scale of the others alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.pairs.pair_sampling import windows_of
from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.errors import DataError
from ms2hs.inference.predictor import Predictor
from ms2hs.models.denoising import denoise
from ms2hs.models.intervals import sigma_needed
from ms2hs.models.prior import TYPICAL_INPUT_ERROR
from ms2hs.models.weights import Weights, load_weights, save_weights
from ms2hs.spectra.metrics import NORMAL_90
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of
from ms2hs.training.conformal import scale_of_scenes
from ms2hs.training.pretraining import Pretraining, pretrain
from ms2hs.training.prior_fit import Evidence, PriorSettings, calibrate, fit, gather

Progress = Callable[[str, int, int], None]
# Through which sensor.
SOURCE = "sentinel2a"
# Pixels of a scene that are kept.
PIXELS = 3000
# Shares are alike within about this, and are shrunk as if so many more scenes had asked for none.
SMOOTH_NM = 60.0
SCENES_AGAINST = 1.0


@dataclass(frozen=True, eq=False)
class Trial:
    """A scene, what its prior expects, and what its network adds; neither has seen it."""

    scene: str
    truth: Float32Array
    """(wavelength, pixel) NaN = unknown."""
    scale: Float32Array
    """(pixel,) what errors are taken as proportional to."""
    sigma: Float32Array
    """(wavelength,) of the posterior, relative and not calibrated."""
    expected: Mapping[str, Float32Array]
    """By input, `clean` and `noisy`: (wavelength, pixel). Of noisy input the error is told, as `convert` takes it."""
    added: Mapping[str, Float32Array]
    """(wavelength, pixel) by input."""


@dataclass(frozen=True)
class CrossFit:
    """What the trials taught."""

    share: Float32Array
    """(wavelength,) 0-1."""
    sigma_scale: Float32Array
    """(wavelength,)."""
    scores: Mapping[str, Mapping[str, float]]
    """By scene: RMSE of the prior, the network and the blend, clean and noisy, and what 90 % intervals hold."""
    others: Mapping[str, tuple[Float32Array, Float32Array | None]]
    """By scene: share and scale from the other scenes alone."""


def fold_of(folder: Path, scene: str) -> tuple[Path, Path]:
    """Where the network that has not seen a scene is kept, and its prior."""
    return folder / f"without-{scene}.safetensors", folder / f"without-{scene}.prior.safetensors"


def train_folds(asked: Pretraining, folder: Path, tell: Progress | None = None) -> list[str]:
    """Train a network and a prior without each scene; those that are there are kept. The scenes, sorted.

    Raises
    ------
    DataError : data that are not one folder of cubes and libraries.
    Ms2hsError : as `pretrain` says.
    """
    if len(asked.data) != 1:
        raise DataError(
            f"{len(asked.data)} folders of data; one, with hyperspectral/ and spectra/, is needed to leave scenes out "
            "of the prior too. Give it with --data."
        )
    scenes = sorted({cube.scene for cube in open_cubes(asked.data[0])} - set(asked.leave_out))
    folder.mkdir(parents=True, exist_ok=True)
    evidence: Evidence | None = None
    for done, scene in enumerate(scenes):
        network, prior = fold_of(folder, scene)
        out = (*asked.leave_out, scene)
        if not prior.exists():
            evidence = evidence or gather(asked.data[0], PriorSettings())
            save_weights(prior, calibrate(fit(evidence, out), evidence, out), {"command": "a fold of cross-fitting"})
        if not network.exists():
            pretrain(replace(asked, leave_out=out, prior=str(prior)), network, overwrite=True)
        if tell:
            tell("scenes left out", done + 1, len(scenes))
    return scenes


def try_scene(data: Path, scene: str, weights: Weights, seed: int) -> Trial | None:
    """What a network that has not seen a scene says of it; None where nothing is known there."""
    prior = weights.prior
    fine = prior.wavelength_nm.astype(float)
    source = load_sensor(SOURCE).grid
    target = grid_of(fine, np.full(len(fine), 2 * float(fine[1] - fine[0])))
    assert weights.network is not None  # noqa: S101  folds are networks
    weights.network.set_share(None)
    network = Predictor(weights.network, source, target)
    plain, told = (prior.condition(source, target, error) for error in (None, TYPICAL_INPUT_ERROR))
    raw = replace(prior, sigma_scale=np.ones_like(prior.sigma_scale)).condition(source, target)
    rng = np.random.default_rng(seed)
    gain, offset = (
        part * rng.standard_normal((len(source), 1, 1))
        for part in (TYPICAL_INPUT_ERROR.gain, TYPICAL_INPUT_ERROR.offset)
    )
    found: dict[str, list[Float32Array]] = {}
    pairs = [SimulatedPair(cube, SOURCE, target) for cube in open_cubes(data) if cube.scene == scene]
    for _, seen, truth in windows_of(pairs, seed):
        valid = np.asarray(np.isfinite(seen).all(axis=0) & np.isfinite(truth).any(axis=0), bool)
        if not valid.any():
            continue
        clean = np.where(valid, seen, np.float32(0))
        noise = TYPICAL_INPUT_ERROR.pixel * rng.standard_normal(clean.shape)
        noisy = denoise((clean * (1 + gain) + offset + noise).astype(np.float32), valid, TYPICAL_INPUT_ERROR.pixel)
        parts = {
            "truth": truth,
            "scale": plain.scale(clean)[None],
            "clean": plain.reconstruct(clean),
            "noisy": told.reconstruct(noisy),
            "added to clean": network.reconstruct(clean, valid) - plain.reconstruct(clean),
            "added to noisy": network.reconstruct(noisy, valid) - plain.reconstruct(noisy),
        }
        for name, values in parts.items():
            found.setdefault(name, []).append(values[:, valid])
    if not found:
        return None
    whole = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
    some = rng.permutation(whole["truth"].shape[1])[:PIXELS]
    kept = {name: values[:, some] for name, values in whole.items()}
    return Trial(
        scene,
        kept["truth"],
        kept["scale"][0],
        raw.relative_sigma,
        {"clean": kept["clean"], "noisy": kept["noisy"]},
        {"clean": kept["added to clean"], "noisy": kept["added to noisy"]},
    )


def fit_share(trials: Sequence[Trial], step_nm: float) -> FloatArray:
    """(wavelength,) the share, 0-1, of what networks add that brings the least squared error, over scenes alike.

    Least squares of what the prior misses on what the network adds, errors taken relative to brightness, of clean and
    noisy input alike; smoothed along the wavelength, and shrunk: it must hold in scenes that are not among these.
    """
    along, across = [], []
    for trial in trials:
        known = np.isfinite(trial.truth)
        top, bottom = np.zeros(len(known)), np.zeros(len(known))
        for kind in ("clean", "noisy"):
            added = np.where(known, trial.added[kind], 0) / trial.scale
            missed = np.where(known, trial.truth - trial.expected[kind], 0) / trial.scale
            count = np.maximum(known.sum(axis=1), 1)
            top += (added * missed).sum(axis=1) / count
            bottom += np.square(added).sum(axis=1) / count
        along.append(top)
        across.append(bottom)
    near = np.exp(
        -0.5 * (np.subtract.outer(np.arange(len(along[0])), np.arange(len(along[0]))) * step_nm / SMOOTH_NM) ** 2
    )
    total, squares = near @ np.sum(along, axis=0), near @ np.sum(across, axis=0)
    against = SCENES_AGAINST / len(trials)
    share: FloatArray = np.clip(total / np.maximum((1 + against) * squares, 1e-12), 0, 1)
    return share


def fit_sigma(trials: Sequence[Trial], share: FloatArray) -> Float32Array | None:
    """(wavelength,) what the posterior's standard deviation is multiplied by to hold in scenes left out."""
    return scale_of_scenes([_needed(trial, share) for trial in trials])


def _needed(trial: Trial, share: FloatArray) -> FloatArray:
    error = trial.truth - _blend(trial, share, "clean")
    return sigma_needed(error.T.astype(float), trial.scale.astype(float)) / trial.sigma


def _blend(trial: Trial, share: FloatArray, kind: str) -> Float32Array:
    blend: Float32Array = trial.expected[kind] + share[:, None].astype(np.float32) * trial.added[kind]
    return blend


def judge(trials: Sequence[Trial], step_nm: float) -> CrossFit:
    """Share and scale from all trials, and the scores of each scene by those of the others."""
    scores, kept = {}, {}
    for trial in trials:
        others = [other for other in trials if other is not trial]
        share = fit_share(others, step_nm) if others else np.zeros(len(trial.truth))
        scale = fit_sigma(others, share) if others else None
        scores[trial.scene] = _scores(trial, share, scale)
        kept[trial.scene] = (share.astype(np.float32), scale)
    share = fit_share(trials, step_nm)
    scale = fit_sigma(trials, share)
    if scale is None:
        raise DataError("no scene left out has enough pixels to calibrate on; one is needed. Give more data.")
    return CrossFit(share.astype(np.float32), scale, scores, kept)


def _scores(trial: Trial, share: FloatArray, scale: Float32Array | None) -> dict[str, float]:
    found = {}
    for kind, expected in trial.expected.items():
        for name, made in (
            ("prior", expected),
            ("network", expected + trial.added[kind]),
            ("blend", _blend(trial, share, kind)),
        ):
            found[f"{name} {kind}"] = float(np.sqrt(np.nanmean(np.square(made - trial.truth))))
    if scale is not None:
        error = np.abs(trial.truth - _blend(trial, share, "clean"))
        known = np.isfinite(error)
        inside = error <= NORMAL_90 * np.outer(trial.sigma * scale, trial.scale)
        found["coverage"] = float(inside[known].mean())
    return found


def cross_fit(asked: Pretraining, folder: Path, tell: Progress | None = None) -> CrossFit:
    """Train without each scene, try each, and learn share and scale from that.

    The network of a fold is left with share and scale of the other scenes: so it is what would be shipped, had the
    scene never been.

    Raises
    ------
    Ms2hsError : as `train_folds` says.
    """
    scenes = train_folds(asked, folder, tell)
    folds = {scene: load_weights(str(fold_of(folder, scene)[0])) for scene in scenes}
    trials = [try_scene(asked.data[0], scene, weights, asked.fit.seed) for scene, weights in folds.items()]
    step_nm = float(np.diff(folds[scenes[0]].prior.wavelength_nm[:2])[0])
    found = judge([trial for trial in trials if trial is not None], step_nm)
    for scene, (share, scale) in found.others.items():
        weights = folds[scene]
        assert weights.network is not None  # noqa: S101  folds are networks
        weights.network.set_share(share.astype(float))
        save_weights(weights.path, weights.prior, weights.card, weights.network, sigma_scale=scale)
    return found


def pretrain_cross_fitted(
    asked: Pretraining,
    output: Path,
    *,
    overwrite: bool = False,
    tell: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> CrossFit:
    """Pretrain on all scenes, and write weights with the share and the scale that the scenes left out taught.

    The networks of the folds stay in `<output stem>.folds/`; those that are there are not trained again.

    Raises
    ------
    Ms2hsError : as `train_folds` and `pretrain` say.
    """
    found = cross_fit(asked, output.with_suffix(".folds"), tell)
    pretrain(asked, output, overwrite=overwrite, note=note)
    weights = load_weights(str(output))
    assert weights.network is not None  # noqa: S101  it was just trained
    weights.network.set_share(found.share.astype(float))
    scores = dict(weights.card.get("scores", {})) | {f"without {scene}": own for scene, own in found.scores.items()}
    rounded = {name: {key: round(float(value), 6) for key, value in own.items()} for name, own in scores.items()}
    card = {
        **weights.card,
        "command": f"{weights.card['command']} --cross-fit",
        "scores": rounded,
        "share": round(float(found.share.mean()), 3),
    }
    save_weights(output, weights.prior, card, weights.network, sigma_scale=found.sigma_scale)
    return found
