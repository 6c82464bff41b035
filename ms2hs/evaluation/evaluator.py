"""Methods side by side on pairs, real or simulated: scored by windows, each scene counting the same."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.pairs.pair_types import Pair
from ms2hs.errors import DataError, Ms2hsError
from ms2hs.evaluation.accumulators import LEVELS, Bands
from ms2hs.evaluation.aggregation import Aggregator, Entrant, Made, View
from ms2hs.evaluation.baselines import PRIOR, Method, line_up
from ms2hs.evaluation.examples import ExampleSelector
from ms2hs.evaluation.results import Evaluation
from ms2hs.models.prior import Posterior
from ms2hs.models.weights import Weights, load_weights, weights_names
from ms2hs.raster.tiling import Tiling, Window
from ms2hs.spectra.indices import cover
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands

Progress = Callable[[str, int, int], None]
# Pixels on a side of a window, at most.
SIDE = 128
# Bands of two pairs further apart than this are not the same bands: calibrations of one sensor differ by less.
SAME_BAND_NM = 1.0


@dataclass(frozen=True)
class EvaluationSettings:
    """How pairs are scored."""

    prior: str = "linear"
    """Weights whose spectral prior is scored, and knows what the baselines know: one that has not seen the scenes."""
    windows: int = 64
    """Of a scene, at most; of 128 pixels on a side, or as large as the pair is."""
    seed: int = 0
    """Of which windows, of the pixels that are shown, and of the bootstrap."""
    title: str = ""
    """What is scored, in a few words."""
    command: str = ""


def evaluate(
    models: Sequence[str],
    pairs: Sequence[Pair],
    settings: EvaluationSettings | None = None,
    left_out: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Baselines, the prior and models, scored on pairs.

    Pairs are left out, and told, where their bands are not those of the most, where they cannot be read, and where
    they have no pixel with all of the source's bands and some of the target's.

    Parameters
    ----------
    models : names of shipped weights, or paths.
    left_out : what was left out before, and why.
    progress : called with the stage, scenes done, and scenes there are.

    Raises
    ------
    Ms2hsError : weights that cannot be read or do not know the bands; no pair with a valid pixel; scikit-image is not
        installed.
    """
    check_scikit_image()
    settings = settings or EvaluationSettings()
    weights = [load_weights(name) for name in models]
    prior = load_weights(settings.prior)
    chosen, odd = _of_one_kind(pairs)
    run = _Run.of(chosen, [prior, *weights], settings)
    run.left_out |= {**(left_out or {}), **odd}
    scenes = sorted({pair.scene for pair in chosen})
    for done, scene in enumerate(scenes, 1):
        run.score([pair for pair in chosen if pair.scene == scene])
        if progress:
            progress("scenes", done, len(scenes))
    return run.found()


def check_scikit_image() -> None:
    """DataError unless what SSIM needs is installed."""
    if find_spec("skimage") is None:
        raise DataError("scikit-image is not installed; SSIM needs it. `pip install 'ms2hs[train]'` brings it.")


def windows_of(shape: tuple[int, int], rng: np.random.Generator) -> list[Window]:
    """Windows of about one size that cover a raster, none above 128 pixels on a side, at random."""
    size = tuple(-(-length // -(-length // SIDE)) for length in shape)
    tiling = list(Tiling(*shape, (size[0], size[1]), overlap=0))
    return [tiling[i] for i in rng.permutation(len(tiling))]


def spread_windows(pairs: Sequence[Pair], rng: np.random.Generator) -> Iterator[tuple[Pair, Window]]:
    """Windows of a scene at random, the second of a pair only after the first of all."""
    turns = [(pairs[i], windows_of(pairs[i].shape, rng)) for i in rng.permutation(len(pairs))]
    for turn in range(max((len(windows) for _, windows in turns), default=0)):
        for pair, windows in turns:
            if turn < len(windows):
                yield pair, windows[turn]


@dataclass(eq=False)
class _Run:
    """An evaluation under way."""

    weights: Sequence[Weights]
    """The prior's, then the models'."""
    settings: EvaluationSettings
    source: SpectralGrid
    """Of the first pair; others may be off by some nm (Sentinel-2A and B)."""
    target: SpectralGrid
    known: Sequence[int]
    """Positions of the target's bands among those of the pairs."""
    standings: Aggregator
    showcase: ExampleSelector
    rng: np.random.Generator
    is_simulated: bool
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unlike: int = 0
    _methods: dict[bytes, tuple[list[Method], Posterior]] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Sequence[Pair], weights: Sequence[Weights], settings: EvaluationSettings) -> "_Run":
        """Nothing is scored yet."""
        source, whole = pairs[0].source, pairs[0].target
        low, high = max(one.range_nm[0] for one in weights), min(one.range_nm[1] for one in weights)
        known = np.flatnonzero((whole.wavelength_nm >= low) & (whole.wavelength_nm <= high))
        if not len(known):
            raise DataError(
                f"no true band lies within {low:.0f}-{high:.0f} nm, which the weights know; there are bands at "
                f"{whole.wavelength_nm.min():.0f}-{whole.wavelength_nm.max():.0f} nm. Give other pairs or weights."
            )
        target = whole.select(known)
        measured = pasted_bands(source, target) >= 0
        methods, conditional = _lined_up(weights, pairs[0], target)
        entrants = [Entrant(method.name, method.kind, method.train_mse) for method in methods]
        rng = np.random.default_rng(settings.seed)
        leading = next((one.name for one in reversed(entrants) if one.kind == "model"), PRIOR)
        standings = Aggregator(Bands(target, measured), entrants, settings.windows)
        simulated = all(pair.is_simulated for pair in pairs)
        showcase = ExampleSelector(leading, target, np.random.default_rng(settings.seed))
        run = cls(weights, settings, source, target, list(known), standings, showcase, rng, simulated)
        run._methods[_key(pairs[0])] = methods, conditional
        if len(known) < len(whole):
            run.notes.append(f"{len(whole) - len(known)} true bands outside {low:.0f}-{high:.0f} nm are not scored")
        if not measured.any():
            run.notes.append("no source band covers 60 % of a target band: no `pasted bands`, and all bands are masked")
        return run

    def score(self, pairs: Sequence[Pair]) -> None:
        """Score the windows of one scene."""
        scored = 0
        for pair, window in spread_windows(pairs, self.rng):
            if scored == self.settings.windows:
                break
            if pair.name in self.left_out:
                continue
            try:
                view = self._view(pair, window)
            except Ms2hsError as error:
                self.left_out[pair.name] = str(error)
                continue
            if view.valid.any():
                self._add(view, pair)
                scored += 1
        self.standings.close_scene(pairs[0].scene)
        self.showcase.close_scene()
        if not scored:
            self.left_out[pairs[0].scene] = "no pixel known to both"

    def _view(self, pair: Pair, window: Window) -> View:
        measured, truth = pair.read(window.row, window.col, window.height, window.width)
        truth = truth[self.known]
        valid = np.asarray(np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0))
        names = ", ".join(dict.fromkeys((pair.scene, pair.name)))
        title = f"{names}, rows {window.row}-{window.row + window.height - 1}, "
        title += f"columns {window.col}-{window.col + window.width - 1}"
        return View(pair.scene, title, measured, truth, valid, cover(truth, self.target))

    def _add(self, view: View, pair: Pair) -> None:
        methods, conditional = self._methods_for(pair)
        measured = np.where(view.valid, view.measured, np.float32(0))
        self.unlike += int((conditional.unlike(measured) & view.valid).sum())
        made = {method.name: _made(method, measured, view) for method in methods}
        self.standings.add(view, made)
        self.showcase.add(view, made)

    def _methods_for(self, pair: Pair) -> tuple[list[Method], Posterior]:
        """The methods as they are for exactly this source, lined up once."""
        key = _key(pair)
        if key not in self._methods:
            self._methods[key] = _lined_up(self.weights, pair, self.target)
        return self._methods[key]

    def found(self) -> Evaluation:
        """All of it."""
        if not self.standings.pixels:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(self.left_out.items())[:3])
            raise DataError(
                f"nothing can be scored ({why}); a pixel with all of the source's bands and some of the target's is "
                "needed. Give other pairs, or cubes with finer bands."
            )
        if self.is_simulated:
            self.notes.append("the source is simulated from the truth: errors of real products come on top")
        if self.weights[0].name in weights_names():
            self.notes.append(
                "the shipped prior has learnt from public scenes: where these are among them, give --prior"
            )
        return Evaluation(
            title=self.settings.title,
            command=self.settings.command,
            source=self.source,
            target=self.target,
            measured=self.standings.bands.measured,
            rows=self.standings.rows(self.settings.seed),
            curves=self.standings.curves(),
            levels=LEVELS,
            examples=self.showcase.examples(),
            pictures=self.showcase.pictures(),
            scenes=self.standings.pixels,
            unlike=self.unlike,
            left_out=self.left_out,
            notes=tuple(self.notes),
        )


def _sensor(pair: Pair) -> str | None:
    """Whose products the pair's source is of; None where it is simulated."""
    return None if pair.is_simulated else pair.sensor


def _key(pair: Pair) -> bytes:
    return f"{_sensor(pair)} ".encode() + pair.source.wavelength_nm.tobytes() + pair.source.fwhm_nm.tobytes()


def _lined_up(weights: Sequence[Weights], pair: Pair, target: SpectralGrid) -> tuple[list[Method], Posterior]:
    """All methods, and the prior that tells pixels unlike training; the first weights are the prior's."""
    prior, *models = weights
    methods = line_up(prior.prior, models, pair.source, target, _sensor(pair))
    return methods, prior.prior.condition(pair.source, target)


def _made(method: Method, measured: Float32Array, view: View) -> Made:
    began = time.perf_counter()
    estimate = method.reconstruct(measured, view.valid)
    seconds = time.perf_counter() - began
    return Made(estimate, None if method.sigma is None else method.sigma(measured), seconds)


def _of_one_kind(pairs: Sequence[Pair]) -> tuple[list[Pair], dict[str, str]]:
    """The pairs whose bands are those of the most, and the others with the reason why they are left out.

    Raises
    ------
    DataError : no pairs.
    """
    if not pairs:
        raise DataError("there are no pairs; at least one is needed. Give another folder or split.")
    kinds: list[list[Pair]] = []
    for pair in pairs:
        kind = next((kind for kind in kinds if _same_bands(kind[0], pair)), None)
        if kind is None:
            kinds.append([pair])
        else:
            kind.append(pair)
    most = max(kinds, key=len)
    why = f"its bands are not the {len(most[0].source)} and {len(most[0].target)} of the most pairs; score it apart"
    return most, {pair.name: why for kind in kinds if kind is not most for pair in kind}


def _same_bands(one: Pair, other: Pair) -> bool:
    """Whether two pairs have the same true bands, and source bands of the same names."""
    if one.source.names != other.source.names or len(one.target) != len(other.target):
        return False
    return bool(np.abs(one.target.wavelength_nm - other.target.wavelength_nm).max() <= SAME_BAND_NM)
