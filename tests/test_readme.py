"""The commands of README and docs work as written, and their links lead to files.

A command stands indented on a line of its own, or in back-ticks. A block that cannot run here stands after a line in
italics that begins with "Needs"; its commands are parsed only, and its code is not run.
"""

import json
import re
import shlex
import shutil
import socket
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import CONNECT, LEAVES, S2_BANDS, SAND, dn_of, write_raster
from cubes_of_arrays import smooth_cubes
from sites import Site, make_enmap, make_sentinel2_tif
from stac_items import S2_REFLECTANCE, earth_search, hls, planetary_computer, serve
from stac_server import StacServer
from stac_world import World
from test_safe import make_safe
from typer.main import get_command

from ms2hs.cli.app import app
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.datasets.cubes.packing import prepare
from ms2hs.datasets.pairs.pairing import pair
from ms2hs.datasets.simulation.bench_scene import write_bench
from ms2hs.models import weights
from ms2hs.models.config import preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.raster.cube import sigma_beside
from ms2hs.raster.pixel_grid import position
from ms2hs.remote.providers import PROVIDERS
from ms2hs.scenes.stac_item import ORIGIN
from ms2hs.spectra import sensors as known

ROOT = Path(__file__).parent.parent
PAGE_FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
PAGES = {path.relative_to(ROOT): path.read_text("utf-8") for path in PAGE_FILES}
TEXT = "\n".join(PAGES.values())
README = PAGES[Path("README.md")]
NEEDS = re.compile(r"^\*Needs .+\*\n\n((?:    .+\n)+|```python\n[^`]+```)", re.MULTILINE)
RUNNING = NEEDS.sub("", TEXT)


def commands_in(text):
    """Commands on indented lines and in back-ticks."""
    found = re.findall(r"^    (ms2hs .+)$|`(ms2hs [^`]+)`", text, re.MULTILINE)
    return sorted({(block or span).strip() for block, span in found})


COMMANDS = commands_in(RUNNING)
PARSED = commands_in("\n".join(NEEDS.findall(TEXT)))
# Commands with DIR, a data folder, run on a few small cubes and, with the slow tests, on real data.
REAL = [command for command in COMMANDS if "DIR" in shlex.split(command)]
# Both convert with the network of the package; other commands without --model convert with the linear model.
WITH_NETWORK = tuple(
    f"ms2hs convert scene.tif --{option}" for option in ("target enmap", "uncertainty", "window-size 64")
)


def make_learning(folder):
    """What the commands about learning name: small cubes, shards of them, and weights of a network."""
    for cube in smooth_cubes(3, bands=100):
        dn = np.round(cube.values * 1e4).astype(np.int16)
        facts = {"wavelength_nm": cube.grid.wavelength_nm, "fwhm_nm": cube.grid.fwhm_nm}
        (folder / "cubes").mkdir(exist_ok=True)
        np.savez(folder / "cubes" / cube.scene, dn=np.moveaxis(dn, 0, -1), scale=1e-4, nodata=-32768, **facts)
    prepare(folder / "cubes", folder / "shards", window=16)
    (folder / "data" / "spectra").mkdir(parents=True)
    shutil.copytree(folder / "cubes", folder / "data" / "hyperspectral")
    shutil.copy(folder / "cubes" / f"{cube.scene}.npz", folder / "data" / "hyperspectral" / "jasper_ridge.npz")
    spectra = {"reflectance": cube.values.reshape(len(cube.values), -1).T, "wavelength_nm": cube.grid.wavelength_nm}
    np.savez(folder / "data" / "spectra" / "minerals.npz", **spectra)
    prior = load_weights("linear").prior
    for name in ("mine", "tuned"):
        save_weights(folder / f"{name}.safetensors", prior, {}, SpectralMAE(preset("spectral"), prior))


@pytest.fixture(scope="module")
def world(tmp_path_factory, scene_path):
    """A folder with everything that the README's commands name."""
    from ms2hs.conversion.convert_scene import convert
    from ms2hs.raster.cube import open_cube
    from ms2hs.viewing.format_export import export

    folder = tmp_path_factory.mktemp("world")
    shutil.copy(scene_path, folder / "scene.tif")
    asset = {"eo:bands": [{"name": name} for name in S2_BANDS], "href": "./scene.tif"}
    (folder / "item.json").write_text(json.dumps(planetary_computer("02.12") | {"assets": {"data": asset}}))
    for name, recipe in re.findall(r'```toml title="(fields.+?)"\n(.*?)```', TEXT, re.DOTALL):
        (folder / name).write_text(recipe)
    (folder / "june").mkdir()
    for name in ("a", "b"):
        write_raster(folder / "june" / f"{name}.tif", dn_of([LEAVES, SAND]), descriptions=S2_BANDS)
    options = ConvertOptions(model="linear", uncertainty=True, window=(80, 40, 96, 96))
    made = convert(folder / "scene.tif", "enmap", folder / "cube.tif", options)
    (folder / "linear.tif").symlink_to(made.output)
    export(made.output, folder / "cube.zarr")
    made_safe = make_safe(folder)
    safes = set(re.findall(r"S2B_\S+?\.SAFE", " ".join(COMMANDS))) | {"scene.SAFE"}
    for name in safes - {made_safe.name}:
        shutil.copytree(made_safe, folder / name)
    make_learning(folder)
    make_enmap(folder / "hyperspectral", Site())
    make_sentinel2_tif(folder / "multispectral", Site())
    pair([folder / "hyperspectral"], [folder / "multispectral"], folder / "paired")
    cube = open_cube(made.output)
    wavelengths = [{"CENTRAL_WAVELENGTH_UM": str(nm / 1000)} for nm in cube.wavelength.values]
    values = np.where(np.isnan(cube.reflectance.values), -1, cube.reflectance.values).astype(np.float32)
    write_raster(folder / "cube_of_the_same_place.tif", values, nodata=-1, band_tags={"IMAGERY": wavelengths})
    nm = ",".join(f"{x:.1f}" for x in cube.wavelength.values)
    spectrum = ",".join(f"{x:.4f}" for x in cube.reflectance.values[:, 40, 60])
    for name, camera in (("bench", "specim-iq"), ("bench_fx17", "specim-fx17")):
        write_bench(folder / f"{name}.dat", camera)
    alone = tmp_path_factory.mktemp("bench") / "bench_specim-fx17.tif"  # without the files beside it
    convert(folder / "bench.dat", "specim-fx17", alone, ConvertOptions(model="linear"))
    shutil.copy(alone, folder)
    lon, lat = position(cube.spatial_ref.attrs["crs_wkt"], float(cube.x[60]), float(cube.y[40]))
    (folder / "plots.csv").write_text(f"id,lon,lat\nplot 1,{lon},{lat}\n")
    (folder / "field.csv").write_text(f"id,lon,lat,{nm}\nplot 1,,,{spectrum}\n")
    return folder


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """A server with a scene of each provider that the README's commands ask."""
    with StacServer() as server:
        folder, here = tmp_path_factory.mktemp("catalogue"), f"{server.root}/files/{{}}".format
        made = earth_search("sentinel-2-c1-l2a", "05.10", address=here)
        ring = [[10.1, 45.9], [10.5, 45.9], [10.5, 46.2], [10.1, 46.2], [10.1, 45.9]]
        made["geometry"]["coordinates"] = [ring]  # as large as the places of the commands; the pixels are a part
        serve(server, folder / "s2", made, S2_REFLECTANCE, 1000)
        serve(server, folder / "hls", hls("S30", "hls2-s30", here), S2_REFLECTANCE, 0)
        World(server, folder).emit()
        yield server


@pytest.fixture
def asked(catalogue, monkeypatch):
    """Every provider is that server."""
    monkeypatch.setattr(socket.socket, "connect", CONNECT)
    monkeypatch.setenv("EARTHDATA_TOKEN", "for NASA's hosts only")
    for name, provider in PROVIDERS.items():
        monkeypatch.setitem(PROVIDERS, name, replace(provider, url=catalogue.root))
    return catalogue


def test_pages_show_every_command():
    for command in get_command(app).commands:
        assert any(line.split()[1] == command for line in COMMANDS), command
    assert set(WITH_NETWORK) < set(COMMANDS)
    assert {command.split()[1] for command in REAL} == {"pretrain", "prepare", "finetune", "evaluate"}


def test_commands_that_cannot_run_here_are_parsed():
    for command in PARSED:
        name, *words = shlex.split(command)[1:]
        get_command(app).commands[name].make_context(name, words)


@pytest.mark.slow
@pytest.mark.parametrize("command", REAL)
def test_command_works_on_real_data(command, ms2hs, world, real_data, tmp_path, monkeypatch, request):
    assert_works(command, real_data, ms2hs, world, tmp_path, monkeypatch, request)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_works_as_written(command, ms2hs, world, tmp_path, monkeypatch, request):
    if command not in WITH_NETWORK:
        monkeypatch.setattr(weights, "BEST_FIRST", ("linear",))
    assert_works(command, world / "data", ms2hs, world, tmp_path, monkeypatch, request)


def assert_works(command, data, ms2hs, world, tmp_path, monkeypatch, request):
    """Run a command in a folder with everything that it names; DIR is `data`."""
    words = shlex.split(command)[1:]
    _link_world(words, world, tmp_path)
    if "DIR" in words:
        words[words.index("DIR")] = str(data)
    if words[0] == "fetch" or (words[0] == "convert" and "--date" in words):
        _serve_items(words, tmp_path, request)
    if "--bands" in words:  # for a file whose bands have no names
        _strip_names(world / "scene.tif", tmp_path / "scene.tif")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda *_, **__: True)
    monkeypatch.setattr("ms2hs.viewing.server.CubeServer.run", lambda _server: None)  # until Ctrl-C
    monkeypatch.setattr("ms2hs.viewing.page.MAX_VALUES", 1_000_000)  # a thinned page takes less time
    words = [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    bucket = request.getfixturevalue("bucket") if any(word.startswith("s3://bucket/") for word in words) else None
    code, out, err = ms2hs(*words)
    assert code == 0, err
    assert out
    writes = {"convert", "example", "export", "pretrain", "prepare", "finetune", "fetch"}
    if words[0] in writes and not {"--dry-run", "--help", "--json", "--list", "--save"} & set(words):
        there = {f"s3://bucket/{key}" for key in bucket.files()} if bucket else set()
        assert [line for line in out.splitlines() if line not in there and not Path(line).exists()] == []
        assert len(there) == (len(out.splitlines()) if bucket else 0)


def _link_world(words, world, folder):
    """Everything that a command names, but for its outputs; `cube` is also the result of `convert scene.tif`."""
    for path in world.iterdir():
        (folder / path.name).symlink_to(path)
        if words[0] != "convert" and path.stem in {"cube", "cube_sigma"}:
            (folder / path.name.replace("cube", "scene_enmap")).symlink_to(path)
    outputs = {"example": words[1:2], "export": words[2:3]}.get(words[0], [])
    outputs += [name for option, name in pairwise(words) if option in {"-o", "--output"}]
    for name in outputs:
        for path in (folder / name, sigma_beside(folder / name), (folder / name).with_suffix(".hdr")):
            path.unlink(missing_ok=True)


def _serve_items(words, folder, request):
    """A server, and the items that `fetch --save` leaves."""
    server = request.getfixturevalue("asked")
    if "--save" not in words:
        origin = {ORIGIN: {"provider": "earth-search", "url": server.root}}
        scenes = [item | origin for item in server.items if not item["id"].startswith("EMIT")]
        found = {"type": "FeatureCollection", "features": scenes}
        (folder / "found.json").write_text(json.dumps(found))


def _strip_names(source, path):
    path.unlink()
    with rasterio.open(source) as scene:
        profile, dn = scene.profile, scene.read([2, 3, 4, 5, 6, 7, 8, 9, 11, 12])
    with rasterio.open(path, "w", **(profile | {"count": 10})) as bare:
        bare.write(dn)


@pytest.mark.parametrize("code", sorted(set(re.findall(r"```python\n(.*?)```", RUNNING, re.DOTALL))))
def test_python_example_works(code, world, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "BEST_FIRST", ("linear",))
    _link_world(["convert" if "ms2hs.convert(" in code else "look"], world, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102 - our own page


def test_config_of_the_docs_works(ms2hs, world, tmp_path, monkeypatch):
    (config,) = re.findall(r'```toml title="ms2hs.toml"\n(.*?)```', TEXT, re.DOTALL)
    (tmp_path / "ms2hs.toml").write_text(config)
    monkeypatch.chdir(tmp_path)
    code, out, err = ms2hs("convert", str(world / "scene.tif"), "--dry-run")
    assert code == 0, err
    assert "_emit.tif" in out
    assert "target = 'emit'" in err


@pytest.mark.parametrize(("path", "code"), re.findall(r'```python title="(.+?)"\n(.*?)```', TEXT, re.DOTALL))
def test_quoted_code_stands_in_its_file(path, code):
    def without_blanks(text):
        return re.sub(r"\s", "", text)

    assert without_blanks(code) in without_blanks((ROOT / path).read_text("utf-8"))


def test_named_sensors_exist():
    assert set(re.findall(r"--source ([^\s`]+)", TEXT)) <= set(known.sensor_names())


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        assert link.startswith("https://") or (ROOT / page.parent / link).is_file(), link


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^    python (benchmarks/.+)$", TEXT, re.MULTILINE))))
def test_benchmark_of_the_docs_has_the_options(command):
    script, *words = command.split()
    assert {word for word in words if word.startswith("--") and word not in (ROOT / script).read_text("utf-8")} == set()


def test_conda_recipe_has_the_dependencies():
    recipe = (ROOT / "docs" / "conda" / "meta.yaml").read_text("utf-8").split("  run:\n")[1].split("\ntest:")[0]
    found = set(recipe.replace("pytorch", "torch").replace(" ", "").split("\n"))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    python = f"python{wanted['requires-python']}"
    assert {line.removeprefix("-") for line in found if line} == {*wanted["dependencies"], python}


def test_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_make_has_the_commands():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^    |`)make ([\w-]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
