"""Figures as parts of a page: inline SVG whose colours are the page's own, by day, by night and in print."""

import base64
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from ms2hs.evaluation.results import Row

# Name: by day, by night. Figures are drawn in the colours of the day, each of which stands for its name alone.
INKS: dict[str, tuple[str, str]] = {
    "page": ("#fdfdfb", "#16181a"),
    "ink": ("#1b1d1f", "#e8e6e1"),
    "axis": ("#5d636a", "#a3a9b0"),
    "rule": ("#e2e2de", "#363a40"),
    "hidden": ("#ededea", "#2a2d31"),
    "unknown": ("#d9cfbd", "#4a4438"),
    "source": ("#50545c", "#b9bec6"),
    "prior": ("#0072b2", "#56b4e9"),
    # Models are broken, so that the prior is seen where they follow it. Okabe & Ito's (2008) hues, darker or lighter.
    "model-0": ("#c44e00", "#ff8f4a"),
    "model-1": ("#00795a", "#2fc79c"),
    "model-2": ("#a8438b", "#e68fcb"),
    "model-3": ("#8f6500", "#e3b52c"),
    # Baselines are paler, thinner and broken.
    "baseline-0": ("#77787a", "#a2a4a7"),
    "baseline-1": ("#8b7d2c", "#c2b45e"),
    "baseline-2": ("#3f9088", "#6fbdb5"),
    "baseline-3": ("#a85f6e", "#d795a2"),
}
DASHES: dict[str, Sequence[Sequence[float]]] = {
    "model": ((9, 2.5), (5, 1.8, 1.5, 1.8), (3.2, 1.6), (9, 1.8, 1.5, 1.8, 1.5, 1.8)),
    "baseline": ((1.2, 1.6), (4.5, 2.2), (7, 2.2, 1.2, 2.2), (2.4, 1.6)),
}
HUES = 4
_VARIABLES = {day: f"var(--{name})" for name, (day, _) in INKS.items()}
_ALWAYS = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "svg.hashsalt": "ms2hs",  # the same figure gives the same bytes
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.linewidth": 0.8,
    "grid.color": INKS["rule"][0],
    "grid.linewidth": 0.8,
    "text.color": INKS["ink"][0],
    "axes.titlecolor": INKS["ink"][0],
    "axes.labelcolor": INKS["ink"][0],
    "axes.edgecolor": INKS["axis"][0],
    "xtick.color": INKS["axis"][0],
    "ytick.color": INKS["axis"][0],
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "text.parse_math": False,  # a name with a dollar sign is a name
    "lines.dash_capstyle": "butt",
    "image.interpolation": "none",
    "image.composite_image": False,
}


@dataclass(frozen=True)
class Style:
    """How one method looks in every figure: told apart by its line alone, without its colour."""

    name: str
    """Of `INKS`."""
    dashes: tuple[float, ...]
    """On and off in line widths; none: unbroken."""
    width: float

    @property
    def line(self) -> dict[str, Any]:
        """What matplotlib calls it."""
        return {"color": ink(self.name), "linewidth": self.width, "linestyle": (0, self.dashes) if self.dashes else "-"}

    @property
    def dasharray(self) -> str:
        """What SVG calls it, in pixels."""
        return " ".join(f"{length * self.width:.1f}" for length in self.dashes) or "none"


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    label: str
    mark: Literal["line", "block", "faint block", "dot", "bar"]
    style: Style


def ink(name: str) -> str:
    """The colour that becomes the page's own of that name."""
    return INKS[name][0]


def styles_of(rows: Sequence[Row]) -> Mapping[str, Style]:
    """By method; up to 16 models and 16 baselines differ in hue or dashes."""
    numbers = {"model": count(), "baseline": count()}
    return {row.method: _style(row.kind, 0 if row.kind == "prior" else next(numbers[row.kind])) for row in rows}


def _style(kind: str, number: int) -> Style:
    if kind == "prior":
        return Style("prior", (), 1.8)
    hue, turn = number % HUES, number // HUES
    return Style(f"{kind}-{hue}", tuple(DASHES[kind][(hue + turn) % HUES]), 1.6 if kind == "model" else 1.2)


@contextmanager
def page_style() -> Iterator[None]:
    """Figures made inside look like the page, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_ALWAYS)
        yield


def sheet(width_px: float, height_px: float) -> Figure:
    """A figure whose unit is the page's pixel."""
    return Figure(figsize=(width_px / 72, height_px / 72), dpi=72, layout="constrained")


def inline_svg(figure: Figure, alt: str, prefix: str) -> str:
    """An `<svg>` element to stand in HTML, with no ids but those that it uses itself, which begin with `prefix`."""
    drawn = io.StringIO()
    with warnings.catch_warnings():  # the page's fonts show what the font that measures text cannot
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(drawn, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ET.fromstring(drawn.getvalue())  # noqa: S314  what matplotlib wrote just now
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', drawn.getvalue()))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib = {
            key: _adapted(key, value, prefix) for key, value in attributes.items() if key != "id" or value in used
        }
        element.tail = None
    for definitions in root.findall("defs"):
        if definitions.find("style") is not None:  # it would be for the whole page
            root.remove(definitions)
    width, height = root.get("viewBox", "").split()[2:]
    root.attrib = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": alt, "width": width}
    return ET.tostring(root, encoding="unicode")


def _adapted(key: str, value: str, prefix: str) -> str:
    """An attribute of the drawing as it is on the page: with fewer digits, its colours named, its fonts the page's."""
    if key == "id":
        return prefix + value
    if key == "href":
        return f"#{prefix}{value[1:]}" if value.startswith("#") else _packed(value)
    if key in {"d", "x", "y", "transform"}:
        digits = 1 if key == "d" else 4 if "matrix" in value else 2
        return re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.{digits}f}", " ".join(value.split()))
    value = re.sub(r"url\(#", f"url(#{prefix}", value)
    value = re.sub(r"font-family:[^;]*;?", "", value)
    return re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), value)


def _packed(uri: str) -> str:
    """The same picture with a palette, where it has at most 256 colours: a quarter of the size."""
    start, _, content = uri.partition(",")
    rgba = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))
    colours, index = np.unique(rgba.reshape(-1, 4).copy().view(np.uint32), return_inverse=True)
    if len(colours) > 256:
        return "".join(uri.split())
    picture = Image.fromarray(index.astype(np.uint8).reshape(rgba.shape[:2]), mode="P")
    picture.putpalette(colours.view(np.uint8).tobytes(), "RGBA")
    packed = io.BytesIO()
    picture.save(packed, format="png", optimize=True)
    return f"{start},{base64.b64encode(packed.getvalue()).decode('ascii')}"
