"""Linear heads on features, by scikit-learn: what a task can read from a feature without changing it.

Features are standardised. Logistic regression predicts classes, one for each label of `multilabel`; ridge regression
predicts quantities. The regularisation is chosen by cross-validation within the training samples, whole groups in one
fold, by the main score of the task. The rule is the same for every feature, and uses no label beyond the given ones.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ms2hs.arrays import Float32Array
from ms2hs.tasks.label_scores import ONE_CLASS, SCORES, Labels, Prediction, main_score

# Strengths of the L2 regularisation of standardised features, the strongest first: of equal scores the first is taken.
STRENGTHS = (1e2, 1e1, 1.0, 1e-1, 1e-2)
# Strength where the samples do not allow cross-validation.
DEFAULT_STRENGTH = 1.0
FOLDS = 3
MAX_ITERATIONS, TOLERANCE = 300, 1e-3

Positions = NDArray[np.intp]


class Training(NamedTuple):
    """Samples with labels."""

    features: Float32Array
    """(sample, value), finite."""
    labels: Labels
    """As `LabelSet.labels`; of a classification with at least two classes."""
    groups: NDArray[np.str_]
    """(sample,) names of what a fold keeps together."""

    def part(self, positions: Positions) -> "Training":
        """Some of the samples."""
        return Training(self.features[positions], self.labels[positions], self.groups[positions])


@dataclass(frozen=True)
class LinearHead:
    """A fitted head."""

    task: str
    model: Pipeline
    strength: float
    """Strength of the regularisation."""

    @classmethod
    def fit(cls, task: str, samples: Training, *, components: int = 0, seed: int = 0) -> Self:
        """Choose the regularisation, and fit to all samples.

        Parameters
        ----------
        components : most principal components of the standardised features that the head sees; 0: all features.
        """
        folds = inner_folds(task, samples, seed)
        strength = DEFAULT_STRENGTH
        if folds:
            scores = [
                [cls._of(task, samples.part(train), s, components).score(samples.part(val)) for s in STRENGTHS]
                for train, val in folds
            ]
            mean = np.nan_to_num(np.mean(scores, axis=0), nan=-np.inf)
            strength = STRENGTHS[int(mean.argmax())]
        return cls._of(task, samples, strength, components)

    @classmethod
    def _of(cls, task: str, samples: Training, strength: float, components: int) -> Self:
        """A head with this regularisation."""
        parts = [StandardScaler()]
        if components:
            parts.append(PCA(min(components, *samples.features.shape), svd_solver="full"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fits that end before they converge, and labels that no sample has
            model = make_pipeline(*parts, _estimator(task, strength)).fit(samples.features, samples.labels)
        return cls(task, model, strength)

    def predict(self, features: Float32Array) -> Prediction:
        """The labels of samples (sample, value)."""
        labels = self.model.predict(features)
        if self.task in ONE_CLASS:
            return Prediction(labels)
        labels = labels.reshape(len(features), -1)  # a single label or quantity has one axis
        if self.task == "regression":
            return Prediction(labels)
        return Prediction(labels.astype(bool), self.model.decision_function(features).reshape(labels.shape))

    def score(self, samples: Training) -> float:
        """The main score of the task; NaN where undefined."""
        return SCORES[main_score(self.task)].compute(samples.labels, self.predict(samples.features))


def inner_folds(task: str, samples: Training, seed: int) -> list[tuple[Positions, Positions]]:
    """Positions of training and validation samples of each fold; empty where no fold is possible.

    Whole groups lie in one fold, unless a class has only one group: then samples of one group lie in several folds.
    """
    labels, groups = samples.labels, samples.groups
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


def _estimator(task: str, strength: float) -> Ridge | LogisticRegression | OneVsRestClassifier:
    if task == "regression":
        return Ridge(alpha=strength)
    # changed pixels are rare: without weights every pixel would be unchanged
    weights = "balanced" if task == "change" else None
    model = LogisticRegression(C=1 / strength, max_iter=MAX_ITERATIONS, tol=TOLERANCE, class_weight=weights)
    return OneVsRestClassifier(model) if task == "multilabel" else model
