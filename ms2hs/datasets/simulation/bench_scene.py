"""The bench of `ms2hs example --kind bench`: leaves, soil and panels below a camera, as its ENVI cube without place.

Each object has one spectrum: leaves of PROSPECT-D (Feret et al. 2017, doi:10.1016/j.rse.2017.03.004) and soils, from
the package prosail; panels and cards are ours. Shapes, midribs, shading, uneven light and the camera's noise vary it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.spectra_npz import view_matrix
from ms2hs.datasets.simulation.random_fields import blur, smooth_noise
from ms2hs.datasets.simulation.spectra_mixing import CANOPY_WAVELENGTH_NM, import_prosail
from ms2hs.errors import GridError, OutputError
from ms2hs.files import check_output, write_bytes
from ms2hs.spectra.sensors import load_sensor, sensor_names, shipped_sensor

BENCH_SHAPE = (96, 128)
# Leaves: chlorophyll and carotenoids in µg/cm², brown pigment, water and dry matter in g/cm², and their structure.
LEAVES = {
    "green leaf": (48.0, 10.0, 0.0, 0.012, 0.005, 1.5),
    "young leaf": (22.0, 6.0, 0.0, 0.018, 0.003, 1.3),
    "yellow leaf": (4.0, 8.0, 0.1, 0.010, 0.006, 1.7),
    "dry leaf": (1.0, 3.0, 0.9, 0.001, 0.008, 2.2),
}
# Objects: name, centre row and column, half length and half width in pixels, and turn in radians; later ones on top.
ELLIPSES = (
    ("green leaf", 22, 24, 17, 9, 0.3),
    ("young leaf", 22, 58, 14, 8, -0.4),
    ("yellow leaf", 66, 20, 16, 8, 0.2),
    ("dry leaf", 68, 52, 15, 8, -0.25),
    ("green leaf", 58, 102, 12, 7, 1.2),
    ("dry leaf", 80, 110, 9, 5, 0.5),
)
# Name, and first and last row and column.
RECTANGLES = (
    ("white panel", 6, 24, 84, 102),
    ("grey panel", 6, 24, 104, 122),
    ("red card", 28, 38, 84, 122),
    ("dry soil", 44, 92, 80, 104),
    ("wet soil", 44, 92, 100, 124),
)
# Standard deviation of the noise, at full light and where the lamp is weak (below 430 nm), and of the light's texture.
NOISE, BLUE_NOISE, BLUE_NM, TEXTURE = 0.002, 0.008, 430.0, 0.02


def write_bench(path: Path, camera: str = "specim-iq", *, overwrite: bool = False) -> Path:
    """Write the bench as the ENVI cube of a camera: float32 by line, wavelengths without widths, no place.

    Parameters
    ----------
    path : the image, .dat or .raw; the header has the suffix .hdr.
    camera : name of a camera in `spectra/tables`.

    Raises
    ------
    OutputError : a file exists, or its directory does not. GridError : not a camera.
    DataError : the package prosail is not installed.
    """
    if path.suffix.lower() not in {".dat", ".raw"}:
        raise OutputError(f"{path}: not the name of an ENVI image; .dat or .raw is needed. Use a name like bench.dat.")
    sensor = shipped_sensor(camera, "camera")
    if sensor is None:
        known = ", ".join(sensor_names("camera"))
        raise GridError(f"{camera} is no camera; {known} are allowed. Use --camera {sensor_names('camera')[-1]}.")
    header = path.with_suffix(".hdr")
    for file in (path, header):
        check_output(file, overwrite=overwrite)
    reflectance = bench_reflectance(camera)
    bands, rows, cols = reflectance.shape
    lines = [
        "ENVI",
        "description = {simulated by ms2hs: leaves, soil and panels on a bench; no real object}",
        f"samples = {cols}",
        f"lines = {rows}",
        f"bands = {bands}",
        "header offset = 0",
        "file type = ENVI Standard",
        "data type = 4",
        "interleave = bil",
        "byte order = 0",
        f"wavelength = {{{', '.join(f'{nm:.2f}' for nm in sensor.grid.wavelength_nm)}}}",
    ]
    write_bytes(path, np.ascontiguousarray(reflectance.transpose(1, 0, 2), "<f4").tobytes(), overwrite=overwrite)
    write_bytes(header, ("\n".join(lines) + "\n").encode(), overwrite=overwrite)
    return path


def bench_reflectance(camera: str, seed: int = 20240611) -> Float32Array:
    """(band, row, col) reflectance of the bench in the bands of a camera; the objects are the same for every camera."""
    rng = np.random.default_rng(seed)
    spectra = bench_spectra()
    names = list(spectra)
    label, brightness = _paint(names, rng)
    grid = load_sensor(camera).grid
    in_bands = np.array(list(spectra.values())) @ view_matrix(grid, CANOPY_WAVELENGTH_NM).T  # (object, band)
    share = (label == np.arange(len(names))[:, None, None]).astype(np.float32)  # (object, row, col)
    reflectance = np.tensordot(in_bands.T.astype(np.float32), blur(share, 0.5) * brightness, axes=1)
    noise = np.where(grid.wavelength_nm < BLUE_NM, BLUE_NOISE, NOISE)[:, None, None]
    return np.asarray(reflectance + noise * rng.standard_normal(reflectance.shape), np.float32)


def bench_spectra() -> dict[str, FloatArray]:
    """By object, (2101,) reflectance at `CANOPY_WAVELENGTH_NM`. DataError if prosail is not installed."""
    prosail = import_prosail()
    nm, flat = CANOPY_WAVELENGTH_NM, np.ones(len(CANOPY_WAVELENGTH_NM))
    soil = prosail.spectral_lib.soil
    leaves = {
        name: prosail.run_prospect(n, cab, car, brown, water, dry, prospect_version="D")[1]
        for name, (cab, car, brown, water, dry, n) in LEAVES.items()
    }
    return {
        "board": 0.03 * flat,
        "white panel": 0.98 * flat,
        "grey panel": 0.5 * flat,
        "red card": 0.05 + 0.6 / (1 + np.exp(-(nm - 600) / 12)),
        "dry soil": np.asarray(soil.rsoil1),
        "wet soil": np.asarray(soil.rsoil2),
        **{name: np.asarray(leaf) for name, leaf in leaves.items()},
    }


def _paint(names: Sequence[str], rng: np.random.Generator) -> tuple[NDArray[np.intp], Float32Array]:
    """(row, col) the object of each pixel, and (row, col) factor of its reflectance."""
    rows, cols = np.mgrid[: BENCH_SHAPE[0], : BENCH_SHAPE[1]]
    label = np.full(BENCH_SHAPE, names.index("board"))
    light = 1 + TEXTURE * smooth_noise(BENCH_SHAPE, 1.5, rng) - 0.08 * np.hypot(rows / 96 - 0.5, cols / 128 - 0.5)
    for name, top, bottom, left, right in RECTANGLES:
        label[top:bottom, left:right] = names.index(name)
    is_soil = np.isin(label, [names.index("dry soil"), names.index("wet soil")])
    light = np.where(is_soil, light * np.exp(0.12 * smooth_noise(BENCH_SHAPE, 0.6, rng)), light)
    for name, row, col, length, width, turn in ELLIPSES:
        along = np.cos(turn) * (rows - row) + np.sin(turn) * (cols - col)
        across = np.cos(turn) * (cols - col) - np.sin(turn) * (rows - row)
        inside = (along / length) ** 2 + (across / width) ** 2 < 1
        label[inside] = names.index(name)
        midrib = 1 + 0.15 * np.exp(-0.5 * across**2) + 0.08 * across / width
        light = np.where(inside, light * midrib, light)
    return label, light.astype(np.float32)
