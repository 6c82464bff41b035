"""The figures of the report: the right values, on axes with units."""

import base64
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from evaluations import evaluation_of, window_of
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.evaluation.report import figures
from ms2hs.evaluation.report.figure_style import (
    AXIS,
    COLOURS,
    GROUND,
    INK,
    NOT_MEASURED,
    PRIOR,
    SOURCE,
    data_uri,
    report_style,
    styles_of,
)
from ms2hs.evaluation.results import MethodScores
from ms2hs.spectra.metrics import NORMAL_90
from ms2hs.spectra.spectral_grid import grid_of

EVALUATION = evaluation_of()
STYLES = styles_of(EVALUATION.rows)
DRAWN = {
    "overview": lambda: figures.draw_overview(EVALUATION.rows, STYLES),
    "curves": lambda: figures.draw_curves(EVALUATION, STYLES),
    "example": lambda: figures.draw_example(EVALUATION.examples[0], EVALUATION, "prior", STYLES),
    "bands": lambda: figures.draw_bands(EVALUATION.windows[0]),
    "maps": lambda: figures.draw_error_maps(EVALUATION.windows),
    "reliability": lambda: figures.draw_reliability(EVALUATION, STYLES),
}


@pytest.fixture(autouse=True)
def _styled():
    with report_style():
        yield


@pytest.mark.parametrize("name", DRAWN)
def test_every_axis_with_numbers_has_quantity_and_unit(name):
    figure = DRAWN[name]()
    data_uri(figure)  # makes the layout
    assert figure.axes
    for axes in figure.axes:
        if not axes.axison:
            continue
        for axis in (axes.xaxis, axes.yaxis):
            if any(label.get_text() for label in axis.get_ticklabels() if label.get_visible()):
                common = figure.get_supxlabel() if axis is axes.xaxis else figure.get_supylabel()
                label = axis.get_label_text() or common
                assert label in {"method", "reflectance"} or re.search(r"\((nm|reflectance.*|°|%|pixel)\)$", label), (
                    label
                )


def svg_of(figure):
    kind, _, content = data_uri(figure).partition(",")
    assert kind == "data:image/svg+xml;base64"
    return ET.fromstring(base64.b64decode(content))  # noqa: S314  written by matplotlib


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_svg_images_on_a_white_ground(name):
    svg = svg_of(DRAWN[name]())
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    ground = next(element for element in svg.iter() if element.tag.endswith("}path") and "fill" in element.get("style"))
    assert f"fill: {GROUND}" in ground.get("style")
    assert data_uri(DRAWN[name]()) == data_uri(DRAWN[name]()), "the same figure gives the same bytes"


@pytest.mark.parametrize("name", ["curves", "example", "reliability"])
def test_legends_name_every_line(name):
    (legend,) = DRAWN[name]().legends
    lines = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    methods = ["prior", "spectral"] if name == "reliability" else list(STYLES)
    assert set(methods) <= set(lines)
    for method in methods:
        assert lines[method].get_color() == STYLES[method].colour
    others = {"curves": {"source bands", "not measured"}, "reliability": set()}
    others["example"] = others["curves"] | {"true", "measured", "90 % interval"}
    assert set(lines) - set(methods) == others[name]


def test_names_in_figures_are_short_and_printable():
    names = ["_hidden", "$x^2$", "a\x00b", "日本", "long " * 20]
    evaluation = evaluation_of(sizes=dict.fromkeys(names, 1.0), kinds=dict.fromkeys(names, "model"))
    svg = svg_of(figures.draw_curves(evaluation, styles_of(evaluation.rows)))
    texts = {"".join(element.itertext()) for element in svg.iter() if element.tag.endswith("}text")}
    assert {"_hidden", "$x^2$", "a�b", "日本"} <= texts
    assert max(map(len, texts)) <= figures.MAX_NAME_LENGTH + 1


def test_example_shows_truth_prediction_and_measurement():
    example = EVALUATION.examples[0]
    upper, lower = DRAWN["example"]().axes
    true, made, *measured = upper.lines
    nm = EVALUATION.target.wavelength_nm
    gap = np.flatnonzero(np.diff(nm) > 60)[0] + 1
    np.testing.assert_array_equal(true.get_xdata(), np.insert(nm, gap, np.nan))
    np.testing.assert_array_equal(true.get_ydata(), np.insert(example.truth.astype(float), gap, np.nan))
    np.testing.assert_array_equal(made.get_ydata(), np.insert(example.predicted["prior"].astype(float), gap, np.nan))
    assert any(np.array_equal(line.get_ydata(), example.measured) for line in measured)
    bars = upper.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([end[0] - start[0] for start, end in bars], EVALUATION.source.fwhm_nm)
    interval = next(one for one in upper.collections if np.array_equal(one.get_facecolor()[0, 3:], [0.22]))
    low, high = (np.nan_to_num(example.predicted["prior"]) + sign * NORMAL_90 * 0.02 for sign in (-1, 1))
    assert interval.get_datalim(upper.transData).ymin == pytest.approx(low.min(), abs=1e-6)
    assert interval.get_datalim(upper.transData).ymax == pytest.approx(high.max(), abs=1e-6)
    errors = {line.get_color(): line.get_ydata() for line in lower.lines}
    for method, values in example.predicted.items():
        np.testing.assert_allclose(np.delete(errors[STYLES[method].colour], gap), values - example.truth, atol=1e-6)


def test_example_shows_a_method_without_interval():
    figure = figures.draw_example(EVALUATION.examples[0], EVALUATION, "interpolation", STYLES)
    assert figure.axes[0].lines[1].get_color() == STYLES["interpolation"].colour


def test_bands_true_and_reconstructed_share_a_scale():
    picture = EVALUATION.windows[0]
    figure = DRAWN["bands"]()
    images = [axes.images[0] for axes in figure.axes if axes.images]
    for band, (true, made, error) in enumerate(zip(images[::3], images[1::3], images[2::3], strict=True)):
        assert true.get_clim() == made.get_clim()
        assert true.cmap.name == made.cmap.name != error.cmap.name
        assert error.get_clim()[0] == -error.get_clim()[1]
        np.testing.assert_allclose(error.get_array(), picture.predicted[band] - picture.truth[band])
    assert len(images) == 9
    assert len({image.get_clim() for image in images[2::3]}) == 1


def test_error_maps_share_a_scale():
    images = [axes.images[0] for axes in DRAWN["maps"]().axes if axes.images]
    assert len(images) == len(EVALUATION.windows)
    assert len({image.get_clim() for image in images}) == 1


def test_window_without_known_pixels_is_drawn():
    picture = window_of(np.random.default_rng(0), 0, 8)
    picture.truth[:], picture.error[:] = np.nan, np.nan
    for figure in (figures.draw_bands(picture), figures.draw_error_maps([picture])):
        assert data_uri(figure)


def test_unknown_values_are_drawn_without_error():
    nothing = evaluation_of()
    for curve in nothing.curves.values():
        for values in (curve.rmse, curve.sam, curve.bias):
            values[:] = np.nan
    nothing.examples[0].truth[:] = np.nan
    assert data_uri(figures.draw_curves(nothing, STYLES))
    assert data_uri(figures.draw_example(nothing.examples[0], nothing, "prior", STYLES))


def test_reliability_is_in_percent():
    (axes,) = DRAWN["reliability"]().axes
    diagonal, prior, _ = axes.lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(prior.get_xdata(), 100 * np.array(EVALUATION.levels))
    np.testing.assert_allclose(prior.get_ydata(), 100 * EVALUATION.curves["prior"].reliability)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_unmeasured_ranges_hold_only_unmeasured_bands(measured, seed):
    rng = np.random.default_rng(seed)
    nm = 400 + np.cumsum(rng.choice([8.0, 10.0, 12.0, 150.0], len(measured), p=[0.3, 0.3, 0.3, 0.1]))
    order = rng.permutation(len(nm))
    measured = np.array(measured)
    target = grid_of(nm[order], np.full(len(nm), 9.0))
    ranges = figures.unmeasured_ranges(target, measured[order])
    inside = np.array([any(low < one < high for low, high in ranges) for one in nm])
    np.testing.assert_array_equal(inside, ~measured)
    for low, high in ranges:
        within = nm[(nm > low) & (nm < high)]
        assert not figures.gaps(nm) or set(np.diff(within)) <= set(np.diff(nm)[np.diff(nm) <= figures.GAP_NM]) | set(
            np.diff(nm)[[at for at in range(len(nm) - 1) if at + 1 not in figures.gaps(nm)]]
        )


def test_line_styles_differ_without_colour():
    scores = EVALUATION.rows[0].overall
    kinds = ["baseline"] * 5 + ["prior"] + ["model"] * 12
    rows = [MethodScores(f"m{place}", kind, scores, {}, {}, {}, 1.0) for place, kind in enumerate(kinds)]
    styles = styles_of(rows)
    assert len(set(styles.values())) == len(rows)
    four = [styles[f"m{place}"] for place in range(6, 10)]
    assert len({style.dashes for style in four}) == 4
    assert len({style.dashes for style in (styles[f"m{place}"] for place in range(4))}) == 4


def contrast(one, other):
    """WCAG 2's ratio of luminances."""

    def luminance(colour):
        parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_lines_and_letters_contrast_with_the_ground():
    colours = {SOURCE: 3, PRIOR: 3, INK: 7, AXIS: 4.5}
    colours |= dict.fromkeys((colour for hues in COLOURS.values() for colour in hues), 3)
    for colour, least in colours.items():
        for ground in (GROUND, NOT_MEASURED):
            assert contrast(colour, ground) >= least, (colour, ground)
    assert len(colours) == 12, "no colour is used twice"
