"""A Sentinel-2 L2A product as ESA delivers it, a `.SAFE` folder or its zip, as a scene."""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree as ET

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.scenes.bands import choose_bands
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.radiometry import rule_of_safe
from ms2hs.scenes.recognition import DEFAULT_SOURCE, level_1c_error, platform_note, source_named_in, sources
from ms2hs.scenes.scene import Scene, SceneOptions
from ms2hs.spectra.sensors import load_sensor

METADATA_NAME = "MTD_MSIL2A.xml"
# Order of `band_id` in the metadata, Sentinel-2 Products Specification Document, A_BAND_ID.
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
QUANTIFICATION = 10_000.0
MAX_METADATA_BYTES = 20_000_000
IMAGE_NAME = re.compile(r"GRANULE/[^/]+/IMG_DATA/(?:R\d\dm/)?[^/]*_(B\d[\dA]|SCL)_(\d\d)m\.jp2$")


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
    if path.is_file():
        return path.suffix.lower() == ".zip" or path.name in {METADATA_NAME, METADATA_NAME.replace("L2A", "L1C")}
    return is_product(path) or len(_inner(path)) == 1


def is_product(folder: Path) -> bool:
    """Whether the folder is itself a SAFE product, and not its parent."""
    return folder.suffix.upper() == ".SAFE" or any(any(folder.glob(name)) for name in ("MTD_MSIL*.xml", "GRANULE"))


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
    finest = _finest(product)
    remedy = "Get the whole product, or give the bands to use with --bands (10 or more of Sentinel-2's 12)."
    names = choose_bands(finest, source, options.bands, where=path, lacks="has no image of {}", remedy=remedy)
    rule = rule_of_safe(
        names, metadata.quantification, metadata.offsets, metadata.baseline, sensor=sensor, dn_offset=options.dn_offset
    )
    best = min(names, key=lambda name: finest[name][0])
    with open_dataset(finest[best][1]) as dataset:
        grid = read_pixel_grid(dataset)
    has_quality = "SCL" in finest and options.quality
    notes = []
    if metadata.source is None and options.source is None:
        notes.append(platform_note(source))
    if "SCL" not in finest:
        notes.append("The product has no scene classification (SCL): clouds and shadows are not marked.")
    return Scene(
        id=metadata.id,
        source=source,
        assets=rule.assets(names, [finest[name][1] for name in names], [1] * len(names)),
        grid=grid,
        offset_rule=rule.description,
        quality=QUALITY_LAYERS["scl"].asset(finest["SCL"][1]) if has_quality else None,
        quality_rule="scl" if has_quality else None,
        datetime=metadata.datetime,
        working_gsd_m=sensor.working_gsd_m,
        notes=tuple(notes),
    )


def _folder(path: str) -> Product:
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    if len(inner := _inner(folder)) == 1:
        folder = inner[0]
    _refuse_level_1c(path, [folder.name, *(member.name for member in folder.glob("MTD_*.xml"))])
    file = folder / METADATA_NAME
    if not file.is_file():
        raise SceneError(f"{path}: has no {METADATA_NAME}; a whole Sentinel-2 L2A product is required. Copy it again.")
    members = tuple(sorted(member.relative_to(folder).as_posix() for member in folder.glob("GRANULE/*/IMG_DATA/**/*")))
    with file.open("rb") as stream:
        return Product(path, f"{folder.as_posix()}/", members, _bounded(path, stream))


def _bounded(path: str, file: IO[bytes]) -> bytes:
    """The content of a metadata file; SceneError beyond MAX_METADATA_BYTES, which zips can hold in a few bytes."""
    content = file.read(MAX_METADATA_BYTES + 1)
    if len(content) > MAX_METADATA_BYTES:
        raise SceneError(
            f"{path}: {METADATA_NAME} has more than {MAX_METADATA_BYTES / 1e6:g} MB; the file as delivered has less "
            "than 1. Copy it again."
        )
    return content


def _zipped(path: str) -> Product:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            _refuse_level_1c(path, members)
            files = [member for member in members if member.split("/")[-1] == METADATA_NAME]
            if len(files) != 1:
                raise SceneError(
                    f"{path}: has {len(files)} files {METADATA_NAME}; a zip must contain one Sentinel-2 L2A product. "
                    "Give the product's own zip, or unpack it and give the .SAFE folder."
                )
            with archive.open(files[0]) as file:
                metadata = _bounded(path, file)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise SceneError(
            f"{path}: not a readable zip ({error}); the whole file is required. Copy or download it again."
        ) from error
    prefix = files[0].removesuffix(METADATA_NAME)
    inside = tuple(sorted(member.removeprefix(prefix) for member in members if member.startswith(prefix)))
    return Product(path, f"/vsizip/{{{Path(path).absolute().as_posix()}}}/{prefix}", inside, metadata)


def _refuse_level_1c(path: str, names: Sequence[str]) -> None:
    is_2a = any(METADATA_NAME in name or "_MSIL2A_" in name for name in names)
    if not is_2a and any("MSIL1C" in name for name in names):
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
        BAND_IDS[int(element.get("band_id", ""))]: float(element.text or "")
        for element in root.iter()
        if element.tag.split("}")[-1] == "BOA_ADD_OFFSET"
    }
    return Metadata(
        id=uri.removesuffix(".zip").removesuffix(".SAFE"),
        source=source_named_in([texts.get("SPACECRAFT_NAME", "")]) or source_named_in([uri]),
        datetime=time or None,
        baseline=texts.get("PROCESSING_BASELINE", ""),
        quantification=float(texts.get("BOA_QUANTIFICATION_VALUE") or QUANTIFICATION),
        offsets=offsets,
    )


def _finest(product: Product) -> dict[str, tuple[int, str]]:
    """The finest resolution of each band and of SCL, in m, and the path of its file for GDAL."""
    finest: dict[str, tuple[int, str]] = {}
    for member in product.members:
        image = IMAGE_NAME.search(member)
        if image and int(image[2]) < finest.get(image[1], (1000, ""))[0]:
            finest[image[1]] = int(image[2]), product.root + member
    return finest
