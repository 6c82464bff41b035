"""Shards: windows of one size and one spectral grid in a safetensors file, read by window without GDAL.

A file holds `dn` int16 (window, band, row, col), reflectance = dn * 1e-4, -32768 where unknown. Its metadata are
`format` and, in JSON, `source` (the data set), `wavelength_nm`, `fwhm_nm`, and `names` and `scenes` of the windows.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window
from ms2hs.errors import DataError, OutputError
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

SHARD_VERSION = "1"
SHARD_SUFFIX = ".safetensors"
SHARD_SCALE, SHARD_NODATA = 1e-4, -32768


@dataclass(frozen=True, eq=False)
class ShardCube:
    """One window of a shard. Each read maps the file and touches only the bytes of the window."""

    name: str
    """Cube and position that the window was cut from: `<cube>@<row>,<col>`."""
    scene: str
    path: Path
    grid: SpectralGrid
    shape: tuple[int, int]
    index: int
    """Position of the window in the file."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a part of the window, NaN where unknown. DataError if it cannot be read."""
        check_window(self.shape, row, col, height, width)
        with _opened(self.path) as file:
            stored = file.get_slice("dn")[self.index : self.index + 1, :, row : row + height, col : col + width]
        return decode(stored[0])


def decode(dn: NDArray[np.int16]) -> Float32Array:
    """Reflectance of the same shape from the dn of a shard, NaN where unknown."""
    values = dn.astype(np.float32) * np.float32(SHARD_SCALE)
    values[dn == SHARD_NODATA] = np.nan
    return values


def encode(reflectance: Float32Array) -> NDArray[np.int16]:
    """The dn of a shard, of the same shape as the reflectance; clipped to ±32767, -32768 where it is NaN."""
    dn = np.clip(np.rint(reflectance / np.float32(SHARD_SCALE)), SHARD_NODATA + 1, -SHARD_NODATA - 1)
    return np.where(np.isnan(dn), SHARD_NODATA, dn).astype(np.int16)


def find_shards(folder: Path) -> list[Path]:
    """Every safetensors file in the folder."""
    return sorted(folder.glob(f"*{SHARD_SUFFIX}"))


def open_shard(path: Path) -> list[ShardCube]:
    """The windows of a shard; DataError if the file is no shard, of another format version, damaged or truncated."""
    with _opened(path) as file:
        header = dict(file.metadata() or {})
        if header.get("format") != SHARD_VERSION or "wavelength_nm" not in header or list(file.keys()) != ["dn"]:
            raise DataError(
                f"{path}: a safetensors file of format {header.get('format')!r} with {', '.join(file.keys()) or 'no'} "
                f"arrays; shards of format {SHARD_VERSION!r} are read. Remove the file, or run `ms2hs prepare` again."
            )
        dn = file.get_slice("dn")
        shape, dtype = tuple(dn.get_shape()), dn.get_dtype()
        wavelength, width, names, scenes = (
            json.loads(header[key]) for key in ("wavelength_nm", "fwhm_nm", "names", "scenes")
        )
    if len(shape) != 4 or dtype != "I16" or shape[:2] != (len(names), len(wavelength)) or len(scenes) != len(names):
        raise DataError(
            f"{path}: {dtype} numbers of shape {shape}, {len(names)} names, {len(scenes)} scenes and "
            f"{len(wavelength)} wavelengths; they must agree. Run `ms2hs prepare` again."
        )
    if not all(isinstance(text, str) for text in (*names, *scenes)):
        raise DataError(f"{path}: names of windows that are no texts; texts are needed. Run `ms2hs prepare` again.")
    grid = grid_of(np.array(wavelength), np.array(width))
    return [
        ShardCube(name, scene, path, grid, shape[2:], index)
        for index, (name, scene) in enumerate(zip(names, scenes, strict=True))
    ]


def write_shard(
    path: Path, dn: Sequence[NDArray[np.int16]], grid: SpectralGrid, windows: Sequence[tuple[str, str]], source: str
) -> None:
    """Write a shard window by window, without a copy of the whole in memory.

    OutputError if the file cannot be written; no part of it remains.

    Parameters
    ----------
    dn : (window,) arrays (band, row, col) of one shape.
    windows : (window,) name and scene.
    source : name of the data set.
    """
    metadata = {
        "source": source,
        "wavelength_nm": grid.wavelength_nm.tolist(),
        "fwhm_nm": grid.fwhm_nm.tolist(),
        "names": [name for name, _ in windows],
        "scenes": [scene for _, scene in windows],
    }
    shape = [len(dn), *dn[0].shape]
    # Layout of a safetensors file: header length, header as JSON, arrays (github.com/huggingface/safetensors).
    content = {
        "__metadata__": {"format": SHARD_VERSION} | {key: json.dumps(value) for key, value in metadata.items()},
        "dn": {"dtype": "I16", "shape": shape, "data_offsets": [0, 2 * math.prod(shape)]},
    }
    header = json.dumps(content).encode()
    header += b" " * (-len(header) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for window in dn:
                file.write(np.ascontiguousarray(window, "<i2").data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error}); its directory must be writable and have space. "
            "Free some space, or give another directory."
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path}: not a whole shard ({error}); the file is truncated or damaged. Copy it again, or run "
            "`ms2hs prepare` again."
        ) from error
