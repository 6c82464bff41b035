"""Probes: heads and scores beside their definitions, features, and toys where the encoder or raw bands must win."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from cubes_of_arrays import ArrayCube

from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.errors import DataError, GridError
from ms2hs.models.config import ModelConfig
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import load_weights
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of
from ms2hs.tasks import sample_features as features
from ms2hs.tasks.heads import LinearHead, Training, inner_folds
from ms2hs.tasks.label_scores import Prediction, score_all
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_set import WHOLE, LabelSet
from ms2hs.tasks.probe_report import findings, render, score_tables
from ms2hs.tasks.probing import ProbeOptions, feature_plan, probe, probe_samples
from ms2hs.tasks.task_encoder import TaskEncoder

LINEAR, NETWORK = load_weights("linear"), load_weights("spatial-spectral")
ONE_SEED = ProbeOptions(shares=(1.0,), seeds=1)


def points_of(values, labels, grid, groups=None, **fields):
    """(sample, band) spectra as isolated pixels of one image."""
    count = len(values)
    cube = ArrayCube("points", "points", grid, np.ascontiguousarray(values.T[:, :, None], np.float32))
    groups = np.arange(count) if groups is None else groups
    names = tuple(f"c{number}" for number in range(int(np.max(labels)) + 1))
    zeros = np.zeros(count, np.intp)
    return LabelSet(
        "toy", "classification", names, grid, None, [(cube,)], image=zeros, row=np.arange(count), col=zeros,
        labels=np.asarray(labels), groups=np.asarray(groups).astype(str), grouped_by="plot", isolated=True, **fields
    )  # fmt: skip


def images_of(values, labels, grid, task="classification"):
    """(sample, date, band, row, col) whole images."""
    images = [tuple(ArrayCube("image", "place", grid, date) for date in image) for image in values]
    count = len(images)
    whole = np.full(count, WHOLE)
    groups = np.arange(count).astype(str)
    return LabelSet(
        "toy", task, ("<a>", "b"), grid, None, images, image=np.arange(count), row=whole, col=whole,
        labels=np.asarray(labels), groups=groups, grouped_by="place"
    )  # fmt: skip


def samples_of(random, classes=3, count=60, size=4):
    labels = np.arange(count) % classes
    values = random.normal(size=(count, size)) + 3 * np.eye(classes, size)[labels]
    return Training(values.astype(np.float32), labels, (np.arange(count) // 5).astype(str))


@pytest.mark.parametrize("seed", [0, 1])
def test_heads_do_not_depend_on_units_of_features(seed):
    random = np.random.default_rng(seed)
    samples = samples_of(random)
    gain, offset = random.uniform(0.1, 10, 4), random.normal(size=4)
    other = samples._replace(features=samples.features * gain + offset)
    first, second = (LinearHead.fit("classification", part) for part in (samples, other))
    assert first.strength == second.strength
    assert (first.predict(samples.features).labels == second.predict(other.features).labels).mean() > 0.98


def test_ridge_head_is_the_closed_form():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3)).astype(np.float32)
    y = x @ np.array([[1.0, 0.5], [0, 2], [-1, 0]]) + 0.3 * random.normal(size=(40, 2)) + 4
    head = LinearHead.fit("regression", Training(x, y, np.arange(40).astype(str)))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    slopes = np.linalg.solve(z.T @ z + head.strength * np.eye(3), z.T @ (y - y.mean(axis=0)))
    assert np.allclose(head.predict(x).labels, z @ slopes + y.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_folds_keep_groups_whole(task):
    samples = samples_of(np.random.default_rng(1))
    folds = inner_folds(task, samples, seed=0)
    assert len(folds) > 1
    for train, val in folds:
        assert not set(samples.groups[train]) & set(samples.groups[val])
    one_group = samples._replace(groups=samples.labels.astype(str))
    assert inner_folds("classification", one_group, seed=0), "a class of one group is split by sample"
    assert inner_folds("classification", samples.part(np.arange(3)), seed=0) == []


def test_scores_are_their_definitions():
    truth, labels = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])
    found = score_all("segmentation", truth, Prediction(labels))
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["miou"] == pytest.approx(np.mean([2 / 3, 1 / 3, 1 / 2]))
    assert found["macro_f1"] == pytest.approx(np.mean([2 * 2 / 5, 2 * 1 / 4, 2 * 1 / 3]))
    change = score_all("change", np.array([0, 1, 1, 1]), Prediction(np.array([1, 1, 1, 0])))
    assert [change[key] for key in ("precision", "recall", "f1")] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    many = np.array([[True, False, False], [False, True, False], [True, True, False]])
    ranked = Prediction(many, np.array([[3.0, 1, 0], [1, 2, 0], [2, 0, 0]]))
    # the second class ranks its members first and third; nothing has the third class
    assert score_all("multilabel", many, ranked)["map"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)
    quantity = np.array([[0.0, 1], [2, 1]])
    assert score_all("regression", quantity, Prediction(quantity + 0.5))["r2"] == pytest.approx(1 - 0.5 / 2)


def test_multilabel_head_ranks_labels():
    random = np.random.default_rng(2)
    x = random.normal(size=(60, 3)).astype(np.float32)
    head = LinearHead.fit("multilabel", Training(x[:40], x[:40] > 0, np.arange(40).astype(str)))
    assert score_all("multilabel", x[40:] > 0, head.predict(x[40:]))["map"] > 0.95


def test_features_ignore_unknown_pixels_and_batches(monkeypatch):
    random = np.random.default_rng(3)
    grid = grid_of(np.linspace(450, 2300, 6))
    values = random.uniform(0.1, 0.5, (5, 1, 6, 9, 11)).astype(np.float32)
    values[1, 0, 2, :3] = np.nan
    values[4] = np.nan
    images = images_of(values, [0, 1, 0, 1, 0], grid)
    extractors = {
        "raw": features.raw_bands(),
        "spread": features.mean_and_spread(1),
        "tokens": features.encoder_tokens(TaskEncoder.of(small_network(), grid)),
    }
    found, usable = features.extract(images, np.arange(5), extractors)
    assert usable.tolist() == [True] * 4 + [False]
    assert np.allclose(found["raw"][1], values[1, 0, :, 3:].mean(axis=(1, 2)))
    assert np.allclose(found["spread"][1, 6:], values[1, 0, :, 3:].std(axis=(1, 2)), atol=1e-6)
    monkeypatch.setattr(features, "BATCH_BYTES", 1)
    again, _ = features.extract(images, np.arange(5), extractors)
    assert all(np.allclose(found[name], again[name], atol=1e-5) for name in extractors)


def test_pixels_take_the_patch_around_them():
    grid = grid_of(np.linspace(450, 2300, 4))
    values = np.random.default_rng(4).uniform(0.1, 0.5, (4, 20, 20)).astype(np.float32)
    one = images_of(values[None, None], [0], grid)
    pixel = replace(one, row=np.array([9]), col=np.array([1]))
    encoder = TaskEncoder.of(small_network(), grid)
    extractors = {"raw": features.raw_bands(), "tokens": features.encoder_tokens(encoder)}
    found, _ = features.extract(pixel, np.arange(1), extractors)
    assert np.array_equal(found["raw"][0], values[:, 9, 1])
    window = np.pad(values, ((0, 0), (0, 0), (4, 0)))[:, 5:13, 1:9]
    valid = np.ones((1, 8, 8), bool)
    valid[:, :, :3] = False
    with torch.inference_mode():
        token = encoder(torch.from_numpy(window[None]), torch.from_numpy(valid))[0, 0, 0]
    assert np.allclose(found["tokens"][0], token.numpy(), atol=1e-5)


def test_change_has_both_dates_and_their_difference():
    grid = grid_of(np.linspace(450, 2300, 4))
    values = np.random.default_rng(5).uniform(0.1, 0.5, (3, 2, 4, 5, 5)).astype(np.float32)
    images = replace(images_of(values, [0, 1, 0], grid, "change"), row=np.full(3, 2), col=np.full(3, 3))
    found, _ = features.extract(images, np.arange(3), {"raw": features.raw_bands()})
    before, after = values[:, 0, :, 2, 3], values[:, 1, :, 2, 3]
    assert np.array_equal(found["raw"], np.concatenate([before, after, np.abs(after - before)], axis=1))


def test_simulated_bands_are_as_of_simulated_pairs():
    grid = grid_of(np.arange(400.0, 2450, 10))
    values = np.random.default_rng(6).uniform(0.1, 0.5, (6, len(grid))).astype(np.float32)
    label_set = points_of(values, [0, 1, 0, 1, 0, 1], grid)
    simulated = features.simulated(label_set, "sentinel2a")
    expected, _ = SimulatedPair(label_set.images[0][0], "sentinel2a").read(0, 0, 6, 1)
    names = load_sensor("sentinel2a").grid.index(simulated.grid.names)
    assert len(names) == 12
    assert np.allclose(simulated.images[0][0].read(0, 0, 6, 1), expected[names], atol=1e-6)
    visible = features.simulated(replace(label_set, grid=grid.select(np.arange(60))), "sentinel2a")
    assert visible.grid.range_nm[1] < 1000
    with pytest.raises(DataError, match="0 of 12 bands of sentinel2a"):
        features.simulated(replace(label_set, grid=grid_of(np.array([1000.0, 1010]))), "sentinel2a")


def test_prior_features_are_the_closed_form():
    grid = load_sensor("sentinel2a").grid
    prior = LINEAR.prior
    values = np.random.default_rng(7).uniform(0.1, 0.4, (2, 12, 1, 1)).astype(np.float32)
    valid = np.ones((2, 1, 1), bool)
    target = load_sensor("enmap").grid
    cube = features.prior_cube(prior, grid, target).cells(values, valid)
    assert np.allclose(cube[0, :, 0, 0], prior.condition(grid, target).reconstruct(values[0, :, 0, 0]), atol=1e-6)
    # without land covers the coefficients give the same spectrum as the expectation of a wide grid
    plain = replace(prior, covers=None)
    found = features.prior_coefficients(plain, grid).cells(values, valid)[:, :, 0, 0]
    spectra = np.exp(found[:, :1]) * (found[:, 1:] @ prior.factors.T)
    own = prior.grid.select(np.arange(0, len(prior.grid), 40))
    expected = plain.condition(grid, own).reconstruct(values[..., 0, 0].T).T
    near = np.array([np.abs(prior.wavelength_nm - nm).argmin() for nm in own.wavelength_nm])
    assert np.allclose(spectra[:, near], expected, atol=0.02)


def small_network(**fields):
    """Weights of a small network of 8 by 8 patches, not trained."""
    torch.manual_seed(0)
    config = ModelConfig(*(8, 2), *(16, 1, 2), *(16, 1, 2), window=16, masking=("spatial-spectral",), **fields)
    return replace(NETWORK, name="small", network=SpectralMAE(config).eval())


def scores_by_name(result, score="accuracy"):
    return {row.name: row.of_share(1.0, score)[0] for row in result.rows}


def test_encoder_wins_where_classes_differ_by_their_pattern():
    """Stripes along rows or columns: each pixel, the mean and the spread are alike, only the arrangement differs."""
    random, grid = np.random.default_rng(8), grid_of(np.array([500.0, 600, 850, 1600]))
    stripes = 0.25 + 0.15 * np.broadcast_to(np.arange(16) // 2 % 2, (16, 16))
    labels = np.arange(40) % 2
    images = np.stack([stripes.T if label else stripes for label in labels])[:, None, None]
    images = images * random.uniform(0.8, 1.2, (40, 1, 4, 1, 1)) + random.normal(size=(40, 1, 4, 16, 16)) * 0.01
    result = probe_samples(images_of(images.astype(np.float32), labels, grid), [small_network()], ONE_SEED)
    scores = scores_by_name(result)
    assert scores["encoder of small"] == 1
    assert max(scores[name] for name in ("raw bands", "raw bands, mean and spread")) < 0.8
    assert "the encoder of small beats raw bands" in findings(result)[1] or "+ raw bands beats" in findings(result)[1]
    page = render(result)
    assert "&lt;a&gt;" in page
    assert "<a>" not in page


def test_raw_bands_win_where_the_prior_does_not_know_the_difference():
    """The classes differ only in a direction that changes no coefficient of the prior: no token can depend on it."""
    grid = grid_of(np.linspace(430, 2390, 60))
    encoder = TaskEncoder.of(NETWORK, grid)
    prior = encoder.network.prior_between(encoder._view, encoder._view, torch.device("cpu"))
    seen = np.concatenate([prior.coefficients.numpy(), prior.brightness.numpy().reshape(1, -1)])
    covers = np.eye(60)[[np.abs(grid.wavelength_nm - nm).argmin() for nm in (490, 560, 665, 842, 865, 1610, 2190)]]
    hidden = np.linalg.svd(np.concatenate([seen, covers]).astype(float))[2][-1]
    random = np.random.default_rng(9)
    some = prior_spectra(grid, random, 40)
    labels = np.arange(40) % 2
    values = some + 0.03 * np.where(labels, 1, -1)[:, None] * hidden + random.normal(size=some.shape) * 1e-4
    result = probe_samples(points_of(values, labels, grid), [NETWORK], ONE_SEED)
    scores = scores_by_name(result)
    assert scores["raw bands"] == 1
    assert scores["encoder of spatial-spectral"] < 0.8
    assert "no row" not in " ".join(result.notes)


def prior_spectra(grid, random, count):
    """(sample, band) spectra of the prior, of different brightness."""
    prior = LINEAR.prior
    posterior = prior.condition(prior.grid.select(np.arange(2, len(prior.grid) - 2)), grid)
    spectra = prior.factors @ prior.sample[random.integers(len(prior.sample), size=count)].T
    return (posterior.reconstruct(spectra[2:-2].astype(np.float32)) * random.uniform(0.2, 0.3, count)).T


def crowns(path, count=60, species=("<oak>", "pine")):
    """A file of labelled spectra of two species, five pixels a crown."""
    random, grid = np.random.default_rng(10), grid_of(np.arange(400.0, 2450, 25))
    labels = np.arange(count) // 5 % 2
    values = prior_spectra(grid, random, count) * (
        1 + 0.5 * np.where(labels, 1, -1)[:, None] * (grid.wavelength_nm > 1000)
    )
    np.savez(
        path, dn=np.round(values * 1e4).astype(np.int16), scale=1e-4, nodata=-32768, wavelength_nm=grid.wavelength_nm,
        label=np.array(species)[labels], individual=np.array([f"crown {number // 5}" for number in range(count)])
    )  # fmt: skip
    return path


def test_command_writes_the_table_the_page_and_numbers(ms2hs, tmp_path):
    words = ("probe", crowns(tmp_path / "crowns.npz"), "--source", "sentinel2a", "--model", "linear", "--seeds", 1)
    page = tmp_path / "probe.html"
    code, out, err = ms2hs(*words, "--share", "0.02,1", "-o", page)
    assert code == 0, err
    assert "split by individual" in out
    assert "cube by the prior, PCA-30" in out
    assert "No model has an encoder" in out
    assert "2\u00a0% is empty: crowns: 2 % of 35 training samples are 1" in out
    text = page.read_text("utf-8")
    assert "&lt;oak&gt;" in text
    assert "<oak>" not in text
    assert "http:" not in text
    rows = list(csv.DictReader(page.with_suffix(".csv").read_text("utf-8").splitlines()))
    numbers = json.loads(page.with_suffix(".json").read_text("utf-8"))
    assert {row["feature"] for row in rows} == {row["name"] for row in numbers["rows"]}
    raw = next(row for row in numbers["rows"] if row["name"] == "raw bands")
    cell = next(row for row in rows if (row["feature"], row["share"], row["score"]) == ("raw bands", "1.0", "accuracy"))
    assert float(cell["mean"]) == pytest.approx(np.mean(raw["scores"]["1.0"]["accuracy"]))
    assert np.sum(raw["confusion"]) == numbers["sizes"][1]
    assert numbers["optimistic"] is False
    code, _, err = ms2hs(*words, "-o", page)
    assert code == 1
    assert "--overwrite" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--share", "0.01"), "1 % of 35 training samples are 0"),
        (("--share", "10"), "shares above 0 and up to 1"),
        (("-o", "page.txt"), "is no HTML file"),
    ],
)
def test_bad_options_get_one_message(ms2hs, tmp_path, words, message):
    code, out, err = ms2hs("probe", crowns(tmp_path / "crowns.npz"), "--model", "linear", *words)
    assert code != 0
    assert not out
    assert message in " ".join(err.split())


def test_models_that_cannot_use_the_bands_have_no_row():
    grid = grid_of(np.linspace(450, 700, 12))
    random = np.random.default_rng(11)
    label_set = points_of(prior_spectra(grid, random, 30), np.arange(30) % 2, grid)
    with pytest.raises(GridError, match="spatial-spectral: bands of 450-700 nm"):
        probe_samples(label_set, [NETWORK], ONE_SEED)
    plan = feature_plan(label_set, [small_network(), NETWORK], "enmap")
    assert any("spatial-spectral has no row" in note for note in plan.notes)
    assert not any("spatial-spectral" in column.name for column in plan.columns)
    assert {column.kind for column in plan.columns} == {"raw", "cube", "coefficients", "random", "encoder", "both"}


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_heads_of_one_label_keep_its_axis(task):
    x = np.random.default_rng(13).normal(size=(30, 2)).astype(np.float32)
    truth = x[:, :1] > 0 if task == "multilabel" else x[:, :1]
    found = LinearHead.fit(task, Training(x, truth, np.arange(30).astype(str))).predict(x)
    assert found.labels.shape == truth.shape
    assert next(iter(score_all(task, truth, found).values())) > 0.95


@pytest.mark.slow
def test_real_crowns_are_probed(real_data):
    labels = LabelOptions(real_data / "points" / "neon_osbs_crowns.npz", split="random", source="sentinel2a")
    result = probe(replace(labels, drop=("QUGE2",)), replace(ONE_SEED, models=("spectral",)))
    assert result.optimistic
    assert "optimistic" in findings(result)[0]
    assert scores_by_name(result)["raw bands"] > 0.9


@pytest.mark.parametrize("task", ["multilabel", "regression", "change"])
def test_every_task_has_its_table_and_page(task):
    random, grid = np.random.default_rng(12), grid_of(np.array([500.0, 850]))
    values = random.uniform(0.1, 0.5, (40, 2 if task == "change" else 1, 2, 1, 1)).astype(np.float32)
    first = values[:, 0, :, 0, 0]
    labels = {
        "multilabel": first > 0.3,
        "regression": first * [1, -2] + 1,
        "change": (np.abs(values[:, -1, :, 0, 0] - first).sum(axis=1) > 0.25).astype(int),
    }
    label_set = images_of(values, labels[task], grid, task)
    label_set = replace(label_set, row=np.zeros(40, int), col=np.zeros(40, int))
    result = probe_samples(label_set, [], ONE_SEED)
    table = score_tables(result)[0]
    main = {"multilabel": "mAP", "regression": "R²", "change": "F1"}[task]
    assert table.title.startswith(main)
    assert float(table.rows[0].cells[1].text.split(" ±")[0]) > 0.85
    assert (result.rows[0].confusion is None) == (task != "change")
    assert main in render(result)
