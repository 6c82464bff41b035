"""Maps of scenes by a stub of a tuned model: a rule for each pixel, whose maps are known."""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pystac
import pytest
import rasterio
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster
from rio_cogeo.cogeo import cog_validate
from test_faults_items import check_item_is_valid
from test_task_model import facts_of, model_of

from ms2hs.errors import GridError, OutputError, SceneError, WeightsError
from ms2hs.models.config import PRESETS
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of
from ms2hs.tasks.maps import mapping
from ms2hs.tasks.maps.map_legend import COVER_COLOURS, QUALITATIVE, Legend, class_colours
from ms2hs.tasks.maps.map_model import MapModel, windows_of
from ms2hs.tasks.maps.mapping import MapOptions, plan, run
from ms2hs.tasks.maps.scene_bands import select_bands
from ms2hs.tasks.task_model import TaskModel

DRAW = mapping._draw
BANDS = ("B02", "B03", "B04", "B08", "B11")
SPECTRA = np.array([[spectrum[S2_BANDS.index(band)] for band in BANDS] for spectrum in (LEAVES, WATER, SAND)])


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Drawing takes longer than all other work: only the map of the module and one test draw."""
    monkeypatch.setattr(mapping, "_draw", lambda *_: None)


def likelihood(reflectance, valid):
    """Probabilities of classes by the distance to their spectra."""
    assert reflectance[:, 0, 0].shape == valid.shape
    distance = ((reflectance - SPECTRA[:, :, None, None]) ** 2).sum(axis=2)
    likely = np.exp(-100 * distance)
    return (likely / likely.sum(axis=1, keepdims=True)).astype(np.float32)


def is_brighter(reflectance, _valid):
    """Change is a brighter near infrared after than before."""
    before, after = np.moveaxis(reflectance[:, :, 3], 1, 0)
    changed = (after > before + 0.1).astype(np.float32)
    return np.stack([1 - changed, changed], axis=1)


RULE = MapModel(
    name="tuned",
    path=Path("tuned.safetensors"),
    sha256="ab" * 32,
    task="segmentation",
    classes=("broadleaf forest", "water", 'dunes <&"\n'),
    grid=load_sensor("sentinel2a").grid.select(load_sensor("sentinel2a").grid.index(BANDS)),
    sensor="sentinel2a",
    side=64,
    overlap=0,
    batch=2,
    predict=likelihood,
)
VALUES = replace(
    RULE,
    task="regression",
    classes=("leaf area", "chlorophyll µg"),
    predict=lambda reflectance, _: 1000 * reflectance[:, 0, [3, 2]],
)
CHANGE = replace(RULE, task="change", classes=("unchanged", "changed"), predict=is_brighter)


def scene_of(path, shape=(40, 50), **options):
    """Vertical stripes of leaves, water and sand, with a nodata row."""
    dn = dn_of([LEAVES, WATER, SAND], shape)
    dn[:, 3] = 0
    return write_raster(path, dn, descriptions=S2_BANDS, nodata=0, **options)


def mapped(path, model=None, output=None, after=(), **options):
    planned = plan([path, *after], model or RULE, output or path.with_name("map.tif"), MapOptions(**options))
    return run(planned)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A map with all that belongs to it."""
    return mapped(scene_of(tmp_path_factory.mktemp("map") / "scene.tif"), probability="all")


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def test_map_holds_the_class_of_each_pixel(made):
    expected = np.tile(np.arange(50) % 3 + 1, (40, 1))
    expected[3] = 0
    np.testing.assert_array_equal(read(made.output)[0], expected)
    assert list(made.counts.values()) == [(expected == value).sum() for value in (1, 2, 3)]
    assert (made.valid, made.pixels) == (39 * 50, 40 * 50)


def test_map_is_a_valid_cog_with_colours_and_provenance(made):
    for path in made.paths[0], made.output.with_name("map_probability.tif"):
        assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(made.output) as file:
        assert file.dtypes == ("uint8",)
        assert file.nodata == 0
        colours = [file.colormap(1)[value] for value in range(4)]
        tags = file.tags()
    legend = Legend.of(RULE.classes)
    assert [colour[:3] for colour in colours[1:]] == [tuple(rgb) for rgb in legend.rgb[1:].tolist()]
    assert colours[0][3] == 0
    assert (
        tags.items()
        >= {"MS2HS_TASK": "segmentation", "MS2HS_WEIGHTS_SHA256": "ab" * 32, "MS2HS_SCENE": "scene"}.items()
    )


def test_probabilities_have_a_band_for_each_class(made):
    with rasterio.open(made.output.with_name("map_probability.tif")) as file:
        assert file.descriptions[1] == "probability of water"
        values = file.read(masked=True) * file.scales[0]
    assert values.mask[:, 3].all()
    np.testing.assert_allclose(values.sum(axis=0).compressed(), 1, atol=2e-4)
    np.testing.assert_array_equal(values.argmax(axis=0)[4], read(made.output)[0][4] - 1)


def test_probability_of_the_best_class_is_one_band(tmp_path):
    mapped(scene_of(tmp_path / "scene.tif"), probability="best")
    best = read(tmp_path / "map_probability.tif")
    assert best.shape[0] == 1
    assert (best[0, 4:] > 3333).all()


def test_names_of_classes_stand_in_table_style_and_item(made):
    names = ["broadleaf forest", "water", 'dunes <&"\\n']
    table = ET.parse(f"{made.output}.aux.xml").getroot()  # noqa: S314 - our own file
    assert [category.text for category in table.iter("Category")] == [None, *names]
    rows = [[field.text for field in row] for row in table.iter("Row")]
    assert [row[2] for row in rows] == names
    assert [int(row[1]) for row in rows] == list(made.counts.values())
    style = ET.parse(made.output.with_suffix(".qml")).getroot()  # noqa: S314
    entries = list(style.iter("paletteEntry"))
    assert [entry.get("label") for entry in entries] == names
    item = json.loads(made.output.with_suffix(".json").read_text())
    classes = item["assets"]["data"]["classification:classes"]
    assert [one["title"] for one in classes] == ["no data", *names]
    assert [one["color_hint"] for one in classes[1:]] == [
        entry.get("color")[1:].upper() for entry in style.iter("paletteEntry")
    ]


@pytest.mark.slow
def test_gdal_shows_names_colours_and_counts(made):
    if shutil.which("gdalinfo") is None:
        pytest.skip("no gdalinfo on the PATH")
    run = subprocess.run(["gdalinfo", "-json", made.output], capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    assert report["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    (band,) = report["bands"]
    assert band["colorInterpretation"] == "Palette"
    assert band["colorTable"]["entries"][2][:3] == Legend.of(RULE.classes).rgb[2].tolist()
    text = subprocess.run(["gdalinfo", made.output], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Categories:\s+0:\s+1: broadleaf forest\s+2: water", text)
    assert re.search(r"<F>2</F>\s*<F>663</F>\s*<F>water</F>", text)


@pytest.mark.slow
def test_qgis_shows_the_names_of_classes(made):
    """By its style, and without a style by the names in GDAL's auxiliary file."""
    python = shutil.which("python3", path=os.defpath) or ""  # QGIS belongs to the system's Python
    run = subprocess.run([python, "-c", IN_QGIS, made.output], capture_output=True, text=True, check=False)
    if "No module named 'qgis'" in run.stderr:
        pytest.skip("QGIS is not installed")
    legend = Legend.of(RULE.classes)
    expected = [[value, *pair] for value, pair in enumerate(zip(legend.names, legend.colours, strict=True), 1)]
    assert json.loads(run.stdout) == {"type": "paletted", "style": expected, "own": expected}, run.stderr


IN_QGIS = """
import json, os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
from qgis.core import QgsApplication, QgsPalettedRasterRenderer, QgsRasterLayer
app = QgsApplication([], False)
app.initQgis()
layer = QgsRasterLayer(sys.argv[1], "map")
own = QgsPalettedRasterRenderer.colorTableToClassData(layer.dataProvider().colorTable(1))
rows = [[[int(one.value), one.label, one.color.name()] for one in part] for part in (layer.renderer().classes(), own)]
print(json.dumps({"type": layer.renderer().type(), "style": rows[0], "own": rows[1][1:4]}))
"""


def test_item_is_valid(made):
    check_item_is_valid(made.output.with_suffix(".json"))
    item = pystac.Item.from_file(str(made.output.with_suffix(".json")))
    assert set(item.assets) == {"data", "probability", "style", "table", "thumbnail"}
    assert item.properties["ms2hs:model"] == "tuned"


def test_pictures_show_the_colours_of_the_table(made, tmp_path, monkeypatch):
    from matplotlib.image import imread

    image = np.round(imread(made.output.with_suffix(".png"))[..., :3] * 255).astype(int)
    shown = set(np.unique(image @ [65536, 256, 1]))
    assert set(Legend.of(RULE.classes).rgb.astype(int) @ [65536, 256, 1]) <= shown
    monkeypatch.setattr(mapping, "_draw", DRAW)
    values = mapped(scene_of(tmp_path / "scene.tif"), VALUES)
    assert [path.suffix for path in values.paths] == [".tif", ".png", ".json"]


def test_map_without_matplotlib_says_how_to_get_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "_draw", DRAW)
    for name in ("matplotlib", "matplotlib.patches"):
        monkeypatch.setitem(sys.modules, name, None)
    result = mapped(scene_of(tmp_path / "scene.tif"))
    assert "pip install 'ms2hs[tasks]'" in result.notes[-1]
    assert not (tmp_path / "map.png").exists()
    assert all(path.exists() for path in result.paths)


def test_regression_writes_a_band_for_each_quantity(tmp_path):
    path = scene_of(tmp_path / "scene.tif")
    result = mapped(path, VALUES)
    with rasterio.open(result.output) as file:
        assert file.descriptions == ("leaf area", "chlorophyll µg")
        values = file.read()
        assert np.isnan(file.nodata)
    np.testing.assert_allclose(values[0, 4:] / 1000, read(path)[7, 4:] / 1e4, rtol=1e-6)
    assert np.isnan(values[:, 3]).all()
    with pytest.raises(SceneError, match="Leave --probability out"):
        mapped(path, VALUES, tmp_path / "other.tif", probability="best")


def test_labels_that_exclude_nothing_are_written_as_probabilities(tmp_path):
    result = mapped(scene_of(tmp_path / "scene.tif"), replace(RULE, task="multilabel"))
    with rasterio.open(result.output) as file:
        assert (file.count, file.dtypes[0], file.scales[0]) == (3, "int16", 1e-4)


def test_change_maps_take_two_scenes_on_one_grid(tmp_path):
    before = write_raster(tmp_path / "a.tif", dn_of([WATER, WATER]), descriptions=S2_BANDS)
    after = write_raster(tmp_path / "b.tif", dn_of([WATER, LEAVES]), descriptions=S2_BANDS)
    result = mapped(before, CHANGE, tmp_path, after=[after])
    assert result.output.name == "a_b_change.tif"
    np.testing.assert_array_equal(read(result.output)[0], np.tile([1, 2], (24, 15)))
    rounded = write_raster(tmp_path / "d.tif", dn_of([WATER, LEAVES]), 10.000001, descriptions=S2_BANDS)
    assert mapped(before, CHANGE, tmp_path, after=[rounded]).valid == 720
    other = write_raster(tmp_path / "c.tif", dn_of([WATER, LEAVES], (25, 30)), descriptions=S2_BANDS)
    with pytest.raises(GridError, match="25 x 30 pixels of 10 x 10.*one grid.*gdalwarp"):
        mapped(before, CHANGE, after=[other])
    with pytest.raises(SceneError, match="1 scene for a model of change; 2 are needed"):
        mapped(before, CHANGE)
    with pytest.raises(SceneError, match="2 scenes for a model of segmentation; 1 is needed"):
        mapped(before, after=[after])


def test_windows_that_agree_leave_no_seams(tmp_path):
    path = scene_of(tmp_path / "scene.tif", (139, 201))
    alone = mapped(path, RULE, tmp_path / "alone.tif", probability="all")
    blended = mapped(path, replace(RULE, overlap=16), tmp_path / "blended.tif", probability="all")
    np.testing.assert_array_equal(read(alone.output), read(blended.output))
    difference = read(tmp_path / "alone_probability.tif") - read(tmp_path / "blended_probability.tif")
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("whole_images", [False, True])
@pytest.mark.parametrize("patches", [1, 8])
def test_windows_are_of_whole_patches_and_share_what_a_pixel_depends_on(name, patches, whole_images):
    config = PRESETS[name]
    side, overlap = windows_of(config, patches * config.patch, whole_images=whole_images)
    assert side % config.patch == 0
    assert overlap < side
    assert not whole_images or overlap >= patches * config.patch
    assert overlap or (config.patch == 1 and config.is_local)


def test_memory_does_not_depend_on_the_height(tmp_path, monkeypatch):
    peaks, most_rows = [], 0

    def counted(self, row, col, height, width, read_pixels=SceneReader.read_pixels):
        nonlocal most_rows
        most_rows = max(most_rows, height)
        return read_pixels(self, row, col, height, width)

    monkeypatch.setattr(SceneReader, "read_pixels", counted)
    for name, rows in (("first", 512), ("short", 512), ("tall", 1536)):
        path = scene_of(tmp_path / f"{name}.tif", (rows, 64))
        planned = plan([path], RULE, tmp_path / f"{name}_map.tif")
        tracemalloc.start()
        run(planned)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most_rows == RULE.side
    assert peaks[2] < 1.3 * peaks[1]  # a second thread reads ahead: the peak varies a little


def test_files_are_replaced_only_on_request(tmp_path):
    path = scene_of(tmp_path / "scene.tif")
    (tmp_path / "map.qml").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        mapped(path)
    assert (tmp_path / "map.qml").read_text() == "mine"
    mapped(path, overwrite=True)
    with pytest.raises(OutputError, match="is an input"):
        mapped(path, output=path, overwrite=True)
    with pytest.raises(OutputError, match="suffix .tif is needed"):
        mapped(path, output=tmp_path / "map.png")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_map_leaves_no_file(tmp_path, error):
    def stop(*_):
        raise error

    path = scene_of(tmp_path / "scene.tif")
    with pytest.raises(error):
        mapped(path, replace(RULE, predict=stop))
    assert list(tmp_path.iterdir()) == [path]


def test_model_that_overflows_is_refused(tmp_path):
    broken = replace(RULE, predict=lambda *window: likelihood(*window) / np.float32(0) * 0)
    with np.errstate(all="ignore"), pytest.raises(WeightsError, match="not a finite number"):
        mapped(scene_of(tmp_path / "scene.tif"), broken)
    assert len(list(tmp_path.iterdir())) == 1


def test_map_without_a_valid_pixel_is_refused(tmp_path):
    with pytest.raises(SceneError, match="no valid pixel"):
        mapped(scene_of(tmp_path / "scene.tif"), window=(3, 0, 1, 50))
    assert len(list(tmp_path.iterdir())) == 1


def test_scene_with_an_offset_that_nobody_declares_is_warned_about(tmp_path):
    dn = dn_of([LEAVES, WATER, SAND], (80, 80)) + np.uint16(1000)
    path = write_raster(tmp_path / "scene.tif", dn, descriptions=S2_BANDS)
    result = mapped(path, scene=SceneOptions(scale=1e-4, offset=0.0))
    assert "seems to contain a constant of +0.1" in " ".join(result.notes)


def test_scene_of_the_same_family_is_matched_by_name(tmp_path):
    path = scene_of(tmp_path / "scene.tif")
    result = mapped(path, scene=SceneOptions(source="sentinel2b"))
    assert "tuned on sentinel2a, and the scene is of sentinel2b: bands are matched by name" in " ".join(result.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensor": "hls_s30"}, "sensor is sentinel2a; the model is tuned on hls_s30. Use a scene"),
        (
            {"sensor": None, "grid": grid_of(np.arange(500.0, 900.0, 10.0))},
            "lacks 36 of 40 bands .* 500 nm, .* 28 more",
        ),
    ],
)
def test_scene_of_another_sensor_is_refused(tmp_path, changes, message):
    path = scene_of(tmp_path / "scene.tif", tags={"SPACECRAFT_NAME": "Sentinel-2A"})
    with pytest.raises(SceneError, match=message):
        mapped(path, replace(RULE, **changes))


def test_scene_without_a_band_of_the_model_is_refused(tmp_path):
    bands = [band for band in S2_BANDS if band not in {"B11", "B01"}]
    dn = dn_of([LEAVES, WATER])[[S2_BANDS.index(band) for band in bands]]
    path = write_raster(tmp_path / "scene.tif", dn, descriptions=bands)
    with pytest.raises(SceneError, match="lacks 1 of 5 bands of the model, B11; all are needed"):
        mapped(path)


def hyperspectral(path, shift_nm=0.0):
    """A cube of 40 bands of a ramp, with a water-vapour band that is empty."""
    nm = np.arange(500.0, 900.0, 10.0) + shift_nm
    values = np.tile(np.linspace(0.05, 0.4, 40, dtype=np.float32)[:, None, None], (1, 20, 30))
    values[20] = np.nan
    tags = {"IMAGERY": [{"CENTRAL_WAVELENGTH_UM": str(centre / 1000), "FWHM_UM": "0.01"} for centre in nm]}
    return write_raster(path, values, band_tags=tags)


@pytest.mark.parametrize(("shift_nm", "fits"), [(0.0, True), (3.0, True), (12.0, True), (205.0, False)])
def test_hyperspectral_scene_is_matched_by_wavelength(tmp_path, shift_nm, fits):
    used = grid_of(np.array([550.0, 600.0, 650.0, 850.0, 870.0]), np.full(5, 10.0))
    path = hyperspectral(tmp_path / "cube.tif", shift_nm)
    model = replace(VALUES, sensor=None, grid=used)
    if not fits:
        with pytest.raises(SceneError, match="lacks 3 of 5 bands of the model, 550 nm, 600 nm, 650 nm; all are needed"):
            mapped(path, model)
        return
    result = mapped(path, model)
    assert result.valid == 600  # the empty band is not used
    assert any("by wavelength" in note for note in result.notes) == (shift_nm > 0)
    band = np.abs(np.arange(500, 900, 10) + shift_nm - 850).argmin()
    np.testing.assert_allclose(read(result.output)[0], 1000 * np.linspace(0.05, 0.4, 40)[band], rtol=1e-5)


def test_envi_cube_is_mapped(tmp_path):
    path = write_raster(tmp_path / "cube.dat", np.full((40, 6, 8), 2000, np.int16), driver="ENVI")
    listed = ", ".join(map(str, range(500, 900, 10)))
    header = path.with_suffix(".hdr")
    header.write_text(f"{header.read_text()}wavelength units = Nanometers\nwavelength = {{{listed}}}\n")
    grid = grid_of(np.array([550.0, 600.0, 650.0, 850.0, 870.0]), np.full(5, 10.0))
    result = mapped(path, replace(VALUES, sensor=None, grid=grid), tmp_path / "map.tif")
    np.testing.assert_allclose(read(result.output), 200, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 9, 30, 255])
def test_colours_of_classes_differ(count):
    assert len(set(class_colours([f"type {i}" if i else "forest" for i in range(count)]))) == count


def test_classes_without_a_land_cover_take_the_safe_scheme_in_full():
    assert set(class_colours([f"mineral {i}" for i in range(9)])) == set(QUALITATIVE[0])


def test_land_covers_take_their_colours():
    by_word = {word: colour for words, colour in COVER_COLOURS for word in words}
    names = ["SeaLake water", "Forest", "AnnualCrop", "Highway", "Residential"]
    assert class_colours(names) == [by_word[word] for word in ("water", "forest", "crop", "highway", "resid")]
    assert class_colours(["no change", "change"]) == [by_word["unchanged"], by_word["changed"]]


def test_more_classes_than_8_bits_hold_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="256 classes; a map of 8 bits holds at most 255"):
        mapped(scene_of(tmp_path / "scene.tif"), replace(RULE, classes=tuple(map(str, range(256)))))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Weights of a small network with a random head of three classes."""
    path = tmp_path_factory.mktemp("tuned") / "tuned.safetensors"
    weights, model = model_of("spectral", facts_of(sensor="sentinel2a"))
    model.save(path, weights, {})
    return path


def test_map_equals_the_prediction_of_the_model(tuned, tmp_path):
    path = scene_of(tmp_path / "scene.tif", (37, 70))
    model = MapModel.load(tuned, "cpu")
    result = mapped(path, model)
    scene = select_bands(open_scene(str(path)), model.grid, model.sensor)
    with SceneReader(scene, scene.grid) as reader:
        pixels = reader.read_pixels(0, 0, 37, 70)
    expected = TaskModel.load(tuned).predict(pixels.reflectance, pixels.valid)
    classes = np.where(pixels.valid, np.nan_to_num(expected).argmax(axis=0) + 1, 0)
    np.testing.assert_array_equal(read(result.output)[0], classes)


def test_command_maps_a_scene(tuned, tmp_path, ms2hs):
    scene_of(tmp_path / "scene.tif")
    code, out, err = ms2hs("map", tmp_path / "scene.tif", "--model", tuned, "-o", tmp_path, "--probability", "best")
    assert code == 0, err
    names = [f"scene_classes{suffix}" for suffix in (".tif", ".tif.aux.xml", ".qml", "_probability.tif", ".json")]
    assert out.split() == [str(tmp_path / name) for name in names]
    assert "97.5% of 2000 pixels valid" in err
    code, out, _ = ms2hs("map", tmp_path / "scene.tif", "--model", tuned, "-o", tmp_path / "b.tif", "--json", "-q")
    assert sum(json.loads(out)["counts"].values()) == 1950


def test_weights_without_a_head_are_refused(tmp_path, ms2hs):
    code, _, err = ms2hs("map", scene_of(tmp_path / "scene.tif"), "--model", "linear", "-o", tmp_path / "map.tif")
    assert code == 1
    assert "without the head of a task" in err
    assert "finetune --labels" in err
