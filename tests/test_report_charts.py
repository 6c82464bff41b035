"""The report's charts and data: they hold what the evaluation found, and show it in a real browser."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from evaluations import evaluation_of, renamed, window_of

from ms2hs.evaluation.report import chart_data
from ms2hs.evaluation.report.figure_style import styles_of
from ms2hs.evaluation.report.page import render, write_report
from ms2hs.evaluation.report.sections import MAX_MAPS, ordered_windows
from ms2hs.spectra.metrics import NORMAL_90


@pytest.fixture(scope="module")
def evaluation():
    return evaluation_of(windows=1, examples=1)


def series_of(panel):
    return {line["name"]: np.array(line["values"], float) for line in panel["series"]}


def known(values):
    """Values and gaps of `values` where the chart has bands: it has one more row in the gap of water vapour."""
    return values[np.isfinite(values)]


def test_chart_of_a_pixel_has_its_values(evaluation):
    example, styles = evaluation.examples[0], styles_of(evaluation.rows)
    chart = json.loads(chart_data.example_chart(example, evaluation, "prior", styles))
    upper, lower = map(series_of, chart["panels"])
    nm = np.array(chart["nm"])
    assert len(nm) == len(evaluation.target) + 1
    assert (np.diff(nm) > 0).all()
    gap = np.flatnonzero(np.diff(evaluation.target.wavelength_nm) > 100)[0] + 1
    assert np.isnan([line[gap] for line in (*upper.values(), *lower.values())]).all()
    np.testing.assert_allclose(np.delete(nm, gap), evaluation.target.wavelength_nm, rtol=1e-5)
    for name, expected in (
        ("true", example.truth),
        ("prior", example.predicted["prior"]),
        ("90 % low", example.predicted["prior"] - NORMAL_90 * example.sigma["prior"]),
        ("90 % high", example.predicted["prior"] + NORMAL_90 * example.sigma["prior"]),
    ):
        np.testing.assert_allclose(np.delete(upper[name], gap), expected, rtol=1e-3)
    for method, predicted in example.predicted.items():
        np.testing.assert_allclose(np.delete(lower[method], gap), predicted - example.truth, rtol=1e-3)
    np.testing.assert_allclose(chart["panels"][0]["measured"], example.measured, rtol=1e-3)
    colours = {line["name"]: line["colour"] for line in chart["panels"][1]["series"]}
    assert all(colours[method] == styles[method].colour for method in example.predicted)


def test_chart_by_wavelength_has_every_curve(evaluation):
    chart = json.loads(chart_data.curves_chart(evaluation, styles_of(evaluation.rows)))
    for panel, field in zip(chart["panels"], ("rmse", "sam", "bias"), strict=True):
        for method, curve in evaluation.curves.items():
            values = getattr(curve, field)
            np.testing.assert_allclose(known(series_of(panel)[method]), known(values), rtol=1e-3)


def test_bands_in_any_order_ascend_in_the_chart(evaluation):
    order = np.random.default_rng(0).permutation(len(evaluation.target))
    example = evaluation.examples[0]
    shuffled = replace(
        example,
        truth=example.truth[order],
        predicted={method: values[order] for method, values in example.predicted.items()},
        sigma={method: values[order] for method, values in example.sigma.items()},
    )
    other = replace(evaluation, target=evaluation.target.select(order), measured=evaluation.measured[order])
    styles = styles_of(evaluation.rows)
    expected = chart_data.example_chart(example, evaluation, "prior", styles)
    assert chart_data.example_chart(shuffled, other, "prior", styles) == expected


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


def test_tables_have_the_values_of_the_pictures(evaluation):
    example = evaluation.examples[0]
    rows = rows_of(chart_data.example_csv(example, evaluation))
    source, target = ([row for row in rows if row["band"] == kind] for kind in ("source", "target"))
    np.testing.assert_allclose([float(row["measured"]) for row in source], example.measured, rtol=1e-6)
    unknown = np.array([row["true"] == "" for row in target])
    assert (unknown == np.isnan(example.truth)).all()
    for method, values in example.predicted.items():
        np.testing.assert_allclose([float(row[method]) for row in target], values, rtol=1e-6)
    rows = rows_of(chart_data.curves_csv(evaluation))
    assert len(rows) == len(evaluation.target)
    assert {name.rpartition(" ")[2] for name in rows[0] if name != "wavelength_nm"} == {"rmse", "sam", "bias"}
    rows = rows_of(chart_data.reliability_csv(evaluation))
    assert [float(row["nominal"]) for row in rows] == list(evaluation.levels)


def test_page_links_the_arrays_beside_it(evaluation, tmp_path):
    bare = replace(evaluation, curves={}, examples=(), rows=())
    page = write_report(bare, tmp_path / "a page.html").read_text()
    assert page.count('href="a%20page.npz" download') == 2  # bands and maps
    (window,) = evaluation.windows
    with np.load(tmp_path / "a page.npz", allow_pickle=False) as arrays:
        assert list(arrays["titles"]) == [window.title]
        for name in ("truth", "predicted", "error"):
            np.testing.assert_array_equal(arrays[f"window1_{name}"], getattr(window, name))


def test_arrays_are_numbered_as_on_the_page(evaluation):
    windows = [window_of(np.random.default_rng(0), place, 8) for place in range(3)]
    ordered = ordered_windows(replace(evaluation, windows=windows))
    assert [window.is_worst for window in ordered] == [True, False, False]
    with np.load(io.BytesIO(chart_data.window_arrays(ordered))) as arrays:
        np.testing.assert_array_equal(arrays["window1_truth"], windows[1].truth)


def test_largest_arrays_are_bounded():
    windows = [window_of(np.random.default_rng(0), 0, 128)]
    assert MAX_MAPS * len(chart_data.window_arrays(windows)) < 25e6


@pytest.mark.slow
def test_browser_shows_values_under_the_pointer_and_by_keys(evaluation, browser, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    (tmp_path / "report.html").write_text(render(renamed(evaluation, "spectral", name)), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    card = page.locator("[data-chart]").nth(1)
    card.wait_for()
    assert page.locator(".card.live").count() == 1 + len(evaluation.examples)
    assert not card.locator("img").is_visible()
    card.scroll_into_view_if_needed()
    over = card.locator(".u-over").first
    size = over.bounding_box()
    over.hover(position={"x": size["width"] * 0.3, "y": size["height"] / 2})
    example, nm = evaluation.examples[0], evaluation.target.wavelength_nm
    for key in (None, "Home", "ArrowRight"):
        if key:
            card.focus()
            page.keyboard.press(key)
        legend = card.locator(".u-legend").first
        names, texts = (legend.locator(part).all_inner_texts() for part in (".u-label", ".u-value"))
        values = dict(zip(names, texts, strict=True))
        band = int(np.abs(nm - float(values["nm"])).argmin())
        assert float(values["prior"]) == pytest.approx(example.predicted["prior"][band], rel=1e-3)
        assert float(values["true"]) == pytest.approx(example.truth[band], rel=1e-3)
        assert key is None or band == ["Home", "ArrowRight"].index(key)
    assert name in card.locator(".u-label").all_inner_texts()
    assert page.locator("img[src=x]").count() == 0
    page.emulate_media(media="print")
    assert card.locator("img").is_visible()
    with page.expect_download() as download:
        page.locator("a.data").first.dispatch_event("click")
    assert download.value.suggested_filename == "figure-1.csv"
    assert (errors, [one for one in requests if not one.startswith(("data:", "file:"))]) == ([], [])
    page.close()
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto((tmp_path / "report.html").as_uri())
    assert plain.locator(".card img").count() == plain.locator("figure").count()
    assert plain.locator(".card img").first.is_visible()
