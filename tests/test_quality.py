"""Quality layers: names, numbers and scaled copies as other tools write them, and what the scene says about clouds.

The expected pixels come from `GROUND`, which reads the numbers one by one as the product guides describe them.
"""

import json

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, S2_BANDS, dn_of, write_raster
from stac_items import planetary_computer

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions, plan
from ms2hs.conversion.scene_contract import contract
from ms2hs.errors import SceneError
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes import quality
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.quality import QUALITY_LAYERS, QUALITY_NAME, layer_named
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions
from ms2hs.scenes.stac_item import scene_of as scene_by

BANDS = dn_of([LEAVES])
SHAPE = BANDS.shape[1:]


def has_bit(number, *positions):
    return any(number // 2**position % 2 == 1 for position in positions)


GROUND = {
    "SCL": lambda number: number in {2, 4, 5, 6, 7, 11},
    "QA_PIXEL": lambda number: not has_bit(number, 0, 1, 2, 3, 4),
    "pixel_qa": lambda number: not has_bit(number, 0, 3, 5),
    "QAI": lambda number: not has_bit(number, 0, 1, 2, 3),
    "oa_fmask": lambda number: number in {1, 4, 5},
    "Fmask": lambda number: number != 255 and not has_bit(number, 0, 1, 2, 3),
    "MSK_CLDPRB": lambda number: number <= 40,
    "CLM": lambda number: number == 0,
    "MG2": lambda number: not has_bit(number, 1, 3),
    "CLP": lambda number: number / 255 <= 0.4,
    "QA60": lambda number: number == 0,
    "MSK_CLASSI_OPAQUE": lambda number: number == 0,
    "MSK_CLASSI_CIRRUS": lambda number: number == 0,
    "dataMask": lambda number: number != 0,
    "EDG": lambda number: number == 0,
}
# As in products: clear, water, snow, cloud, shadow, cirrus, fill, and every bit by itself.
NUMBERS = {
    "SCL": range(12),
    "QA_PIXEL": (1, 21824, 21826, 21890, 21952, 22018, 22080, 22144, 22280, 23888, 24088, 30048, 5440, 5896, 64, 8),
    "pixel_qa": (1, 322, 324, 328, 336, 352, 386, 480, 840, 66, 72, 96),
    "QAI": (0, 1, 2, 4, 6, 8, 16, 32, 64, 8192, 24576, 24578),
    "oa_fmask": range(6),
    "Fmask": (0, 2, 4, 8, 16, 32, 64, 66, 128, 194, 224, 255),
    "MSK_CLDPRB": (0, 1, 5, 39, 40, 41, 60, 100),
    "CLM": (0, 1, 255),
    "MG2": (0, 1, 2, 4, 8, 16, 32, 64, 128, 10),
    "CLP": (0, 1, 50, 101, 102, 103, 200, 255),
    "QA60": (0, 1024, 2048, 3072),
    "MSK_CLASSI_OPAQUE": (0, 1),
    "MSK_CLASSI_CIRRUS": (0, 1),
    "dataMask": (0, 1),
    "EDG": (0, 1),
}
NAMES = {
    "SCL": (
        "SCL", "scl", "SCL_20m", "0_SCL", "Band 13: SCL", "B13 SCL", "Band 12: SCL", "SCL, Scene Classification",
        "quality_scene_classification", "quality_scene_classification_M", "Scene classification map",
        "T32TNT_20240601T102021_SCL_20m", "scene_classification",
    ),
    "QA_PIXEL": ("QA_PIXEL", "qa_pixel", "QA Pixel", "0_QA_PIXEL", "Band 8: QA_PIXEL"),
    "pixel_qa": ("pixel_qa",),
    "QAI": ("QAI", "20190701_LEVEL2_SEN2B_QAI"),
    "oa_fmask": ("oa_fmask",),
    "Fmask": ("Fmask", "fmask"),
    "MSK_CLDPRB": (
        "MSK_CLDPRB", "MSK_CLDPRB_20m", "cloud_probability", "cloud-probability", "CLD", "quality_cloud_confidence",
        "CLD, Raster mask values range from 0 for high confidence clear sky to 100 for high confidence cloudy",
        "cloud", "probability", "Band 13: MSK_CLDPRB",
    ),
    "CLM": ("CLM", "CLM_R1", "clm"),
    "MG2": ("MG2_R1",),
    "CLP": ("CLP",),
    "QA60": ("QA60", "0_QA60"),
    "dataMask": ("dataMask", "data_mask"),
    "EDG": ("EDG_R1",),
}  # fmt: skip
NOT_QUALITY = (
    "cloud_mask", "scl_cloud_high_proba", "scl_water", "QA60_mask", "opaque_clouds_10m", "mask", "qa", "QA_RADSAT",
    "QA10", "MSK_SNWPRB", "snow_probability", "SNW, Raster mask values", "AOT", "WVP", "B02", "rededge1", "red_edge",
    "coastal", "TCI_R", "SR_B2", "sclera", "cloudless", "",
)  # fmt: skip


def layer_of(numbers):
    return np.resize(np.asarray(numbers), SHAPE)


def write_stack(path, layers, dtype="uint16", **options):
    """Bands of Sentinel-2 and some layers by name, in one file: floats are reflectance."""
    bands = BANDS / 1e4 if np.dtype(dtype).kind == "f" else BANDS
    values = np.concatenate([bands, *(np.asarray(layer)[None] for layer in layers.values())]).astype(dtype)
    return str(write_raster(path / "stack.tif", values, descriptions=[*S2_BANDS, *layers], **options))


def valid_of(scene):
    with SceneReader(scene, scene.grid) as reader:
        return reader.read(0, 0, scene.grid.height, scene.grid.width)[1]


def expected(name, numbers):
    return np.array([bool(GROUND[name](int(number))) for number in np.ravel(numbers)]).reshape(SHAPE)


def test_the_oracle_covers_every_layer():
    assert {*QUALITY_LAYERS} == {*GROUND, "cs_cdf"}


@pytest.mark.parametrize("name", GROUND)
def test_layer_reads_every_number_like_the_product_guide(name):
    limit = {"QA_PIXEL": 65536, "pixel_qa": 2048, "QAI": 65536, "MSK_CLDPRB": 101}.get(name, 256)
    numbers = NUMBERS[name] if name in {"SCL", "oa_fmask", "QA60", "dataMask"} else range(limit)
    found = QUALITY_LAYERS[name].valid(np.array(numbers))
    assert found.tolist() == [bool(GROUND[name](number)) for number in numbers]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in NAMES.items() for text in texts])
def test_geotiff_uses_a_layer_under_each_of_its_names(tmp_path, name, text):
    numbers = layer_of(NUMBERS[name])
    scene = open_scene(write_stack(tmp_path, {text: numbers}), SceneOptions(source="sentinel2a"))
    assert [(layer.name, layer.band) for layer in scene.quality] == [(name, 13)]
    assert "not used" not in " ".join(scene.notes)
    assert np.array_equal(valid_of(scene), expected(name, numbers))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("LC08_L2SP_193024_20220615_20220627_02_T1_QA_PIXEL", "QA_PIXEL"),
        ("HLS.S30.T32TNT.2024153T102021.v2.0.Fmask", "Fmask"),
        ("SENTINEL2A_20170706-090107-511_L2A_T33KWP_C_V1-0_CLM_R1", "CLM"),
        ("SENTINEL2A_20170706-090107-511_L2A_T33KWP_C_V1-0_MG2_R2", "MG2"),
        ("20190701_LEVEL2_SEN2B_QAI", "QAI"),
        ("ga_ls8c_oa_3-2-1_092084_2016-06-28_final_oa_fmask", "oa_fmask"),
        ("T32TNT_20240601T102021_CLD_20m", "MSK_CLDPRB"),
    ],
)
def test_names_of_files_name_a_layer(text, name):
    assert layer_named(text).name == name
    assert layer_named(QUALITY_NAME.search(text)[0]).name == name


@pytest.mark.parametrize("text", NOT_QUALITY)
def test_other_names_are_no_layer(text):
    assert layer_named(text) is None


@pytest.mark.parametrize("name", GROUND)
@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        ("uint16", 1),
        ("int32", 1),
        ("float32", 1),
        ("float64", 1),
        ("float32", 1e-4),
        ("float64", 1e-4),
        ("int32", 10_000),
    ],
)
def test_geotiff_reads_scaled_copies_of_a_layer(tmp_path, name, dtype, factor):
    """Tools divide or multiply all bands, the quality layer included."""
    numbers = layer_of(NUMBERS[name])
    path = write_stack(tmp_path, {name: (numbers * np.float64(factor)).astype(dtype)}, dtype)
    scene = open_scene(path)
    assert [layer.name for layer in scene.quality] == [name]
    assert np.array_equal(valid_of(scene), expected(name, numbers))


@pytest.mark.parametrize(("name", "top"), [("MSK_CLDPRB", 100), ("CLP", 255)])
@pytest.mark.parametrize("unit", ["share", "averaged"])
def test_geotiff_reads_probabilities_as_shares_and_after_resampling(tmp_path, name, top, unit):
    shares = layer_of(np.linspace(0, 0.9876, 700))
    scene = open_scene(write_stack(tmp_path, {name: shares * (1 if unit == "share" else top)}, "float32"))
    assert np.array_equal(valid_of(scene), shares <= 0.4)


@pytest.mark.parametrize("text", ["cs_cdf", "cs"])
def test_geotiff_reads_clear_scores(tmp_path, text):
    score = layer_of(np.linspace(0, 0.99, 700))
    scene = open_scene(write_stack(tmp_path, {text: score}, "float32"))
    assert scene.quality_note == "cloud and shadow by cs_cdf (band 13)"
    assert np.array_equal(valid_of(scene), score >= 0.6)


@pytest.mark.parametrize(
    ("name", "text", "layer", "why"),
    [
        ("SCL", "SCL", layer_of([4, 4.37, 9]), "4.37 is not a number of this layer"),
        ("SCL", "scl", layer_of([4, 17, 9]), "17 is not a number of this layer"),
        ("QA60", "QA60", layer_of([0, 512]), "512 is not a number of this layer"),
        ("Fmask", "Fmask", layer_of([0, 1, 2, 3, 4, 255]), "its numbers may be bits or classes"),
        ("MSK_CLDPRB", "cloud", layer_of([0, 1]), "1 is not a number of this layer"),
        ("MSK_CLDPRB", "CLD", layer_of([0, 180]), "180 is not a number of this layer"),
    ],
)
def test_layers_with_other_numbers_are_not_used(tmp_path, name, text, layer, why):
    scene = open_scene(write_stack(tmp_path, {text: layer}, "float32"))
    assert scene.quality == ()
    assert scene.quality_note == f"clouds are kept: band 13 ({name}) is not used: {why}"
    assert valid_of(scene).all()


@pytest.mark.parametrize("text", ["Fmask", "QA"])
def test_fmask_of_hls_may_have_few_bits(tmp_path, text):
    numbers = layer_of([0, 2, 4, 255])
    names = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", text)
    values = np.concatenate([BANDS[:11], numbers[None]]).astype("int16")
    path = write_raster(tmp_path / "stack.tif", values, descriptions=names, nodata=-9999)
    scene = open_scene(str(path), SceneOptions(source="hls_s30"))
    assert np.array_equal(valid_of(scene), numbers == 0)


@pytest.mark.parametrize("name", ["QA60", "MSK_CLDPRB", "CLM", "MSK_CLASSI_OPAQUE"])
@pytest.mark.parametrize("nodata", [None, 0])
def test_empty_layers_mark_nothing(tmp_path, name, nodata):
    """Earth Engine's QA60 is empty from 2022-02 to 2024-02."""
    scene = open_scene(write_stack(tmp_path, {name: np.zeros(SHAPE)}, nodata=nodata))
    assert scene.quality_note == f"clouds are kept: band 13 ({name}) marks nothing"
    assert valid_of(scene).all()


def test_masked_layers_have_no_values(tmp_path):
    scene = open_scene(write_stack(tmp_path, {"QA60": np.full(SHAPE, np.nan)}, "float32"))
    assert (scene.quality, scene.quality_note) == ((), "clouds are kept: band 13 (QA60) has no values")
    assert valid_of(scene).all()


@pytest.mark.parametrize(
    ("dtype", "fill"), [("float32", np.nan), ("float32", -9999), ("int32", -9999), ("uint16", 65535), ("float32", 1e20)]
)
def test_fill_of_a_layer_is_not_ground(tmp_path, dtype, fill):
    numbers = np.where(np.arange(SHAPE[1]) < 5, fill, layer_of([4, 9]))
    nodata = None if np.isnan(fill) else fill
    scene = open_scene(write_stack(tmp_path, {"SCL": numbers}, dtype, nodata=nodata))
    assert np.array_equal(valid_of(scene), numbers == 4)


@pytest.mark.parametrize("name", ["QA60", "CLM", "MSK_CLDPRB", "QAI"])
def test_declared_nodata_of_0_does_not_hide_clear_pixels(tmp_path, name):
    numbers = layer_of(NUMBERS[name])
    scene = open_scene(write_stack(tmp_path, {name: numbers}, nodata=0))
    assert np.array_equal(valid_of(scene), expected(name, numbers))


@pytest.mark.parametrize(
    ("first", "second"),
    [("SCL", "QA60"), ("SCL", "MSK_CLDPRB"), ("QA_PIXEL", "CLM"), ("Fmask", "QA60"), ("MSK_CLDPRB", "CLM"),
     ("CLM", "CLP"), ("CLP", "QA60"), ("QA60", "MSK_CLASSI_OPAQUE")],
)  # fmt: skip
def test_the_products_classification_comes_first(tmp_path, first, second):
    layers = {second: np.full(SHAPE, max(NUMBERS[second])), first: layer_of(NUMBERS[first])}
    scene = open_scene(write_stack(tmp_path, layers))
    assert [layer.name for layer in scene.quality] == [first]
    assert np.array_equal(valid_of(scene), expected(first, layers[first]))


def test_the_next_layer_is_used_where_the_first_is_unusable(tmp_path):
    cloud = layer_of([0, 100])
    layers = {"SCL": layer_of([4, 4.5]), "MSK_CLDPRB": cloud}
    scene = open_scene(write_stack(tmp_path, layers, "float32"))
    assert scene.quality_note == (
        "cloud by MSK_CLDPRB (band 14); band 13 (SCL) is not used: 4.5 is not a number of this layer"
    )
    assert np.array_equal(valid_of(scene), cloud == 0)


def test_missing_data_is_marked_besides_clouds(tmp_path):
    layers = {"CLM": layer_of([0, 1, 0, 255]), "dataMask": layer_of([1, 1, 0, 0])}
    scene = open_scene(write_stack(tmp_path, layers))
    assert scene.quality_note == "cloud by CLM (band 13); no data by dataMask (band 14)"
    assert np.array_equal(valid_of(scene), (layers["CLM"] == 0) & (layers["dataMask"] == 1))
    alone = open_scene(write_stack(tmp_path, {"dataMask": layers["dataMask"]}))
    assert alone.quality_note == "clouds are kept: the file has no cloud layer; no data by dataMask (band 13)"


@pytest.mark.parametrize("number", [1, 255, 65535])
def test_scaled_data_masks_are_read(tmp_path, number):
    numbers = layer_of([0, number])
    assert np.array_equal(valid_of(open_scene(write_stack(tmp_path, {"dataMask": numbers}))), numbers > 0)


def test_layers_of_one_rank_are_combined(tmp_path):
    layers = {"MSK_CLASSI_OPAQUE": layer_of([0, 1, 0, 1]), "MSK_CLASSI_CIRRUS": layer_of([0, 0, 1, 1])}
    scene = open_scene(write_stack(tmp_path, layers))
    assert np.array_equal(valid_of(scene), layer_of([1, 0, 0, 0]) > 0)


@pytest.mark.parametrize("text", ["cloud_mask", "QA10", "clear_sky_mask", "qa", "quality", "scl_thin_cirrus", "shadow"])
def test_unknown_layers_are_named(tmp_path, text):
    scene = open_scene(write_stack(tmp_path, {text: layer_of([0, 1])}))
    assert scene.quality_note == f"clouds are kept: band 13 ({text}) has an unknown meaning"


@pytest.mark.parametrize("layers", [{}, {"AOT": layer_of([100])}, {"MSK_SNWPRB": layer_of([0, 90])}])
def test_files_without_a_cloud_layer_say_so(tmp_path, layers):
    assert open_scene(write_stack(tmp_path, layers)).quality_note == "clouds are kept: the file has no cloud layer"


def test_no_quality_keeps_clouds(tmp_path):
    scene = open_scene(write_stack(tmp_path, {"SCL": layer_of([9])}), SceneOptions(quality=False))
    assert (scene.quality, scene.quality_note) == ((), "clouds are kept: --no-quality")
    assert valid_of(scene).all()


def test_the_user_may_name_a_layer(tmp_path):
    numbers = layer_of([4, 9])
    path = write_raster(tmp_path / "x.tif", np.concatenate([BANDS, numbers[None]]).astype("uint16"))
    scene = open_scene(str(path), SceneOptions(bands=(*S2_BANDS, "SCL")))
    assert scene.quality_note == "cloud and shadow by SCL (band 13)"
    assert np.array_equal(valid_of(scene), numbers == 4)
    with pytest.raises(SceneError, match="has cloudy"):
        open_scene(str(path), SceneOptions(bands=(*S2_BANDS, "cloudy")))


def test_geotiff_of_force_uses_the_layer_in_the_file_beside_it(tmp_path):
    numbers = layer_of(NUMBERS["QAI"])
    path = write_raster(tmp_path / "20190701_LEVEL2_SEN2B_BOA.tif", BANDS, descriptions=S2_BANDS)
    write_raster(tmp_path / "20190701_LEVEL2_SEN2B_QAI.tif", numbers[None].astype("int16"), nodata=1)
    scene = open_scene(str(path))
    assert scene.quality_note == "cloud and shadow by QAI (20190701_LEVEL2_SEN2B_QAI.tif)"
    assert np.array_equal(valid_of(scene), expected("QAI", numbers))


@pytest.mark.parametrize("others", [[4], [4, 5], [0], [np.nan], [-9999]])
def test_large_layers_are_sampled_and_read_where_the_sample_shows_a_fault(tmp_path, monkeypatch, others):
    monkeypatch.setattr(quality, "MAX_WHOLE_PIXELS", 100)
    monkeypatch.setattr(quality, "SAMPLE_PIXELS", 4)
    numbers = layer_of(others).astype(float)
    numbers[5, 5:7] = 9, 4  # outside the sample
    scene = open_scene(write_stack(tmp_path, {"SCL": numbers / 1e4}, "float32"))
    assert scene.quality_note == "cloud and shadow by SCL (band 13)"
    assert np.array_equal(valid_of(scene), (numbers == 4) | (numbers == 5))


def test_convert_counts_missing_data_and_clouds(ms2hs, tmp_path):
    path = write_stack(tmp_path, {"SCL": layer_of([4, 9, 4, 4]), "dataMask": layer_of([1, 1, 1, 0])})
    _, _, err = ms2hs("convert", path, "-o", tmp_path / "cube.tif", "--model", "linear")
    last = err.splitlines()[-1]
    assert "invalid: 25.0 % nodata, 25.0 % cloud;" in last
    assert "; cloud and shadow by SCL (band 13); no data by dataMask (band 14); " in last


def scene_of(item):
    """The scene of an item whose files have one grid."""
    grid = PixelGrid("EPSG:32632", (30.0, 0.0, 600_000.0, 0.0, -30.0, 5_100_000.0), 32, 32)
    return scene_by(item, None, None, lambda _href: grid)


@pytest.mark.parametrize(
    ("key", "name"),
    [("scl", "SCL"), ("SCL_20m", "SCL"), ("scl-jp2", "SCL"), ("qa_pixel", "QA_PIXEL"), ("QA_PIXEL", "QA_PIXEL"),
     ("cloud", "MSK_CLDPRB"), ("MSK_CLDPRB", "MSK_CLDPRB"), ("oa_fmask", "oa_fmask")],
)  # fmt: skip
def test_items_use_the_asset_of_a_layer_by_its_key(key, name):
    item = planetary_computer("05.11", "https://files.example.org/a/{}".format)
    assets = {other: asset for other, asset in item["assets"].items() if other != "SCL"}
    scene = scene_of(item | {"assets": assets | {key: {"href": "https://files.example.org/q.tif"}}})
    assert [layer.name for layer in scene.quality] == [name]
    assert scene.quality_note == f"{QUALITY_LAYERS[name].marks} by {name}"
    for others in (assets, assets | {"Fmask": {"href": "https://files.example.org/f.tif"}}):
        assert scene_of(item | {"assets": others}).quality_note == "clouds are kept: the item has no cloud layer"


def test_items_prefer_the_classification():
    item = planetary_computer("05.11", "https://files.example.org/a/{}".format)
    more = {
        "cloud": {"href": "https://files.example.org/c.tif"},
        "dataMask": {"href": "https://files.example.org/d.tif"},
    }
    scene = scene_of(item | {"assets": more | item["assets"]})
    assert [layer.name for layer in scene.quality] == ["SCL"]


def test_convert_says_what_happens_to_clouds(ms2hs, tmp_path):
    path = write_stack(tmp_path, {"QA60": np.zeros(SHAPE)})
    code, _, err = ms2hs("convert", path, "-o", tmp_path / "cube.tif", "--model", "linear")
    assert code == 0
    assert "; clouds are kept: band 13 (QA60) marks nothing; " in err.splitlines()[-1]
    notes = json.loads((tmp_path / "cube.json").read_text())["properties"]["ms2hs:notes"]
    assert "clouds are kept: band 13 (QA60) marks nothing" in notes


def test_convert_leaves_out_clouds_of_a_divided_layer(tmp_path):
    numbers = layer_of([0.0004, 0.0009])
    path = write_stack(tmp_path, {"SCL": numbers}, "float32")
    result = convert(path, "enmap", tmp_path / "cube.tif", ConvertOptions(model="linear"))
    assert result.clouds == "cloud and shadow by SCL (band 13)"
    with rasterio.open(tmp_path / "cube.tif") as cube:
        assert np.array_equal(cube.read(1) != cube.nodata, numbers < 0.0005)


def test_layers_in_files_of_a_folder_are_combined(tmp_path):
    """MAJA has cloud and shadow in CLM, cloud shadow in MG2, and the edge of the image in EDG."""
    stem = (
        tmp_path
        / "SENTINEL2A_20170706-090107-511_L2A_T33KWP_C_V1-0"
        / "SENTINEL2A_20170706-090107-511_L2A_T33KWP_C_V1-0"
    )
    layers = {
        "CLM_R1": layer_of([0, 3, 0, 0, 0]),
        "MG2_R1": layer_of([0, 2, 8, 5, 0]),
        "EDG_R1": layer_of([0, 0, 0, 0, 1]),
    }
    for name, values in zip(S2_BANDS, BANDS, strict=True):
        if name not in {"B01", "B09"}:
            text = name.replace("B0", "B")
            write_raster(stem.with_name(f"{stem.name}_FRE_{text}.tif"), values[None].astype("int16"), nodata=-10000)
    for name, values in layers.items():
        write_raster(stem.parent / "MASKS" / f"{stem.name}_{name}.tif", values[None].astype("uint8"))
    scene = open_scene(str(stem.parent))
    assert {layer.name for layer in scene.quality} == {"CLM", "MG2", "EDG"}
    assert np.array_equal(valid_of(scene), layer_of([1, 0, 0, 1, 0]) > 0)


@pytest.mark.parametrize("numbers", [(0, 2), (0, 1, 2, 3), (5, 40)])
@pytest.mark.parametrize("text", ["cloud", "MSK_CLDPRB", "CLP"])
def test_few_numbers_that_are_all_ground_mark_nothing(tmp_path, text, numbers):
    scene = open_scene(write_stack(tmp_path, {text: layer_of(numbers)}))
    assert scene.quality_note == f"clouds are kept: band 13 ({scene.quality[0].name}) marks nothing"


@pytest.mark.parametrize("text", ["valid_mask", "alpha"])
def test_validity_is_no_layer_of_unknown_meaning(tmp_path, text):
    scene = open_scene(write_stack(tmp_path, {text: layer_of([0, 1])}))
    assert scene.quality_note == "clouds are kept: the file has no cloud layer"
    assert np.array_equal(valid_of(scene), layer_of([0, 1]) == 1)


def write_folder(folder, layer, **options):
    """Bands of Sentinel-2, each in a file, and a classification."""
    folder.mkdir()
    for name, values in zip(S2_BANDS, BANDS, strict=True):
        write_raster(folder / f"scene_{name}.tif", values[None].astype("uint16"))
    write_raster(folder / "scene_SCL.tif", layer[None].astype("uint8"), **options)
    return str(folder)


def planned(path, **options):
    return plan(path, "enmap", None, ConvertOptions(model="linear", **options))


@pytest.mark.parametrize(
    ("numbers", "nodata_share", "cloud_share"),
    [(np.full(SHAPE, 4)[: SHAPE[0] // 2], 0.5, 0), (layer_of([4, 9])[: SHAPE[0] // 2], 0.5, 0.25),
     (layer_of([4, 0]), 0.5, 0), (layer_of([4, 9, 0, 5]), 0.25, 0.25)],
)  # fmt: skip
def test_pixels_beyond_a_layer_and_in_its_fill_are_nodata_and_no_cloud(tmp_path, numbers, nodata_share, cloud_share):
    path = write_folder(tmp_path / "scene", numbers)
    result = convert(path, "enmap", tmp_path / "cube.tif", ConvertOptions(model="linear"))
    counts = result.counts
    assert (counts.nodata, counts.cloud) == (nodata_share * counts.pixels, cloud_share * counts.pixels)
    (layer,) = contract(planned(path))["input"]["quality"]
    assert layer["removes"] == nodata_share + cloud_share


@pytest.mark.parametrize("window", [(0, 0, 8, 8), (4, 6, 20, 9), (16, 0, 8, 30)])
def test_dry_run_gives_the_share_that_the_conversion_removes(tmp_path, window):
    path = write_stack(tmp_path, {"SCL": np.where(np.arange(SHAPE[0])[:, None] < 12, 9, layer_of([4, 6, 5]))})
    (layer,) = contract(planned(path, window=window))["input"]["quality"]
    options = ConvertOptions(model="linear", window=window)
    if layer["removes"] == 1:
        with pytest.raises(SceneError, match=r"no valid pixel .*100.0 % cloud"):
            convert(path, "enmap", tmp_path / "cube.tif", options)
    else:
        counts = convert(path, "enmap", tmp_path / "cube.tif", options).counts
        assert layer["removes"] == pytest.approx(counts.cloud / counts.pixels, abs=1e-4)


def test_dry_run_refuses_a_layer_on_another_grid_as_the_conversion_does(tmp_path):
    path = write_folder(tmp_path / "scene", layer_of([4, 9]), crs="EPSG:32634")
    for act in (lambda: contract(planned(path)), lambda: convert(path, "enmap", tmp_path / "cube.tif")):
        with pytest.raises(SceneError, match="band SCL has another grid"):
            act()


@pytest.mark.parametrize("nodata", [np.inf, -np.inf, np.nan, -9999.0])
def test_dry_run_gives_valid_json(tmp_path, nodata):
    path = write_stack(tmp_path, {}, "float32", nodata=nodata)
    json.dumps(contract(planned(path)), allow_nan=False)
