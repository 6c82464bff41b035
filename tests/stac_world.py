"""Scenes on a test server, in the layouts of archives, and their pixel values."""

import numpy as np
import rasterio
from emit_granules import Layout, place, write_granule
from rasterio.transform import Affine
from rasterio.warp import transform, transform_bounds

from ms2hs.fetching.search_query import parse_bbox

S2_BANDS = {
    10: ("B02", "B03", "B04", "B08"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09"),
}
HLS_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
BAND_NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
COG_CACHE = {}


def cog(path, values, gsd_m, corner, epsg, nodata, block=128):
    """The bytes of a COG; equal arguments give equal bytes."""
    key = (values.tobytes(), gsd_m, corner, epsg, nodata, block)
    if key not in COG_CACHE:
        COG_CACHE[key] = write_cog(path, values, gsd_m, corner, epsg, nodata, block)
    return COG_CACHE[key]


def write_cog(path, values, gsd_m, corner, epsg, nodata, block):
    profile = {
        "driver": "COG", "count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype,
        "crs": f"EPSG:{epsg}", "transform": Affine(gsd_m, 0, corner[0], 0, -gsd_m, corner[1]), "nodata": nodata,
        "blocksize": block, "compress": "DEFLATE", "predictor": "YES",
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)
    content = path.read_bytes()
    path.unlink()
    return content


def smooth(lon, lat):
    """A smooth field of stored numbers."""
    return 3000 + 1000 * np.sin(lon * 60) + 500 * np.cos(lat * 80)


class World:
    """Scenes on a server, and their pixel values."""

    def __init__(self, server, folder, side_m=6000, block=128):
        """`side_m`: side length of the scenes, a multiple of 60 m."""
        self.server, self.folder, self.side_m, self.block = server, folder, side_m, block
        self.values = {}
        """Pixel values on the server, by item and band."""

    def sentinel2(
        self, name, corner=(600_000, 5_100_000), epsg=32632, *, prefix="", seed=0, key=BAND_NAMES.get, **facts
    ):
        """An item of Earth Search; `key` names its assets; with `field`, its pixels are clear and `smooth`."""
        is_field = facts.pop("field", False)
        rng = np.random.default_rng(seed)
        assets = {}
        for gsd, bands in S2_BANDS.items():
            for band in bands:
                size = self.side_m // gsd
                values = rng.integers(1100, 4000, (size, size)).astype(np.uint16)
                if is_field:
                    y, x = corner[1] - gsd * (np.arange(size) + 0.5), corner[0] + gsd * (np.arange(size) + 0.5)
                    x, y = (part.ravel() for part in np.meshgrid(x, y))
                    field = smooth(*(np.array(part) for part in transform(f"EPSG:{epsg}", "EPSG:4326", x, y)))
                    values = field.reshape(size, size).astype(np.uint16)
                self._asset(assets, key(band), name, band, values, gsd, corner, epsg, 0, prefix)
        classes = rng.choice([4, 5, 8], (self.side_m // 200, self.side_m // 200), p=[0.5, 0.3, 0.2]).astype(np.uint8)
        classes[:] = 4 if is_field else classes
        scl = np.kron(classes, np.ones((10, 10), np.uint8))
        self._asset(assets, "scl" if key("B02") != "B02" else "SCL", name, "SCL", scl, 20, corner, epsg, 0, prefix)
        properties = {"platform": "sentinel-2a", "s2:processing_baseline": "05.10", **facts.pop("properties", {})}
        return self._item(name, assets, corner, epsg, {"collection": "sentinel-2-c1-l2a", **facts}, properties)

    def hls(self, name="HLS.S30.T32TNT.2024153T102021.v2.0", corner=(600_000, 5_100_000), epsg=32632, **facts):
        """An item of LP DAAC."""
        rng = np.random.default_rng(3)
        assets = {}
        size = self.side_m // 30
        for band in HLS_BANDS:
            values = rng.integers(100, 4000, (size, size)).astype(np.int16)
            self._asset(assets, band, name, band, values, 30, corner, epsg, -9999, facts.get("prefix", ""))
        fmask = rng.choice([0, 64, 2, 8], (size, size)).astype(np.uint8)
        self._asset(assets, "Fmask", name, "Fmask", fmask, 30, corner, epsg, 255, facts.pop("prefix", ""))
        for asset in assets.values():  # CMR-STAC does not describe the grid
            for fact in [fact for fact in asset if fact.startswith("proj:")]:
                del asset[fact]
        return self._item(name, assets, corner, epsg, {"collection": "HLSS30_2.0", **facts}, {"platform": "S2A"})

    def copernicus(self, name, corner=(600_000, 5_100_000), epsg=32632, **facts):
        """An item of Copernicus Data Space: JPEG 2000 in an S3 store."""
        rng = np.random.default_rng(4)
        assets = {}
        for gsd, bands in S2_BANDS.items():
            for band in bands:
                size = self.side_m // gsd
                self._object(assets, name, band, rng.integers(1100, 4000, (size, size)).astype(np.uint16), gsd, corner)
        scl = rng.choice([4, 5, 8], (self.side_m // 20, self.side_m // 20)).astype(np.uint8)
        self._object(assets, name, "SCL", scl, 20, corner)
        properties = {"platform": "sentinel-2a", "processing:version": "05.10", "s2:processing_baseline": "05.10"}
        return self._item(name, assets, corner, epsg, {"collection": "sentinel-2-l2a", **facts}, properties)

    def emit(self, name="001_20240603T092122_2415506_042", layout=None, seed=0, **facts):
        """An item of LP DAAC with the files of an EMIT granule; its assets have the names that CMR-STAC gives."""
        layout = layout or Layout()
        paths = write_granule(self.folder, name, layout, seed)
        prefix = facts.pop("prefix", "")
        hrefs = [self.server.add_file(f"{prefix}{path.name}", path.read_bytes()) for path in paths]
        for path in paths:
            path.unlink()
        uncertainty = f"EMIT_L2A_RFLUNCERT_{name}.nc"
        others = [f"https://opendap.earthdata.nasa.gov/{paths[0].name}", f"s3://lp-prod-protected/{paths[0].name}"]
        hrefs = [hrefs[0].replace(paths[0].name, uncertainty), *others, *hrefs]
        assets = {f"data{number or ''}": {"href": href, "roles": ["data"]} for number, href in enumerate(hrefs)}
        lon, lat, _, _ = place(layout)
        bounds = float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())
        properties = {"datetime": "2024-06-03T09:21:22Z", **facts.pop("properties", {})}
        facts = {"collection": "EMITL2ARFL_001", **facts}
        return self._placed(f"EMIT_L2A_RFL_{name}", assets, bounds, facts, properties)

    def _object(self, assets, name, band, values, gsd, corner):
        self.values[name, band] = values
        path = self.folder / "file.jp2"
        profile = {
            "driver": "JP2OpenJPEG", "count": 1, "height": values.shape[0], "width": values.shape[1],
            "dtype": values.dtype, "crs": "EPSG:32632", "transform": Affine(gsd, 0, corner[0], 0, -gsd, corner[1]),
            "QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": self.block, "BLOCKYSIZE": self.block,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", **profile) as file:
            file.write(values, 1)
        key = f"Sentinel-2/MSI/L2A/{name}.SAFE/R{gsd}m/T32TNT_{band}_{gsd}m.jp2"
        self.server.files[f"eodata/{key}"] = path.read_bytes()
        assets[f"{band}_{gsd}m"] = {
            "href": f"s3://eodata/{key}", "type": "image/jp2", "roles": ["data"], "proj:code": "EPSG:32632",
            "proj:shape": list(values.shape), "proj:transform": [gsd, 0, corner[0], 0, -gsd, corner[1]], "nodata": 0,
            "raster:scale": 1e-4, "raster:offset": -0.1,
        }  # fmt: skip

    def _asset(self, assets, key, name, band, values, gsd, corner, epsg, nodata, prefix):
        self.values[name, band] = values
        content = cog(self.folder / "file.tif", values, gsd, corner, epsg, nodata, self.block)
        separator = "." if name.startswith("HLS") else "/"
        assets[key] = {
            "href": self.server.add_file(f"{prefix}{name}{separator}{band}.tif", content),
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "proj:epsg": epsg,
            "proj:shape": list(values.shape),
            "proj:transform": [gsd, 0, corner[0], 0, -gsd, corner[1]],
        }
        if name.startswith("S2") and band != "SCL":
            assets[key]["raster:bands"] = [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]

    def _item(self, name, assets, corner, epsg, facts, properties):
        west, north = corner
        bounds = transform_bounds(f"EPSG:{epsg}", "EPSG:4326", west, north - self.side_m, west + self.side_m, north)
        return self._placed(name, assets, bounds, facts, properties)

    def _placed(self, name, assets, bounds, facts, properties):
        ring = [[bounds[i], bounds[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))]
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "bbox": list(bounds),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"datetime": "2024-06-01T10:20:21Z", "eo:cloud_cover": 5, **properties}, "assets": assets,
            "ms2hs:from": {"provider": "custom", "url": self.server.root}, **facts,
        }  # fmt: skip
        return self.server.add_item(item)


def within(bounds_m, epsg=32632):
    """The search area of bounds in metres."""
    return parse_bbox(transform_bounds(f"EPSG:{epsg}", "EPSG:4326", *bounds_m))


def signer(server):
    """A function that signs addresses of the server, like Planetary Computer."""
    kept = []

    def sign(address, *, fresh=False):
        if fresh or not kept:
            kept.append(server.signature())
        return f"{address}?{kept[-1]}"

    return sign
