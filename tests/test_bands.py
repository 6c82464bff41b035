"""Names of bands as other tools write them: read, or refused with an option that decides."""

import re
from itertools import product

import numpy as np
import pytest
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.errors import SceneError
from ms2hs.raster.header import Wavelength
from ms2hs.scenes.bands import canonical, check_user_names, match_wavelengths, name_bands, read_names
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions
from ms2hs.spectra.sensors import load_sensor, sensor_names

words = str.split
MIXED = dn_of([LEAVES, WATER, SAND])
TEN = tuple(words("B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"))
ELEVEN = tuple(name for name in S2_BANDS if name != "B09")
OLI = tuple(f"B{i}" for i in range(1, 8))
COMMON = words("coastal blue green red rededge1 rededge2 rededge3 nir nir08 nir09 swir16 swir22")
TELLING = {"sentinel2a": "S2A_x.tif", "landsat8": "LC08_x.tif", "landsat9": "LC09_x.tif", "hls_l30": "HLSL30_x.tif"}
STACKS = {
    # tool: (sensor, its bands, names in the file)
    "GEE": ("sentinel2a", S2_BANDS, words("B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12")),
    "GEE composite": ("sentinel2a", TEN, [f"{name}_median" for name in TEN]),
    "GDAL": ("sentinel2a", TEN, [f"{name}, central wavelength 500 nm" for name in TEN]),
    "GDAL long names": ("sentinel2a", TEN, [f"Band {i}: {name}" for i, name in enumerate(TEN, 1)]),
    "ENVI layer stack": ("sentinel2a", TEN, [f"Resize (Band 1:T32TNT_20240601_{name}_10m.jp2)" for name in TEN]),
    "Sen2Cor files": ("sentinel2a", S2_BANDS, [f"S2A_T32TNT_20240601T102021_{name}_20m" for name in S2_BANDS]),
    "openEO": ("sentinel2a", TEN, [f"{i}_{name}" for i, name in enumerate(TEN)]),
    "xarray": ("sentinel2a", TEN, [f"reflectance_{name}" for name in TEN]),
    "lower case": ("sentinel2a", S2_BANDS, [name.lower() for name in S2_BANDS]),
    "with nm": ("sentinel2a", TEN, [f"B{name[1:].lstrip('0')} (490 nm)" for name in TEN]),
    "THEIA": ("sentinel2a", TEN, [f"SENTINEL2A_2018_L2A_T33UUP_C_V2-2_FRE_B{name[1:].lstrip('0')}" for name in TEN]),
    "bare numbers": ("sentinel2a", TEN, [name[1:].lstrip("0") for name in TEN]),
    "numbers and colours": ("sentinel2a", ("B01", *TEN), ["B01 - Coastal aerosol", *map("{} - {}".format, TEN, (
        "Blue", "Green", "Red", "Red edge 1", "Red edge 2", "Red edge 3", "NIR", "NIR narrow", "SWIR 1", "SWIR 2"))]),
    "FORCE": ("sentinel2a", TEN, words("BLUE GREEN RED REDEDGE1 REDEDGE2 REDEDGE3 BROADNIR NIR SWIR1 SWIR2")),
    "FORCE time series": ("sentinel2a", TEN, words("BLU GRN RED RE1 RE2 RE3 BNR NIR SW1 SW2")),
    "Earth Search": ("sentinel2a", S2_BANDS, COMMON),
    "STAC 1.1": ("sentinel2a", TEN, words("blue green red rededge071 rededge075 rededge078 nir nir08 swir16 swir22")),
    "DEA": ("sentinel2a", ELEVEN, [f"nbart_{name}" for name in words(
        "coastal_aerosol blue green red red_edge_1 red_edge_2 red_edge_3 nir_1 nir_2 swir_2 swir_3")]),
    "DE Africa": ("sentinel2a", ELEVEN, words(
        "coastal_aerosol blue green red red_edge_1 red_edge_2 red_edge_3 nir_1 nir_2 swir_1 swir_2")),
    "TerraTorch": ("sentinel2a", S2_BANDS, words("COASTAL_AEROSOL BLUE GREEN RED RED_EDGE_1 RED_EDGE_2 RED_EDGE_3 "
        "NIR_BROAD NIR_NARROW WATER_VAPOR SWIR_1 SWIR_2")),
    "GEE Landsat": ("landsat8", OLI, [f"SR_{name}" for name in OLI]),
    "GEE Landsat, old": ("landsat8", OLI, list(OLI)),
    "ESPA": ("landsat8", OLI, [f"sr_band{i}" for i in range(1, 8)]),
    "USGS files": ("landsat9", OLI, [f"LC09_L2SP_193024_20220615_02_T1_SR_{name}" for name in OLI]),
    "USGS titles": ("landsat8", OLI, ["Band 1 - Coastal aerosol", "Band 2 - Blue", "Band 3 - Green", "Band 4 - Red",
        "Band 5 - Near Infrared (NIR)", "Band 6 - SWIR 1", "Band 7 - SWIR 2"]),
    "STAC Landsat": ("landsat8", OLI, words("coastal blue green red nir08 swir16 swir22")),
    "FORCE Landsat": ("landsat9", OLI[1:], words("BLUE GREEN RED NIR SWIR1 SWIR2")),
    "DEA Landsat": ("landsat8", OLI[1:], [f"nbart_{name}" for name in words("blue green red nir swir_1 swir_2")]),
    "Prithvi": ("hls_l30", tuple(f"B{i:02d}" for i in range(2, 8)), words("BLUE GREEN RED NIR_NARROW SWIR_1 SWIR_2")),
    "HLS L30": ("hls_l30", tuple(f"B{i:02d}" for i in range(1, 8)), [f"B{i:02d}" for i in range(1, 8)]),
}  # fmt: skip


def names_of(scene):
    return tuple(asset.name for asset in scene.assets)


def write(path, names, **choices):
    values = np.resize(MIXED, (len(names), *MIXED.shape[1:])) + np.arange(len(names), dtype=np.uint16)[:, None, None]
    return str(write_raster(path, values, descriptions=names, **choices))


def remedies_in(error):
    """The options in a message: every value of `--bands` with every source."""
    text = str(error.value)
    bands = [tuple(value.rstrip(".").split(",")) for value in re.findall(r"--bands ([\w,-]+)", text)]
    listed = re.findall(r"--source ((?:\w+(?:, | or )?)+)", text)
    sources = [name for names in listed for name in re.findall(r"\w+", names) if name in sensor_names("source")]
    return [SceneOptions(source=source, bands=order) for order, source in product(bands or [None], sources or [None])]


# --- names that are read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", STACKS)
def test_geotiff_reads_the_names_of_tools(tmp_path, tool):
    source, bands, texts = STACKS[tool]
    scene = open_scene(write(tmp_path / TELLING[source], texts))
    assert (scene.source, names_of(scene)) == (source, bands)


@given(data=st.data(), tool=st.sampled_from(sorted(STACKS)))
@settings(max_examples=60, deadline=None)
def test_names_are_read_in_any_order(data, tool):
    source, bands, texts = STACKS[tool]
    order = data.draw(st.permutations(range(len(texts))))
    assert name_bands([texts[i] for i in order], source) == [canonical(bands[i], source) for i in order]


@pytest.mark.parametrize(
    "extra",
    [
        ["SCL"], ["QA_PIXEL", "SR_QA_AEROSOL"], [None], ["WVP, Scene-average Water Vapour map"], ["MSK_CLASSI_CIRRUS"],
        ["NDVI"], ["B08_B04_ratio"], ["AOT, Aerosol Optical Thickness map (at 550nm)"], ["WVP"], ["cloud_mask_red"],
        ["view_zenith_B2", "sun_azimuth"], [f"{name}_std" for name in TEN], ["QA60", "MSK_CLDPRB", "TCI_R", "TCI_G"],
    ],
)  # fmt: skip
def test_other_layers_are_no_bands(tmp_path, extra):
    scene = open_scene(write(tmp_path / "S2A_x.tif", [*TEN, *extra]))
    assert names_of(scene) == TEN


def test_user_names_may_be_common_names(tmp_path):
    path = write(tmp_path / "S2A_x.tif", [""] * 10)
    texts = words("blue green red rededge1 rededge2 rededge3 nir nir08 swir16 swir22")
    assert names_of(open_scene(path, SceneOptions(bands=tuple(texts)))) == TEN
    assert check_user_names(["1", "2", "3", "4", "5", "6", "-"], "landsat8", "x") == [
        *(f"B0{i}" for i in range(1, 7)),
        None,
    ]


# --- names that name nothing ------------------------------------------------------------------------------------

COUNTING = ["Band {}", "band_{}", "Band_{}", "B{}", "b{}", "{}", "Band {} (stack.tif)", "Layer_{}", "lyr.{}", "B{:02d}"]


@pytest.mark.parametrize("style", COUNTING)
@pytest.mark.parametrize(
    ("count", "name", "order"), [(12, "x.dat", S2_BANDS), (11, "x.dat", ELEVEN), (10, "S2A_x.dat", TEN)]
)
def test_numbers_of_bands_are_refused_with_the_usual_order(tmp_path, style, count, name, order):
    for start in (0, 1):
        path = write(tmp_path / name, [style.format(i + start) for i in range(count)], driver="ENVI")
        with pytest.raises(SceneError, match=r"names .* required\. .*--bands") as error:
            open_scene(path)
        assert "level 1C" not in str(error.value)
        for options in remedies_in(error):
            assert names_of(open_scene(path, options)) == order


@pytest.mark.parametrize("style", ["Band {}", "band_{}", None])
@pytest.mark.parametrize(("count", "order"), [(7, OLI), (6, OLI[1:])])
@pytest.mark.parametrize("name", ["LC08_L2SP_193024_20220615_02_T1.tif", "LC09_x.tif", "x.tif"])
def test_numbers_of_landsat_bands_are_refused_with_the_usual_order(tmp_path, style, count, order, name):
    path = write(tmp_path / name, [style.format(i + 1) if style else None for i in range(count)])
    with pytest.raises(SceneError, match=r"--bands") as error:
        open_scene(path)
    options = remedies_in(error)
    assert len(options) == (3 if name == "x.tif" else 1)
    for one in options:
        canonical_names = tuple(canonical(text, "landsat8") for text in names_of(open_scene(path, one)))
        assert canonical_names == tuple(canonical(text, "landsat8") for text in order)


def test_numbers_of_bands_with_wavelengths_are_read_by_wavelength(tmp_path):
    grid = load_sensor("sentinel2a").grid
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{nm / 1000:.4f}"} for nm in grid.wavelength_nm]
    path = write(tmp_path / "x.tif", [f"Band {i}" for i in range(1, 13)], band_tags={"IMAGERY": tags})
    assert names_of(open_scene(path)) == S2_BANDS


@pytest.mark.parametrize("count", [2, 3, 8, 14, 16])
def test_bands_without_names_and_without_usual_order_require_names(tmp_path, count):
    for style in ("Band {}", "{}", "B{}"):
        with pytest.raises(SceneError, match=f"of {count} bands are recognised .* required .*--bands") as error:
            open_scene(write(tmp_path / "x.tif", [style.format(i) for i in range(1, count + 1)]))
        assert "level 1C" not in str(error.value)


def test_other_layers_beside_numbers_are_skipped_in_the_usual_order(tmp_path):
    path = write(tmp_path / "S2A_x.tif", [*(f"Band {i}" for i in range(1, 11)), "SCL", "dataMask"])
    with pytest.raises(SceneError, match=rf"--bands {','.join(TEN)},-,-\.") as error:
        open_scene(path)
    assert names_of(open_scene(path, remedies_in(error)[0])) == TEN


@pytest.mark.parametrize("style", [None, "Band {}", "B{}"])
def test_thirteen_unnamed_bands_are_level_1c_or_have_a_mask(tmp_path, style):
    path = write(tmp_path / "S2A_x.tif", [style and style.format(i) for i in range(1, 14)])
    with pytest.raises(SceneError, match="With B10 they are level 1C") as error:
        open_scene(path)
    assert len(open_scene(path, remedies_in(error)[0]).assets) == 12


@pytest.mark.parametrize(
    "name", ["S2A_33UUP_20240607_0_L1C.tif", "L1C_T33UUP_A025900_20240607T101559.tif", "s2_l1c.tif"]
)
def test_level_1c_in_a_name_is_refused(tmp_path, name):
    with pytest.raises(SceneError, match="level 1C"):
        open_scene(write(tmp_path / name, TEN))


def test_level_1c_in_descriptions_is_refused(tmp_path):
    with pytest.raises(SceneError, match="level 1C"):
        open_scene(write(tmp_path / "x.tif", [f"L1C_{name}" for name in TEN]))
    assert names_of(open_scene(write(tmp_path / "S2_L2A_from_L1C.tif", TEN))) == TEN


def test_user_names_that_contradict_the_file_are_said(tmp_path):
    path = write(tmp_path / "S2A_x.tif", TEN)
    (note,) = open_scene(path, SceneOptions(bands=tuple(TEN[::-1]))).notes
    assert note.startswith("warning: The names of --bands contradict the file's")
    assert open_scene(path, SceneOptions(bands=tuple(TEN))).notes == ()


def test_first_names_of_landsat_are_refused_with_both_readings(tmp_path):
    path = write(tmp_path / "LC08_x.tif", OLI[:6])
    with pytest.raises(SceneError, match="only counts them") as error:
        open_scene(path)
    assert [names_of(open_scene(path, options)) for options in remedies_in(error)] == [OLI[1:], OLI[:6]]


@pytest.mark.parametrize(
    "texts",
    ["Coastal Blue Green Yellow Red RedEdge NIR1 NIR2", "blue green red nir"],
)
def test_sensors_with_few_bands_are_refused_without_a_proposal(tmp_path, texts):
    with pytest.raises(
        SceneError, match=r"at least 10 of .* are required.*(Use a file with the missing bands|--bands)"
    ):
        open_scene(write(tmp_path / "x.tif", words(texts)))


def test_many_bands_without_wavelengths_are_refused_as_a_cube(tmp_path):
    with pytest.raises(SceneError, match=r"200 bands without wavelengths.*--source asd-fieldspec"):
        open_scene(write(tmp_path / "x.tif", words("SWIR " * 200)))


@pytest.mark.parametrize("extra", [["Red", "Green"], ["B02_20m", "SCL", "B8A_20m"]])
def test_repeated_bands_are_refused_with_the_first_of_each(tmp_path, extra):
    path = write(tmp_path / "S2A_x.tif", [*TEN, *extra])
    with pytest.raises(SceneError, match="appear twice") as error:
        open_scene(path)
    assert names_of(open_scene(path, remedies_in(error)[0])) == TEN


@pytest.mark.parametrize("texts", ["blue green red nir swir1 swir2", "B2 B3 B4 B5 B6 B7"])
def test_user_names_of_landsat_without_source_name_it(tmp_path, texts):
    path = write(tmp_path / "x.tif", [None] * 6)
    with pytest.raises(SceneError, match="--source hls_l30, landsat8 or landsat9"):
        open_scene(path, SceneOptions(bands=tuple(words(texts))))
    assert len(open_scene(path, SceneOptions(bands=tuple(words(texts)), source="landsat9")).assets) == 6


@pytest.mark.parametrize("texts", ["blue green red nir swir1 swir2", "B2 B3 B4 B5 B6 B7"])
def test_file_of_sentinel2_is_not_proposed_as_landsat(tmp_path, texts):
    with pytest.raises(SceneError, match="at least 10 of") as error:
        open_scene(write(tmp_path / "S2A_x.tif", words(texts)))
    assert "landsat" not in str(error.value)


# --- names with two readings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "meanings"),
    [
        ("coastal blue green red re1 re2 re3 nir swir1 swir2", {"nir": ("B08", "B8A")}),
        ("blue green red rededge1 rededge2 rededge3 nir_1 nir_2 nir09 coastal swir_2", {"swir_2": ("B11", "B12")}),
        ("coastal blue green red rededge1 rededge2 rededge3 nir08 nir swir swir22", {}),
    ],
)
def test_names_with_two_meanings_are_refused_with_both(tmp_path, texts, meanings):
    path = write(tmp_path / "S2A_x.tif", texts.split())
    if not meanings:
        assert len(open_scene(path).assets) == 11
        return
    with pytest.raises(SceneError, match="different bands") as error:
        open_scene(path)
    for text, names in meanings.items():
        assert f"{text} is {names[0]} or {names[1]}" in str(error.value)
        options = remedies_in(error)
        position = texts.split().index(text)
        assert {names_of(open_scene(path, one))[position] for one in options} == set(names)


@pytest.mark.parametrize("tool", [tool for tool, stack in STACKS.items() if stack[0] != "sentinel2a"])
def test_names_of_landsat_in_a_file_without_source_name_it(tmp_path, tool):
    path = write(tmp_path / "x.tif", [text.removeprefix("LC09_L2SP_") for text in STACKS[tool][2]])
    with pytest.raises(SceneError, match="--source hls_l30, landsat8 or landsat9") as error:
        open_scene(path)
    for options in remedies_in(error):
        bands = tuple(canonical(text, "landsat8") for text in names_of(open_scene(path, options)))
        assert bands == tuple(canonical(text, "landsat8") for text in STACKS[tool][1])


@pytest.mark.parametrize("source", ["landsat8", "landsat9", "hls_l30"])
def test_names_of_sentinel2_are_not_landsats(tmp_path, source):
    path = write(tmp_path / "x.tif", S2_BANDS)
    with pytest.raises(SceneError, match="Sentinel-2's numbering") as error:
        open_scene(path, SceneOptions(source=source))
    for options in remedies_in(error):
        assert len(open_scene(path, options).assets) >= 11


def test_a_number_that_contradicts_the_name_is_not_read():
    assert read_names(["B05 - NIR", "B8A - NIR", "B05 - Red Edge 1", "B8A - Blue"], "sentinel2a") == [
        frozenset(), {"B8A"}, {"B05"}, frozenset(),
    ]  # fmt: skip


def test_names_that_contradict_wavelengths_are_refused(tmp_path):
    grid = load_sensor("sentinel2a").grid
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{nm / 1000:.4f}"} for nm in grid.wavelength_nm]
    swapped = ["B02", "B01", *S2_BANDS[2:10], "B12", "B11"]
    path = write(tmp_path / "S2A_x.tif", swapped, band_tags={"IMAGERY": tags})
    with pytest.raises(SceneError, match="disagree") as error:
        open_scene(path)
    by_wavelength, by_name = (open_scene(path, options) for options in remedies_in(error))
    assert (names_of(by_wavelength), names_of(by_name)) == (S2_BANDS, tuple(swapped))
    assert any("contradict" in note for note in by_name.notes)
    assert not any("contradict" in note for note in by_wavelength.notes)


def test_cirrus_band_is_refused_as_level_1c(tmp_path):
    names = [*STACKS["TerraTorch"][2][:10], "CIRRUS", "SWIR_1", "SWIR_2"]
    with pytest.raises(SceneError, match="level 1C"):
        open_scene(write(tmp_path / "x.tif", names))


# --- bands in a file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("B02", "B02"), ("b2", "B02"), ("B8A", "B8A"), ("b08a", "B8A"), ("B02 490 nm", "B02"), ("Band 11", "B11"),
        ("band_4 (665 nm)", "B04"), ("T32TNT_20240601T102021_B12_20m", "B12"), ("S2A_B8A", None), ("rededge1", "B05"),
        ("NIR08", "B8A"), ("B001", None), ("B043 650.1 nm", None), ("NDVI", None), ("", None), ("SCL", None),
    ],
)  # fmt: skip
def test_canonical_finds_the_band_name_in_a_description(text, name):
    found = canonical(text, "sentinel2a")
    assert found == (name if text != "S2A_B8A" else "B8A")


@given(st.permutations(range(12)), st.sampled_from(["sentinel2a", "sentinel2b", "sentinel2c"]))
@settings(max_examples=30, deadline=None)
def test_match_wavelengths_works_in_any_order(order, source):
    grid = load_sensor(source).grid
    found = [Wavelength(float(grid.wavelength_nm[i]), float(grid.fwhm_nm[i])) for i in order]
    # Whichever of the three took the scene, sentinel2a's table finds the same bands.
    assert match_wavelengths(found, "sentinel2a") == [grid.names[i] for i in order]


def test_match_wavelengths_accepts_nominal_centres():
    nominal = [443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1610, 2190]
    assert match_wavelengths([Wavelength(nm, None) for nm in nominal], "sentinel2a") == list(S2_BANDS)


@pytest.mark.parametrize("style", ["B{}", "b{}", "Band {}", "{} reflectance of B{}"])
def test_geotiff_identifies_bands_by_description(tmp_path, style):
    short = [name[0] + name[1:].lstrip("0") for name in S2_BANDS]
    texts = [style.format(name[1:], name[1:]) for name in short]
    scene = open_scene(str(write_raster(tmp_path / "x.tif", MIXED, descriptions=texts)))
    assert names_of(scene) == S2_BANDS
    assert scene.spectral.names == S2_BANDS


def test_geotiff_keeps_the_band_order_of_the_file(tmp_path):
    order = [8, 2, 11, 0, 1, 3, 4, 5, 6, 7, 9, 10]
    names = tuple(S2_BANDS[i] for i in order)
    scene = open_scene(str(write_raster(tmp_path / "x.tif", MIXED[order], descriptions=names)))
    assert names_of(scene) == names
    with SceneReader(scene, scene.grid) as reader:
        reflectance = reader.read(0, 0, scene.grid.height, scene.grid.width)[0]
    assert np.array_equal(reflectance, MIXED[order].astype(np.float32) * np.float32(1e-4))


def test_geotiff_identifies_bands_by_imagery_wavelengths(tmp_path):
    grid = load_sensor("sentinel2b").grid
    tags = [
        {"CENTRAL_WAVELENGTH_UM": f"{nm / 1000:.5f}", "FWHM_UM": f"{width / 1000:.5f}"}
        for nm, width in zip(grid.wavelength_nm, grid.fwhm_nm, strict=True)
    ]
    scene = open_scene(str(write_raster(tmp_path / "S2B_x.tif", MIXED, band_tags={"IMAGERY": tags})))
    assert (scene.source, names_of(scene)) == ("sentinel2b", S2_BANDS)


def test_geotiff_takes_the_users_band_names_in_file_order(tmp_path):
    values = np.concatenate([MIXED[:1] * 0 + 7, MIXED])
    path = str(write_raster(tmp_path / "x.tif", values))
    scene = open_scene(path, SceneOptions(bands=("-", *S2_BANDS)))
    assert names_of(scene) == S2_BANDS
    assert [asset.band for asset in scene.assets] == list(range(2, 14))
    assert "not used: 1" in " ".join(scene.notes)
    with pytest.raises(SceneError, match="12 names for 13 bands"):
        open_scene(path, SceneOptions(bands=S2_BANDS))
    with pytest.raises(SceneError, match=r"red; names such as B02|has teal"):
        open_scene(path, SceneOptions(bands=("teal", *S2_BANDS)))
    with pytest.raises(SceneError, match="twice: B02"):
        open_scene(path, SceneOptions(bands=("B02", *S2_BANDS)))


def test_geotiff_requires_ten_sentinel2_bands(tmp_path):
    path = write_raster(tmp_path / "ten.tif", MIXED[:10], descriptions=S2_BANDS[:10])
    assert len(open_scene(str(path)).assets) == 10
    path = write_raster(tmp_path / "nine.tif", MIXED[:9], descriptions=S2_BANDS[:9])
    with pytest.raises(SceneError, match=r"9 of 9 bands .*at least 10 of .*missing: B09, B11, B12"):
        open_scene(str(path))
    path = write_raster(tmp_path / "rgb.tif", MIXED[:3])
    with pytest.raises(SceneError, match=r"0 of 3 bands .*\(none\).*--bands"):
        open_scene(str(path))


def test_geotiff_with_other_wavelengths_is_custom(tmp_path):
    nm = [450, 550, 660, 830, 1640, 2600]
    tags = [{"wavelength": str(value), "wavelength_units": "Nanometers"} for value in nm]
    scene = open_scene(str(write_raster(tmp_path / "x.tif", MIXED[:6], band_tags={"": tags})))
    assert scene.source == "custom"
    assert scene.wavelength_nm == (450, 550, 660, 830, 1640)
    assert len(scene.fwhm_nm) == 5
    assert all(width > 0 for width in scene.fwhm_nm)
    assert "not used: 6" in " ".join(scene.notes)
    assert len(scene.spectral) == 5


def test_geotiff_does_not_mistake_a_hyperspectral_cube_for_sentinel2(tmp_path):
    """Bands named `Band 1` ... whose wavelengths contradict the names, some near each Sentinel-2 band."""
    nm = np.linspace(420, 2450, 200)
    cube = np.full((200, 3, 4), 2000, np.uint16)
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{value / 1000:.4f}", "FWHM_UM": "0.010"} for value in nm]
    names = [f"Band {i}" for i in range(1, 201)]
    scene = open_scene(str(write_raster(tmp_path / "c.tif", cube, descriptions=names, band_tags={"IMAGERY": tags})))
    assert (scene.source, len(scene.assets)) == ("custom", 200)
    assert scene.fwhm_nm == pytest.approx([10.0] * 200)


L30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B10", "B11")


def test_landsat_numbering_requires_a_source(tmp_path):
    path = str(write_raster(tmp_path / "hls_L30_chip.tif", MIXED[:10], descriptions=L30))
    with pytest.raises(SceneError, match="--source hls_l30"):
        open_scene(path)
    scene = open_scene(path, SceneOptions(source="hls_l30"))
    assert names_of(scene) == L30[:7]
    assert names_of(open_scene(path, SceneOptions(source="landsat8"))) == tuple(f"B{i}" for i in range(1, 8))
    with pytest.raises(SceneError, match="--source hls_l30"):
        open_scene(str(write_raster(tmp_path / "oli.tif", MIXED[:7], descriptions=L30[:7])))
