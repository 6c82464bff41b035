"""Labelled spectra, abundances, class rasters, MATLAB files and points: what readers make of each layout."""

import csv
import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import LEAVES, NORTH, WEST, write_raster
from rasterio.warp import transform

from ms2hs.errors import DataError, UnknownName
from ms2hs.spectra.sensors import load_sensor
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_reader import open_labels
from ms2hs.tasks.labels.splits import split

WAVELENGTH_NM = np.arange(450.0, 950.0, 25.0)
ROWS, COLS = 24, 20


def dn_cube(seed=0, bands=20):
    """(row, col, band) stored numbers."""
    return np.random.default_rng(seed).integers(500, 5000, (ROWS, COLS, bands)).astype(np.int16)


def encoded(dn, **arrays):
    return {"dn": dn, "scale": 1e-4, "nodata": -9999, "wavelength_nm": WAVELENGTH_NM} | arrays


def check_pixels(label_set, dn, labels):
    """Each sample has the spectrum and the label of its pixel."""
    for sample in range(0, len(label_set), 7):
        row, col = label_set.row[sample], label_set.col[sample]
        np.testing.assert_allclose(label_set.read(sample, 1)[0, :, 0, 0], dn[row, col] * 1e-4, rtol=1e-6)
        assert label_set.classes[label_set.labels[sample]] == labels[row, col]


def crowns(path, labels, individuals, place="a", **arrays):
    dn = dn_cube().reshape(-1, len(WAVELENGTH_NM))[: len(labels)]
    np.savez(path, **encoded(dn, label=labels, individual=individuals, place=place, **arrays))
    return path, dn


def test_labelled_spectra_have_their_label_group_and_spectrum(tmp_path):
    labels = np.array(["oak", "pine", "", "oak"] * 6)
    path, dn = crowns(tmp_path / "crowns.npz", labels, np.repeat(list("abcdef"), 4))
    found = open_labels(LabelOptions(path))
    assert (found.task, found.classes, found.grouped_by) == ("classification", ("oak", "pine"), "individual")
    kept = labels != ""
    assert [found.classes[label] for label in found.labels] == labels[kept].tolist()
    assert found.groups.tolist() == np.repeat(list("abcdef"), 4)[kept].tolist()
    assert found.isolated
    window = found.read(5, 3)
    assert window.shape == (1, len(WAVELENGTH_NM), 3, 3)
    np.testing.assert_allclose(
        window[0], np.broadcast_to((dn[kept][5] * 1e-4)[:, None, None], window.shape[1:]), rtol=1e-6
    )


def test_pattern_of_files_is_one_set_with_groups_by_file(tmp_path):
    for name, labels in (("x_1", ["oak"] * 4), ("x_2", ["pine"] * 4)):
        crowns(tmp_path / f"{name}.npz", np.array(labels), np.array(["F1", "F1", "F2", "F2"]))
    np.savez(tmp_path / "x_3.npz", **encoded(dn_cube()[0]))
    found = open_labels(LabelOptions(tmp_path / "x_*.npz"))
    assert sorted(set(found.groups)) == ["x_1/F1", "x_1/F2", "x_2/F1", "x_2/F2"]
    assert len(found.images) == 2
    assert "files left out, since they have no labels: 1" in found.notes


def test_part_of_a_text_can_be_label_or_group(tmp_path):
    plots = np.array([f"{site}{number:02d}" for site in ("AK", "BH") for number in range(1, 9)])
    path, _ = crowns(tmp_path / "plots.npz", np.zeros(16), plots, plot=plots)
    found = open_labels(LabelOptions(path, label_key="plot~[A-Z]+", group_key="plot"))
    assert (found.classes, found.grouped_by, len(set(found.groups))) == (("AK", "BH"), "plot", 16)


def test_numbers_are_regression_targets(tmp_path):
    biomass = np.where(np.arange(12) == 3, np.nan, np.arange(12))
    path, _ = crowns(tmp_path / "a.npz", np.zeros(12), np.arange(12).astype(str), biomass=biomass)
    found = open_labels(LabelOptions(path, task="regression", label_key="biomass"))
    assert found.classes == ("biomass",)
    assert found.labels[:, 0].tolist() == [*range(3), *range(4, 12)]


def test_random_split_is_marked_and_needed_where_no_group_is_known(tmp_path):
    np.savez(tmp_path / "a.npz", **encoded(dn_cube()[0], label=np.arange(COLS) % 2))
    with pytest.raises(DataError, match=r"--group-key.*--split random, which is optimistic"):
        open_labels(LabelOptions(tmp_path / "a.npz"))
    found = open_labels(LabelOptions(tmp_path / "a.npz", split="random"))
    assert found.grouped_by == "pixel"
    assert split(found).optimistic
    with pytest.raises(DataError, match="no split is given"):
        open_labels(LabelOptions(tmp_path / "a.npz", split="given"))


def test_abundances_are_quantities_or_the_largest_share(tmp_path):
    dn, random = dn_cube(), np.random.default_rng(1)
    abundance = random.dirichlet([1, 1, 1], (ROWS, COLS)).transpose(2, 0, 1).astype(np.float32)
    (tmp_path / "cubes").mkdir()
    (tmp_path / "labels").mkdir()
    np.savez(tmp_path / "cubes" / "scene.npz", **encoded(dn))
    names = np.array(["soil", "tree", "water"])
    np.savez(tmp_path / "labels" / "a.npz", abundance=abundance, names=names, cube="cubes/scene.npz")
    found = open_labels(LabelOptions(tmp_path / "labels" / "a.npz", block=5))
    assert (found.task, found.classes, found.grouped_by) == (
        "regression",
        ("soil", "tree", "water"),
        "block of 5 pixels",
    )
    assert len(set(found.groups)) == 5 * 4
    np.testing.assert_array_equal(found.labels, abundance[:, found.row, found.col].T)
    classes = open_labels(LabelOptions(tmp_path / "labels" / "a.npz", task="segmentation"))
    check_pixels(classes, dn, names[abundance.argmax(axis=0)])
    np.savez(tmp_path / "both.npz", **encoded(dn, abundance=abundance))
    assert open_labels(LabelOptions(tmp_path / "both.npz")).classes[0] == "endmember 1"


@pytest.mark.parametrize("cube", ["../cubes/scene.npz", "/etc/passwd", "missing.npz", ""])
def test_abundances_name_no_file_outside_their_folders(tmp_path, cube):
    np.savez(tmp_path / "a.npz", abundance=np.ones((2, 3, 3)), cube=cube)
    with pytest.raises(DataError, match="Give its file with --scene"):
        open_labels(LabelOptions(tmp_path / "a.npz"))


def classes_on_grid():
    """(row, col) 0 = unlabelled, 1 and 2 in tiles of 4 pixels."""
    return np.kron(np.arange(ROWS // 4 * (COLS // 4)).reshape(-1, COLS // 4) % 3, np.ones((4, 4))).astype(np.uint8)


def scene_with_wavelengths(path, dn, **options):
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{nm / 1000}", "FWHM_UM": "0.02"} for nm in WAVELENGTH_NM]
    return write_raster(path, np.moveaxis(dn, 2, 0), scale=1e-4, band_tags={"IMAGERY": tags}, **options)


@pytest.mark.parametrize("suffix", ["tif", "img"])
def test_class_raster_has_its_names_and_unlabelled_pixels(tmp_path, suffix):
    dn, classes = dn_cube(), classes_on_grid()
    scene = scene_with_wavelengths(tmp_path / "scene.tif", dn)
    labels = write_raster(tmp_path / f"classes.{suffix}", classes[None], driver="ENVI" if suffix == "img" else "GTiff")
    if suffix == "img":
        header = tmp_path / "classes.hdr"
        header.write_text(header.read_text() + "classes = 3\nclass names = {Unclassified, oak, pine}\n")
        labels = header
    else:
        (tmp_path / "classes.tif.aux.xml").write_text(
            "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category></Category><Category>oak</Category>"
            "<Category>pine</Category></CategoryNames></PAMRasterBand></PAMDataset>"
        )
    found = open_labels(LabelOptions(labels, scene=scene, block=8))
    assert (found.task, found.classes, len(found)) == ("segmentation", ("oak", "pine"), (classes > 0).sum())
    check_pixels(found, dn, np.array(["", "oak", "pine"])[classes])
    assert open_labels(LabelOptions(labels, scene=scene, source="sentinel2a")).sensor is None  # a probe simulates it
    parts = split(found)
    assert parts.by == "block of 8 pixels"
    assert not set(found.groups[parts.train]) & set(found.groups[parts.test])


def test_class_raster_lies_on_a_multispectral_scene(tmp_path, s2_tif):
    classes = np.zeros((1, 24, 30), np.uint8)
    classes[0, :, ::3], classes[0, :, 1::3] = 1, 2
    found = open_labels(LabelOptions(write_raster(tmp_path / "classes.tif", classes), scene=s2_tif))
    assert (found.sensor, found.grid.names, len(found)) == ("sentinel2a", load_sensor("sentinel2a").grid.names, 24 * 20)
    np.testing.assert_allclose(found.read(0, 1)[0, :, 0, 0], np.array(LEAVES) * 0.9, atol=1e-4)


def test_class_raster_counts_class_0_where_another_nodata_is_declared(tmp_path):
    scene = scene_with_wavelengths(tmp_path / "scene.tif", dn_cube())
    labels = write_raster(tmp_path / "classes.tif", classes_on_grid()[None], nodata=2)
    assert open_labels(LabelOptions(labels, scene=scene)).classes == ("0", "1")


@pytest.mark.parametrize("version", ["7.2", "7.3"])
def test_mat_files_are_read_as_they_are_distributed(tmp_path, version):
    dn, classes = dn_cube(bands=200).astype(np.uint16), classes_on_grid()
    arrays = {
        "Indian_pines_corrected.mat": ("indian_pines_corrected", dn),
        "Indian_pines_gt.mat": ("indian_pines_gt", classes),
    }
    for file, (name, array) in arrays.items():
        if version == "7.2":
            scipy.io.savemat(tmp_path / file, {name: array})
        else:
            with h5py.File(tmp_path / file, "w", userblock_size=512) as written:
                written[name] = array.T
    found = open_labels(
        LabelOptions(tmp_path / "Indian_pines_gt.mat", scene=tmp_path / "Indian_pines_corrected.mat", block=8)
    )
    assert found.classes == ("Alfalfa", "Corn-notill")
    assert any("radiance, not reflectance" in note for note in found.notes)
    assert any("within 3 nm" in note for note in found.notes)
    assert found.grid.wavelength_nm[[0, -1]].tolist() == [400.02, 2489.11]
    assert not ((found.grid.wavelength_nm > 1360) & (found.grid.wavelength_nm < 1405)).any()
    sample = len(found) // 2
    row, col = found.row[sample], found.col[sample]
    # Two detectors overlap, and bands are in ascending wavelength.
    np.testing.assert_allclose(np.sort(found.read(sample, 1)[0, :, 0, 0]), np.sort(dn[row, col] * 1e-4), rtol=1e-6)


def test_mat_cube_without_known_bands_needs_a_table(tmp_path):
    dn, classes = dn_cube(), classes_on_grid()
    scipy.io.savemat(tmp_path / "a.mat", {"paviaU": dn, "truth": classes, "other": classes})
    table = tmp_path / "bands.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("center_nm", "fwhm_nm"), *((nm, 20) for nm in WAVELENGTH_NM)])
    with pytest.raises(DataError, match=r"paviaU has 20 bands.*hold no wavelengths.*--source with a CSV"):
        open_labels(LabelOptions(tmp_path / "a.mat"))
    options = LabelOptions(tmp_path / "a.mat", source=str(table), block=4)
    with pytest.raises(DataError, match=r"2 arrays may be the array of classes.*--variable"):
        open_labels(options)
    found = open_labels(LabelOptions(tmp_path / "a.mat", source=str(table), variables=("truth",)))
    assert found.sensor == str(table)
    check_pixels(found, dn, classes.astype(str))


def test_mat_abundances_of_pixels_column_by_column(tmp_path):
    dn, abundance = dn_cube(bands=200), np.random.default_rng(2).random((ROWS, COLS, 3))
    scipy.io.savemat(tmp_path / "scene.mat", {"indian_pines_corrected": dn})
    scipy.io.savemat(tmp_path / "end3.mat", {"A": abundance.transpose(2, 1, 0).reshape(3, -1), "M": np.ones((200, 3))})
    found = open_labels(LabelOptions(tmp_path / "end3.mat", scene=tmp_path / "scene.mat", task="regression"))
    np.testing.assert_allclose(found.labels, abundance[found.row, found.col], rtol=1e-6)
    flat = {"Y": dn.transpose(2, 1, 0).reshape(200, -1), "nRow": ROWS, "nCol": COLS, "maxValue": 5000}
    scipy.io.savemat(tmp_path / "scene_R200.mat", flat)
    table = tmp_path / "bands.csv"
    table.write_text("center_nm,fwhm_nm\n" + "".join(f"{400 + 10 * band},10\n" for band in range(200)))
    options = LabelOptions(tmp_path / "end3.mat", scene=tmp_path / "scene_R200.mat", source=str(table))
    found = open_labels(options)
    check_pixels(found, dn, np.array(found.classes)[abundance.argmax(axis=2)])


def lonlat(row, col):
    """Centre of a pixel of `write_raster`."""
    (lon,), (lat,) = transform("EPSG:32632", "EPSG:4326", [WEST + 10 * (col + 0.5)], [NORTH - 10 * (row + 0.5)])
    return lon, lat


@pytest.mark.parametrize("suffix", ["csv", "geojson"])
def test_points_label_their_pixels(tmp_path, suffix):
    dn = dn_cube()
    scene = scene_with_wavelengths(tmp_path / "scene.tif", dn)
    pixels = [(2, 3), (2, 15), (20, 4), (21, 18), (11, 11), (500, 500)]
    points = [
        (*lonlat(*pixel), "oak" if number % 2 else "pine", f"plot {number}") for number, pixel in enumerate(pixels)
    ]
    path = tmp_path / f"points.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("lon", "lat", "Species", "plot"), *points])
    else:
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [lon, lat]},
                "properties": {"Species": species, "plot": plot},
            }
            for lon, lat, species, plot in points
        ]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = open_labels(LabelOptions(path, scene=scene))
    assert [(row, col) for row, col in zip(found.row, found.col, strict=True)] == pixels[:5]
    assert [found.classes[label] for label in found.labels] == ["pine", "oak", "pine", "oak", "pine"]
    assert (found.grouped_by, found.groups[4]) == ("plot", "plot 4")
    assert any("1 of 6 points lie outside" in note for note in found.notes)
    np.testing.assert_allclose(found.read(1, 1)[0, :, 0, 0], dn[2, 15] * 1e-4, rtol=1e-6)


def raster(folder, values, names="", **options):
    """Options of a class raster beside a scene."""
    scene = scene_with_wavelengths(folder / "scene.tif", dn_cube())
    path = write_raster(folder / "classes.tif", values[None], **options)
    if names:
        categories = "".join(f"<Category>{name}</Category>" for name in names)
        text = f"<PAMDataset><PAMRasterBand><CategoryNames>{categories}</CategoryNames></PAMRasterBand></PAMDataset>"
        (folder / "classes.tif.aux.xml").write_text(text)
    return LabelOptions(path, scene=scene)


def spectra(folder, labels=(0, 1), **options):
    """Options of spectra, each with a group of its own."""
    path, _ = crowns(folder / "a.npz", np.array(labels * 6), np.arange(6 * len(labels)).astype(str))
    return LabelOptions(path, **options)


def other(folder, name, content=b"", **options):
    """Options of a file with this content; none is written without."""
    if content:
        (folder / name).write_bytes(content)
    return LabelOptions(folder / name, **options)


def wrong_variable(folder):
    scipy.io.savemat(folder / "a.mat", {"cube": dn_cube(), "gt": classes_on_grid()})
    return LabelOptions(folder / "a.mat", variables=("label",))


def points_elsewhere(folder):
    scene = scene_with_wavelengths(folder / "scene.tif", dn_cube())
    return other(folder, "a.csv", b"lon,lat,label\n100,10,a\n101,10,b\n", scene=scene)


def scene_without_bands(folder):
    scene = write_raster(folder / "plain.tif", np.moveaxis(dn_cube(), 2, 0)[:6].astype(np.uint16))
    return replace(raster(folder, classes_on_grid()), scene=scene)


CASES = {
    "other grid": (lambda folder: raster(folder, classes_on_grid(), gsd_m=20), "lies on another grid"),
    "other shape": (lambda folder: raster(folder, classes_on_grid()[1:], crs=None), "23 x 20 labels"),
    "unknown id": (lambda folder: raster(folder, classes_on_grid() + 5, names="ab"), "class 7 has no name"),
    "fraction": (lambda folder: raster(folder, classes_on_grid() + np.float32(0.5)), "0.5 is no class"),
    "no scene": (lambda folder: replace(raster(folder, classes_on_grid()), scene=None), "--scene"),
    "one class": (lambda folder: spectra(folder, labels=(0,)), "of 1 class (0)"),
    "all dropped": (lambda folder: spectra(folder, drop=("0", "1")), "of 0 class (none)"),
    "wrong task": (lambda folder: spectra(folder, task="change"), "--task classification or regression"),
    "wrong key": (lambda folder: spectra(folder, label_key="kind"), "--label-key"),
    "wrong group": (lambda folder: spectra(folder, group_key="place"), "--group-key"),
    "unused option": (lambda folder: spectra(folder, variables=("gt",)), "--variable was given"),
    "scale of a raster": (lambda folder: replace(raster(folder, classes_on_grid()), scale=0.1), "Leave --scale out"),
    "scene without bands": (scene_without_bands, "--source"),
    "missing file": (lambda folder: other(folder, "none.npz"), "no such file"),
    "unknown format": (lambda folder: other(folder, "a.txt", b"x"), "known: labelled spectra"),
    "damaged": (lambda folder: other(folder, "a.npz", b"no archive"), "cannot be read"),
    "wrong variable": (wrong_variable, "no array 'label'; arrays there are cube (24, 20, 20), gt (24, 20)"),
    "outside": (points_elsewhere, "none of the 2 points lies inside"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_labels_have_one_message(tmp_path, case):
    make, words = CASES[case]
    options = make(tmp_path)
    with pytest.raises(DataError) as caught:
        open_labels(options)
    assert words in str(caught.value)
    assert str(caught.value).count(". ") <= 2


def test_unknown_class_to_drop_is_refused(tmp_path):
    path, _ = crowns(tmp_path / "a.npz", np.array([0, 1] * 6), np.arange(12).astype(str))
    with pytest.raises(UnknownName, match="'7'; known: 0, 1"):
        open_labels(LabelOptions(path, drop=("7",)))
