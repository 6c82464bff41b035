"""Pictures of spectra: lines with the 90 % interval, measured bands as dots, inferred ranges grey."""

import io
from importlib.util import find_spec

import numpy as np
import xarray as xr

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.errors import OutputError, visible

NINETY_PERCENT = 1.645
"""Half the width of the 90 % interval in standard deviations."""
# Lines break where bands are further apart, as in the water-vapour bands.
MAX_STEP_NM = 50.0
# Spectra with a colour and a name; more would hide each other.
MAX_SPECTRA = 10
# The colours of Okabe & Ito (2008), which colour-blind people tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#e8e8e5"
SIZE_INCHES, DPI = (9.0, 4.5), 110


def check_plot() -> None:
    """Raise OutputError unless matplotlib is installed; to be called before long work."""
    if find_spec("matplotlib") is None:
        raise OutputError(
            "matplotlib, which draws the plot, is not installed; CSV and JSON need no library. Install it with "
            "`pip install 'ms2hs[report]'`, or leave out --plot."
        )


def draw_spectra(spectra: xr.Dataset, title: str) -> bytes:
    """A PNG of the spectra of `read_spectra`, at most `MAX_SPECTRA` of them."""
    from matplotlib.figure import Figure  # noqa: PLC0415  comes with ms2hs[report]

    order = np.argsort(spectra.wavelength.values, kind="stable")
    spectra = spectra.isel(wavelength=order, point=slice(MAX_SPECTRA))
    nm = spectra.wavelength.values
    support = spectra.support.values if "support" in spectra.coords else np.full(len(nm), "")
    figure = Figure(SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    for number, edges in enumerate(_ranges(nm, spectra.fwhm.values, support == "inferred")):
        axes.axvspan(*edges, color=GREY, lw=0, zorder=0, label=None if number else "inferred")
    measured = np.flatnonzero(support == "measured")
    for point, name in enumerate(spectra.id.values):
        values, colour = spectra.reflectance.values[point], COLOURS[point % len(COLOURS)]
        if "sigma" in spectra:
            half = NINETY_PERCENT * spectra.sigma.values[point]
            at_nm, low, high = _broken(nm, values - half, values + half)
            axes.fill_between(at_nm, low, high, color=colour, alpha=0.2, lw=0)
        axes.plot(*_broken(nm, values), color=colour, lw=1.4, label=visible(str(name)).replace("$", r"\$"))
        axes.plot(nm[measured], values[measured], "o", ms=3.5, color=colour, mec="white", mew=0.5)
    if len(measured):
        axes.plot([], [], "o", ms=3.5, color="#55555a", label="bands that the source measures")
    axes.set(xlabel="wavelength (nm)", ylabel="reflectance", xlim=(nm[0], nm[-1]))
    axes.set_title(visible(title).replace("$", r"\$"), fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def _broken(nm: FloatArray, *lines: FloatArray) -> tuple[FloatArray, ...]:
    """Wavelengths and lines with NaN in wide gaps."""
    gaps = np.flatnonzero(np.diff(nm) > MAX_STEP_NM) + 1
    return tuple(np.insert(line.astype(float), gaps, np.nan) for line in (nm, *lines))


def _ranges(nm: FloatArray, fwhm: FloatArray, chosen: BoolArray) -> list[tuple[float, float]]:
    """Wavelength ranges of consecutive chosen bands."""
    edges = np.diff(np.concatenate([[0], chosen.astype(int), [0]]))
    starts, ends = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0) - 1
    return [(nm[a] - fwhm[a] / 2, nm[b] + fwhm[b] / 2) for a, b in zip(starts, ends, strict=True)]
