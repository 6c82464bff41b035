"""Spectra of `.npz` cubes and libraries: known and unknown values, places, resampling."""

import os
from pathlib import Path

import numpy as np
import pytest

from ms2hs.datasets.cubes.spectra_npz import covered_bands, read_places, read_spectra, read_spectra_folder, spectra_on
from ms2hs.errors import DataError
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of, response_matrix

TARGET = load_sensor("enmap").grid


def write_cube(path, wavelength, reflectance, **changes):
    dn = np.round(np.asarray(reflectance) * 1e4).astype(np.int16)
    arrays = {
        "dn": dn,
        "scale": 1e-4,
        "nodata": np.int16(-32768),
        "wavelength_nm": np.asarray(wavelength, float),
        "fwhm_nm": np.full(len(wavelength), np.nan),
        "good": np.ones(len(wavelength), bool),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def lines(wavelength, shape=(4, 5), seed=0):
    """Spectra that are straight lines, so that resampling is exact."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 0.3, (*shape, 1)) + rng.uniform(0, 1e-4, (*shape, 1)) * (wavelength - 400)


def test_read_spectra_sorts_bands_by_wavelength(tmp_path):
    wavelength = np.arange(400.0, 2500.0, 8.0)
    cube = lines(wavelength)
    order = np.random.default_rng(1).permutation(len(wavelength))
    plain = read_spectra(write_cube(tmp_path / "a.npz", wavelength, cube))
    mixed = read_spectra(write_cube(tmp_path / "b.npz", wavelength[order], cube[..., order]))
    np.testing.assert_array_equal(plain.wavelength_nm, mixed.wavelength_nm)
    np.testing.assert_array_equal(plain.reflectance, mixed.reflectance)
    assert plain.shape == (4, 5)
    assert not plain.is_library


def test_read_spectra_drops_bad_bands_nodata_fill_and_implausible_values(tmp_path):
    wavelength = np.arange(400.0, 2500.0, 8.0)
    cube = lines(wavelength)
    good = np.ones(len(wavelength), bool)
    good[10] = False
    cube[0, 0, 20], cube[0, 1, 21], cube[0, 2] = -3.2768, 1.8, -0.005
    corpus = read_spectra(write_cube(tmp_path / "a.npz", wavelength, cube, good=good))
    assert wavelength[10] not in corpus.wavelength_nm
    unknown = np.isnan(corpus.reflectance)
    assert unknown[0, corpus.wavelength_nm == wavelength[20]].all()
    assert unknown[1, corpus.wavelength_nm == wavelength[21]].all()
    assert unknown[2].all()
    assert unknown.sum() == 2 + unknown.shape[1]
    truth, known = spectra_on(corpus, TARGET)
    assert np.isnan(truth[2]).all()
    assert np.isfinite(truth[3:, known]).all()


def test_spectra_on_bridges_gaps_only_with_interpolate(tmp_path):
    wavelength = np.arange(400.0, 2400.0, 8.0)
    wavelength = wavelength[(wavelength < 1340) | (wavelength > 1460)]
    corpus = read_spectra(write_cube(tmp_path / "a.npz", wavelength, lines(wavelength)))
    target = grid_of(np.array([390.0, 900.0, 1330.0, 1400.0, 1470.0, 2450.0]), np.full(6, 10.0))
    truth, known = spectra_on(corpus, target)
    assert known.tolist() == [False, True, True, False, True, False]
    assert np.isnan(truth[:, ~known]).all()
    seen, every = spectra_on(corpus, target, interpolate=True)
    assert every.all()
    assert np.isfinite(seen).all()
    flat = lines(target.wavelength_nm[1:5]).reshape(-1, 4)
    np.testing.assert_allclose(seen[:, 1:5], flat, atol=2e-4)
    np.testing.assert_allclose(seen[:, 0], corpus.reflectance[:, 0], atol=1e-4)


def test_spectra_on_equals_the_response_matrix_without_gaps(tmp_path):
    wavelength = np.arange(400.0, 2500.0, 5.0)
    rng = np.random.default_rng(0)
    cube = 0.3 + 0.1 * np.sin(wavelength / rng.uniform(50, 400, (3, 3, 1)))
    corpus = read_spectra(write_cube(tmp_path / "a.npz", wavelength, cube))
    truth, known = spectra_on(corpus, TARGET)
    expected = response_matrix(TARGET.select(known), wavelength) @ corpus.reflectance.T
    np.testing.assert_allclose(truth.T[known], expected, atol=1e-5)


def test_covered_bands_need_the_whole_width_of_a_band():
    wavelength = np.array([500.0, 510, 520, 560, 570])
    target = grid_of(np.array([505.0, 510.0, 518.0, 540.0, 565.0, 569.0]), np.full(6, 8.0))
    assert covered_bands(wavelength, target).tolist() == [True, True, False, False, True, False]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": None}, "no scale"),
        ({"good": np.ones(3, bool)}, "must agree"),
        ({"wavelength_nm": None}, "no wavelength"),
    ],
)
def test_read_spectra_reports_missing_and_disagreeing_arrays(tmp_path, changes, said):
    wavelength = np.arange(400.0, 500.0, 5.0)
    with pytest.raises(DataError, match=said):
        read_spectra(write_cube(tmp_path / "a.npz", wavelength, lines(wavelength), **changes))


def test_read_spectra_folder_reports_empty_folders_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match=r"no \.npz"):
        list(read_spectra_folder(tmp_path))
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable"):
        list(read_spectra_folder(tmp_path))


def test_place_comes_from_the_file_or_is_its_name(tmp_path):
    wavelength = np.arange(400.0, 500.0, 5.0)
    cube = lines(wavelength)
    for name, place in (("hymap", "berlin"), ("enmap", np.array(["berlin"] * 20)), ("sjer", None)):
        write_cube(tmp_path / f"{name}.npz", wavelength, cube, place=place)
    spectra = cube.reshape(-1, len(wavelength))
    np.savez(tmp_path / "urban.npz", wavelength_nm=wavelength, reflectance=spectra, place="berlin")
    np.savez(tmp_path / "usgs.npz", wavelength_nm=wavelength, reflectance=spectra)
    places = {spectra.name: spectra.place for spectra in read_spectra_folder(tmp_path)}
    assert places == {"enmap": "berlin", "hymap": "berlin", "sjer": "sjer", "urban": "berlin", "usgs": "usgs"}


def test_places_csv_gives_the_place_of_files_without_one(tmp_path):
    (tmp_path / "spectra").mkdir()
    table = {"wavelength_nm": np.arange(400.0, 900, 10), "reflectance": np.full((3, 50), 0.2)}
    for name, more in (("a", {}), ("b", {}), ("c", {"place": "own"}), ("d", {})):
        np.savez(tmp_path / "spectra" / f"{name}.npz", **table, **more)
    (tmp_path / "places.csv").write_text("file,place\na.npz,berlin\nb.npz,berlin\nc.npz,berlin\n")
    places = {spectra.name: spectra.place for spectra in read_spectra_folder(tmp_path)}
    assert places == {"a": "berlin", "b": "berlin", "c": "own", "d": "d"}
    (tmp_path / "places.csv").write_text("name,where\na.npz,berlin\n")
    with pytest.raises(DataError, match="file,place are needed"):
        list(read_spectra_folder(tmp_path))


def test_points_are_a_scene_and_images_come_first(tmp_path):
    wavelength = np.arange(400.0, 500.0, 5.0)
    for part in ("points", "hyperspectral", "spectra"):
        (tmp_path / part).mkdir()
    write_cube(tmp_path / "points/crowns.npz", wavelength, lines(wavelength, (7,)), place="forest")
    write_cube(tmp_path / "hyperspectral/image.npz", wavelength, lines(wavelength))
    np.savez(tmp_path / "spectra/lab.npz", wavelength_nm=wavelength, reflectance=lines(wavelength, (3,)))
    found = [(part.name, part.place, part.shape, part.is_library) for part in read_spectra_folder(tmp_path)]
    assert found == [
        ("image", "image", (4, 5), False), ("crowns", "forest", (7,), False), ("lab", "lab", (3,), True)
    ]  # fmt: skip


@pytest.mark.parametrize("library", [True, False])
def test_each_place_of_a_file_is_read_on_its_own(tmp_path, library):
    wavelength, places = np.arange(400.0, 500.0, 5.0), np.array(["b", "a", "b", "a", "a"])
    spectra, path = lines(wavelength, (5,)), tmp_path / "plots.npz"
    if library:
        classes = np.array(["soil", "water", "snow", "npv", "urban"])
        np.savez(path, wavelength_nm=wavelength, reflectance=spectra, place=places, **{"class": classes})
    else:
        write_cube(path, wavelength, spectra, place=places)
    first, second = read_places(path)
    assert (first.place, second.place, first.shape, second.shape) == ("a", "b", (3,), (2,))
    assert (first.name, first.is_library) == ("plots", library)
    np.testing.assert_allclose(first.reflectance, spectra[places == "a"], atol=1e-4)
    assert second.classes == (("soil", "snow") if library else ())
    with pytest.raises(DataError, match=r"plots\.npz: 2 places \(a, b\)"):
        read_spectra(path)


def test_bands_of_overlapping_detectors_are_sorted_and_may_coincide(tmp_path):
    wavelength = np.concatenate([np.arange(400.0, 700.0, 10.0), np.arange(670.0, 1000.0, 10.0)])
    cube = lines(wavelength)
    corpus = read_spectra(write_cube(tmp_path / "a.npz", wavelength, cube))
    assert (np.diff(corpus.wavelength_nm) >= 0).all()
    target = grid_of(np.arange(450.0, 950.0, 7.0), np.full(72, 8.0))
    seen, known = spectra_on(corpus, target)
    assert known.all()
    first = cube[..., :1] + (cube[..., 10:11] - cube[..., :1]) / 100 * (target.wavelength_nm - 400)
    np.testing.assert_allclose(seen, first.reshape(20, -1), atol=3e-4)


@pytest.mark.parametrize("place", [["a", "b"], "", [], ["a", "b", "", "a"]])
def test_places_must_be_one_or_one_for_each_point(tmp_path, place):
    wavelength = np.arange(400.0, 500.0, 5.0)
    for shape in ((4, 5), (4,)):
        with pytest.raises(DataError, match=r"a\.npz: \d places .*one for each spectrum"):
            read_spectra(write_cube(tmp_path / "a.npz", wavelength, lines(wavelength, shape), place=place))


def test_place_keeps_real_cubes_together(real_data):
    places = {spectra.name: spectra.place for spectra in read_spectra_folder(real_data)}
    for together in (
        ("bavaria_hyspex", "bavaria_hyspex_b"),
        ("berlin_enmap_simulated", "berlin_hymap"),
        ("urban_hydice", "urban_hydice_b"),
    ):
        assert len({places[name] for name in together}) == 1
    assert places["sjer_neon"] != places["osbs_mlbs_neon_plots"]


@pytest.mark.skipif("MS2HS_DATA" not in os.environ, reason="MS2HS_DATA is not set")
def test_read_spectra_of_real_files_is_plausible():
    folder = Path(os.environ["MS2HS_DATA"])
    names = ("hyperspectral/jasper_ridge_aviris", "hyperspectral/berlin_enmap_simulated", "hyperspectral/sjer_neon",
             "hyperspectral/four_corners_aviris_ng", "spectra/klum_urban", "spectra/earthlib_optimized")  # fmt: skip
    for corpus in (read_spectra(folder / f"{name}.npz") for name in names):
        assert (np.diff(corpus.wavelength_nm) >= 0).all()
        known = corpus.reflectance[np.isfinite(corpus.reflectance)]
        assert -0.06 < known.min() < known.max() < 2
        _, reached = spectra_on(corpus, TARGET)
        assert reached.mean() > 0.75
