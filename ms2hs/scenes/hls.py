"""A granule of Harmonized Landsat Sentinel-2 (HLS v2.0), a folder with one GeoTIFF per band, as a scene."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rasterio.io import DatasetReader

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.header import Declared, declared_in, number_of
from ms2hs.scenes.bands import choose_bands
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.radiometry import rule_of_hls
from ms2hs.scenes.scene import Scene, SceneOptions
from ms2hs.spectra.sensors import load_sensor

# `HLS.S30.T32TNT.2024153T102021.v2.0.B02.tif`: product, tile, year and day of year, time, version, layer.
FILE = re.compile(r"(HLS\.([SL]30)\.T\d{2}[A-Z]{3}\.(\d{7}T\d{6})\.v\d\.\d)\.(B\d[\dA]|Fmask)\.tiff?", re.IGNORECASE)


@dataclass(frozen=True)
class Granule:
    """The files of one granule."""

    id: str
    source: str
    """`hls_s30` or `hls_l30`."""
    datetime: str
    layers: dict[str, Path]
    """Files by band name, and `FMASK`."""


def is_hls(path: Path) -> bool:
    """Whether the path is a file of an HLS granule, or a folder with such files."""
    if path.is_file():
        return FILE.fullmatch(path.name) is not None
    return any(FILE.fullmatch(member.name) for member in path.iterdir())


def granules(folder: Path) -> list[Path]:
    """One file of each granule in the folder."""
    first: dict[str, Path] = {}
    for member in sorted(folder.iterdir()):
        if match := FILE.fullmatch(member.name):
            first.setdefault(match[1], member)
    return list(first.values())


def open_hls(path: str, options: SceneOptions) -> Scene:
    """The scene in a folder of HLS files, or the scene of one of its files if the folder has several granules.

    Raises
    ------
    SceneError : several granules, or a missing band; the message names them.
    """
    granule = _granule(path)
    source = options.source or granule.source
    if source != granule.source:
        raise SceneError(
            f"{path}: --source {source}, but the files are {granule.source}'s; only that is allowed. Remove --source."
        )
    # S30's B09 and B10 and L30's B09 are top of atmosphere, and L30's B10 and B11 thermal. The sensors' tables do not
    # contain these bands, so their files are ignored.
    remedy = "Download the missing files, or give the bands to use with --bands."
    lacks = f"has no file of {{}} of {granule.id}"
    names = choose_bands(granule.layers, source, options.bands, where=path, lacks=lacks, remedy=remedy)
    declared, grids = [], []
    for name in names:
        with open_dataset(str(granule.layers[name])) as dataset:
            declared.append(_declared(dataset))
            grids.append(read_pixel_grid(dataset))
    rule = rule_of_hls(declared, sensor=load_sensor(source), options=options, where=path)
    fmask = granule.layers.get("FMASK")
    has_quality = fmask is not None and options.quality
    return Scene(
        id=granule.id,
        source=source,
        assets=rule.assets(names, [str(granule.layers[name]) for name in names], [1] * len(names)),
        grid=grids[0],
        offset_rule=rule.description,
        quality=QUALITY_LAYERS["fmask"].asset(str(fmask)) if has_quality else None,
        quality_rule="fmask" if has_quality else None,
        datetime=granule.datetime,
        notes=() if fmask else ("The granule has no Fmask: clouds and shadows are not marked.",),
    )


def _granule(path: str) -> Granule:
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    files = [match for member in sorted(folder.iterdir()) if (match := FILE.fullmatch(member.name))]
    ids = sorted({match[1] for match in files})
    if Path(path).is_file() and (match := FILE.fullmatch(Path(path).name)):
        ids = [match[1]]
    if len(ids) != 1:
        raise SceneError(
            f"{path}: contains {len(ids)} HLS granules ({', '.join(ids[:4])}); one is required. Give the path of one "
            "file of the granule to use."
        )
    files = [match for match in files if match[1] == ids[0]]
    layers = {match[4].upper(): folder / match[0] for match in files}
    time = datetime.strptime(files[0][3], "%Y%jT%H%M%S").replace(tzinfo=UTC)
    return Granule(ids[0], f"hls_{files[0][2].lower()}", time.strftime("%Y-%m-%dT%H:%M:%SZ"), layers)


def _declared(dataset: DatasetReader) -> Declared:
    """Scale, offset and nodata of a file, by its GDAL header, else by the tags that HLS writes."""
    (declared,) = declared_in(dataset, [1])
    fill = {key.lower(): value for key, value in dataset.tags().items()}.get("_fillvalue")
    return declared if declared.nodata is not None or fill is None else replace(declared, nodata=number_of(fill))
