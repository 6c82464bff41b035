"""The look of the report's figures: colours, line styles and the embedding into the page.

Figures are plain matplotlib SVG images on a white ground. The page shows them on white cards, in light and dark mode.
"""

import base64
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ms2hs.evaluation.results import MethodScores

GROUND, INK, AXIS, GRID = "#ffffff", "#1b1d1f", "#5d636a", "#e2e2de"
NOT_MEASURED, UNKNOWN, SOURCE, PRIOR = "#ededea", "#d9cfbd", "#50545c", "#0072b2"
# Hues of Okabe & Ito (2008), darker. Models are dashed, so that the prior is visible where they follow it; baselines
# are paler and thinner.
COLOURS = {
    "model": ("#c44e00", "#00795a", "#a8438b", "#8f6500"),
    "baseline": ("#77787a", "#8b7d2c", "#3f9088", "#a85f6e"),
}
DASHES: dict[str, Sequence[Sequence[float]]] = {
    "model": ((9, 2.5), (5, 1.8, 1.5, 1.8), (3.2, 1.6), (9, 1.8, 1.5, 1.8, 1.5, 1.8)),
    "baseline": ((1.2, 1.6), (4.5, 2.2), (7, 2.2, 1.2, 2.2), (2.4, 1.6)),
}
_RC_PARAMS = {
    "svg.fonttype": "none",  # text stays text: the page's fonts show letters that matplotlib's font lacks
    "svg.hashsalt": "ms2hs",  # the same figure gives the same bytes
    "text.parse_math": False,  # a name with a dollar sign is a name
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": AXIS,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 3,
    "lines.dash_capstyle": "butt",
    "image.interpolation": "none",
}


@dataclass(frozen=True)
class LineStyle:
    """The line of a method in every figure; no two methods share a dash pattern and a colour."""

    colour: str
    dashes: tuple[float, ...]
    """On and off, in line widths; empty for a solid line."""
    width: float

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot`."""
        return {"color": self.colour, "linewidth": self.width, "linestyle": (0, self.dashes) if self.dashes else "-"}


def styles_of(rows: Sequence[MethodScores]) -> Mapping[str, LineStyle]:
    """By method; up to 16 models and 16 baselines differ."""
    numbers = {"model": count(), "baseline": count()}
    return {
        row.method: LineStyle(PRIOR, (), 1.8) if row.kind == "prior" else _style(row.kind, next(numbers[row.kind]))
        for row in rows
    }


def _style(kind: str, number: int) -> LineStyle:
    colours, dashes = COLOURS[kind], DASHES[kind]
    colour, shift = number % len(colours), number // len(colours)
    width = 1.6 if kind == "model" else 1.2
    return LineStyle(colours[colour], tuple(dashes[(colour + shift) % len(dashes)]), width)


@contextmanager
def report_style() -> Iterator[None]:
    """Draw in the style of the page, whatever the user's matplotlib settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC_PARAMS)
        yield


def new_figure(width_px: float, height_px: float) -> Figure:
    """An empty figure of a size in CSS pixels."""
    return Figure(figsize=(width_px / 72, height_px / 72), dpi=72, layout="constrained")


def data_uri(figure: Figure) -> str:
    """The figure as an SVG image for `<img src=...>`."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():  # the font that measures text lacks letters that the page's fonts have
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.getvalue()).decode('ascii')}"
