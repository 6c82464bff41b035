"""Scores of baselines, the prior and models on pairs, measured or simulated.

`evaluate_pairs` takes a `PairSet`: `open_pairs(folder)` or `simulated_pairs(corpus, source, target)`. In every scene
every method is scored on the same random windows of up to 128 x 128 pixels. The scores of a scene come from all its
windows; the scores of a method are means over scenes.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.pairs.pair_set import PairSet
from ms2hs.datasets.pairs.pair_types import Pair
from ms2hs.errors import DataError, Ms2hsError
from ms2hs.evaluation.accumulators import LEVELS, TargetBands
from ms2hs.evaluation.aggregation import Aggregator, MethodInfo, MethodOutput, ScoredWindow
from ms2hs.evaluation.baselines import PRIOR, Method, build_methods
from ms2hs.evaluation.examples import ExampleSelector
from ms2hs.evaluation.metric_table import check_ssim_installed
from ms2hs.evaluation.results import Evaluation
from ms2hs.models.prior import Posterior
from ms2hs.models.weights import Weights, load_weights, weights_names
from ms2hs.progress import Progress
from ms2hs.raster.tiling import Tiling, Window
from ms2hs.spectra.indices import cover
from ms2hs.spectra.spectral_grid import pasted_bands

LOGGER = logging.getLogger(__name__)
# Largest height and width of a window, in pixels.
MAX_WINDOW_PIXELS = 128
# The centre of a band may differ by this between calibrations of its sensor.
SAME_BAND_NM = 1.0


@dataclass(frozen=True)
class EvaluationSettings:
    """Options of an evaluation."""

    prior: str = "linear"
    """Weights of the prior to score, also the source of the baselines' spectra; not trained on these scenes."""
    windows: int = 64
    """Largest number of windows per scene, each of at most 128 x 128 pixels."""
    seed: int = 0
    """Random seed of windows, example pixels and bootstrap."""
    command: str = ""
    """The command line, shown in the report."""


def evaluate_pairs(
    models: Sequence[str],
    pair_set: PairSet,
    settings: EvaluationSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores of baselines, the prior and models on pairs.

    A pair is left out, with the reason in the result, if its bands differ from the bands of most pairs, if it cannot be
    read, or if no pixel has all source bands and some target bands.

    Parameters
    ----------
    models : names of shipped weights, or paths.
    progress : called after each scene.

    Raises
    ------
    Ms2hsError : unreadable weights, or weights that do not cover the bands; no pair with a valid pixel; scikit-image is
        not installed.
    """
    check_ssim_installed()
    settings = settings or EvaluationSettings()
    weights = [load_weights(name) for name in (settings.prior, *models)]
    selected, different = _of_same_bands(pair_set.pairs)
    evaluator = _Evaluator(selected, weights, settings)
    evaluator.left_out |= {**pair_set.left_out, **different}
    scenes = sorted({pair.scene for pair in selected})
    for done, scene in enumerate(scenes, 1):
        evaluator.score_scene([pair for pair in selected if pair.scene == scene])
        if progress:
            progress("scenes", done, len(scenes))
    return evaluator.result(pair_set.title)


def random_windows(shape: tuple[int, int], rng: np.random.Generator) -> list[Window]:
    """Windows of similar size, at most 128 x 128 pixels, in random order; they cover a raster without overlap."""
    height, width = (-(-length // -(-length // MAX_WINDOW_PIXELS)) for length in shape)
    tiling = list(Tiling(*shape, (height, width), overlap=0))
    return [tiling[i] for i in rng.permutation(len(tiling))]


def spread_windows(pairs: Sequence[Pair], rng: np.random.Generator) -> Iterator[tuple[Pair, Window]]:
    """Windows of a scene in random order; the second window of a pair follows the first windows of all pairs."""
    shuffled = [(pairs[i], random_windows(pairs[i].shape, rng)) for i in rng.permutation(len(pairs))]
    for turn in range(max((len(windows) for _, windows in shuffled), default=0)):
        for pair, windows in shuffled:
            if turn < len(windows):
                yield pair, windows[turn]


def window_title(name: str, window: Window) -> str:
    """The name and position of a window, for people."""
    rows = f"rows {window.row}-{window.row + window.height - 1}"
    return f"{name}, {rows}, columns {window.col}-{window.col + window.width - 1}"


class _Evaluator:
    """An evaluation of pairs in progress; the first pair gives the bands."""

    def __init__(self, pairs: Sequence[Pair], weights: Sequence[Weights], settings: EvaluationSettings) -> None:
        """Start without scenes; the first of `weights` are the prior's."""
        self.weights, self.settings = weights, settings
        self.is_simulated = all(pair.is_simulated for pair in pairs)
        self.left_out: dict[str, str] = {}
        self.notes: list[str] = []
        self.unlike = 0
        available = pairs[0].target
        low, high = max(part.range_nm[0] for part in weights), min(part.range_nm[1] for part in weights)
        self.target_bands = np.flatnonzero((available.wavelength_nm >= low) & (available.wavelength_nm <= high))
        if not len(self.target_bands):
            raise DataError(
                f"the true bands lie at {available.wavelength_nm.min():.0f}-{available.wavelength_nm.max():.0f} nm; "
                f"the weights cover {low:.0f}-{high:.0f} nm. Use other pairs or weights."
            )
        # Source bands of other pairs may differ by some nm (Sentinel-2A and 2B).
        self.source, self.target = pairs[0].source, available.select(self.target_bands)
        self.measured = pasted_bands(self.source, self.target) >= 0
        self._methods: dict[bytes, tuple[list[Method], Posterior]] = {}
        infos = [MethodInfo(method.name, method.kind, method.train_mse) for method in self._methods_of(pairs[0])[0]]
        self.aggregator = Aggregator(TargetBands(self.target, self.measured), infos, settings.windows)
        shown = next((info.name for info in reversed(infos) if info.kind == "model"), PRIOR)
        self.selector = ExampleSelector(shown, self.target, np.random.default_rng(settings.seed))
        self.rng = np.random.default_rng(settings.seed)
        if len(self.target_bands) < len(available):
            outside = len(available) - len(self.target_bands)
            self.notes.append(f"{outside} true bands outside {low:.0f}-{high:.0f} nm are not scored")
        if not self.measured.any():
            self.notes.append(
                "no source band covers 60 % of a target band: no `pasted bands`, and all bands count as masked"
            )

    def score_scene(self, pairs: Sequence[Pair]) -> None:
        """Score the windows of one scene."""
        scored = 0
        for pair, window in spread_windows(pairs, self.rng):
            if scored == self.settings.windows:
                break
            if pair.name in self.left_out:
                continue
            try:
                values = self._read(pair, window)
            except Ms2hsError as error:
                self.left_out[pair.name] = str(error)
                continue
            LOGGER.debug("scored: %s, %d valid pixels", values.title, values.valid.sum())
            if values.valid.any():
                self._score(values, pair)
                scored += 1
        self.aggregator.close_scene(pairs[0].scene)
        self.selector.close_scene()
        if not scored:
            self.left_out[pairs[0].scene] = "no pixel has all source bands and a true band"

    def _read(self, pair: Pair, window: Window) -> ScoredWindow:
        measured, truth = pair.read(window.row, window.col, window.height, window.width)
        truth = truth[self.target_bands]
        valid = np.asarray(np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0))
        title = window_title(", ".join(dict.fromkeys((pair.scene, pair.name))), window)
        return ScoredWindow(pair.scene, title, measured, truth, valid, cover(truth, self.target))

    def _methods_of(self, pair: Pair) -> tuple[list[Method], Posterior]:
        """The methods for the source of a pair, and the prior that finds pixels unlike the training data."""
        sensor = None if pair.is_simulated else pair.sensor
        key = f"{sensor} ".encode() + pair.source.wavelength_nm.tobytes() + pair.source.fwhm_nm.tobytes()
        if key not in self._methods:
            prior, *models = self.weights
            methods = build_methods(prior.prior, models, pair.source, self.target, sensor)
            self._methods[key] = methods, prior.prior.condition(pair.source, self.target)
        return self._methods[key]

    def _score(self, window: ScoredWindow, pair: Pair) -> None:
        methods, conditional = self._methods_of(pair)
        measured = np.where(window.valid, window.measured, np.float32(0))
        self.unlike += int((conditional.unlike(measured) & window.valid).sum())
        outputs = {method.name: _run(method, measured, window) for method in methods}
        self.aggregator.add(window, outputs)
        self.selector.add(window, outputs)

    def result(self, title: str) -> Evaluation:
        """The scores of all scenes."""
        if not self.aggregator.pixels:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.left_out.items())[:3])
            raise DataError(
                f"no pixel can be scored ({reasons}); at least one pixel with all source bands and a true band is "
                "needed. Use other pairs, or cubes with finer bands."
            )
        if self.is_simulated:
            self.notes.append("the source is simulated from the truth: errors of real products are not included")
        if self.weights[0].name in weights_names():
            self.notes.append("the shipped prior was trained on public scenes; if these are among them, use --prior")
        return Evaluation(
            title=title,
            command=self.settings.command,
            source=self.source,
            target=self.target,
            measured=self.measured,
            rows=self.aggregator.rows(self.settings.seed),
            curves=self.aggregator.curves(),
            levels=LEVELS,
            examples=self.selector.examples(),
            windows=self.selector.windows(),
            scenes=self.aggregator.pixels,
            unlike=self.unlike,
            left_out=self.left_out,
            notes=tuple(self.notes),
        )


def _run(method: Method, measured: Float32Array, window: ScoredWindow) -> MethodOutput:
    start = time.perf_counter()
    estimate = method.reconstruct(measured, window.valid)
    seconds = time.perf_counter() - start
    return MethodOutput(estimate, None if method.sigma is None else method.sigma(measured), seconds)


def _of_same_bands(pairs: Sequence[Pair]) -> tuple[list[Pair], dict[str, str]]:
    """The largest group of pairs with the same bands; the other pairs by name, with the reason to leave them out.

    Raises
    ------
    DataError : no pairs.
    """
    if not pairs:
        raise DataError("there are no pairs to score; at least one is needed. Use another folder or split.")
    groups: list[list[Pair]] = []
    for pair in pairs:
        group = next((group for group in groups if _same_bands(group[0], pair)), None)
        if group is None:
            groups.append([pair])
        else:
            group.append(pair)
    largest = max(groups, key=len)
    bands = f"{len(largest[0].source)} source and {len(largest[0].target)} target bands"
    reason = f"its bands are not the {bands} of most pairs; score it separately"
    return largest, {pair.name: reason for group in groups if group is not largest for pair in group}


def _same_bands(first: Pair, second: Pair) -> bool:
    """Whether two pairs have the same true wavelengths, and source bands with the same names."""
    same_count = first.source.names == second.source.names and len(first.target) == len(second.target)
    return same_count and bool(np.abs(first.target.wavelength_nm - second.target.wavelength_nm).max() <= SAME_BAND_NM)
