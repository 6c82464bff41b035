"""Measured errors of products: against brute force, between bands, by sensor, and on the command line."""

from dataclasses import replace

import numpy as np
import product_error as benchmark
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prior import SOURCE, TARGET, WAVELENGTH, make_prior, spectra_of

from ms2hs.cli.parsers import ErrorLevels, parse_input_error
from ms2hs.conversion.planning import ConvertOptions, plan
from ms2hs.errors import GridError, UnknownName
from ms2hs.models.prior import PRODUCT_SHARE
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.spectra import product_error, sensors
from ms2hs.spectra.product_error import (
    TYPICAL_INPUT_ERROR,
    InputError,
    error_table_names,
    input_error_named,
    load_error_table,
)
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import response_matrix

MEASURED = input_error_named("sentinel2")


def brute_force(prior, covariance):
    """(gain, variance) of the target given the source, from the precision matrix of both together."""
    both = np.vstack([response_matrix(SOURCE, WAVELENGTH), response_matrix(TARGET, WAVELENGTH)])
    joint = both @ prior.second_moment() @ both.T
    count = len(SOURCE)
    joint[:count, :count] += np.diag(prior.source_noise(SOURCE.wavelength_nm) ** 2) + covariance
    joint[count:, count:] += 1e-8 * np.eye(len(TARGET))
    precision = np.linalg.inv(joint)
    variance = np.linalg.inv(precision[count:, count:])
    return -variance @ precision[count:, :count], np.diag(variance)


def test_posterior_with_a_covariance_is_the_conditional_of_the_joint_gaussian():
    prior, covariance = make_prior(), MEASURED.product.covariance
    posterior = prior.condition(SOURCE, TARGET, MEASURED)
    gain, variance = brute_force(prior, PRODUCT_SHARE * covariance)
    np.testing.assert_allclose(posterior.gain, gain, atol=2e-3)
    variance = variance + np.diag(gain @ ((1 - PRODUCT_SHARE) * covariance) @ gain.T)
    np.testing.assert_allclose(posterior.relative_sigma[:, 0], np.sqrt(variance), rtol=2e-3)
    x = np.full((len(SOURCE), 3), 0.25, np.float32)
    np.testing.assert_allclose(posterior.sigma(x), np.outer(np.sqrt(variance), posterior.scale(x)), rtol=2e-3)


def test_no_errors_change_nothing():
    prior = make_prior()
    plain = prior.condition(SOURCE, TARGET)
    for name in ("gain", "relative_sigma", "shift", "brightness", "precision", "whitening"):
        np.testing.assert_array_equal(
            getattr(prior.condition(SOURCE, TARGET, InputError()), name), getattr(plain, name)
        )


def test_intervals_hold_errors_that_are_common_to_a_scene():
    prior, table = make_prior(), MEASURED.product
    truth = 0.25 * spectra_of(prior, 3000)
    to_source, to_target = (response_matrix(grid, WAVELENGTH) for grid in (SOURCE, TARGET))
    plain, wide = prior.condition(SOURCE, TARGET), prior.condition(SOURCE, TARGET, MEASURED)
    right = (to_source @ truth).astype(np.float32)
    errors = np.random.default_rng(4).multivariate_normal(np.zeros(len(SOURCE)), table.covariance, 3000).T
    wrong = (right + plain.scale(right) * errors).astype(np.float32)
    found = {}
    for name, posterior in (("plain", plain), ("wide", wide)):
        missed = np.abs(posterior.reconstruct(wrong) - to_target @ truth)
        found[name] = np.sqrt(np.square(missed).mean()), (missed <= 1.645 * posterior.sigma(wrong)).mean()
    assert found["wide"][0] < found["plain"][0]
    assert found["plain"][1] < 0.6
    assert 0.85 < found["wide"][1] < 0.95
    assert (wide.relative_sigma > plain.relative_sigma).all()


def test_levels_add_to_measured_errors():
    prior, x = make_prior(), np.full((len(SOURCE), 3), 0.2, np.float32)
    both = replace(TYPICAL_INPUT_ERROR, product=MEASURED.product)
    sigma = {error: prior.condition(SOURCE, TARGET, error).sigma(x).mean() for error in (MEASURED, both)}
    assert sigma[both] > sigma[MEASURED]
    assert str(both) == "sentinel2, gain 0.02, offset 0.005, pixel 0.003"
    assert not InputError()
    assert MEASURED


def test_references_correct_measured_errors():
    prior = make_prior()
    wide = prior.condition(SOURCE, TARGET, MEASURED)
    truth = (0.25 * spectra_of(prior, 40)).astype(np.float32)
    to_source, to_target = (response_matrix(grid, WAVELENGTH) for grid in (SOURCE, TARGET))
    measured = (1.05 * (to_source @ truth)).astype(np.float32)  # all bands are 5 % too bright
    corrected = wide.with_references(measured[:, :10].T, (to_target @ truth)[:, :10].T)
    errors = [np.abs(one.reconstruct(measured) - to_target @ truth)[:, 10:].mean() for one in (wide, corrected)]
    assert errors[1] < 0.5 * errors[0]
    assert (corrected.relative_sigma < 0.8 * wide.relative_sigma).all()


@settings(max_examples=25)
@given(st.lists(st.floats(430, 2220), min_size=1, max_size=14), st.randoms())
def test_covariance_between_bands_is_valid_and_follows_their_order(nm, random):
    table, nm = MEASURED.product, np.array(nm)
    covariance = table.covariance_at(nm)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    variances = np.diag(table.covariance)
    assert variances.min() - 1e-12 <= np.diag(covariance).min() <= np.diag(covariance).max() <= variances.max() + 1e-12
    order = random.sample(range(len(nm)), len(nm))
    np.testing.assert_allclose(table.covariance_at(nm[order]), covariance[np.ix_(order, order)], atol=1e-15)


def test_covariance_at_the_bands_of_the_table_is_the_table():
    table = MEASURED.product
    np.testing.assert_allclose(table.covariance_at(table.wavelength_nm), table.covariance, atol=1e-15)
    with pytest.raises(GridError, match=r"source bands at 2400 nm; the errors 'sentinel2' are known at 413-2232 nm"):
        table.covariance_at(np.array([500.0, 2400.0]))


def test_shipped_tables_are_covariances_with_a_source():
    for name in error_table_names():
        table = load_error_table(name)
        np.testing.assert_array_equal(table.covariance, table.covariance.T)
        assert np.linalg.eigvalsh(table.covariance).min() > 0
        assert (np.sqrt(np.diag(table.covariance)) > 0.02).all()
        assert "CC BY" in table.citation
    with pytest.raises(UnknownName, match="known: none, sentinel2"):
        input_error_named("landsat")


def test_sensors_name_known_tables():
    named = {name: load_sensor(name).product_error for name in sensors.sensor_names()}
    assert {name for name, error in named.items() if error} == {"sentinel2a", "sentinel2b", "sentinel2c"}
    assert {error for error in named.values() if error} <= set(error_table_names())


@pytest.mark.parametrize(
    ("source", "given", "expected"),
    [
        ("sentinel2b", None, "sentinel2"),
        ("sentinel2b", "none", "none"),
        ("sentinel2b", TYPICAL_INPUT_ERROR, "gain 0.02, offset 0.005, pixel 0.003"),
        ("hls_s30", None, "none"),
        ("hls_s30", "sentinel2", "sentinel2"),
    ],
)
def test_default_depends_on_the_sensor_and_is_noted(s2_tif, tmp_path, source, given, expected):
    options = ConvertOptions(source=source, model="linear", input_error=given, force=True)
    planned = plan(s2_tif, "enmap", tmp_path / "cube.tif", options)
    assert str(planned.input_error) == expected
    is_noted = any("Use --input-error none" in note for note in planned.scene.notes)
    assert is_noted == (source == "sentinel2b" and given is None)


def test_weights_that_learned_from_pairs_assume_no_errors(s2_tif, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_weights(path, load_weights("linear").prior, {}, adjustments={"sentinel2a": {}})
    planned = plan(s2_tif, "enmap", tmp_path / "cube.tif", ConvertOptions(source="sentinel2a", model=str(path)))
    assert not planned.input_error


def test_option_takes_names_and_levels():
    assert [parse_input_error(text) for text in ("none", "sentinel2")] == ["none", "sentinel2"]
    assert parse_input_error("0.02,0.005,0") == ErrorLevels(0.02, 0.005, 0)
    for wrong, said in (
        ("sentinel3", "none, sentinel2"),
        ("0.02", "3 numbers"),
        ("-1,0,0", "from 0"),
        ("2,0.5,0.3", "not in percent"),
    ):
        with pytest.raises(typer.BadParameter, match=said):
            parse_input_error(wrong)


def test_written_table_is_read_back(tmp_path, monkeypatch):
    rng, grid = np.random.default_rng(0), SOURCE.select([band for band in range(12) if SOURCE.names[band] != "B09"])
    field = rng.uniform(0.1, 0.4, (30, 11))
    gain = 1 + 0.05 * rng.standard_normal((30, 1))  # a common gain
    bands = benchmark.Bands(gain * field, field, np.array([f"p{i // 3}" for i in range(30)]), np.ones(30), grid)
    table = benchmark.table_of(bands, make_prior(), np.ones(30, bool))
    deviation = np.sqrt(np.diag(table.covariance))
    assert (deviation > 0.02).all()
    assert (deviation < 0.08).all()
    correlation = table.covariance / np.outer(deviation, deviation)
    assert correlation[0, 1] > correlation[0, -1] > 0.3
    assert deviation[SOURCE.names.index("B09")] > 1.2 * deviation[SOURCE.names.index("B8A")]
    monkeypatch.setattr(product_error, "ERROR_TABLES", tmp_path / "errors")
    benchmark.write_table(tmp_path / "errors" / "other.csv", table, bands)
    found = load_error_table("other")
    np.testing.assert_allclose(found.covariance, table.covariance, atol=3e-5)  # the prior gives the scale
    np.testing.assert_allclose(found.wavelength_nm, table.wavelength_nm, atol=1e-3)


def test_shipped_table_is_the_benchmarks(real_data):
    weights = load_weights("linear")
    bands = benchmark.read_bands(real_data)
    table = benchmark.table_of(bands, weights.calibrated_prior or weights.prior, np.ones(len(bands.place), bool))
    np.testing.assert_allclose(MEASURED.product.covariance, table.covariance, atol=3e-5)  # the prior gives the scale


@pytest.mark.slow
def test_left_out_match_ups_are_better_with_measured_errors(real_data, capsys):
    weights, target = load_weights("linear"), load_sensor("enmap").grid
    match_ups = benchmark.read_match_ups(real_data, target)
    scores = benchmark.score(match_ups, benchmark.read_bands(real_data), weights, target)
    several = [one.site == "several" for one in match_ups]
    plain, measured = (np.array(scores[f"Sentinel-2, {name}"])[several] for name in ("none", "sentinel2"))
    assert np.sqrt(np.mean(measured[:, 0] ** 2)) < np.sqrt(np.mean(plain[:, 0] ** 2))
    assert plain[:, 2].mean() < 0.6
    assert 0.85 <= measured[:, 2].mean() <= 0.97
    benchmark.show(match_ups, scores)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(scores)


def test_disturbed_bands_have_the_stated_errors():
    grid, rng = load_sensor("sentinel2a").grid, np.random.default_rng(0)
    flat = np.full((len(grid), 40, 5), 0.2, np.float32)
    scale = np.full(flat.shape[1:], 0.25)
    errors = [InputError(gain=0.1, offset=0.01, pixel=0.003), input_error_named("sentinel2")]
    for error in errors:
        found = np.array([error.disturb(flat, scale, grid.wavelength_nm, rng) - flat for _ in range(400)])
        common, noise = found.mean(axis=(2, 3)), found.std(axis=(2, 3))
        assert noise.mean() == pytest.approx(error.pixel, abs=1e-5)
        expected = (0.1 * 0.2) ** 2 + 0.01**2 if error.has_levels else 0
        expected = expected * np.eye(len(grid)) + 0.25**2 * error.product_covariance(grid.wavelength_nm)
        np.testing.assert_allclose(common.T @ common / 400, expected, atol=0.2 * expected.max())
    np.testing.assert_array_equal(InputError().disturb(flat, scale, grid.wavelength_nm, rng), flat)
