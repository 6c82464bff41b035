"""Faults of tables, spectra, weights and archives: one message of three parts, and no memory beyond a limit."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from conftest import LEAVES, S2_BANDS, dn_of, write_raster

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import DataError, GridError, SceneError, WeightsError
from ms2hs.models import config as model_config
from ms2hs.models.config import ModelConfig
from ms2hs.models.weights import find_weights, load_weights
from ms2hs.scenes.formats import open_scene
from ms2hs.spectra.library import read_library
from ms2hs.spectra.sensors import load_sensor

HEAD = "center_nm,fwhm_nm\n"
NM = list(range(400, 2500, 10))
VALUES = ",".join("0.2" for _ in NM)
COLUMNS = f"id,lon,lat,{','.join(map(str, NM))}\n"


@pytest.fixture
def scene(tmp_path):
    return write_raster(tmp_path / "scene.tif", dn_of([LEAVES], (8, 8)), descriptions=S2_BANDS)


def check_message(error):
    """One line of bounded length in three parts: what is wrong; what is allowed. What to do."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700
    assert ";" in text
    assert text.endswith(".")


TARGETS = {
    "UTF-16": (HEAD + "500,10\n").encode("utf-16"),
    "latin-1": b"# title: M\xfcller\n" + HEAD.encode() + b"500,10\n",
    "zero bytes": HEAD.encode() + b"5\x000,10\n",
    "empty": b"",
    "header only": HEAD.encode(),
    "gsd_m a word": b"# gsd_m: fine\n" + HEAD.encode() + b"500,10\n",
    "long field": (HEAD + "5" * 200_000 + ",10\n").encode(),
    "width 1e-9": (HEAD + "500,1e-9\n600,10\n").encode(),
    "width 1e9": (HEAD + "500,1e9\n600,10\n").encode(),
    "width 0": (HEAD + "500,0\n").encode(),
    "width nan": (HEAD + "500,nan\n").encode(),
    "centre inf": (HEAD + "inf,10\n").encode(),
    "missing column": b"center_nm\n500\n",
    "short row": (HEAD + "500\n").encode(),
    "good a word": b"center_nm,fwhm_nm,good\n500,10,yes\n",
    "5000 bands": (HEAD + "".join(f"{400 + i * 0.4:.1f},10\n" for i in range(5000))).encode(),
    "3 MB": (HEAD + "".join(f"{400 + i * 0.002:.3f},10\n" for i in range(250_000))).encode(),
}


@pytest.mark.parametrize("label", TARGETS)
def test_target_table_that_cannot_be_used_is_one_message(tmp_path, label):
    (tmp_path / "t.csv").write_bytes(TARGETS[label])
    with pytest.raises(GridError) as error:
        load_sensor(str(tmp_path / "t.csv"))
    assert len(str(error.value)) < 700


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def archive(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in members.items():
            file.writestr(f"{name}.npy", member)
    return content.getvalue()


def npy_header(shape):
    """An array of zeros whose data are missing."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


GRID = np.arange(400.0, 2500, 10)
GOOD = np.full((3, 210), 0.2)
MANY = ",".join(f"{400 + i / 20:.2f}" for i in range(30_000))
REFERENCES = {
    "lat 91": ("csv", f"{COLUMNS}s,10,91,{VALUES}\n".encode()),
    "lon 1e9": ("csv", f"{COLUMNS}s,1e9,9,{VALUES}\n".encode()),
    "long field": ("csv", f"{COLUMNS}{'s' * 200_000},,,{VALUES}\n".encode()),
    "UTF-16": ("csv", f"{COLUMNS}s,,,{VALUES}\n".encode("utf-16")),
    "zero bytes": ("csv", f"{COLUMNS}s,,,{VALUES}\n".encode().replace(b"0.2", b"0\x002", 1)),
    "empty": ("csv", b""),
    "wavelength 1e9": ("csv", f"{COLUMNS[:-5]}1e9\ns,,,{VALUES}\n".encode()),
    "wavelength nan": ("csv", f"{COLUMNS[:-5]}nan\ns,,,{VALUES}\n".encode()),
    "wavelength 0": ("csv", f"{COLUMNS[:-5]}0\ns,,,{VALUES}\n".encode()),
    "30000 wavelengths": ("csv", f"id,lon,lat,{MANY}\ns,,,{MANY}\n".encode()),
    "npz of text": ("npz", npz(wavelength_nm=np.array(["a", "b"]), reflectance=np.array([["x", "y"]]))),
    "npz of times": ("npz", npz(wavelength_nm=GRID, reflectance=GOOD.astype("datetime64[s]"))),
    "npz of complex numbers": ("npz", npz(wavelength_nm=GRID, reflectance=GOOD.astype(complex))),
    "npz of objects": ("npz", npz(wavelength_nm=GRID, reflectance=np.array([[None] * 210]))),
    "npz without spectra": ("npz", npz(wavelength_nm=GRID, reflectance=GOOD[:0])),
    "npz of scalars": ("npz", npz(wavelength_nm=np.array(5.0), reflectance=np.array(0.2))),
    "npz with few names": ("npz", npz(wavelength_nm=GRID, reflectance=GOOD, names=np.array(["a"]))),
    "npz that promises 80 TB": ("npz", archive(wavelength_nm=npy_header((10**13,)), reflectance=npy_header((1, 1)))),
    "npz of a negative shape": ("npz", archive(wavelength_nm=npy_header((-1,)), reflectance=npy_header((1, 1)))),
    "npz of notes": ("npz", archive(wavelength_nm=b"notes", reflectance=b"notes")),
    "npz cut short": ("npz", npz(wavelength_nm=GRID, reflectance=GOOD)[:900]),
    "npz of zeros": ("npz", bytes(1000)),
    "hdr alone": ("hdr", b"ENVI\n"),
}  # fmt: skip


@pytest.mark.parametrize("label", REFERENCES)
def test_reference_spectra_that_cannot_be_used_are_one_message(tmp_path, label):
    suffix, content = REFERENCES[label]
    (tmp_path / f"r.{suffix}").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_library(tmp_path / f"r.{suffix}")
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    "change",
    [
        {"samples": "-5"},
        {"lines": "0"},
        {"lines": "99999999999"},
        {"header offset": "-7"},
        {"data type": "6"},
        {"reflectance scale factor": "0"},
        {"data ignore value": "none"},
        {"wavelength": "{a, b}"},
        {"wavelength": "{1, 2"},
        {"wavelength units": "furlongs"},
    ],
    ids=str,
)
def test_envi_library_that_cannot_be_used_is_one_message(tmp_path, change):
    fields = {"samples": "2", "lines": "1", "data type": "4", "wavelength": "{500, 600}"} | change
    (tmp_path / "r.hdr").write_text("ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items()))
    (tmp_path / "r.sli").write_bytes(np.full(2, 0.2, "<f4").tobytes())
    with pytest.raises(DataError) as error:
        read_library(tmp_path / "r.sli")
    check_message(error)


def test_number_of_references_is_bounded(scene, tmp_path):
    (tmp_path / "r.csv").write_text(COLUMNS + f"s,,,{VALUES}\n" * 1001)
    options = ConvertOptions(model="linear", reference=tmp_path / "r.csv")
    with pytest.raises(DataError, match="1001 reference spectra; at most 1000 are used"):
        convert(scene, "enmap", tmp_path / "x.tif", options)
    assert not (tmp_path / "x.tif").exists()


def unpacked(name):
    """Arrays and metadata of shipped weights."""
    content = find_weights(name).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    metadata, body = header.pop("__metadata__"), content[8 + size :]
    arrays = {
        key: np.frombuffer(body[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"]).copy()
        for key, entry in header.items()
    }
    return arrays, metadata


def write_weights(path, arrays, metadata):
    """Write arrays of float32 without the checks of `save_weights`."""
    header, body = {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        end = len(body) + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(body), end]}
        body += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return str(path)


HEADERS = {
    "card deep": {"card": "[" * 100_000},
    "card a list": {"card": "[1]"},
    "adjustments deep": {"adjustments": "[" * 100_000},
    "adjustments a list": {"adjustments": "[]"},
    "gain 0": {"adjustments": '{"sentinel2a": {"B02": [0, 0]}}'},
    "gain of 400 digits": {"adjustments": f'{{"sentinel2a": {{"B02": [1{"0" * 400}, 0]}}}}'},
    "offset 9": {"adjustments": '{"sentinel2a": {"B02": [1, 9]}}'},
    "gain a word": {"adjustments": '{"sentinel2a": {"B02": ["x", 0]}}'},
}


@pytest.mark.parametrize("label", HEADERS)
def test_header_of_weights_that_cannot_be_used_is_one_message(tmp_path, label):
    arrays, metadata = unpacked("linear")
    with pytest.raises(WeightsError) as error:
        load_weights(write_weights(tmp_path / "w.safetensors", arrays, metadata | HEADERS[label]))
    check_message(error)


ARRAYS = {
    "sample empty": ("sample", lambda array: array[:0]),
    "rank 0": ("factors", lambda array: array[:, :0]),
    "residual negative": ("residual", lambda array: -array - 1),
    "factors 3e38": ("factors", lambda array: np.full_like(array, 3e38)),
    "sample 3e38": ("sample", lambda array: np.full_like(array, 3e38)),
    "reach 2": ("reach", lambda array: array + 2),
    "noise negative": ("noise", lambda array: -array),
    "floor nan": ("floor", lambda array: array * np.nan),
    "wavelength 1e30": ("wavelength_nm", lambda array: array * np.float32(1e27)),
    "one wavelength": ("wavelength_nm", lambda array: array[:1]),
}


@pytest.mark.parametrize("label", ARRAYS)
def test_arrays_of_weights_that_cannot_be_used_are_one_message(tmp_path, label):
    arrays, metadata = unpacked("linear")
    name, change = ARRAYS[label]
    arrays[name] = change(arrays[name])
    with pytest.raises(WeightsError) as error:
        load_weights(write_weights(tmp_path / "w.safetensors", arrays, metadata))
    assert "\n" not in str(error.value)


CONFIGS = {
    "width 10^9": {"width": 10**9},
    "depth 10^9": {"depth": 10**9},
    "window 10^6": {"window": 10**6},
    "another width": {"width": 96},
    "another depth": {"depth": 50},
    "rank 500": {"rank": 500},
    "heads 0": {"heads": 0},
    "heads a fraction": {"heads": 4.0},
    "heads true": {"heads": True},
    "width a word": {"width": "wide"},
    "masking a word": {"masking": "spectral"},
    "masking deep": {"masking": [[["spectral"]]]},
    "hidden words": {"hidden": ["a", "b"]},
    "unknown field": {"colour": 1},
}


@pytest.mark.parametrize("label", CONFIGS)
def test_config_that_contradicts_its_arrays_builds_nothing(tmp_path, monkeypatch, label):
    """The configuration is compared with the arrays before memory is taken."""
    arrays, metadata = unpacked("spectral")
    config = json.loads(metadata["config"]) | CONFIGS[label]
    path = write_weights(tmp_path / "w.safetensors", arrays, metadata | {"config": json.dumps(config)})
    made, zeros = [], torch.empty

    def watch(*size, **named):
        if "meta" not in str(torch.get_default_device()):
            made.append(size)
        return zeros(*size, **named)

    monkeypatch.setattr(torch, "empty", watch)
    with pytest.raises(WeightsError) as error:
        load_weights(path)
    assert "\n" not in str(error.value)
    assert made == []


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_weights_that_overflow_are_refused_before_a_file_is_written(scene, tmp_path, name):
    arrays, metadata = unpacked(name)
    for key, array in arrays.items():
        if key.startswith("network.") and array.ndim == 2:
            arrays[key] = np.full_like(array, 3e37)
    if name == "linear":
        arrays["factors"] = np.full_like(arrays["factors"], 100)
        arrays["noise"] *= 0
        arrays["residual"] *= 0
    path = write_weights(tmp_path / "w.safetensors", arrays, metadata)
    with pytest.raises(WeightsError, match=r"w\.safetensors: .*finite numbers") as error:
        convert(scene, "enmap", tmp_path / "x.tif", ConvertOptions(model=path))
    check_message(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.tif", "w.safetensors"]


@pytest.mark.parametrize("size", [0, 7, 8, 100, 20_000_000_000])
def test_weights_file_of_zeros_is_refused_without_reading_it(tmp_path, size):
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.truncate(size)  # no space on the disk
    with pytest.raises(WeightsError):
        load_weights(str(path))


def test_shipped_configurations_are_within_the_limits():
    for config in model_config.PRESETS.values():
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for name in ("linear", "spectral", "spatial-spectral"):
        assert load_weights(name).name == name


def test_metadata_in_a_zip_is_bounded(tmp_path):
    """A zip of some kilobytes whose metadata unpack to hundreds of megabytes."""
    name = "S2B_MSIL2A_20240601T102021_N0510_R065_T32TNT_20240601T140000.SAFE"
    with (
        zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as file,
        file.open(f"{name}/MTD_MSIL2A.xml", "w") as member,
    ):
        for _ in range(30):
            member.write(b" " * 1_000_000)
    with pytest.raises(SceneError, match="has more than 20 MB") as error:
        open_scene(str(tmp_path / "s.zip"))
    check_message(error)


@pytest.mark.parametrize("option", ["--model", "--target", "--reference", "-o", "scene"])
def test_name_that_is_too_long_is_one_message(ms2hs, scene, tmp_path, option):
    name = "w" * 300 + (".csv" if option == "--reference" else ".tif" if option == "-o" else "")
    words = ["convert", name] if option == "scene" else ["convert", scene, option, name]
    code, out, err = ms2hs(*words, *([] if option == "--model" else ["--model", "linear"]), "-q")
    assert (code in {1, 2}, out) == (True, "")
    assert err.startswith("ms2hs: ")
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
