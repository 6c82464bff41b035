"""Faults of outputs: nothing that was there before is lost, whatever its place, and however its path is written."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import LEAVES, S2_BANDS, SAND, dn_of, write_raster
from rasterio.shutil import copy as copy_raster

from ms2hs.conversion import batch
from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions, cube_name
from ms2hs.conversion.staging import Staging
from ms2hs.errors import GridError, OutputError, SceneError
from ms2hs.files import atomic_write, check_output, file_ids, lock_folder, move_into_place, place_files, write_bytes
from ms2hs.models.weights import find_weights
from ms2hs.spectra.spectral_grid import grid_of, response_matrix

LINEAR = ("--model", "linear", "-q")


@pytest.fixture
def scene(tmp_path):
    """A scene of 24 by 30 pixels, the only file of its folder."""
    return write_raster(tmp_path / "in" / "scene.tif", dn_of([LEAVES, SAND], (24, 30)), descriptions=S2_BANDS)


def content(folder):
    """Digest of every file by its relative path."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(ms2hs, folder, *words, part):
    """The command ends with code 1 or 2 and a message that has this part; no file is changed or new."""
    before = content(folder)
    code, out, err = ms2hs(*words)
    assert (code in {1, 2}, out) == (True, ""), err
    assert part in " ".join(err.replace("│", " ").split()), err
    assert content(folder) == before


def second_name(path, way):
    """Another path of the same file."""
    other = path.with_name(f"other{path.suffix}")
    if way == "link":
        other.symlink_to(path)
    elif way == "hard link":
        other.hardlink_to(path)
    else:
        return path.parent / ".." / path.parent.name / path.name
    return other


@pytest.mark.parametrize("way", ["same", "link", "hard link"])
def test_convert_replaces_no_scene_under_any_name(ms2hs, scene, tmp_path, way):
    output = second_name(scene, way)
    refused(
        *(ms2hs, tmp_path, "convert", scene, *LINEAR, "-o", output, "--overwrite"), part="is an input of this command"
    )


@pytest.mark.parametrize("suffix", ["_sigma.tif", ".png", ".qml", ".json"])
def test_every_file_of_a_result_is_compared_with_the_inputs(ms2hs, scene, tmp_path, suffix):
    """The scene stands where another file of the result would be written."""
    weights = tmp_path / "in" / f"x{suffix}"
    weights.write_bytes(find_weights("linear").read_bytes())
    output = weights.with_name("x.tif")
    refused(
        *(ms2hs, tmp_path, "convert", scene, "--model", weights, "-o", output, "--uncertainty", "--overwrite"),
        part="is an input of this command",
    )


def test_convert_replaces_no_source_of_a_vrt(ms2hs, scene, tmp_path):
    copy_raster(str(scene), str(tmp_path / "in" / "stack.vrt"), driver="VRT")
    refused(
        *(ms2hs, tmp_path, "convert", tmp_path / "in" / "stack.vrt", *LINEAR, "-o", scene, "--overwrite"),
        part="is an input of this command",
    )


@pytest.mark.parametrize("option", ["--model", "--site", "--target"])
def test_convert_replaces_no_file_of_an_option(ms2hs, scene, tmp_path, option):
    cube = convert(scene, "enmap", tmp_path / "in" / "site.tif", ConvertOptions(model="linear")).output
    path = {"--model": tmp_path / "in" / "w.tif", "--site": cube, "--target": tmp_path / "in" / "t.csv"}[option]
    if option == "--model":
        path.write_bytes(find_weights("linear").read_bytes())
    if option == "--target":
        path.write_text("center_nm,fwhm_nm\n500,10\n600,10\n")
        (tmp_path / "in" / "x.tif").hardlink_to(path)
        words = ["--model", "linear", option, path, "-o", tmp_path / "in" / "x.tif"]
    else:
        words = [option, path, "-o", path, *([] if option == "--model" else ["--model", "linear"])]
    refused(ms2hs, tmp_path, "convert", scene, *words, "--overwrite", part="is an input of this command")


def test_batch_replaces_no_band_of_another_scene(ms2hs, scene, tmp_path):
    """The output of one scene is a source of another scene."""
    other = write_raster(tmp_path / "in" / "a.tif", dn_of([SAND], (24, 30)), descriptions=S2_BANDS)
    scene.rename(tmp_path / "in" / "a_enmap.tif")
    copy_raster(str(tmp_path / "in" / "a_enmap.tif"), str(tmp_path / "in" / "stack.vrt"), driver="VRT")
    before = content(tmp_path)
    code, _, err = ms2hs("convert", other, tmp_path / "in" / "stack.vrt", *LINEAR, "-o", tmp_path / "in", "--overwrite")
    assert code == 5
    assert "a_enmap.tif is an input of this command" in err
    assert {name: digest for name, digest in content(tmp_path).items() if name in before} == before


@pytest.mark.parametrize("suffix", [".tif", "_sigma.tif", ".png", ".json"])
@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_convert_replaces_no_file_of_others(ms2hs, scene, tmp_path, suffix, more):
    (tmp_path / f"r{suffix}").write_text("mine")
    (tmp_path / ".r.tif.part").mkdir()
    words = ("convert", scene, *LINEAR, "-o", tmp_path / "r.tif", "--uncertainty", *more)
    refused(ms2hs, tmp_path, *words, part="exists; it is replaced only on request. Use --overwrite")


@pytest.mark.parametrize("suffix", [".tif", "_sigma.tif", ".png", ".json"])
def test_file_that_appears_during_the_work_is_kept(scene, tmp_path, monkeypatch, suffix):
    """A file that is created after the check is not replaced, and no other file of the result stays."""
    late, publish = tmp_path / "out" / f"r{suffix}", Staging.publish
    late.parent.mkdir()

    def first_write(staging, names):
        late.write_text("mine")
        publish(staging, names)

    monkeypatch.setattr(Staging, "publish", first_write)
    with pytest.raises(OutputError, match="exists|was created in the meantime"):
        convert(scene, "enmap", tmp_path / "out" / "r.tif", ConvertOptions(model="linear", uncertainty=True))
    assert [(path.name, path.read_text()) for path in late.parent.iterdir()] == [(late.name, "mine")]


@pytest.mark.parametrize("special", ["device", "pipe", "link to a device", "folder"])
def test_output_that_is_no_regular_file_is_refused(tmp_path, special):
    path = tmp_path / "x.tif"
    if special == "pipe":
        os.mkfifo(path)
    elif special == "folder":
        path.mkdir()
    else:
        path.symlink_to(os.devnull)
    with pytest.raises(OutputError, match=r"is a device or a pipe|is a directory"):
        check_output(path, overwrite=True)
    if special != "folder":
        (tmp_path / "new").write_text("new")
        with pytest.raises(OutputError, match="is a device or a pipe"):
            move_into_place(tmp_path / "new", path)
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("name", ["x.png", "y.json", "x", "x.tif.gz", "x_sigma", "x.vrt", ".tif"])
def test_suffix_of_the_output_is_of_a_written_format(ms2hs, scene, tmp_path, name):
    refused(ms2hs, tmp_path, "convert", scene, *LINEAR, "-o", tmp_path / name, part=".dat, .hdr, .nc are allowed. Use")


def test_scene_name_cannot_choose_a_folder():
    """Ids from metadata with separators, control characters, or of 400 letters give plain, different names."""

    ids = ["../../x", "/etc/x", "a/b", "a:b", "a\x1b[2J", "..", "", "A" * 400, "A" * 399 + "B", "\udcff", "a\nb"]
    names = [cube_name(one, "enmap") for one in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert Path(name).name == name
        assert name.isprintable()
        assert not name.startswith(".")
        assert len(name.encode()) < 200
    assert cube_name("my scene (2)", "enmap") == "my scene (2)_enmap.tif"


@pytest.mark.parametrize("what", ["link", "file", "foreign file", "foreign folder", "link inside", "link to blocks"])
@pytest.mark.parametrize("resume", [False, True])
def test_staging_folder_of_others_is_refused(scene, tmp_path, what, resume):
    """A link in the place of the folder, or files that ms2hs did not write, are kept."""
    theirs, part = tmp_path / "theirs", tmp_path / "out" / ".r.tif.part"
    (theirs / "dir").mkdir(parents=True)
    (theirs / "level0").write_text("precious")
    part.parent.mkdir()
    if what == "link":
        part.symlink_to(theirs)
    elif what == "file":
        part.write_text("precious")
    else:
        part.mkdir()
        (part / "stamp").write_text("0" * 64)
        if what == "foreign file":
            (part / "mine.txt").write_text("precious")
        elif what == "foreign folder":
            (part / "r.blocks").mkdir()
            (part / "r.blocks" / "mine.txt").write_text("precious")
        else:
            (part / ("r.blocks" if "blocks" in what else "r.json")).symlink_to(theirs)
    before = content(tmp_path)
    with pytest.raises(OutputError, match=r"is a link or a file|which ms2hs did not write"):
        convert(scene, "enmap", tmp_path / "out" / "r.tif", ConvertOptions(model="linear", resume=resume))
    assert content(tmp_path) == before
    assert part.is_symlink() == (what == "link")


DAMAGE = {
    "numbers": b"\n5\n",
    "null": b"\nnull\n",
    "zeros": b"\n\0\0\0\0\n",
    "no UTF-8": b"\n\xff\xfe\n",
    "state missing": b'\n{"rows": 256}\n',
    "other digest": b'\n{"rows": 256, "state": {}, "digest": "0123456789abcdef"}\n',
    "deep": b"\n" + b"[" * 100_000,
}


@pytest.mark.parametrize("label", [*DAMAGE, "stamp", "empty stamp"])
def test_damaged_journal_or_stamp_starts_over(tmp_path, label):
    output = tmp_path / "r.tif"
    with contextlib.suppress(KeyboardInterrupt), Staging(output, {"a": 1}, resume=True) as staging:
        staging.record(256, {"valid": 1})
        raise KeyboardInterrupt
    part = tmp_path / ".r.tif.part"
    if "stamp" in label:
        (part / "stamp").write_bytes(b"" if "empty" in label else b"\xff\0")
    else:
        with (part / "journal.jsonl").open("ab") as journal:
            journal.write(DAMAGE[label])
    with Staging(output, {"a": 1}, resume=True) as staging:
        assert staging.states() == {}
        assert "damaged. Starting over." in staging.notes[0]
    assert not part.exists()


def test_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".ms2hs.lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(OutputError, match="is a link"), lock_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "theirs").read_text() == "precious"


def no_links(_path, _target):
    """A file system without hard links, such as exFAT."""
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_place_files_places_all_or_none(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    part, out = tmp_path / "part", tmp_path / "out"
    part.mkdir()
    out.mkdir()
    files = [(part / name, out / name) for name in ("a", "b", "c")]
    for temporary, path in files:
        temporary.write_text(path.name)
    files[2][1].write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        place_files(files, overwrite=False)
    assert content(out) == {"c": hashlib.sha256(b"mine").hexdigest()}
    assert sorted(path.name for path in part.iterdir()) == ["a", "b", "c"]
    place_files(files, overwrite=False, is_own=lambda path: path.read_text() == "mine")
    assert [path.read_text() for _, path in files] == ["a", "b", "c"]
    with pytest.raises(OutputError, match="is an input"):
        place_files([(part / "a", out / "a")], overwrite=True, inputs=file_ids([out / "a"]))


@pytest.mark.parametrize("links", [True, False])
def test_atomic_write_without_overwrite_keeps_a_late_file(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    path = tmp_path / "a"
    with pytest.raises(OutputError), atomic_write(path, overwrite=False) as temporary:  # noqa: PT012
        temporary.write_text("new")
        path.write_text("mine")
    assert content(tmp_path) == {"a": hashlib.sha256(b"mine").hexdigest()}
    path.unlink()
    write_bytes(path, b"new", overwrite=False)
    assert content(tmp_path) == {"a": hashlib.sha256(b"new").hexdigest()}


def test_other_commands_replace_no_input(ms2hs, scene, tmp_path):
    """Every command that writes compares its outputs with its inputs, also with --overwrite."""
    library = tmp_path / "in" / "spectra" / "a.npz"
    library.parent.mkdir()
    np.savez(library, wavelength_nm=np.arange(400.0, 2500, 10), reflectance=np.full((3, 210), 0.2, np.float32))
    weights = tmp_path / "in" / "w.safetensors"
    weights.write_bytes(find_weights("spectral").read_bytes())
    area = tmp_path / "in" / "area.json"
    area.write_text(json.dumps({"type": "Point", "coordinates": [7, 46]}))
    recipe = tmp_path / "in" / "recipe.toml"
    recipe.write_text("steps = 1\n")
    cubes = convert(scene, "enmap", tmp_path / "in" / "cube.tif", ConvertOptions(model="linear")).output
    commands = [
        ("pretrain", "--preset", "linear", "--data", library.parent, "-o", library),
        ("pretrain", "--preset", "spectral", "--init", weights, "-o", weights),
        ("pretrain", "--preset", "spectral", "--recipe", recipe, "-o", recipe),
        ("finetune", "--pairs", tmp_path / "in", "--init", weights, "-o", weights),
        ("finetune", "--corpus", tmp_path / "in", "--init", "linear", "-o", cubes),
        ("evaluate", "cube", cubes, "--truth", cubes, "--report", cubes.with_suffix(".html")),
        ("fetch", "--intersects", area, "--date", "2024", "--save", area),
    ]
    for words in commands:
        refused(ms2hs, tmp_path, *words, "--overwrite", part="is an input of this command")
    refused(ms2hs, tmp_path, "evaluate", "cube", cubes, "--truth", cubes, "--report", "r.csv", part="is no HTML file")


@pytest.mark.parametrize("gsd", ["1e-9", "0.5", "1e4", "1e300"])
def test_pixel_size_is_bounded(scene, tmp_path, gsd):
    with pytest.raises(SceneError, match=r"a pixel size of .* are allowed\. Use --gsd"):
        convert(scene, "enmap", tmp_path / "r.tif", ConvertOptions(model="linear", gsd_m=float(gsd)))


@pytest.mark.parametrize("window", ["0.5,0,8,8", "0,0,8.2,8", "1e-3,0,8,8"])
def test_window_of_fractions_is_refused(ms2hs, scene, tmp_path, window):
    refused(ms2hs, tmp_path, "convert", scene, *LINEAR, "--window", window, part="whole numbers of pixels are needed")


def test_unexpected_error_of_one_scene_keeps_the_others(ms2hs, scene, tmp_path, monkeypatch):

    opened = batch.open_scene

    def broken(path, options):
        if "bad" in path:
            raise ZeroDivisionError("quantification 0")
        return opened(path, options)

    monkeypatch.setattr(batch, "open_scene", broken)
    code, out, err = ms2hs("convert", "bad.tif", scene, *LINEAR, "-o", tmp_path / "out")
    assert code == 5
    assert "failed: bad.tif: ZeroDivisionError: quantification 0; an unexpected error" in err
    assert out.splitlines()[0].endswith("scene_enmap.tif")


def test_disk_that_fills_up_is_reported(scene, tmp_path, monkeypatch):
    """A journal, a stamp or a lock that cannot be written: one message, and nothing is left."""
    write = Path.write_text

    def full(path, *given, **named):
        if path.name == "stamp":
            path.touch()
            raise OSError(28, "No space left on device")
        return write(path, *given, **named)

    monkeypatch.setattr(Path, "write_text", full)
    for resume in (False, True):
        with pytest.raises(OutputError, match="No space left on device"):
            convert(scene, "enmap", tmp_path / "r.tif", ConvertOptions(model="linear", resume=resume))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_response_matrix_is_bounded():

    with pytest.raises(GridError, match="million numbers are allowed"):
        response_matrix(grid_of(np.array([500.0, 600]), np.array([1e-9, 10])), np.arange(400.0, 2500))


@pytest.mark.parametrize("name", ["é" * 122 + ".tif", "w" * 245 + ".tif"])
def test_name_without_room_for_a_temporary_name_is_refused_before_work(ms2hs, scene, tmp_path, name):
    code, _, err = ms2hs("convert", scene, "--model", "linear", "-q", "--resume", "-o", tmp_path / name)
    assert (code, "240 bytes" in err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    "words", [("--bbox", "1,2,3,4", "--for", "x"), ("--for", "x", "--days", "999999999"), ("--collection=",)]
)
def test_fetch_refuses_wrong_options_and_writes_nothing(ms2hs, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    area = () if "--for" in words else ("--bbox", "1,2,3,4", "--date", "2024-06")
    code, _, err = ms2hs("fetch", "--stac", "http://127.0.0.1:9/", *area, *words)
    assert (code, "not expected" in err) == (2, False)
    assert not list(tmp_path.iterdir())
