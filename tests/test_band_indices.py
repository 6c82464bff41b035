"""`ms2hs index`: values against spyndex, uncertainty against Monte Carlo, the file, and the messages."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import spyndex

from ms2hs.errors import GridError, OutputError, QueryError, UnknownName
from ms2hs.models.weights import load_weights
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA, open_cube, sigma_beside, spectral_grid_of
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.index_catalogue import band_weights, find_index, indices_by_name, with_constants
from ms2hs.spectra.metrics import band_depth
from ms2hs.spectra.product_error import InputError, input_error_named
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import band_support, response_matrix
from ms2hs.viewing.band_indices import BandIndex, write_indices
from ms2hs.viewing.error_correlation import (
    ErrorCorrelation,
    _input_error,
    correlation_of,
    posterior_correlation,
    posterior_covariance,
)

EMIT, ENMAP = load_sensor("emit").grid, load_sensor("enmap").grid
GRID = PixelGrid("EPSG:32633", (30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0), 20, 300)
# The bands of green, red and near infrared indices, and of the shares of land covers.
SOME = ENMAP.select(
    np.any([np.abs(ENMAP.wavelength_nm - nm) < reach for nm, reach in ((560, 6), (655, 40), (830, 75), (1610, 6))], 0)
)
LINEAR = load_weights("linear")
TAGS = {"MS2HS_MODEL": "linear", "MS2HS_SOURCE": "sentinel2a", "MS2HS_WEIGHTS_SHA256": LINEAR.sha256}


def spectra(grid, count=4, seed=0):
    """(band, pixel) smooth reflectance with a red edge."""
    waves = np.random.default_rng(seed).normal(size=(3, count))
    nm = grid.wavelength_nm[:, None] / 1000
    edge = 0.3 / (1 + np.exp((0.715 - nm) / 0.015))
    return 0.15 + edge + 0.1 * np.tanh(waves[0] + waves[1] * nm + waves[2] * np.sin(3 * nm))


def test_broad_band_indices_equal_spyndex():
    reflectance = spectra(EMIT)
    compared = 0
    for name, index in indices_by_name().items():
        one = BandIndex.of(index, EMIT)
        if name in spyndex.indices and spyndex.indices[name].formula == index.formula.text:
            means = dict(zip(index.bands, one.weights @ reflectance, strict=True))
            expected = spyndex.computeIndex(name, means | dict(one.values))
            np.testing.assert_allclose(one.compute(reflectance)[0], expected, rtol=1e-9)
            compared += 1
    assert compared > 220


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("PRI", lambda r: (r(531) - r(570)) / (r(531) + r(570))),
        ("REIP", lambda r: 700 + 40 * ((r(670) + r(780)) / 2 - r(700)) / (r(740) - r(700))),
        ("NDLI", lambda r: np.log(r(1680) / r(1754)) / np.log(1 / (r(1754) * r(1680)))),
        ("CAI", lambda r: (r(2000, 2050) + r(2190, 2240)) / 2 - r(2080, 2130)),
    ],
)
def test_narrow_band_indices_equal_their_definition(name, formula):
    reflectance, nm = spectra(EMIT), EMIT.wavelength_nm

    def at(low, high=None):
        inside = [np.abs(nm - low).argmin()] if high is None else (nm >= low) & (nm <= high)
        return reflectance[inside].mean(axis=0)

    np.testing.assert_allclose(BandIndex.of(find_index(name), EMIT).compute(reflectance)[0], formula(at), rtol=1e-9)


@pytest.mark.parametrize(("name", "feature"), [("clay2200", (2135, 2205, 2245)), ("Carbonate2330", (2265, 2330, 2380))])
def test_depths_of_absorptions_equal_the_metric(name, feature):
    reflectance = spectra(EMIT)
    found, _ = BandIndex.of(find_index(name), EMIT).compute(reflectance)
    np.testing.assert_allclose(found, band_depth(reflectance, EMIT.wavelength_nm, feature), rtol=1e-9)


def test_good_bands_only_are_used_and_missing_ones_are_an_error():
    weights = band_weights(find_index("NDVI"), ENMAP)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    whole = load_sensor("enmap-224").grid
    for index in indices_by_name().values():
        if index.name not in {"NDLI", "NDNI"}:
            assert not band_weights(index, whole)[:, ~whole.good].any()
    with pytest.raises(GridError, match=r"NDLI needs good bands at 1754 nm .* Leave the index out"):
        band_weights(find_index("NDLI"), ENMAP)


def test_names_and_constants_are_found_or_named():
    assert find_index("ndvi").name == "NDVI"
    with pytest.raises(UnknownName, match=r"'NDVJ'.*close names: NDVI.*--list"):
        find_index("NDVJ")
    with pytest.raises(UnknownName, match="close names: BAI, BaI"):
        find_index("bai")
    (savi,) = with_constants([find_index("SAVI")], {"L": 0.5})
    assert savi.constants == {"L": 0.5}
    with pytest.raises(QueryError, match=r"no constant 'M'; these indices have L"):
        with_constants([savi], {"M": 1})


@pytest.mark.parametrize("name", ["NDVI", "EVI", "CAI", "NDLI", "REIP", "Clay2200"])
def test_uncertainty_equals_monte_carlo(name):
    rng = np.random.default_rng(1)
    reflectance, bands = spectra(EMIT, 3), len(EMIT)
    sigma = 0.0003 * (1 + rng.random(reflectance.shape))
    distance = np.subtract.outer(EMIT.wavelength_nm, EMIT.wavelength_nm)
    matrix = 0.8 * np.exp(-((distance / 300) ** 2)) + 0.2 * np.eye(bands)
    root = np.linalg.cholesky(matrix)
    one = BandIndex.of(find_index(name), EMIT)
    _, found = one.compute(reflectance, sigma, ErrorCorrelation(matrix[None], None, ""))
    for pixel in range(reflectance.shape[1]):
        errors = sigma[:, pixel, None] * (root @ rng.standard_normal((bands, 4000)))
        drawn, _ = one.compute(reflectance[:, pixel, None] + errors)
        assert found[pixel] == pytest.approx(drawn.std(), rel=0.06)


def test_shares_of_covers_blend_the_variances():
    reflectance = spectra(SOME)
    sigma = np.full(reflectance.shape, 0.01)
    one = BandIndex.of(find_index("NDVI"), SOME)
    independent, common = np.eye(len(SOME)), np.ones((len(SOME),) * 2)
    both = [one.compute(reflectance, sigma, ErrorCorrelation(m[None], None, ""))[1] for m in (independent, common)]
    blended = ErrorCorrelation(np.stack([independent, common]), None, "")
    object.__setattr__(blended, "shares", lambda pixels: np.array([[0.25], [0.75]]) * np.ones(pixels.shape[1]))
    found = one.compute(reflectance, sigma, blended)[1]
    np.testing.assert_allclose(found**2, 0.25 * both[0] ** 2 + 0.75 * both[1] ** 2)


@pytest.mark.parametrize("error", [InputError(), input_error_named("sentinel2")], ids=str)
def test_covariance_has_the_variance_of_the_model(error):
    source = load_sensor("sentinel2a").grid
    posterior = LINEAR.prior.condition(source, SOME, error)
    covariances = posterior_covariance(LINEAR.prior, source, SOME, error)
    variances = np.stack([np.diag(one) for one in covariances], axis=1)
    np.testing.assert_allclose(np.sqrt(variances), posterior.relative_sigma, rtol=1e-4)


def test_correlation_equals_the_errors_of_drawn_spectra():
    source, prior, rng = load_sensor("sentinel2a").grid, LINEAR.prior, np.random.default_rng(2)
    to_source, to_target = (response_matrix(grid, prior.wavelength_nm) for grid in (source, SOME))
    found = posterior_correlation(prior, source, SOME, InputError())
    assert found.shape == (5, len(SOME), len(SOME))
    for member, matrix in zip(prior.of_covers(source.wavelength_nm)[1][:2], found[:2], strict=True):
        drawn = member.factors @ rng.standard_normal((member.factors.shape[1], 6000))
        drawn += np.sqrt(member.residual)[:, None] * rng.standard_normal(drawn.shape)
        noise = member.source_noise(source.wavelength_nm)[:, None] * rng.standard_normal((len(source), drawn.shape[1]))
        seen = member.between(to_source, to_source) + np.diag(member.source_noise(source.wavelength_nm) ** 2)
        gain = np.linalg.solve(seen, member.between(to_source, to_target)).T
        errors = to_target @ drawn - gain @ (to_source @ drawn + noise)
        np.testing.assert_allclose(np.corrcoef(errors), matrix, atol=0.06)


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    """A cube of two blocks that the linear model could have written, and its uncertainty."""
    path = tmp_path_factory.mktemp("index") / "cube.tif"
    rng = np.random.default_rng(3)
    dn = rng.integers(500, 5000, (len(SOME), 20, 300)).astype(np.int16)
    dn[:, 3, 290] = NODATA
    sigma = rng.integers(50, 200, dn.shape).astype(np.int16)
    sigma[:, 3, 290] = NODATA
    for target, values in ((path, dn), (sigma_beside(path), sigma)):
        with CogWriter(target, GRID, SOME, TAGS) as writer:
            writer.write(0, values)
    return path


def test_file_has_the_indices_then_their_uncertainty(cube, tmp_path, monkeypatch):
    result = write_indices(cube, ["NDVI", "sr", "NDVI"], tmp_path / "out.tif")
    opened = open_cube(cube)
    reflectance, sigma = opened.reflectance.values.reshape(len(SOME), -1), opened.sigma.values.reshape(len(SOME), -1)
    correlation = correlation_of(opened)
    assert "correlated as in the model linear (source sentinel2a)" in result.notes[0]
    with rasterio.open(result.output) as file:
        assert file.descriptions == ("NDVI", "SR", "NDVI_sigma", "SR_sigma")
        assert file.tags(1)["formula"] == "(N-R)/(N+R)"
        assert file.tags()["MS2HS_INDEX_NOTE"] == result.notes[0]
        assert file.crs == "EPSG:32633"
        values = file.read().reshape(4, -1)
    for band, name in enumerate(("NDVI", "SR")):
        expected = BandIndex.of(find_index(name), spectral_grid_of(opened)).compute(reflectance, sigma, correlation)
        np.testing.assert_allclose(values[[band, band + 2]], expected, rtol=2e-5)
    invalid = 3 * 300 + 290
    assert np.isnan(values[:, invalid]).all()
    assert np.isfinite(np.delete(values, invalid, axis=1)).all()
    (tmp_path / "bare.tif").write_bytes(cube.read_bytes())
    monkeypatch.chdir(tmp_path)
    bare = write_indices(tmp_path / "bare.tif", ["NDVI"])
    assert bare.output == Path("bare_indices.tif")
    assert "--uncertainty" in bare.notes[0]
    with rasterio.open(bare.output) as file:
        assert file.descriptions == ("NDVI",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"MS2HS_SITE": "EMIT (2023-07-14)"}, "adapted to its site"),
        ({"MS2HS_WEIGHTS_SHA256": "0"}, "not those that the tags name"),
        ({"MS2HS_SOURCE": "custom"}, "no known weights and source"),
        ({"MS2HS_INPUT_ERROR": "mine"}, "unknown to the model"),
        ({"MS2HS_MODEL": "/etc/passwd"}, "no known weights"),
    ],
)
def test_errors_are_independent_where_the_model_is_unknown(cube, changes, reason):
    opened = open_cube(cube).assign_attrs(changes)
    found = correlation_of(opened)
    assert reason in found.note
    assert np.array_equal(found.matrices, np.eye(len(SOME))[None])


@pytest.mark.parametrize("error", [InputError(), InputError(0.02, 0.005, 0.003), input_error_named("sentinel2")])
def test_input_error_is_read_from_its_tag(error):
    assert _input_error(str(error) if error else "") == error


def test_inferred_bands_are_named():
    facts = BandIndex.of(find_index("NDWI1240"), ENMAP).facts(ENMAP)
    assert (facts["support"], facts["notes"]) == (None, [])
    converted = replace(ENMAP, support=tuple(band_support(load_sensor("sentinel2a").grid, ENMAP)))
    facts = BandIndex.of(find_index("NDWI1240"), converted).facts(converted)
    assert facts["support"] == "inferred"
    assert facts["notes"] == ["NDWI1240: rests on inferred bands: R1240 at 1240 nm (1 of 1 bands)"]
    (note,) = BandIndex.of(find_index("PRI"), converted).notes
    assert note.startswith("PRI: rests on interpolated bands: R531 at 531 nm")
    assert not BandIndex.of(find_index("NDVI"), converted).notes


def test_difference_within_one_band_of_the_source_is_inferred():
    source = load_sensor("sentinel2a").grid
    converted = replace(ENMAP, support=tuple(band_support(source, ENMAP)))
    clay = BandIndex.of(find_index("Clay2200"), converted, source)
    assert clay.support == "inferred"
    assert clay.notes == (
        "Clay2200: R2135, R2205, R2245 lie in one band of the source (B12): their difference is inferred",
    )
    ndvi = BandIndex.of(find_index("NDVI"), converted, source)
    assert (ndvi.support, ndvi.notes) == (BandIndex.of(find_index("NDVI"), converted).support, ())


def test_index_command_writes_lists_and_reports(cube, tmp_path, ms2hs):
    output = tmp_path / "out.tif"
    code, out, err = ms2hs("index", cube, "SAVI", "--set", "L=0.5", "-o", output, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["output"] == str(output)
    assert found["indices"][0]["constants"] == {"L": 0.5}
    assert "note: SAVI: computed with L = 0.5" in err
    code, _, err = ms2hs("index", cube, "SAVI", "-o", output)
    assert code == OutputError.exit_code
    assert "--overwrite" in err
    code, out, _ = ms2hs("index", "--list")
    assert code == 0
    assert len(out.splitlines()) == len(indices_by_name())
    assert "R2000_2050 2000-2050" in next(line for line in out.splitlines() if line.startswith("CAI "))
    listed = json.loads(ms2hs("index", "--list", "--json")[1])
    assert all(one["source"] and one["formula"] and one["bands_nm"] for one in listed)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["NDVJ"], 2, "unknown index 'NDVJ'; "),
        (["CAI"], 1, "CAI needs good bands at 2000-2050 nm"),
        (["NDVI", "--set", "L=1"], 2, "no constant 'L'"),
        (["NDVI", "--set", "L=x"], 2, "a number is needed"),
        ([], 2, "no cube or no index"),
        (["NDVI", "-o", "out.zarr"], 1, "the suffix .tif is needed"),
    ],
)
def test_index_command_refuses_what_it_cannot_compute(cube, ms2hs, words, code, message):
    found, out, err = ms2hs("index", cube, *words)
    assert (found, out) == (code, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert not Path("cube_indices.tif").exists()
