"""Simulated sites from which the products of several sensors can be written, each in its own layout."""

import h5py
import numpy as np
from conftest import S2_BANDS, write_raster
from rasterio import Affine
from rasterio.warp import transform
from test_band_files import ALL_S30
from test_cubes import enmap_metadata
from test_safe import GRANULE, IDS, XML, offsets_xml

from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of, response_matrix

CRS = "EPSG:32632"
NM = np.arange(370.0, 2511.0, 5.0)
# Leaves and soil, roughly.
LEAVES = 0.03 + 0.4 / (1 + np.exp(-(NM - 715) / 15)) - 0.25 / (1 + np.exp(-(NM - 1400) / 80))
SOIL = 0.05 + 0.35 * (1 - np.exp(-(NM - 350) / 700))
# Bands of the simulated EnMAP and EMIT; the real bands are denser.
ENMAP_NM = np.arange(420.0, 2450.0, 20.0)
EMIT_NM = np.arange(390.0, 2490.0, 22.0)


class Site:
    """Ground with shares of leaves and soil that vary like fields, at any point."""

    def __init__(self, x=600_000.0, y=5_100_000.0, seed=0):
        self.x, self.y = x, y  # upper left corner
        rng = np.random.default_rng(seed)
        length_m = np.exp(rng.uniform(np.log(150), np.log(1200), 24))
        angle, self.phase = rng.uniform(0, 2 * np.pi, (2, 24))
        self.waves = 2 * np.pi / length_m * np.stack([np.cos(angle), np.sin(angle)])
        self.height = 0.35 * np.sqrt(length_m / length_m.sum())

    def leaves(self, x, y):
        """Share, 0-1, of leaves at points in metres."""
        steps = self.waves[0] * (x[..., None] - self.x) + self.waves[1] * (y[..., None] - self.y)
        return np.clip(0.5 + (self.height * np.cos(steps + self.phase)).sum(axis=-1), 0, 1)

    def shares(self, place, shape, crs=CRS, fine=2):
        """(row, col) mean share of leaves in each pixel, from points inside it."""
        rows, cols = ((np.arange(size * fine) + 0.5) / fine for size in shape)
        x, y = at(place, *np.meshgrid(cols, rows))
        if crs != CRS:
            flat = transform(crs, CRS, x.ravel(), y.ravel())
            x, y = (np.reshape(part, x.shape) for part in flat)
        dense = self.leaves(x, y)
        return dense.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3))

    def seen(self, sensor, place, shape, crs=CRS):
        """(band, row, col) reflectance in the bands of a sensor."""
        leaves, soil = (response_matrix(sensor, NM) @ spectrum for spectrum in (LEAVES, SOIL))
        share = self.shares(place, shape, crs)
        return leaves[:, None, None] * share + soil[:, None, None] * (1 - share)

    def place(self, gsd_m, row=0.0, col=0.0):
        """The transform of a grid that begins (row, col) pixels from the corner."""
        return Affine(gsd_m, 0, self.x + col * gsd_m, 0, -gsd_m, self.y - row * gsd_m)


def at(place, col, row):
    """Coordinates of pixels by a transform; the operators of affine differ between versions."""
    return place.a * col + place.b * row + place.c, place.d * col + place.e * row + place.f


def displaced(place, shift):
    """The transform with an error of `shift` (rows, columns)."""
    x, y = at(place, shift[1], shift[0])
    return Affine(place.a, place.b, x, place.d, place.e, y)


def make_enmap(folder, site, day="20240602", shape=(52, 48), shift=(0.0, 0.0), begin=(12, 14), cloud=None, tile="008"):
    """An EnMAP product of 30 m in its own folder; `begin` in pixels from the site's corner."""
    name = f"ENMAP01-____L2A-DT0000001867_{day}T104526Z_{tile}_V010302_20240628T165614Z"
    place = site.place(30, *begin)
    values = site.seen(grid_of(ENMAP_NM, np.full(len(ENMAP_NM), 10.0)), place, shape)
    options = {"crs": CRS, "transform": displaced(place, shift)}
    dn = np.round(values * 1e4).astype(np.int16)
    write_raster(folder / name / f"{name}-SPECTRAL_IMAGE.TIF", dn, nodata=-32768, **options)
    flags = np.zeros((1, *shape), np.uint8) if cloud is None else cloud[None].astype(np.uint8)
    write_raster(folder / name / f"{name}-QL_QUALITY_CLOUD.TIF", flags, **options)
    channels = np.arange(1, len(ENMAP_NM) + 1)
    text = enmap_metadata(ENMAP_NM, channels[ENMAP_NM < 990], channels[ENMAP_NM >= 990], gain=1e-4, offset=0)
    (folder / name / f"{name}-METADATA.XML").write_text(text)
    return folder / name


def make_emit(folder, site, day="20240603", shape=(40, 44), shift=(0.0, 0.0), begin=(600.0, 600.0)):
    """An EMIT granule whose sensor grid is the ortho grid; `begin` in metres from the site's corner."""
    step = 0.000542232520256367
    (west,), (north,) = transform(CRS, "EPSG:4326", [site.x + begin[1]], [site.y - begin[0]])
    place = Affine(step, 0, west, 0, -step, north)
    values = site.seen(grid_of(EMIT_NM, np.full(len(EMIT_NM), 9.0)), place, shape, "EPSG:4326")
    place = displaced(place, shift)
    rows, cols = np.indices(shape)
    lon, lat = at(place, cols + 0.5, rows + 0.5)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"EMIT_L2A_RFL_001_{day}T092122_2315006_042.nc"
    with h5py.File(path, "w") as file:
        file.create_dataset("reflectance", data=np.moveaxis(values, 0, -1).astype(np.float32), fillvalue=-9999.0)
        file["sensor_band_parameters/wavelengths"] = EMIT_NM
        file["sensor_band_parameters/fwhm"] = np.full(len(EMIT_NM), 9.0)
        file["sensor_band_parameters/good_wavelengths"] = ((EMIT_NM < 1325) | (EMIT_NM > 1435)).astype(np.uint8)
        file["location/lon"], file["location/lat"] = lon, lat
        file["location/glt_y"], file["location/glt_x"] = rows + 1, cols + 1
        file.attrs["geotransform"] = np.array([place.c, place.a, 0.0, place.f, 0.0, place.e])
        file.attrs["software_build_version"], file.attrs["crosstrack_orientation"] = "010619", "as seen on ground"
    return path


def sentinel2_dn(site, side_m=2400, gsd_m=10.0, plus=0):
    side = round(side_m / gsd_m)
    values = site.seen(load_sensor("sentinel2b").grid, site.place(gsd_m), (side, side))
    return np.round(values * 1e4).astype(np.uint16) + np.uint16(plus)


def make_sentinel2_tif(folder, site, day="20240604", plus=0, gsd_m=10.0, side_m=2400, crs=CRS):
    """A GeoTIFF of 12 bands; `plus` is added to the dn without metadata."""
    path = folder / f"S2B_MSIL2A_{day}T101559_T32TNT.tif"
    dn = sentinel2_dn(site, side_m, gsd_m, plus)
    return write_raster(path, dn, descriptions=S2_BANDS, nodata=0, crs=crs, transform=site.place(gsd_m))


def make_safe(folder, site, side_m=2400):
    """The product of 1 June 2024: bands at their own resolution, BOA_ADD_OFFSET in metadata and dn."""
    name = "S2B_MSIL2A_20240601T102021_N0510_R065_T32TNT_20240601T140000.SAFE"
    grid = load_sensor("sentinel2b").grid
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    for gsd, bands in (
        (10, ("B02", "B03", "B04", "B08")),
        (20, ("B05", "B06", "B07", "B8A", "B11", "B12")),
        (60, ("B01", "B09")),
    ):
        place, shape = site.place(gsd), (side_m // gsd,) * 2
        values = site.seen(grid.select(grid.index(bands)), place, shape)
        for band, image in zip(bands, values, strict=True):
            file = folder / name / GRANULE / f"R{gsd}m" / f"T32TNT_20240601T102021_{band}_{gsd}m.jp2"
            write_raster(file, np.round(image[None] * 1e4 + 1000).astype(np.uint16), transform=place, **lossless)
    scl = folder / name / GRANULE / "R20m" / "T32TNT_20240601T102021_SCL_20m.jp2"
    shape = (1, side_m // 20, side_m // 20)
    write_raster(scl, np.full(shape, 4, np.uint8), transform=site.place(20), **lossless)
    facts = {"name": name, "baseline": "05.10", "spacecraft": "Sentinel-2B", "quantification": "10000"}
    (folder / name / "MTD_MSIL2A.xml").write_text(XML.format(**facts, offsets=offsets_xml([-1000] * len(IDS))))
    return folder / name


def make_hls(folder, site, day_of_year=154, fmask=0, side_m=4200):
    """An HLS S30 granule of 2024 in its own folder."""
    stem = f"HLS.S30.T32TNT.2024{day_of_year:03d}T102021.v2.0"
    shape = (side_m // 30,) * 2
    grid = load_sensor("hls_s30").grid
    values = dict(zip(grid.names, site.seen(grid, site.place(30), shape), strict=True))
    options = {"transform": site.place(30)}
    for band in ALL_S30:
        if band in values:
            dn = np.round(values[band][None] * 1e4).astype(np.int16)
            write_raster(folder / stem / f"{stem}.{band}.tif", dn, nodata=-9999, scale=1e-4, **options)
    layer = np.broadcast_to(np.asarray(fmask, np.uint8), (1, *shape)).copy()
    write_raster(folder / stem / f"{stem}.Fmask.tif", layer, nodata=255, **options)
    return folder / stem


def make_hyspecnet(folder, site, patches=2, side=32, day="20240602"):
    """Adjacent patches of one tile with all 224 bands, scale 1e-4."""
    tile = f"ENMAP01-____L2A-DT0000004950_{day}T162438Z_001_V010110_20241118T145147Z"
    for number in range(patches):
        patch = f"{tile}-Y0001_X{number:04d}"
        path = folder / "patches" / tile / patch / f"{patch}-SPECTRAL_IMAGE.TIF"
        place = site.place(30, 4, 4 + side * number)
        values = site.seen(load_sensor("enmap-224").grid, place, (side, side))
        write_raster(path, np.round(values * 1e4).astype(np.int16), nodata=-32768, crs=CRS, transform=place)
    return folder
