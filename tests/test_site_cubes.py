"""Several cubes of a site: given one by one or as folders, read, and named in the result."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from conftest import write_raster
from sites import Site, make_emit, make_enmap, make_sentinel2_tif
from tanager_world import make_tanager

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions, plan
from ms2hs.conversion.site_adaptation import adapt_to_site, find_site_cubes, site_text
from ms2hs.errors import DataError
from ms2hs.files import file_ids
from ms2hs.models.weights import load_weights
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader
from ms2hs.spectra.sensors import load_sensor

GRID = load_sensor("enmap").grid
NM_TAGS = {"IMAGERY": [{"CENTRAL_WAVELENGTH_UM": str(nm / 1000)} for nm in GRID.wavelength_nm]}
QUICK = ConvertOptions(model="linear", window=(0, 0, 8, 8))


def write_cube(path, brightness=1.0, **options):
    """A cube of mixtures of two materials."""
    share = np.linspace(0, 1, 24 * 20).reshape(24, 20)
    slope = (GRID.wavelength_nm - 400) / 2000
    values = (0.1 + 0.3 * slope)[:, None, None] * share + (0.4 - 0.2 * slope)[:, None, None] * (1 - share)
    return write_raster(path, np.round(brightness * values * 1e4).astype(np.int16), band_tags=NM_TAGS, **options)


@pytest.fixture
def cubes(tmp_path):
    return write_cube(tmp_path / "a_20230701.tif"), write_cube(tmp_path / "b.tif", 0.6, tags={"DATETIME": "2022-08-02"})


def test_one_path_counts_as_one_cube(cubes):
    assert ConvertOptions(site=cubes[0]).site == ConvertOptions(site=str(cubes[0])).site == (cubes[0],)
    assert ConvertOptions(site=None).site == ConvertOptions().site == ()
    assert ConvertOptions(site=list(map(str, cubes))).site == cubes


def fitted(cubes, scene_path, **options):
    """The posterior of a scene and the notes, with these cubes as its site."""
    scene = open_scene(str(scene_path))
    with SceneReader(scene, scene.grid) as reader:
        posterior, _, notes = adapt_to_site(load_weights("linear").prior, cubes, reader, GRID, **options)
        return posterior, notes


def test_a_folder_gives_its_cubes_without_results_of_conversions(cubes, tmp_path):
    write_raster(tmp_path / "bands.tif", np.ones((4, 8, 8), np.int16))
    write_cube(tmp_path / "made.tif", tags={"MS2HS_SYNTHETIC": "YES"})
    site = Site()
    product = make_enmap(tmp_path, site)
    granule = make_emit(tmp_path, site)
    found = find_site_cubes([tmp_path, cubes[0]])
    assert sorted(found) == sorted([*cubes, granule, *product.glob("*METADATA.XML")])


def test_a_folder_without_cubes_is_refused(tmp_path, ms2hs, scene_path):
    write_raster(tmp_path / "in" / "bands.tif", np.ones((4, 8, 8), np.int16))
    code, _, err = ms2hs("convert", scene_path, "--model", "linear", "--site", tmp_path / "in", "-o", tmp_path)
    assert code == 1
    assert "in: the folder has no cube" in err
    assert len(err.splitlines()) == 1


def test_products_of_emit_and_enmap_fit_a_scene_of_their_site(tmp_path):
    site = Site()
    paths = [make_emit(tmp_path, site), *make_enmap(tmp_path, site).glob("*METADATA.XML")]
    scene = make_sentinel2_tif(tmp_path, site)
    posterior, (note,) = fitted(paths, scene)
    plain = load_weights("linear").prior.condition(open_scene(str(scene)).spectral, GRID)
    assert np.abs(posterior.minus(plain).gain).max() > 0.01
    assert note.startswith(f"site: {site_text(paths[0])}, {site_text(paths[1])} used; reflectance changes by 0.0")
    assert posterior.relative_sigma.mean() < 0.7 * plain.relative_sigma.mean()


def test_a_cube_far_from_the_scene_is_named(tmp_path):
    granule = make_emit(tmp_path, Site())
    *_, notes = fitted([granule], make_sentinel2_tif(tmp_path, Site(x=600_000.0, y=5_300_000.0)))
    assert re.search(r" lies 19\d km from the scene; a cube of the same place is needed$", notes[-1])


def test_cubes_of_other_land_are_named_and_left_out(cubes, tmp_path):
    site = Site()
    scene, granule = make_sentinel2_tif(tmp_path, site), make_emit(tmp_path, site)
    both, notes = fitted([cubes[0], granule], scene)
    assert [note.split("; ")[0].split(", since")[0] for note in notes] == [
        "site: a_20230701.tif (2023-07-01) is not used",
        f"site: {site_text(granule)} used",
    ]
    alone, _ = fitted([granule], scene)
    assert np.abs(both.gain - alone.gain).max() < 0.1
    nothing, notes = fitted([cubes[0]], scene)
    assert len(notes) == 1
    plain = load_weights("linear").prior.condition(open_scene(str(scene)).spectral, GRID)
    np.testing.assert_array_equal(nothing.gain, plain.gain)


def test_cubes_with_few_valid_pixels_are_named(cubes, tmp_path, scene_path):
    values = np.broadcast_to(1000 + np.arange(len(GRID), dtype=np.int16)[:, None, None], (len(GRID), 9, 9))
    small = write_raster(tmp_path / "small.tif", values, band_tags=NM_TAGS)
    with pytest.raises(DataError, match=r"small\.tif: 81 valid pixels, .*; at least 100"):
        fitted([cubes[0], small], scene_path)


def test_convert_names_the_cubes_that_it_uses_and_their_days(ms2hs, cubes, tmp_path):
    site = Site()
    scene, granule = make_sentinel2_tif(tmp_path, site, gsd_m=30.0), make_emit(tmp_path, site)
    words = ["--model", "linear", "--site", cubes[0], "--site", granule]  # the first shows other land
    code, out, err = ms2hs("convert", scene, *words, "-o", tmp_path / "out.tif")
    assert code == 0, err
    named = f"{granule.name} (2024-06-03)"
    with rasterio.open(out.splitlines()[0]) as cube:
        assert cube.tags()["MS2HS_SITE"] == named
    assert json.loads((tmp_path / "out.json").read_text())["properties"]["ms2hs:site"] == named


def test_every_cube_is_an_input(cubes, scene_path, tmp_path):
    planned = plan(scene_path, "enmap", tmp_path / "out.tif", replace(QUICK, site=(tmp_path,)))
    assert planned.options.site == cubes
    assert file_ids(cubes) <= planned.inputs


def test_site_notes_are_in_result_and_item(cubes, scene_path, tmp_path):
    options = replace(QUICK, site=cubes, site_notes=("site: chosen by hand",))
    result = convert(scene_path, "enmap", tmp_path / "out.tif", options)
    assert "site: chosen by hand" in result.notes
    assert "site: chosen by hand" in json.loads(result.item.read_text())["properties"]["ms2hs:notes"]
    assert any(note.startswith("site: not used; 64 valid pixels") for note in result.notes)


def test_passes_of_auto_are_resolved_before_a_conversion(scene_path, tmp_path):
    with pytest.raises(ValueError, match=r"ms2hs\.convert"):
        convert(scene_path, "enmap", tmp_path / "out.tif", replace(QUICK, site="auto"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("factor", "options", "problem"),
    [
        (1e2, {}, "is not used, .* its pixels are 0.0[0-9]* times as bright"),
        (1e3, {}, "is not used, .* its pixels are 0.[1-3][0-9]* times as bright"),
        (1e4, {"scale": 0.01}, "0 valid pixels, with reflectance from -0.05 to 1.5"),
        (1e4, {"dtype": "float32"}, "floats with 99th percentile"),
    ],
)
def test_cubes_of_a_wrong_scale_are_not_used(tmp_path, factor, options, problem):
    site = Site()
    scene = make_sentinel2_tif(tmp_path, site)
    values = site.seen(GRID, site.place(30), (40, 40)) * factor
    values = values.astype(options.get("dtype", "int16"))
    cube = write_raster(tmp_path / "cube.tif", values, band_tags=NM_TAGS, **options)
    try:
        _, (text,) = fitted([cube], scene)
    except DataError as error:
        text = str(error)
    assert re.search(problem, text)
    assert "cube.tif" in text


def test_fill_that_no_cube_declares_is_not_read(tmp_path):
    site = Site()
    scene = make_sentinel2_tif(tmp_path, site)
    values = np.round(site.seen(GRID, site.place(30), (40, 40)) * 1e4).astype(np.int16)
    filled = np.concatenate([values, np.zeros_like(values)], axis=1)
    filled[np.abs(GRID.wavelength_nm - 1600) < 10] = -32768  # as bands in water vapour
    cubes = [
        write_raster(tmp_path / f"{name}.tif", cube, band_tags=NM_TAGS, nodata=-32768)
        for name, cube in (("whole", values), ("filled", filled))
    ]
    whole, some = (fitted([cube], scene)[0] for cube in cubes)
    bands = site.seen(load_sensor("sentinel2b").grid, site.place(30), (9, 9)).astype(np.float32)
    np.testing.assert_allclose(whole.reconstruct(bands), some.reconstruct(bands), atol=0.005)


def test_result_of_a_conversion_is_no_site(cubes, scene_path, tmp_path):
    made = write_cube(tmp_path / "made.tif", tags={"MS2HS_SYNTHETIC": "YES"})
    with pytest.raises(DataError, match=r"made\.tif: is the output of a conversion"):
        fitted([cubes[0], made], scene_path)


def test_a_cube_without_the_needed_bands_is_named(cubes, scene_path, tmp_path):
    tags = {"IMAGERY": NM_TAGS["IMAGERY"][:3]}
    values = np.random.default_rng(0).integers(900, 4000, (3, 24, 20)).astype(np.int16)
    narrow = write_raster(tmp_path / "narrow.tif", values, band_tags=tags)
    with pytest.raises(DataError, match=r"narrow\.tif: 0 of the site's 480 spectra are complete"):
        fitted([cubes[0], narrow], scene_path)


def test_tanager_products_are_site_cubes(tmp_path):
    path = tmp_path / "20250511_074311_00_4001_ortho_sr_hdf5.h5"
    make_tanager(path)
    assert find_site_cubes([tmp_path]) == (path,)
    assert site_text(path) == f"{path.name} (2025-05-11)"
    with pytest.raises(DataError, match="spectra are complete"):  # of its few bands
        fitted([path], make_sentinel2_tif(tmp_path, Site()))
