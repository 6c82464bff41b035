"""Draw docs/images/example.png: the example scene, and spectra of four pixels beside the measured bands.

Needs matplotlib: pip install 'ms2hs[report]'
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import rasterio
from matplotlib.axes import Axes

import ms2hs
from ms2hs.datasets.simulation.example_scene import write_example

# (row, col) of a bare field, of meadow, of forest and of a lake.
PIXELS = {"soil": (211, 35), "meadow": (60, 120), "forest": (17, 95), "water": (200, 58)}
COLOURS = {"soil": "#c96f1f", "meadow": "#8aa81f", "forest": "#1d7a35", "water": "#1f5fa8"}
NINETY_PERCENT = 1.645


def draw_spectra(axes: Axes, scene: Path, cube: Path) -> None:
    """Spectra with 90 % intervals, and what the source measured as dots."""
    predicted = ms2hs.open_cube(cube)
    nm = predicted.wavelength.values
    source = ms2hs.open_scene(str(scene)).spectral
    with rasterio.open(scene) as file:
        measured = file.read() * 1e-4
    for name, (row, col) in PIXELS.items():
        spectrum = predicted.reflectance[:, row, col].values
        half = NINETY_PERCENT * predicted.sigma[:, row, col].values
        gaps = np.flatnonzero(np.diff(nm) > 50) + 1
        nm_, low, high, line = (np.insert(v, gaps, np.nan) for v in (nm, spectrum - half, spectrum + half, spectrum))
        axes.fill_between(nm_, low, high, color=COLOURS[name], alpha=0.25, lw=0)
        axes.plot(nm_, line, color=COLOURS[name], lw=1.5, label=name)
        axes.plot(source.wavelength_nm, measured[:, row, col], "o", ms=4, color=COLOURS[name], mec="white", mew=0.7)
    axes.set(xlabel="wavelength (nm)", ylabel="reflectance", xlim=(400, 2460), ylim=(0, None))
    axes.set_title("202 bands from 12 (dots), with 90 % intervals", fontsize=10)
    axes.legend(frameon=False)


def main() -> None:
    """Convert the example scene and draw it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--output", type=Path, default=Path("docs/images/example.png"))
    output = arguments.parse_args().output
    mpl.use("Agg")
    with TemporaryDirectory() as folder:
        scene = write_example(Path(folder) / "example.tif")
        options = ms2hs.ConvertOptions(uncertainty=True, input_error="none")  # the scene is simulated
        result = ms2hs.convert(scene, output=Path(folder) / "cube.tif", options=options)
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1, 2), layout="constrained")
        picture = plt.imread(result.quicklook)
        left.imshow(picture[: ms2hs.open_cube(result.output).sizes["y"]])
        for name, (row, col) in PIXELS.items():
            left.plot(col, row, "o", ms=7, color=COLOURS[name], mec="white")
        left.set_axis_off()
        left.set_title("the scene in natural colour", fontsize=10)
        draw_spectra(right, scene, Path(result.output))
        figure.savefig(output, dpi=110)
    print(output)


if __name__ == "__main__":
    main()
