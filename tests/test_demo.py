"""demo: the example scene, its cube and its page, and a browser only where a person sees it."""

import sys
import time
import webbrowser

import pytest
import rasterio

from ms2hs.models import weights

FILES = (
    "example.tif",
    "example_enmap.tif",
    "example_enmap_sigma.tif",
    "example_enmap.png",
    "example_enmap.qml",
    "example_enmap.json",
)


@pytest.fixture
def opened(monkeypatch):
    """Addresses that the browser opens, on Linux without a display."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("CI", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return addresses


def assert_demo_works(ms2hs, folder, opened):
    code, out, err = ms2hs("demo", folder)
    assert code == 0, err
    assert out.splitlines() == [str(folder / name) for name in (*FILES, "example.html")]
    assert all((folder / name).stat().st_size > 200 for name in FILES)
    assert "example.html" in err.splitlines()[-1]
    assert opened == []


def test_demo_writes_the_scene_its_cube_and_a_page(ms2hs, scene_path, tmp_path, monkeypatch, opened):
    monkeypatch.setattr(weights, "BEST_FIRST", ("linear",))
    monkeypatch.setattr("ms2hs.datasets.simulation.example_scene.example_dn", lambda: read(scene_path)[:, :40, :50])
    assert_demo_works(ms2hs, tmp_path / "demo", opened)
    code, _, err = ms2hs("demo", tmp_path / "demo")  # replaces nothing
    assert code == 1
    assert "example.tif" in err


def read(path):
    with rasterio.open(path) as scene:
        return scene.read()


@pytest.mark.alone
@pytest.mark.slow
def test_demo_takes_less_than_a_minute(ms2hs, tmp_path, opened):
    began = time.process_time()  # of all threads: other processes do not count
    assert_demo_works(ms2hs, tmp_path / "demo", opened)
    assert time.process_time() - began < 60
    with rasterio.open(tmp_path / "demo" / "example_enmap.tif") as cube:
        assert "spatial-spectral" in cube.tags()["MS2HS_MODEL"]


@pytest.mark.parametrize(
    ("environment", "more", "shown"),
    [
        ({"DISPLAY": ":0"}, (), True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, (), True),
        ({"DISPLAY": ":0"}, ("--no-open",), False),
        ({"DISPLAY": ":0", "CI": "true"}, (), False),
        ({}, (), False),
    ],
)
def test_browser_opens_only_with_a_display(ms2hs, tmp_path, monkeypatch, opened, environment, more, shown):
    made = {name: tmp_path / name for name in ("example.tif", "example.html")}
    result = type("Result", (), {"output": made["example.tif"], "paths": ()})
    monkeypatch.setattr("ms2hs.datasets.simulation.example_scene.write_example", lambda path, **_: path)
    monkeypatch.setattr("ms2hs.api.convert", lambda *_: result)
    monkeypatch.setattr("ms2hs.viewing.page.view", lambda _cube, path, **_: path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ms2hs("demo", tmp_path, *more)[0] == 0
    assert opened == ([made["example.html"].as_uri()] if shown else [])
