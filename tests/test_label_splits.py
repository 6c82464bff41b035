"""Splits of labelled samples: whole groups on one side, classes on both, given splits, nested shares."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.errors import DataError
from ms2hs.spectra.spectral_grid import grid_of
from ms2hs.tasks.labels.label_set import WHOLE, LabelSet
from ms2hs.tasks.labels.splits import split, subsample


def labels_of(labels, groups, task="classification", **fields):
    """Samples without images: splits need none."""
    labels, groups = np.asarray(labels), np.asarray(groups).astype(str)
    classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    positions = {name: np.zeros(len(groups), np.intp) for name in ("image", "row", "col")}
    names = tuple(f"c{number}" for number in range(classes))
    grid = grid_of(np.array([500.0, 600.0]))
    return LabelSet(
        "toy", task, names, grid, None, [], **positions | fields, labels=labels, groups=groups, grouped_by="plot"
    )


@st.composite
def grouped_labels(draw):
    """Classes with three groups of their own at least, and groups of several classes."""
    classes = draw(st.integers(2, 4))
    own = [(number, f"{number}-{part}") for number in range(classes) for part in range(draw(st.integers(3, 5)))]
    pure = [pair for pair in own for _ in range(draw(st.integers(1, 6)))]
    mixed = draw(st.lists(st.tuples(st.integers(0, classes - 1), st.sampled_from(["x", "y", "z"])), max_size=20))
    labels, groups = zip(*draw(st.permutations(pure + mixed)), strict=True)
    return labels_of(labels, groups)


@settings(max_examples=20)
@given(grouped_labels(), st.integers(0, 5))
def test_split_keeps_groups_whole_and_classes_on_both_sides(label_set, seed):
    parts = split(label_set, seed)
    sides = [parts.train, parts.val, parts.test]
    assert np.array_equal(np.sort(np.concatenate(sides)), np.arange(len(label_set)))
    groups = [set(label_set.groups[side]) for side in sides]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    for side in (parts.train, parts.test):
        assert set(label_set.labels[side]) == set(label_set.labels)
    again = split(label_set, seed)
    assert all(np.array_equal(getattr(parts, name), getattr(again, name)) for name in ("train", "val", "test"))


@settings(max_examples=15)
@given(st.integers(0, 3), st.sampled_from(["classification", "multilabel", "regression"]))
def test_subsamples_are_nested_and_hold_every_class(seed, task):
    random = np.random.default_rng(seed)
    labels = {
        "classification": random.choice(4, 400, p=[0.6, 0.3, 0.09, 0.01]),
        "multilabel": random.random((400, 4)) < [0.6, 0.3, 0.1, 0.02],
        "regression": random.random((400, 2)),
    }[task]
    if task == "classification":
        labels[:4] = range(4)
    label_set, train = labels_of(labels, range(400), task), np.arange(0, 400)
    shares = [subsample(label_set, train, share, seed) for share in (0.02, 0.1, 0.5, 1)]
    for small, large in itertools.pairwise(shares):
        assert set(small) <= set(large)
    assert np.array_equal(shares[-1], train)
    for share, wanted in zip(shares, (8, 40, 200, 400), strict=True):
        assert abs(len(share) - wanted) <= 4
        if task == "classification":
            assert set(labels[share]) == set(labels)
        elif task == "multilabel":
            assert labels[share].any(axis=0).all()


def test_split_has_about_the_wanted_shares():
    label_set = labels_of(np.repeat([0, 1, 2], 200), np.arange(600) // 5)
    parts = split(label_set, 1)
    assert [len(side) for side in (parts.train, parts.val, parts.test)] == pytest.approx([360, 60, 180], abs=12)
    assert not parts.optimistic
    assert parts.by == "plot"
    assert not np.array_equal(parts.train, split(label_set, 2).train)


def test_given_split_is_kept_and_validation_comes_from_its_training_groups():
    given_split = np.repeat(["train", "test", ""], [60, 30, 10])
    label_set = labels_of(np.arange(100) % 2, np.arange(100) // 5, given_split=given_split)
    parts = split(label_set, 0)
    assert set(parts.test) == set(range(60, 90))
    assert parts.by == "given"
    assert set(parts.train) | set(parts.val) == set(range(60))
    assert len(parts.val) == pytest.approx(9, abs=3)
    assert not set(label_set.groups[parts.train]) & set(label_set.groups[parts.val])


def test_guard_removes_training_pixels_whose_window_reaches_another_side():
    row, col = (part.ravel() for part in np.mgrid[0:40, 0:40])
    blocks = (row // 10) * 4 + col // 10
    label_set = labels_of((row + col) % 2, blocks, "segmentation", row=row, col=col)
    parts = split(label_set, 0, guard=2)
    for inner, outer in ((parts.train, parts.val), (parts.train, parts.test), (parts.val, parts.test)):
        distance = np.maximum(np.abs(row[inner][:, None] - row[outer]), np.abs(col[inner][:, None] - col[outer]))
        assert distance.min() > 2
    optimistic = replace(label_set, groups=np.arange(1600).astype(str), grouped_by="pixel")
    assert len(split(optimistic, 0, guard=2).train) == pytest.approx(960, abs=2)
    whole = replace(label_set, row=np.full(1600, WHOLE))
    assert len(split(whole, 0, guard=2).train) == len(split(label_set, 0).train) > len(parts.train)


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 0, 1, 1], ["a", "b", "c", "c"], "1 classes (c1) are not in both training and test when split by plot"),
        ([0, 1, 0, 1], ["a", "a", "b", "b"], "no sample is left for val of 4 samples in 2 groups"),
    ],
)
def test_split_says_what_is_missing(labels, groups, message):
    with pytest.raises(DataError) as caught:
        split(labels_of(labels, groups))
    assert message in str(caught.value)
    assert "--split random" in str(caught.value)


def test_split_names_an_option_that_drops_each_lonely_class():
    label_set = labels_of([0] * 6 + [1], [*list("abcdef"), "g"])
    with pytest.raises(DataError, match="--drop 'c1'"):
        split(label_set)


def test_subsample_refuses_a_share_with_fewer_samples_than_classes():
    label_set = labels_of(np.arange(100) % 3, range(100))
    with pytest.raises(DataError, match=r"1 % of 100 training samples are 1; at least 3 .* 3 % or more is possible"):
        subsample(label_set, np.arange(100), 0.01)
