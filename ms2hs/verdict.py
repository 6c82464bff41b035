"""What an evaluation comes to, in sentences."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ms2hs.scores import Evaluation, Row

# What 90 % intervals hold where they are called about right: on average, and at least in the worst scene.
RIGHT = (0.87, 0.93)
WORST_RIGHT = 0.78


@dataclass(frozen=True)
class Finding:
    """One sentence, after the method that it is about."""

    method: str
    text: str
    tone: Literal["good", "bad", "plain"] = "plain"


def findings(evaluation: Evaluation) -> list[Finding]:
    """What to know first: the best method, how models stand to the prior, whether intervals hold."""
    best = best_of(evaluation.rows)
    if best is None:
        return [Finding("", "Nothing could be scored: no method has a known error.", "bad")]
    found = [_best(best, len(evaluation.scenes)), *_by_angle(evaluation.rows, best)]
    priors = [row for row in evaluation.rows if row.kind == "prior"]
    models = [row for row in evaluation.rows if row.kind == "model"]
    if not priors:
        found.append(Finding("", "No prior was scored, so nothing here says whether a model is worth its time."))
    elif not models:
        found.append(Finding("", "No other model was scored beside the prior."))
    else:
        found += [_beside_prior(model, priors[0]) for model in models]
    return [*found, *_intervals(best)]


def best_of(rows: Sequence[Row]) -> Row | None:
    """The row of the lowest known RMSE over all scenes."""
    known = [row for row in rows if not math.isnan(row.overall.rmse)]
    return min(known, key=lambda row: row.overall.rmse) if known else None


def _best(best: Row, scenes: int) -> Finding:
    text = f"has the lowest RMSE: {best.overall.rmse:.4f}"
    if "rmse" in best.interval and not any(map(math.isnan, best.interval["rmse"])):
        low, high = best.interval["rmse"]
        text += f" (90 % bootstrap interval over {scenes} scenes {low:.4f}–{high:.4f})"
    elif scenes == 1:
        text += " (one scene only: no interval, and no claim about others)"
    if not math.isnan(best.overall.sam_median):
        text += f", with a median spectral angle of {best.overall.sam_median:.2f}°"
    if best.kind == "baseline":
        return Finding(best.method, f"{text}. A baseline is best: no model here is worth its time.", "bad")
    return Finding(best.method, f"{text}.")


def _by_angle(rows: Sequence[Row], best: Row) -> Iterator[Finding]:
    known = [row for row in rows if not math.isnan(row.overall.sam_median)]
    closest = min(known, key=lambda row: row.overall.sam_median, default=best)
    if closest is not best:
        yield Finding(closest.method, f"has the lowest median spectral angle: {closest.overall.sam_median:.2f}°.")


def _beside_prior(model: Row, prior: Row) -> Finding:
    if math.isnan(model.to_prior):
        return Finding(model.method, "could not be held against the prior.")
    percent = 100 * abs(model.to_prior - 1)
    much = f"{percent:.1f} %" if percent >= 0.1 else "less than 0.1 %"
    sizes = f"{_pair(model.overall.rmse, prior.overall.rmse)}{_won(model, prior)}"
    if model.loses:
        return Finding(model.method, f"loses to the prior: its RMSE is {much} higher, {sizes}.", "bad")
    if model.to_prior == 1:
        return Finding(model.method, f"neither beats nor loses to the prior: {sizes}.")
    return Finding(model.method, f"beats the prior: its RMSE is {much} lower, {sizes}.", "good")


def _pair(one: float, other: float) -> str:
    digits = 4 if f"{one:.4f}" != f"{other:.4f}" else 6
    return f"{one:.{digits}f} against {other:.{digits}f}"


def _won(model: Row, prior: Row) -> str:
    """In how many scenes the model is ahead: a paired count, which the intervals of two methods are not."""
    shared = [name for name in model.scenes if name in prior.scenes]
    if len(shared) < 2:
        return ""
    won = sum(model.scenes[name].rmse < prior.scenes[name].rmse for name in shared)
    return f", and it is ahead in {won} of {len(shared)} scenes"


def _intervals(row: Row) -> Iterator[Finding]:
    mean = row.overall.coverage_90
    if math.isnan(mean):
        return
    shares = [one.coverage_90 for one in row.scenes.values() if not math.isnan(one.coverage_90)]
    worst = min(shares, default=mean)
    told = f" ({100 * worst:.0f} % in the worst scene)" if len(shares) > 1 else ""
    judged = (
        "too narrow" if mean < RIGHT[0] or worst < WORST_RIGHT else "too wide" if mean > RIGHT[1] else "about right"
    )
    yield Finding(row.method, f"gives 90 % intervals that hold {100 * mean:.1f} % of values{told}: {judged}.")
