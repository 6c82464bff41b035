"""What is drawn of an evaluation: the right values, on axes with their units."""

import re

import numpy as np
import pytest
from evaluations import evaluation_of, picture_of
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.evaluation.report import figures
from ms2hs.evaluation.report.plates import INKS, ink, inline_svg, page_style, styles_of
from ms2hs.evaluation.results import Row
from ms2hs.spectra.metrics import NORMAL_90
from ms2hs.spectra.spectral_grid import grid_of

EVALUATION = evaluation_of()
STYLES = styles_of(EVALUATION.rows)
DRAWN = {
    "overview": lambda: figures.draw_overview(EVALUATION.rows, STYLES),
    "curves": lambda: figures.draw_curves(EVALUATION, STYLES),
    "example": lambda: figures.draw_example(EVALUATION.examples[0], EVALUATION, "prior", STYLES),
    "bands": lambda: figures.draw_bands(EVALUATION.pictures[0]),
    "maps": lambda: figures.draw_error_maps(EVALUATION.pictures),
    "reliability": lambda: figures.draw_reliability(EVALUATION, STYLES),
}


@pytest.fixture(autouse=True)
def _styled():
    with page_style():
        yield


@pytest.mark.parametrize("name", DRAWN)
def test_every_axis_that_shows_numbers_says_of_what(name):
    figure = DRAWN[name]()
    inline_svg(figure, "x", "x-")  # the layout is made
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
    assert not figure.legends, "legends stand in the page"


@pytest.mark.parametrize("name", DRAWN)
def test_every_colour_of_a_drawing_is_known_to_the_page(name):
    svg = inline_svg(DRAWN[name](), 'an "alt" <text>', "x-")
    assert "#" not in svg.replace('"#x-', "").replace("url(#x-", "")
    assert 'aria-label="an &quot;alt&quot; &lt;text&gt;"' in svg
    assert "<style" not in svg
    assert "font-family" not in svg


def test_an_example_is_true_made_and_measured():
    example = EVALUATION.examples[0]
    upper, lower = DRAWN["example"]().axes
    true, made, *measured = upper.lines
    nm = EVALUATION.target.wavelength_nm
    gap = np.flatnonzero(np.diff(nm) > 60)[0] + 1
    np.testing.assert_array_equal(true.get_xdata(), np.insert(nm, gap, np.nan))
    np.testing.assert_array_equal(true.get_ydata(), np.insert(example.truth.astype(float), gap, np.nan))
    np.testing.assert_array_equal(made.get_ydata(), np.insert(example.made["prior"].astype(float), gap, np.nan))
    assert any(np.array_equal(line.get_ydata(), example.measured) for line in measured)
    bars = upper.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([end[0] - start[0] for start, end in bars], EVALUATION.source.fwhm_nm)
    interval = next(one for one in upper.collections if np.array_equal(one.get_facecolor()[0, 3:], [0.22]))
    low, high = (np.nan_to_num(example.made["prior"]) + sign * NORMAL_90 * 0.02 for sign in (-1, 1))
    assert interval.get_datalim(upper.transData).ymin == pytest.approx(low.min(), abs=1e-6)
    assert interval.get_datalim(upper.transData).ymax == pytest.approx(high.max(), abs=1e-6)
    errors = {line.get_color(): line.get_ydata() for line in lower.lines}
    for method, values in example.made.items():
        np.testing.assert_allclose(np.delete(errors[ink(STYLES[method].name)], gap), values - example.truth, atol=1e-6)


def test_a_method_without_interval_is_drawn_too():
    figure = figures.draw_example(EVALUATION.examples[0], EVALUATION, "interpolation", STYLES)
    assert figure.axes[0].lines[1].get_color() == ink(STYLES["interpolation"].name)


def test_true_and_reconstructed_share_a_scale():
    picture = EVALUATION.pictures[0]
    figure = DRAWN["bands"]()
    images = [axes.images[0] for axes in figure.axes if axes.images]
    for band, (true, made, error) in enumerate(zip(images[::3], images[1::3], images[2::3], strict=True)):
        assert true.get_clim() == made.get_clim()
        assert true.cmap.name == made.cmap.name != error.cmap.name
        assert error.get_clim()[0] == -error.get_clim()[1]
        np.testing.assert_allclose(error.get_array(), picture.made[band] - picture.truth[band])
    assert len(images) == 9
    assert len({image.get_clim() for image in images[2::3]}) == 1


def test_maps_of_error_share_a_scale():
    images = [axes.images[0] for axes in DRAWN["maps"]().axes if axes.images]
    assert len(images) == len(EVALUATION.pictures)
    assert len({image.get_clim() for image in images}) == 1


def test_a_window_without_a_known_pixel_is_drawn():
    picture = picture_of(np.random.default_rng(0), 0, 8)
    picture.truth[:], picture.error[:] = np.nan, np.nan
    for figure in (figures.draw_bands(picture), figures.draw_error_maps([picture])):
        assert inline_svg(figure, "x", "x-")


def test_nothing_known_is_drawn_as_nothing():
    nothing = evaluation_of()
    for curve in nothing.curves.values():
        for values in (curve.rmse, curve.sam, curve.bias):
            values[:] = np.nan
    nothing.examples[0].truth[:] = np.nan
    assert inline_svg(figures.draw_curves(nothing, STYLES), "x", "x-")
    assert inline_svg(figures.draw_example(nothing.examples[0], nothing, "prior", STYLES), "x", "x-")


def test_reliability_is_in_percent():
    (axes,) = DRAWN["reliability"]().axes
    diagonal, prior, _ = axes.lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(prior.get_xdata(), 100 * np.array(EVALUATION.levels))
    np.testing.assert_allclose(prior.get_ydata(), 100 * EVALUATION.curves["prior"].reliability)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_hidden_ranges_hold_the_hidden_bands_alone(measured, seed):
    rng = np.random.default_rng(seed)
    nm = 400 + np.cumsum(rng.choice([8.0, 10.0, 12.0, 150.0], len(measured), p=[0.3, 0.3, 0.3, 0.1]))
    order = rng.permutation(len(nm))
    measured = np.array(measured)
    target = grid_of(nm[order], np.full(len(nm), 9.0))
    ranges = figures.hidden_ranges(target, measured[order])
    inside = np.array([any(low < one < high for low, high in ranges) for one in nm])
    np.testing.assert_array_equal(inside, ~measured)
    for low, high in ranges:
        within = nm[(nm > low) & (nm < high)]
        assert not figures.gaps(nm) or set(np.diff(within)) <= set(np.diff(nm)[np.diff(nm) <= figures.GAP_NM]) | set(
            np.diff(nm)[[at for at in range(len(nm) - 1) if at + 1 not in figures.gaps(nm)]]
        )


def test_styles_tell_methods_apart_without_colour():
    scores = EVALUATION.rows[0].overall
    kinds = ["baseline"] * 5 + ["prior"] + ["model"] * 12
    rows = [Row(f"m{place}", kind, scores, {}, {}, {}, 1.0) for place, kind in enumerate(kinds)]
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


@pytest.mark.parametrize("night", [0, 1])
def test_lines_and_letters_stand_out_from_page_and_grey(night):
    for name, colours in INKS.items():
        least = {"ink": 7, "axis": 4.5, "page": 0, "rule": 0, "hidden": 0, "unknown": 0}.get(name, 3)
        for ground in ("page", "hidden"):
            assert contrast(colours[night], INKS[ground][night]) >= least, (name, ground)
    assert len({colours[0] for colours in INKS.values()}) == len(INKS), "a colour stands for one name"
