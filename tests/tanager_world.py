"""Tanager products for tests, in the layout of Planet's HDF-EOS5 files, and a static catalogue with an item."""

import h5py
import numpy as np
from rasterio.warp import transform_bounds
from stac_items import stac_item

SCENE = "20250511_074311_00_4001"
EPSG, CORNER, GSD_M = 32639, (570_300.0, 2_755_450.0), 30.0
# Two bands of water vapour are bad, and the file is not in ascending order at its end.
WAVELENGTH = np.array([476.0, 560, 665, 860, 1377.5, 1407.5, 1650, 2250, 2200])
GOOD = np.array([1, 1, 1, 1, 0, 0, 1, 1, 1], np.uint8)
FWHM = np.linspace(5.2, 6.8, len(WAVELENGTH))
KEPT = [0, 1, 2, 3, 6, 8, 7]
STRUCTURE = """GROUP=SwathStructure
END_GROUP=SwathStructure
GROUP=GridStructure
\tGROUP=GRID_1
\t\tGridName="HYP"
\t\tBand={bands}
\t\tXDim={cols}
\t\tYDim={rows}
\t\tUpperLeftPointMtrs=({west:.2f},{north:.2f})
\t\tLowerRightMtrs=({east:.2f},{south:.2f})
\t\tProjection=HE5_GCTP_UTM
\t\tZoneCode={zone}
\t\tGridOrigin=HE5_HDFE_GD_UL
END_GROUP=GridStructure
END
"""


def make_tanager(path, shape=(60, 80), *, layout="GRIDS", seed=0, chunks=(4, 16, 20), zone=39, epsg=EPSG):
    """Write a product. Returns its (band, row, col) numbers, and the (row, col) flags of all layers together."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.02, 0.6, (len(WAVELENGTH), *shape)).astype(np.float32)
    values[:, :2, :3] = -9999.0
    layers = {name: np.zeros(shape, np.float32) for name in ("nodata_pixels", "beta_cloud_mask", "beta_cirrus_mask")}
    layers["nodata_pixels"][:2, :3] = 1
    layers["beta_cloud_mask"][20:30, 10:40] = 1
    layers["beta_cirrus_mask"][40:42, 10:40] = 255
    rows, cols = shape
    west, north = CORNER
    with h5py.File(path, "w") as file:
        fields = file.create_group(f"HDFEOS/{layout}/HYP/Data Fields")
        options = {"compression": "gzip", "compression_opts": 4}
        stored = fields.create_dataset("surface_reflectance", data=values, chunks=chunks, **options)
        stored.attrs.update(wavelengths=WAVELENGTH.astype("f4"), fwhm=FWHM.astype("f4"), good_wavelengths=GOOD)
        stored.attrs.update(Unit="Unitless", _FillValue=np.float32(-9999))
        fields.create_dataset("surface_reflectance_uncertainty", data=values / 50, chunks=chunks, **options)
        for name, layer in layers.items():
            fields.create_dataset(name, data=layer, chunks=chunks and chunks[1:], **(options if chunks else {}))
        file[f"HDFEOS/{layout}/HYP"].attrs["strip_id"] = "20250511_074311_00"
        if layout == "SWATHS":
            positions = file.create_group("HDFEOS/SWATHS/HYP/Geolocation Fields")
            for name in ("Latitude", "Longitude"):
                positions.create_dataset(name, data=np.zeros(shape))
        elif epsg is not None:
            file["HDFEOS/GRIDS/HYP"].attrs["epsg_code"] = epsg
        east, south = west + GSD_M * cols, north - GSD_M * rows
        text = STRUCTURE.format(
            bands=len(WAVELENGTH), cols=cols, rows=rows, west=west, north=north, east=east, south=south, zone=zone
        )
        file.create_dataset("HDFEOS INFORMATION/StructMetadata.0", data=np.bytes_(text))
    return values, np.any([layer != 0 for layer in layers.values()], axis=0)


def truth(values, flagged):
    """(band, row, col) reflectance of the good bands in ascending order."""
    expected = values[KEPT].copy()
    expected[:, flagged] = np.nan
    return expected


def tanager_item(add_file, folder, shape=(60, 80), **options):
    """An item as in Planet's open catalogue; returns item, stored numbers and flags."""
    path = folder / "file.h5"
    values, flagged = make_tanager(path, shape, **options)
    address = add_file(f"tanager/ortho_sr_hdf5/{SCENE}_ortho_sr_hdf5.h5", path.read_bytes())
    make_tanager(path, shape, layout="SWATHS")
    basic = add_file(f"tanager/basic_sr_hdf5/{SCENE}_basic_sr_hdf5.h5", path.read_bytes())
    visual = add_file(f"tanager/ortho_visual/{SCENE}_ortho_visual.tif", b"a picture")
    assets = {"basic_sr_hdf5": basic, "ortho_sr_hdf5": address, "ortho_visual": visual}
    item = stac_item(SCENE, "coastal-water-bodies", {"datetime": "2025-05-11T07:43:11Z"}, {})
    west, north = CORNER
    bounds = transform_bounds(
        f"EPSG:{EPSG}", "EPSG:4326", west, north - GSD_M * shape[0], west + GSD_M * shape[1], north
    )
    ring = [[bounds[i], bounds[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))]
    item["properties"] |= {"cloud_percent": 4, "gsd": 32.6}
    del item["properties"]["eo:cloud_cover"]
    item |= {"bbox": list(bounds), "geometry": {"type": "Polygon", "coordinates": [ring]}}
    return item | {"assets": {key: {"href": href} for key, href in assets.items()}}, values, flagged
