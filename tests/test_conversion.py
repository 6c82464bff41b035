"""convert, from a scene to files, against the same arithmetic on whole arrays."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from conftest import S2_BANDS, write_raster
from rio_cogeo.cogeo import cog_validate

from ms2hs.conversion import pipeline, planning
from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions, plan
from ms2hs.conversion.statistics import InputResidual
from ms2hs.datasets.simulation.example_scene import SCENE_HEIGHT, SCENE_WIDTH, example_dn
from ms2hs.errors import OutputError, SceneError, UnknownName, WeightsError
from ms2hs.inference.predictor import Predictor
from ms2hs.models import weights
from ms2hs.models.config import preset
from ms2hs.models.denoising import denoise
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.raster.cog import block_compressor
from ms2hs.raster.cog.block_compressor import BlockCompressor
from ms2hs.raster.cog.encoding import quantise
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA, SCALE, open_cube
from ms2hs.scenes.reader import SceneReader
from ms2hs.spectra.product_error import InputError, input_error_named
from ms2hs.spectra.sensors import load_sensor


@pytest.fixture(scope="module", autouse=True)
def _linear_unless_asked():
    """Compare plain arithmetic with the linear model, which is also faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "BEST_FIRST", ("linear",))
        yield


@pytest.fixture(scope="module")
def made(scene_path, tmp_path_factory):
    return convert(scene_path, "enmap", tmp_path_factory.mktemp("out"), ConvertOptions(uncertainty=True))


@pytest.fixture(scope="module")
def whole(scene_path):
    """(reflectance, valid) of the scene, read without ms2hs."""
    with rasterio.open(scene_path) as scene:
        dn = scene.read()
    return (dn * np.float32(1e-4)).astype(np.float32), (dn != 0).all(axis=0)


def read(path):
    with rasterio.open(path) as cube:
        return cube.read()


def assert_same(found, expected):
    """Equal except for the last digit: matrix products of another shape round differently."""
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_cube_equals_the_model_on_the_whole_scene(made, whole):
    reflectance, valid = whole
    prior = load_weights("linear").prior
    error = input_error_named("sentinel2")  # the default for Sentinel-2
    model = prior.condition(load_sensor("sentinel2a").grid, load_sensor("enmap").grid, error)
    expected = model.reconstruct(reflectance, valid)
    found = read(made.output)
    assert (found[:, ~valid] == NODATA).all()
    assert (found[:, valid] != NODATA).all()
    np.testing.assert_allclose(found[:, valid] * SCALE, expected[:, valid], atol=0.51 * SCALE)
    sigma = read(made.sigma)
    np.testing.assert_allclose(sigma[:, valid] * SCALE, model.sigma(reflectance)[:, valid], atol=0.51 * SCALE)


def test_cube_is_a_valid_cog_with_wavelengths_and_provenance(made, scene_path):
    for path in (made.output, made.sigma):
        valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
        assert (valid, errors, warnings) == (True, [], [])
    target = load_sensor("enmap").grid
    with rasterio.open(made.output) as cube, rasterio.open(scene_path) as scene:
        assert (cube.count, cube.dtypes[0], cube.nodata, cube.scales[0]) == (202, "int16", NODATA, SCALE)
        assert (cube.crs, cube.transform, cube.shape) == (scene.crs, scene.transform, scene.shape)
        for band in range(1, 203):
            tags_of_band = cube.tags(band, ns="IMAGERY")
            assert float(tags_of_band["CENTRAL_WAVELENGTH_UM"]) == pytest.approx(target.wavelength_nm[band - 1] / 1000)
            assert float(tags_of_band["FWHM_UM"]) == pytest.approx(target.fwhm_nm[band - 1] / 1000)
        tags = cube.tags()
    assert tags["MS2HS_SYNTHETIC"] == "YES"
    assert tags["MS2HS_SOURCE"] == "sentinel2a"
    assert tags["MS2HS_TARGET"] == "enmap"
    assert len(tags["MS2HS_WEIGHTS_SHA256"]) == 64
    assert tags["MS2HS_OFFSET_RULE"]


def test_item_has_assets_counts_and_residual(made):
    item = json.loads(made.item.read_text())
    assert item["stac_version"] == "1.1.0"
    assert {asset["href"] for asset in item["assets"].values()} == {
        f"./{path.name}" for path in (made.output, made.sigma, made.quicklook, made.style)
    }
    assert all((made.item.parent / asset["href"]).is_file() for asset in item["assets"].values())
    bands = item["assets"]["data"]["bands"]
    assert len(bands) == 202
    assert {band["ms2hs:support"] for band in bands} == {"measured", "interpolated", "inferred"}
    properties = item["properties"]
    west, south, east, north = item["bbox"]
    assert 13 < west < east < 14
    assert 52 < south < north < 53
    counts = properties["ms2hs:pixels"]
    assert 0 <= counts["unlike_training"] <= counts["valid"] < counts["pixels"] == SCENE_HEIGHT * SCENE_WIDTH
    assert 0.02 * SCENE_HEIGHT * SCENE_WIDTH < counts["water"] < 0.15 * SCENE_HEIGHT * SCENE_WIDTH
    assert counts["snow"] == 0
    residual = properties["ms2hs:measured_band_residual_rmse"]
    assert set(residual) == {"all", *load_sensor("sentinel2a").grid.names}
    assert 0 < residual["all"] < 0.004


def test_vegetation_has_a_red_edge(made):
    cube = open_cube(made.output)
    spectra = cube.reflectance.values[:, ::7, ::7].reshape(202, -1)
    nm = cube.wavelength.values
    red, nir = spectra[np.abs(nm - 670).argmin()], spectra[np.abs(nm - 860).argmin()]
    vegetation = spectra[:, (nir - red) / (nir + red) > 0.75].mean(axis=1)
    inside = (nm > 600) & (nm < 850)
    edge = nm[inside][np.gradient(vegetation[inside], nm[inside]).argmax()]
    assert 700 <= edge <= 740


def test_part_of_a_scene_equals_that_part_of_the_whole(made, scene_path, tmp_path):
    whole = read(made.output)
    part = convert(scene_path, "enmap", tmp_path, ConvertOptions(window=(101, 57, 40, 61)))
    assert_same(read(part.output), whole[:, 101:141, 57:118])
    with rasterio.open(part.output) as cube, rasterio.open(made.output) as full:
        assert (cube.transform.c, cube.transform.f) == (full.transform.c + 570, full.transform.f - 1010)
    chosen = convert(scene_path, "enmap", tmp_path / "swir.tif", ConvertOptions(wavelengths_nm=((2100, 2300),)))
    nm = load_sensor("enmap").grid.wavelength_nm
    assert_same(read(chosen.output), whole[(nm >= 2100) & (nm <= 2300)])


def test_cube_does_not_depend_on_pixels_per_task(made, scene_path, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "PIXELS_PER_TASK", 1000)
    other = convert(scene_path, "enmap", tmp_path)
    assert_same(read(other.output), read(made.output))


def test_cube_does_not_depend_on_threads(scene_path, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "PIXELS_PER_TASK", 1000)
    monkeypatch.setattr(block_compressor, "BANDS_PER_TASK", 16)
    found = []
    for threads in (1, 5):
        monkeypatch.setattr(block_compressor, "processors", lambda threads=threads: threads)
        made = convert(scene_path, "enmap", tmp_path, ConvertOptions(overwrite=True))
        found.append((made.output.read_bytes(), made.counts, made.residual))
    assert found[0] == found[1]


def test_required_memory_does_not_grow_with_height(scene_path):
    planned = plan(scene_path, "enmap")
    needed = [
        replace(planned, grid=replace(planned.grid, height=height, width=width)).requirements["memory_bytes"]
        for height, width in ((3660, 3660), (10980, 3660), (10980, 10980))
    ]
    assert needed[1] < 1.05 * needed[0]  # one more overview
    assert needed[0] < 1.2e9
    assert needed[2] < 2.5e9


def test_bbox_is_in_degrees_and_must_meet_the_scene(scene_path, tmp_path, made):
    west, south, east, north = json.loads(made.item.read_text())["bbox"]
    middle = (west + east) / 2
    half = plan(scene_path, "enmap", tmp_path, ConvertOptions(bbox=(west, south, middle, north)))
    assert abs(half.grid.width - SCENE_WIDTH / 2) <= 3
    with pytest.raises(SceneError, match="10"):
        plan(scene_path, "enmap", tmp_path, ConvertOptions(bbox=(10, 50, 11, 51)))


def test_failed_conversion_leaves_no_file(scene_path, tmp_path, monkeypatch):
    calls = []

    def fail_late(*args, **kwargs):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("a bug of ours")
        return quantise(*args, **kwargs)

    quantise = pipeline.quantise
    monkeypatch.setattr(pipeline, "quantise", fail_late)
    monkeypatch.setattr(pipeline, "PIXELS_PER_TASK", 4000)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        convert(scene_path, "enmap", tmp_path, ConvertOptions(uncertainty=True))
    assert list(tmp_path.iterdir()) == []


def test_uncertainty_is_not_left_without_its_cube(scene_path, tmp_path, monkeypatch):
    finish = CogWriter.finish

    def fail_for_the_cube(writer):
        if "sigma" not in writer.path.name:
            raise OutputError("no space; some is needed. Make room.")
        finish(writer)

    monkeypatch.setattr(CogWriter, "finish", fail_for_the_cube)
    with pytest.raises(OutputError, match="no space"):
        convert(scene_path, "enmap", tmp_path, ConvertOptions(uncertainty=True))
    assert list(tmp_path.iterdir()) == []


def test_error_in_a_thread_is_raised(scene_path, tmp_path, monkeypatch):
    def broken(*_args):
        raise OutputError("no space; some is needed. Make room.")

    monkeypatch.setattr(BlockCompressor, "_compress", broken)
    with pytest.raises(OutputError, match="no space"):
        convert(scene_path, "enmap", tmp_path)
    assert list(tmp_path.iterdir()) == []


def _write_references(path, places, spectra, nm):
    lines = ["id,lon,lat," + ",".join(f"{x:g}" for x in nm)]
    for i, (place, spectrum) in enumerate(zip(places, spectra, strict=True)):
        where = f"{place[0]:.7f},{place[1]:.7f}" if place else ","
        lines.append(f"s{i},{where}," + ",".join(f"{x:.5f}" for x in spectrum))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("placed", [True, False])
def test_references_correct_a_constant_error(made, scene_path, tmp_path, placed):
    """Plant a feature between the bands of Sentinel-2; references must correct most of it."""
    from rasterio.warp import transform

    cube = open_cube(made.output)
    nm = cube.wavelength.values
    planted = 0.02 * np.exp(-0.5 * ((nm - 1150) / 60) ** 2)
    rows, cols = np.array([20, 60, 90, 150, 200, 30, 110, 170]), np.array([30, 80, 200, 100, 60, 260, 130, 40])
    spectra = cube.reflectance.values[:, rows, cols].T + planted
    xs, ys = cube.x.values[cols], cube.y.values[rows]
    lon, lat = transform("EPSG:32633", "EPSG:4326", xs, ys)
    _write_references(tmp_path / "field.csv", zip(lon, lat, strict=True) if placed else [None] * 8, spectra, nm)
    better = convert(scene_path, "enmap", tmp_path, ConvertOptions(reference=tmp_path / "field.csv"))
    assert any("8 of 8" in note for note in better.notes)
    shift = np.nanmean(open_cube(better.output).reflectance.values - cube.reflectance.values, axis=(1, 2))
    near = np.abs(nm - 1150).argmin()
    assert 0.5 * planted[near] < shift[near] < 1.3 * planted[near]  # the map scales it by brightness
    assert np.abs(shift[np.abs(nm - 1150) > 300]).max() < 0.005


def test_input_error_widens_the_uncertainty(made, scene_path, tmp_path):
    errors = {"plain": "none", "wide": InputError(0.02, 0.005, 0.003)}
    plain, wide = (
        convert(scene_path, "enmap", tmp_path / f"{name}.tif", ConvertOptions(uncertainty=True, input_error=error))
        for name, error in errors.items()
    )
    sigma = open_cube(plain.sigma).reflectance.values
    measured = open_cube(made.sigma).reflectance.values  # the default for Sentinel-2
    assert np.nanmedian(measured / np.maximum(sigma, SCALE)) > 2
    ratio = open_cube(wide.sigma).reflectance.values / np.maximum(sigma, SCALE)
    assert np.nanquantile(ratio, 1e-5) >= 0.95  # denoising also changes the brightness of pixels at edges
    assert np.nanmedian(ratio) > 1.2
    with rasterio.open(wide.output) as cube:
        assert cube.tags()["MS2HS_INPUT_ERROR"] == "gain 0.02, offset 0.005, pixel 0.003"


@pytest.mark.parametrize("name", ["linear", "spatial-spectral"])
def test_noise_is_removed_first_however_the_scene_is_cut(networks, name, scene_path, tmp_path, monkeypatch):
    error = InputError(0.02, 0.005, 0.01)
    options = ConvertOptions(model=networks.get(name, name), window=(0, 0, 70, 83), input_error=error)
    once = read(convert(scene_path, "enmap", tmp_path / "a.tif", options).output)
    if name == "linear":
        planned = plan(scene_path, "enmap", tmp_path / "p.tif", options)
        with SceneReader(planned.scene, planned.grid) as reader:
            seen, valid = reader.read(0, 0, planned.grid.height, planned.grid.width)
        model = planned.weights.prior.condition(planned.scene.spectral, planned.spectral, error)
        wanted = model.reconstruct(denoise(seen, valid, error.pixel))
        assert np.abs(once * SCALE - wanted)[:, valid].max() < 1.5 * SCALE
        assert np.abs(once * SCALE - model.reconstruct(seen))[:, valid].max() > 10 * SCALE
    monkeypatch.setattr(planning, "MAX_STRIP_ROWS", 16)
    strips = read(convert(scene_path, "enmap", tmp_path / "b.tif", options).output)
    assert np.abs(strips.astype(int) - once).max() <= 1


def measured(path, result):
    """A cube with the pixels of a result, as if a sensor had measured them."""
    wavelengths = [{"CENTRAL_WAVELENGTH_UM": str(nm / 1000)} for nm in open_cube(result).wavelength.values]
    return write_raster(path, read(result), nodata=NODATA, band_tags={"IMAGERY": wavelengths})


def test_site_cube_adapts_the_prior(made, scene_path, tmp_path):
    site = measured(tmp_path / "site.tif", made.output)
    better = convert(scene_path, "enmap", tmp_path, ConvertOptions(site=site))
    with rasterio.open(better.output) as cube:
        assert cube.tags()["MS2HS_SITE"] == "site.tif"
    difference = open_cube(better.output).reflectance.values - open_cube(made.output).reflectance.values
    assert np.nanmean(np.abs(difference)) < 0.01  # a site cube that agrees changes little


def network_file(path, name, **changes):
    """Weights of a small untrained network."""
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    prior = load_weights("linear").prior
    network = SpectralMAE(replace(preset(name), **(sizes | changes)), prior)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    save_weights(path, prior, {}, network)
    return str(path)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    kinds = {"spectral": {}, "spatial-spectral": {}, "dlr-ibm-spatial-spectral": {}}
    return {name: network_file(folder / f"{name}.safetensors", name, **changes) for name, changes in kinds.items()}


@pytest.mark.parametrize("name", ["spectral", "spatial-spectral", "dlr-ibm-spatial-spectral"])
def test_network_converts_part_of_a_scene(networks, name, scene_path, tmp_path):
    options = ConvertOptions(model=networks[name], window=(0, 0, 70, 83))
    result = convert(scene_path, "emit", tmp_path / "n.tif", options)
    found = read(result.output)
    linear = read(convert(scene_path, "emit", tmp_path / "l.tif", replace(options, model="linear")).output)
    np.testing.assert_array_equal(found == NODATA, linear == NODATA)
    assert (found != linear).any()
    assert result.counts == replace(result.counts, pixels=70 * 83)
    assert cog_validate(result.output, strict=True, quiet=True)[0]


@pytest.mark.parametrize("name", ["spectral", "spatial-spectral"])
def test_undeclared_fill_is_as_nodata_to_a_network(networks, name, tmp_path):
    """16 pixels of fill change no other pixel more than declared nodata does."""
    fills = []
    for nodata in (None, -9999):
        dn = example_dn()[:, :64, :64].astype(np.int16)
        dn[:, 30:34, 30:34] = -9999
        path = write_raster(tmp_path / f"{nodata}.tif", dn, descriptions=S2_BANDS, nodata=nodata)
        options = ConvertOptions(model=networks[name], overwrite=True)
        fills.append(read(convert(path, "enmap", tmp_path / "o.tif", options).output))
    assert (fills[0][:, 30:34, 30:34] == NODATA).all()
    np.testing.assert_array_equal(*fills)


def test_local_network_does_not_depend_on_strips(networks, scene_path, tmp_path, monkeypatch):
    options = ConvertOptions(model=networks["spectral"], window=(0, 0, 70, 83))
    once = read(convert(scene_path, "enmap", tmp_path / "a.tif", options).output)
    monkeypatch.setattr(planning, "MAX_STRIP_ROWS", 16)
    assert_same(read(convert(scene_path, "enmap", tmp_path / "b.tif", options).output), once)


def test_overlapping_windows_leave_no_seam(networks, scene_path, tmp_path):
    # the network adds a smooth correction to its prior, so a seam would stand out in differences of neighbours
    options = ConvertOptions(model=networks["spatial-spectral"], window=(100, 60, 96, 96), window_size=32)
    found = read(convert(scene_path, "enmap", tmp_path / "n.tif", options).output).astype(float)
    plain = read(
        convert(scene_path, "enmap", tmp_path / "l.tif", replace(options, model="linear", window_size=None)).output
    )
    added = np.where(plain == NODATA, np.nan, found - plain)
    steps = np.nanmean(np.abs(np.diff(added, axis=2)), axis=(0, 1))
    edges = list(range(7, 95, 8))  # edges of patches, and of windows
    assert steps[edges].max() < 4 * np.median(steps[edges])


@pytest.fixture(scope="module")
def adaptations(scene_path, tmp_path_factory):
    """Options for a part of the scene; adapted options, each with valid and its change of the linear model's values."""
    folder, window = tmp_path_factory.mktemp("adaptations"), ConvertOptions(window=(0, 0, 40, 50))
    plain = convert(scene_path, "enmap", folder / "plain.tif", window).output
    values, site = read(plain), measured(folder / "site.tif", plain)
    changes = []
    for known in ({"site": site}, {"input_error": InputError(0.02, 0.005, 0)}):  # noise would be removed first
        adapted = replace(window, **known)
        output = convert(scene_path, "enmap", folder / f"{len(changes)}.tif", adapted).output
        changes.append((adapted, values[0] != NODATA, read(output).astype(int) - values))
    return window, changes


@pytest.mark.parametrize("name", ["spectral", "dlr-ibm-spatial-spectral"])
def test_adaptation_changes_network_and_linear_model_alike(networks, name, adaptations, scene_path, tmp_path):
    window, changes = adaptations
    plain = read(convert(scene_path, "enmap", tmp_path / "plain.tif", replace(window, model=networks[name])).output)
    for number, (adapted, valid, linear) in enumerate(changes):
        output = convert(scene_path, "enmap", tmp_path / f"{number}.tif", replace(adapted, model=networks[name])).output
        network = read(output).astype(int) - plain
        assert np.abs(linear[:, valid]).max() > 3
        assert np.abs(network - linear)[:, valid].max() <= 2  # each difference was rounded twice


def test_references_correct_a_network(networks, scene_path, tmp_path):
    """References equal to the linear result: they must correct the network."""
    options = ConvertOptions(model=networks["spectral"], window=(0, 0, 60, 80))
    truth = open_cube(convert(scene_path, "enmap", tmp_path / "l.tif", replace(options, model="linear")).output)
    rows, cols = np.array([5, 20, 30, 40, 50, 55, 12, 35]), np.array([7, 20, 60, 30, 70, 10, 50, 45])
    _write_references(
        tmp_path / "field.csv", [None] * 8, truth.reflectance.values[:, rows, cols].T, truth.wavelength.values
    )
    plain = open_cube(convert(scene_path, "enmap", tmp_path / "a.tif", options).output).reflectance.values
    referenced = replace(options, reference=tmp_path / "field.csv")
    better = open_cube(convert(scene_path, "enmap", tmp_path / "b.tif", referenced).output).reflectance.values
    errors = [float(np.nanmean((made - truth.reflectance.values) ** 2)) for made in (plain, better)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("name", ["spectral", "dlr-ibm-spatial-spectral"])
def test_writers_wait_for_a_network_on_the_cpu(networks, name, scene_path, tmp_path, monkeypatch):
    compressed, at_work, beside = [], [], []
    compress, reconstruct = BlockCompressor._compress, Predictor.reconstruct_tensor

    def compressing(*given):
        at_work.append(given)
        time.sleep(0.05)  # long enough to overlap
        try:
            return compress(*given)
        finally:
            compressed.append(at_work.pop())

    def computing(*given):
        before = len(compressed)
        made = reconstruct(*given)
        beside.append(len(compressed) - before + len(at_work))
        return made

    monkeypatch.setattr(BlockCompressor, "_compress", compressing)
    monkeypatch.setattr(Predictor, "reconstruct_tensor", computing)
    higher = tmp_path / "higher.tif"
    with rasterio.open(scene_path) as scene:
        dn, names, profile = scene.read()[:, :, 100:164], scene.descriptions, scene.profile
    with rasterio.open(higher, "w", **(profile | {"height": 400, "width": 64})) as file:
        file.write(np.concatenate([dn, dn[:, :170]], axis=1))
        file.descriptions = names
    convert(higher, "enmap", tmp_path / "cube.tif", ConvertOptions(model=networks[name], device="cpu"))
    assert len(compressed) > 0
    assert not any(beside)


@pytest.mark.parametrize("window", [(0, 0, 40, 5), (3, 7, 5, 40), (10, 10, 1, 1), (0, 0, 33, 31)])
def test_network_converts_scenes_smaller_than_its_overlap(networks, window, scene_path, tmp_path):
    options = ConvertOptions(model=networks["spatial-spectral"], window=window)
    found = read(convert(scene_path, "enmap", tmp_path / "n.tif", options).output)
    linear = read(convert(scene_path, "enmap", tmp_path / "l.tif", replace(options, model="linear")).output)
    assert found.shape == (202, *window[2:])
    np.testing.assert_array_equal(found == NODATA, linear == NODATA)


def test_network_of_patch_tokens_converts_as_its_predictor(networks, scene_path, tmp_path):
    """A part with more than one window on each side, and the uncertainty of the linear model."""
    error = InputError(0.02, 0.005, 0)
    options = ConvertOptions(
        model=networks["spatial-spectral"], window=(90, 60, 70, 75), window_size=32, input_error=error
    )
    made = convert(scene_path, "enmap", tmp_path / "n.tif", options)
    planned = plan(scene_path, "enmap", tmp_path / "p.tif", options)
    grids = planned.scene.spectral, planned.spectral
    predictor = Predictor(planned.weights.network, *grids, window=32, error=error)
    with SceneReader(planned.scene, planned.grid) as reader:
        reflectance, valid = reader.read(0, 0, 70, 75)
    expected = quantise(predictor.reconstruct(reflectance, valid), valid)
    assert np.abs(read(made.output).astype(int) - expected).max() <= 1
    linear = convert(scene_path, "enmap", tmp_path / "l.tif", replace(options, model="linear", window_size=None))
    assert (read(linear.output) != read(made.output)).mean() > 0.5
    matrix = InputResidual(*grids).matrix
    squares = np.square(matrix @ (expected * SCALE)[:, ::8][:, valid[::8]] - reflectance[:, ::8][:, valid[::8]])
    assert made.residual["all"] == pytest.approx(np.sqrt(squares.mean()), rel=1e-3)


@pytest.mark.parametrize("known", ["site", "no errors"])
def test_network_of_patch_tokens_leaves_known_errors_to_the_linear_model(
    networks, adaptations, scene_path, tmp_path, known
):
    window, (adapted, _) = adaptations
    options = adapted[0] if known == "site" else replace(window, input_error="none")
    made = [
        read(convert(scene_path, "enmap", tmp_path / "c.tif", replace(options, model=model, overwrite=True)).output)
        for model in ("linear", networks["spatial-spectral"])
    ]
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("linear", 64, "linear converts each pixel alone; .* Leave --window-size out"),
        ("spectral", 64, "converts each patch alone"),
        ("spatial-spectral", 100, r"patches of 8 pixels; a multiple of 8 up to 1024 is needed. Use --window-size 96\."),
        ("spatial-spectral", 4, r"Use --window-size 8\."),
        ("spatial-spectral", 4096, r"Use --window-size 1024\."),
    ],
)
def test_window_size_that_a_model_cannot_use_is_refused(networks, scene_path, name, size, message):
    with pytest.raises(WeightsError, match=message):
        plan(scene_path, "enmap", "out.tif", ConvertOptions(model=networks.get(name, name), window_size=size))


def test_window_size_is_recorded(networks, scene_path, tmp_path):
    for size, expected in ((None, "128"), (16, "16")):
        options = ConvertOptions(model=networks["spatial-spectral"], window=(0, 0, 40, 40), window_size=size)
        made = convert(scene_path, "enmap", tmp_path / f"{size}.tif", options)
        with rasterio.open(made.output) as cube:
            assert cube.tags()["MS2HS_WINDOW_SIZE"] == expected


def test_bands_are_adjusted_by_gain_and_offset_of_the_weights(scene_path, tmp_path):
    lines = {"B03": (0.95, 0.004), "B8A": (1.05, -0.01)}
    prior = load_weights("linear").prior
    save_weights(tmp_path / "adjusting.safetensors", prior, {}, adjustments={"sentinel2a": lines, "sentinel2b": {}})
    options = ConvertOptions(model=str(tmp_path / "adjusting.safetensors"), window=(0, 0, 40, 50))
    made = convert(scene_path, "enmap", tmp_path / "a.tif", options)
    plain = convert(scene_path, "enmap", tmp_path / "b.tif", replace(options, adjust=False))
    linear = convert(scene_path, "enmap", tmp_path / "c.tif", replace(options, model="linear", input_error="none"))
    np.testing.assert_array_equal(read(plain.output), read(linear.output))
    assert any("B8A 1.050 -0.0100" in note for note in made.notes)
    assert not any("adjusted" in note for note in plain.notes)
    with rasterio.open(scene_path) as scene:
        dn = scene.read(window=((0, 40), (0, 50)))
    source = load_sensor("sentinel2a").grid
    x, valid = dn.astype(np.float32) * np.float32(1e-4), (dn != 0).all(axis=0)
    for name, (gain, offset) in lines.items():
        band = source.names.index(name)
        x[band] = gain * x[band] + offset
    expected = prior.condition(source, load_sensor("enmap").grid).reconstruct(x)
    np.testing.assert_allclose(read(made.output)[:, valid] * SCALE, expected[:, valid], atol=0.52 * SCALE)


def test_calibrated_network_writes_its_uncertainty(networks, scene_path, tmp_path):
    weights = load_weights(networks["spectral"])
    prior = weights.prior
    path = tmp_path / "sure.safetensors"
    save_weights(path, prior, {}, weights.network, sigma_scale=2 * prior.sigma_scale)
    options = ConvertOptions(model=str(path), window=(0, 0, 40, 50), uncertainty=True, input_error="none")
    found = read(convert(scene_path, "enmap", tmp_path / "n.tif", options).sigma)
    save_weights(tmp_path / "prior.safetensors", prior, {})
    options = replace(options, model=str(tmp_path / "prior.safetensors"))
    linear = read(convert(scene_path, "enmap", tmp_path / "l.tif", options).sigma)
    known = linear != NODATA
    np.testing.assert_allclose(found[known], 2.0 * linear[known], atol=1.01)
    with pytest.raises(WeightsError, match="no uncertainty calibrated on held-out scenes"):
        plan(scene_path, "enmap", tmp_path / "x.tif", replace(options, model=networks["spectral"]))


def test_unknown_device_is_refused_and_leaves_no_file(networks, scene_path, tmp_path):
    with pytest.raises(UnknownName, match="auto, cpu"):
        convert(scene_path, "enmap", tmp_path / "n.tif", ConvertOptions(model=networks["spectral"], device="tpu"))
    assert list(tmp_path.iterdir()) == []


def test_real_vegetation_has_its_spectral_features(real_data, tmp_path):
    nm = load_sensor("enmap").grid.wavelength_nm
    for stem, options in (
        ("aquileia_L2A_20190416", ConvertOptions(window=(100, 500, 100, 200))),
        ("rstoolbox_sen2_L2A_rawDN_with_offset", ConvertOptions(dn_offset=-1000)),
    ):
        made = convert(real_data / "sentinel2" / f"{stem}.tif", "enmap", tmp_path, options)
        assert not any("+0.1" in note for note in made.notes)
        spectra = open_cube(made.output).reflectance.values.reshape(202, -1)
        red, nir = spectra[np.abs(nm - 670).argmin()], spectra[np.abs(nm - 860).argmin()]
        green = spectra[:, ((nir - red) / (nir + red) > 0.8) & (nir > 0.2)]
        assert green.shape[1] > 500
        for spectrum in (green.mean(axis=1), green[:, 0]):
            inside = (nm > 600) & (nm < 850)
            edge = nm[inside][np.gradient(spectrum[inside], nm[inside]).argmax()]
            assert 700 <= edge <= 740
            at = {x: spectrum[np.abs(nm - x).argmin()] for x in (450, 550, 670, 860, 1650, 2200)}
            assert at[550] > max(at[450], at[670])  # green peak
            assert at[860] > at[1650] > at[2200]  # leaf water


def test_uncorrected_offset_is_reported(real_data, tmp_path):
    path = real_data / "sentinel2" / "rstoolbox_sen2_L2A_rawDN_with_offset.tif"
    made = convert(path, "enmap", tmp_path)
    assert any("--offset -0.1" in note for note in made.notes)


@pytest.mark.slow
def test_every_real_scene_converts(real_data, tmp_path):
    for path in sorted((real_data / "sentinel2").glob("*.tif")):
        options = ConvertOptions(source="hls_l30") if path.name.startswith("hls_L30") else ConvertOptions()
        for target, bands in (("enmap", 202), ("emit", 240)):
            made = convert(path, target, tmp_path, options)
            valid, errors, warnings = cog_validate(made.output, strict=True, quiet=True)
            assert (valid, errors, warnings) == (True, [], []), path.name
            with rasterio.open(made.output) as cube, rasterio.open(path) as scene:
                assert cube.count == bands
                assert (cube.crs, cube.shape) == (scene.crs, scene.shape)
                assert cube.transform.almost_equals(scene.transform)
                assert all("CENTRAL_WAVELENGTH_UM" in cube.tags(i, ns="IMAGERY") for i in cube.indexes)
            for left in made.paths:
                left.unlink()
        if path.name.startswith("hls_L30"):
            with pytest.raises(SceneError, match="hls_l30"):
                convert(path, "enmap", tmp_path)
