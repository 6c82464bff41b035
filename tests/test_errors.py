"""Unexpected errors where a file enters."""

import struct
import zipfile

import pytest

from ms2hs.errors import DataError, SceneError, failure, input_errors

UNEXPECTED = [KeyError("crs"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), OverflowError("too large")]
UNEXPECTED += [zipfile.BadZipFile("no zip"), struct.error("short"), RecursionError("deep"), MemoryError(), OSError(36)]


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_input_errors_names_the_file_and_the_error(error):
    said = rf"^scene.tif: cannot be read \({type(error).__name__}"
    with pytest.raises(SceneError, match=said) as caught, input_errors("scene.tif", SceneError):
        raise error
    assert caught.value.__cause__ is error
    assert failure("scene.tif", error).startswith(f"scene.tif: {type(error).__name__}: ")


def test_input_errors_keeps_messages_and_interruptions():
    for error in (DataError("no spectra"), KeyboardInterrupt(), ImportError("no xarray")):
        with pytest.raises(type(error)) as caught, input_errors("scene.tif", SceneError):
            raise error
        assert caught.value is error
    assert failure("scene.tif", DataError("no spectra")) == "no spectra"
    assert len(failure("scene.tif", ValueError("long " * 1000))) < 400
