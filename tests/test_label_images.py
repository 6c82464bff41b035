"""Folders of images by class, BigEarthNet and OSCD: labels, splits and pixels of each layout."""

import json

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from conftest import write_raster

from ms2hs.datasets.multispectral import ORDERS
from ms2hs.errors import DataError
from ms2hs.scenes.recognition import LEVEL_1C_NOTE
from ms2hs.spectra.sensors import load_sensor
from ms2hs.tasks.labels.big_earth_net import CLASSES, INDEX, WITHOUT_CLASS
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_reader import open_labels
from ms2hs.tasks.labels.splits import split

BANDS = load_sensor("sentinel2a").grid.names
VEGETATION = dict(zip(BANDS, (300, 350, 600, 400, 900, 2100, 2600, 2700, 2800, 2900, 1600, 800), strict=True)) | {
    "B10": 12
}


def image(path, names, gsd_m=10.0, side=12, brightness=1.0, **options):
    """A file whose bands have the numbers of their names, with a little noise."""
    noise = np.random.default_rng(0).integers(0, 10, (len(names), side, side))
    dn = np.array([brightness * VEGETATION[name] for name in names])[:, None, None] + noise
    return write_raster(path, dn.astype(np.uint16), gsd_m=gsd_m, **options)


def eurosat(root, per_class=3):
    """The layout of EuroSAT: 13 bands without names, B8A last."""
    folder = root / "ds" / "images" / "remote_sensing" / "otherDatasets" / "sentinel_2" / "tif"
    for number, name in enumerate(("AnnualCrop", "Forest", "SeaLake")):
        for one in range(1, per_class + 1):
            # Images one degree of longitude apart are of different cells.
            offset = 100_000 * one + 1000 * number
            path = image(folder / name / f"{name}_{one}.tif", ORDERS[0], brightness=1 + number / 5)
            move(path, offset)
    return root


def move(path, metres):
    """Shift a raster to the east."""
    with rasterio.open(path, "r+") as file:
        a, b, c, d, e, f = tuple(file.transform)[:6]
        file.transform = rasterio.Affine(a, b, c + metres - 300_000, d, e, f)


def list_split(folder, prefix, sides):
    for side, names in sides.items():
        (folder / f"{prefix}{side}.txt").write_text("".join(f"{name}.jpg\n" for name in names))


def test_eurosat_has_its_classes_bands_and_places(tmp_path):
    found = open_labels(LabelOptions(eurosat(tmp_path)))
    assert (found.task, found.classes) == ("classification", ("AnnualCrop", "Forest", "SeaLake"))
    assert (found.sensor, found.grid.names, len(found)) == ("sentinel2a", BANDS, 9)
    assert found.whole_images
    assert LEVEL_1C_NOTE in found.notes
    assert found.grouped_by == "cell of 0.25 degrees"
    # The first images of all classes lie in one cell.
    assert len(set(found.groups)) == 3
    assert len(set(found.groups[found.row == -1][::3])) == 1
    spectrum = np.nanmedian(found.read(3, 1)[0], axis=(1, 2))
    np.testing.assert_allclose(spectrum, [1.2e-4 * VEGETATION[name] + 4.5e-4 for name in BANDS], atol=8e-4)


def test_eurosat_spatial_lists_are_used_and_random_lists_only_by_name(tmp_path):
    names = [f"{name}_{one}" for name in ("AnnualCrop", "Forest", "SeaLake") for one in (1, 2, 3)]
    eurosat(tmp_path)
    sides = {"train": names[::3], "val": names[1::3], "test": names[2::3]}
    list_split(tmp_path, "eurosat-", sides)
    assert open_labels(LabelOptions(tmp_path)).given_split is None
    found = open_labels(LabelOptions(tmp_path, split="given"))
    assert split(found).test.tolist() == [2, 5, 8]
    assert any("random by image" in note for note in found.notes)
    list_split(tmp_path, "eurosat-spatial-", {"train": names[1::3], "val": names[::3], "test": names[2::3]})
    spatial = open_labels(LabelOptions(tmp_path))
    assert split(spatial).train.tolist() == [1, 4, 7]
    assert not any("random by image" in note for note in spatial.notes)
    assert open_labels(LabelOptions(tmp_path, split="random")).grouped_by == "pixel"
    (tmp_path / "eurosat-spatial-val.txt").write_text("Forest_77.jpg\n")
    with pytest.raises(DataError, match=r"1 of 1 listed images are missing.*Forest_77"):
        open_labels(LabelOptions(tmp_path))


def test_images_of_any_sensor_have_groups_by_name(tmp_path):
    names = load_sensor("landsat8").grid.names
    for kind, value in (("crop", 9000), ("town", 12000)):
        for plot in "abc":
            dn = np.stack([np.full((8, 8), value + 500 * band, np.uint16) for band in range(len(names))])
            write_raster(tmp_path / kind / f"{plot}_1.tif", dn, descriptions=names, crs=None)
    with pytest.raises(DataError, match="--split random"):
        open_labels(LabelOptions(tmp_path, source="landsat8"))
    found = open_labels(LabelOptions(tmp_path, source="landsat8", group_key="name~^[a-z]"))
    assert (found.classes, found.sensor, sorted(set(found.groups))) == (("crop", "town"), "landsat8", ["a", "b", "c"])
    assert found.read(0, 1).shape == (1, len(names), 8, 8)


def test_hyperspectral_images_by_class_have_no_sensor(tmp_path):
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{nm / 1000}", "FWHM_UM": "0.02"} for nm in range(450, 950, 25)]
    for number, kind in enumerate(("crop", "town")):
        dn = np.random.default_rng(number).integers(500, 4000, (20, 8, 8)).astype(np.uint16)
        write_raster(tmp_path / kind / f"{kind}_1.tif", dn, scale=1e-4, band_tags={"IMAGERY": tags})
    found = open_labels(LabelOptions(tmp_path, source="sentinel2a"))
    assert (found.sensor, len(found.grid)) == (None, 20)  # a probe simulates the source


def patch(folder, name, labels=None, tile="T33UUP"):
    """A patch of BigEarthNet: bands of 10, 20 and 60 m; with the labels of version 1."""
    for band in BANDS:
        gsd = {"B01": 60, "B09": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}.get(band, 20)
        image(folder / name / f"{name}_{band}.tif", [band], gsd_m=gsd, side=120 // gsd)
    if labels is not None:
        facts = {"labels": labels, "tile_source": f"S2A_MSIL1C_20170613T101031_N0205_R022_{tile}_20170613T101608.SAFE"}
        (folder / name / f"{name}_labels_metadata.json").write_text(json.dumps(facts))


def test_big_earth_net_1_has_19_of_43_classes_and_its_lists(tmp_path):
    stem = "S2A_MSIL2A_20170613T101031"
    labels = {
        f"{stem}_0_1": ["Continuous urban fabric", "Airports"],
        f"{stem}_0_2": ["Discontinuous urban fabric", "Sea and ocean"],
        f"{stem}_0_3": ["Airports"],
        f"{stem}_0_4": ["Water bodies", "Estuaries"],
    }
    for number, (name, names) in enumerate(labels.items()):
        patch(tmp_path / "BigEarthNet-v1.0", name, names, tile=f"T33UU{'PPQR'[number]}")
    sides = {"train": [f"{stem}_0_1", f"{stem}_0_3", f"{stem}_9_9"], "val": [f"{stem}_0_2"], "test": [f"{stem}_0_4"]}
    for side, names in sides.items():
        (tmp_path / f"bigearthnet-{side}.csv").write_text("".join(f"{name},S1A_x\n" for name in names))
    found = open_labels(LabelOptions(tmp_path))
    assert (found.task, found.classes) == ("multilabel", ("Urban fabric", "Inland waters", "Marine waters"))
    assert found.labels.tolist() == [[True, False, False], [True, False, True], [False, True, True]]
    assert found.given_split.tolist() == ["train", "val", "test"]
    assert found.groups.tolist() == ["T33UUP", "T33UUP", "T33UUR"]
    assert any("1 of 5 listed patches are not there" in note for note in found.notes)
    assert any("none of the 19 classes" in note for note in found.notes)
    np.testing.assert_allclose(
        np.nanmedian(found.read(2, 1)[0], axis=(1, 2)), [1e-4 * VEGETATION[name] + 4.5e-4 for name in BANDS], atol=6e-4
    )


def test_big_earth_net_2_has_labels_and_split_in_its_table(tmp_path):
    scene = "S2B_MSIL2A_20170615T102019_N9999_R122_T32TNS"
    names = [f"{scene}_45_{number}" for number in range(3)]
    for name in names[:2]:
        patch(tmp_path / "BigEarthNet-S2" / scene, name)
    columns = {
        "patch_id": names,
        "labels": [["Urban fabric"], ["Arable land", "Urban fabric"], ["Pastures"]],
        "split": ["train", "validation", "test"],
        "s1_name": names,
    }
    pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    found = open_labels(LabelOptions(tmp_path, source="sentinel2b"))
    assert (found.classes, found.sensor) == (("Urban fabric", "Arable land"), "sentinel2b")
    assert (found.given_split.tolist(), found.groups.tolist()) == (["train", "val"], ["T32TNS"] * 2)
    assert found.read(1, 1).shape == (1, 12, 12, 12)
    columns["labels"][0] = ["Moon"]
    pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    with pytest.raises(DataError, match="'Moon' is in neither nomenclature"):
        open_labels(LabelOptions(tmp_path))


def test_big_earth_net_is_opened_without_its_pixels(tmp_path):
    scene = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    names = [f"{scene}_{number}_0" for number in range(300)]
    for name in names:
        (tmp_path / "BigEarthNet-S2" / scene / name).mkdir(parents=True)
    columns = {"patch_id": names, "labels": [["Pastures"]] * 300, "split": ["train"] * 300}
    pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    found = open_labels(LabelOptions(tmp_path))
    assert len(found) == 300
    assert [cubes[0].scene for cubes in found.images[:2]] == ["T33UUP", "T33UUP"]


def test_nomenclatures_of_big_earth_net_agree():
    old = {name for names in CLASSES.values() for name in names}
    assert (len(CLASSES), len(old), len(WITHOUT_CLASS), len(old | WITHOUT_CLASS)) == (19, 32, 11, 43)
    assert INDEX["Pastures"] == list(CLASSES).index("Pastures")


def test_oscd_pairs_have_their_changes_and_sides(tmp_path):
    change = np.zeros((1, 12, 12), np.uint8)
    change[0, 3:6, 4:9] = 1
    for city, side in (("paris", "Train"), ("rio", "Test"), ("pisa", "Train")):
        for number, date in enumerate(("imgs_1_rect", "imgs_2_rect")):
            for band in ORDERS[1]:
                folder = tmp_path / "Onera Satellite Change Detection dataset - Images" / city / date
                image(folder / f"{band}.tif", [band], brightness=1 + number)
        folder = tmp_path / f"Onera Satellite Change Detection dataset - {side} Labels" / city / "cm"
        if city == "rio":
            write_raster(folder / "rio-cm.tif", change + 1)
        else:
            folder.mkdir(parents=True)
            (folder / "cm.png").write_bytes(imagecodecs.png_encode(change[0] * 255))
    found = open_labels(LabelOptions(tmp_path))
    assert (found.task, found.classes, found.grouped_by) == ("change", ("no change", "change"), "city")
    assert len(found) == 3 * 144
    assert found.labels.sum() == 3 * 15
    assert LEVEL_1C_NOTE in found.notes
    parts = split(found)
    assert set(found.groups[parts.test]) == {"rio"}
    assert {*found.groups[parts.train], *found.groups[parts.val]} == {"paris", "pisa"}
    pixel = np.flatnonzero(found.labels)[0]
    before, after = found.read(pixel, 1)[..., 0, 0]
    np.testing.assert_allclose(after, 2 * before, rtol=0.1)
    assert found.read(pixel, 4).shape == (2, 12, 4, 4)


def test_oscd_without_maps_is_refused(tmp_path):
    image(tmp_path / "images" / "paris" / "imgs_1_rect" / "B01.tif", ["B01"])
    with pytest.raises(DataError, match="Unpack the images and the labels"):
        open_labels(LabelOptions(tmp_path))
