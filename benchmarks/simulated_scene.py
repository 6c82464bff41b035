"""Image quality of a converted scene: sharpness, visible patch and window edges, and the use of context under noise.

    python benchmarks/simulated_scene.py --sentinel2 DIR --weights FILE [--weights FILE …] [--data DIR]
        [--place NAME] [--target enmap] [--side 512] [--seed 0] [--output scene.png] [--json]

Simulates a scene with the shapes of a window of a real Sentinel-2 scene in --sentinel2, as measured by Sentinel-2A.
Writes it as a GeoTIFF, converts it with `ms2hs.convert` by the prior of the first weights and by each of the weights,
and reads the results. The spectra are pixels of the scenes in --data that all weights left out, by their cards. Without
--data they are the first prior's own sample, which it has seen. Input: clean; with noise of 0.003 per pixel; with a
product's errors (gain 2 %, offset 0.005 per band, noise 0.003 per pixel). The conversion is given these errors.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rasterio import Affine

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.datasets.cubes.spectra_npz import covered_bands, read_spectra_folder
from ms2hs.datasets.simulation.materials import FINE_NM, MIN_BRIGHTNESS, Spectra, spectra_of
from ms2hs.datasets.simulation.sensor_errors import SensorErrors, disturb
from ms2hs.datasets.simulation.synthetic_scenes import simulate
from ms2hs.datasets.simulation.texture import Texture, find_textures
from ms2hs.errors import DataError
from ms2hs.models.prior import TYPICAL_INPUT_ERROR, InputError
from ms2hs.models.weights import Weights, load_weights, save_weights
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.tiling import Tiling
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.metrics import rmse, sam
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band, response_matrix

Image = NDArray[np.float32]
FloatArray = NDArray[np.float64]

SOURCE = "sentinel2a"
INPUTS = {"clean": None, "noise": InputError(0.0, 0.0, TYPICAL_INPUT_ERROR.pixel), "product": TYPICAL_INPUT_ERROR}
# Bands whose power spectra are compared, and the bands that are plotted.
COMPARED_NM, PLOTTED_NM = (490.0, 665.0, 865.0, 1610.0, 2200.0), (665.0, 865.0, 2200.0)
# Rings of spatial frequency up to Nyquist, and the least ratio of signal to noise power of a ring that is compared; the
# noise of clean input is its rounding.
RINGS, SIGNAL = 16, 10.0
ROUNDING = SCALE**2 / 12
# Patch, window and overlap for models without them, as a control of the statistic.
PATCH, WINDOW, OVERLAP = 4, 64, 16
# Resolution of the plot, at least one pixel per scene pixel; range of the errors, in units of the prior's RMSE.
DPI, ERROR_SHOWN = 100, 3
LEGEND = """By band: power relative to the truth's, of the ring furthest from 1 where the input has ten times the power
of its noise; and the power shared with the truth in the finest rings relative to the coarsest (1: no blur).
Patches, windows: differences of the error across edges relative to those beside them, ± standard error (1: no edge)."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated scene with its truth."""

    truth: Image
    """(target band, row, col)."""
    seen: Image
    """(source band, row, col) without errors."""
    known: NDArray[np.bool_]
    """(target band,) True where the spectra have data."""
    grid: SpectralGrid
    """The target's."""
    origin: str
    """Origin of shapes and spectra, as text."""

    def bands(self, wanted_nm: Sequence[float]) -> dict[float, int]:
        """By wavelength, the position of the nearest known band within 15 nm."""
        centres = np.where(self.known, self.grid.wavelength_nm, np.inf)
        nearest = {nm: nearest_band(centres, nm, 15.0) for nm in wanted_nm}
        return {nm: band for nm, band in nearest.items() if band is not None}


@dataclass(frozen=True)
class Layout:
    """Patch size and windows of a network."""

    patch: int
    tiling: Tiling


def unseen_spectra(data: Path, weights: Sequence[Weights]) -> tuple[Spectra, NDArray[np.bool_], str]:
    """Pixels of the scenes that all weights left out, (wavelength,) where they are known, and a description.

    Raises
    ------
    DataError : no such scene, or no pixel that is known over most of the spectrum.
    """
    left_out = [set(one.card.get("settings", {}).get("leave_out", ())) for one in weights]
    names = sorted(set.intersection(*left_out))
    points = [
        interpolate_known(corpus.reflectance, corpus.wavelength_nm, FINE_NM)
        for corpus in read_spectra_folder(data)
        if corpus.place in names and not corpus.is_library
    ]
    # of several files of a scene, only those with the wavelengths of the first
    known = np.isfinite(points[0]).mean(axis=0) > 0.5 if points else np.zeros(len(FINE_NM), bool)
    points = [part[np.isfinite(part[:, known]).all(axis=1)] for part in points]
    whole = np.concatenate([*points, np.empty((0, len(FINE_NM)), np.float32)])
    whole = np.clip(whole[whole[:, known].mean(axis=1) > MIN_BRIGHTNESS] if known.any() else whole[:0], 0, None)
    if not len(whole):
        raise DataError(
            f"{data}: no pixel of a scene that all weights left out ({', '.join(names) or 'no scene'}); some are "
            "needed. Give weights of one fold, or omit --data to simulate from spectra that they have seen."
        )
    filled = np.stack([np.interp(FINE_NM, FINE_NM[known], row[known]) for row in whole]).astype(np.float32)
    return Spectra(FINE_NM, filled, np.ones(len(filled))), known, f"{len(filled)} pixels of {', '.join(names)}, unseen"


def texture_of(folder: Path, name: str, side: int, rng: np.random.Generator) -> Texture:
    """A window of up to `side` pixels of a scene whose name starts with `name`.

    Raises
    ------
    DataError : no such window.
    """
    windows = [window for window in find_textures(folder, side) if window.scene.id.startswith(name)]
    if not windows:
        raise DataError(f"{folder}: no usable window of a scene named {name}…; one is needed. Give another --place.")
    largest = max(window.height * window.width for window in windows)
    windows = [window for window in windows if window.height * window.width == largest]
    return windows[int(rng.integers(len(windows)))]


def simulated_scene(args: argparse.Namespace, weights: Sequence[Weights], target: SpectralGrid) -> Simulated:
    """The scene of the command's options."""
    rng = np.random.default_rng(args.seed)
    texture = texture_of(args.sentinel2, args.place, args.side, rng)
    if args.data:
        spectra, fine, origin = unseen_spectra(args.data, weights)
    else:
        spectra, fine = spectra_of(weights[0].prior), np.ones(len(FINE_NM), bool)
        origin = "the prior's own sample, which it has seen"
    mirrored = " mirrored" if min(texture.height, texture.width) < args.side else ""
    origin = f"shapes of {texture.scene.id} at {texture.row}, {texture.col}{mirrored}; spectra: {origin}"
    whole = simulate(spectra, (args.side, args.side), rng, texture)
    views = [
        np.tensordot(response_matrix(grid, FINE_NM).astype(np.float32), whole, axes=1)
        for grid in (target, load_sensor(SOURCE).grid)
    ]
    return Simulated(*views, covered_bands(FINE_NM[fine], target), target, origin)


def write_scene(path: Path, reflectance: Image) -> None:
    """Write a GeoTIFF as products are stored, at 30 m, so that it is converted on its own grid."""
    grid = load_sensor(SOURCE).grid
    bands, rows, cols = reflectance.shape
    profile = {"driver": "GTiff", "dtype": "int16", "count": bands, "height": rows, "width": cols, "nodata": NODATA}
    with rasterio.open(path, "w", **profile, crs="EPSG:32632", transform=Affine(30, 0, 6e5, 0, -30, 5.1e6)) as file:
        file.write(np.rint(reflectance / SCALE).astype(np.int16))
        file.descriptions, file.scales = grid.names, (SCALE,) * bands


def power(image: FloatArray, other: FloatArray | None = None) -> FloatArray:
    """(ring,) mean over directions of the power of an image (row, col), or of the cross power of two images.

    The mean is removed and a Hann window applied, so that edges do not leak into high frequencies.
    """
    hann = np.outer(*(np.hanning(side) for side in image.shape))
    hann /= np.sqrt(np.square(hann).mean() * image.size)  # so that white noise has its variance as power
    first, second = (np.fft.fft2((one - one.mean()) * hann) for one in (image, image if other is None else other))
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in image.shape), indexing="ij"))
    ring = np.minimum(2 * RINGS * frequency, RINGS).astype(int).ravel()  # the corners beyond Nyquist are left out
    total = np.bincount(ring, (first * second.conj()).real.ravel(), RINGS + 1)[:RINGS]
    rings: FloatArray = total / np.bincount(ring, minlength=RINGS + 1)[:RINGS]
    return rings


def worst(ratios: Sequence[float | None]) -> float:
    """The ratio furthest from 1; NaN without known ratios."""
    known = _known(ratios)
    return float(known[np.abs(np.log(np.maximum(known, 1e-9))).argmax()]) if len(known) else float("nan")


def sharpness(ratios: Sequence[float | None]) -> float:
    """Mean of the finest quarter of the known rings relative to the coarsest quarter; below 1 for a blurred image.

    A contrast that is too small or too large at all frequencies alike gives 1.
    """
    known = _known(ratios)
    quarter = max(len(known) // 4, 1)
    return float(known[-quarter:].mean() / known[:quarter].mean()) if len(known) else float("nan")


def _known(ratios: Sequence[float | None]) -> FloatArray:
    values = np.array(ratios, float)
    return values[np.isfinite(values)]


def edges_of(layout: Layout) -> dict[str, tuple[list[int], list[int]]]:
    """Last rows and columns of patches (where windows do not overlap), and of windows."""
    edges: dict[str, list[list[int]]] = {"patches": [], "windows": []}
    for spans, length in ((layout.tiling.rows, layout.tiling.height), (layout.tiling.cols, layout.tiling.width)):
        shared = np.zeros(length, int)
        for start, end in spans:
            shared[start:end] += 1
        ends = [edge - 1 for start, end in spans for edge in range(start + layout.patch, end, layout.patch)]
        edges["patches"].append([edge for edge in ends if (shared[edge : edge + 2] == 1).all()])
        borders = {border - 1 for span in spans for border in span if 0 < border < length}
        edges["windows"].append(sorted(borders))
    return {name: (rows, cols) for name, (rows, cols) in edges.items()}


def excess(image: Image, edges: tuple[Sequence[int], Sequence[int]]) -> tuple[float, float]:
    """Ratio of neighbour differences across edges to those one and two pixels beside them, and its standard error.

    Geometric mean over bands (band, row, col) and edges; 1 for invisible edges, NaN without edges.
    """
    ratios: list[float] = []
    for axis, own in zip((1, 2), edges, strict=True):
        step = np.log([np.abs(np.diff(band, axis=axis - 1)).mean(axis=2 - axis) + 1e-9 for band in image]).mean(axis=0)
        inside = [edge for edge in own if 2 <= edge < len(step) - 2]
        ratios += [float(step[edge] - step[[edge - 2, edge - 1, edge + 1, edge + 2]].mean()) for edge in inside]
    if not ratios:
        return float("nan"), float("nan")
    ratio = float(np.exp(np.mean(ratios)))
    return ratio, ratio * float(np.std(ratios)) / max(len(ratios) - 1, 1) ** 0.5


def read(path: Path) -> Image:
    """(band, row, col) reflectance of a COG."""
    with rasterio.open(path) as file:
        return np.asarray(file.read(), np.float32) * np.float32(SCALE)


def rings_of(output: Image, truth: Image, seen: Image, pixel: float) -> dict[str, list[float]]:
    """(ring,) of a band: power and cross power with the truth, relative to the truth's; signal to noise of the input.

    Noise raises the power and not the cross power; a blur lowers both.
    """
    image, true, signal = output.astype(float), truth.astype(float), power(seen.astype(float))
    of_truth, ratio = power(true), signal / (pixel**2 + ROUNDING)
    enough = np.where(ratio >= SIGNAL, 1.0, np.nan)
    common = np.where(signal >= SIGNAL * ROUNDING, power(image, true) / of_truth, np.nan)
    rings = {"power": enough * power(image) / of_truth, "common": common, "signal_to_noise": ratio}
    return {name: values.tolist() for name, values in rings.items()}


def score(output: Image, scene: Simulated, pixel: float, layout: Layout) -> dict[str, Any]:
    """All scores of a conversion."""
    error, centres = (output - scene.truth)[scene.known], load_sensor(SOURCE).grid.wavelength_nm
    result: dict[str, Any] = {"rmse": rmse(error, np.float32(0))}
    result["sam"] = sam(output[scene.known, ::3, ::3], scene.truth[scene.known, ::3, ::3])
    result["rings"] = {
        f"{nm:.0f}": rings_of(output[band], scene.truth[band], scene.seen[np.abs(centres - nm).argmin()], pixel)
        for nm, band in scene.bands(COMPARED_NM).items()
    }
    for name, edges in edges_of(layout).items():
        result[name] = excess(error, edges)
    return result


def layout_of(weights: Sequence[Weights], side: int) -> Layout:
    """Layout of the first network with context, by which all models are scored; others are a control."""
    for one in weights:
        if one.network and not one.network.config.is_local:
            config = one.network.config
            return Layout(config.patch, Tiling(side, side, *config.windows()))
    return Layout(PATCH, Tiling(side, side, WINDOW, OVERLAP))


def convert_all(
    scene: Simulated, models: Mapping[str, str], args: argparse.Namespace, layout: Layout
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Image]]]:
    """Scores, and (plotted band, row, col) results, by model and input."""
    scores: dict[str, dict[str, Any]] = {name: {} for name in models}
    pictures: dict[str, dict[str, Image]] = {name: {} for name in models}
    plotted = list(scene.bands(PLOTTED_NM).values())
    with tempfile.TemporaryDirectory() as scratch:
        for number, (kind, error) in enumerate(INPUTS.items()):
            path, rng = Path(scratch, f"{kind}.tif"), np.random.default_rng((args.seed, number))
            off = SensorErrors.plain(error.gain, error.offset, error.pixel) if error else SensorErrors.none()
            write_scene(path, disturb(scene.seen, load_sensor(SOURCE).grid, off, rng))
            for name, model in models.items():
                choices = ConvertOptions(source=SOURCE, model=model, input_error=error or "none", overwrite=True)
                output = read(convert(path, args.target, Path(scratch, "made.tif"), choices).output)
                scores[name][kind] = score(output, scene, error.pixel if error else 0.0, layout)
                pictures[name][kind] = output[plotted]
    return scores, pictures


def plot(scene: Simulated, pictures: Mapping[str, Mapping[str, Image]], path: Path) -> None:
    """Write a plot with a row for each band and model: truth, results for clean and noisy input, and errors."""
    bands = scene.bands(PLOTTED_NM)
    rows = [(nm, name, i) for i, nm in enumerate(bands) for name in pictures]
    inches = len(scene.truth[0]) / DPI + 0.2
    figure = Figure(figsize=(5 * inches, len(rows) * (inches + 0.1)), layout="constrained", dpi=DPI)
    panels = figure.subplots(len(rows), 5, squeeze=False)
    for line, (nm, name, i) in zip(panels, rows, strict=True):
        truth = scene.truth[bands[nm]]
        low, high = np.percentile(truth, (1, 99))
        most = ERROR_SHOWN * rmse(pictures["prior"]["clean"][i], truth)
        results = {kind: pictures[name][kind][i] for kind in ("clean", "product")}
        shown = {f"truth, {nm:.0f} nm": truth} | {f"{name}, {kind}": image for kind, image in results.items()}
        errors = {f"error ±{most:.4f}, {kind}": image - truth for kind, image in results.items()}
        for panel, (title, image) in zip(line, (shown | errors).items(), strict=True):
            limits = (-most, most) if title in errors else (low, high)
            panel.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
            panel.set_title(title)
            panel.set_axis_off()
    FigureCanvasAgg(figure).print_png(path)


def show(scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table with a row for each model and input."""
    bands = [f"{nm:.0f}" for nm in COMPARED_NM]
    heads = f"{'RMSE x 1e4':>12s} {'SAM':>5s}" + "".join(f"{nm + ' nm':>14s}" for nm in bands)
    print(f"{'':32s}{heads}{'patches':>17s}{'windows':>17s}")
    for name, by_kind in scores.items():
        for kind, found in by_kind.items():
            rings = [found["rings"].get(nm, {"power": [], "common": []}) for nm in bands]
            cells = [f"{worst(one['power']):.3f} {sharpness(one['common']):.3f}" for one in rings]
            edges = [f"{found[one][0]:.4f} ± {found[one][1]:.4f}" for one in ("patches", "windows")]
            line = f"{name:24s}{kind:8s}{1e4 * found['rmse']:12.1f} {found['sam']:5.2f}"
            print(line + "".join(f"{cell:>14s}" for cell in cells) + "".join(f"{cell:>17s}" for cell in edges))
    print(LEGEND)


def main() -> None:
    """Simulate, convert, score, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sentinel2", type=Path, required=True)
    parser.add_argument("--weights", action="append", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--place", default="", help="start of a scene's name in --sentinel2")
    parser.add_argument("--target", default="enmap")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    weights = [load_weights(name) for name in args.weights]
    scene = simulated_scene(args, weights, load_sensor(args.target).grid)
    with tempfile.TemporaryDirectory() as scratch:
        prior = Path(scratch, "prior.safetensors")
        save_weights(prior, weights[0].prior, weights[0].card)
        models = {"prior": str(prior)}
        for one, path in zip(weights, args.weights, strict=True):
            name = one.card.get("settings", {}).get("preset") or one.name
            models[path if name in models else name] = path
        scores, pictures = convert_all(scene, models, args, layout_of(weights, args.side))
    if args.output:
        plot(scene, pictures, args.output)
    if args.json:
        text = json.dumps({"scene": scene.origin, "scores": scores})
        print(json.dumps(json.loads(text, parse_constant=lambda _: None)))  # JSON has no NaN
        return
    print(scene.origin)
    show(scores)


if __name__ == "__main__":
    main()
