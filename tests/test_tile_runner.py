"""TileRunner: stored numbers of finished strips, against the same arithmetic in numpy on the whole raster."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predictor import SOURCE, TARGET, network_of

from ms2hs.errors import Ms2hsError
from ms2hs.inference import tile_runner
from ms2hs.inference.blending import Blender
from ms2hs.inference.device_transfer import VALUES_PER_STEP, Quantiser, ResidualSampling
from ms2hs.inference.predictor import TOKENS_PER_BATCH, Predictor
from ms2hs.inference.tile_runner import TileRunner
from ms2hs.raster.cog.encoding import quantise
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.tiling import Tiling
from ms2hs.spectra.indices import COVERS, CoverShares, by_cover

CPU = torch.device("cpu")
SOURCES, BANDS = 2, 5
some = settings(max_examples=100, deadline=None)


class Toy(Predictor):
    """A predictor of a few multiplications. Overlapping windows differ by their first pixel; NaN where not valid."""

    def __init__(self, at_a_time=1, *, agrees=False, is_local=False, fitting=10**6):
        self.device, self.target_count, self.source_count, self.patch = CPU, BANDS, SOURCES, 1
        self.is_local, self.agrees, self.fitting = is_local, agrees or is_local, fitting
        self.at_a_time, self.tried = at_a_time, []

    patches_per_batch = property(lambda self: self.at_a_time)

    def windows_per_batch(self, rows, cols):  # noqa: ARG002
        return self.at_a_time

    def reconstruct_tensor(self, reflectance, valid=None):
        size = reflectance[0, 0].numel() if self.is_local else len(reflectance)
        self.tried.append(size)
        if size > self.fitting:
            raise torch.OutOfMemoryError("a fake")
        assert reflectance.isfinite().all()
        gains = torch.linspace(0.5, 1.5, BANDS)[:, None, None]
        made = reflectance[:, torch.arange(BANDS) % SOURCES] * gains
        if not self.agrees:
            made = made + reflectance[:, :1, :1, :1]
        return made if valid is None else torch.where(valid[:, None], made, torch.nan)


def scene(height, width, seed=0, sources=SOURCES):
    """(reflectance, valid) of a scene with invalid pixels, often with a corner without valid pixels."""
    rng = np.random.default_rng(seed)
    reflectance = rng.uniform(-0.1, 0.9, (sources, height, width)).astype(np.float32)
    valid = rng.random((height, width)) < rng.choice([0.7, 1.0])
    if rng.random() < 0.5:
        valid[: rng.integers(height + 1), rng.integers(width) :] = False
    reflectance[:, ~valid] = rng.choice([np.nan, np.inf, 1e30])
    return reflectance, valid


def run_tiles(network, tiling, reflectance, valid, **options):
    """(band, row, col) numbers from `start` on, sums of squared residuals, and their count of pixels."""
    runner = TileRunner(network, tiling, **options)
    row, parts, squares, count = options.get("start", 0), [], 0.0, 0
    for i, (top, bottom) in list(enumerate(tiling.rows))[runner.first_index :]:
        strip = runner.add(i, reflectance[:, top:bottom], valid[top:bottom])
        if strip is None:
            continue
        assert strip.row == row
        parts.append(strip.numbers.copy())
        row += parts[-1].shape[1]
        squares, count = squares + strip.squares.sum(axis=1), count + strip.counts.sum()
        assert strip.squares.shape[1] == strip.numbers.shape[1]
        if options.get("residuals"):
            rows = np.arange(strip.row, strip.row + strip.numbers.shape[1])
            assert not strip.squares[:, rows % options["residuals"].row_step > 0].any()
            assert not strip.counts[rows % options["residuals"].row_step > 0].any()
    assert row == tiling.height
    return np.concatenate(parts, 1), squares, count


def blend(network, tiling, reflectance, valid):
    """(band, row, col) of the whole scene in numpy: the running weighted mean of all windows, in their order."""
    mean = np.zeros((network.target_count, tiling.height, tiling.width), np.float32)
    weights = np.zeros(mean.shape[1:], np.float32)
    for window, tapers in zip(tiling, product(*tiling.tapers), strict=True):
        part = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
        x, ok = np.where(valid[part], reflectance[:, *part], np.float32(0)), valid[part]
        made = network.reconstruct_tensor(torch.from_numpy(x)[None], torch.from_numpy(ok)[None])[0].numpy()
        weight = np.outer(*tapers)
        weights[part] += weight
        mean[:, *part] += (made - mean[:, *part]) * (weight / weights[part])
    return mean


@st.composite
def tilings(draw):
    size = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    overlap = draw(st.integers(0, min(size) - 1))
    return Tiling(draw(st.integers(1, 50)), draw(st.integers(1, 50)), size, overlap)


seeds, batches = st.integers(0, 2**32 - 1), st.integers(1, 8)


@some
@given(tilings(), batches, seeds)
def test_strips_equal_blending_and_quantising_in_numpy(tiling, batch, seed):
    reflectance, valid = scene(tiling.height, tiling.width, seed)
    found, _, _ = run_tiles(Toy(batch), tiling, reflectance, valid)
    expected = quantise(blend(Toy(), tiling, reflectance, valid), valid)
    np.testing.assert_array_equal(found, expected)


@some
@given(tilings(), batches, seeds)
def test_strips_do_not_depend_on_uninitialised_memory(tiling, batch, seed):
    reflectance, valid = scene(tiling.height, tiling.width, seed)
    valid &= np.random.default_rng(seed).random((tiling.height, tiling.width)) < 0.1  # most windows have no valid pixel
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *size, device=None, **_: torch.full(size, torch.nan, device=device))
        blender = Blender(tiling, BANDS, CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_runner, "Blender", lambda *_: blender)
        found, _, _ = run_tiles(Toy(batch), tiling, reflectance, valid)
    np.testing.assert_array_equal(found, quantise(blend(Toy(), tiling, reflectance, valid), valid))


@some
@given(tilings(), batches, seeds)
def test_windows_that_agree_return_their_value_exactly(tiling, batch, seed):
    reflectance, valid = scene(tiling.height, tiling.width, seed)
    network = Toy(batch, agrees=True)
    found, _, _ = run_tiles(network, tiling, reflectance, valid)
    clean = torch.from_numpy(np.where(valid, reflectance, np.float32(0)))
    once = network.reconstruct_tensor(clean[None])[0].numpy()
    np.testing.assert_array_equal(found, quantise(once, valid))


@some
@given(tilings(), seeds, st.data())
def test_later_start_gives_the_same_numbers_bit_for_bit(tiling, seed, data):
    reflectance, valid = scene(tiling.height, tiling.width, seed)
    start = data.draw(st.integers(0, tiling.height - 1))
    whole, _, _ = run_tiles(Toy(3), tiling, reflectance, valid)
    found, _, _ = run_tiles(Toy(3), tiling, reflectance, valid, start=start)
    np.testing.assert_array_equal(found, whole[:, start:])


def test_first_index_is_the_first_row_of_windows_beyond_the_start():
    tiling = Tiling(40, 8, 8, 4)
    assert tiling.rows[:3] == [(0, 8), (4, 12), (8, 16)]
    begins = [TileRunner(Toy(), tiling, start=start).first_index for start in (0, 7, 8, 11, 12)]
    assert begins == [0, 0, 1, 1, 2]
    runner = TileRunner(Toy(), tiling, start=8)
    reflectance, valid = scene(40, 8)
    assert runner.add(1, reflectance[:, 4:12], valid[4:12]) is None
    assert runner.add(2, reflectance[:, 8:16], valid[8:16]).row == 8


@some
@given(tilings(), batches, seeds, st.integers(1, 8), st.sampled_from([None, CoverShares(0, 1, 1, 0)]))
def test_residual_sums_equal_numpy(tiling, batch, seed, every, covers):
    reflectance, valid = scene(tiling.height, tiling.width, seed)
    rng = np.random.default_rng(seed)
    gain = rng.normal(0, 0.2, (BANDS, SOURCES * (len(COVERS) if covers else 1))).astype(np.float32)
    change = SimpleNamespace(gain=gain, covers=covers)
    matrix = rng.uniform(0, 0.5, (3, BANDS)).astype(np.float32)
    residuals = ResidualSampling(matrix, np.array([1, 0, 1]), every)
    found, squares, count = run_tiles(Toy(batch), tiling, reflectance, valid, change=change, residuals=residuals)
    clean = np.where(valid, reflectance, np.float32(0))
    flat = clean.reshape(SOURCES, -1)
    added = gain @ (np.concatenate(by_cover(flat, covers.shares(flat))) if covers else flat)
    made = blend(Toy(), tiling, reflectance, valid) + added.reshape(BANDS, *valid.shape)
    assert np.abs(found.astype(int) - quantise(made, valid)).max() <= 1
    few = valid[::every]
    seen, true = made[:, ::every][:, few].astype(float), clean[residuals.bands][:, ::every][:, few]
    assert count == few.sum()
    np.testing.assert_allclose(squares, np.square(matrix @ seen - true).sum(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("places", [3, 7, 30, 10_000])
@pytest.mark.parametrize("start", [0, 5, 13])
def test_local_network_does_not_depend_on_parts(places, start):
    tiling = Tiling(21, 17, (8, 17), 0)
    reflectance, valid = scene(21, 17, seed=5)
    assert 0 < valid.sum() < valid.size
    residuals = ResidualSampling(np.full((1, BANDS), 0.2, np.float32), np.array([1]), 4)
    network = Toy(places, is_local=True)
    found, squares, count = run_tiles(network, tiling, reflectance, valid, residuals=residuals, start=start)
    assert max(network.tried) <= places
    clean = np.where(valid, reflectance, np.float32(0))
    made = network.reconstruct_tensor(torch.from_numpy(clean)[None])[0].numpy()
    np.testing.assert_array_equal(found, quantise(made, valid)[:, start:])
    rows = np.arange(start, 21)[np.arange(start, 21) % 4 == 0]
    few = valid[rows]
    assert count == few.sum()
    difference = 0.2 * made[:, rows].sum(axis=0) - clean[1, rows]
    np.testing.assert_allclose(squares, np.square(difference[few]).sum(), rtol=1e-5)


def test_windows_without_valid_pixel_are_not_computed():
    tiling = Tiling(12, 24, 8, 4)
    reflectance, valid = scene(12, 24)
    valid[:] = False
    valid[2, 9] = True
    network = Toy(1)
    found, _, _ = run_tiles(network, tiling, reflectance, valid)
    assert len(network.tried) == 2  # two of ten windows: the windows of the upper row that begin at columns 4 and 8
    assert (found != NODATA).sum() == BANDS
    network = Toy(4, is_local=True)
    run_tiles(network, Tiling(12, 24, (4, 24), 0), reflectance, valid)
    assert network.tried == [4]


@pytest.mark.parametrize("is_local", [False, True])
def test_out_of_memory_halves_the_batch(is_local):
    tiling = Tiling(16, 90, (8, 90), 0) if is_local else Tiling(16, 90, 8, 2)
    reflectance, valid = scene(16, 90, seed=3)
    valid[:] = True
    reflectance[:] = np.random.default_rng(0).uniform(0, 1, reflectance.shape)
    plenty, tight = Toy(12, is_local=is_local), Toy(12, is_local=is_local, fitting=4)
    residuals = ResidualSampling(np.full((1, BANDS), 0.2, np.float32), np.array([1]), 1)
    whole = run_tiles(plenty, tiling, reflectance, valid, residuals=residuals)
    found = run_tiles(tight, tiling, reflectance, valid, residuals=residuals)
    np.testing.assert_array_equal(found[0], whole[0])
    np.testing.assert_allclose(found[1], whole[1], rtol=1e-6)
    assert found[2] == whole[2]
    assert tight.tried[:3] == [12, 6, 3]
    assert max(tight.tried[2:]) == 3
    units = 16 * 90 if is_local else len(tiling)
    assert sum(tight.tried[2:]) == units  # each unit once


@pytest.mark.parametrize("is_local", [False, True])
def test_out_of_memory_with_one_unit_is_an_error(is_local):
    tiling = Tiling(16, 90, (8, 90), 0) if is_local else Tiling(16, 90, 8, 2)
    reflectance, valid = scene(16, 90, seed=3)
    with pytest.raises(Ms2hsError, match=r"cpu is out of memory with a batch of 1 .*must fit.*--device cpu"):
        run_tiles(Toy(12, is_local=is_local, fitting=0), tiling, reflectance, valid)


def test_strip_is_valid_until_the_second_next_add():
    tiling = Tiling(40, 10, 8, 2)
    reflectance, valid = scene(40, 10, seed=5)
    runner = TileRunner(Toy(), tiling)
    before = None
    for i, (top, bottom) in enumerate(tiling.rows):
        strip = runner.add(i, reflectance[:, top:bottom], valid[top:bottom])
        if before:
            np.testing.assert_array_equal(before[0].numbers, before[1])
        before = strip, strip.numbers.copy()


def test_quantiser_equals_quantise_of_raster_encoding(monkeypatch):
    monkeypatch.setitem(VALUES_PER_STEP, "cpu", 7)  # few bands in each step
    steps = np.array([0, 0.5, 1.5, 2.5, -0.5, -1.5, 32767.4, 32768, -32768, 1e9, -1e9, np.nan, np.inf, -np.inf])
    made = np.stack([steps, steps[::-1], steps + 7]).astype(np.float32)[:, None] * np.float32(SCALE)
    for valid in (np.ones((1, 14), bool), np.arange(14)[None] % 3 > 0):
        found = torch.empty(made.shape, dtype=torch.int16)
        ok = None if valid.all() else torch.from_numpy(valid)
        Quantiser(CPU, None, None).quantise(torch.from_numpy(made), torch.zeros(2, 1, 14), ok, found)
        np.testing.assert_array_equal(found.numpy(), quantise(made, valid))


def assert_near(found, expected):
    """Equal except for the last digit: matrix products of another shape round differently."""
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", ["general", "dlr-ibm-spatial-spectral"])
@pytest.mark.parametrize("shape", [(35, 41), (3, 40), (40, 3), (5, 6), (16, 17)])
@pytest.mark.parametrize("batch", [1, 4])
def test_window_networks_equal_numpy_blending(monkeypatch, name, shape, batch):
    monkeypatch.setattr(Predictor, "windows_per_batch", lambda *_: batch)
    network = Predictor(network_of(name), SOURCE, TARGET, window=16)
    assert not network.is_local
    reflectance, valid = scene(*shape, seed=5, sources=12)
    tiling = Tiling(*shape, network.window, network.overlap)
    found, _, _ = run_tiles(network, tiling, reflectance, valid)
    assert_near(found, quantise(blend(network, tiling, reflectance, valid), valid))


@pytest.mark.parametrize("name", ["spectral", "dlr-ibm-spectral"])
def test_local_networks_equal_reconstruct(monkeypatch, name):
    monkeypatch.setitem(TOKENS_PER_BATCH, "cpu", 12 * 5)
    network = Predictor(network_of(name), SOURCE, TARGET)
    assert network.is_local
    reflectance, valid = scene(22, 27, seed=5, sources=12)
    found, _, _ = run_tiles(network, Tiling(22, 27, (8, 27), 0), reflectance, valid)
    assert_near(found, quantise(network.reconstruct(reflectance, valid), valid))
    again, _, _ = run_tiles(network, Tiling(22, 27, (8, 27), 0), reflectance, valid, start=9)
    np.testing.assert_array_equal(again, found[:, 9:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["spectral", "dlr-ibm-spatial-spectral"])
def test_cuda_equals_cpu(name):
    reflectance, valid = scene(100, 120, seed=5, sources=12)
    results = []
    for device in (CPU, torch.device("cuda", 0)):
        network = Predictor(network_of(name), SOURCE, TARGET, device)
        network._bfloat16 = False
        tiling = Tiling(100, 120, (16, 120), 0) if network.is_local else Tiling(100, 120, 16, 4)
        residuals = ResidualSampling(np.full((1, 202), 1 / 202, np.float32), np.array([4]), 8)
        results.append(run_tiles(network, tiling, reflectance, valid, residuals=residuals))
    (first, squares, count), (second, others, same) = results
    assert np.abs(first.astype(int) - second).max() <= 2
    np.testing.assert_allclose(squares, others, rtol=1e-3)
    assert count == same


def test_tile_runner_refuses_rows_out_of_order_and_bad_arguments():
    tiling = Tiling(20, 20, 8, 2)
    reflectance, valid = scene(20, 20)
    runner = TileRunner(Toy(), tiling)
    with pytest.raises(ValueError, match="expected 0"):
        runner.add(1, reflectance[:, 6:14], valid[6:14])
    with pytest.raises(ValueError, match="do not match"):
        runner.add(0, reflectance[:, :7], valid[:7])
    for i, (top, bottom) in enumerate(tiling.rows):
        runner.add(i, reflectance[:, top:bottom], valid[top:bottom])
    with pytest.raises(ValueError, match="all are done"):
        runner.add(len(tiling.rows), reflectance[:, :8], valid[:8])
    with pytest.raises(ValueError, match="overlap"):
        TileRunner(Toy(is_local=True), tiling)
    for start in (-1, 20):
        with pytest.raises(ValueError, match="start"):
            TileRunner(Toy(), tiling, start=start)
