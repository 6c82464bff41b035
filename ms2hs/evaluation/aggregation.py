"""Where each method stands: scene by scene, over all scenes, by land cover and by wavelength."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.evaluation.accumulators import Accumulator, Bands, PartAngles
from ms2hs.evaluation.baselines import PRIOR, Kind
from ms2hs.evaluation.results import FEATURES_NM, Curve, Row, Scores
from ms2hs.spectra.metrics import SSIM_PIXELS, ssim

# Pixels of a scene from which the angle by wavelength is told.
ANGLED_PIXELS = 1 << 14
DRAWS = 1000
INTERVAL = ("mse", "rmse", "sam_median")


@dataclass(frozen=True, eq=False)
class View:
    """A window as it is scored."""

    scene: str
    title: str
    measured: Float32Array
    """(source band, row, col)."""
    truth: Float32Array
    """(target band, row, col) NaN where unknown."""
    valid: BoolArray
    """(row, col)."""
    cover: NDArray[np.str_]
    """(row, col) of the truth."""


@dataclass(frozen=True, eq=False)
class Made:
    """What a method made of a view."""

    estimate: Float32Array
    """(target band, row, col) finite where valid."""
    sigma: Float32Array | None
    seconds: float = float("nan")


@dataclass(frozen=True)
class Entrant:
    """A method as the table names it."""

    name: str
    kind: Kind
    train_mse: float = float("nan")


class Aggregator:
    """What is known of every method so far. Views of one scene come one after the other."""

    def __init__(self, bands: Bands, entrants: Sequence[Entrant], windows: int) -> None:
        """Nothing is known yet.

        Parameters
        ----------
        windows : how many views of a scene there are at most.
        """
        self.bands = bands
        self.entrants = entrants
        self.pixels: dict[str, int] = {}
        """By scene."""
        self._kept = max(1, ANGLED_PIXELS // windows)
        self._scenes: dict[str, dict[str, Scores]] = {one.name: {} for one in entrants}
        self._covers: dict[str, dict[str, Accumulator]] = {one.name: {} for one in entrants}
        self._curves: dict[str, list[Curve]] = {one.name: [] for one in entrants}
        self._open: dict[tuple[str, str], Accumulator] = {}
        self._angles: dict[str, PartAngles] = {}

    def add(self, view: View, made: Mapping[str, Made]) -> None:
        """Count a view, of which each method made something."""
        valid = np.flatnonzero(view.valid)
        self.pixels[view.scene] = self.pixels.get(view.scene, 0) + len(valid)
        image, names = _Image(view), view.cover.ravel()[valid]
        places = {str(cover): valid[names == cover] for cover in np.unique(names)}
        truth = {cover: _pixels(view.truth, place) for cover, place in places.items()}
        some = valid[:: max(1, -(-len(valid) // self._kept))]
        for entrant in self.entrants:
            one = made[entrant.name]
            for cover, place in places.items():
                tally = self._open.setdefault((entrant.name, cover), Accumulator(self.bands))
                sigma = None if one.sigma is None else _pixels(one.sigma, place)
                tally.add(_pixels(one.estimate, place), truth[cover], sigma)
            tally.similar.append(image.similarity(one.estimate))
            tally.clock += one.seconds, view.valid.size
            angles = self._angles.setdefault(entrant.name, PartAngles(self.bands))
            angles.add(_pixels(one.estimate, some), _pixels(view.truth, some))

    def close_scene(self, scene: str) -> None:
        """No more views of the scene will come; nothing happens where there was none."""
        if not self._open:
            return
        for entrant in self.entrants:
            of_cover = {cover: tally for (name, cover), tally in self._open.items() if name == entrant.name}
            total = reduce(add, of_cover.values())
            self._scenes[entrant.name][scene] = total.scores()
            sam = self._angles[entrant.name].median()
            self._curves[entrant.name].append(Curve(total.rmse, total.bias, sam, total.reliability))
            covers = self._covers[entrant.name]
            for cover, tally in of_cover.items():
                covers[cover] = covers[cover] + tally if cover in covers else tally
        self._open.clear()
        self._angles.clear()

    def rows(self, seed: int) -> tuple[Row, ...]:
        """One a method.

        Parameters
        ----------
        seed : of the bootstrap.
        """
        overall = {one.name: mean_scores(list(self._scenes[one.name].values())) for one in self.entrants}
        least = overall[PRIOR].rmse if PRIOR in overall else float("nan")
        return tuple(
            Row(
                method=one.name,
                kind=one.kind,
                overall=overall[one.name],
                interval=bootstrap_intervals(list(self._scenes[one.name].values()), np.random.default_rng(seed)),
                scenes=self._scenes[one.name],
                covers={cover: tally.scores() for cover, tally in sorted(self._covers[one.name].items())},
                to_prior=overall[one.name].rmse / least if least else float("nan"),
                train_mse=one.train_mse,
            )
            for one in self.entrants
        )

    def curves(self) -> dict[str, Curve]:
        """By method: means over scenes, each counting the same."""
        return {name: _mean_curve(found) for name, found in self._curves.items()}


def _pixels(image: Float32Array, place: NDArray[np.intp]) -> Float32Array:
    """(band, pixel) of an image (band, row, col), at these positions of its flat pixels."""
    return np.take(image.reshape(len(image), -1), place, axis=1)


class _Image:
    """The truth of a view as structural similarity needs it: without unknown bands, made ready once."""

    def __init__(self, view: View) -> None:
        known = np.isfinite(view.truth)
        # bands that most pixels have, and the pixels that have all of these
        self.bands = known.sum(axis=(1, 2)) > view.valid.sum() / 2
        self.ok = view.valid & known[self.bands].all(axis=0)
        self.truth = view.truth[self.bands]

    def similarity(self, estimate: Float32Array) -> float:
        """NaN where no window of 7 pixels is all known."""
        if min(self.ok.shape) < SSIM_PIXELS or not self.bands.any():
            return float("nan")
        return ssim(estimate[self.bands], self.truth, self.ok)


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of each number over those that have it."""
    numbers = {
        name.name: _known_mean([getattr(one, name.name) for one in scores])
        for name in fields(Scores)
        if name.name != "depth"
    }
    depth = {feature: _known_mean([one.depth[feature] for one in scores]) for feature in FEATURES_NM}
    return Scores(**numbers, depth=depth)


def bootstrap_intervals(scores: Sequence[Scores], rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """90 % percentile bootstrap (Efron 1979) over scenes of the means in `INTERVAL`; none of fewer than two scenes."""
    if len(scores) < 2:
        return {}
    drawn = rng.integers(len(scores), size=(DRAWS, len(scores)))
    found = {}
    for name in INTERVAL:
        values = np.array([getattr(one, name) for one in scores])
        if np.isfinite(values).all():
            low, high = np.quantile(values[drawn].mean(axis=1), [0.05, 0.95])
            found[name] = (float(low), float(high))
    return found


def _known_mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    held = [curve.reliability for curve in curves if curve.reliability is not None]
    return Curve(
        _band_mean([curve.rmse for curve in curves]),
        _band_mean([curve.bias for curve in curves]),
        _band_mean([curve.sam for curve in curves]),
        _band_mean(held) if held else None,
    )


def _band_mean(rows: Sequence[FloatArray]) -> FloatArray:
    values = np.stack(rows)
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    mean: FloatArray = np.divide(
        total, known.sum(axis=0), out=np.full(values.shape[1], np.nan), where=known.any(axis=0)
    )
    return mean
