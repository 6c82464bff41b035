"""A Sentinel-2 L2A product as ESA delivers it, a `.SAFE` folder or its zip, as a scene."""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree as ET

from ms2hs.errors import SceneError
from ms2hs.raster.container import archive_names, check_sidecars
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.dates import rfc3339
from ms2hs.raster.header import number_of
from ms2hs.scenes.bands import choose_bands
from ms2hs.scenes.quality import QUALITY_LAYERS, quality_note
from ms2hs.scenes.radiometry import rule_of_safe
from ms2hs.scenes.recognition import DEFAULT_SOURCE, level_1c_error, platform_note, source_named_in, sources
from ms2hs.scenes.scene import Scene, SceneOptions
from ms2hs.spectra.sensors import load_sensor

METADATA_NAME = "MTD_MSIL2A.xml"
# Products before December 2016 write `S2A_USER_MTD_SAFL2A_PDMC_20160301T101559_R065_V2016....xml`.
METADATA_FILE = re.compile(r"MTD_MSIL2A\.xml|S2._USER_MTD_SAFL2A_[^/]*\.xml", re.IGNORECASE)
LEVEL_1C_FILE = re.compile(r"MTD_MSIL1C\.xml|S2._OPER_MTD_SAFL1C_[^/]*\.xml", re.IGNORECASE)
# Order of `band_id` in the metadata, Sentinel-2 Products Specification Document, A_BAND_ID.
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
QUANTIFICATION = 10_000.0
MAX_METADATA_BYTES = 20_000_000
# Granule, layer and resolution. Images beside the metadata file belong to no granule; older products have
# `_SCL_L2A_..._20m`.
IMAGE_NAME = re.compile(
    r"(?:GRANULE/([^/]+)/IMG_DATA/(?:R\d\dm/)?)?[^/]*_(B\d[\dA]|SCL)(?:_L2A_[^/]*)?_(\d\d)m\.jp2", re.IGNORECASE
)
TILE = re.compile(r"(?<![A-Z0-9])T\d{2}[A-Z]{3}(?![A-Z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Product:
    """The files of one product."""

    path: str
    """As the user gave it."""
    root: str
    """Prefix with which GDAL opens a member."""
    members: tuple[str, ...]
    """Names of the files relative to `root`, with `/`."""
    metadata: bytes
    """Content of the metadata file."""


@dataclass(frozen=True)
class Metadata:
    """The parts of the metadata file that a scene needs."""

    id: str
    source: str | None
    """Name of the sensor; None if the platform is unknown."""
    datetime: str | None
    """Start of the acquisition, ISO 8601; None if unknown."""
    baseline: str
    """Processing baseline such as `05.10`; empty if unknown."""
    quantification: float
    offsets: dict[str, float]
    """BOA_ADD_OFFSET by band; empty if none is listed."""


def is_safe(path: Path) -> bool:
    """Whether the path looks like a SAFE product: a folder, a zip, or its metadata file."""
    if path.is_file() and path.suffix.lower() == ".zip":
        names = [name.split("/")[-1] for name in archive_names(path)]
        return any(METADATA_FILE.fullmatch(name) or LEVEL_1C_FILE.fullmatch(name) for name in names)
    if path.is_file():
        return bool(METADATA_FILE.fullmatch(path.name) or LEVEL_1C_FILE.fullmatch(path.name))
    return is_product(path) or (len(_inner(path)) == 1 and not any(path.glob("*.tif")))


def is_product(folder: Path) -> bool:
    """Whether the folder is itself a SAFE product, and not its parent."""
    markers = ("MTD_MSIL*.xml", "S2?_USER_MTD_SAFL2A_*.xml", "GRANULE")
    return folder.suffix.upper() == ".SAFE" or any(any(folder.glob(name)) for name in markers)


def product_of(path: Path) -> Path | None:
    """The SAFE product whose metadata, such as the offset, are above or beside an image; None for other files."""
    path = path.absolute()
    for folder in path.parents:
        inside = path.relative_to(folder).parts
        is_image = inside[0] == "GRANULE" or (len(inside) == 1 and path.is_file())
        if folder.suffix.upper() == ".SAFE" or (is_image and is_product(folder)):
            return folder
    return None


def _inner(path: Path) -> list[Path]:
    """The `.SAFE` folders in a folder; some archives deliver a product inside another folder."""
    return sorted(path.glob("*.SAFE"))


def open_safe(path: str, options: SceneOptions) -> Scene:
    """The scene in a SAFE folder or zip, with each band at its finest resolution.

    Raises
    ------
    SceneError : level 1C, damaged, or without a required band; the message names it.
    """
    product = _zipped(path) if Path(path).is_file() and Path(path).suffix.lower() == ".zip" else _folder(path)
    metadata = read_metadata(product)
    source = options.source or metadata.source or DEFAULT_SOURCE
    allowed = [sensor.name for sensor in sources() if sensor.family == load_sensor(DEFAULT_SOURCE).family]
    if source not in allowed:
        raise SceneError(
            f"{path}: --source {source}, but SAFE products are Sentinel-2's; {', '.join(allowed)} are allowed. Remove "
            "--source."
        )
    sensor = load_sensor(source)
    granule, finest = _granule_images(product, options.granule)
    remedy = "Get the whole product, or give the bands to use with --bands (10 or more of Sentinel-2's 12)."
    names = choose_bands(finest, source, options.bands, where=path, lacks="has no image of {}", remedy=remedy)
    rule = rule_of_safe(
        names, metadata.quantification, metadata.offsets, metadata.baseline, sensor=sensor, options=options, where=path
    )
    best = min(names, key=lambda name: finest[name][0])
    with open_dataset(finest[best][1]) as dataset:
        grid = read_pixel_grid(dataset)
    scl = QUALITY_LAYERS["SCL"].asset(finest["SCL"][1]) if "SCL" in finest else None
    is_assumed = metadata.source is None and options.source is None
    return Scene(
        id=f"{metadata.id}_{granule}" if granule else metadata.id,
        source=source,
        assets=rule.assets(names, [finest[name][1] for name in names], [1] * len(names)),
        grid=grid,
        offset_rule=rule.description,
        rule_origin=rule.origin,
        quality=(scl,) if scl and options.quality else (),
        quality_note=quality_note(scl, "the product", wanted=options.quality),
        datetime=metadata.datetime,
        working_gsd_m=sensor.working_gsd_m,
        notes=(platform_note(source),) if is_assumed else (),
    )


def _folder(path: str) -> Product:
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    if len(inner := _inner(folder)) == 1:
        folder = inner[0]
    _refuse_level_1c(path, [folder.name, *(member.name for member in folder.glob("*.xml"))])
    files = (member for member in folder.glob("*.xml") if METADATA_FILE.fullmatch(member.name))
    file = next((member for member in files if member.is_file()), None)  # a pipe would be waited for
    if file is None:
        raise SceneError(f"{path}: has no {METADATA_NAME}; a whole Sentinel-2 L2A product is required. Copy it again.")
    images = [*folder.glob("GRANULE/*/IMG_DATA/**/*"), *folder.glob("*.jp2")]
    members = tuple(sorted(member.relative_to(folder).as_posix() for member in images))
    with file.open("rb") as stream:
        return Product(path, f"{folder.as_posix()}/", members, _read_bounded(path, stream))


def _read_bounded(path: str, file: IO[bytes]) -> bytes:
    """The content of a metadata file; SceneError beyond MAX_METADATA_BYTES, which zips can hold in a few bytes."""
    content = file.read(MAX_METADATA_BYTES + 1)
    if len(content) > MAX_METADATA_BYTES:
        raise SceneError(
            f"{path}: {METADATA_NAME} has more than {MAX_METADATA_BYTES / 1e6:g} MB; the file as delivered has less "
            "than 1. Copy it again."
        )
    return content


def _zipped(path: str) -> Product:
    members = archive_names(Path(path))
    _refuse_level_1c(path, members)
    files = [member for member in members if METADATA_FILE.fullmatch(member.split("/")[-1])]
    if len(files) != 1:
        raise SceneError(
            f"{path}: has {len(files)} files {METADATA_NAME}; a zip must contain one Sentinel-2 L2A product. "
            "Give the product's own zip, or unpack it and give the .SAFE folder."
        )
    try:
        with zipfile.ZipFile(path) as archive, archive.open(files[0]) as file:
            metadata = _read_bounded(path, file)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise SceneError(
            f"{path}: not a readable zip ({error}); the whole file is required. Copy or download it again."
        ) from error
    prefix = files[0].removesuffix(files[0].split("/")[-1])
    inside = tuple(sorted(member.removeprefix(prefix) for member in members if member.startswith(prefix)))
    root = f"/vsizip/{{{Path(path).absolute().as_posix()}}}/{prefix}"
    check_sidecars(root, inside)
    return Product(path, root, inside, metadata)


def _refuse_level_1c(path: str, names: Sequence[str]) -> None:
    is_2a = any("MSIL2A" in name or "SAFL2A" in name for name in names)
    if not is_2a and any("MSIL1C" in name or "SAFL1C" in name for name in names):
        raise level_1c_error(path)


def read_metadata(product: Product) -> Metadata:
    """The content of `MTD_MSIL2A.xml`; SceneError if the file is damaged."""
    try:
        # Python's expat refuses entity bombs, and external entities are not followed.
        return _parsed(product.path, ET.fromstring(product.metadata))  # noqa: S314
    except (ET.ParseError, ValueError, IndexError) as error:
        raise SceneError(
            f"{product.path}: {METADATA_NAME} is damaged ({error}); the file as delivered is required. Copy it again."
        ) from error


def _parsed(path: str, root: ET.Element) -> Metadata:
    # Older products write L2A_BOA_QUANTIFICATION_VALUE and PRODUCT_URI_2A.
    texts = {element.tag.split("}")[-1].removeprefix("L2A_"): (element.text or "").strip() for element in root.iter()}
    if "1C" in texts.get("PROCESSING_LEVEL", ""):
        raise level_1c_error(path)
    uri = texts.get("PRODUCT_URI") or texts.get("PRODUCT_URI_2A") or Path(path).name
    time = texts.get("DATATAKE_SENSING_START") or texts.get("PRODUCT_START_TIME")
    offsets = {
        BAND_IDS[int(element.get("band_id", ""))]: number_of(element.text)
        for element in root.iter()
        if element.tag.split("}")[-1] == "BOA_ADD_OFFSET"
    }
    quantifications = {
        (element.text or "").strip()
        for element in root.iter()
        if element.tag.split("}")[-1].removeprefix("L2A_") == "BOA_QUANTIFICATION_VALUE"
    }
    if len(quantifications) > 1:
        raise SceneError(
            f"{path}: has {len(quantifications)} values BOA_QUANTIFICATION_VALUE "
            f"({', '.join(sorted(quantifications))}); one is required. Use the product as ESA delivers it."
        )
    return Metadata(
        id=uri.removesuffix(".zip").removesuffix(".SAFE"),
        source=source_named_in([texts.get("SPACECRAFT_NAME", "")]) or source_named_in([uri]),
        datetime=rfc3339(time),
        baseline=texts.get("PROCESSING_BASELINE", ""),
        quantification=number_of(texts.get("BOA_QUANTIFICATION_VALUE") or QUANTIFICATION),
        offsets=offsets,
    )


def _granule_images(product: Product, wanted: str | None) -> tuple[str, dict[str, tuple[int, str]]]:
    """The tile of the chosen granule, empty if the product has one only, and its images.

    The images are the finest resolution in m and the path for GDAL of each band and of SCL.

    Raises
    ------
    SceneError : several granules and none chosen, or no such granule; the message lists the tiles.
    """
    images = [(image, product.root + member) for member in product.members if (image := IMAGE_NAME.fullmatch(member))]
    granules = dict.fromkeys(image[1] for image, _ in images if image[1])
    tiles = {name: tile[0].upper() if (tile := TILE.search(name)) else name for name in granules}
    # Two granules of one tile, as of two passes, are chosen by their whole names.
    tiles = {name: tile if [*tiles.values()].count(tile) == 1 else name for name, tile in tiles.items()}
    chosen = [
        name for name, tile in tiles.items() if wanted and wanted.upper() in {tile.upper(), tile[1:], name.upper()}
    ]
    if len(tiles) > 1 and wanted is None:
        raise SceneError(
            f"{product.path}: contains {len(tiles)} granules ({', '.join(sorted(tiles.values()))}); one is required. "
            f"Use --granule {min(tiles.values())}."
        )
    if wanted and len(chosen) != 1:
        raise SceneError(
            f"{product.path}: --granule {wanted} is no granule of the product; {', '.join(sorted(tiles.values()))} is "
            f"allowed. Use --granule {min(tiles.values(), default='')}."
        )
    finest: dict[str, tuple[int, str]] = {}
    for image, href in images:
        if chosen and image[1] != chosen[0]:
            continue
        band = image[2].upper()
        if int(image[3]) < finest.get(band, (1000, ""))[0]:
            finest[band] = int(image[3]), href
    return tiles[chosen[0]] if chosen and len(tiles) > 1 else "", finest
