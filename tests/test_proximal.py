"""Cubes of cameras on a bench or tripod: tables, files without place, plausibility, conversion, the bench."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import LEAVES as CANOPY
from conftest import S2_BANDS, dn_of, write_raster

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.cubes.spectra_npz import view_matrix
from ms2hs.datasets.pairs.pair_set import simulated_pairs
from ms2hs.datasets.simulation.bench_scene import LEAVES, bench_reflectance, bench_spectra
from ms2hs.errors import DataError, SceneError
from ms2hs.evaluation.cube_evaluation import _CubeAndTruth
from ms2hs.models.weights import load_weights
from ms2hs.raster.cube import open_cube
from ms2hs.raster.dataset import quietly
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.plausibility import check_reflectance, offset_warnings
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions
from ms2hs.spectra.library import read_library
from ms2hs.spectra.sensors import camera_of, load_sensor, sensor_names

SHAPE = (12, 14)
ENVI_TYPES = {"f4": 4, "u2": 12}
AXES = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}


def board(camera, seed=0, noise=0.0):
    """(band, row, col) a black board with a bright half and a leaf-like rise in the near infrared."""
    nm = load_sensor(camera).grid.wavelength_nm
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    leaf = 0.05 + 0.4 / (1 + np.exp(-(nm - 715) / 12))
    flat = np.where(cols < 7, np.where(rows < 6, 0.98, leaf[:, None, None]), 0.03)
    return flat + noise * np.random.default_rng(seed).standard_normal((len(nm), *SHAPE))


def write_envi(image, values, nm=None, *, dtype="f4", interleave="bil", fields=""):
    """An ENVI file as cameras write it: no unit, no widths, no map info."""
    image.parent.mkdir(parents=True, exist_ok=True)
    np.ascontiguousarray(values.transpose(AXES[interleave]).astype(f"<{dtype}")).tofile(image)
    listed = "" if nm is None else "wavelength = {\n" + ",\n".join(f"{centre:.2f}" for centre in nm) + "\n}\n"
    bands, rows, cols = values.shape
    image.with_suffix(".hdr").write_text(
        f"ENVI\ndescription = {{\n  [HEADER] }}\nfile type = ENVI\nsensor type = SPECIM\nsamples = {cols}\n"
        f"lines = {rows}\nbands = {bands}\nheader offset = 0\ndata type = {ENVI_TYPES[dtype]}\n"
        f"interleave = {interleave}\nbyte order = 0\n{fields}{listed}"
    )
    return image


def write_capture(folder, name="0001", *, reflectance=True):
    """The folder of a capture of a SPECIM camera; returns the image of its reflectance."""
    nm, values = load_sensor("specim-iq").grid.wavelength_nm, board("specim-iq")
    for start in ("", "WHITEREF_", "DARKREF_"):
        write_envi(folder / name / "capture" / f"{start}{name}.raw", 3000 * values + 90, nm, dtype="u2")
    image = folder / name / "results" / f"REFLECTANCE_{name}.dat"
    return write_envi(image, values, nm) if reflectance else image


def pixels_of(scene):
    with SceneReader(scene, scene.grid) as reader:
        return reader.read(0, 0, *SHAPE)[0]


@pytest.mark.parametrize("camera", sensor_names("camera"))
def test_camera_is_known_by_its_centres(camera):
    nominal = load_sensor(camera).grid.wavelength_nm
    assert (np.diff(nominal) > 0).all()
    assert camera_of(nominal + 3) is load_sensor(camera)
    assert camera_of(nominal + 9) is None
    assert camera_of(nominal[:-1]) is None


@pytest.mark.parametrize("interleave", AXES)
@pytest.mark.parametrize(
    ("dtype", "factor", "fields"), [("f4", 1, ""), ("u2", 10_000, "reflectance scale factor = 10000\n")]
)
def test_scene_reads_envi_files_of_a_camera(tmp_path, interleave, dtype, factor, fields):
    nm, values = load_sensor("specim-iq").grid.wavelength_nm + 0.7, board("specim-iq")
    path = write_envi(tmp_path / "a.raw", values * factor, nm, dtype=dtype, interleave=interleave, fields=fields)
    scene = open_scene(str(path.with_suffix(".hdr")))
    np.testing.assert_allclose(scene.spectral.wavelength_nm, nm, atol=0.006)  # the file's own, not the table's
    assert set(scene.fwhm_nm) == {7.0}
    assert scene.grid.crs is None
    assert any("nominal, of specim-iq" in note for note in scene.notes)
    np.testing.assert_allclose(pixels_of(scene), values, atol=1e-4)
    assert check_reflectance(scene, scene.grid) == ()


def test_source_gives_nominal_wavelengths_to_a_file_without(tmp_path):
    path = str(write_envi(tmp_path / "a.dat", board("specim-fx17")))
    with pytest.raises(SceneError, match=r"224 bands without wavelengths; .*--source .*specim-fx17"):
        open_scene(path)
    scene = open_scene(path, SceneOptions(source="specim-fx17"))
    np.testing.assert_array_equal(scene.spectral.wavelength_nm, load_sensor("specim-fx17").grid.wavelength_nm)
    with pytest.raises(SceneError, match="224 bands without wavelengths; specim-iq has 204"):
        open_scene(path, SceneOptions(source="specim-iq"))


def test_camera_is_no_source_of_band_files(tmp_path):
    for name, values in zip(S2_BANDS, dn_of([CANOPY]), strict=True):
        write_raster(tmp_path / f"scene_{name}.tif", values[None])
    with pytest.raises(SceneError, match="specim-iq is a camera"):
        open_scene(str(tmp_path), SceneOptions(source="specim-iq"))


def test_capture_gives_its_reflectance_and_never_raw_counts(tmp_path):
    image = write_capture(tmp_path)
    assert {asset.href for asset in open_scene(str(tmp_path / "0001")).assets} == {str(image)}
    for name in ("0001", "WHITEREF_0001"):
        with pytest.raises(SceneError, match="raw counts of a camera"):
            open_scene(str(tmp_path / "0001" / "capture" / f"{name}.raw"))
    write_capture(tmp_path, "0002")
    cubes = open_cubes(tmp_path)
    assert [cube.scene for cube in cubes] == ["0001", "0002"]
    assert cubes[0].grid.fwhm_nm.tolist() == [7.0] * 204
    np.testing.assert_allclose(cubes[0].read(8, 0, 1, 1)[:, 0, 0], board("specim-iq")[:, 8, 0], atol=1e-6)
    write_capture(tmp_path / "raw", reflectance=False)
    with pytest.raises(SceneError, match="raw counts of a camera"):
        open_cubes(tmp_path / "raw")


def test_noise_of_single_bands_is_no_error_of_the_scale(tmp_path):
    nm, values = load_sensor("specim-iq").grid.wavelength_nm, board("specim-iq", noise=0.015)
    scene = open_scene(str(write_envi(tmp_path / "a.dat", values, nm)))
    assert check_reflectance(scene, scene.grid) == ()
    assert offset_warnings(scene, values.reshape(204, -1)) == ()
    wrong = open_scene(str(write_envi(tmp_path / "b.dat", values - 0.1, nm)))
    with pytest.raises(SceneError, match="negative reflectance"):
        check_reflectance(wrong, wrong.grid)


@pytest.mark.parametrize(("source", "target"), [("specim-iq", "specim-fx17"), ("specim-fx17", "specim-iq")])
def test_convert_between_cameras_marks_what_was_not_seen(tmp_path, source, target):
    path = write_envi(tmp_path / "a.dat", board(source), load_sensor(source).grid.wavelength_nm)
    result = convert(path, target, tmp_path / "made.tif", ConvertOptions(model="linear", uncertainty=True))
    assert any("one map serves all land covers" in note for note in result.notes)
    with quietly(), rasterio.open(result.output) as file:
        assert (file.crs, file.count) == (None, len(load_sensor(target).grid))
        assert file.transform.is_identity
    item = json.loads(result.item.read_text())
    assert item["geometry"] is None
    assert "bbox" not in item
    made = open_cube(result.output)
    seen, unseen = ((made.support == kind).values for kind in ("measured", "inferred"))
    assert seen.sum() > 10
    assert unseen.sum() > 150
    sigma = made.sigma.values.mean(axis=(1, 2))
    assert sigma[unseen].mean() > 3 * sigma[seen].mean()
    assert not unseen[np.abs(made.wavelength.values - 970) < 10].any()
    truth = write_envi(tmp_path / "truth.dat", board(target), load_sensor(target).grid.wavelength_nm)
    np.testing.assert_array_equal(_CubeAndTruth.open(result.output, truth).measured, seen)


def test_source_that_a_corpus_does_not_cover_is_not_simulated(tmp_path):
    for camera in ("specim-iq", "specim-fx17"):
        write_envi(tmp_path / camera / "a.dat", board(camera), load_sensor(camera).grid.wavelength_nm)
    assert [pair.name for pair in simulated_pairs(tmp_path / "specim-iq", "specim-iq", "specim-fx17").pairs] == ["a"]
    for source in ("specim-iq", "sentinel2a"):
        with pytest.raises(DataError, match=f"{source} cannot be simulated .* has 936-1720 nm"):
            simulated_pairs(tmp_path / "specim-fx17", source, "enmap")
    pairs = simulated_pairs(tmp_path, "specim-iq", "specim-iq")
    assert list(pairs.left_out) == ["specim-fx17/a"]


def test_bench_is_the_same_below_each_camera():
    (iq, fx17), (a, b) = (
        [values(camera) for camera in ("specim-iq", "specim-fx17")]
        for values in (bench_reflectance, lambda camera: load_sensor(camera).grid.wavelength_nm)
    )
    near, far = (a > 940) & (a < 1000), (b > 940) & (b < 1000)
    np.testing.assert_allclose(iq[near].mean(axis=0), fx17[far].mean(axis=0), atol=0.01)
    nm = np.arange(400, 2501)
    green, yellow, dry = (bench_spectra()[name] for name in LEAVES if name != "young leaf")
    assert green[nm == 670] < 0.1 < yellow[nm == 670]
    assert green[nm == 1450] < 0.5 * green[nm == 850]
    assert dry[nm == 1450] > 0.7 * dry[nm == 850]


def test_example_command_writes_the_bench_of_a_camera(ms2hs, tmp_path):
    path = tmp_path / "bench.dat"
    assert ms2hs("example", str(path), "--kind", "bench", "--camera", "specim-fx10")[:2] == (0, f"{path}\n")
    assert open_cube(path).sizes == {"wavelength": 224, "y": 96, "x": 128}
    code, _, err = ms2hs("example", str(path), "--kind", "bench")
    assert code == 1
    assert "--overwrite" in err
    code, _, err = ms2hs("example", str(tmp_path / "b.dat"), "--kind", "bench", "--camera", "enmap")
    assert "asd-fieldspec, specim-fx10, specim-fx17, specim-iq are allowed" in err
    code, _, err = ms2hs("example", str(tmp_path / "b.tif"), "--camera", "specim-iq")
    assert (code, "--camera does not apply" in err) == (2, True)
    assert not list(Path(tmp_path).glob("b.*"))


def test_info_lists_cameras_as_sources_and_targets(ms2hs, monkeypatch):
    monkeypatch.setattr("ms2hs.cli.listing.weights_names", list)  # they take longer to load than all sensors
    listed = json.loads(ms2hs("info", "--json")[1])["cameras"]
    assert list(listed) == ["asd-fieldspec", "specim-fx10", "specim-fx17", "specim-iq"]
    assert all(text.startswith("source and target: ") for text in listed.values())
    described = json.loads(ms2hs("info", "specim-iq", "--json")[1])
    assert described["role"] == "camera"
    assert "gsd_m" not in described  # a camera has no ground sampling of its own


def write_spectra(path, nm, spectra):
    """A CSV of spectra (spectrum, band); NaN becomes an empty value."""
    rows = [",".join("" if np.isnan(value) else f"{value:.5f}" for value in row) for row in spectra]
    lines = [f"id,lon,lat,{','.join(f'{x:g}' for x in nm)}", *(f"plot {i},,,{row}" for i, row in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


def field_spectra():
    """Wavelengths in steps of 1 nm, and spectra of the bench's objects as a field spectrometer stores them."""
    nm = np.arange(400.0, 2501.0)
    return nm, np.array(list(bench_spectra().values()))


def test_spectra_of_points_are_converted_to_a_csv_that_is_read_again(ms2hs, tmp_path):
    nm, spectra = (values[..., ::10] for values in field_spectra())
    spectra[0, (nm > 1340) & (nm < 1440)] = np.nan
    spectra[1] = np.nan
    path, made = write_spectra(tmp_path / "field.csv", nm, spectra), tmp_path / "iq.csv"
    code, out, err = ms2hs("convert", str(path), "--target", "specim-iq", "--uncertainty", "-o", str(made))
    assert (code, out) == (0, f"{made}\n{tmp_path / 'iq_sigma.csv'}\n")
    assert "plot 1: too few known bands" in err
    library, sigma = read_library(made), read_library(tmp_path / "iq_sigma.csv")
    assert library.ids == tuple(f"plot {i}" for i in range(len(spectra)))
    grid = load_sensor("specim-iq").grid
    inside = (grid.wavelength_nm > 410) & (grid.wavelength_nm < 990)
    rows = [i for i in range(len(spectra)) if i != 1]
    truth = np.nan_to_num(spectra[rows]) @ view_matrix(grid, nm).T
    np.testing.assert_allclose(library.reflectance[rows][:, inside], truth[:, inside], atol=0.03)  # from steps of 10 nm
    assert np.isnan(library.reflectance[1]).all()
    assert (sigma.reflectance[rows] > 0).all()
    code, _, err = ms2hs("convert", str(path), "--target", "specim-iq", "--gsd", "10", "-o", str(made), "--overwrite")
    assert (code, "--gsd does not apply" in err) == (2, True)
    code, _, err = ms2hs("convert", str(path), "-o", str(tmp_path / "a.tif"))
    assert (code, ".csv is required for spectra" in err) == (1, True)


def test_spectral_libraries_alone_are_cubes(tmp_path):
    nm, spectra = field_spectra()
    write_spectra(tmp_path / "field.csv", nm, spectra)
    (tmp_path / "places.csv").write_text("file,place\nfield.csv,here\n")
    np.savez(
        tmp_path / "iq.npz", reflectance=spectra[:, :204], wavelength_nm=load_sensor("specim-iq").grid.wavelength_nm
    )
    field, iq = open_cubes(tmp_path)
    assert [cube.scene for cube in (field, iq)] == ["field", "iq"]
    assert set(iq.grid.fwhm_nm) == {7.0}
    assert 580 < len(field.grid) < 615  # in the bands of a field spectrometer, not 2101 of 1 nm
    values = field.read(0, 0, *field.shape)
    board = np.isclose(values[0], 0.03, atol=1e-4)
    assert board.sum() == 1
    np.testing.assert_allclose(values[:, board][:, 0], 0.03, atol=1e-4)


@pytest.mark.slow
def test_benchmark_scores_the_bands_that_a_camera_cannot_see(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    camera_bands = importlib.import_module("camera_bands")
    nm, spectra = field_spectra()
    (tmp_path / "spectra").mkdir()
    np.savez(tmp_path / "spectra" / "pef_maine_tree_leaves.npz", reflectance=spectra[-4:], wavelength_nm=nm)
    prior = load_weights("linear").prior
    found = camera_bands.scores(prior, tmp_path, "specim-iq", "specim-fx17")
    assert list(found) == ["tree leaves"]
    assert found["tree leaves"]["spectra"] == 4
    assert found["tree leaves"]["linear"] < 0.5 * found["tree leaves"]["mean_spectrum"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["dlr-ibm-spectral", "spatial-spectral"])
def test_presets_train_on_captures_or_name_others(ms2hs, tmp_path, preset):
    write_capture(tmp_path / "data")
    sizes = ("width=8", "decoder_width=8", "heads=1", "decoder_heads=1", "depth=1", "decoder_depth=1")
    small = [word for size in sizes for word in ("--set", size)] if preset == "dlr-ibm-spectral" else []
    words = ["--data", str(tmp_path / "data"), "--steps", "1", "--batch", "1", "--window", "8", "--device", "cpu"]
    code, _, err = ms2hs("pretrain", "--preset", preset, *words, *small, "-o", str(tmp_path / "made.safetensors"), "-q")
    if preset == "spatial-spectral":
        assert code == 1
        assert "train another preset: spectral, dlr-ibm-spectral, s2mae or general" in err
    else:
        assert code == 0, err
