"""EnMAP L2A products for tests: the text of METADATA.XML, and an item with its files on a server."""

import numpy as np
import rasterio
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

PRODUCT = "ENMAP01-____L2A-DT0000044371_20230929T104711Z_033_V010502_20260106T185219Z"
GAIN, OFFSET = 2e-4, 0.01
CORNER, EPSG, GSD_M = (643_545, 5_241_045), 32632, 30
# Twelve bands of both detectors, which overlap at 902-993 nm; by channel from 1.
WAVELENGTH = np.array([490.0, 560, 660, 865, 902, 904, 912, 915, 993, 1010, 1650, 2200])
VNIR, SWIR = (1, 2, 3, 4, 6, 8, 9), (5, 7, 10, 11, 12)
# Positions of the bands that remain where SWIR is taken in the overlap.
KEPT = [0, 1, 2, 3, 4, 6, 9, 10, 11]
# Keys of the quality layers in items of DLR.
LAYERS = {
    "quality_classes": "QL_QUALITY_CLASSES", "quality_cloud": "QL_QUALITY_CLOUD",
    "quality_cloud_shadow": "QL_QUALITY_CLOUDSHADOW", "quality_haze": "QL_QUALITY_HAZE",
    "quality_cirrus": "QL_QUALITY_CIRRUS", "quality_snow": "QL_QUALITY_SNOW",
    "quality_testflags": "QL_QUALITY_TESTFLAGS", "defective_pixel_mask": "QL_PIXELMASK",
}  # fmt: skip


def enmap_metadata(wavelength, vnir, swir, empty=(), gain=GAIN, offset=OFFSET):
    """The text of METADATA.XML; `vnir` and `swir` are the bands of the detectors, counted from 1."""
    bands = "".join(
        f'<bandID number="{i}"><wavelengthCenterOfBand>{nm}</wavelengthCenterOfBand>'
        f"<FWHMOfBand>{6 + i / 10}</FWHMOfBand><GainOfBand>{gain}</GainOfBand>"
        f"<OffsetOfBand>{offset}</OffsetOfBand></bandID>"
        for i, nm in enumerate(wavelength, 1)
    )
    statistics = "".join(
        f'<bandID number="{i}"><mean>{-1000000 if i in empty else 1200.5}</mean>'
        f"<stdDeviation>{0 if i in empty else 33.1}</stdDeviation></bandID>"
        for i in range(1, len(wavelength) + 1)
    )
    lists = "".join(
        f"<{detector}ProductQuality><expectedChannelsList>{','.join(map(str, channels))}</expectedChannelsList>"
        f"</{detector}ProductQuality>"
        for detector, channels in (("vnir", vnir), ("swir", swir))
    )
    return (
        f"<level_X><product><bandStatistics>{statistics}</bandStatistics></product>"
        f"<specific><bandCharacterisation>{bands}</bandCharacterisation>{lists}</specific></level_X>"
    )


def raster(path, values, block, interleave, nodata=None):
    """The bytes of a tiled GeoTIFF; with its blocks of all bands (`pixel`), or of one (`band`)."""
    profile = {
        "driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2],
        "dtype": values.dtype, "crs": f"EPSG:{EPSG}", "nodata": nodata, "tiled": True, "blockxsize": block,
        "blockysize": block, "compress": "DEFLATE", "predictor": 2, "interleave": interleave,
        "transform": Affine(GSD_M, 0, CORNER[0], 0, -GSD_M, CORNER[1]), "bigtiff": "YES",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
    return path.read_bytes()


def enmap_item(
    add_file, folder, shape=(160, 200), *, block=64, interleave="pixel", seed=0, product=PRODUCT, flags=None
):
    """An item as in DLR's catalogue, with its stored numbers, and the layers that `add_file(name, content)` serves.

    Returns item, (band, row, col) stored numbers, and (row, col) quality layers by name. `flags` replaces layers.
    """
    rng = np.random.default_rng(seed)
    dn = rng.integers(200, 4000, (len(WAVELENGTH), *shape)).astype(np.int16)
    dn[:, :3, :5] = -32768
    layers = {name: np.zeros(shape, np.uint8) for name in LAYERS.values()}
    layers["QL_QUALITY_CLOUD"][20:30, 20:40] = 1
    layers["QL_QUALITY_CLOUDSHADOW"][40:44, 20:40] = 1
    layers["QL_QUALITY_CIRRUS"][50:52, 20:40] = 2
    layers["QL_QUALITY_HAZE"][60:62, 20:40] = 1
    layers["QL_QUALITY_SNOW"][70:72, 20:40] = 1
    layers["QL_QUALITY_CLASSES"][:] = 1
    layers |= flags or {}
    path = folder / "file.tif"
    contents = {"metadata": ("METADATA.XML", enmap_metadata(WAVELENGTH, VNIR, SWIR).encode())}
    contents["image"] = ("SPECTRAL_IMAGE_COG.TIF", raster(path, dn, block, interleave, -32768))
    for key, name in LAYERS.items():
        if name in layers:
            contents[key] = (f"{name}_COG.TIF", raster(path, layers[name][None], 4 * block, "band"))
    contents["vnir"] = ("QL_VNIR_COG.TIF", b"a picture")
    contents["thumbnail"] = ("QL_VNIR_COG_thumbnail.png", b"a picture")
    assets = {
        key: {"href": add_file(f"{product}/{product}-{name}", content), "roles": ["data"]}
        for key, (name, content) in contents.items()
    }
    west, north = CORNER
    bounds = transform_bounds(
        f"EPSG:{EPSG}", "EPSG:4326", west, north - GSD_M * shape[0], west + GSD_M * shape[1], north
    )
    ring = [[bounds[i], bounds[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))]
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": product, "collection": "ENMAP_HSI_L2A", "bbox": list(bounds),
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "links": [], "assets": assets,
        "properties": {
            "datetime": "2023-09-29T10:47:13.691539Z", "platform": "enmap", "eo:cloud_cover": 2, "proj:epsg": EPSG,
            "updated": "2026-09-11T23:36:20.993Z",
        },
    }  # fmt: skip
    return item, dn, layers
