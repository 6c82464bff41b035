"""Positions, masks and times of scenes: no CRS, the antimeridian, poles, odd grids, alpha bands, damaged files."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, NORTH, S2_BANDS, SAND, WATER, WEST, dn_of, write_raster
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from ms2hs.conversion.batch import Job, convert_serially
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import Ms2hsError, SceneError
from ms2hs.raster.dataset import read_pixel_grid
from ms2hs.raster.pixel_grid import lonlat_bounds
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.stac_metadata import UNKNOWN_TIME, sensing_time

DN = dn_of([LEAVES, WATER, SAND])
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'
ENGINEERING = 'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
SITE = Affine(30, 0, 0, 0, -30, 3600)
UTM = Affine(30, 0, WEST, 0, -30, NORTH)


def make(path, **options):
    return write_raster(path, DN, descriptions=S2_BANDS, **options)


@pytest.fixture
def convert(ms2hs, tmp_path):
    """Convert with the linear model; (exit code, text, item or None, profile of the cube or None)."""

    def run(scene, *words):
        output = tmp_path / "out" / "cube.tif"
        output.parent.mkdir(exist_ok=True)
        code, out, err = ms2hs("convert", scene, "-o", output, "--overwrite", "--model", "linear", *words)
        if code:
            return code, out + err, None, None
        with rasterio.open(output) as cube:
            return code, out + err, json.loads(output.with_suffix(".json").read_text()), cube.profile

    return run


def gcps(side=30):
    corners = [(0, 0, 13.0, 52.4), (0, side, 13.05, 52.4), (side, 0, 13.0, 52.37), (side, side, 13.05, 52.37)]
    return [GroundControlPoint(*corner) for corner in corners]


CENTRES = {"height": 0, "lat": 52.4, "long": 13.0, "line": 12, "samp": 15}
POLYNOMIALS = RPC(
    **{f"{axis}_off": value for axis, value in CENTRES.items()},
    **{f"{axis}_scale": value or 1 for axis, value in CENTRES.items()},
    line_num_coeff=[0, 0, -1] + [0] * 17,
    samp_num_coeff=[0, 1] + [0] * 18,
    line_den_coeff=[1] + [0] * 19,
    samp_den_coeff=[1] + [0] * 19,
)
UNPLACED = {
    "local": {"crs": LOCAL, "transform": SITE},
    "engineering": {"crs": ENGINEERING, "transform": SITE},
    "vertical": {"crs": "EPSG:5773", "transform": SITE},
    "geocentric": {"crs": "EPSG:4978", "transform": SITE},
    "another body": {
        "crs": 'GEOGCS["moon",DATUM["moon",SPHEROID["moon",1737400,0]],PRIMEM["0",0],UNIT["degree",0.0174532925]]',
        "transform": SITE,
    },
    "metres as degrees": {"crs": "EPSG:4326", "transform": UTM},
    "no transform": {"transform": Affine.identity()},
    "nothing": {"crs": None, "transform": Affine.identity()},
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", UNPLACED)
def test_convert_treats_a_crs_without_position_as_none(tmp_path, convert, kind):
    scene = make(tmp_path / "scene.tif", **UNPLACED[kind])
    code, text, item, profile = convert(scene)
    assert code == 0
    assert "CRS" in text or "coordinate reference system" in text
    assert profile["crs"] is None
    assert profile["transform"] == UNPLACED[kind]["transform"]
    assert item["geometry"] is None
    assert "bbox" not in item
    for words in (("--gsd", 60), ("--bbox", "13.3,52.3,13.4,52.4")):
        code, text, _, _ = convert(scene, *words)
        assert code == 1
        assert "georeference" in text
        assert "CRS" in text
    assert convert(scene, "--gsd", "native")[0] == 0


def test_convert_treats_arbitrary_map_info_as_no_crs(tmp_path, convert):
    scene = make(tmp_path / "scene.dat", driver="ENVI")
    header = scene.with_suffix(".hdr")
    lines = [line for line in header.read_text().splitlines() if not line.startswith(("map info", "coordinate"))]
    header.write_text("\n".join([*lines, "map info = {Arbitrary, 1, 1, 0, 0, 30, 30, 0, North}", ""]))
    code, text, _, profile = convert(scene)
    assert (code, profile["crs"]) == (0, None)
    assert "CRS" in text


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({"gcps": gcps(), "crs": "EPSG:4326"}, "gdalwarp -t_srs EPSG:32633 scene.tif"),
        ({"rpcs": POLYNOMIALS}, "gdalwarp -rpc -t_srs EPSG:32633 scene.tif"),
    ],
)
def test_convert_says_how_to_keep_control_points(tmp_path, convert, options, command):
    scene = make(tmp_path / "scene.tif", **{"crs": None, "transform": None, **options})
    code, text, _, profile = convert(scene)
    assert (code, profile["crs"]) == (0, None)
    assert command in " ".join(text.split())
    assert convert(scene, "--gsd", 60)[0] == 1


ACROSS = {
    "EPSG:4326": Affine(0.0003, 0, 179.996, 0, -0.0003, -16.5),
    "EPSG:32701": Affine(30, 0, 180_000 - 350, 0, -30, 8_170_000),
    "EPSG:32660": Affine(30, 0, 833_900 - 450, 0, -30, 100_000),
    "EPSG:3832": Affine(30, 0, 3_339_584 - 450, 0, -30, -1_860_000),
}


@pytest.mark.parametrize("crs", ACROSS)
def test_convert_crosses_the_antimeridian(tmp_path, convert, crs):
    scene = make(tmp_path / "scene.tif", crs=crs, transform=ACROSS[crs])
    code, _, item, profile = convert(scene)
    assert code == 0
    west, south, east, north = item["bbox"]
    assert 179.98 < west <= 180
    assert -180 <= east < -179.98
    assert item["geometry"]["type"] == "MultiPolygon"
    middle = (south + north) / 2
    widths = []
    for box in ((west, south, east, north), (west, south, 180, middle), (-180, south, east, north)):
        code, text, part, cropped = convert(scene, "--bbox", ",".join(map(str, box)))
        assert code == 0, text
        widths.append(cropped["width"])
        assert (part["bbox"][0] > part["bbox"][2]) == (box[0] > box[2] or part["bbox"][0] > 0 > part["bbox"][2])
    assert widths[0] == profile["width"]
    assert profile["width"] <= widths[1] + widths[2] <= profile["width"] + 2
    code, text, _, _ = convert(scene, "--bbox", f"-179.9,{south},179.9,{north}")
    assert (code, "outside" in text) == (1, True)
    code, text, _, _ = convert(scene, "--bbox", f"20,{south},10,{north}")
    assert (code, "Swap" in text) == (1, True)


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3413", 90), ("EPSG:3031", -90)])
def test_convert_covers_a_pole(tmp_path, convert, crs, pole):
    scene = make(tmp_path / "scene.tif", crs=crs, transform=Affine(1000, 0, -15_000, 0, -1000, 12_000))
    code, _, item, _ = convert(scene)
    assert code == 0
    assert item["bbox"][::2] == [-180, 180]
    assert pole in item["bbox"]
    south, north = sorted((pole, pole * 0.9995))
    code, text, _, cropped = convert(scene, "--bbox", f"-180,{south},180,{north}")
    assert code == 0, text
    assert 9 <= cropped["height"] <= 12  # 5 km on either side


@pytest.mark.parametrize(
    "transform",
    [Affine(30, 0, WEST, 0, 30, NORTH), Affine(26, 15, WEST, 15, -26, NORTH), Affine(20, 0, WEST, 0, -40, NORTH)],
    ids=["south up", "rotated", "not square"],
)
def test_convert_keeps_unusual_grids(tmp_path, convert, transform):
    scene = make(tmp_path / "scene.tif", transform=transform)
    code, _, item, profile = convert(scene)
    assert code == 0
    assert profile["transform"].almost_equals(transform)
    assert item["geometry"]["type"] == "Polygon"
    code, _, coarse, resized = convert(scene, "--gsd", 60)
    assert code == 0
    a, b, _, d, e, _ = tuple(resized["transform"])[:6]
    assert np.hypot(a, d) == pytest.approx(60)
    assert np.hypot(b, e) == pytest.approx(60)
    assert np.sign(e) == np.sign(transform.e)
    assert coarse["bbox"] == pytest.approx(item["bbox"], abs=1e-3)


def test_convert_takes_pixels_in_feet_and_at_points(tmp_path, convert):
    feet = make(tmp_path / "feet.tif", crs="EPSG:2263", transform=Affine(100, 0, 980_000, 0, -100, 200_000))
    code, _, _, profile = convert(feet, "--gsd", 60.96)
    assert (code, profile["transform"].a) == (0, pytest.approx(200, rel=1e-3))
    point = make(tmp_path / "point.tif", transform=UTM, tags={"AREA_OR_POINT": "Point"})
    code, _, _, profile = convert(point)
    assert (code, profile["transform"]) == (0, UTM)


@pytest.mark.parametrize(
    "transform", ["0, 0, 0, 0, 0, 0", "5, 0, 0, 5, 0, 0", "nan, 30, 0, 0, 0, -30", "0, inf, 0, 0, 0, -30"]
)
def test_read_pixel_grid_refuses_pixels_without_size(tmp_path, transform):
    path = make(tmp_path / "scene.tif")
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="30" rasterYSize="24"><SRS>EPSG:32632</SRS><GeoTransform>{transform}</GeoTransform>'
        f'<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{path}</SourceFilename>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with rasterio.open(vrt) as dataset, pytest.raises(SceneError, match="geotransform"):
        read_pixel_grid(dataset)


@pytest.mark.parametrize("at", [0, 5, 12])
@pytest.mark.parametrize("declared", ["colour", "colour and name", "name"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_reader_honours_an_alpha_band_at_any_position(tmp_path, at, declared, dtype):
    scale = 1 if dtype == "uint16" else 1e-4
    alpha = np.full(DN.shape[1:], 255)
    alpha[:7, :9] = 0
    values = np.insert((DN * scale).astype(dtype), at, alpha.astype(dtype), axis=0)
    names = [*S2_BANDS[:at], "" if declared == "colour" else "alpha", *S2_BANDS[at:]]
    path = write_raster(tmp_path / "scene.tif", values, descriptions=names)
    if declared != "name":
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = [
                ColorInterp.alpha if i == at else ColorInterp.undefined for i in range(dataset.count)
            ]
    scene = open_scene(str(path))
    assert [asset.name for asset in scene.assets] == list(S2_BANDS)
    with SceneReader(scene, scene.grid) as reader:
        reflectance, valid = reader.read(0, 0, *alpha.shape)
    np.testing.assert_array_equal(valid, alpha > 0)
    np.testing.assert_allclose(reflectance[:, valid], DN[:, alpha > 0] * 1e-4, atol=1e-6)
    assert not any("not used" in note for note in scene.notes)


@pytest.mark.parametrize("sidecar", [False, True])
def test_reader_honours_the_mask_of_a_file(tmp_path, sidecar):
    path = make(tmp_path / "scene.tif")
    shown = np.ones(DN.shape[1:], bool)
    shown[3:9] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=not sidecar), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(shown)
    assert Path(f"{path}.msk").exists() == sidecar
    scene = open_scene(str(path))
    with SceneReader(scene, scene.grid) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, *shown.shape)[1], shown)


def test_reader_reads_a_named_band_that_gdal_takes_for_alpha(tmp_path):
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{um}", "FWHM_UM": "0.03"} for um in (0.49, 0.56, 0.665, 0.84)]
    values = np.clip(DN[[1, 2, 3, 7]] // 50, 1, 255).astype("uint8")
    values[3, :4] = 0
    options = {"band_tags": {"IMAGERY": tags}, "descriptions": ("blue", "green", "red", "nir"), "scale": 0.005}
    path = write_raster(tmp_path / "scene.tif", values, photometric="RGB", alpha="YES", **options)
    scene = open_scene(str(path))
    assert len(scene.assets) == 4
    with SceneReader(scene, scene.grid) as reader:
        assert reader.read(0, 0, *values.shape[1:])[1].all()


@pytest.mark.parametrize(
    ("tags", "time", "is_noted"),
    [
        ({}, "2023-06-01T10:20:21Z", False),
        ({"TIFFTAG_DATETIME": "2024:06:08 10:15:59"}, "2024-06-08T10:15:59Z", True),
        ({"ACQUISITION_DATETIME": "2024-06-08T10:15:59.024Z"}, "2024-06-08T10:15:59.024Z", True),
        ({"DATATAKE_1_DATATAKE_SENSING_START": "2023-06-01T10:20:31.024Z"}, "2023-06-01T10:20:31.024Z", False),
        ({"ACQUISITION_DATE": "2023-06-01"}, "2023-06-01T10:20:21Z", False),
        ({"TIFFTAG_DATETIME": "2024:13:08 10:15:59"}, "2023-06-01T10:20:21Z", False),
        ({"datetime": "1600-01-01"}, "2023-06-01T10:20:21Z", False),
        ({"datetime": "yesterday"}, "2023-06-01T10:20:21Z", False),
    ],
)
def test_geotiff_takes_the_time_of_tags_before_the_name(tmp_path, tags, time, is_noted):
    path = make(tmp_path / "S2A_MSIL2A_20230601T102021_N0509.tif", tags=tags)
    scene = open_scene(str(path))
    assert scene.datetime == time
    assert any(next(iter(tags), "-").upper() in note and "2023-06-01" in note for note in scene.notes) == is_noted


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2024-06-08T12:15:59+02:00", ("2024-06-08T10:15:59Z", None)),
        ("2024-06-08", (None, "2024-06-08T00:00:00Z")),
    ],
)
def test_convert_writes_valid_times(tmp_path, convert, date, expected):
    _, _, item, _ = convert(make(tmp_path / "scene.tif", tags={"ACQUISITION_DATE": date}))
    properties = item["properties"]
    assert (properties["datetime"], properties.get("start_datetime")) == expected


def test_item_of_an_undated_scene_says_that_its_time_is_unknown(tmp_path, convert):
    _, _, item, _ = convert(make(tmp_path / "scene.tif", tags={"ACQUISITION_DATE": "2024-13-08"}))
    properties = item["properties"]
    assert properties["datetime"] == properties["created"]
    assert "unknown" in properties[UNKNOWN_TIME]
    assert not {"start_datetime", "end_datetime"} & set(properties)
    assert sensing_time(item) is None


def test_convert_serially_reports_an_unexpected_error_and_continues(tmp_path, monkeypatch):
    made = []

    def convert(scene, *_):
        made.append(scene)
        if scene == "bad":
            raise KeyError("quantification")

    monkeypatch.setattr("ms2hs.conversion.batch.convert", convert)
    jobs = [Job(name, tmp_path / name, ConvertOptions()) for name in ("good", "bad", "other")]
    outcomes = convert_serially(jobs, "enmap", None)
    assert made == ["good", "bad", "other"]
    assert outcomes["bad"].startswith("bad: KeyError: 'quantification'")


ODD_JSON = (None, 7, -1, 1e308, "", "x", [], {}, [None], {"a": 1}, True, "2024-13-01T00:00:00Z")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["tiff", "header", "item"])
def test_open_scene_refuses_damaged_files_in_one_message(tmp_path, kind):
    rng = random.Random(kind)  # noqa: S311
    path = make(tmp_path / "scene.tif", tags={"ACQUISITION_DATETIME": "2024-06-08T10:15:59Z"})
    scene = changed = path
    if kind == "header":
        scene = make(tmp_path / "scene.dat", driver="ENVI")
        changed = scene.with_suffix(".hdr")
    elif kind == "item":
        assets = {name: {"href": "scene.tif", "eo:bands": [{"name": name}]} for name in S2_BANDS}
        item = {"type": "Feature", "id": "a", "properties": {"platform": "sentinel-2a"}, "assets": assets}
        scene = changed = tmp_path / "item.json"
        changed.write_text(json.dumps(item | {"collection": "sentinel-2-l2a"}))
    content = changed.read_bytes()
    for _ in range(60):
        changed.write_bytes(damaged_item(content, rng) if kind == "item" else damaged(content, rng))
        try:
            opened = open_scene(str(scene))
            with SceneReader(opened, opened.grid) as reader:
                reader.read(0, 0, min(8, opened.grid.height), min(8, opened.grid.width))
            lonlat_bounds(opened.grid)
        except Ms2hsError as error:
            assert len(str(error)) < 1000  # noqa: PT017  most files are read or refused


def damaged(content, rng):
    """Truncated, or with some bytes of the head changed."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(min(len(changed), 900))] = rng.randrange(256)
    return bytes(changed)


def damaged_item(content, rng):
    """With one or two values of another type."""
    document = json.loads(content)
    for _ in range(rng.randrange(1, 3)):
        parent = document
        while True:
            key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            if not isinstance(parent[key], dict | list) or not parent[key] or rng.random() < 0.3:
                break
            parent = parent[key]
        parent[key] = rng.choice(ODD_JSON)
    return json.dumps(document).encode()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("where", [(slice(None), slice(3, 9)), (4,), (slice(None),)], ids=["some", "band", "all"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38, -3e38, -9999])
def test_reader_reads_numbers_without_warnings(tmp_path, number, where):
    values = DN * np.float32(1e-4)
    values[where] = number
    scene = open_scene(str(write_raster(tmp_path / "scene.tif", values, descriptions=S2_BANDS)))
    with SceneReader(scene, scene.grid) as reader:
        reflectance, valid = reader.read(0, 0, *values.shape[1:])
    assert np.isfinite(reflectance).all()
    assert valid.any() == (where == (slice(None), slice(3, 9)))


def test_convert_of_band_files_says_that_they_have_no_crs(tmp_path, convert):
    folder = tmp_path / "S2A_MSIL2A_20240601T102021_N0510_R065_T32TNT_20240601T140000"
    for name, values in zip(S2_BANDS, DN, strict=True):
        write_raster(folder / f"{folder.name}_{name}.tif", values[None] + np.uint16(1000), crs=LOCAL, transform=SITE)
    code, text, _, profile = convert(folder, "--gsd", "native")
    assert code == 0, text
    assert profile["crs"] is None
    assert "counts as no CRS" in " ".join(text.split())
