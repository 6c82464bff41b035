"""Classes of a map with their colours, and the picture of a map with its legend.

A class whose name has a word of land cover takes the colour of this cover. Any other class takes the colour of
`QUALITATIVE` that differs most from the colours in use, group after group, and after these a colour of a regular grid.
Each class has a colour of its own; colours alone no longer distinguish more than about 20 classes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.errors import WeightsError, visible
from ms2hs.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NODATA_CLASS = 0
"""Stored number of pixels without a class; the first class is 1."""
MAX_CLASSES = 255
# Colours of land covers by parts of their names, in lower case; the first free one counts. The land-cover scheme of
# P. Tol, "Colour Schemes", SRON/EPS/TN/09-002, issue 3.2 (2021), with grey for roads and for what is unchanged.
COVER_COLOURS = (
    (("unchanged", "no change", "background"), "#dddddd"),
    (("changed", "change"), "#bb0011"),
    (("water", "river", "lake", "ocean", "pond"), "#5566aa"),
    (("conifer", "needle", "pine", "spruce"), "#117733"),
    (("broadleaf", "deciduous", "oak", "beech"), "#668822"),
    (("forest", "tree", "wood"), "#55aa22"),
    (("wetland", "marsh", "swamp"), "#558877"),
    (("grass", "meadow", "pasture", "lawn"), "#aaddcc"),
    (("crop", "arable", "farm", "field"), "#44aa88"),
    (("shrub", "heath", "scrub", "vegetation"), "#99bb55"),
    (("orchard", "vineyard", "permanent"), "#ddcc66"),
    (("dry", "stubble", "npv"), "#ffdd44"),
    (("soil", "bare", "sand", "dirt", "desert"), "#ffee88"),
    (("road", "asphalt", "highway", "rail"), "#777777"),
    (("urban", "built", "town", "resid", "roof", "settle"), "#bb0011"),
)
# Colours for other names: Tol's schemes `muted`, then `bright` and `vibrant`; each scheme is safe for colour-blind
# readers by itself.
QUALITATIVE = (
    ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499"),
    (
        *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb"),
        *("#ee7733", "#0077bb", "#33bbee", "#ee3377", "#cc3311", "#009988"),
    ),
)
# Levels of red, green and blue of the colours after these: 343 colours between black and white.
LEVELS = (16, 52, 90, 128, 165, 203, 240)
# Rows of the legend of a picture, side of its map in inches and in pixels, and bands of values that it shows.
MAX_ROWS, MAP_INCHES, LONG_SIDE, MAX_PANELS = 30, 7.0, 1024, 4
STRETCH_PERCENT = (2.0, 98.0)


@dataclass(frozen=True)
class Legend:
    """The classes of a map: class i has the stored number i + 1."""

    names: tuple[str, ...]
    colours: tuple[str, ...]
    """(class,) `#rrggbb`, each another one."""

    @classmethod
    def of(cls, names: Sequence[str]) -> "Legend":
        """The legend of these classes; WeightsError for more than 255."""
        if len(names) > MAX_CLASSES:
            raise WeightsError(
                f"{len(names)} classes; a map of 8 bits holds at most {MAX_CLASSES}. Tune a model of fewer classes."
            )
        return cls(tuple(map(visible, names)), tuple(class_colours(names)))

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """(class + 1, 3) red, green and blue by stored number; white for nodata."""
        return np.array([_rgb("#ffffff"), *map(_rgb, self.colours)], np.uint8)


def class_colours(names: Sequence[str]) -> list[str]:
    """`#rrggbb` of each class, by land cover where its name has one; all differ."""
    colours: dict[int, str] = {}
    for index, name in enumerate(names):
        fitting = (colour for words, colour in COVER_COLOURS if any(word in name.lower() for word in words))
        if (found := next((colour for colour in fitting if colour not in colours.values()), None)) is not None:
            colours[index] = found
    groups = [*QUALITATIVE, ["#{:02x}{:02x}{:02x}".format(*levels) for levels in product(LEVELS, repeat=3)]]
    for index in range(len(names)):
        if index not in colours:
            used = set(colours.values())
            free = next(left for group in groups if (left := [colour for colour in group if colour not in used]))
            colours[index] = _farthest(free, list(colours.values()))
    return [colours[index] for index in range(len(names))]


def _farthest(colours: Sequence[str], used: Sequence[str]) -> str:
    """The colour with the largest distance in RGB from the nearest used one; the first of equal ones."""
    if not used:
        return colours[0]
    rgb, taken = (np.array([_rgb(colour) for colour in group], float) for group in (colours, used))
    distance = np.linalg.norm(rgb[:, None] - taken[None], axis=2).min(axis=1)
    return colours[int(distance.argmax())]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def draw_classes(
    path: Path,
    classes: NDArray[np.uint8],
    legend: Legend,
    counts: NDArray[np.int64],
    *,
    title: str,
    pixel_m: float | None,
) -> None:
    """Write a PNG of a class map with its legend: colour, name and share of the pixels of each class.

    Parameters
    ----------
    classes : (row, col) stored numbers, 0 without a class.
    counts : (class,) pixels of each class in the whole map.
    pixel_m : side of a pixel of `classes` in metres, for a scale bar; None: no bar.

    Raises
    ------
    ModuleNotFoundError : matplotlib is not installed. OutputError : the file cannot be written.
    """
    from matplotlib.patches import Patch  # noqa: PLC0415  an extra

    shown = np.argsort(-counts, kind="stable")[: MAX_ROWS - 1] if len(counts) > MAX_ROWS else range(len(counts))
    total = max(int(counts.sum()), 1)
    handles = [
        Patch(facecolor=legend.colours[i], edgecolor="#5d636a", label=f"{legend.names[i]}  {counts[i] / total:.1%}")
        for i in shown
    ]
    if len(handles) < len(counts):
        handles.append(Patch(alpha=0, label=f"and {len(counts) - len(handles)} more classes"))

    def draw(panels: "Sequence[Axes]") -> None:
        panels[0].imshow(legend.rgb[classes])
        if (classes == NODATA_CLASS).any():
            handles.append(Patch(facecolor="white", edgecolor="#5d636a", label="no data"))
        panels[0].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False)

    _write_picture(path, classes.shape, 1, draw, title=title, pixel_m=pixel_m)


def draw_values(path: Path, values: Float32Array, names: Sequence[str], *, title: str, pixel_m: float | None) -> None:
    """Write a PNG of (quantity, row, col) values, NaN where unknown, each of the first four with its colour bar.

    Other parameters and errors as of `draw_classes`.
    """
    count = min(len(values), MAX_PANELS)

    def draw(panels: "Sequence[Axes]") -> None:
        for panel, band, name in zip(panels, values[:count], names, strict=False):
            finite = band[np.isfinite(band)]
            low, high = np.percentile(finite, STRETCH_PERCENT) if finite.size else (0, 1)
            image = panel.imshow(band, cmap="cividis", vmin=low, vmax=high)
            panel.figure.colorbar(image, ax=panel, label=visible(name), extend="both", shrink=0.8)

    _write_picture(path, values.shape[1:], count, draw, title=title, pixel_m=pixel_m)


def _write_picture(
    path: Path,
    shape: tuple[int, ...],
    panels: int,
    draw: "Callable[[Sequence[Axes]], None]",
    *,
    title: str,
    pixel_m: float | None,
) -> None:
    """Draw panels side by side in the style of matplotlib's defaults, and write the PNG."""
    import matplotlib as mpl  # noqa: PLC0415  an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    height = MAP_INCHES * min(1.5, max(0.3, shape[0] / shape[1]))
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update({"text.parse_math": False, "image.interpolation": "nearest", "font.size": 9})
        figure = Figure(figsize=(MAP_INCHES * panels, height), dpi=LONG_SIDE / 2 / MAP_INCHES)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        draw(axes)
        axes[0].set_title(visible(title), loc="left", fontsize=9)
        for panel in axes:
            panel.set_xticks([])
            panel.set_yticks([])
        if pixel_m:
            _draw_scale(axes[0], shape[1] * pixel_m)
        with atomic_write(path) as temporary:
            metadata = {"Software": "ms2hs"}
            figure.savefig(temporary, format="png", dpi=2 * figure.dpi, bbox_inches="tight", metadata=metadata)


def _draw_scale(panel: "Axes", width_m: float) -> None:
    """A bar of a round length, at most a quarter of the picture, below its lower left corner."""
    power = 10.0 ** np.floor(np.log10(width_m / 4))
    length_m = float(max(step * power for step in (1, 2, 5) if step * power <= width_m / 4))
    text = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    share = length_m / width_m
    panel.plot(
        [0, share],
        [-0.02, -0.02],
        color="#1b1d1f",
        lw=3,
        solid_capstyle="butt",
        transform=panel.transAxes,
        clip_on=False,
    )
    panel.text(share + 0.01, -0.02, text, transform=panel.transAxes, va="center")
