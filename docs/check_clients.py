"""Open an output in the programs that people use, and print one row for each: what works, or why not.

    ms2hs example OUT/example.tif
    ms2hs convert OUT/example.tif --model linear -o OUT/cube.tif
    ms2hs export OUT/cube.tif OUT/cube.zarr                        (and OUT/cube.hdr, OUT/cube.nc)
    ms2hs export OUT/cube.tif OUT/deflate.tif --compress deflate
    python docs/check_clients.py OUT --python CLIENTS/bin/python --python /usr/bin/python3 --node FOLDER

Clients are not dependencies of ms2hs, and their versions contradict each other. Install them into environments of your
own: each `--python` is an interpreter, each `--node` a folder with `node_modules`. A check runs in a process of every
interpreter that has the client, and compares what the client reads with the numbers that rasterio reads here: the
spectrum of the central pixel, the wavelengths, and the picture. `--pgstac` is the address of a test database.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

SECONDS_PER_CHECK = 120
# The files of an output.
FILES = {
    "cube": "cube.tif", "item": "cube.json", "quicklook": "cube.png", "zarr": "cube.zarr", "envi": "cube.hdr",
    "netcdf": "cube.nc", "deflate": "deflate.tif",
}  # fmt: skip


class Unsuited(Exception):
    """A client or a file that a check needs does not exist."""


@dataclass(frozen=True)
class Case:
    """The files of an output, and what a client should read from them."""

    cube: str
    item: str
    quicklook: str
    deflate: str
    envi: str
    zarr: str
    netcdf: str
    pgstac: str
    """Address of a database; empty without one."""
    row: int
    """Of the pixel."""
    col: int
    lon: float
    lat: float
    stored: list[int]
    """(band,) stored numbers of the pixel."""
    wavelength_nm: list[float]
    rgb: list[int]
    """1-based bands of natural colour."""

    def need(self, name: str) -> str:
        """The path of a file, or the address of a database; Unsuited if it is not given."""
        path = str(getattr(self, name))
        if not path:
            raise Unsuited(f"not given: {FILES.get(name, f'--{name}')}")
        return path

    def check_spectrum(self, values: Iterable[Any], scale: float = 1.0) -> None:
        """Compare values with the stored numbers times `scale`."""
        _check_equal("the spectrum", list(values), [number * scale for number in self.stored], 1e-3 * scale)

    def check_wavelengths(self, values: Iterable[Any]) -> None:
        """Compare wavelengths in nm."""
        _check_equal("the wavelengths", list(values), self.wavelength_nm, 1e-3)


def _check_equal(what: str, found: list[Any], expected: list[float], tolerance: float) -> None:
    if len(found) != len(expected):
        raise ValueError(f"{what} has {len(found)} values, not {len(expected)}")
    if (difference := max(abs(float(one) - other) for one, other in zip(found, expected, strict=True))) > tolerance:
        raise ValueError(f"{what} differs by up to {difference:g}")


# ---- clients in Python: each returns its versions and what works, and raises what does not ---------------------------


def check_rasterio(case: Case) -> tuple[str, str]:
    """The tags of bands, and the spectrum."""
    import rasterio

    with rasterio.open(case.cube) as file:
        case.check_spectrum(file.read(window=((case.row, case.row + 1), (case.col, case.col + 1)))[:, 0, 0])
        tags = [file.tags(band) for band in file.indexes]
    case.check_wavelengths(tag["wavelength"] for tag in tags)
    inferred = sum(tag["ms2hs_support"] == "inferred" for tag in tags)
    versions = f"{rasterio.__version__} (GDAL {rasterio.__gdal_version__})"
    return versions, f"spectrum, wavelengths, support of bands ({inferred} of {len(tags)} inferred)"


def check_rioxarray(case: Case) -> tuple[str, str]:
    """A COG as an array; it has no coordinate of wavelengths."""
    import rioxarray

    cube = rioxarray.open_rasterio(case.cube, mask_and_scale=True)
    case.check_spectrum(cube[:, case.row, case.col].values, 1e-4)
    return rioxarray.__version__, f"reflectance; wavelengths in the names of bands ({cube.long_name[0]})"


def check_xarray_zarr(case: Case) -> tuple[str, str]:
    """Zarr by xarray alone."""
    import xarray as xr

    cube = xr.open_zarr(case.need("zarr"))
    return xr.__version__, _check_dataset(case, cube)


def check_xarray_netcdf(case: Case) -> tuple[str, str]:
    """NetCDF by xarray alone."""
    import xarray as xr

    cube = xr.open_dataset(case.need("netcdf"))
    return xr.__version__, _check_dataset(case, cube)


def _check_dataset(case: Case, cube: Any) -> str:
    case.check_wavelengths(cube.wavelength.values)
    case.check_spectrum(cube.reflectance[:, case.row, case.col].values, 1e-4)
    nearest = cube.reflectance.sel(wavelength=650, method="nearest")
    return f"reflectance; `sel(wavelength=650, method='nearest')` gives {float(nearest.wavelength):.1f} nm"


def check_zarr(case: Case) -> tuple[str, str]:
    """The arrays of a Zarr store."""
    import zarr

    group = zarr.open_group(case.need("zarr"), mode="r")
    cube = group["reflectance"]
    case.check_spectrum(cube[:, case.row, case.col])
    case.check_wavelengths(group["wavelength"][:])
    return zarr.__version__, f"spectrum; chunks {cube.chunks}, shards {cube.shards}"


def check_spectral(case: Case) -> tuple[str, str]:
    """ENVI by Spectral Python (SPy)."""
    import spectral

    image = spectral.open_image(case.need("envi"))
    case.check_wavelengths(image.bands.centers)
    case.check_spectrum(image.read_pixel(case.row, case.col) * image.scale_factor)
    return spectral.__version__, f"spectrum, wavelengths in {image.bands.band_unit}, widths"


def check_odc_stac(case: Case) -> tuple[str, str]:
    """Bands of the item by common name and by name."""
    import odc.stac
    import pystac

    item = pystac.Item.from_file(case.item)
    whole = odc.stac.load([item], chunks={})
    names = list(whole.data_vars)[: len(case.stored)]
    cube = odc.stac.load([item], bands=["red", "green", "blue", names[0]])
    at = {str(axis): index for axis, index in zip(cube.red.dims, (0, case.row, case.col), strict=True)}
    found = [int(cube[name].isel(at)) for name in ("red", "green", "blue", names[0])]
    _check_equal("the bands", found, [case.stored[band - 1] for band in case.rgb] + case.stored[:1], 0)
    return (
        odc.stac.__version__,
        f"{len(whole.data_vars)} bands {names[0]} … {names[-1]}; red, green, blue by common name",
    )


def check_pystac(case: Case) -> tuple[str, str]:
    """The core schema; the schemas of extensions are on the web."""
    import pystac
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    document = json.loads(Path(case.item).read_text("utf-8"))
    JsonSchemaSTACValidator().validate_core(document, pystac.STACObjectType.ITEM, "1.1.0")
    return pystac.__version__, f"valid STAC {document['stac_version']} (core schema)"


def check_stac_geoparquet(case: Case) -> tuple[str, str]:
    """The item to Parquet and back."""
    import pyarrow.parquet
    import stac_geoparquet.arrow as geoparquet

    document = json.loads(Path(case.item).read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        geoparquet.to_parquet(geoparquet.parse_stac_items_to_arrow([document]), f"{folder}/items.parquet")
        back = next(iter(geoparquet.stac_table_to_items(pyarrow.parquet.read_table(f"{folder}/items.parquet"))))
    for asset, fields_of_asset in document["assets"].items():
        if "eo:bands" in fields_of_asset and len(back["assets"][asset]["eo:bands"]) != len(fields_of_asset["eo:bands"]):
            raise ValueError(f"bands of {asset} are lost")
    return version("stac-geoparquet"), "item to Parquet and back, all bands"


def check_pgstac(case: Case) -> tuple[str, str]:
    """The item into a database and back by a search."""
    from pypgstac.db import PgstacDB
    from pypgstac.load import Loader, Methods

    database = PgstacDB(dsn=case.need("pgstac"))
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    collection = {
        "type": "Collection", "id": "check-clients", "stac_version": "1.1.0", "description": "-", "license": "other",
        "links": [], "extent": extent,
    }  # fmt: skip
    document = json.loads(Path(case.item).read_text("utf-8")) | {"collection": collection["id"]}
    loader = Loader(db=database)
    loader.load_collections(iter([collection]), insert_mode=Methods.upsert)
    loader.load_items(iter([document]), insert_mode=Methods.upsert)
    search = {"collections": [collection["id"]], "ids": [document["id"]]}
    [back] = database.query_one(f"SELECT search('{json.dumps(search)}')")["features"]
    for part in ("properties", "assets", "geometry"):
        if back[part] != document[part]:
            raise ValueError(f"{part} differ")
    return version("pypgstac"), "item loaded, found by a search, and returned unchanged"


def check_rio_tiler(case: Case) -> tuple[str, str]:
    """A point and a tile from the item, with the bands of its rendering."""
    import rio_tiler
    from rio_tiler.io import STACReader

    with STACReader(case.item) as reader:
        point = reader.point(case.lon, case.lat, assets=[{"name": "data"}])
        case.check_spectrum(point.data)
        tile = reader.tile(*_tile_at(case.lon, case.lat), assets=[{"name": "data", "indexes": case.rgb}])
        named = reader.point(case.lon, case.lat, assets=[{"name": "data", "bands": ["red", "green", "blue"]}])
    _check_equal("the bands", list(named.data), [case.stored[band - 1] for band in case.rgb], 0)
    return rio_tiler.__version__, f"point, tile {tile.data.shape}, bands by common name"


def check_titiler(case: Case) -> tuple[str, str]:
    """A tile server: the rendering of the item, and a point."""
    import titiler.core
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from titiler.core.factory import TilerFactory

    app = FastAPI()
    app.include_router(TilerFactory().router)
    client = TestClient(app)
    render = json.loads(Path(case.item).read_text("utf-8"))["properties"]["renders"]["natural"]
    wanted = {"url": case.cube, "bidx": render["bidx"], "rescale": [f"{low},{high}" for low, high in render["rescale"]]}
    col, row, zoom = _tile_at(case.lon, case.lat)
    tile = client.get(f"/tiles/WebMercatorQuad/{zoom}/{col}/{row}.png", params=wanted)
    point = client.get(f"/point/{case.lon},{case.lat}", params={"url": case.cube})
    if (tile.status_code, point.status_code) != (200, 200):
        raise ValueError(f"tile {tile.status_code}, point {point.status_code}")
    case.check_spectrum(point.json()["values"])
    return titiler.core.__version__, f"tile of the item's rendering ({len(tile.content) // 1000} kB PNG), point"


def _tile_at(lon: float, lat: float) -> tuple[int, int, int]:
    """Column, row and zoom of a web tile of about the size of the example."""
    import morecantile

    tile = morecantile.tms.get("WebMercatorQuad").tile(lon, lat, 13)
    return tile.x, tile.y, tile.z


def check_hypercoast(case: Case) -> tuple[str, str]:
    """The recipe of docs/outputs.md, with the dataset of the NetCDF or Zarr file."""
    import hypercoast
    import rioxarray  # noqa: F401 - registers the accessor `rio`
    import xarray as xr

    cube = xr.open_dataset(case.need("netcdf"), decode_coords="all")
    cube = cube.transpose("y", "x", "wavelength").assign_attrs(crs=cube.rio.crs.to_string())
    case.check_spectrum(hypercoast.extract_enmap(cube, case.lat, case.lon).values, 1e-4)
    return hypercoast.__version__, "spectrum by `extract_enmap`"


def check_qgis(case: Case) -> tuple[str, str]:
    """A map without a window, in the style of the `.qml`, compared with the quicklook."""
    import numpy as np
    from qgis.core import Qgis, QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRasterLayer
    from qgis.PyQt.QtCore import QSize
    from qgis.PyQt.QtGui import QColor, QImage

    def pixels(image: Any) -> Any:
        image = image.convertToFormat(QImage.Format_RGBA8888)
        memory = image.constBits()
        memory.setsize(image.sizeInBytes())
        return np.frombuffer(memory, np.uint8).reshape(image.height(), image.width(), 4).astype(int)

    application = QgsApplication([], False)
    application.initQgis()
    layer = QgsRasterLayer(case.cube)
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(layer.width(), layer.height()))
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    shown, expected = pixels(job.renderedImage()), pixels(QImage(case.quicklook))[: layer.height(), : layer.width()]
    difference = np.abs(shown - expected)[(expected[..., 3] > 0) | (shown[..., 3] > 0)].max()
    if difference > 1:  # the last digit: QGIS cuts off where the quicklook rounds
        raise ValueError(f"the map differs from the quicklook by {difference} of 255")
    bands = ", ".join(map(str, layer.renderer().usesBands()))
    return Qgis.QGIS_VERSION.split("-", maxsplit=1)[0], f"opens in natural colour (bands {bands}), like the quicklook"


def check_enmap_box(case: Case) -> tuple[str, str]:
    """The raster reader of the EnMAP-Box."""
    from enmapboxprocessing.rasterreader import RasterReader

    reader = RasterReader(case.cube)
    case.check_wavelengths(reader.wavelength(band) for band in range(1, reader.bandCount() + 1))
    return "", "wavelengths"


# ---- other clients ---------------------------------------------------------------------------------------------------


def check_gdal(case: Case) -> tuple[str, str]:
    """GDAL's commands: tags of bands, also of a subset, and the spectrum."""
    if shutil.which("gdalinfo") is None:
        raise Unsuited("not installed")

    def run(*words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def wavelengths(path: str) -> list[str]:
        return [band["metadata"][""]["wavelength"] for band in json.loads(run("gdalinfo", "-json", path))["bands"]]

    case.check_wavelengths(wavelengths(case.cube))
    case.check_spectrum(run("gdallocationinfo", "-valonly", case.cube, str(case.col), str(case.row)).split())
    with tempfile.TemporaryDirectory() as folder:
        part = f"{folder}/part.tif"
        run("gdal_translate", "-q", *(word for band in case.rgb for word in ("-b", str(band))), case.cube, part)
        _check_equal("the subset", wavelengths(part), [case.wavelength_nm[band - 1] for band in case.rgb], 1e-3)
    return run("gdalinfo", "--version").split()[1].strip(","), "spectrum, wavelengths, also after `gdal_translate -b`"


GEOTIFF_JS = """
import { fromFile } from 'geotiff';
const [path, col, row] = process.argv.slice(1);
const image = await (await fromFile(path)).getImage();
const values = await image.readRasters({ window: [+col, +row, +col + 1, +row + 1] });
const wavelengths = [];
for (const band of values.keys()) wavelengths.push(+(await image.getGDALMetadata(band)).wavelength);
console.log(JSON.stringify([Array.from(values, (band) => band[0]), wavelengths]));
"""


def check_geotiff_js(case: Case, folder: Path, cube: str) -> tuple[str, str]:
    """geotiff.js in Node: the spectrum and the tags of bands."""
    words = ["node", "--input-type=module", "-e", GEOTIFF_JS, "--", case.need(cube), str(case.col), str(case.row)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith(("Error", "TypeError"))]
        raise ValueError("; ".join(errors) or done.stderr[-200:])
    spectrum, wavelengths = json.loads(done.stdout)
    case.check_spectrum(spectrum)
    case.check_wavelengths(wavelengths)
    return "", "spectrum, wavelengths"


Check = Callable[[Case], tuple[str, str]]
# Name of each client in Python, and its check.
PYTHON_CLIENTS: dict[str, Check] = {
    "rasterio": check_rasterio,
    "QGIS with its .qml": check_qgis,
    "EnMAP-Box": check_enmap_box,
    "rioxarray": check_rioxarray,
    "xarray, Zarr": check_xarray_zarr,
    "xarray, NetCDF": check_xarray_netcdf,
    "zarr-python": check_zarr,
    "SPy, ENVI": check_spectral,
    "HyperCoast": check_hypercoast,
    "pystac, item": check_pystac,
    "odc-stac, item": check_odc_stac,
    "stac-geoparquet, item": check_stac_geoparquet,
    "pgSTAC, item": check_pgstac,
    "rio-tiler, item": check_rio_tiler,
    "titiler": check_titiler,
}


def run_here(name: str, check: Check, case: Case) -> dict[str, str]:
    """The row of one check in this interpreter."""
    try:
        found, says = check(case)
    except (ImportError, Unsuited) as error:
        says = "not installed" if isinstance(error, ImportError) else str(error)
        return {"client": name, "works": "not tried", "says": says}
    except Exception as error:  # noqa: BLE001 - whatever a client raises is the result
        return {"client": name, "works": "no", "says": (f"{error}" or type(error).__name__).splitlines()[0][:200]}
    return {"client": f"{name} {found}".strip(), "works": "yes", "says": says}


def run_elsewhere(python: str, name: str, case: Case) -> dict[str, str]:
    """The row of one check in a process of another interpreter."""
    words = [python, __file__, "--run", name, json.dumps(asdict(case))]
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, env=environment, timeout=SECONDS_PER_CHECK, check=False
        )
        row: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"client": name, "works": "no", "says": f"no answer within {SECONDS_PER_CHECK} s"}
    except (IndexError, ValueError):
        return {
            "client": name,
            "works": "no",
            "says": f"the process ended with {done.returncode}: {done.stderr[-200:]}",
        }
    return row


def rows(case: Case, pythons: list[str], nodes: list[Path]) -> Iterator[dict[str, str]]:
    """The rows of all clients; of rasterio one for each interpreter."""
    yield run_here("GDAL's commands", check_gdal, case)
    for name in PYTHON_CLIENTS:
        found = [run_elsewhere(python, name, case) for python in pythons]
        tried = [row for row in found if row["works"] != "not tried"]
        yield from {row["client"]: row for row in tried}.values() if name == "rasterio" else tried[:1]
        if not tried:
            yield {"client": name, "works": "not tried", "says": found[0]["says"]}
    for node in nodes:
        package = json.loads((node / "node_modules/geotiff/package.json").read_text("utf-8"))
        for cube, note in (("cube", ""), ("deflate", ", --compress deflate")):
            check = partial(check_geotiff_js, folder=node, cube=cube)
            yield run_here(f"geotiff.js {package['version']}{note}", check, case)


def read_case(folder: Path, pgstac: str) -> Case:
    """The files of a folder, and the numbers of the central pixel of its cube."""
    import rasterio
    from rasterio.warp import transform

    paths = {name: folder.absolute() / file for name, file in FILES.items()}
    with rasterio.open(paths["cube"]) as file:
        row, col = file.height // 2, file.width // 2
        stored = file.read(window=((row, row + 1), (col, col + 1)))[:, 0, 0].tolist()
        wavelength_um = [float(file.tags(band, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"]) for band in file.indexes]
        [lon], [lat] = transform(file.crs, "EPSG:4326", *([axis] for axis in file.xy(row, col)))
        colours = [colour.name for colour in file.colorinterp]
    return Case(
        **{name: str(path) if path.exists() else "" for name, path in paths.items()},
        pgstac=pgstac,
        row=row,
        col=col,
        lon=lon,
        lat=lat,
        stored=stored,
        wavelength_nm=[1000 * wavelength for wavelength in wavelength_um],
        rgb=[colours.index(colour) + 1 for colour in ("red", "green", "blue")],
    )


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--run"]:
        case = Case(**json.loads(sys.argv[3]))
        print(json.dumps(run_here(sys.argv[2], PYTHON_CLIENTS[sys.argv[2]], case)))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", action="append", default=[], help="interpreter with clients; repeatable")
    parser.add_argument("--node", action="append", default=[], type=Path, help="folder with node_modules; repeatable")
    parser.add_argument("--pgstac", default="", help="address of a pgSTAC database that may be written to")
    arguments = parser.parse_args()
    case = read_case(arguments.folder, arguments.pgstac)
    print("| client | works | what, or why not |\n|---|---|---|")
    for row in rows(case, arguments.python or [sys.executable], arguments.node):
        print(f"| {row['client']} | {row['works']} | {row['says']} |", flush=True)


if __name__ == "__main__":
    main()
