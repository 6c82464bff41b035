"""A Sentinel-2 L2A product as ESA delivers it, a `.SAFE` folder or its zip, as a scene."""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.scenes.bands import check_source, choose_bands, is_sentinel2
from ms2hs.scenes.radiometry import AT_HOME, BOA_ADD_OFFSET, FIRST_WITH_OFFSET, SAFE_NODATA, Calibration, overridden
from ms2hs.scenes.scene import Asset, Scene, SceneOptions

METADATA = "MTD_MSIL2A.xml"
# Ground sampling at which EnMAP and HLS have their pixels; a tile of 10 980 pixels of 10 m gives 3660 of them.
WORKING_GSD_M = 30.0
# Order of `band_id` in the metadata, Sentinel-2 Products Specification Document, A_BAND_ID.
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
QUANTIFICATION = 10_000.0
IMAGE = re.compile(r"GRANULE/[^/]+/IMG_DATA/(?:R\d\dm/)?[^/]*_(B\d[\dA]|SCL)_(\d\d)m\.jp2$")


@dataclass(frozen=True)
class Product:
    """The files of one product."""

    path: str
    """As the user gave it."""
    root: str
    """What GDAL puts before a member's name to open it."""
    members: tuple[str, ...]
    """Names of all its files relative to `root`, with `/`."""
    metadata: bytes
    """The text of its metadata file."""


@dataclass(frozen=True)
class Metadata:
    """What the metadata file says that matters here."""

    id: str
    source: str | None
    datetime: str | None
    baseline: str
    quantification: float
    offsets: dict[str, float]
    """By band; empty where none are listed."""


def is_safe(path: Path) -> bool:
    """Whether this looks like a SAFE product: a folder, a zip, or the metadata file in it."""
    if path.is_file():
        return path.suffix.lower() == ".zip" or path.name in {METADATA, METADATA.replace("L2A", "L1C")}
    return is_product(path) or len(_inner(path)) == 1


def is_product(folder: Path) -> bool:
    """Whether this folder is itself a SAFE product, not one around it."""
    inside = any(any(folder.glob(name)) for name in ("MTD_MSIL*.xml", "GRANULE"))
    return folder.suffix.upper() == ".SAFE" or inside


def _inner(path: Path) -> list[Path]:
    """Products inside a folder, as some archives deliver them."""
    return sorted(path.glob("*.SAFE"))


def open_safe(path: str, choices: SceneOptions) -> Scene:
    """The scene in a SAFE folder or zip: of each band the finest resolution there is.

    Raises
    ------
    SceneError : level 1C, damaged, or without a band; the message names it.
    UnknownName : `choices.source` is no source.
    """
    product = _zipped(path) if Path(path).is_file() and Path(path).suffix.lower() == ".zip" else _folder(path)
    metadata = read_metadata(product)
    source = check_source(choices.source) if choices.source else metadata.source or "sentinel2a"
    if not is_sentinel2(source):
        raise SceneError(
            f"{path}: --source {source}, but a SAFE product is Sentinel-2's; sentinel2a, sentinel2b and sentinel2c are "
            "allowed. Leave --source out."
        )
    finest = _finest(product)
    remedy = "Get the whole product, or name the bands to use with --bands (10 or more of Sentinel-2's 12)."
    names = choose_bands(finest, source, choices.bands, where=path, lacks="has no image of {}", remedy=remedy)
    calibration = _calibration(metadata, names, choices.dn_offset)
    assets = tuple(
        Asset(name, product.root + finest[name][1], 1, scale, offset, SAFE_NODATA)
        for name, scale, offset in zip(names, calibration.dn_scale, calibration.dn_offset, strict=True)
    )
    best = min(names, key=lambda name: finest[name][0])
    with open_dataset(product.root + finest[best][1]) as dataset:
        grid = read_pixel_grid(dataset)
    scl = Asset("SCL", product.root + finest["SCL"][1], 1, 1.0, 0.0, SAFE_NODATA) if "SCL" in finest else None
    notes = []
    if metadata.source is None and choices.source is None:
        notes.append(f"Which Sentinel-2 took it is not said: taken as {source}; give --source if it is another.")
    if scl is None:
        notes.append("The product has no scene classification (SCL): clouds and shadows cannot be told.")
    return Scene(
        id=metadata.id,
        source=source,
        assets=assets,
        grid=grid,
        offset_rule=calibration.rule,
        quality=scl if choices.quality else None,
        quality_rule="scl" if scl and choices.quality else None,
        datetime=metadata.datetime,
        working_gsd_m=WORKING_GSD_M,
        notes=tuple(notes),
    )


def _folder(path: str) -> Product:
    given = Path(path).parent if Path(path).is_file() else Path(path)
    inner = _inner(given)
    folder = inner[0] if len(inner) == 1 else given
    _refuse_level_1c(path, [folder.name, *(member.name for member in folder.glob("MTD_*.xml"))])
    file = folder / METADATA
    if not file.is_file():
        raise SceneError(f"{path}: has no {METADATA}; a whole Sentinel-2 L2A product is needed. Copy it again.")
    members = tuple(sorted(member.relative_to(folder).as_posix() for member in folder.glob("GRANULE/*/IMG_DATA/**/*")))
    return Product(path, f"{folder.as_posix()}/", members, file.read_bytes())


def _zipped(path: str) -> Product:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            _refuse_level_1c(path, members)
            found = [member for member in members if member.split("/")[-1] == METADATA]
            if len(found) != 1:
                raise SceneError(
                    f"{path}: has {len(found)} files {METADATA}; one Sentinel-2 L2A product in the zip is needed. "
                    "Give the product's own zip, or unpack it and give the .SAFE folder."
                )
            metadata = archive.read(found[0])
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise SceneError(
            f"{path}: not a zip that can be read ({error}); a whole one is needed. Copy or download it again."
        ) from error
    prefix = found[0].removesuffix(METADATA)
    inside = tuple(sorted(member.removeprefix(prefix) for member in members if member.startswith(prefix)))
    return Product(path, f"/vsizip/{{{Path(path).absolute().as_posix()}}}/{prefix}", inside, metadata)


def _refuse_level_1c(path: str, names: Sequence[str]) -> None:
    is_2a = any(METADATA in name or "_MSIL2A_" in name for name in names)
    if not is_2a and any("MSIL1C" in name for name in names):
        raise SceneError(
            f"{path}: is level 1C, top of atmosphere; surface reflectance (level 2A) is needed. "
            "Get the L2A product of the same scene."
        )


def read_metadata(product: Product) -> Metadata:
    """What `MTD_MSIL2A.xml` says; SceneError if it is no such file."""
    try:
        # Python's expat refuses entity bombs, and external entities are not followed.
        return _parsed(product.path, ET.fromstring(product.metadata))  # noqa: S314
    except (ET.ParseError, ValueError, IndexError) as error:
        raise SceneError(
            f"{product.path}: its {METADATA} is damaged ({error}); the file as delivered is needed. Copy it again."
        ) from error


def _parsed(path: str, root: ET.Element) -> Metadata:
    # Older products write L2A_BOA_QUANTIFICATION_VALUE and PRODUCT_URI_2A.
    texts = {element.tag.split("}")[-1].removeprefix("L2A_"): (element.text or "").strip() for element in root.iter()}
    level = texts.get("PROCESSING_LEVEL", "Level-2A")
    if "1C" in level:
        _refuse_level_1c(path, ["MSIL1C"])
    uri = texts.get("PRODUCT_URI") or texts.get("PRODUCT_URI_2A") or Path(path).name
    platform = re.search(r"2([ABC])\b", texts.get("SPACECRAFT_NAME", "")) or re.match(r"S2([ABC])_", uri)
    time = texts.get("DATATAKE_SENSING_START") or texts.get("PRODUCT_START_TIME")
    offsets = {
        BAND_IDS[int(element.get("band_id", ""))]: float(element.text or "")
        for element in root.iter()
        if element.tag.split("}")[-1] == "BOA_ADD_OFFSET"
    }
    return Metadata(
        id=uri.removesuffix(".zip").removesuffix(".SAFE"),
        source=f"sentinel2{platform[1].lower()}" if platform else None,
        datetime=time or None,
        baseline=texts.get("PROCESSING_BASELINE", ""),
        quantification=float(texts.get("BOA_QUANTIFICATION_VALUE") or QUANTIFICATION),
        offsets=offsets,
    )


def _finest(product: Product) -> dict[str, tuple[int, str]]:
    """Of each band (and SCL) the finest resolution in m, and its file."""
    finest: dict[str, tuple[int, str]] = {}
    for member in product.members:
        found = IMAGE.search(member)
        if found and int(found[2]) < finest.get(found[1], (1000, ""))[0]:
            finest[found[1]] = int(found[2]), member
    return finest


def _calibration(metadata: Metadata, names: Sequence[str], dn_offset: float | None) -> Calibration:
    """The product's own quantification and offsets; by its baseline where it lists no offset, never by its date."""
    scale = 1 / metadata.quantification
    baseline = f"processing baseline {metadata.baseline or 'unknown'}"
    number = float(metadata.baseline) if re.fullmatch(r"\d\d\.\d\d", metadata.baseline) else 0.0
    if metadata.offsets:
        offsets = tuple(metadata.offsets.get(name, 0.0) for name in names)
        told = ", ".join(f"{value:g}" for value in dict.fromkeys(offsets))
        rule = f"product metadata: quantification {metadata.quantification:g}, BOA_ADD_OFFSET {told} ({baseline})"
    elif FIRST_WITH_OFFSET <= number < AT_HOME:
        offsets = (BOA_ADD_OFFSET,) * len(names)
        rule = (
            f"product metadata: quantification {metadata.quantification:g}; BOA_ADD_OFFSET {BOA_ADD_OFFSET:g} for "
            f"{baseline}, though none is listed"
        )
    else:
        offsets = (0.0,) * len(names)
        rule = f"product metadata: quantification {metadata.quantification:g}, no offset listed ({baseline})"
    return overridden(Calibration((scale,) * len(names), offsets, rule), dn_offset)
