"""What an evaluation comes to, in sentences."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ms2hs.evaluation.results import LEVEL, Evaluation, Row, Scores

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
    rows = evaluation.rows
    best = best_of(rows)
    if best is None:
        return [Finding("", "Nothing could be scored: no method has a known error.", "bad")]
    found = [_best(best, len(evaluation.scenes)), *_by_angle(rows, best)]
    priors = [row for row in rows if row.kind == "prior"]
    models = [row for row in rows if row.kind == "model"]
    if not priors:
        found.append(Finding("", "No prior was scored, so nothing here says whether a model is worth its time."))
    elif not models:
        found.append(Finding("", "No other model was scored beside the prior."))
    else:
        found += [_beside_prior(model, priors[0]) for model in models]
    sure = best_of([row for row in rows if not math.isnan(row.overall.coverage_90)])
    return [*found, _intervals(sure)] if sure else found


def best_of(rows: Sequence[Row]) -> Row | None:
    """The row of the lowest known RMSE over all scenes; of rows as good as level, the first, which is the simplest."""
    return _lowest(rows, lambda scores: scores.rmse)


def _lowest(rows: Sequence[Row], read: Callable[[Scores], float]) -> Row | None:
    known = [row for row in rows if not math.isnan(read(row.overall))]
    least = min((read(row.overall) for row in known), default=0.0)
    return next((row for row in known if read(row.overall) <= (1 + LEVEL) * least), None)


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
    closest = _lowest(rows, lambda scores: scores.sam_median)
    if closest and closest is not best and closest.overall.sam_median * (1 + LEVEL) < best.overall.sam_median:
        yield Finding(closest.method, f"has the lowest median spectral angle: {closest.overall.sam_median:.2f}°.")


def _beside_prior(model: Row, prior: Row) -> Finding:
    if math.isnan(model.to_prior):
        return Finding(model.method, "could not be held against the prior.")
    apart = abs(model.to_prior - 1)
    much = f"{100 * apart:.1f} %" if apart >= LEVEL else f"less than {LEVEL:.1%}".replace("%", " %")
    if not model.loses and apart < LEVEL:
        return Finding(model.method, f"is level with the prior: their RMSE is {much} apart.")
    sizes = f"{_pair(model.overall.rmse, prior.overall.rmse)}{_won(model, prior)}"
    if model.loses:
        return Finding(model.method, f"loses to the prior: its RMSE is {much} higher, {sizes}.", "bad")
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


def _intervals(row: Row) -> Finding:
    mean = row.overall.coverage_90
    shares = [one.coverage_90 for one in row.scenes.values() if not math.isnan(one.coverage_90)]
    worst = min(shares, default=mean)
    told = f" ({100 * worst:.0f} % in the worst scene)" if len(shares) > 1 else ""
    judged = (
        "too narrow" if mean < RIGHT[0] or worst < WORST_RIGHT else "too wide" if mean > RIGHT[1] else "about right"
    )
    return Finding(row.method, f"gives 90 % intervals that hold {100 * mean:.1f} % of values{told}: {judged}.")
