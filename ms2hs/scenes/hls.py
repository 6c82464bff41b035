"""A granule of Harmonized Landsat Sentinel-2 (HLS v2.0), a folder of one GeoTIFF a band, as a scene."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.bands import check_source, choose_bands
from ms2hs.scenes.quality import FMASK_FILL
from ms2hs.scenes.radiometry import DN_SCALE, HLS_NODATA, Calibration, overridden
from ms2hs.scenes.scene import Asset, Scene, SceneOptions

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
    """By band name, and `FMASK`."""


def is_hls(path: Path) -> bool:
    """Whether this is a file of an HLS granule, or a folder that holds some."""
    if path.is_file():
        return FILE.fullmatch(path.name) is not None
    return any(FILE.fullmatch(member.name) for member in path.iterdir())


def granules(folder: Path) -> list[Path]:
    """One file of each granule whose files lie in the folder."""
    first: dict[str, Path] = {}
    for member in sorted(folder.iterdir()):
        if found := FILE.fullmatch(member.name):
            first.setdefault(found[1], member)
    return list(first.values())


def open_hls(path: str, choices: SceneOptions) -> Scene:
    """The scene in a folder of HLS files; of several granules in it, the one whose file is given.

    Raises
    ------
    SceneError : several granules, or a band missing; the message names them.
    UnknownName : `choices.source` is no source.
    """
    granule = _granule(path)
    source = check_source(choices.source) if choices.source else granule.source
    if source != granule.source:
        raise SceneError(
            f"{path}: --source {source}, but its files are {granule.source}'s; that is allowed. Leave --source out."
        )
    # S30's B09 and B10 and L30's B09 are top of atmosphere and L30's B10 and B11 thermal: they are no bands of these
    # sensors here, and their files are left alone.
    remedy = "Download the rest, or name the bands to use with --bands."
    lacks = f"has no file of {{}} of {granule.id}"
    names = choose_bands(granule.layers, source, choices.bands, where=path, lacks=lacks, remedy=remedy)
    headers = [_Header.read(granule.layers[name]) for name in names]
    scales = tuple(header.scale for header in headers)
    offsets = tuple(header.offset / header.scale for header in headers)
    told = "; ".join(dict.fromkeys(header.rule for header in headers))
    calibration = overridden(Calibration(scales, offsets, f"HLS: {told}"), choices.dn_offset)
    assets = tuple(
        Asset(name, str(granule.layers[name]), 1, scale, offset, header.nodata)
        for name, header, scale, offset in zip(names, headers, calibration.dn_scale, calibration.dn_offset, strict=True)
    )
    fmask = granule.layers.get("FMASK")
    quality = Asset("Fmask", str(fmask), 1, 1.0, 0.0, FMASK_FILL) if fmask and choices.quality else None
    return Scene(
        id=granule.id,
        source=source,
        assets=assets,
        grid=headers[0].grid,
        offset_rule=calibration.rule,
        quality=quality,
        quality_rule="fmask" if quality else None,
        datetime=granule.datetime,
        notes=() if fmask else ("The granule has no Fmask: clouds and shadows cannot be told.",),
    )


def _granule(path: str) -> Granule:
    given = Path(path)
    folder = given if given.is_dir() else given.parent
    found = [match for member in sorted(folder.iterdir()) if (match := FILE.fullmatch(member.name))]
    ids = sorted({match[1] for match in found})
    if given.is_file() and (own := FILE.fullmatch(given.name)):
        ids = [own[1]]
    if len(ids) != 1:
        raise SceneError(
            f"{path}: holds {len(ids)} HLS granules ({', '.join(ids[:4])}); one is needed. "
            "Give a file of the one to use."
        )
    layers = {match[4].upper(): folder / match[0] for match in found if match[1] == ids[0]}
    match = next(match for match in found if match[1] == ids[0])
    time = datetime.strptime(match[3], "%Y%jT%H%M%S").replace(tzinfo=UTC)
    return Granule(ids[0], f"hls_{match[2].lower()}", time.strftime("%Y-%m-%dT%H:%M:%SZ"), layers)


@dataclass(frozen=True)
class _Header:
    """What one file of a granule says of its numbers."""

    grid: PixelGrid
    scale: float
    offset: float
    """In reflectance, as GDAL has it."""
    nodata: float
    rule: str

    @classmethod
    def read(cls, path: Path) -> "_Header":
        """From the GDAL header, else from the tags that HLS writes, else as the User Guide has them."""
        with open_dataset(str(path)) as dataset:
            tags = {key.lower(): value for key, value in dataset.tags().items()}
            scale, offset, nodata = dataset.scales[0], dataset.offsets[0], dataset.nodata
            grid = read_pixel_grid(dataset)
        where = "the files' own"
        if scale == 1:
            scale, offset = float(tags.get("scale_factor", DN_SCALE)), float(tags.get("add_offset", 0))
            where = "the files' tags:" if "scale_factor" in tags else "User Guide:"
        if nodata is None:
            nodata = float(tags.get("_fillvalue", HLS_NODATA))
        return cls(grid, scale, offset, nodata, f"{where} scale {scale:g} and offset {offset:g}")
