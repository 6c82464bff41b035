"""stac_search and selection: searches and conversions from a server, and what is refused before any request."""

import json
import logging
import socket
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import allow_sockets
from hypothesis import given
from hypothesis import strategies as st
from stac_items import FOOTPRINT, S2_REFLECTANCE, earth_search, planetary_computer, recorded, serve
from stac_server import StacServer

from ms2hs.errors import AddressError, CredentialsError, NothingFound, QueryError, RemoteError, SceneError, UnknownName
from ms2hs.fetching.footprints import coverage
from ms2hs.fetching.search_query import SearchArea, parse_bbox, parse_period, read_geojson
from ms2hs.fetching.selection import SearchRequest, select
from ms2hs.fetching.stac_search import StacQuery, read_items, search
from ms2hs.remote import client
from ms2hs.remote.providers import PROVIDERS, access_to, provider_named
from ms2hs.remote.url_policy import shown
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.stac_item import ORIGIN
from ms2hs.scenes.stac_metadata import tile_of

TOKEN = "PLANTED-d41d8cd98f00b204"  # noqa: S105 - of nothing
CREDENTIALS = (
    *("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("EOC_USERNAME", "EOC_PASSWORD", "EOC_COOKIE", "EOC_COOKIE_FILE"),
)
INSIDE = (10.285, 46.035, 10.305, 46.055)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Allow connections to this machine only."""
    allow_sockets(monkeypatch, "127.")
    monkeypatch.setattr(client.DEFAULT_CLIENT, "retries", client.RetryPolicy(first_s=0.001))


@pytest.fixture
def server(monkeypatch):
    """A local server in place of Earth Search."""
    with StacServer() as server:
        monkeypatch.setitem(PROVIDERS, "earth-search", replace(PROVIDERS["earth-search"], url=server.root))
        yield server


def shifted(item, name, day, cloud, degrees=0.0, **properties):
    """The scene, moved east by some degrees."""
    ring = [[lon + degrees, lat] for lon, lat in item["geometry"]["coordinates"][0]]
    west, south, east, north = FOOTPRINT
    facts = {"datetime": f"2024-06-{day:02d}T10:20:30Z", "eo:cloud_cover": cloud} | properties
    return item | {
        "id": name,
        "bbox": [west + degrees, south, east + degrees, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": item["properties"] | facts,
    }


def fill(server, count=25):
    item = earth_search("sentinel-2-c1-l2a", "05.10")
    for i in range(count):
        server.add_item(shifted(item, f"S2A_T32TNT_{i:03d}", 1 + i, float(i), 0.0004 * i))


def query(**choices):
    options = {"area": parse_bbox(INSIDE), "period": parse_period("2024-06"), "max_cloud": None, "limit": None}
    return StacQuery(provider_named(None), "sentinel-2-c1-l2a", **(options | choices))


# ---- before any request ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024-06-01", "2024-06-01T00:00:00", "2024-06-01T23:59:59"),
        ("2024-06", "2024-06-01T00:00:00", "2024-06-30T23:59:59"),
        ("2024-02", "2024-02-01T00:00:00", "2024-02-29T23:59:59"),
        ("2024", "2024-01-01T00:00:00", "2024-12-31T23:59:59"),
        ("2024-06-01/2024-06-30", "2024-06-01T00:00:00", "2024-06-30T23:59:59"),
        ("2024-06/2024-07", "2024-06-01T00:00:00", "2024-07-31T23:59:59"),
        ("2024-06-01/..", "2024-06-01T00:00:00", None),
        ("2024-06-01/", "2024-06-01T00:00:00", None),
        ("../2024-06", None, "2024-06-30T23:59:59"),
        ("/2023", None, "2023-12-31T23:59:59"),
        ("2024-06-01T10:00:00Z/2024-06-01T12:00:00+01:00", "2024-06-01T10:00:00", "2024-06-01T11:00:00"),
        ("2024-06-01T10:00", "2024-06-01T10:00:00", "2024-06-01T10:00:00"),
    ],
)
def test_parse_period_accepts_usual_forms(text, start, end):
    period = parse_period(text)
    expected = [at and datetime.fromisoformat(at).replace(tzinfo=UTC) for at in (start, end)]
    assert [period.start, period.end] == expected
    assert period.text == "/".join(".." if at is None else f"{at}Z" for at in (start, end))


@given(st.dates())
def test_parse_period_of_a_day_covers_the_day(day):
    period = parse_period(day.isoformat())
    assert (period.end - period.start).total_seconds() == 86_399
    assert period.start.date() == period.end.date() == day


BAD_DATES = ["", "june", "2024-13", "2024-02-30", "2024-06-30/2024-06-01", "../..", "/", "2024-6-1", "20240601", "24"]
BAD_BOXES = ["13.2,52.3,12.9,52.5", "12,52,13,91", "12,53,13,52", "12,52,12,53", "12,52,190,53", "-190,52,12,53"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        *((["--bbox", "12,52,13,53", "--date", text], 2, "date") for text in BAD_DATES),
        *(([f"--bbox={text}", "--date", "2024-06"], 2, text) for text in BAD_BOXES),
        (["--bbox", "12,52,13", "--date", "2024"], 2, "4 numbers"),
        (["--date", "2024-06"], 2, "--bbox"),
        (["--bbox", "12,52,13,53"], 2, "--date 2024-06"),
        (["--bbox", "12,52,13,53", "--intersects", "a.geojson", "--date", "2024"], 2, "--intersects"),
        (["--intersects", "missing.geojson", "--date", "2024"], 2, "missing.geojson"),
        (["--provider", "nasa"], 2, "lpdaac"),
        (["--provider", "earth-search", "--stac", "https://x.org"], 2, "--stac"),
        (["--stac", "https://x.org"], 2, "--collection"),
        (["--stac", "x.org", "--collection", "a"], 2, "address"),
        (["--collection", "sentinel-3"], 2, "sentinel-2-c1-l2a"),
        (["--sort", "size"], 2, "coverage"),
        (["--max-cloud", "101"], 2, "0 to 100"),
        (["--gsd", "-3"], 2, "--gsd"),
        (["--items", "missing.json"], 2, "missing.json"),
        (["--provider", "lpdaac"], 4, "EARTHDATA_TOKEN"),
        (["--provider", "copernicus"], 4, "AWS_ACCESS_KEY_ID"),
    ],
)
def test_fetch_refuses_invalid_options_before_any_request(words, code, expected, ms2hs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a server was asked"))
    needed = [] if {"--bbox", "--intersects", "--items", "--date"} & {word.split("=")[0] for word in words} else [
        "--bbox", "12,52,13,53", "--date", "2024-06",
    ]  # fmt: skip
    exit_code, out, err = ms2hs("fetch", *words, *needed)
    assert (exit_code, out) == (code, "")
    assert expected in " ".join(err.split())
    assert "Traceback" not in err


def test_bbox_accepts_spaces_and_negative_numbers(ms2hs, server):
    server.add_item(shifted(earth_search("sentinel-2-c1-l2a", "05.10"), "S2A_west", 1, 1.0, -40.0))
    for words in (["--bbox", "-29.71", "46.03", "-29.69", "46.06"], ["--bbox", "-29.71,46.03,-29.69,46.06"]):
        code, out, err = ms2hs("fetch", *words, "--datetime", "2024-06", "--list")
        assert code == 0, err
        assert "S2A_west" in out


@pytest.mark.parametrize(
    ("name", "environment", "missing"),
    [
        ("lpdaac", {"EARTHDATA_TOKEN": "t"}, None),
        ("lpdaac", {"EARTHDATA_USERNAME": "u", "EARTHDATA_PASSWORD": "p"}, None),
        ("lpdaac", {"EARTHDATA_USERNAME": "u"}, "EARTHDATA_PASSWORD"),
        ("lpdaac", {"NETRC": "netrc"}, None),
        ("copernicus", {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}, None),
        ("copernicus", {"AWS_ACCESS_KEY_ID": "k"}, "AWS_SECRET_ACCESS_KEY"),
        ("dlr", {"EOC_USERNAME": "u", "EOC_PASSWORD": "p"}, None),
        ("dlr", {"EOC_COOKIE": "session=x"}, None),
        ("dlr", {}, "EOC_COOKIE_FILE"),
        ("planet", {}, None),
        ("planetary-computer", {}, None),
        ("earth-search", {}, None),
    ],
)
def test_missing_credentials_are_named(name, environment, missing, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text(f"machine urs.earthdata.nasa.gov login me password {TOKEN}\n")
    for variable in CREDENTIALS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for variable, text in environment.items():
        monkeypatch.setenv(variable, str(tmp_path / text) if variable == "NETRC" else text)
    if missing is None:
        PROVIDERS[name].check_credentials()
        return
    with pytest.raises(CredentialsError, match=missing) as error:
        PROVIDERS[name].check_credentials()
    assert "https://" in str(error.value)
    assert TOKEN not in str(error.value)


def test_earthdata_token_is_sent_to_nasa_hosts_only(monkeypatch):
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    own = "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/a.tif"
    assert access_to(None).headers(own) == {"Authorization": f"Bearer {TOKEN}"}
    for other in ("https://evil.example.org/a", own.replace("https", "http"), "https://earthdata.nasa.gov.evil.org/a"):
        assert access_to(None).headers(other) == {}


def test_planetary_computer_signs_just_before_opening(server, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from planetary_computer.settings import Settings
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{server.root}/api/sas/v1/token")
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", TOKEN)
    Settings.get.cache_clear()
    address = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/T32TNT/B04.tif"
    first = access_to(None).sign(address)
    assert first.startswith(f"{address}?")
    assert "sig=" in first
    assert access_to(None).sign(address) == first
    fresh = PROVIDERS["planetary-computer"].sign(address, fresh=True)
    assert fresh != first
    assert shown(fresh) == address
    for other in ("https://files.example.org/a.tif", "/data/a.tif", f"{server.root}/a.tif"):
        assert access_to(None).sign(other) == other
    server.search_fault = lambda _path: "page"
    with pytest.raises(RemoteError, match="signature") as error:
        PROVIDERS["planetary-computer"].sign(address, fresh=True)
    assert TOKEN not in str(error.value)
    Settings.get.cache_clear()


# ---- searching ------------------------------------------------------------------------------------------------------


def test_search_reads_every_page_and_sorts(server):
    fill(server)
    scenes = search(query())
    assert len(scenes) == 25 > server.page_size
    assert [scene.cloud for scene in scenes] == sorted(scene.cloud for scene in scenes)
    assert [scene.time for scene in search(query(sort="date", limit=3))] == [
        f"2024-06-{day}T10:20:30" for day in (25, 24, 23)
    ]
    covers = [scene.coverage for scene in search(query(sort="coverage"))]
    assert covers == sorted(covers, reverse=True)
    assert [scene.cloud for scene in search(query(max_cloud=5.0, limit=4))] == [0, 1, 2, 3]
    assert all(scene.item[ORIGIN] == {"provider": "earth-search", "url": server.root} for scene in search(query()))


def test_read_geojson_accepts_any_polygons(server, tmp_path):
    fill(server, 5)
    triangle = {
        "type": "Polygon",
        "coordinates": [[[10.285, 46.035], [10.305, 46.035], [10.285, 46.055], [10.285, 46.035]]],
    }
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": triangle}]}))
    place = read_geojson(path)
    assert place.bbox == pytest.approx(INSIDE)
    scenes = search(query(area=place))
    assert len(scenes) == 5
    assert scenes[0].coverage == 1.0
    assert "intersects" in json.loads(server.requests[-1].body)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"type": "Point", "coordinates": [1, 2]}', '{"type": "Polygon"}'])
def test_read_geojson_refuses_files_without_polygons(text, tmp_path):
    (tmp_path / "area.geojson").write_text(text)
    with pytest.raises(QueryError, match=r"area\.geojson"):
        read_geojson(tmp_path / "area.geojson")


def test_search_across_the_antimeridian(server):
    item = earth_search("sentinel-2-c1-l2a", "05.10")
    west, east = shifted(item, "S2A_west", 1, 1.0, 169.675), shifted(item, "S2A_east", 2, 1.0, -190.29)
    for item in (west, east):
        server.add_item(item)
    scenes = search(query(area=parse_bbox((179.9, 46.0, -179.9, 46.1))))
    assert {scene.item["id"] for scene in scenes} == {"S2A_west", "S2A_east"}
    assert all(0 < scene.coverage < 0.5 for scene in scenes)


def test_coverage_is_the_share_of_the_area():
    item = earth_search("sentinel-2-c1-l2a", "05.10")
    west, south, east, north = FOOTPRINT
    assert coverage(item, parse_bbox(INSIDE)) == 1
    half = parse_bbox((west - (east - west), south, east, north))
    assert coverage(item, half) == pytest.approx(0.5, abs=0.02)
    assert coverage(item, parse_bbox((20, 40, 21, 41))) == 0
    assert coverage(item, parse_bbox((10.295, 46.045, 10.2950001, 46.0450001))) == 1
    crossing = item | {
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[179.5, 10], [-179.5, 10], [-179.5, 11], [179.5, 11], [179.5, 10]]],
        }
    }
    assert coverage(crossing, parse_bbox((179, 10, -179, 11))) == pytest.approx(0.5, abs=0.02)
    assert coverage(crossing, parse_bbox((0, 10, 1, 11))) == 0
    assert coverage(item | {"geometry": None}, parse_bbox(INSIDE)) == 1
    assert coverage(item, SearchArea((west, south, east, north), crossing["geometry"])) == 0


def test_search_keeps_the_newest_processing_version(server):
    item = earth_search("sentinel-2-c1-l2a", "05.00")
    server.add_item(shifted(item, "S2A_old", 1, 1.0, **{"s2:processing_baseline": "02.14"}))
    server.add_item(shifted(item, "S2A_new", 1, 2.0))
    server.add_item(shifted(item, "S2B_same", 1, 3.0, platform="sentinel-2b"))
    assert [scene.item["id"] for scene in search(query())] == ["S2A_new", "S2B_same"]


def test_search_that_finds_only_invalid_items_says_so(server):
    server.add_item(earth_search("sentinel-2-c1-l2a", "05.00") | {"id": "bad", "assets": 7})
    with pytest.raises(NothingFound, match=r"1 invalid items, the first: .*; at least one is needed\. Widen"):
        search(query())


def test_search_without_results_says_what_to_widen(server, ms2hs):
    with pytest.raises(NothingFound, match="Widen --date or the area"):
        search(query())
    fill(server, 3)
    code, out, err = ms2hs("fetch", "--bbox", "10.28,46.03,10.31,46.06", "--date", "2024-06-02", "--max-cloud", "0.5")
    assert (code, out) == (3, "")
    assert "--max-cloud" in err


@pytest.mark.parametrize("kind", ["busy", "failed"])
def test_search_retries_transient_faults(server, kind):
    fill(server)
    requested = []
    server.search_fault = lambda path: requested.append(path) or (kind if len(requested) % 2 else None)
    assert len(search(query())) == 25


@pytest.mark.parametrize(("kind", "word"), [("failed", "status 50"), ("page", "STAC API")])
def test_search_names_a_server_that_does_not_answer(server, kind, word):
    server.search_fault = lambda _path: kind
    with pytest.raises(RemoteError, match=word) as error:
        search(query())
    assert server.root in str(error.value)


def test_search_refuses_redirects_to_private_hosts(server, monkeypatch):
    fill(server, 1)
    server.search_fault = lambda path: "redirected" if path == "/search" else None
    with pytest.raises(AddressError, match=r"127\.0\.0\.2"):
        search(query())
    server.search_fault = None
    answer = StacServer.search

    def with_next(self, wanted):
        items, first, _ = answer(self, wanted)
        return items, first, len(items) + 1  # so that there is a link to a next page

    monkeypatch.setattr(StacServer, "search", with_next)
    landing, root = server.landing, server.root
    monkeypatch.setattr(StacServer, "root", root.replace("127.0.0.1", "127.0.0.3"))
    monkeypatch.setattr(
        StacServer, "landing", lambda _self: json.loads(json.dumps(landing()).replace("127.0.0.3", "127.0.0.1"))
    )
    with pytest.raises(AddressError, match=r"127\.0\.0\.3"):
        search(query())


# ---- the command ----------------------------------------------------------------------------------------------------


def test_fetch_lists_saves_and_reads_items(server, ms2hs, tmp_path):
    fill(server, 4)
    place = ["--bbox", "10.285,46.035,10.305,46.055"]
    code, out, err = ms2hs("fetch", *place, "--date", "2024-06", "--list")
    assert code == 0, err
    assert out.splitlines()[0].split() == ["scene", "time", "tile", "cloud", "%", "covers", "%"]
    assert out.splitlines()[1].split() == ["S2A_T32TNT_000", "2024-06-01", "10:20", "32TNT", "0.0", "100"]
    code, out, _ = ms2hs("fetch", *place, "--date", "2024-06", "--json", "--list", "--limit", "2")
    assert [row["id"] for row in json.loads(out)] == ["S2A_T32TNT_000", "S2A_T32TNT_001"]
    path = tmp_path / "items.json"
    code, out, _ = ms2hs("fetch", *place, "--date", "2024-06", "--save", path)
    assert code == 0
    requested = len(server.requests)
    code, out, _ = ms2hs("fetch", "--items", path, "--list")
    assert (code, len(out.splitlines()), len(server.requests)) == (0, 5, requested)
    assert [item["id"] for item in read_items(path).items] == [f"S2A_T32TNT_{i:03d}" for i in range(4)]
    code, _, err = ms2hs("fetch", *place, "--date", "2024-06", "--save", path)
    assert (code, "--overwrite" in err) == (1, True)
    assert ms2hs("fetch", "--items", path, "--bbox", "20,40,21,41", "--list")[0] == 3
    code, _, err = ms2hs("fetch", "--items", path, "--date", "2024")
    assert (code, "--date" in err) == (2, True)


@pytest.mark.parametrize("text", ["", "[]", '{"type": "FeatureCollection", "features": []}', '{"type": "Feature"}'])
def test_read_items_refuses_files_without_items(text, tmp_path):
    (tmp_path / "items.json").write_text(text)
    with pytest.raises((QueryError, SceneError)):
        select(SearchRequest(items=tmp_path / "items.json"), to_fetch=False)


def test_stac_option_searches_any_server(server, ms2hs):
    server.add_item(planetary_computer("05.11") | {"collection": "mine"})
    words = ["--stac", server.root, "--collection", "mine", "--bbox", "10.28,46.03,10.31,46.06", "--date", "2024"]
    code, out, err = ms2hs("fetch", *words, "--list")
    assert code == 0, err
    assert "32TNT" in out


def test_unknown_provider_lists_known_names():
    with pytest.raises(UnknownName, match="planetary-computer"):
        provider_named("nasa")


# ---- convert --------------------------------------------------------------------------------------------------------


@pytest.fixture
def scene_address(server, tmp_path):
    """URL of an item that converts."""
    item = earth_search("sentinel-2-c1-l2a", "05.10", address=lambda name: f"../../../files/{name}")
    serve(server, tmp_path / "served", item, S2_REFLECTANCE, 1000)
    return f"{server.root}/collections/sentinel-2-c1-l2a/items/{item['id']}"


def test_item_url_converts(scene_address, server, ms2hs, tmp_path):
    code, out, err = ms2hs("convert", scene_address, "--target", "emit", "-o", tmp_path / "made.tif")
    assert code == 0, err
    assert Path(out.splitlines()[0]) == tmp_path / "made.tif"
    facts = json.loads((tmp_path / "made.json").read_text())["properties"]
    assert facts["ms2hs:source"] == "sentinel2a"
    assert "-1000" in facts["ms2hs:offset_rule"]
    assert facts["datetime"] == "2024-06-01T10:20:30Z"
    assert facts["ms2hs:pixels"]["valid"] < facts["ms2hs:pixels"]["pixels"] == 32 * 32
    item = tmp_path / "item.json"
    item.write_text(json.dumps(server.items[0] | {"assets": {}}))
    code, _, err = ms2hs("convert", item)
    assert (code, "no asset" in err) == (1, True)


def test_saved_item_converts_like_local_files(scene_address, server, tmp_path):
    path = tmp_path / "item.json"
    item = json.loads(json.dumps(server.items[0]).replace("../../../files/", f"{server.root}/files/"))
    path.write_text(json.dumps(item | {ORIGIN: {"provider": "earth-search", "url": server.root}}))
    near = tmp_path / "near.json"
    near.write_text(json.dumps(item).replace(f"{server.root}/files/", f"./{'served'}/"))
    read = []
    for scene in (open_scene(str(path)), open_scene(str(near)), open_scene(scene_address)):
        with SceneReader(scene, scene.grid) as reader:
            read.append(reader.read(0, 0, 96, 96))
    for reflectance, valid in read[1:]:
        assert (valid == read[0][1]).all()
        assert (reflectance == read[0][0]).all()
    assert 0 < read[0][1].mean() < 1


def test_redirect_of_a_file_to_a_private_host_is_refused(scene_address, server, ms2hs, tmp_path):
    elsewhere = f"http://127.0.0.2:{server.port}/files/other.tif"
    server.redirects["B04.tif"] = elsewhere
    code, _, err = ms2hs("convert", scene_address, "-o", tmp_path / "made.tif")
    assert (code, "127.0.0.2" in err, "private" in err) == (1, True, True)
    assert not (tmp_path / "made.tif").exists()
    assert not any(request.path == "other.tif" for request in server.requests)


@pytest.mark.parametrize("command", ["convert", "fetch"])
def test_vrt_from_a_server_is_refused(command, scene_address, server, ms2hs, tmp_path):
    """GDAL would open a VRT, and any file that the VRT names."""
    secret = tmp_path / "served" / "B03.tif"
    vrt = f"""<VRTDataset rasterXSize="96" rasterYSize="96"><SRS>EPSG:32632</SRS>
    <GeoTransform>600000, 10, 0, 5100000, 0, -10</GeoTransform><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
    <SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""
    server.add_file("B04.tif", vrt.encode())
    output = tmp_path / "made"
    output.mkdir()
    if command == "convert":
        code, _, err = ms2hs("convert", scene_address, "-o", output)
    else:
        item = json.loads(json.dumps(server.items[0]).replace("../../../files/", f"{server.root}/files/"))
        item[ORIGIN] = {"provider": "earth-search", "url": server.root}
        (tmp_path / "items.json").write_text(json.dumps(item))
        code, _, err = ms2hs("fetch", "--items", tmp_path / "items.json", "-o", output)
    assert (code, "B04.tif" in err) == (1, True), err
    assert "neither a GeoTIFF nor" in err
    assert not list(tmp_path.glob("made/*.tif"))
    assert not output.is_file()


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [("gone", None, 1), ("refused", "expired", 4), ("down", "failed", 1)],
)
def test_missing_or_failing_file_is_named(scene_address, server, ms2hs, tmp_path, status, kind, code):
    if status == "gone":
        del server.files["B04.tif"]
    else:
        server.fault = lambda path: kind if path == "B04.tif" else None
    exit_code, _, err = ms2hs("convert", scene_address, "-o", tmp_path / "made.tif")
    assert (exit_code, "B04.tif" in err) == (code, True)


@pytest.mark.usefixtures("scene_address")
def test_secrets_are_in_no_file_log_or_message(server, ms2hs, tmp_path, monkeypatch):
    """A token in the environment, in an address and in a signature must appear nowhere else."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    signed = json.loads(json.dumps(server.items[0]).replace("../../../files/", f"{server.root}/files/"))
    for asset in signed["assets"].values():
        asset["href"] += f"?sig={TOKEN}"
    server.add_item(signed | {"collection": "signed"})
    names = ("EARTHDATA_TOKEN", "EARTHDATA_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PC_SDK_SUBSCRIPTION_KEY")
    for name in names:
        monkeypatch.setenv(name, TOKEN)
    place = ["--bbox", "10.28,46.03,10.31,46.06", "--date", "2024"]
    item, own = f"{server.root}/collections/signed/items/{signed['id']}", f"{server.root}/?key={TOKEN}"
    runs = [
        (None, 0, ["convert", item, "-o", "made.tif"]),
        ("expired", 4, ["convert", item, "-o", "again.tif"]),
        ("cut", 1, ["convert", item, "-o", "third.tif"]),
        (None, 0, ["fetch", "--stac", own, "-c", "sentinel-2-c1-l2a", *place, "--save", "found.json"]),
        (None, 1, ["fetch", "--stac", f"http://user:{TOKEN}@127.0.0.1:1/", "-c", "x", *place, "--list"]),
        (None, 2, ["fetch", "--provider", "copernicus", "--stac", f"https://x.org/?k={TOKEN}", *place]),
    ]
    log, logger = logging.FileHandler(folder / "all.log"), logging.getLogger()
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, log])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    for fault, expected, words in runs:
        server.fault = lambda path, fault=fault: fault if path == "B12.tif" else None
        code, out, err = ms2hs(*words)
        assert code == expected, err
        assert TOKEN not in out + err
    log.close()
    assert (folder / "made.tif").exists()
    assert (folder / "all.log").stat().st_size > 1000
    for path in folder.rglob("*"):
        assert TOKEN.encode() not in path.read_bytes(), path


# ---- origin of an item ----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(scene_address, server, tmp_path):
    """A file of an item with assets on a private host, and with any origin."""
    assert scene_address
    item = json.loads(json.dumps(server.items[0]).replace("../../../files/", f"{server.root}/files/"))

    def write(origin, *, link=True):
        document = {key: value for key, value in item.items() if key not in {ORIGIN, "links"}}
        document |= {"links": item["links"]} if link else {}
        (tmp_path / "items.json").write_text(json.dumps(document | ({ORIGIN: origin} if origin else {})))
        return tmp_path / "items.json"

    return write


@pytest.mark.parametrize(
    "origin",
    [None, {"provider": "custom", "url": "ROOT"}, {"provider": "planetary-computer", "url": "ROOT"}, "ROOT", 5],
)
def test_origin_in_a_file_does_not_allow_a_private_host(origin, saved, server, ms2hs, tmp_path):
    origin = json.loads(json.dumps(origin).replace("ROOT", server.root))
    path, requested = saved(origin), len(server.requests)
    for words in (["fetch", "--items", path, "-o", tmp_path / "out"], ["convert", path, "-o", tmp_path / "made.tif"]):
        code, _, err = ms2hs(*words)
        assert (code, "private" in err) == (1, True), err
    code, _, err = ms2hs("fetch", "--items", path, "--stac", "http://127.0.0.2/", "-o", tmp_path / "out")
    assert (code, "private" in err) == (1, True), err
    assert len(server.requests) == requested


@pytest.mark.parametrize("link", [True, False])
def test_origin_from_user_or_provider_allows_its_host(link, saved, server, ms2hs, tmp_path):
    own = {"provider": "custom", "url": server.root}
    code, out, err = ms2hs("fetch", "--items", saved(own, link=link), "--stac", server.root, "-o", tmp_path / "out")
    assert code == 0, err
    assert Path(out.strip()).exists()
    own = {"provider": "earth-search", "url": server.root}
    code, _, err = ms2hs("fetch", "--items", saved(own, link=link), "-o", tmp_path / "again")
    assert code == 0, err


def test_items_of_a_private_catalogue_can_be_saved_and_fetched(scene_address, server, ms2hs, tmp_path):
    assert scene_address
    server.items = json.loads(json.dumps(server.items).replace("../../../files/", f"{server.root}/files/"))
    path, root = tmp_path / "found.json", ["--stac", server.root]
    place = ["--bbox", "10.28,46.03,10.31,46.06", "--date", "2024"]
    assert ms2hs("fetch", *root, "-c", "sentinel-2-c1-l2a", *place, "--save", path)[0] == 0
    code, _, err = ms2hs("fetch", "--items", path, "-o", tmp_path / "out")
    assert (code, "--stac URL" in err) == (1, True), err
    assert ms2hs("fetch", "--items", path, *root, "-o", tmp_path / "out")[0] == 0


# ---- real documents -------------------------------------------------------------------------------------------------


def test_search_finds_real_items_at_their_positions(server):
    kept = [item for item in recorded() if item.get("collection") == "sentinel-2-c1-l2a" and item.get("bbox")]
    unique = list({item["id"]: item for item in kept}.values())
    if not unique:
        pytest.skip("no such items under $MS2HS_DATA/stac")
    for item in unique:
        server.add_item(item)
    for item in unique:
        west, south, east, north = item["bbox"]
        place = parse_bbox((west, south, east, north))
        candidates = search(query(area=place, period=parse_period(item["properties"]["datetime"][:10])))
        own = next(candidate for candidate in candidates if candidate.item["id"] == item["id"])
        assert own.coverage > 0.2
        assert own.facts["tile"] == tile_of(item)
        assert all(candidate.item["collection"] == item["collection"] for candidate in candidates)
