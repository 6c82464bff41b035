"""Estimation of the prior from small simulated data with known truth."""

import json
from dataclasses import replace

import numpy as np
import pytest
from known_truth import (
    halves,
    mean_score,
    perturbed,
    read_scene,
    response_of,
    score,
    score_prior,
    score_references,
    score_site,
)
from safetensors import safe_open
from test_spectra_npz import write_cube

from ms2hs.conversion.site_fit import fit_site
from ms2hs.errors import DataError
from ms2hs.evaluation.baselines import interpolated
from ms2hs.models.weights import load_weights
from ms2hs.spectra.indices import COVERS, LAND, cover
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.prior_fit import PriorSettings, calibrate, fit, gather, place_spread, place_weights, pretrain_linear

SOURCE, TARGET = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
SETTINGS = PriorSettings(step_nm=20, rank=12, canopies=0, wet_soils=0, water=0, snow=0, simulated=200, pixels=250)
WAVELENGTH = np.arange(380.0, 2500.0, 8.0)


def world(count, seed, shift=0.0):
    """(count, wavelength) spectra of five smooth materials in any mixture and brightness, shifted as a whole."""
    rng = np.random.default_rng(seed)
    centres = np.array([500.0, 900.0, 1300.0, 1700.0, 2200.0])
    materials = 0.15 + 0.3 * np.exp(-0.5 * ((WAVELENGTH - centres[:, None]) / 300) ** 2)
    spectra = rng.dirichlet(np.ones(5), count) @ materials * rng.uniform(0.3, 1.2, (count, 1))
    return spectra * (1 + shift * np.sin(WAVELENGTH / 90))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    for part in ("hyperspectral", "spectra"):
        (path / part).mkdir()
    for number, shift in enumerate((0.0, 0.03, -0.02, 0.02)):
        cube = world(400, number, shift).reshape(20, 20, -1)
        good = np.ones(len(WAVELENGTH), bool)
        if number:
            good[(WAVELENGTH > 1340) & (WAVELENGTH < 1460)] = False
        write_cube(path / f"hyperspectral/scene{number}.npz", WAVELENGTH, cube, good=good)
    classes = np.repeat(["soil", "vegetation", "odd"], [100, 80, 20])
    np.savez(
        path / "spectra/lab.npz",
        wavelength_nm=WAVELENGTH,
        reflectance=world(200, 9),
        names=classes,
        **{"class": classes},
    )
    return path


@pytest.fixture(scope="module")
def evidence(folder):
    return gather(folder, SETTINGS)


@pytest.fixture(scope="module")
def prior(evidence):
    return calibrate(fit(evidence, {"scene3"}), evidence, {"scene3"})


@pytest.fixture(scope="module")
def scene(folder):
    return read_scene(folder / "hyperspectral/scene3.npz", SOURCE, TARGET)


def test_left_out_scene_lies_within_its_interval(prior, scene):
    found = score_prior(prior.condition(SOURCE, TARGET), scene, to_source=response_of(SOURCE, TARGET))
    baseline = score(interpolated(scene.measured, SOURCE, TARGET), scene)
    assert found.rmse < 0.7 * baseline.rmse
    assert found.sam < 0.7 * baseline.sam
    assert 0.8 < found.coverage <= 1
    assert found.residual < 0.003


def test_leaving_a_family_out_equals_its_absence(evidence):
    without = replace(evidence, scenes=tuple(scene for scene in evidence.scenes if scene.place != "scene3"))
    expected = calibrate(fit(without), without)
    found = calibrate(fit(evidence, {"scene3"}), evidence, {"scene3"})
    for name in ("factors", "residual", "reach", "sigma_scale", "shift", "sample"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (fit(evidence).factors != expected.factors).any()


def test_reach_counts_scenes(prior):
    gap = (prior.wavelength_nm > 1360) & (prior.wavelength_nm < 1440)
    np.testing.assert_allclose(prior.reach[gap], 1 / 3, atol=1e-6)
    assert prior.reach[prior.wavelength_nm < 375].max() == 0


def test_references_and_site_help_on_the_left_out_scene(prior, scene):
    conditional = prior.condition(SOURCE, TARGET)
    rng = np.random.default_rng(0)
    plain = score_prior(conditional, scene).rmse
    three, ten = (score_references(conditional, scene, count, 10, rng).rmse for count in (3, 10))
    assert ten < three < plain

    def fitted(half):
        points = interpolate_known(scene.spectra[half], scene.wavelength_nm, prior.wavelength_nm.astype(float))
        return fit_site(prior, points, SOURCE, scene.measured[:, ~half].T).condition(TARGET)

    before, after = score_site(scene, conditional, fitted)
    assert after.rmse < 0.5 * before.rmse
    assert after.coverage > 0.8


@pytest.fixture(scope="module")
def many_places(tmp_path_factory):
    """Nine places of points, a quarter dark in the visible as vegetation; the last has errors of its product."""
    path = tmp_path_factory.mktemp("many")
    for part in ("points", "spectra"):
        (path / part).mkdir()
    for number in range(9):
        points = world(120, number, 0.3 if number == 8 else 0.005 * (number % 3))
        points[::4] *= 0.15 + 0.85 / (1 + np.exp((715 - WAVELENGTH) / 12))
        write_cube(path / f"points/place{number}.npz", WAVELENGTH, points)
    np.savez(
        path / "spectra/lab.npz",
        wavelength_nm=WAVELENGTH,
        reflectance=world(60, 99),
        **{"class": np.full(60, "soil")},
    )
    return path


def test_points_are_scenes_that_are_left_out(many_places):
    evidence = gather(many_places, SETTINGS)
    assert evidence.places == [f"place{number}" for number in range(9)]
    assert evidence.libraries == ("lab",)
    assert (fit(evidence, {"place0"}).factors != fit(evidence).factors).any()


def test_trust_lowers_the_weight_of_a_place_with_errors_of_its_product(many_places):
    evidence = gather(many_places, SETTINGS)
    weights = place_weights(evidence, evidence.scenes)
    assert np.mean(weights) == pytest.approx(1)
    assert weights[8] < 0.5 * min(weights[:8])
    without = replace(evidence, settings=replace(SETTINGS, trust=0.0))
    assert place_weights(without, evidence.scenes) == pytest.approx([1] * 9)
    few = evidence.scenes[2:]
    assert place_weights(evidence, few) == pytest.approx([1] * 7)


def test_cover_share_weighs_pixels_or_covers_alike(many_places):
    weights = []
    for exponent in (1.0, 0.0):
        (scene, *_) = gather(many_places, replace(SETTINGS, cover_share=exponent)).scenes
        weights.append({kind: sum(part.weight for part in parts) for kind, parts in scene.moments.items()})
        assert sum(weights[-1].values()) == pytest.approx(1)
    by_pixels, alike = weights
    assert by_pixels["vegetation"] == pytest.approx(0.25, abs=0.03)  # the rest is nearly bare
    assert 0.3 < alike["vegetation"] < alike["bare"] < 0.5  # other covers have small shares


def test_land_covers_improve_the_prior(many_places):
    evidence = gather(many_places, SETTINGS)
    scene = read_scene(many_places / "points/place1.npz", SOURCE, TARGET)
    prior = fit(evidence, {"place1"})
    vegetation = cover(scene.measured, SOURCE) == "vegetation"
    assert vegetation.sum() == 30

    def error(prior, pixels):
        posterior = prior.condition(SOURCE, TARGET)
        return score(posterior.reconstruct(scene.measured[:, pixels]), scene, pixels).rmse

    assert error(prior, vegetation) < error(replace(prior, covers=None), vegetation)


def test_place_spread_is_the_covariance_of_places_with_equal_weights(many_places):
    rng = np.random.default_rng(0)
    means, factors = rng.normal(size=(9, 3, 12)), rng.normal(size=(9, 3, 12, 2))
    scenes = [
        replace(scene, land={kind: (means[i, k], factors[i, k] @ factors[i, k].T) for k, kind in enumerate(LAND)})
        for i, scene in enumerate(gather(many_places, SETTINGS).scenes)
    ]
    spread = place_spread(scenes)
    np.testing.assert_allclose(spread.mean, means.mean(axis=0))
    deviations = means - means.mean(axis=0)
    covariance = np.einsum("pkw,plv->kwlv", deviations, deviations) / 9
    np.testing.assert_allclose(np.einsum("pkw,plv->kwlv", spread.between, spread.between), covariance, atol=1e-9)
    within = np.mean(factors[:, 0] @ factors[:, 0].swapaxes(1, 2), axis=0)
    np.testing.assert_allclose(spread.within[0] @ spread.within[0].T, within, atol=1e-5)
    assert place_spread(scenes[:3]) is None


def test_land_cover_without_spectra_has_the_moment_of_all(many_places):
    evidence = gather(many_places, SETTINGS)

    def without_snow(moments):
        return {kind: parts for kind, parts in moments.items() if kind != "snow"}

    scenes = tuple(replace(scene, moments=without_snow(scene.moments)) for scene in evidence.scenes)
    prior = fit(replace(evidence, scenes=scenes, library=without_snow(evidence.library)))
    snow = COVERS.index("snow")
    unseen = replace(prior, factors=prior.covers.factors[snow], residual=prior.covers.residual[snow])
    np.testing.assert_allclose(unseen.second_moment(), prior.second_moment(), rtol=1e-3, atol=1e-5)


def test_simulated_water_and_snow_count_for_their_own_covers_only(folder):
    pytest.importorskip("prosail")
    without, simulated = (
        fit(gather(folder, replace(SETTINGS, water=weight, snow=weight, mixtures=0))) for weight in (0, 1)
    )
    np.testing.assert_array_equal(simulated.second_moment(), without.second_moment())
    moments = zip(COVERS, simulated.covers.factors, without.covers.factors, strict=True)
    changed = [kind for kind, after, before in moments if not np.array_equal(after, before)]
    assert changed == ["water", "snow"]


def test_gather_leaves_out_files_by_the_beginning_of_their_names(folder):
    evidence = gather(folder, SETTINGS, ["scene1", "scene2"])
    assert {scene.name for scene in evidence.scenes} == {"scene0", "scene3"}
    with pytest.raises(DataError, match="0 libraries"):
        gather(folder, SETTINGS, ["lab"])


def test_same_seed_gives_the_same_weights(folder, tmp_path):
    paths = tmp_path / "a" / "linear.safetensors", tmp_path / "b" / "linear.safetensors"
    for path in paths:
        path.parent.mkdir()
    first, second = (pretrain_linear(folder, path, SETTINGS, {"scene3": {"rmse": 0.01}}) for path in paths)
    assert first == second
    card = load_weights(str(paths[0])).card
    assert card["trained_on"] == ["scene0", "scene1", "scene2", "scene3", "lab"]
    assert card["settings"]["rank"] == 12
    assert card["scores"] == {"scene3": {"rmse": 0.01}}
    with safe_open(paths[0], framework="numpy") as file:
        assert json.loads(file.metadata()["card"]) == card


def test_folder_needs_cubes_and_libraries(folder, tmp_path):
    (tmp_path / "a.npz").symlink_to(folder / "spectra/lab.npz")
    with pytest.raises(DataError, match="0 cubes and 1 libraries"):
        gather(tmp_path, SETTINGS)


def test_one_scene_and_one_library_suffice(folder, tmp_path):
    (tmp_path / "a.npz").symlink_to(folder / "spectra/lab.npz")
    (tmp_path / "b.npz").symlink_to(folder / "hyperspectral/scene0.npz")
    evidence = gather(tmp_path, SETTINGS)
    prior = calibrate(fit(evidence), evidence)
    assert (prior.sigma_scale == 1.5).all()  # too few pixels to calibrate
    assert np.isfinite(prior.condition(SOURCE, TARGET).gain).all()


def test_perturbed_adds_small_errors_common_to_a_band():
    measured = np.full((12, 5000), 0.3, np.float32)
    errors = perturbed(measured, np.random.default_rng(0)) - measured
    assert errors.std(axis=1) == pytest.approx(0.003, rel=0.1)
    assert 0.002 < errors.mean(axis=1).std() < 0.02


def test_halves_cover_all_pixels_once():
    upper, lower = halves((5, 4))
    assert (upper ^ lower).all()
    assert upper.sum() == 8


def test_interpolation_is_exact_at_bands_and_on_lines(scene):
    line = 0.1 + 1e-4 * SOURCE.wavelength_nm[:, None]
    flat = replace(scene, measured=line.astype(np.float32))
    inside = (TARGET.wavelength_nm > 443) & (TARGET.wavelength_nm < 2180)
    found = interpolated(flat.measured, SOURCE, TARGET)[inside, 0]
    np.testing.assert_allclose(found, 0.1 + 1e-4 * TARGET.wavelength_nm[inside], rtol=1e-4)
    assert mean_score([score(interpolated(scene.measured, SOURCE, TARGET), scene)] * 2).rmse > 0
