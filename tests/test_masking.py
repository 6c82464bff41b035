"""Masking strategies and indices of visible tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.errors import UnknownName
from ms2hs.models.masking import STRATEGIES, draw_share, hide, hide_unseen, visible_index
from ms2hs.spectra.sensors import load_sensor

SHAPES = st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(2, 30))


@given(st.sampled_from(sorted(STRATEGIES)), SHAPES, st.floats(0.01, 0.99), st.integers(0, 9))
def test_strategy_hides_equally_many_tokens_in_each_window(strategy, shape, share, seed):
    hidden = hide(strategy, shape, share, np.random.default_rng(seed))
    assert hidden.shape == shape
    counts = hidden.sum(axis=(1, 2))
    assert (counts == counts[0]).all()
    assert 0 < counts[0] < shape[1] * shape[2]
    again = hide(strategy, shape, share, np.random.default_rng(seed))
    np.testing.assert_array_equal(hidden, again)


@given(SHAPES, st.floats(0.05, 0.95))
def test_strategy_hides_along_its_axes(shape, share):
    rng = np.random.default_rng(1)
    spectral = hide("spectral", shape, share, rng)
    assert (spectral == spectral[:, :1]).all()
    assert (hide("spatial", shape, share, rng).std(axis=2) == 0).all()
    at_place = hide("place-spectral", shape, share, rng)
    assert len(np.unique(at_place.sum(axis=2))) == 1
    cubes = hide("spatial-spectral", (1, 16, 16), 0.5, rng)
    assert not (cubes == cubes[:, :1]).all()
    assert not (cubes == cubes[:, :, :1]).all()


@given(SHAPES, st.integers(0, 99))
def test_share_of_hidden_tokens_is_exact_to_one_token(shape, seed):
    share = draw_share((0.2, 0.9), np.random.default_rng(seed))
    hidden = hide("spatial-spectral", shape, (0.2, 0.9), np.random.default_rng(seed))
    total = shape[1] * shape[2]
    assert abs(hidden[0].sum() - share * total) <= 1


@given(st.sampled_from(["spectral", "spatial", "place-spectral"]), st.integers(5, 30), st.floats(0.2, 0.8))
def test_share_of_hidden_tokens_holds_on_average(strategy, count, share):
    rng = np.random.default_rng(count)
    draws = [hide(strategy, (2, count, count), share, rng) for _ in range(60)]
    counts = np.array([drawn.sum(axis=(1, 2)) / count for drawn in draws])
    assert (counts[:, 0] == counts[:, 1]).all()
    assert set(counts[:, 0]) <= {np.floor(share * count), np.ceil(share * count)}
    assert abs(counts.mean() - share * count) < 5 * 0.5 / np.sqrt(len(draws))


def test_spectral_masking_of_30_groups_hides_75_percent_on_average():
    rng = np.random.default_rng(0)
    shares = [hide("spectral", (4, 16, 30), 0.75, rng).mean() for _ in range(400)]
    assert set(np.round(shares, 6)) == {round(22 / 30, 6), round(23 / 30, 6)}
    assert np.mean(shares) == pytest.approx(0.75, abs=0.004)


@given(st.sampled_from(sorted(STRATEGIES)), SHAPES, st.floats(0.1, 0.9))
def test_visible_index_lists_the_visible_tokens(strategy, shape, share):
    hidden = hide(strategy, shape, share, np.random.default_rng(0))
    index = visible_index(hidden, per_patch=False)
    assert index.shape[:2] == (shape[0], 1)
    found = np.ones_like(hidden).reshape(shape[0], -1)
    np.put_along_axis(found, index[:, 0], False, axis=1)
    np.testing.assert_array_equal(found.reshape(shape), hidden)
    if strategy in {"spectral", "place-spectral"}:
        by_place = visible_index(hidden, per_patch=True)
        assert by_place.shape[1] == shape[1]
        np.testing.assert_array_equal(np.sort(by_place.reshape(shape[0], -1)), index[:, 0])


def test_visible_index_rejects_sequences_of_unequal_length():
    hidden = np.array([[[True, False, False], [True, True, False]]])
    with pytest.raises(ValueError, match="equally many"):
        visible_index(hidden, per_patch=True)


def test_hide_rejects_bad_arguments():
    rng = np.random.default_rng(0)
    with pytest.raises(UnknownName, match="spatial-spectral"):
        hide("all", (1, 4, 4), 0.5, rng)
    with pytest.raises(ValueError, match="between 0 and 1"):
        hide("spectral", (1, 4, 4), 1.0, rng)
    with pytest.raises(ValueError, match="single token"):
        hide("spectral", (1, 4, 1), 0.5, rng)


@pytest.mark.parametrize("group", [1, 8])
def test_hide_unseen_keeps_the_bands_of_the_sensor(group):
    source, target = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
    hidden = hide_unseen(source, target, group)
    assert len(hidden) == -(-202 // group)
    if group == 1:
        assert (~hidden).sum() == 76
    assert hidden.any()
    assert not hidden.all()
