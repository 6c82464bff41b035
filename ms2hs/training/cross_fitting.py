"""`ms2hs pretrain --cross-fit`: scaling of a network's correction and uncertainty, by cross-validation over scenes.

A network and a prior are trained again without each scene (a cross-validation fold) and applied to that scene. Two
curves over the wavelength are fitted to these predictions: `share`, the factor on the network's correction of the
prior, and `sigma_scale`, the factor on its uncertainty. Each scene is scored with the curves of the other scenes.
"""

from collections.abc import Mapping, Sequence
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
from ms2hs.models.intervals import scale_needed
from ms2hs.models.weights import Weights, load_weights, save_weights
from ms2hs.progress import Progress
from ms2hs.spectra.metrics import NORMAL_90
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.conformal import scale_of_scenes
from ms2hs.training.engine.distributed import Note
from ms2hs.training.pretraining import PretrainOptions, pretrain
from ms2hs.training.prior_fit import Evidence, PriorSettings, calibrate, fit, gather

# Source sensor of the evaluation.
SOURCE = "sentinel2a"
KINDS = ("clean", "noisy")
# Pixels of a scene that are evaluated.
PIXELS = 3000
# Standard deviation of the Gaussian that smooths the share.
SHARE_SMOOTHING_NM = 60.0
# Shrinkage of the share: as if this many more scenes had a share of 0.
SCENES_AGAINST = 1.0


@dataclass(frozen=True, eq=False)
class HeldOutScene:
    """Pixels of a scene, with predictions of a prior and a network that were trained without the scene."""

    scene: str
    truth: Float32Array
    """(wavelength, pixel) reflectance, NaN = unknown."""
    scale: Float32Array
    """(pixel,) scale of each spectrum; errors are proportional to it."""
    sigma: Float32Array
    """(wavelength, pixel) standard deviation of the posterior, not calibrated."""
    expected: Mapping[str, Float32Array]
    """(wavelength, pixel) the prior's expectation for `clean` and `noisy` input, which is conditioned on its error."""
    correction: Mapping[str, Float32Array]
    """(wavelength, pixel) the network's correction of the prior, for `clean` and `noisy` input."""

    def blended(self, share: FloatArray, kind: str) -> Float32Array:
        """(wavelength, pixel) the expectation plus the correction times `share` (wavelength,)."""
        blended: Float32Array = self.expected[kind] + share[:, None].astype(np.float32) * self.correction[kind]
        return blended


@dataclass(frozen=True)
class CrossFit:
    """Result of the cross-validation."""

    share: Float32Array
    """(wavelength,) 0-1."""
    sigma_scale: Float32Array
    """(wavelength,)."""
    scores: Mapping[str, Mapping[str, float]]
    """By scene: RMSE of prior, network and blend for clean and noisy input, and coverage of the 90 % interval."""
    without_scene: Mapping[str, tuple[Float32Array, Float32Array | None]]
    """By scene: share and sigma scale from the other scenes."""


def fold_paths(folder: Path, scene: str) -> tuple[Path, Path]:
    """Paths of the network and of the prior that are trained without a scene."""
    return folder / f"without-{scene}.safetensors", folder / f"without-{scene}.prior.safetensors"


def train_folds(options: PretrainOptions, folder: Path, progress: Progress | None = None) -> list[str]:
    """Names of the scenes, sorted, after training a network and a prior without each; existing files are kept.

    Raises
    ------
    DataError : the data are not one folder of cubes and libraries.
    Ms2hsError : raised by `pretrain`.
    """
    if len(options.data) != 1:
        raise DataError(
            f"{len(options.data)} folders of data; one folder with hyperspectral/ and spectra/ is needed, to leave "
            "scenes out of the prior too. Give it with --data."
        )
    scenes = sorted({cube.scene for cube in open_cubes(options.data[0])} - set(options.leave_out))
    folder.mkdir(parents=True, exist_ok=True)
    evidence: Evidence | None = None
    for done, scene in enumerate(scenes):
        network, prior = fold_paths(folder, scene)
        out = (*options.leave_out, scene)
        if not prior.exists():
            evidence = evidence or gather(options.data[0], PriorSettings())
            save_weights(prior, calibrate(fit(evidence, out), evidence, out), {"command": "a fold of cross-fitting"})
        if not network.exists():
            pretrain(replace(options, leave_out=out, prior=str(prior)), network, overwrite=True)
        if progress:
            progress("scenes left out", done + 1, len(scenes))
    return scenes


def predict_scene(data: Path, scene: str, weights: Weights, seed: int) -> HeldOutScene | None:
    """A scene with the predictions of weights that were trained without the scene; None where no pixel is known."""
    prior, source, target = weights.prior, load_sensor(SOURCE).grid, weights.prior.grid
    assert weights.network is not None  # noqa: S101  folds are networks
    weights.network.set_share(None)
    network = Predictor(weights.network, source, target)
    plain, robust = (prior.condition(source, target, error) for error in (None, TYPICAL_INPUT_ERROR))
    raw = prior.with_sigma_scale(np.ones_like(prior.sigma_scale)).condition(source, target)
    rng = np.random.default_rng(seed)
    gain, offset = (
        part * rng.standard_normal((len(source), 1, 1))
        for part in (TYPICAL_INPUT_ERROR.gain, TYPICAL_INPUT_ERROR.offset)
    )
    windows: dict[str, list[Float32Array]] = {}
    pairs = [SimulatedPair(cube, SOURCE, target) for cube in open_cubes(data) if cube.scene == scene]
    for _, measured, truth in windows_of(pairs, seed):
        valid = np.asarray(np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0), bool)
        if not valid.any():
            continue
        clean = np.where(valid, measured, np.float32(0))
        noise = TYPICAL_INPUT_ERROR.pixel * rng.standard_normal(clean.shape)
        noisy = denoise((clean * (1 + gain) + offset + noise).astype(np.float32), valid, TYPICAL_INPUT_ERROR.pixel)
        parts = {"truth": truth, "scale": plain.scale(clean)[None], "sigma": raw.sigma(clean)}
        for kind, reflectance, posterior in zip(KINDS, (clean, noisy), (plain, robust), strict=True):
            parts[f"expected {kind}"] = posterior.reconstruct(reflectance)
            parts[f"correction {kind}"] = network.reconstruct(reflectance, valid) - plain.reconstruct(reflectance)
        for name, values in parts.items():
            windows.setdefault(name, []).append(values[:, valid])
    if not windows:
        return None
    whole = {name: np.concatenate(values, axis=1) for name, values in windows.items()}
    chosen = rng.permutation(whole["truth"].shape[1])[:PIXELS]
    kept = {name: values[:, chosen] for name, values in whole.items()}
    expected, correction = ({kind: kept[f"{part} {kind}"] for kind in KINDS} for part in ("expected", "correction"))
    return HeldOutScene(scene, kept["truth"], kept["scale"][0], kept["sigma"], expected, correction)


def fit_share(scenes: Sequence[HeldOutScene], step_nm: float) -> FloatArray:
    """(wavelength,) share, 0-1, of the networks' correction with the least squared error; each scene counts equally.

    Least squares of the prior's errors on the network's corrections, both relative to brightness, over clean and noisy
    input. The share is smoothed along the wavelength and shrunk, since it must hold in new scenes.
    """
    size = len(scenes[0].truth)
    product, square = np.zeros((2, len(scenes), size))
    for row, scene in enumerate(scenes):
        known = np.isfinite(scene.truth)
        count = np.maximum(known.sum(axis=1), 1)
        for kind in KINDS:
            correction = np.where(known, scene.correction[kind], 0) / scene.scale
            error = np.where(known, scene.truth - scene.expected[kind], 0) / scene.scale
            product[row] += (correction * error).sum(axis=1) / count
            square[row] += np.square(correction).sum(axis=1) / count
    distance_nm = np.subtract.outer(np.arange(size), np.arange(size)) * step_nm
    near = np.exp(-0.5 * (distance_nm / SHARE_SMOOTHING_NM) ** 2)
    total, norm = near @ product.sum(axis=0), near @ square.sum(axis=0)
    against = SCENES_AGAINST / len(scenes)
    share: FloatArray = np.clip(total / np.maximum((1 + against) * norm, 1e-12), 0, 1)
    return share


def fit_scale(scenes: Sequence[HeldOutScene], share: FloatArray) -> Float32Array | None:
    """(wavelength,) factor on the posterior's standard deviation so that intervals hold on new scenes."""
    factors = []
    for scene in scenes:
        error = (scene.truth - scene.blended(share, "clean")).astype(float)
        factors.append(scale_needed(error, scene.sigma))
    return scale_of_scenes(factors)


def fit_and_score(scenes: Sequence[HeldOutScene], step_nm: float) -> CrossFit:
    """Share and sigma scale from all scenes, and scores of each scene with the curves of the other scenes.

    Raises
    ------
    DataError : no scene has enough pixels.
    """
    scores, without_scene = {}, {}
    for scene in scenes:
        others = [other for other in scenes if other is not scene]
        share = fit_share(others, step_nm) if others else np.zeros(len(scene.truth))
        scale = fit_scale(others, share) if others else None
        scores[scene.scene] = _scores(scene, share, scale)
        without_scene[scene.scene] = (share.astype(np.float32), scale)
    share = fit_share(scenes, step_nm)
    scale = fit_scale(scenes, share)
    if scale is None:
        raise DataError("no scene has enough pixels to calibrate on; one is needed. Give more data.")
    return CrossFit(share.astype(np.float32), scale, scores, without_scene)


def _scores(scene: HeldOutScene, share: FloatArray, scale: Float32Array | None) -> dict[str, float]:
    scores = {}
    for kind, expected in scene.expected.items():
        network = expected + scene.correction[kind]
        for name, predicted in (("prior", expected), ("network", network), ("blend", scene.blended(share, kind))):
            scores[f"{name} {kind}"] = float(np.sqrt(np.nanmean(np.square(predicted - scene.truth))))
    if scale is not None:
        error = np.abs(scene.truth - scene.blended(share, "clean"))
        known = np.isfinite(error)
        inside = error <= NORMAL_90 * scale[:, None] * scene.sigma
        scores["coverage"] = float(inside[known].mean())
    return scores


def cross_fit(options: PretrainOptions, folder: Path, progress: Progress | None = None) -> CrossFit:
    """Train without each scene, predict each scene, and fit share and sigma scale.

    The network of a fold is saved with the share and scale of the other scenes. Raises the errors of `train_folds`.
    """
    names = train_folds(options, folder, progress)
    folds = {name: load_weights(str(fold_paths(folder, name)[0])) for name in names}
    scenes = [predict_scene(options.data[0], name, weights, options.fit.seed) for name, weights in folds.items()]
    result = fit_and_score([scene for scene in scenes if scene is not None], folds[names[0]].prior.step_nm)
    for name, (share, scale) in result.without_scene.items():
        weights = folds[name]
        assert weights.network is not None  # noqa: S101  folds are networks
        weights.network.set_share(share.astype(float))
        save_weights(weights.path, weights.prior, weights.card, weights.network, sigma_scale=scale)
    return result


def pretrain_cross_fitted(
    options: PretrainOptions,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> CrossFit:
    """Pretrain on all scenes, and write weights with the share and the sigma scale of the cross-validation.

    The next call reuses the networks of the folds, in `<output stem>.folds/`. Raises the errors of `train_folds` and
    `pretrain`.
    """
    result = cross_fit(options, output.with_suffix(".folds"), progress)
    pretrain(options, output, overwrite=overwrite, note=note)
    weights = load_weights(str(output))
    assert weights.network is not None  # noqa: S101  it was just trained
    weights.network.set_share(result.share.astype(float))
    scores = dict(weights.card.get("scores", {})) | {f"without {name}": own for name, own in result.scores.items()}
    card = {
        **weights.card,
        "command": f"{weights.card['command']} --cross-fit",
        "scores": {name: {key: round(float(value), 6) for key, value in own.items()} for name, own in scores.items()},
        "share": round(float(result.share.mean()), 3),
    }
    save_weights(output, weights.prior, card, weights.network, sigma_scale=result.sigma_scale)
    return result
