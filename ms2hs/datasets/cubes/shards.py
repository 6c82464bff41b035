"""Shards: windows of one size and one grid, packed into a safetensors file that is read by window, without GDAL.

A file holds `dn` int16 (window, band, row, col), reflectance = dn * 1e-4, -32768 where unknown; and as metadata, in
JSON, `format`, `source` (the corpus), `wavelength_nm`, `fwhm_nm`, and of each window `names` and `scenes`.
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

FORMAT = "1"
SUFFIX = ".safetensors"
SCALE, NODATA = 1e-4, -32768
LIMIT = 32767


@dataclass(frozen=True, eq=False)
class ShardCube:
    """One window of a shard; the file is mapped for each read, and only the window's bytes are touched."""

    name: str
    """Of the cube that it was cut from, and where: `<cube>@<row>,<col>`."""
    scene: str
    path: Path
    grid: SpectralGrid
    shape: tuple[int, int]
    index: int
    """Which window of the file."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window of the window, NaN where unknown. DataError if it cannot be read."""
        check_window(self.shape, row, col, height, width)
        with _opened(self.path) as file:
            stored = file.get_slice("dn")[self.index : self.index + 1, :, row : row + height, col : col + width]
        return reflectance_from(stored[0])


def reflectance_from(dn: NDArray[np.int16]) -> Float32Array:
    """Reflectance of a shard's numbers, NaN where unknown."""
    values = dn.astype(np.float32) * np.float32(SCALE)
    values[dn == NODATA] = np.nan
    return values


def numbers_of(reflectance: Float32Array) -> NDArray[np.int16]:
    """A shard's numbers of reflectance; what is too large for them becomes the largest."""
    dn = np.clip(np.rint(reflectance / np.float32(SCALE)), -LIMIT, LIMIT)
    return np.where(np.isnan(dn), NODATA, dn).astype(np.int16)


def open_shards(folder: Path) -> list[ShardCube]:
    """The windows of every shard in the folder.

    Raises
    ------
    DataError : a file that is no shard, of another format, damaged or cut short.
    """
    return [cube for path in sorted(folder.glob(f"*{SUFFIX}")) for cube in _cubes(path)]


def write_shard(
    path: Path, dn: Sequence[NDArray[np.int16]], grid: SpectralGrid, windows: Sequence[tuple[str, str]], source: str
) -> None:
    """Write a shard, window by window: it may be as large as the memory that is left.

    Parameters
    ----------
    dn : (window,) arrays (band, row, col) of one shape.
    windows : (window,) name and scene of each.
    source : the corpus.

    Raises
    ------
    OutputError : it cannot be written; nothing is left then.
    """
    facts = {
        "source": source,
        "wavelength_nm": grid.wavelength_nm.tolist(),
        "fwhm_nm": grid.fwhm_nm.tolist(),
        "names": [name for name, _ in windows],
        "scenes": [scene for _, scene in windows],
    }
    shape = [len(dn), *dn[0].shape]
    # The format: the header's length, the header as JSON, the arrays (github.com/huggingface/safetensors).
    content = {
        "__metadata__": {"format": FORMAT} | {key: json.dumps(value) for key, value in facts.items()},
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
            f"{path} could not be written ({error}); its directory must be writable and have room. "
            "Free some space, or choose another place."
        ) from error


def _cubes(path: Path) -> list[ShardCube]:
    with _opened(path) as file:
        header = dict(file.metadata() or {})
        if header.get("format") != FORMAT or "wavelength_nm" not in header or list(file.keys()) != ["dn"]:
            raise DataError(
                f"{path}: a safetensors file of format {header.get('format')!r} with {', '.join(file.keys()) or 'no'} "
                f"arrays; shards of format {FORMAT!r} are read. Take it out, or run `ms2hs prepare` again."
            )
        part = file.get_slice("dn")
        shape, dtype = tuple(part.get_shape()), part.get_dtype()
        wavelength, width, names, scenes = (
            json.loads(header[key]) for key in ("wavelength_nm", "fwhm_nm", "names", "scenes")
        )
    if len(shape) != 4 or dtype != "I16" or shape[:2] != (len(names), len(wavelength)) or len(scenes) != len(names):
        raise DataError(
            f"{path}: {dtype} numbers of shape {shape}, {len(names)} names, {len(scenes)} scenes and "
            f"{len(wavelength)} wavelengths; they must agree. Run `ms2hs prepare` again."
        )
    grid = grid_of(np.array(wavelength), np.array(width))
    return [
        ShardCube(name, scene, path, grid, shape[2:], index)
        for index, (name, scene) in enumerate(zip(names, scenes, strict=True))
    ]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path}: not a whole shard ({error}); it was cut short or is damaged. Copy it again, or run "
            "`ms2hs prepare` again."
        ) from error
