"""Linear heads on features, by scikit-learn: what a task can read from a feature without changing it.

Features are standardised. Logistic regression predicts classes, one for each label of `multilabel`; ridge regression
predicts quantities. The regularisation is chosen by cross-validation within the training samples, whole groups in one
fold, by the main score of the task. The rule is the same for every feature, and uses no label beyond the given ones.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ms2hs.arrays import Float32Array
from ms2hs.tasks.label_scores import SCORES, Labels, Prediction, main_score

# Strengths of the L2 regularisation of standardised features, the strongest first: of equal scores the first is taken.
STRENGTHS = (1e2, 1e1, 1.0, 1e-1, 1e-2)
# Strength where the samples do not allow cross-validation.
DEFAULT_STRENGTH = 1.0
FOLDS = 3
MAX_ITERATIONS, TOLERANCE = 300, 1e-3

Positions = NDArray[np.intp]


class LinearHead:
    """A fitted head."""

    def __init__(self, task: str, model: Pipeline, strength: float) -> None:
        self.task, self._model = task, model
        self.strength = strength
        """The chosen strength of the regularisation."""

    @classmethod
    def fit(
        cls, task: str, features: Float32Array, labels: Labels, groups: NDArray[np.str_], seed: int = 0
    ) -> "LinearHead":
        """Choose the regularisation, and fit to all samples.

        Parameters
        ----------
        features : (sample, value), finite.
        labels : as `LabelSet.labels`; of a classification with at least two classes.
        groups : (sample,) names of what a fold keeps together.
        """
        folds = inner_folds(task, labels, groups, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fits that stop early, and folds without a class
            if not folds:
                model = _pipeline(task, DEFAULT_STRENGTH).fit(features, labels)
                return cls(task, model, DEFAULT_STRENGTH)
            mean = np.mean([[_score(task, s, features, labels, fold) for s in STRENGTHS] for fold in folds], axis=0)
            strength = STRENGTHS[int(np.argmax(np.nan_to_num(mean, nan=-np.inf)))]
            return cls(task, _pipeline(task, strength).fit(features, labels), strength)

    def predict(self, features: Float32Array) -> Prediction:
        """The labels of samples (sample, value)."""
        labels = self._model.predict(features)
        if self.task == "multilabel":
            return Prediction(labels.astype(bool), self._model.decision_function(features))
        return Prediction(labels)


def inner_folds(task: str, labels: Labels, groups: NDArray[np.str_], seed: int) -> list[tuple[Positions, Positions]]:
    """Positions of training and validation samples of each fold; empty where no fold is possible.

    Whole groups lie in one fold, unless a class has only one group: then samples of one group lie in several folds.
    """
    rows = np.zeros((len(labels), 1))
    if task in {"multilabel", "regression"}:
        number = min(FOLDS, len(np.unique(groups)))
        if number > 1:
            return list(GroupKFold(number).split(rows, labels, groups))
        number = min(FOLDS, len(labels) // 2)
        return list(KFold(number, shuffle=True, random_state=seed).split(rows)) if number > 1 else []
    classes, counts = np.unique(labels, return_counts=True)
    number = min(FOLDS, *(len(np.unique(groups[labels == label])) for label in classes))
    if number > 1:
        folds = StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(rows, labels, groups)
        return [(train, val) for train, val in folds if len(val) and len(np.unique(labels[train])) > 1]
    number = min(FOLDS, int(counts.min()))
    return list(StratifiedKFold(number, shuffle=True, random_state=seed).split(rows, labels)) if number > 1 else []


def _pipeline(task: str, strength: float) -> Pipeline:
    """A head of one regularisation, not fitted."""
    if task == "regression":
        return make_pipeline(StandardScaler(), Ridge(alpha=strength))
    # changed pixels are rare: without weights every pixel would be unchanged
    weights = "balanced" if task == "change" else None
    model = LogisticRegression(C=1 / strength, max_iter=MAX_ITERATIONS, tol=TOLERANCE, class_weight=weights)
    return make_pipeline(StandardScaler(), OneVsRestClassifier(model) if task == "multilabel" else model)


def _score(
    task: str, strength: float, features: Float32Array, labels: Labels, fold: tuple[Positions, Positions]
) -> float:
    """The main score of a fold's validation samples."""
    train, val = fold
    head = LinearHead(task, _pipeline(task, strength).fit(features[train], labels[train]), strength)
    return SCORES[main_score(task)].compute(labels[val], head.predict(features[val]))
