"""The summary of an evaluation, in sentences: the best method, the models beside the prior, the intervals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ms2hs.evaluation.results import TIE, Evaluation, MethodScores

# 90 % intervals are about right if they hold this share of values, and at least that share in the worst scene.
GOOD_COVERAGE = (0.87, 0.93)
MIN_SCENE_COVERAGE = 0.78


@dataclass(frozen=True)
class Finding:
    """One sentence, after the name of its method."""

    method: str
    text: str
    tone: Literal["good", "bad", "plain"] = "plain"


def findings(evaluation: Evaluation) -> list[Finding]:
    """The best method, each model compared with the prior, and whether the intervals are right."""
    rows = evaluation.rows
    best = best_of(rows)
    if best is None:
        return [Finding("", "Nothing could be scored: no method has a known error.", "bad")]
    result = [_best(best, len(evaluation.scenes)), *_best_by_angle(rows, best)]
    priors = [row for row in rows if row.kind == "prior"]
    models = [row for row in rows if row.kind == "model"]
    if not priors:
        result.append(Finding("", "No prior was scored, so no model can be compared with it."))
    elif not models:
        result.append(Finding("", "No other model was scored beside the prior."))
    else:
        result += [_compared_with_prior(model, priors[0]) for model in models]
    with_interval = best_of([row for row in rows if not math.isnan(row.overall["coverage_90"])])
    return [*result, _coverage(with_interval)] if with_interval else result


def best_of(rows: Sequence[MethodScores], key: str = "rmse") -> MethodScores | None:
    """The first method that is level with the lowest value of a metric: the simplest; None without a known value."""
    known = [row for row in rows if not math.isnan(row.overall[key])]
    lowest = min((row.overall[key] for row in known), default=0.0)
    return next((row for row in known if row.overall[key] <= (1 + TIE) * lowest), None)


def _best(best: MethodScores, scenes: int) -> Finding:
    text = f"has the lowest RMSE: {best.overall['rmse']:.4f}"
    if "rmse" in best.interval and not any(map(math.isnan, best.interval["rmse"])):
        low, high = best.interval["rmse"]
        text += f" (90 % bootstrap interval over {scenes} scenes {low:.4f}–{high:.4f})"
    elif scenes == 1:
        text += " (one scene only: no interval, and no conclusion for other scenes)"
    if not math.isnan(best.overall["sam_median"]):
        text += f", with a median spectral angle of {best.overall['sam_median']:.2f}°"
    if best.kind == "baseline":
        return Finding(best.method, f"{text}. A baseline is best: no model is worth its time.", "bad")
    return Finding(best.method, f"{text}.")


def _best_by_angle(rows: Sequence[MethodScores], best: MethodScores) -> Iterator[Finding]:
    closest = best_of(rows, "sam_median")
    if closest and closest.overall["sam_median"] * (1 + TIE) < best.overall["sam_median"]:
        yield Finding(closest.method, f"has the lowest median spectral angle: {closest.overall['sam_median']:.2f}°.")


def _compared_with_prior(model: MethodScores, prior: MethodScores) -> Finding:
    if math.isnan(model.to_prior):
        return Finding(model.method, "could not be compared with the prior.")
    difference = abs(model.to_prior - 1)
    percent = f"{100 * difference:.1f} %" if difference >= TIE else f"less than {100 * TIE:.1f} %"
    if not model.loses and difference < TIE:
        return Finding(model.method, f"is level with the prior: their RMSE differs by {percent}.")
    values = f"{_against(model.overall['rmse'], prior.overall['rmse'])}{_scenes_ahead(model, prior)}"
    if model.loses:
        return Finding(model.method, f"loses to the prior: its RMSE is {percent} higher, {values}.", "bad")
    return Finding(model.method, f"beats the prior: its RMSE is {percent} lower, {values}.", "good")


def _against(first: float, second: float) -> str:
    digits = 4 if f"{first:.4f}" != f"{second:.4f}" else 6
    return f"{first:.{digits}f} against {second:.{digits}f}"


def _scenes_ahead(model: MethodScores, prior: MethodScores) -> str:
    """The number of scenes in which the model is better, as text; empty for fewer than two scenes."""
    shared = [name for name in model.scenes if name in prior.scenes]
    if len(shared) < 2:
        return ""
    ahead = sum(model.scenes[name]["rmse"] < prior.scenes[name]["rmse"] for name in shared)
    return f", and it is ahead in {ahead} of {len(shared)} scenes"


def _coverage(row: MethodScores) -> Finding:
    mean = row.overall["coverage_90"]
    shares = [scores["coverage_90"] for scores in row.scenes.values() if not math.isnan(scores["coverage_90"])]
    worst = min(shares, default=mean)
    worst_scene = f" ({100 * worst:.0f} % in the worst scene)" if len(shares) > 1 else ""
    if mean < GOOD_COVERAGE[0] or worst < MIN_SCENE_COVERAGE:
        verdict = "too narrow"
    else:
        verdict = "too wide" if mean > GOOD_COVERAGE[1] else "about right"
    return Finding(row.method, f"gives 90 % intervals that hold {100 * mean:.1f} % of values{worst_scene}: {verdict}.")
