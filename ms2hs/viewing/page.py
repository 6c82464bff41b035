"""The HTML page of a cube: one file with everything inside, or the page of the server.

The embedded cube is int16. A band is nearly a linear function of the bands before it, so what this function misses
compresses to a third of the numbers: it is deflated and written in base64, and the page adds the prediction again,
without loss. A cube with more numbers than `MAX_VALUES`, or a page larger than `MAX_PAGE_BYTES`, is thinned: the page
then shows averages of 2 x 2, 4 x 4, ... pixels, and says so.

Names and tags are other people's text. They stand in the page as JSON without `<`, which the script inserts as text,
and the page's policy allows its own two scripts only and no request to anywhere.
"""

import base64
import csv
import hashlib
import html
import json
import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ms2hs._version import __version__
from ms2hs.arrays import FloatArray
from ms2hs.errors import DataError, input_errors
from ms2hs.files import check_output, file_ids, file_name, write_bytes
from ms2hs.raster.cube import NODATA
from ms2hs.raster.pixel_grid import WGS84, pixel_size_m
from ms2hs.remote.url_policy import shown
from ms2hs.scenes.formats import open_scene
from ms2hs.spectra.library import read_library
from ms2hs.spectra.sensors import shipped_sensor
from ms2hs.spectra.spectral_grid import nearest_band
from ms2hs.viewing.cube_layers import CubeLayer, Int16Array, Kind, open_layers, positions
from ms2hs.viewing.scene_layer import SceneLayer

Layer = CubeLayer | SceneLayer
MAX_VALUES = 20_000_000
"""Numbers of an embedded cube, such as 314 x 314 pixels of 202 bands: a browser holds them twice, with sigma."""
MAX_PAGE_BYTES = 15_000_000
"""Size of a page for each cube in it."""
MAX_REFERENCES = 20
# A band is predicted from this many bands before it, with coefficients in steps of 1 / COEFFICIENT_STEPS that are
# fitted to every FIT_STEP-th pixel. Products and sums are whole numbers below 2^53: exact here and in the page.
PREDICTORS, COEFFICIENT_STEPS, MAX_COEFFICIENT, FIT_STEP = 8, 1 << 16, 1 << 21, 7
DEFLATE_LEVEL = 6  # 7 takes twice the time for 3 % less
# Suffixes of files with reference spectra; every other file is a cube.
REFERENCE_SUFFIXES = {".csv", ".sli", ".npz"}
STYLES, PLOTS = ("uPlot.min.css", "view.css"), "uPlot.iife.min.js"
SCRIPTS = ("view_data.js", "view_picture.js", "view_chart.js", "view_exchange.js", "view.js")
# Points per side between which the page interpolates longitude and latitude.
LONLAT_POINTS = 9
# Side of the small picture in which the pixels that the page shows first are sought.
EXAMPLE_SIDE = 128
# They lie this share of the picture inside its edges, with scores between these quantiles; tries until one is valid.
EXAMPLE_MARGIN, EXAMPLE_QUANTILES, EXAMPLE_TRIES = 0.1, (0.97, 0.99), 8
# Numbers that are read at a time, in float32: 256 MB.
READ_VALUES = 64_000_000
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; connect-src {connect}; "
    "base-uri 'none'; form-action 'none'"
)


def view(
    cube: str | Path,
    output: str | Path | None = None,
    compare: Sequence[str | Path] = (),
    *,
    scene: str | Path | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda _text: None,
) -> Path:
    """Write an HTML page that shows a cube in any browser: its picture, and the spectrum of every pixel.

    Parameters
    ----------
    cube : a file that `open_cube` opens.
    output : HTML file; None: the name of the cube with the suffix .html, beside the cube.
    compare : further cubes, or files of reference spectra (see `read_references`).
    scene : the scene that the cube was converted from, whose values the page shows as dots.
    note : called with each note, such as thinning of a large cube.

    Returns
    -------
    The path of the page.

    Raises
    ------
    SceneError : not a cube. DataError : references that cannot be read. OutputError : the page exists, or cannot be
    written.
    """
    folder = Path(cube).parent if Path(cube).exists() else Path()  # of an address: here
    path = Path(output) if output else folder / f"{file_name(Path(shown(str(cube))).stem)}.html"
    inputs = file_ids([cube, *compare, *([scene] if scene else [])])
    check_output(path, overwrite=overwrite, inputs=inputs)
    layers, references = open_inputs(cube, compare, scene, note)
    step = 1
    while (content := embedded_page(layers, references, step)) is None:
        step *= 2
    if step > 1:
        note(_thinning(layers[0], step))
    write_bytes(path, content, overwrite=overwrite, inputs=inputs)
    return path


def open_inputs(
    cube: str | Path, compare: Sequence[str | Path], scene: str | Path | None, note: Callable[[str], None]
) -> tuple[list[Layer], list[dict[str, Any]]]:
    """The layers of a page, and the reference spectra as the page takes them; errors as in `view`."""
    tables = [path for path in compare if Path(path).suffix.lower() in REFERENCE_SUFFIXES]
    layers: list[Layer] = [*open_layers([cube, *(path for path in compare if path not in tables)])]
    if scene is not None:
        layers.append(SceneLayer(open_scene(str(scene)), str(scene), layers[0].grid))
    references = [reference for path in tables for reference in read_references(Path(path))]
    if len(references) > MAX_REFERENCES:
        note(f"{len(references)} reference spectra; the page shows the first {MAX_REFERENCES}.")
    return layers, references[:MAX_REFERENCES]


def embedded_page(layers: Sequence[Layer], references: Sequence[dict[str, Any]], step: int) -> bytes | None:
    """The page with averages of `step` x `step` pixels inside; None if it is too large."""
    grid = layers[0].grid
    shape = -(-grid.height // step), -(-grid.width // step)
    if max(len(layer.spectral) for layer in layers) * math.prod(shape) > MAX_VALUES:
        return None
    parts, meta = [], _meta(layers, references)
    for i, layer in enumerate(layers):
        for kind in layer.kinds:
            meta["layers"][i]["coefficients"][kind], text = _encode(_read_all(layer, kind, shape))
            parts.append(f'<script type="text/plain" id="{kind}-{i}">{text}</script>')
    notice = _thinning(layers[0], step) if step > 1 else ""
    footer = f"ms2hs {__version__} · The cube is in this file. The page sends no request to anywhere."
    meta |= {"step": step, "served": None, "notice": notice, "footer": footer}
    content = _render(meta, parts, connect="'none'")
    return content if len(content) <= MAX_PAGE_BYTES * len(layers) else None


def served_page(layers: Sequence[Layer], references: Sequence[dict[str, Any]], address: str) -> bytes:
    """The page that requests windows and spectra from a server at the path `address`."""
    footer = f"ms2hs {__version__} · The page requests pixels from this computer only."
    about = {"step": 1, "served": address, "notice": "", "footer": footer}
    return _render(_meta(layers, references) | about, [], connect="'self'")


def read_references(path: Path) -> list[dict[str, Any]]:
    """Reference spectra of a file: `name`, `nm` and `values`, without unknown values, in ascending order.

    The file is a library that `read_library` reads, or a CSV with the columns `wavelength_nm` and `reflectance`, as
    `ms2hs spectrum` prints.

    Raises
    ------
    DataError : missing, or without spectra.
    """
    if path.suffix.lower() == ".csv" and path.is_file():
        with input_errors(str(path), DataError), path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if {"wavelength_nm", "reflectance"} <= set(rows.fieldnames or ()):
                points: dict[str, list[tuple[float, float]]] = {}
                for row in rows:
                    if row["reflectance"]:
                        point = float(row["wavelength_nm"]), float(row["reflectance"])
                        points.setdefault(row.get("id") or path.stem, []).append(point)
                columns = {name: np.array(of_spectrum).T for name, of_spectrum in points.items()}
                return [one for name, (nm, values) in columns.items() for one in _references([name], nm, values[None])]
    library = read_library(path)
    return _references(library.ids, library.wavelength_nm, library.reflectance)


def _references(names: Sequence[str], nm: FloatArray, spectra: NDArray[Any]) -> list[dict[str, Any]]:
    order = np.argsort(nm, kind="stable")
    known = [order[np.isfinite(values[order])] for values in spectra]
    return [
        {"name": name, "nm": nm[at].tolist(), "values": np.round(values[at].astype(float), 6).tolist()}
        for name, values, at in zip(names, spectra, known, strict=True)
    ]


def _meta(layers: Sequence[Layer], references: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the page must know besides the pixels."""
    grid = layers[0].grid
    return {
        "title": _name(layers[0]),
        "stem": Path(_name(layers[0])).stem,
        "facts": _facts(layers[0]),
        "height": grid.height,
        "width": grid.width,
        "pixel_m": pixel_size_m(grid)[1] if grid.crs else None,
        "aspect": pixel_size_m(grid)[1] / pixel_size_m(grid)[0],
        "lonlat": _lonlat(layers[0]),
        "examples": _examples(layers[0]),
        "references": list(references),
        "layers": [
            {
                "name": _name(layer),
                "names": layer.spectral.names,
                "wavelength_nm": layer.spectral.wavelength_nm.round(4).tolist(),
                "fwhm_nm": layer.spectral.fwhm_nm.round(4).tolist(),
                "good": layer.spectral.good.tolist(),
                "support": layer.support,
                "are_dots": layer.are_dots,
                "has_sigma": "sigma" in layer.kinds,
                "coefficients": {},
            }
            for layer in layers
        ],
    }


def _name(layer: Layer) -> str:
    """The file name of a layer, of an address without secrets."""
    return Path(shown(layer.path)).name


def _facts(layer: Layer) -> list[tuple[str, str]]:
    """Facts below the title: label and text."""
    tags, nm = layer.cube.attrs if isinstance(layer, CubeLayer) else {}, layer.spectral.wavelength_nm
    sensors = [_short_title(str(tags.get(f"MS2HS_{role}", ""))) for role in ("SOURCE", "TARGET")]
    size = f" of {pixel_size_m(layer.grid)[1]:.4g} m" if layer.grid.crs else ""
    facts = [
        ("", " → ".join(filter(None, sensors))),
        ("", f"{len(nm)} bands, {nm.min():.0f}–{nm.max():.0f} nm"),
        ("", f"{layer.grid.width} × {layer.grid.height} pixels{size}"),
        ("model", str(tags.get("MS2HS_MODEL", ""))),
        ("", "predicted, not measured" if tags.get("MS2HS_SYNTHETIC") else ""),
    ]
    return [(label, text) for label, text in facts if text]


def _short_title(sensor: str) -> str:
    """The instrument of a sensor's title; a user's sensor has the name of its file."""
    known = shipped_sensor(sensor)
    return known.title.split(",")[0].split(" level")[0] if known else Path(sensor).stem


def _lonlat(layer: Layer) -> list[list[list[float]]] | None:
    """(LONLAT_POINTS, LONLAT_POINTS, 2) degrees at evenly spaced corners of pixels; None without a position."""
    grid = layer.grid
    if grid.crs is None:
        return None
    corners = (np.linspace(0, size, LONLAT_POINTS) for size in (grid.height, grid.width))
    lonlat = np.stack(positions(grid, WGS84, *corners), axis=-1)
    return lonlat.round(8).tolist() if np.isfinite(lonlat).all() else None


def _examples(layer: Layer) -> list[tuple[int, int]]:
    """Row and column of three unlike pixels, far from each other: green leaves, bright soil, and a dark surface."""
    grid = layer.grid
    bands = [nearest_band(layer.spectral.wavelength_nm, nm, math.inf) or 0 for nm in (665.0, 865.0, 1650.0)]
    shape = min(grid.height, EXAMPLE_SIDE), min(grid.width, EXAMPLE_SIDE)
    planes = layer.read("reflectance", bands, (0, 0, grid.height, grid.width), shape)
    scale = np.array([grid.height, grid.width]) / shape
    places = np.argwhere((planes != NODATA).all(axis=0))
    places = places[(np.abs(places / shape - 0.5) < 0.5 - EXAMPLE_MARGIN).all(axis=1)]
    red, infrared, shortwave = planes[:, places[:, 0], places[:, 1]].astype(float)
    chosen: list[tuple[int, int]] = []
    for score in ((infrared - red) / np.maximum(infrared + red, 1), red + shortwave - infrared, -infrared):
        high = places[np.argsort(score, kind="stable")[slice(*(int(q * len(places)) for q in EXAMPLE_QUANTILES))]]
        high = ((high + 0.5) * scale).astype(int)
        away = np.min([np.hypot(*(high - other).T) for other in [*chosen, (-grid.height, -grid.width)]], axis=0)
        pixels = (tuple(pixel) for pixel in high[np.argsort(-away, kind="stable")][:EXAMPLE_TRIES].tolist())
        new = (pixel for pixel in pixels if pixel not in chosen)
        valid = (pixel for pixel in new if (layer.read("reflectance", bands, (*pixel, 1, 1)) != NODATA).all())
        chosen += islice(valid, 1)
    return chosen


def _thinning(layer: Layer, step: int) -> str:
    return (
        f"The cube of {layer.grid.width} × {layer.grid.height} pixels is too large for one page: the page shows "
        f"averages of {step} × {step} pixels. Use `ms2hs view --serve` to see every pixel."
    )


def _read_all(layer: Layer, kind: Kind, shape: tuple[int, int]) -> Int16Array:
    """(band, row, col) all bands at a resolution, read in groups that fit into memory."""
    grid, bands = layer.grid, len(layer.spectral)
    size = max(1, READ_VALUES // (grid.height * grid.width))
    groups = [range(start, min(start + size, bands)) for start in range(0, bands, size)]
    return np.concatenate([layer.read(kind, group, (0, 0, grid.height, grid.width), shape) for group in groups])


def _encode(cube: Int16Array) -> tuple[list[list[int]], str]:
    """The coefficients of each band, the nearest band before it first; and what they miss, deflated, as text."""
    flat = cube.reshape(len(cube), -1)
    fitted = flat[:, (flat != NODATA).all(axis=0)][:, ::FIT_STEP].astype(float)
    missed = flat.copy()
    coefficients: list[list[int]] = [[]]
    for band in range(1, len(flat)):
        before = slice(band - 1, band - PREDICTORS - 1 if band > PREDICTORS else None, -1)
        known = fitted[before]
        normal = known @ known.T + np.eye(len(known)) * (1 + 0.1 * known.shape[1])  # 0.1: rounding of the numbers
        solution = np.rint(np.linalg.solve(normal, known @ fitted[band]) * COEFFICIENT_STEPS)
        whole = np.clip(solution, -MAX_COEFFICIENT, MAX_COEFFICIENT)
        predicted = np.floor((whole @ flat[before].astype(float) + COEFFICIENT_STEPS / 2) / COEFFICIENT_STEPS)
        missed[band] -= predicted.astype(np.int64).astype(np.int16)  # wraps around, as the sum in the page does
        coefficients.append(whole.astype(int).tolist())
    deflated = imagecodecs.deflate_encode(missed.astype("<i2").tobytes(), level=DEFLATE_LEVEL)
    return coefficients, base64.b64encode(deflated).decode("ascii")


def _render(meta: dict[str, Any], parts: Sequence[str], connect: str) -> bytes:
    """The page of the template `view.html` with its data."""
    static = files("ms2hs") / "static"
    read = {name: (static / name).read_text(encoding="utf-8") for name in (*STYLES, PLOTS, *SCRIPTS, "view.html")}
    scripts = [read[PLOTS], "".join(read[name] for name in SCRIPTS)]
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    policy = POLICY.format(scripts=" ".join(f"'sha256-{one}'" for one in hashes), connect=connect)
    described = json.dumps(meta, allow_nan=False).replace("<", "\\u003c")
    page = Template(read["view.html"]).substitute(
        title=html.escape(meta["title"]),
        version=__version__,
        policy=policy,
        style="".join(read[name] for name in STYLES),
        data="\n".join([f'<script type="application/json" id="meta">{described}</script>', *parts]),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )
    return page.encode("utf-8", "replace")
