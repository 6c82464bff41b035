"""EMIT L2A granules in the layout of LP DAAC's files, small and with known values."""

from dataclasses import dataclass

import h5py
import numpy as np

STEP = 0.000542232520256367
FLAG_NAMES = {
    1: ("Cloud flag", "Cirrus flag", "Water flag", "Spacecraft Flag", "Dilated Cloud Flag", "AOD550", "H2O (g cm-2)",
        "Aggregate Flag"),
    2: ("Cloud Flag", "Cirrus Flag", "Water Flag", "Spacecraft Flag", "Dilated Cloud Flag", "AOD550", "H2O (g cm-2)",
        "Aggregate Flag", "SpecTf-Cloud Probability", "SpecTf-Cloud Flag", "SpecTf-Buffer Distance"),
    3: ("Cloud Flag", "Cirrus Flag", "Water Flag", "Dilated Cloud Flag", "SpecTf-Cloud Probability",
        "SpecTf-Cloud Flag", "SpecTf-Buffer Distance"),
}  # fmt: skip


CACHE = {}


@dataclass(frozen=True)
class Layout:
    """Size and storage of a granule."""

    rows: int = 96
    cols: int = 80
    bands: int = 30
    chunks: tuple[int, int, int] | None = (32, 40, 10)
    """Of reflectance; None: contiguous."""
    flipped: bool = False
    build: str = "010619"
    flags_version: int = 1
    turn_degrees: float = 30.0
    lon: float = 10.30
    lat: float = 46.02


def write_granule(folder, name, layout=None, seed=0, flags=None):
    """Write `EMIT_L2A_RFL_…` and `EMIT_L2A_MASK_…` of a granule; returns both paths.

    `flags`: (row, col, flag) of the MASK file; by default a cloud, a dilated cloud and water.
    """
    layout = layout or Layout()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"EMIT_L2A_{kind}_{name}.nc" for kind in ("RFL", "MASK")]
    if flags is not None:
        _write(paths, layout, seed, flags)
        return paths
    key = layout, seed
    if key not in CACHE:
        _write(paths, layout, seed, None)
        CACHE[key] = [path.read_bytes() for path in paths]
    for path, content in zip(paths, CACHE[key], strict=True):
        path.write_bytes(content)
    return paths


def _write(paths, layout, seed, flags):
    rng = np.random.default_rng(seed)
    shape = layout.rows, layout.cols
    good = np.ones(layout.bands, np.uint8)
    good[layout.bands // 2 : layout.bands // 2 + 3] = 0
    rfl = rng.random((*shape, layout.bands), np.float32) * np.float32(0.4) + np.float32(0.05)
    rfl[..., good == 0] = -0.01
    rfl[3, 4] = -9999
    if flags is None:
        names = [name.lower() for name in FLAG_NAMES[layout.flags_version]]
        flags = np.zeros((*shape, len(names)), np.float32)
        flags[10:20, 30:40, names.index("cloud flag")] = 1
        flags[40:50, 5:15, names.index("dilated cloud flag")] = 1
        flags[60:80, 20:50, names.index("water flag")] = 1
    lon, lat, table, corner = place(layout)
    deflate = {"compression": "gzip", "compression_opts": 1}
    for path, variable, values in zip(paths, ("reflectance", "mask"), (rfl, flags.astype(np.float32)), strict=True):
        with h5py.File(path, "w", track_order=True) as file:
            file.attrs["geotransform"] = np.array([corner[0], STEP, -0.0, corner[1], -0.0, -STEP])
            file.attrs["spatial_ref"] = 'GEOGCS["WGS 84",DATUM["WGS_1984"],AUTHORITY["EPSG","4326"]]'
            file.attrs["software_build_version"] = layout.build
            file.attrs["time_coverage_start"] = "2024-06-03T09:21:22+0000"
            chunks = layout.chunks and tuple(map(min, layout.chunks, values.shape))
            options = {"chunks": chunks, **deflate} if chunks else {}
            file.create_dataset(variable, data=values, fillvalue=-9999.0, **options)
            bands = file.create_group("sensor_band_parameters")
            if variable == "reflectance":
                bands["wavelengths"] = np.linspace(410.0, 2493.0, layout.bands).astype(np.float32)
                bands["fwhm"] = np.full(layout.bands, 8.5, np.float32)
                bands["good_wavelengths"] = good
            else:
                bands["mask_bands"] = np.array(FLAG_NAMES[layout.flags_version], h5py.string_dtype())
            location = file.create_group("location")
            location["lon"], location["lat"], location["elev"] = lon, lat, np.zeros(shape)
            for axis, numbers in (("x", table[1]), ("y", table[0])):
                location.create_dataset(
                    f"glt_{axis}", data=numbers, chunks=tuple(map(min, (64, 64), numbers.shape)), **deflate
                )
    return paths


def place(layout):
    """Longitudes and latitudes of the sensor pixels, the look-up table (y, x), and its north-western corner."""
    turn = np.deg2rad(layout.turn_degrees)
    row, col = np.indices((layout.rows, layout.cols))
    matrix = STEP * np.array([[np.sin(turn), np.cos(turn)], [-np.cos(turn), np.sin(turn)]])
    lon = layout.lon + matrix[0, 0] * row + matrix[0, 1] * col
    lat = layout.lat + matrix[1, 0] * row + matrix[1, 1] * col
    west, north = lon.min() - STEP, lat.max() + STEP
    height, width = int((north - lat.min()) / STEP) + 2, int((lon.max() - west) / STEP) + 2
    y, x = np.indices((height, width))
    offsets = np.stack([west + (x + 0.5) * STEP - layout.lon, north - (y + 0.5) * STEP - layout.lat])
    rows, cols = np.rint(np.tensordot(np.linalg.inv(matrix), offsets, 1)).astype(int)
    inside = (rows >= 0) & (rows < layout.rows) & (cols >= 0) & (cols < layout.cols)
    cols = layout.cols - 1 - cols if layout.flipped else cols
    table = np.where(inside, np.stack([rows, cols]) + 1, 0).astype(np.int32)
    return lon, lat, table, (west, north)
