"""A scene with one raster per band: files in a folder, zip or tar, or variables of a NetCDF file.

1. The rasters are listed by name: in the folder, the archive, or the file. Nothing outside it is opened.
2. Each name is divided into the layer (`B02`, `blue`, `SCL`), its variant (`10m`, `FRE`) and the name of the scene.
3. Several scenes are refused with their names, unless `--granule` or the path of one file chooses a scene.
4. Of each layer, the first variant of `VARIANTS` and then the finest resolution is used.
5. The bands must cover the same extent, with pixels that are integer multiples of the finest.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath

from rasterio.io import DatasetReader

from ms2hs.errors import SceneError
from ms2hs.raster.container import ARCHIVE_SUFFIXES, RASTER_SUFFIXES, Raster, common_grid, list_rasters
from ms2hs.raster.dataset import georeference_note, open_dataset
from ms2hs.raster.dates import WRITTEN_TAG, acquisition_time, named_time
from ms2hs.raster.header import Declared, declared_in, number_of, read_header
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.bands import (
    BAND_NAME,
    OFTEN_MISSING,
    OTHER_LAYERS,
    choose_bands,
    match_names,
    other_sources,
    read_names,
)
from ms2hs.scenes.geotiff import open_geotiff
from ms2hs.scenes.plausibility import most_plausible
from ms2hs.scenes.quality import QUALITY_NAME, Candidate, QualityChoice, choose_layers
from ms2hs.scenes.radiometry import RadiometricRule, rule_of_hls, rules_of_raster
from ms2hs.scenes.recognition import (
    DEFAULT_SOURCE,
    LEVEL_1C_NOTE,
    baseline_of_file,
    level_1c_error,
    platform_note,
    refuse_other_missions,
    refuse_unsuitable,
    source_named_in,
    sources,
)
from ms2hs.scenes.safe import product_of
from ms2hs.scenes.scene import Scene, SceneOptions
from ms2hs.spectra.sensors import Sensor, load_sensor

# Sub-folders that belong to the scene of their parent: masks of MAJA, resolutions of Sen2Cor.
SUBFOLDERS = ("MASKS", "R10m", "R20m", "R60m")
# Words of the longest common name of a band, such as `nbart_red_edge_1`. Fewer bands with one name are no scene.
MOST_WORDS, MIN_BANDS = 5, 4
# Files of Landsat that are not reflectance: surface temperature and its auxiliary layers.
OTHER_FILE = re.compile(r"(?<![A-Z0-9])ST_[A-Z]+\d*$", re.IGNORECASE)
# Reflectance with (FRE) and without (SRE) slope correction by MAJA; the first is preferred.
VARIANTS = ("FRE", "SRE")
VARIANT = re.compile(r"(?<![A-Z0-9])(FRE|SRE|SR|R[12]|\d\dm|\(?Raw\)?)(?![A-Z0-9])", re.IGNORECASE)
RESOLUTION = re.compile(r"(?<![A-Z0-9])(?:R?(\d\d)m|R([12]))(?![A-Z0-9])", re.IGNORECASE)
SEPARATORS = "._- ()"
# ESA's names of images: names of level 2A end with the resolution.
ESA_IMAGE = re.compile(r"^T\d{2}[A-Z]{3}_\d{8}T\d{6}", re.IGNORECASE)
LEVEL_1C_IMAGE = re.compile(r"T\d{2}[A-Z]{3}_\d{8}T\d{6}_B\d[\dA]\.jp2$", re.IGNORECASE)
# Product families whose files declare nothing: names of scenes, and the facts from the archive's own documentation.
PRODUCT_FACTS = (
    (re.compile(r"_\d{8}-\d{6}-\d{3}_L2A_"), Declared(1e-4, 0.0, -10000.0, "MAJA:")),
    # Items of sentinel-2-c1-l2a declare this offset, the files do not; their ids contain the time.
    (re.compile(r"^S2[A-D]_T\d{2}[A-Z]{3}_\d{8}T\d{6}_L2A"), Declared(1e-4, -0.1, 0.0, "Earth Search Collection 1:")),
)
# Words that suggest a quality layer.
LIKELY_QUALITY_NAME = re.compile(r"(?<![A-Z0-9])[A-Z]*(mask|cloud|quality)(?![A-Z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class BandFile:
    """A raster whose name contains a layer."""

    raster: Raster
    scene: tuple[str, str]
    """Folder inside the archive, and the file's name without layer and variant: the same for all layers of a scene."""
    layer: str
    """As written, such as `B2`, `blue` or `QA_PIXEL`."""
    rank: tuple[int, int]
    """Position of the variant in `VARIANTS`, and resolution in m: the lowest is used."""
    is_quality: bool
    """Whether the layer may mark clouds, and is no band."""


Scenes = dict[tuple[str, str], list[BandFile]]


def is_band_files(path: Path) -> bool:
    """Whether the path is a raster of one band, a NetCDF file of variables, or a folder or archive of band files."""
    if path.is_dir() or path.suffix.lower() in ARCHIVE_SUFFIXES:
        rasters = list_rasters(path, SUBFOLDERS)
        return bool(band_scenes(rasters)) or _only_raster(rasters) is not None
    if path.suffix.lower() not in {*RASTER_SUFFIXES, ".nc"}:
        return False
    with open_dataset(str(path)) as dataset:
        return dataset.count == 1 or (path.suffix.lower() == ".nc" and bool(dataset.subdatasets))


@cache
def _common_names() -> frozenset[str]:
    return frozenset(name for sensor in sources() for name in sensor.possible_bands)


def _band_in(stem: str) -> slice | None:
    """The part of a name that names a band: the last number of a band, else a common name."""
    if numbers := list(BAND_NAME.finditer(stem)):
        return slice(*numbers[-1].span())
    words = list(re.finditer(r"[a-z]+|\d+", stem.lower()))
    texts = [word[0] for word in words]
    for length in range(MOST_WORDS, 0, -1):
        for i in range(len(words) - length, -1, -1):
            # `SR_QA_AEROSOL` is not the band `aerosol`.
            is_other = OTHER_LAYERS & {*texts[max(i - 1, 0) : i], *texts[i + length : i + length + 1]}
            if "".join(texts[i : i + length]) in _common_names() and not is_other:
                return slice(words[i].start(), words[i + length - 1].end())
    return None


def parse_name(raster: Raster) -> BandFile | None:
    """The parts of a raster's name; None if the name contains no layer. The last layer in the name counts."""
    path = PurePosixPath(raster.name)
    stem = path.name[: -len(path.suffix)]
    layer, quality = _band_in(stem), QUALITY_NAME.search(stem)
    if layer is not None and quality and quality.start() >= layer.stop:
        layer = None
    quality = quality or LIKELY_QUALITY_NAME.search(stem)
    if (is_quality := layer is None) and quality:
        layer = slice(*quality.span())
    if layer is None or OTHER_FILE.search(stem):
        return None
    before, after = VARIANT.sub("", stem[: layer.start]), VARIANT.sub("", stem[layer.stop :])
    scene = f"{before.rstrip(SEPARATORS)}_{after.strip(SEPARATORS)}".strip(SEPARATORS)
    folder = path.parent if path.parent.name not in SUBFOLDERS else path.parent.parent
    variants = [i for i, name in enumerate(VARIANTS) if f"_{name}_" in stem]
    sizes = [int(size or f"{number}0") for size, number in RESOLUTION.findall(raster.name)]
    rank = min(variants, default=0), min(sizes, default=0)
    return BandFile(raster, (str(folder), scene), stem[layer], rank, is_quality)


def band_scenes(rasters: Iterable[Raster], least: int = MIN_BANDS) -> Scenes:
    """The band files of each scene with at least `least` bands.

    A quality layer with another name belongs to the only scene of its folder.
    """
    groups: Scenes = defaultdict(list)
    for raster in rasters:
        if (file := parse_name(raster)) is not None:
            groups[file.scene].append(file)
    scenes = {
        key: files
        for key, files in groups.items()
        if len({f.layer.lower() for f in files if not f.is_quality}) >= least
    }
    unclaimed: dict[str, list[BandFile]] = defaultdict(list)
    for key in groups.keys() - scenes.keys():
        unclaimed[key[0]] += [file for file in groups[key] if file.is_quality]
    in_folder = Counter(folder for folder, _ in scenes)
    return {key: files + (unclaimed[key[0]] if in_folder[key[0]] == 1 else []) for key, files in scenes.items()}


def open_band_files(path: str, options: SceneOptions) -> Scene:
    """The scene in a folder, zip or tar of single-band files, in a NetCDF file, or with this file as one of its bands.

    Raises
    ------
    SceneError : several scenes, missing bands, or bands on different grids; the message names them.
    """
    place = Path(path)
    if product := product_of(place):
        raise SceneError(f"{path}: is a part of a product; a whole Sentinel-2 L2A product is required. Use {product}.")
    is_one_band = place.is_file() and place.suffix.lower() in RASTER_SUFFIXES
    folder = place.parent.parent if place.parent.name in SUBFOLDERS else place.parent
    container = folder if is_one_band else place
    rasters = list_rasters(container, SUBFOLDERS)
    scenes = band_scenes(rasters, least=1 if is_one_band else MIN_BANDS)
    if is_one_band:
        scenes = _scene_of_file(place, scenes)
    elif not scenes and (raster := _only_raster(rasters)) is not None:
        return open_geotiff(raster.href, options)
    name = container.absolute().name if container.is_dir() else container.stem
    titles = {key: key[1] or PurePosixPath(key[0]).name or name for key in scenes}
    key = _choose_scene(path, titles, options.granule, rasters)
    return _scene(path, container, titles[key], scenes[key], options)


def _only_raster(rasters: list[Raster]) -> Raster | None:
    """The only raster that is no quality layer; None if there are several, or none."""
    found = [raster for raster in rasters if not QUALITY_NAME.search(PurePosixPath(raster.name).stem)]
    return found[0] if len(found) == 1 else None


def _scene_of_file(path: Path, scenes: Scenes) -> Scenes:
    """The scene with this file; SceneError if the file's name contains no band."""
    found = {key: files for key, files in scenes.items() if any(Path(file.raster.href) == path for file in files)}
    if not found:
        raise SceneError(
            f"{path}: has one band, and its name contains no band such as B02; a multispectral scene is required. Give "
            "a file with all bands, or a folder with one file per band, named like scene_B02.tif."
        )
    return found


def _choose_scene(
    path: str, titles: dict[tuple[str, str], str], granule: str | None, rasters: list[Raster]
) -> tuple[str, str]:
    """The only scene, or the scene whose name contains `granule`."""
    names = sorted(titles.values())
    listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    if not names:
        found = ", ".join(raster.name for raster in rasters[:6]) or "no raster"
        raise SceneError(
            f"{path}: contains {found}; the bands of one scene, one per file, or one raster are required. Give the "
            "path of one file with all bands."
        )
    chosen = [key for key, title in titles.items() if (granule or "").lower() in "/".join((*key, title)).lower()]
    if len(chosen) == 1:
        return chosen[0]
    fault = f"contains {len(names)} scenes" if granule is None else f"--granule {granule} fits {len(chosen)} scenes"
    raise SceneError(
        f"{path}: {fault} ({listed}); one is required. Use --granule {names[0]}, or a part of a name that no other "
        "contains."
    )


def _scene(path: str, container: Path, title: str, files: list[BandFile], options: SceneOptions) -> Scene:
    """The scene of some band files in a folder or archive."""
    texts = [title, *(file.raster.name for file in files[:1]), container.absolute().name]
    bands = [file for file in files if not file.is_quality]
    if any(LEVEL_1C_IMAGE.search(file.raster.name) for file in bands):
        raise level_1c_error(path, bands[0].raster.name)
    source, platform = _source_of(path, texts, bands[0], options.source)
    sensor, available = load_sensor(source), _layers(path, bands, source)
    names = _band_names(path, title, available, source, options, is_known=platform is None)
    rasters = [available[name].raster for name in names]
    with ExitStack() as opened:
        datasets = [opened.enter_context(open_dataset(raster.href)) for raster in rasters]
        files_of = zip(datasets, rasters, strict=True)
        headers = [read_header(dataset, f"{container}/{raster.name}") for dataset, raster in files_of]
        of_folder = replace(headers[0], path=texts[-1])
        for header in headers if source_named_in(texts[:-1]) else [*headers, of_folder]:
            refuse_unsuitable(header)
        # Tags add the time of day to the day in a name. TIFF's DateTime may be the time of writing.
        time, tags = named_time(texts), {key: text for key, text in headers[0].tags.items() if key != WRITTEN_TAG}
        tagged, _ = acquisition_time("", tags)
        notes = [*filter(None, [georeference_note(datasets[0]), platform])]
        grid = common_grid(datasets, rasters, path)
        is_mixed = len({dataset.width for dataset in datasets}) > 1
        facts = next((facts for pattern, facts in PRODUCT_FACTS if any(map(pattern.search, texts))), Declared())
        baseline = baseline_of_file(headers[0], texts)
        rule = _rule(
            path, names, datasets, rasters, known=facts, baseline=baseline, grid=grid, sensor=sensor, options=options
        )
    quality = _quality(files, source) if options.quality else QualityChoice((), "clouds are kept: --no-quality")
    missing = [] if options.bands else [name for name in sensor.grid.names if name not in names]
    notes += [*_notes(texts, bands, missing, rule), *rule.notes]
    notes += [LEVEL_1C_NOTE] if sensor.toa_band is not None and sensor.toa_band[0] in available else []
    return Scene(
        id=title,
        source=source,
        assets=rule.assets(names, [raster.href for raster in rasters], [raster.band for raster in rasters]),
        grid=grid,
        offset_rule=rule.description,
        rule_origin=rule.origin,
        quality=quality.layers,
        quality_note=quality.note,
        datetime=time if time and not (tagged or "").startswith(time) else tagged,
        # A product with several resolutions is converted as a SAFE product is, and bands on one grid as a GeoTIFF is.
        working_gsd_m=sensor.working_gsd_m if is_mixed else None,
        notes=tuple(notes),
    )


def _notes(texts: Sequence[str], bands: list[BandFile], missing: list[str], rule: RadiometricRule) -> list[str]:
    """Notes about an unknown baseline, bands without a file, and files that are not used."""
    notes = []
    if rule.origin == "default" and any(map(ESA_IMAGE.search, texts)):
        notes.append(
            "The names of the images contain no processing baseline, so no offset is assumed. For baseline 04.00 or "
            "later, use --dn-offset -1000."
        )
    if missing:
        notes.append(f"The scene has no file of {', '.join(missing)}: these bands are not used.")
    if len({file.rank[0] for file in bands}) > 1:
        notes.append("The files with slope correction (FRE) are used, not the files without (SRE).")
    return notes


def _source_of(path: str, texts: Sequence[str], band: BandFile, given: str | None) -> tuple[str, str | None]:
    """The sensor that the user gives, or that names or tags name; and a note if its platform is assumed."""
    named = source_named_in(texts)
    if named is None:
        with open_dataset(band.raster.href) as dataset:
            named = source_named_in([*read_header(dataset, band.raster.name).tags.values()])
    if given and named is not None and load_sensor(named).item_rule == "harmonized" and given != named:
        raise SceneError(
            f"{path}: --source {given}, but the files are {named}'s; only that is allowed. Remove --source."
        )
    if source := given or named:
        return source, None
    refuse_other_missions(texts, path)
    return DEFAULT_SOURCE, platform_note(DEFAULT_SOURCE)


def _layers(path: str, bands: list[BandFile], source: str) -> dict[str, BandFile]:
    """The file of each band by the sensor's own name, of the first variant and finest resolution."""
    best: dict[str, BandFile] = {}
    bands = sorted(bands, key=lambda file: file.rank)
    for file, readings in zip(bands, read_names([file.layer for file in bands], source, by_user=True), strict=True):
        if len(readings) > 1:
            raise SceneError(
                f"{path}: {file.raster.name} is {' or '.join(sorted(readings))}, because tools use the name "
                f"{file.layer} for different bands; one meaning is required. Rename the file to end with the "
                f"band's number, such as _{min(readings)}."
            )
        number = next(iter(readings), None)
        name = match_names([number], source)[0] or number
        if name is None:
            continue
        # Without a size in one name, neither is known to be the finer one.
        if name in best and (best[name].rank == file.rank or best[name].rank == (file.rank[0], 0)):
            raise SceneError(
                f"{path}: {best[name].raster.name} and {file.raster.name} are both {name}; one file per band is "
                "required. Move one of them to another folder."
            )
        best.setdefault(name, file)
    return best


def _band_names(
    path: str, title: str, available: dict[str, BandFile], source: str, options: SceneOptions, *, is_known: bool
) -> tuple[str, ...]:
    # S30's B09 and B10 and L30's B09 are top of atmosphere, and L30's B10 and B11 thermal. The sensors' tables do not
    # contain these bands, so their files are ignored.
    sensor = load_sensor(source)
    if sensor.toa_band is not None and sensor.toa_band[0] in available and not options.level_1c:
        raise level_1c_error(path, available[sensor.toa_band[0]].raster.name)
    requested: Sequence[str] | None = options.bands
    if requested is None:
        optional = OFTEN_MISSING if sensor.family == "sentinel2" else ()
        requested = [name for name in sensor.grid.names if name in available or name not in optional]
    lacks = f"has no file of {{}} of {title.translate({ord('{'): '(', ord('}'): ')'})}"
    layers = [file.layer for file in available.values()]
    others = [] if is_known else other_sources(layers, source, by_user=True)
    remedy = (
        "Download the missing files, give the bands to use with --bands, or the sensor with --source "
        f"{' or '.join(others) or f'(taken as {source})'}."
    )
    return choose_bands(available, source, requested, where=path, lacks=lacks, remedy=remedy)


def _rule(
    path: str,
    names: Sequence[str],
    datasets: Sequence[DatasetReader],
    rasters: Sequence[Raster],
    *,
    known: Declared,
    baseline: str | None,
    grid: PixelGrid,
    sensor: Sensor,
    options: SceneOptions,
) -> RadiometricRule:
    """The rule by what the files declare, else by the `known` facts of their product."""
    spectral = sensor.grid.select(sensor.grid.index(names))
    declared = [_declared(dataset, raster.band, known) for dataset, raster in zip(datasets, rasters, strict=True)]
    if sensor.item_rule == "harmonized":
        return rule_of_hls(declared, sensor=sensor, options=options, where=path)
    rules = rules_of_raster(declared, options=options, sensor=sensor, baseline=baseline, where=path)
    hrefs, bands = [raster.href for raster in rasters], [raster.band for raster in rasters]
    rule = most_plausible(rules, hrefs, bands, grid, spectral)
    if known.scale is not None and all(band.where == known.where for band in declared):
        rule = replace(rule, origin="product")
    return rule.with_options(options, path)


def _declared(dataset: DatasetReader, band: int, known: Declared) -> Declared:
    """Scale, offset and nodata of a file: by its header or tags, else the facts of its product."""
    (declared,) = declared_in(dataset, [band])
    if declared.scale is None and declared.offset is None:
        declared = replace(declared, scale=known.scale, offset=known.offset, where=known.where)
    fill = {key.lower(): value for key, value in dataset.tags().items()}.get("_fillvalue")
    fills = declared.nodata, None if fill is None else number_of(fill), known.nodata
    return replace(declared, nodata=next((nodata for nodata in fills if nodata is not None), None))


def _quality(files: list[BandFile], source: str) -> QualityChoice:
    """The quality layers of a scene, each at its finest resolution."""
    finest: dict[str, BandFile] = {}
    for file in sorted((file for file in files if file.is_quality), key=lambda file: file.rank):
        finest.setdefault(file.layer.lower(), file)
    candidates = [Candidate(f.layer, f.raster.href, f.raster.band, f.raster.name) for f in finest.values()]
    return choose_layers(candidates, "scene", load_sensor(source).quality)
