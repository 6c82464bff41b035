"""Scores of predicted labels, by scikit-learn.

To add a score, write a function of the truth and a `Prediction`, and add a line to `SCORES`. The first score of a task
is its main score: heads choose their regularisation by it, and findings compare by it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from ms2hs.arrays import FloatArray

Labels = NDArray[Any]


class Prediction(NamedTuple):
    """Predicted labels of samples."""

    labels: Labels
    """As `LabelSet.labels`: (sample,) class, (sample, class) bool, or (sample, quantity)."""
    confidence: FloatArray | None = None
    """(sample, class) for `multilabel`: larger for labels that are more likely. None for other tasks."""


@dataclass(frozen=True)
class LabelScore:
    """A score of labels; larger is better, 1 is perfect."""

    heading: str
    tasks: tuple[str, ...]
    compute: Callable[[Labels, Prediction], float]
    """NaN where undefined."""
    definition: str


def _accuracy(truth: Labels, predicted: Prediction) -> float:
    return float(metrics.accuracy_score(truth, predicted.labels))


def _macro(score: Callable[..., float], truth: Labels, predicted: Prediction) -> float:
    """The mean over the classes of the truth of a score that is 0 where nothing is predicted."""
    present = np.flatnonzero(truth.any(axis=0)) if truth.ndim == 2 else np.unique(truth)
    if not len(present):
        return np.nan
    return float(score(truth, predicted.labels, labels=present, average="macro", zero_division=0))


def _mean_average_precision(truth: Labels, predicted: Prediction) -> float:
    present = truth.any(axis=0)
    if predicted.confidence is None or not present.any():
        return np.nan
    return float(metrics.average_precision_score(truth[:, present], predicted.confidence[:, present], average="macro"))


def _of_change(score: Callable[..., float], truth: Labels, predicted: Prediction) -> float:
    """A score of class 1, the changed pixels."""
    return float(score(truth, predicted.labels, pos_label=1, average="binary", zero_division=0))


def _r2(truth: Labels, predicted: Prediction) -> float:
    """Over the quantities that vary in the truth."""
    varies = np.ptp(truth, axis=0) > 0
    if not varies.any():
        return np.nan
    return float(metrics.r2_score(truth[:, varies], predicted.labels[:, varies]))


# Tasks whose samples have one class each.
ONE_CLASS = ("classification", "segmentation", "change")
SCORES = {
    "miou": LabelScore(
        "mIoU",
        ("segmentation",),
        partial(_macro, metrics.jaccard_score),
        "mean over classes of intersection over union",
    ),
    "accuracy": LabelScore(
        "accuracy", ("classification", "segmentation"), _accuracy, "share of samples with the right class"
    ),
    "map": LabelScore(
        "mAP", ("multilabel",), _mean_average_precision, "mean over classes of the average precision of the ranking"
    ),
    "f1": LabelScore("F1", ("change",), partial(_of_change, metrics.f1_score), "of the changed pixels"),
    "precision": LabelScore(
        "precision", ("change",), partial(_of_change, metrics.precision_score), "of the changed pixels"
    ),
    "recall": LabelScore("recall", ("change",), partial(_of_change, metrics.recall_score), "of the changed pixels"),
    "macro_f1": LabelScore(
        "macro F1",
        ("classification", "segmentation", "multilabel"),
        partial(_macro, metrics.f1_score),
        "mean over classes of the harmonic mean of precision and recall",
    ),
    "r2": LabelScore("R²", ("regression",), _r2, "mean over quantities of the explained share of the variance"),
}


def scores_of(task: str) -> dict[str, LabelScore]:
    """The scores of a task, its main score first."""
    return {key: score for key, score in SCORES.items() if task in score.tasks}


def main_score(task: str) -> str:
    """Key of the main score of a task."""
    return next(iter(scores_of(task)))


def score_all(task: str, truth: Labels, predicted: Prediction) -> dict[str, float]:
    """Every score of a task; NaN where undefined."""
    return {key: score.compute(truth, predicted) for key, score in scores_of(task).items()}


def confusion(truth: Labels, predicted: Labels, classes: int) -> NDArray[np.intp]:
    """(true class, predicted class) number of samples."""
    counts: NDArray[np.intp] = metrics.confusion_matrix(truth, predicted, labels=np.arange(classes))
    return counts
