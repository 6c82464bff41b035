"""Multispectral images as training cubes: published layouts, order of bands, scale, level 1C, and clear refusals."""

import json
import pickle
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import write_raster
from cubes_of_arrays import smooth_cubes
from test_pretraining import SIZES, assert_clear, few, log_of, make_corpus, settings_of, tiny

from ms2hs.datasets.cubes.packing import prepare
from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.multispectral import ORDERS, SensorCube, open_sensor_cubes, open_sensor_raster
from ms2hs.datasets.pairs.pair_set import simulated_pairs
from ms2hs.errors import DataError, UnknownName
from ms2hs.models.weights import load_weights
from ms2hs.scenes.recognition import LEVEL_1C_NOTE
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.pretraining import PretrainOptions, pretrain

BANDS = load_sensor("sentinel2a").grid.names
# Vegetation, in ten-thousandths; B10 is black.
VEGETATION = dict(zip(BANDS, (300, 350, 600, 400, 1000, 2500, 3200, 3500, 3600, 3700, 1900, 900), strict=True)) | {
    "B10": 12
}


def dn_of(names, shape=(12, 12), seed=0):
    """(band, row, col) stored numbers that identify their band."""
    noise = np.random.default_rng(seed).integers(0, 10, (len(names), *shape))
    return (np.array([VEGETATION[name] for name in names])[:, None, None] + noise).astype(np.uint16)


def whole(cube):
    return cube.read(0, 0, *cube.shape)


def make_bigearthnet(folder, patches, labels=None, shape=12):
    for patch in patches:
        place = folder / patch
        for name in BANDS:
            gsd = {"B01": 60, "B09": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}.get(name, 20)
            side = shape * 10 // gsd
            file = place / f"{place.name}_{name}.tif"
            write_raster(file, dn_of([name], (side, side)), gsd_m=gsd)
        if labels:
            (place / f"{place.name}_labels_metadata.json").write_text(json.dumps(labels))
    return folder


def images_in(folder, source=None):
    return open_cubes(folder, source=source, multispectral=True)


def check_bands(cube, names=BANDS):
    """Each band has the numbers of its name, in ascending wavelength."""
    assert cube.grid.names == tuple(names)
    assert (np.diff(cube.grid.wavelength_nm) > 0).all()
    found = np.nanmedian(whole(cube), axis=(1, 2))
    np.testing.assert_allclose(found, [VEGETATION[name] * 1e-4 + 4.5e-4 for name in names], atol=6e-4)


def test_bigearthnet_2_is_read_at_10_m_by_tile(tmp_path):
    product = "S2B_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    make_bigearthnet(tmp_path, [f"{product}/{product}_26_57", f"{product}/{product}_26_58"])
    cubes = images_in(tmp_path)
    assert [cube.name for cube in cubes] == [f"{product}/{product}_26_57", f"{product}/{product}_26_58"]
    assert {cube.scene for cube in cubes} == {"T33UUP"}
    assert cubes[0].shape == (12, 12)
    assert cubes[0].options.source == "sentinel2b"  # named by the patch
    check_bands(cubes[0])
    copy = pickle.loads(pickle.dumps(cubes[1]))  # noqa: S301 - our own
    np.testing.assert_array_equal(whole(copy), whole(cubes[1]))


def test_bigearthnet_1_has_its_tile_in_the_labels(tmp_path):
    patch = "S2A_MSIL2A_20170613T101031_0_45"
    source = {"tile_source": "S2A_MSIL1C_20170613T101031_N0205_R022_T33UUP_20170613T101608.SAFE"}
    make_bigearthnet(tmp_path, [patch], source)
    (cube,) = images_in(tmp_path)
    assert (cube.name, cube.scene) == (patch, "T33UUP")
    (tmp_path / patch / f"{patch}_labels_metadata.json").unlink()
    assert images_in(tmp_path)[0].scene == "S2A_MSIL2A_20170613T101031"


def test_bigearthnet_patch_with_a_missing_band_is_an_error(tmp_path):
    patches = [f"S2A_MSIL2A_20170613T101031_0_{number}" for number in (1, 2)]
    make_bigearthnet(tmp_path, patches)
    (tmp_path / patches[1] / f"{patches[1]}_B05.tif").unlink()
    with pytest.raises(DataError, match="B05"):
        open_sensor_cubes(tmp_path)


@pytest.mark.parametrize(
    ("name", "order", "scene"),
    [
        ("2750/Forest/Forest_12.tif", ORDERS[0], "Forest_12"),
        ("train/airport/airport_3/airport_3_41.tif", ORDERS[1], "airport_3"),
    ],
    ids=["EuroSAT", "fMoW-Sentinel"],
)
@pytest.mark.parametrize("source", [None, "sentinel2b"])
@pytest.mark.parametrize("named", [False, True])
def test_level_1c_data_sets_lose_b10_and_are_noted(tmp_path, name, order, scene, source, named):
    write_raster(tmp_path / name, dn_of(order), descriptions=order if named else ())
    (cube,) = images_in(tmp_path, source=source)
    check_bands(cube)
    assert (cube.scene, cube.name) == (scene, name.removesuffix(".tif"))
    assert cube.options.source == (source or "sentinel2a")
    assert LEVEL_1C_NOTE in cube.notes
    assert any("--source" in note for note in cube.notes) == (source is None)


def test_fmow_images_that_failed_to_download_are_left_out(tmp_path):
    for image in (1, 2):
        write_raster(tmp_path / f"val/barn/barn_7/barn_7_{image}.tif", dn_of(ORDERS[1])[: 13 if image == 1 else 1])
    (tmp_path / "val.csv").write_text("category,location_id,image_id,timestamp\nbarn,7,1,2017-05-04T00:00:00Z\n")
    assert [cube.name for cube in images_in(tmp_path)] == ["val/barn/barn_7/barn_7_1"]


def test_band_names_give_a_sensor_in_any_order(tmp_path):
    names = (*reversed(BANDS), "SCL")
    dn = np.concatenate([dn_of(names[:-1]), np.full((1, 12, 12), 4, np.uint16)])
    dn[-1, 0] = 9  # cloud
    dn[:, 11] = 0
    write_raster(tmp_path / "site" / "a.tif", dn, descriptions=names, nodata=0)
    write_raster(tmp_path / "b.tif", dn_of(BANDS), descriptions=BANDS)
    write_raster(tmp_path / "height.tif", dn_of(BANDS[:1]))
    b, site = images_in(tmp_path)
    assert isinstance(site, SensorCube)
    assert [(cube.name, cube.scene) for cube in (b, site)] == [("b", "b"), ("site/a", "site")]
    check_bands(site)
    assert np.isnan(whole(site)[:, [0, 11]]).all()
    assert np.isfinite(whole(site)[:, 1:11]).all()
    assert any("--source" in note for note in b.notes)


def test_offset_of_the_file_is_applied(tmp_path):
    path = write_raster(tmp_path / "a.tif", dn_of(BANDS) + 1000, descriptions=BANDS, scale=1e-4, offset=-0.1)
    check_bands(open_sensor_raster(path, "sentinel2a"))


def test_folder_of_level_1c_bands_is_read_without_b10(tmp_path):
    for name in ORDERS[1]:
        write_raster(tmp_path / "paris" / "imgs_1_rect" / f"{name}.tif", dn_of([name]))
    (cube,) = images_in(tmp_path, source="sentinel2a")
    assert cube.scene == "paris"
    check_bands(cube)
    assert LEVEL_1C_NOTE in cube.notes
    check_bands(open_sensor_raster(tmp_path / "paris" / "imgs_1_rect", "sentinel2a"))


def test_named_level_1c_is_read_without_b10(tmp_path):
    names = [name.replace("B0", "B") for name in ORDERS[1]]  # as Earth Engine names them
    cube = open_sensor_raster(write_raster(tmp_path / "a.tif", dn_of(ORDERS[1]), descriptions=names))
    check_bands(cube)
    assert LEVEL_1C_NOTE in cube.notes


def test_another_sensor(tmp_path):
    names = load_sensor("landsat8").grid.names
    dn = np.stack([np.full((12, 12), value, np.uint16) for value in np.linspace(8000, 14000, len(names))])
    (cube,) = images_in(write_raster(tmp_path / "a.tif", dn, descriptions=names).parent, source="landsat8")
    np.testing.assert_allclose(whole(cube)[0], 8000 * 2.75e-5 - 0.2, atol=1e-5)


@pytest.mark.parametrize("source", [None, "sentinel2a"])
def test_unnamed_bands_are_refused_with_a_remedy(tmp_path, source):
    write_raster(tmp_path / "a.tif", dn_of(BANDS[:10]))
    with pytest.raises(DataError, match="--source") as error:
        images_in(tmp_path, source=source)
    assert "--bands" not in str(error.value)


def test_thirteen_unnamed_bands_in_another_order_are_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", dn_of(("B10", *BANDS)))
    with pytest.raises(DataError, match="band 1 is the darkest"):
        open_sensor_raster(path, "sentinel2a")


def test_wrong_scale_is_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", dn_of(BANDS) // 10, descriptions=BANDS)
    with pytest.raises(DataError, match=r"scale or offset is wrong.*gdal_edit"):
        open_sensor_raster(path, "sentinel2a")


def test_unknown_source_and_single_band_are_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", dn_of(BANDS[:1]))
    with pytest.raises(UnknownName, match="sentinel2a"):
        open_sensor_raster(path, "sentinel9")
    with pytest.raises(DataError, match="one band"):
        open_sensor_raster(path, "sentinel2a")
    with pytest.raises(DataError, match="no cubes"):
        images_in(tmp_path, source="sentinel2a")


def test_commands_that_need_spectra_refuse_images(tmp_path):
    write_raster(tmp_path / "b.tif", dn_of(BANDS), descriptions=BANDS)
    with pytest.raises(DataError, match=r"without wavelengths .*b\.tif\).*pretrain --source"):
        open_cubes(tmp_path)


def test_images_are_packed_into_shards(tmp_path):
    write_raster(tmp_path / "b.tif", dn_of(BANDS), descriptions=BANDS)
    prepare(tmp_path, tmp_path / "shards", source="sentinel2c")
    (cube,) = open_cubes(tmp_path / "shards")
    np.testing.assert_allclose(whole(cube)[:, 0, 0], dn_of(BANDS)[:, 0, 0] * 1e-4)
    np.testing.assert_allclose(cube.grid.wavelength_nm, load_sensor("sentinel2c").grid.wavelength_nm)
    with pytest.raises(DataError, match="12 bands; the bands of a sensor are simulated from spectra"):
        simulated_pairs(tmp_path / "shards", "sentinel2a", "enmap")


# Pretraining on such images


DLR_IBM = ("dlr-ibm-spectral", "dlr-ibm-spatial-spectral")
IMAGES = ["image0", "image1", "image2", "image3"]


def make_images(folder, count=4, side=16):
    """Sentinel-2 images of the spectra of `smooth_cubes`."""
    centres = load_sensor("sentinel2a").grid.wavelength_nm
    for number, cube in enumerate(smooth_cubes(count, side=side, seed=3)):
        bands = np.apply_along_axis(partial(np.interp, centres, cube.grid.wavelength_nm), 0, cube.values)
        write_raster(folder / f"image{number}.tif", np.rint(bands * 1e4).astype(np.uint16), descriptions=BANDS)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("spectra"), bands=41, count=2)


@pytest.mark.parametrize(
    "name", ["s2mae", *(pytest.param(name, marks=pytest.mark.slow) for name in ("general", *DLR_IBM))]
)
def test_presets_train_on_sentinel2(name, images, ms2hs, tmp_path):
    output = tmp_path / "w.safetensors"
    code, _, err = ms2hs("pretrain", *tiny(name), "--data", images, *few(1), "-o", output)
    assert code == 0, err
    assert "taken as sentinel2a" in err
    assert load_weights(str(output)).card["trained_on"] == IMAGES


@pytest.mark.parametrize("name", ["spectral", "spatial-spectral"])
def test_presets_of_whole_spectra_are_refused(name, images, ms2hs):
    code, _, err = ms2hs("pretrain", *tiny(name), "--data", images, "--source", "sentinel2a", *few(1))
    assert_clear(code, err, "12 bands.*--preset s2mae")


def test_groups_too_large_for_twelve_bands_are_refused(images, ms2hs, tmp_path):
    words = [*tiny("dlr-ibm-spectral", group=16), "--data", images, "--source", "sentinel2b", *few(1)]
    assert_clear(*ms2hs("pretrain", *words, "-o", tmp_path / "w.safetensors")[::2], "1 groups of bands.*--set")


SMALL = SIZES | {"window": 16, "group": 1}
RECIPE = """
preset = "s2mae"
batch = 4
precision = "float32"
device = "cpu"
set = {sizes}

[[stage]]
data = '{images}'
source = "sentinel2b"
steps = 120
lr = 3e-3

[[stage]]
data = '{spectra}'
window = 8
steps = 3
"""


@pytest.mark.slow
def test_stages_continue_on_other_bands_and_resume(images, spectra, ms2hs, tmp_path):
    sizes = json.dumps([f"{name}={value}" for name, value in SMALL.items()])
    recipe = tmp_path / "stages.toml"
    recipe.write_text(RECIPE.format(sizes=sizes, images=images, spectra=spectra))
    output, first = tmp_path / "w.safetensors", tmp_path / "w.run" / "stage-1.safetensors"
    code, out, err = ms2hs("pretrain", "--recipe", recipe, "-o", output)
    assert code == 0, err
    assert out == f"{output}\n"
    assert re.findall(r"stage (\d of \d): (\S+)", err) == [("1 of 2", str(images)), ("2 of 2", str(spectra))]
    card = load_weights(str(output)).card
    assert card["trained_on"] == ["place0", "place1"]
    assert card["continues"]["trained_on"] == IMAGES
    assert [card["continues"]["settings"][name] for name in ("source", "window")] == ["sentinel2b", None]

    # the last stage starts from the parameters of the first, where its loss is lower than that of random parameters
    options = PretrainOptions("s2mae", (spectra,), window=8, changes=SMALL, fit=settings_of(batch=4))
    pretrain(replace(options, init=first), tmp_path / "again.safetensors")
    pretrain(options, tmp_path / "scratch.safetensors")
    continued, again, scratch = (log_of(tmp_path / f"{name}.safetensors")[0] for name in ("w", "again", "scratch"))
    assert continued["loss"] == again["loss"] < scratch["loss"]

    expected, kept = output.read_bytes(), first.stat().st_mtime_ns
    output.unlink()
    assert_clear(*ms2hs("pretrain", "--recipe", recipe, "-o", output)[::2], r"stage-1\.safetensors exists")
    code, _, err = ms2hs("pretrain", "--recipe", recipe, "-o", output, "--resume")
    assert (code, output.read_bytes(), first.stat().st_mtime_ns) == (0, expected, kept)
    assert "stage 1" not in err
    other = ["pretrain", "--recipe", recipe, "-o", output, "--steps", 2, "--overwrite"]
    assert_clear(*ms2hs(*other, "--resume")[::2], r"fit\.steps is 120 in the checkpoint, 2 now")
    code, _, err = ms2hs(*other)
    assert code == 0, err  # the command line wins in both stages
    assert [entry["step"] for entry in (*log_of(first), *log_of(output))] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('preset = "s2mae"\nstage = 3', r"stage is 3; options below lines \[\[stage\]\]"),
        ('preset = "s2mae"\n[[stage]]\ninit = "w"', "no option 'init'; a stage has"),
        ('preset = "linear"\n[[stage]]\nsteps = 3', "no linear model"),
        ('preset = "s2mae"\n[[stage]]\nsteps = 0', "steps"),
        ('preset = "s2mae"\n[[stage]]\nsimulated = 2\n[[stage]]\ndata = "absent"', "absent: no such folder"),
    ],
)
def test_bad_stages_are_one_message(text, said, ms2hs, tmp_path):
    recipe = tmp_path / "bad.toml"
    recipe.write_text(text)
    code, _, err = ms2hs("pretrain", "--recipe", recipe, "-o", tmp_path / "w.safetensors")
    assert code != 0
    assert re.search(said, err)


def test_shipped_progressive_recipe_is_valid(ms2hs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).parents[1] / "weights" / "recipes" / "s2mae-progressive.toml"
    assert_clear(*ms2hs("pretrain", "--recipe", recipe)[::2], "fmow-sentinel/train: no such folder")
