"""convert without a scene: the clearest scene that covers a place, from a local STAC server."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import allow_sockets
from rasterio.warp import transform_bounds
from stac_server import StacServer
from stac_world import World

import ms2hs as package
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import QueryError
from ms2hs.raster.cube import open_cube
from ms2hs.remote.providers import PROVIDERS

WEST, NORTH, SIDE_M = 600_000, 5_100_000, 1200
CLEAREST = "S2A_32TNT_clear_0_L2A"


def box(west, south, east, north):
    """Degrees of metres to the east and the north of the scenes' north-west corner."""
    bounds = WEST + west, NORTH + south, WEST + east, NORTH + north
    return transform_bounds("EPSG:32632", "EPSG:4326", *bounds)


PLACE = box(300, -900, 900, -300)


def words_of(place, *more):
    return ("convert", "--bbox", ",".join(map(str, place)), "--date", "2024-06", "--model", "linear", *more)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A cloudy scene, a clear one, and a clearer one that covers a half of PLACE."""
    with StacServer() as server:
        world = World(server, tmp_path_factory.mktemp("world"), side_m=SIDE_M)
        for day, name, cloud, shift in ((1, "cloudy", 12.0, 0), (2, "clear", 3.0, 0), (3, "half", 0.5, 600)):
            facts = {"eo:cloud_cover": cloud, "datetime": f"2024-06-0{day}T10:20:21Z"}
            world.sentinel2(f"S2A_32TNT_{name}_0_L2A", (WEST + shift, NORTH), field=True, properties=facts)
        yield server


@pytest.fixture(autouse=True)
def _provider(server, monkeypatch):
    allow_sockets(monkeypatch, "127.")
    monkeypatch.setitem(PROVIDERS, "earth-search", replace(PROVIDERS["earth-search"], url=server.root))
    server.requests.clear()


def test_clearest_covering_scene_is_fetched_and_converted(ms2hs, tmp_path):
    code, out, err = ms2hs(*words_of(PLACE, "--uncertainty", "-o", tmp_path / "cube.tif"))
    assert code == 0, err
    assert [Path(line).name for line in out.split()] == [
        "cube.tif",
        "cube_sigma.tif",
        "cube.png",
        "cube.qml",
        "cube.json",
    ]
    scene = tmp_path / f"{CLEAREST}.tif"
    (chosen,) = [line for line in err.splitlines() if "clearest" in line]
    for fact in (CLEAREST, "2024-06-02 10:20", "3.0 %", "100 %", str(scene)):
        assert fact in chosen
    with rasterio.open(scene) as fetched, rasterio.open(tmp_path / "cube.tif") as cube:
        assert (fetched.crs, fetched.transform, fetched.shape) == (cube.crs, cube.transform, cube.shape)
        left, bottom, right, top = transform_bounds("EPSG:4326", fetched.crs, *PLACE)
        assert fetched.bounds.left <= left + 1
        assert fetched.bounds.right >= right - 1
        assert max(fetched.shape) <= 23  # PLACE has 20 pixels of 30 m
        assert fetched.bounds.bottom <= bottom + 1
        assert fetched.bounds.top >= top - 1
    direct = ms2hs("convert", scene, "--model", "linear", "-o", tmp_path / "direct.tif")
    assert direct[0] == 0
    both = [read(tmp_path / f"{name}.tif") for name in ("cube", "direct")]
    np.testing.assert_array_equal(*both)


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def test_complete_scene_is_used_again(ms2hs, tmp_path, server):
    assert ms2hs(*words_of(PLACE, "-o", tmp_path, "-q"))[0] == 0
    modified = (tmp_path / f"{CLEAREST}.tif").stat().st_mtime_ns
    server.requests.clear()
    code, out, err = ms2hs(*words_of(PLACE, "--target", "emit", "--overwrite", "-o", tmp_path, "--json", "-q"))
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["found"] | {"id": CLEAREST, "cloud_cover": 3.0, "coverage": 1.0} == result["found"]
    assert (result["scene"], result["is_fetched"]) == (str(tmp_path / f"{CLEAREST}.tif"), True)
    assert Path(result["output"]).name == f"{CLEAREST}_emit.tif"
    assert (tmp_path / f"{CLEAREST}.tif").stat().st_mtime_ns == modified
    assert not [request for request in server.requests if "/files/" in request.path]


def test_scene_of_another_place_is_replaced_only_on_request(ms2hs, tmp_path):
    assert ms2hs(*words_of(PLACE, "-o", tmp_path, "-q"))[0] == 0
    other = words_of(box(0, -600, 300, 0), "-o", tmp_path / "other.tif", "-q")
    code, _, err = ms2hs(*other)
    assert code == 1
    assert "--overwrite" in err
    code, _, err = ms2hs(*other, "--overwrite")
    assert code == 0, err
    with rasterio.open(tmp_path / "other.tif") as cube:
        assert cube.width < 0.7 * cube.height


@pytest.mark.parametrize("as_json", [True, False])
def test_dry_run_only_searches(ms2hs, tmp_path, server, as_json):
    code, out, _ = ms2hs(*words_of(PLACE, "-o", tmp_path, "--dry-run", *(["--json"] if as_json else [])))
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    assert not [request for request in server.requests if "/files/" in request.path]
    if as_json:
        facts = json.loads(out)
        assert facts["found"]["id"] == CLEAREST
        assert facts["output"] == str(tmp_path / f"{CLEAREST}_enmap.tif")
        assert not facts["is_fetched"]
    else:
        assert CLEAREST in out


@pytest.mark.parametrize(
    ("place", "more", "hint"),
    [
        # shares of the area are counted in cells that footprints touch
        (box(300, -900, 900, 900), (), "at most 51 %"),  # reaches beyond every scene
        (PLACE, ("--date", "2020"), "--date"),
        (PLACE, ("--max-cloud", "2"), "at most 52 %"),
        (box(90_000, -900, 90_300, 0), (), "no scene of this area"),
    ],
)
def test_no_covering_scene_is_exit_code_3(ms2hs, tmp_path, place, more, hint):
    code, out, err = ms2hs(*words_of(place, "-o", tmp_path, *more))
    assert (code, out) == (3, "")
    assert hint in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ((), "a scene, or --bbox and --date"),
        (("--date", "2024-06"), "a scene, or --bbox and --date"),
        (("--bbox", "7,46,8,47"), "--date"),
        (("scene.tif", "--bbox", "7,46,8,47", "--date", "2024-06"), "the scene is given"),
        (("scene.tif", "--max-cloud", "5"), "the scene is given"),
        (("--bbox", "7,46,8,47", "--date", "2024-06", "--window", "0,0,9,9"), "whole area"),
        (("--bbox", "7,46,8,47", "--date", "2024-06", "--scale", "1"), "its product is known"),
        (("--bbox", "7,46,8,47", "--date", "2024-06", "--workers", "2"), "whole area"),
        (("--bbox", "7,46,8,47", "--date", "2024-06", "--target", "other"), "unknown"),
        (("--bbox", "7,46,8,47", "--date", "2024-06", "--provider", "other"), "unknown"),
        (("--bbox", "7,46,8,47", "--date", "June"), "not a date"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_search(ms2hs, server, words, hint):
    code, out, err = ms2hs("convert", *words)
    assert (code, out) == (2, "")
    assert hint in " ".join(err.replace("│", " ").split())
    assert server.requests == []


def test_existing_cube_is_found_before_the_fetch(ms2hs, tmp_path, server):
    (tmp_path / "cube.tif").touch()
    code, _, err = ms2hs(*words_of(PLACE, "-o", tmp_path / "cube.tif"))
    assert code == 1
    assert "cube.tif" in err
    assert not [request for request in server.requests if "/files/" in request.path]


def test_function_converts_a_place(tmp_path):
    options = ConvertOptions(model="linear", wavelengths_nm=((600, 700),), gsd_m=20.0)
    result = package.convert_place(PLACE, "2024-06", "enmap", tmp_path / "cube.tif", options, max_cloud=5)
    with rasterio.open(result.output) as cube:
        assert cube.res == (20, 20)
    assert open_cube(result.output).sizes
    with pytest.raises(QueryError):
        package.convert_place(PLACE, "2024-06", options=ConvertOptions(bbox=PLACE))
