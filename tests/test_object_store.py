"""object_store: uploaded results are complete and the same as on a disk, or absent."""

import json
import os
import pickle
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

import ms2hs as package
from ms2hs.conversion.dask_backend import Executor, convert_all
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import CredentialsError, OutputError, UnknownName
from ms2hs.remote.object_store import ObjectStore, RemotePath, parse_output

LINEAR = ("--model", "linear")
QUICK = ConvertOptions(model="linear")
ENDS = (".json", ".png", ".qml", ".tif")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """An empty directory for temporary files, also of child processes."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    assert [path for path in folder.iterdir() if not path.name.startswith("dask")] == []


@pytest.fixture
def memory_store(monkeypatch):
    """An in-memory store with the folder memory:///top; `failures` makes uploads fail."""

    class MemoryStore(MemoryFileSystem):
        protocol = "memory"
        store: dict[str, object] = {}  # noqa: RUF012 - as in the base class
        pseudo_dirs = ["", "/top"]  # noqa: RUF012
        cachable = False
        puts: list[str] = []  # noqa: RUF012
        failures: dict[str, BaseException] = {}  # noqa: RUF012
        denied: BaseException | None = None

        def ls(self, path, detail=True, **kwargs):
            if self.denied:
                raise self.denied
            return super().ls(path, detail=detail, **kwargs)

        def put_file(self, lpath, rpath, **kwargs):
            self.puts.append(Path(rpath).name)
            failure = self.failures.get(Path(rpath).suffix)
            if failure:
                if rpath not in self.store:  # a store without atomic uploads
                    self.pipe_file(rpath, b"half")
                raise failure
            super().put_file(lpath, rpath, **kwargs)

    monkeypatch.setitem(_registry, "memory", MemoryStore)
    return MemoryStore


@pytest.fixture
def scene(tmp_path):
    return write_raster(tmp_path / "scene.tif", dn_of([LEAVES, WATER, SAND]), descriptions=S2_BANDS)


def make_scenes(folder, count):
    spectra = [LEAVES, WATER, SAND]
    return [
        str(write_raster(folder / f"s{number}.tif", dn_of(spectra[number % 3 :]), descriptions=S2_BANDS))
        for number in range(count)
    ]


def break_scene(path):
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])


def no_pixels(*_args, **_kwargs):
    raise AssertionError("pixels were read")


def test_convert_uploads_the_same_bytes_as_to_disk(ms2hs, bucket, scene, tmp_path):
    words = ("convert", scene, *LINEAR, "--uncertainty", "-o")
    assert ms2hs(*words, tmp_path / "here.tif")[0] == 0
    code, out, err = ms2hs(*words, "s3://bucket/a/b/here.tif")
    assert code == 0, err
    names = ["here.tif", "here_sigma.tif", "here.png", "here.qml", "here.json"]
    assert out.splitlines() == [f"s3://bucket/a/b/{name}" for name in names]
    assert bucket.files() == sorted(f"a/b/{name}" for name in names)
    for name in names[:4]:
        assert bucket.read(f"a/b/{name}") == (tmp_path / name).read_bytes()
    item = json.loads(bucket.read("a/b/here.json"))
    assert {asset["href"] for asset in item["assets"].values()} == {f"./{name}" for name in names[:4]}
    assert "scratch" not in json.dumps(item)


@pytest.mark.parametrize("folder", ["s3://bucket", "s3://bucket/", "s3://bucket/a.b", "s3://bucket/x.tif/"])
def test_remote_path_without_cube_suffix_is_a_folder(folder, bucket, scene):
    made = package.convert(scene, output=folder, options=QUICK)
    assert made.paths == [f"{folder.rstrip('/')}/scene_enmap{end}" for end in (".tif", ".png", ".qml", ".json")]
    assert [f"s3://bucket/{key}" for key in bucket.files()] == sorted(made.paths)
    assert made.seconds["whole"] >= made.seconds["place"] > 0


def test_json_and_dry_run_print_the_remote_path(ms2hs, bucket, scene):
    words = ("convert", scene, *LINEAR, "-q", "--json", "-o", "s3://bucket/cubes/")
    code, out, err = ms2hs(*words, "--dry-run")
    assert (code, err) == (0, "")
    assert json.loads(out)["output"] == "s3://bucket/cubes/scene_enmap.tif"
    assert bucket.files() == []
    made = json.loads(ms2hs(*words)[1])
    assert [made[name] for name in ("output", "quicklook", "style", "item", "sigma")] == [
        *(f"s3://bucket/cubes/scene_enmap{end}" for end in (".tif", ".png", ".qml", ".json")),
        None,
    ]


@pytest.mark.parametrize("more", [[], pytest.param(["--workers", "2"], marks=pytest.mark.slow)])
def test_several_scenes_upload_to_one_folder(more, ms2hs, bucket, tmp_path):
    scenes = make_scenes(tmp_path / "in", 3)
    break_scene(scenes[1])
    bucket.write("cubes/s9_enmap.tif", b"another's")
    code, out, err = ms2hs("convert", *scenes, *LINEAR, "-o", "s3://bucket/cubes", *more)
    assert code == 5
    assert out.splitlines() == [
        f"s3://bucket/cubes/s{number}_enmap{end}" for number in (0, 2) for end in (".tif", ".png", ".qml", ".json")
    ]
    assert bucket.files() == sorted([f"cubes/s{n}_enmap{end}" for n in (0, 2) for end in ENDS] + ["cubes/s9_enmap.tif"])
    assert "s1.tif" in err
    here = convert_all([scenes[0]], folder=tmp_path / "here", options=QUICK)
    assert bucket.read("cubes/s0_enmap.tif") == here.made[scenes[0]].output.read_bytes()
    again = ms2hs("convert", *scenes, *LINEAR, "-o", "s3://bucket/cubes", "--shard", "3/3")
    assert again[:2] == (1, "")
    assert "s3://bucket/cubes/s2_enmap.tif exists; " in again[2]


@pytest.mark.slow
def test_killed_workers_leave_no_temporary_files(scratch, bucket, tmp_path, monkeypatch):
    """Leftover folders of a killed worker are removed."""
    scenes = make_scenes(tmp_path / "in", 1)
    monkeypatch.setattr("ms2hs.conversion.dask_backend.secrets.token_hex", lambda _n: "cafe")
    (scratch / ".s0_enmap.cafe.abc").mkdir()
    assert convert_all(scenes, folder="s3://bucket/", options=QUICK, executor=Executor(workers=1)).failed == {}
    assert not (scratch / ".s0_enmap.cafe.abc").exists()
    assert len(bucket.files()) == 4


@pytest.mark.parametrize("taken", ["scene_enmap.tif", "scene_enmap_sigma.tif", "scene_enmap.png", "scene_enmap.json"])
def test_existing_remote_file_is_replaced_only_on_request(taken, ms2hs, bucket, scene, monkeypatch):
    bucket.write(f"cubes/{taken}", b"mine")
    words = ("convert", scene, *LINEAR, "--uncertainty", "-o", "s3://bucket/cubes/")
    with monkeypatch.context() as patch:
        patch.setattr("ms2hs.conversion.convert_scene.SceneReader", no_pixels)
        code, out, err = ms2hs(*words)
    assert (code, out) == (1, "")
    assert err == (
        f"ms2hs: s3://bucket/cubes/{taken} exists; it is replaced only on request. Use --overwrite, or give another "
        "name.\n"
    )
    assert bucket.read(f"cubes/{taken}") == b"mine"
    assert ms2hs(*words, "--overwrite")[0] == 0
    assert bucket.read(f"cubes/{taken}") != b"mine"


def _no_bucket(_patch, _shelf):
    return "s3://nowhere/cubes/", 1, r"s3://nowhere/cubes/: there is no bucket nowhere; an existing bucket"


def _no_keys(patch, _shelf):
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.delenv("AWS_SECRET_ACCESS_KEY")
    return "s3://bucket/cubes/", 4, r"s3://bucket/cubes/: refused \(NoCredentialsError.* AWS_ACCESS_KEY_ID"


def _wrong_keys(patch, memory_store):
    patch.setattr(memory_store, "denied", PermissionError("InvalidAccessKeyId"))
    return (
        "memory:///top/",
        4,
        r"refused \(PermissionError: InvalidAccessKeyId\); keys that may list and write files are needed",
    )


def _no_answer(patch, memory_store):
    patch.setattr(memory_store, "denied", TimeoutError("https://a.b/c?signature=secret"))
    return "memory:///top/", 1, r"cannot be written to \(TimeoutError: https://a\.b/c\); a store that answers"


def _unknown_protocol(_patch, _shelf):
    return "foo://bucket/cubes/", 2, r"unknown protocol 'foo'; s3, gs, .* are known. Correct"


def _web(_patch, _shelf):
    return (
        "https://user:word@127.0.0.1/cubes/",
        1,
        r"https://127\.0\.0\.1/cubes/: results cannot be uploaded to a web server",
    )


def _no_fsspec(patch, _shelf):
    patch.setitem(sys.modules, "fsspec", None)
    return "s3://bucket/cubes/", 1, r"pip install 'ms2hs\[remote\]'"


def _no_s3fs(patch, _shelf):
    patch.setitem(sys.modules, "s3fs", None)
    patch.delitem(_registry, "s3", raising=False)
    return "s3://bucket/cubes/", 1, r"Install s3fs to access S3\); fsspec and .*pip install 'ms2hs\[remote\]'"


CASES = [_no_bucket, _no_keys, _wrong_keys, _no_answer, _unknown_protocol, _web, _no_fsspec, _no_s3fs]


@pytest.mark.parametrize("scenes", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.strip("_"))
def test_unwritable_store_is_one_message_before_the_conversion(
    case, scenes, ms2hs, bucket, memory_store, tmp_path, monkeypatch
):
    paths = make_scenes(tmp_path / "in", scenes)
    monkeypatch.setattr("ms2hs.conversion.convert_scene.SceneReader", no_pixels)
    address, code, said = case(monkeypatch, memory_store)
    found, out, err = ms2hs("convert", *paths, *LINEAR, "-o", address)
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1, err
    assert re.search(said, err), err
    assert "secret" not in err
    assert "word" not in err
    assert bucket.files() == []


def test_put_uploads_the_cube_last(memory_store, scene):
    steps = []
    package.convert(scene, output="memory:///top/", options=ConvertOptions(model="linear", uncertainty=True))
    assert memory_store.puts == [f"scene_enmap{end}" for end in (".json", ".qml", ".png", "_sigma.tif", ".tif")]
    memory_store.puts.clear()
    package.convert(scene, output="memory:///top/b/", options=QUICK, progress=lambda *step: steps.append(step))
    assert memory_store.puts == [f"scene_enmap{end}" for end in (".json", ".qml", ".png", ".tif")]
    assert steps[-1][0] == "upload tif"
    assert steps[-1][1] <= steps[-1][2]


@pytest.mark.parametrize("failure", [OSError("broken pipe"), KeyboardInterrupt()], ids=["broken", "interrupted"])
@pytest.mark.parametrize("at", ENDS)
def test_failed_upload_leaves_no_files(at, failure, ms2hs, memory_store, scene, monkeypatch):
    monkeypatch.setattr(memory_store, "failures", {at: failure})
    memory_store().pipe_file("/top/other.tif", b"another's")
    code, out, err = ms2hs("convert", scene, *LINEAR, "-q", "-o", "memory:///top/")
    assert out == ""
    if isinstance(failure, OSError):
        assert code == 1
        assert "memory:///top/: cannot be written to (OSError: broken pipe); a store" in err
    else:
        assert code == 130
    assert list(memory_store.store) == ["/top/other.tif"]


def test_failed_upload_keeps_the_replaced_file(memory_store, scene, monkeypatch):
    choices = ConvertOptions(model="linear", overwrite=True)
    package.convert(scene, output="memory:///top/", options=choices)
    before = memory_store().cat_file("/top/scene_enmap.tif")
    monkeypatch.setattr(memory_store, "failures", {".tif": OSError("broken pipe")})
    with pytest.raises(OutputError, match="broken pipe"):
        package.convert(scene, output="memory:///top/", options=choices)
    assert list(memory_store.store) == ["/top/scene_enmap.tif"]
    assert memory_store().cat_file("/top/scene_enmap.tif") == before


def test_failed_conversion_uploads_nothing(ms2hs, bucket, scene, monkeypatch):
    def failing(*_args, **_kwargs):
        raise OutputError("no; yes. Do.")

    monkeypatch.setattr("ms2hs.conversion.convert_scene.write_quicklook", failing)
    code, out, err = ms2hs("convert", scene, *LINEAR, "-q", "-o", "s3://bucket/a/")
    assert (code, out, err) == (1, "", "ms2hs: no; yes. Do.\n")
    assert bucket.files() == []


@pytest.mark.usefixtures("memory_store")
def test_disk_space_is_checked_in_the_temporary_directory(ms2hs, scene, scratch, monkeypatch):
    usage = shutil.disk_usage(scratch)
    checked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: checked.append(Path(path)) or usage._replace(free=1000))
    code, _, err = ms2hs("convert", scene, *LINEAR, "-o", "memory:///top/")
    assert code == 1
    assert f"ms2hs: {scratch} has 0.00 GB free" in err
    assert "set TMPDIR" in err
    assert checked == [scratch]


@pytest.mark.usefixtures("bucket")
def test_worker_checks_the_store_before_the_conversion(scene, monkeypatch):
    from ms2hs.conversion import dask_backend

    task = dask_backend._Task(
        dask_backend.Job(str(scene), RemotePath("s3://nowhere/a.tif"), QUICK), "enmap", "cafe", package.__version__
    )
    monkeypatch.setattr(dask_backend, "run", no_pixels)
    assert "there is no bucket nowhere" in dask_backend._convert_task(task)
    assert dask_backend._shared_paths(QUICK, RemotePath("s3://bucket/")) == []


def test_file_protocol_is_a_local_path(ms2hs, scene, tmp_path):
    code, out, err = ms2hs("convert", scene, *LINEAR, "-o", f"file://{tmp_path}/a.tif")
    assert code == 0, err
    assert out.splitlines()[0] == str(tmp_path / "a.tif")
    assert (tmp_path / "a.tif").is_file()


def test_put_creates_folders(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"cube")
    ObjectStore(RemotePath(f"local://{tmp_path}/b/c/")).put([tmp_path / "a.tif"])
    assert (tmp_path / "b" / "c" / "a.tif").read_bytes() == b"cube"


def test_remote_path_has_the_interface_of_a_path():
    cube = parse_output("s3://bucket/a/b.c.tif")
    assert isinstance(cube, RemotePath)
    assert (cube.name, cube.stem, cube.parent) == ("b.c.tif", "b.c", "s3://bucket/a/")
    assert cube.with_name("x.png") == "s3://bucket/a/x.png"
    assert cube.absolute() is cube
    for folder in ("s3://bucket", "s3://bucket/", "s3://x.tif/a/"):
        assert not RemotePath(folder).is_cube
        assert RemotePath(folder) / "y.tif" == f"{folder.rstrip('/')}/y.tif"
    assert parse_output("memory://a.tif").parent == "memory://"
    assert isinstance(pickle.loads(pickle.dumps(cube)), RemotePath)  # noqa: S301 - our own
    assert parse_output("out/a.tif") == Path("out/a.tif")
    assert parse_output(Path("a")) == Path("a")
    assert parse_output("file:///a/b.tif") == Path("/a/b.tif")


def test_object_store_sees_files_of_other_programs(bucket):
    folder = RemotePath("s3://bucket/a/")
    bucket.write("a/before.tif", b"another's")
    ObjectStore(folder).check(["x.tif"])
    bucket.write("a/x.tif", b"another's")
    with pytest.raises(OutputError, match=r"a/x\.tif exists"):
        ObjectStore(folder).check(["x.tif"])
    ObjectStore(folder).check(["x.tif"], overwrite=True)


def test_object_store_raises_package_errors(monkeypatch, memory_store):
    with pytest.raises(UnknownName):
        ObjectStore(RemotePath("foo://x/"))
    monkeypatch.setattr(memory_store, "denied", type("TokenRetrievalError", (Exception,), {})("expired"))
    with pytest.raises(CredentialsError, match="expired"):
        ObjectStore(RemotePath("memory:///top/"))
    assert os.environ["TMPDIR"]


def test_a_zarr_store_is_uploaded_with_its_metadata_last_and_never_replaced(tmp_path, scene_path, memory_store):
    address, options = "memory://top/a.zarr", ConvertOptions(model="linear", window=(0, 0, 9, 9))
    package.convert(scene_path, "enmap", address, options)
    files = sorted(path for path in memory_store.store if path.startswith("/top/a.zarr/"))
    assert "/top/a.zarr/zarr.json" in files
    assert "/top/a.zarr/reflectance/c/0/0/0" in files
    assert memory_store.puts[-1] == "zarr.json"
    memory_store().get("/top/a.zarr", str(tmp_path / "back.zarr"), recursive=True)
    assert package.open_cube(tmp_path / "back.zarr").reflectance.shape == (202, 9, 9)
    with pytest.raises(OutputError, match="old chunks would remain"):
        package.convert(scene_path, "enmap", address, ConvertOptions(model="linear", overwrite=True))
