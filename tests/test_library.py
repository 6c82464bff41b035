"""Spectral libraries: the formats that are read, and the errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.errors import DataError
from ms2hs.spectra.library import interpolate_known, read_library

CSV = "id,lon,lat,450,550,650\nsoil,12.5,45.1,0.1,0.2,0.3\ngrass,,,0.05,,0.04\n"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_library_reads_a_csv_with_empty_values(tmp_path):
    library = read_library(write(tmp_path / "a.csv", CSV))
    np.testing.assert_array_equal(library.wavelength_nm, [450, 550, 650])
    np.testing.assert_allclose(library.reflectance, [[0.1, 0.2, 0.3], [0.05, np.nan, 0.04]], rtol=1e-6)
    assert library.ids == ("soil", "grass")
    np.testing.assert_array_equal(library.lon, [12.5, np.nan])
    np.testing.assert_array_equal(library.lat, [45.1, np.nan])


def test_library_reads_a_csv_of_a_spreadsheet(tmp_path):
    text = (
        "\ufeff"
        + CSV.replace("id,lon,lat", "ID, Lon ,LAT").replace("450", "450 nm").replace("\n", "\r\n")
        + "\r\n,,,,,\r\n"
    )
    assert read_library(write(tmp_path / "a.CSV", text)).reflectance.shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the header begins"),
        ("name,450,550\na,0.1,0.2\n", "id,lon,lat"),
        ("id,lon,lat,450\n", "no spectra"),
        (CSV.replace("0.3", "30"), "percent"),
        (CSV.replace("450,550,650", "0.45,0.55,0.65"), "micrometres"),
        (CSV.replace("0.3", "high"), "'high'"),
        (CSV.replace(",0.3", ""), "row 2 has 5 columns"),
        (CSV.replace("550", ""), "wavelength in the header is empty"),
        ("id,lon,lat,450\na,,,\n", "without a known value"),
    ],
)
def test_library_reports_errors_in_a_csv(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_library(write(tmp_path / "a.csv", text))


def test_library_reports_missing_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_library(tmp_path / "a.csv")
    with pytest.raises(DataError, match="unknown format"):
        read_library(write(tmp_path / "a.xlsx", ""))
    with pytest.raises(DataError, match="not a readable"):
        read_library(write(tmp_path / "a.npz", "hello"))
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not text"):
        read_library(tmp_path / "b.csv")


def envi(folder, values, kind="4", extra="", name="lib.sli"):
    dtype = {"4": "<f4", "2": "<i2"}[kind]
    (folder / name).write_bytes(np.asarray(values).astype(dtype).tobytes())
    header = (
        "ENVI\ndescription = {\n field\n spectra}\nsamples = 3\nlines = 2\nbands = 1\nheader offset = 0\n"
        f"data type = {kind}\nbyte order = 0\nwavelength = {{0.45, 0.55,\n 0.65}}\n"
        f"wavelength units = Micrometers\nspectra names = {{soil, grass}}\n{extra}"
    )
    return write(folder / "lib.hdr", header)


@pytest.mark.parametrize("suffix", ["sli", "hdr"])
def test_library_reads_envi_in_micrometres(tmp_path, suffix):
    values = np.array([[0.1, 0.2, 0.3], [0.05, -1.23e34, 0.04]])
    envi(tmp_path, values)
    library = read_library(tmp_path / f"lib.{suffix}")
    np.testing.assert_allclose(library.wavelength_nm, [450, 550, 650])
    np.testing.assert_allclose(library.reflectance, [[0.1, 0.2, 0.3], [0.05, np.nan, 0.04]], rtol=1e-6)
    assert library.ids == ("soil", "grass")


def test_library_reads_envi_integers_with_scale_and_nodata(tmp_path):
    extra = "reflectance scale factor = 10000\ndata ignore value = -50\n"
    envi(tmp_path, [[1000, 2000, 3000], [-50, 100, 0]], kind="2", extra=extra)
    expected = [[0.1, 0.2, 0.3], [np.nan, 0.01, 0]]
    np.testing.assert_allclose(read_library(tmp_path / "lib.sli").reflectance, expected, rtol=1e-6)


def test_library_reports_errors_in_an_envi_library(tmp_path):
    header = envi(tmp_path, np.ones((2, 3)) * 0.2)
    (tmp_path / "lib.sli").write_bytes(b"\0" * 20)
    with pytest.raises(DataError, match="truncated"):
        read_library(tmp_path / "lib.sli")
    write(header, header.read_text().replace("samples", "simples"))
    with pytest.raises(DataError, match="samples"):
        read_library(tmp_path / "lib.sli")
    (tmp_path / "lib.sli").unlink()
    with pytest.raises(DataError, match=r"no lib\.sli"):
        read_library(header)
    header.rename(tmp_path / "other.hdr")
    (tmp_path / "lib.sli").write_bytes(b"")
    with pytest.raises(DataError, match="no header"):
        read_library(tmp_path / "lib.sli")


def test_library_reports_npz_shapes_that_disagree(tmp_path):
    np.savez(tmp_path / "a.npz", wavelength_nm=np.arange(400, 403), reflectance=np.zeros((2, 4)))
    with pytest.raises(DataError, match="shape"):
        read_library(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", reflectance=np.zeros((2, 4)))
    with pytest.raises(DataError, match="no wavelength_nm"):
        read_library(tmp_path / "b.npz")


@settings(deadline=None)
@given(st.integers(0, 2**16))
def test_interpolate_known_does_not_cross_gaps_or_extrapolate(seed):
    rng = np.random.default_rng(seed)
    wavelength = rng.permutation(np.arange(400.0, 1000.0, 10.0))
    slope, start = rng.uniform(-1e-3, 1e-3, (3, 1)), rng.uniform(0.2, 0.5, (3, 1))
    spectra = start + slope * (wavelength - 400)
    low = rng.uniform(450, 700, 3)
    for row, edge in enumerate(low):
        spectra[row, (wavelength > edge) & (wavelength < edge + 50)] = np.nan
    at = np.arange(380.0, 1021.0, 7.0)
    found = interpolate_known(spectra, wavelength, at)
    expected = start + slope * (at - 400)
    known = np.isfinite(found)
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-5, atol=1e-6)
    assert not known[:, (at < 400) | (at > 990)].any()
    for row, edge in enumerate(low):
        assert not known[row, (at > edge) & (at < edge + 50)].any()
        assert known[row, ((at >= 400) & (at < edge - 10)) | ((at > edge + 60) & (at <= 990))].all()
