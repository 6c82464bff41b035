"""Draw docs/images/bench.png: a bench below a camera of 397-1004 nm, converted to another camera's 936-1720 nm.

Needs matplotlib: pip install 'ms2hs[report,train]'
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import matplotlib.pyplot as plt

import ms2hs
from ms2hs.datasets.simulation.bench_scene import write_bench

# (row, col) and colour of a pixel of each object.
PIXELS = {
    "green leaf": ((24, 21), "#1d7a35"),
    "dry leaf": ((66, 54), "#b0742a"),
    "wet soil": ((48, 118), "#5b3f8f"),
    "white panel": ((15, 93), "#777777"),
}
NINETY_PERCENT = 1.645


def main() -> None:
    """Convert the bench and draw it."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--output", type=Path, default=Path("docs/images/bench.png"))
    output = arguments.parse_args().output
    mpl.use("Agg")
    with TemporaryDirectory() as folder:
        bench, truth = (
            ms2hs.open_cube(write_bench(Path(folder, f"{camera}.dat"), camera))
            for camera in ("specim-iq", "specim-fx17")
        )
        options = ms2hs.ConvertOptions(uncertainty=True, model="linear")
        result = ms2hs.convert(Path(folder, "specim-iq.dat"), "specim-fx17", Path(folder, "made.tif"), options)
        made = ms2hs.open_cube(result.output)
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1, 1.7), layout="constrained")
        left.imshow(bench.ms2hs.rgb() ** 0.6)  # dark leaves on a dark board
        left.set_axis_off()
        for name, ((row, col), colour) in PIXELS.items():
            pixel = {"y": row, "x": col}
            left.plot(col, row, "o", ms=7, color=colour, mec="white")
            spectrum, sigma = made.reflectance.isel(pixel), made.sigma.isel(pixel)
            low, high = spectrum - NINETY_PERCENT * sigma, spectrum + NINETY_PERCENT * sigma
            right.fill_between(made.wavelength, low, high, color=colour, alpha=0.22, lw=0)
            right.plot(made.wavelength, spectrum, color=colour, lw=1.6, label=name)
            right.plot(truth.wavelength, truth.reflectance.isel(pixel), color=colour, lw=1, ls=":")
            right.plot(bench.wavelength, bench.reflectance.isel(pixel), color=colour, lw=0.8)
        right.axvspan(bench.wavelength.max(), made.wavelength.max(), color="0.94", zorder=0)
        right.set(xlabel="wavelength (nm)", ylabel="reflectance", xlim=(390, 1725), ylim=(0, 1.3))
        right.set_title("measured to 1004 nm; beyond predicted with its 90 % interval; dotted: the truth", fontsize=9)
        right.legend(frameon=False, fontsize=8, ncols=4, loc="upper left")
        figure.savefig(output, dpi=110)
    print(output)


if __name__ == "__main__":
    main()
