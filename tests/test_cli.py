"""The command line: paths on stdout, one clear message for bad input, no partial file."""

import json
import os
import re
import shutil
import stat

import numpy as np
import pytest
import rasterio

from ms2hs.cli.parsers import join_numbers, name_evaluation
from ms2hs.datasets.cubes.registry import FORMATS


def test_convert_prints_the_paths(ms2hs, scene_path, tmp_path):
    code, out, err = ms2hs("convert", scene_path, "--target", "emit", "-o", tmp_path / "a.tif", "--uncertainty")
    assert code == 0, err
    assert out.splitlines() == [str(tmp_path / name) for name in ("a.tif", "a_sigma.tif", "a.png", "a.qml", "a.json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png", "a.qml", "a.tif", "a_sigma.tif"]
    assert "sentinel2a to emit, model spatial-spectral" in err


def test_convert_prints_only_json_with_json_and_quiet(ms2hs, scene_path, tmp_path):
    code, out, err = ms2hs("convert", scene_path, "-o", tmp_path, "--json", "-q")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert made["output"] == str(tmp_path / "plain_enmap.tif")
    assert made["counts"]["valid"] > 0


def test_dry_run_prints_the_plan_and_writes_nothing(ms2hs, scene_path, tmp_path):
    code, out, _ = ms2hs("convert", scene_path, "-o", tmp_path, "--dry-run", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["bands"] == 202
    assert facts["output_bytes_uncompressed"] == 202 * 230 * 310 * 2
    assert facts["rows_at_a_time"] == 128  # a row of blocks
    assert list(tmp_path.iterdir()) == []
    assert "disk_bytes_peak: " in ms2hs("convert", scene_path, "-o", tmp_path, "--dry-run")[1]


def test_info_lists_and_describes(ms2hs):
    code, out, _ = ms2hs("info", "--json")
    assert code == 0
    found = json.loads(out)
    assert "sentinel2b" in found["sources"]
    assert "emit-285" in found["targets"]
    assert "linear" in found["weights"]
    assert "HLS S30" in ms2hs("info")[1]
    assert json.loads(ms2hs("info", "linear", "--json")[1])["sha256"]
    assert "2445.5 nm, FWHM 7.2 nm" in ms2hs("info", "enmap")[1]
    assert ms2hs("info", "nothing")[0] == 2


def test_info_lists_every_data_format(ms2hs):
    listed = json.loads(ms2hs("info", "--json")[1])["data_formats"]
    assert listed == {data_format.name: data_format.layout for data_format in FORMATS}
    lines = ms2hs("info")[1].partition("data_formats:\n")[2].splitlines()
    assert [line.split("  ", 2)[1] for line in lines] == list(listed)
    assert all(line.endswith(f"  {layout}") for line, layout in zip(lines, listed.values(), strict=True))


def test_example_writes_a_scene(ms2hs, tmp_path):
    code, out, _ = ms2hs("example", tmp_path / "e.tif")
    assert (code, out.strip()) == (0, str(tmp_path / "e.tif"))
    assert ms2hs("example", tmp_path / "e.tif")[0] == 1
    assert ms2hs("example", tmp_path / "e.jp2")[0] == 1


def test_bbox_is_accepted_with_commas_or_blanks():
    assert join_numbers(["--bbox", "-1.5", "47", "-1", "48", "x.tif"]) == ["--bbox=-1.5,47,-1,48", "x.tif"]
    assert join_numbers(["--bbox", "-1.5,47,-1,48", "-q"]) == ["--bbox=-1.5,47,-1,48", "-q"]
    assert join_numbers(["--bbox=1,2,3,4"]) == ["--bbox=1,2,3,4"]
    assert join_numbers(["a", "--window", "0", "0", "9", "9"]) == ["a", "--window=0,0,9,9"]


def _write(path, count=12, names=None, dtype="uint16", value=1200, **more):
    profile = {"driver": "GTiff", "dtype": dtype, "count": count, "height": 40, "width": 50, "crs": "EPSG:32633"}
    profile |= {"transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.8e6), "nodata": 0} | more
    with rasterio.open(path, "w", **profile) as scene:
        scene.write(np.full((count, 40, 50), value, dtype))
        if names:
            scene.descriptions = names
    return path


def _missing(folder, _scene):
    return [folder / "nothing.tif"], r"nothing\.tif"


def _text(folder, _scene):
    (folder / "notes.tif").write_text("not a raster\n")
    return [folder / "notes.tif"], r"notes\.tif"


def _few_bands(folder, _scene):
    return [_write(folder / "rgb.tif", 3, ("B04", "B03", "B02"))], "10"


def _unnamed_bands(folder, _scene):
    return [_write(folder / "unnamed.tif")], "--bands"


def _unknown_target(_folder, scene):
    return [scene, "--target", "hyperion"], "unknown sensor 'hyperion'; known: asd-fieldspec, desis"


def _target_outside(folder, scene):
    (folder / "far.csv").write_text("center_nm,fwhm_nm\n3000,10\n")
    return [scene, "--target", folder / "far.csv"], r"3000 nm; 370-2510 nm is allowed"


def _all_nodata(folder, _scene):
    from ms2hs.spectra.sensors import load_sensor

    names = load_sensor("sentinel2a").grid.names
    return [_write(folder / "empty.tif", 12, names, value=0)], "no valid pixel"


def _exists(folder, scene):
    (folder / "there.tif").write_text("mine")
    return [scene, "-o", folder / "there.tif"], "--overwrite"


def _no_directory(folder, scene):
    return [scene, "-o", folder / "nowhere" / "out.tif"], "nowhere"


def _truncated(folder, scene):
    whole = scene.read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 2])
    return [folder / "cut.tif"], r"cut\.tif"


def _not_weights(folder, scene):
    (folder / "w.safetensors").write_bytes(b"\x80\x04pickle")
    return [scene, "--model", folder / "w.safetensors"], "safetensors"


def _unknown_weights(_folder, scene):
    return [scene, "--model", "quadratic"], "linear"


def _no_band_there(_folder, scene):
    return [scene, "--wavelengths", "1400-1410"], "1400-1410 nm"


def _window_outside(_folder, scene):
    return [scene, "--window", "200,0,100,100"], "230 rows"


def _level_1c(folder, _scene):
    from ms2hs.spectra.sensors import load_sensor

    names = [*load_sensor("sentinel2a").grid.names, "B10"]
    return [_write(folder / "toa.tif", 13, names)], "(?i)surface reflectance"


def _bad_reference(folder, scene):
    (folder / "field.csv").write_text("id,lon,lat,500,600\na,,,35.0,36.0\n")
    return [scene, "--reference", folder / "field.csv"], "(?i)reflectance"


def _site_is_no_cube(folder, scene):
    return [scene, "--site", _write(folder / "x.tif", 3)], "(?i)wavelength"


CASES = [
    _missing, _text, _few_bands, _unnamed_bands, _unknown_target, _target_outside, _all_nodata, _exists, _no_directory,
    _truncated, _not_weights, _unknown_weights, _no_band_there, _window_outside, _level_1c, _bad_reference,
    _site_is_no_cube,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.strip("_"))
def test_convert_answers_bad_input_with_one_message_and_no_file(case, ms2hs, scene_path, tmp_path, monkeypatch):
    inputs, results = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    results.mkdir()
    words, expected = case(inputs, scene_path)
    before = {path: path.stat().st_mtime_ns for path in inputs.iterdir()}
    monkeypatch.chdir(results)
    code, out, err = ms2hs("convert", *words)
    assert code not in {0, None}
    assert out == ""
    message = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(message) == 1, err
    assert message[0].startswith("ms2hs: ")

    assert re.search(expected, message[0]), message[0]
    assert list(results.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in inputs.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_convert_names_a_read_only_directory(ms2hs, scene_path, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    code, _, err = ms2hs("convert", scene_path, "-o", locked / "out.tif")
    assert code == 1
    assert "locked" in err


def test_convert_refuses_too_little_space_before_it_writes(ms2hs, scene_path, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1_000_000))
    code, _, err = ms2hs("convert", scene_path, "-o", tmp_path / "out.tif")
    assert code == 1
    assert "free" in err
    assert list(tmp_path.iterdir()) == []


def test_interrupt_leaves_no_file(ms2hs, scene_path, tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ms2hs.conversion.pipeline.quantise", interrupted)
    code, out, _ = ms2hs("convert", scene_path, "-o", tmp_path / "out.tif", "--uncertainty")
    assert (code, out) == (130, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--bbox", "1,2,3"],
        ["--bbox", "a,b,c,d"],
        ["--gsd", "ten"],
        ["--gsd", "-10"],
        ["--wavelengths", "red"],
        ["--window", "1,2"],
        ["--input-error", "0.02"],
        ["--input-error=-0.02,0,0"],
        ["--no-such-option"],
    ],
)
def test_malformed_option_is_a_usage_error(ms2hs, scene_path, words):
    code, _, err = ms2hs("convert", scene_path, *words)
    assert code == 2
    assert "Traceback" not in err


def test_scene_without_crs_converts_with_a_note(ms2hs, scene_path, tmp_path):
    with rasterio.open(scene_path) as scene:
        dn, names = scene.read(), scene.descriptions
    path = tmp_path / "nowhere.tif"
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        _write_plain(path, dn, names)
    code, out, err = ms2hs("convert", path, "-o", tmp_path / "out.tif")
    assert code == 0, err
    assert "reference system" in err
    assert json.loads((tmp_path / "out.json").read_text())["geometry"] is None
    assert out


def _write_plain(path, dn, names):
    profile = {"driver": "GTiff", "dtype": dn.dtype, "count": len(dn), "height": dn.shape[1], "width": dn.shape[2]}
    with rasterio.open(path, "w", **profile, nodata=0) as scene:
        scene.write(dn)
        scene.descriptions = names


def test_recipe_gives_options_and_the_command_line_wins(ms2hs, tmp_path):
    recipe = tmp_path / "mine.toml"
    sizes = '["width=16", "heads=2", "depth=1"]'
    numbers = "simulated = 2\nsteps = 2\nbatch = 1\nwindow = 8\nseed = 5"
    recipe.write_text(f'preset = "spectral"\n{numbers}\nset = {sizes}\nleave-out = []\n')
    code, _, err = ms2hs("pretrain", "--recipe", recipe, "--seed", 7, "-o", tmp_path / "n.safetensors")
    assert code == 0, err
    from ms2hs.models.weights import load_weights

    settings = load_weights(str(tmp_path / "n.safetensors")).card["settings"]
    assert settings["fit"]["steps"] == 2
    assert settings["fit"]["seed"] == 7
    assert settings["changes"]["width"] == "16"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "cannot be read"),
        ("colour = 1", "colour"),
        ('recipe = "other.toml"', "no option 'recipe'"),
        (None, "cannot be read"),
    ],
)
def test_bad_recipe_is_one_message(text, said, ms2hs, tmp_path):
    recipe = tmp_path / "bad.toml"
    if text:
        recipe.write_text(text)
    code, _, err = ms2hs("pretrain", "--recipe", recipe)
    assert code == 1
    assert "Traceback" not in err
    assert said in err


def test_evaluate_accepts_the_data_as_an_option():
    assert name_evaluation(["evaluate", "--pairs", "p", "--json"]) == ["evaluate", "pairs", "p", "--json"]
    assert name_evaluation(["evaluate", "--model=m", "--pairs=p"]) == ["evaluate", "pairs", "p", "--model=m"]
    assert name_evaluation(["evaluate", "--corpus", "c", "-q"]) == ["evaluate", "corpus", "c", "-q"]
    assert name_evaluation(["evaluate", "--hidden", "0.5", "--corpus", "c"]) == [
        *("evaluate", "completion", "c", "--hidden", "0.5"),
    ]
    assert name_evaluation(["evaluate", "--cube", "a", "--truth", "b"]) == ["evaluate", "cube", "a", "--truth", "b"]
    for same in (["evaluate", "pairs", "p"], ["evaluate", "--help"], ["evaluate"], ["evaluate", "--pairs"], ["info"]):
        assert name_evaluation(same) == same


REFUSED = [
    "pretrain --preset linear --data DIR --steps 5",
    "pretrain --preset linear --data DIR --device cpu",
    "pretrain --preset spectral --split train",
    "pretrain --preset spectral --data DIR --cross-fit --resume",
    "finetune --pairs DIR --init linear --steps 5",
    "finetune --pairs DIR --source hls_s30",
    "finetune --pairs DIR --target enmap",
    "finetune --pairs DIR --corpus DIR",
    "finetune --pairs DIR --init spectral --train everything",
    "evaluate --cube a.tif --truth b.tif --model linear",
    "evaluate --corpus DIR --hidden 0.5 --source hls_s30",
    "evaluate --corpus DIR --hidden 0.5 --report a.html",
    "evaluate --pairs DIR --source hls_s30",
    "evaluate --pairs DIR --corpus DIR",
    "evaluate --corpus DIR --size 32",
    "fetch --bbox 1,2,3,4 --date 2024 --days 3",
    "fetch --bbox 1,2,3,4 --date 2024 --list --gsd 10",
    "fetch --bbox 1,2,3,4 --date 2024 --list --mosaic",
    "fetch --items found.json --sort date",
    "fetch --for a.zip --list",
    "convert a.tif b.tif --dry-run",
    "convert a.tif --workers 1 --scheduler tcp://127.0.0.1:1",
    "convert a.tif --model linear --device cpu",
]


@pytest.mark.parametrize("command", REFUSED)
def test_option_that_does_not_apply_is_refused(command, ms2hs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").mkdir()
    code, out, err = ms2hs(*command.split())
    assert (code, out) == (2, ""), err
    option = re.findall(r"--[a-z-]+", command)[-1]
    assert option in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["DIR"]


def test_evaluate_cube_needs_a_truth(ms2hs):
    code, _, err = ms2hs("evaluate", "--cube", "a.tif")
    assert code == 2
    assert "--truth" in err


def test_stderr_lines_begin_with_their_kind(ms2hs, scene_path, tmp_path):
    code, _, err = ms2hs("convert", scene_path, "-o", tmp_path / "a.tif", "--model", "linear")
    assert code == 0
    assert all(line.startswith(("note: ", "warning: ")) for line in err.splitlines()), err
