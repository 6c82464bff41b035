"""The page of an evaluation: self-contained, complete, and safe with any names in it."""

import base64
import hashlib
import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from urllib.parse import unquote

import numpy as np
import pytest
from evaluations import KINDS, SIZES, evaluation_of, renamed, row_of, scores_of, window_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.errors import OutputError
from ms2hs.evaluation.report import page as report
from ms2hs.evaluation.report import sections
from ms2hs.evaluation.report.chart_data import curves_csv, example_csv
from ms2hs.evaluation.report.numbers import csv_of
from ms2hs.evaluation.report.page import render, write_report
from ms2hs.evaluation.report.sections import MAX_EXAMPLES, MAX_MAPS, MAX_WINDOWS, draw_sections

HOSTILE = "<script>alert(1)</script>$x^2$ \"'><img src=x onerror=y> ${{7*7}} 日本 _a"
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Elements with their attributes and what is in them, checking that tags are closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = {
            "tag": tag,
            "attrs": dict(attrs),
            "within": [one["tag"] for one in self.open],
            "parts": [],
            "text": "",
        }
        for outer in self.open:
            outer["parts"].append(element)
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag, tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data
        if not self.open or self.open[-1]["tag"] not in {"style", "script"}:
            self.words.append(data)

    def of(self, tag):
        return [element for element in self.elements if element["tag"] == tag]


@pytest.fixture(scope="module")
def text():
    return render(evaluation_of())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_page_is_written_whole_and_replaced(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    small = evaluation_of(examples=0, windows=0)
    assert write_report(small, path) == path
    assert path.read_text(encoding="utf-8") == render(small), "the same findings give the same page"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(OutputError, match="could not be written"):
        write_report(small, tmp_path / "nowhere" / "report.html")


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_missing_library_is_named(library, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == library else object())
    with pytest.raises(OutputError, match=rf"{library} is not installed; .*ms2hs\[report\]"):
        write_report(evaluation_of(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def assert_loads_nothing(text):
    page = Page(text)
    for element in page.elements:
        assert element["tag"] not in {"iframe", "object", "embed", "base", "form", "foreignobject"}
        for name, value in element["attrs"].items():
            assert not name.startswith("on"), name
            if name.rpartition(":")[2] in {"src", "href", "srcset", "action", "data"}:
                assert value.startswith(("data:", "#")), value[:60]
            assert all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", value or "")), value
    assert_runs_only_its_scripts(page)
    (style,) = page.of("style")
    assert "url(" not in style["text"]
    assert "@import" not in style["text"]


def assert_runs_only_its_scripts(page):
    """The page runs the scripts of `ms2hs/static` only; the policy allows them by their checksums."""
    scripts = [element["text"] for element in page.of("script")]
    own = [(files("ms2hs") / "static" / name).read_text(encoding="utf-8") for name in report.SCRIPTS]
    assert scripts in (own, [])
    (policy,) = [one["attrs"]["content"] for one in page.of("meta") if "http-equiv" in one["attrs"]]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = "; script-src" + "".join(f" 'sha256-{digest}'" for digest in digests) if scripts else ""
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{allowed}"


def test_page_loads_nothing_from_outside(text, page):
    assert_loads_nothing(text)
    assert "http" not in "".join(page.words)
    assert re.findall(r"https?://[^ ]*", text) == ["https://github.com/leeoniya/uPlot"]  # the library's notice


def test_links_have_targets_and_ids_are_unique(page):
    ids = [element["attrs"]["id"] for element in page.elements if "id" in element["attrs"]]
    assert len(ids) == len(set(ids)), "ids of two figures are the same"
    used = {
        element["attrs"]["href"][1:] for element in page.elements if element["attrs"].get("href", "").startswith("#")
    }
    assert used
    assert used <= set(ids)


def test_every_figure_has_caption_and_alternative_text(page):
    figures = page.of("figure")
    assert len(figures) == 1 + 1 + 2 + 3 + 1 + 1
    for number, figure in enumerate(figures, 1):
        (caption,) = [part for part in figure["parts"] if part["tag"] == "figcaption"]
        assert re.match(rf"\s*Figure {number}\. .{{20}}", caption["text"])
        (image,) = [part for part in figure["parts"] if part["tag"] == "img"]
        assert image["attrs"]["src"].startswith("data:image/svg+xml;base64,")
        assert len(image["attrs"]["alt"]) > 30
    for table in page.of("table"):
        assert [part for part in table["parts"] if part["tag"] == "th" and part["attrs"].get("scope") == "col"]


def test_figures_but_images_of_windows_link_their_table(text):
    links = re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)" download="figure-(\d).csv"', text)
    tables = {number: unquote(table) for table, number in links}
    assert list(tables) == ["1", "2", "3", "4", "9"]
    evaluation = evaluation_of()
    assert tables["1"] == csv_of(evaluation)
    assert tables["2"] == curves_csv(evaluation)
    assert tables["3"] == example_csv(evaluation.examples[0], evaluation)
    assert ".npz" not in text


def test_colours_are_defined_for_light_dark_and_print(text):
    for name in set(re.findall(r"var\(--([\w-]+)\)", text)):
        assert len(re.findall(rf"--{name}:#", text)) == 3, name
    assert ".card{overflow-x:auto;background:#fff;" in text, "figures have a white ground in dark mode, too"


@given(st.text(min_size=1, max_size=40))
@settings(max_examples=8, deadline=None)
def test_any_name_is_escaped(name):
    evaluation = renamed(evaluation_of(examples=0, windows=0), "spectral", f"a {name}")
    page = Page(render(replace(evaluation, curves={}, scenes={name: 5}, left_out={name: name}, title=name)))
    assert not page.of("script")


def test_hostile_names_are_escaped():
    evaluation = renamed(evaluation_of(), "spectral", HOSTILE)
    rows = tuple(
        replace(row, scenes={HOSTILE: scores_of(0.01)}, covers={HOSTILE: scores_of(0.02)}) for row in evaluation.rows
    )
    examples = tuple(replace(one, title=HOSTILE) for one in evaluation.examples)
    pictures = tuple(replace(one, title=HOSTILE) for one in evaluation.windows)
    facts = {"title": HOSTILE, "command": HOSTILE, "notes": (HOSTILE,), "left_out": {HOSTILE: HOSTILE}}
    text = render(replace(evaluation, rows=rows, examples=examples, windows=pictures, scenes={HOSTILE: 9}, **facts))
    assert text.count("<script") == 2
    assert "<img src=x" not in text
    assert_loads_nothing(text)
    for tag in ("h1", "title", "code", "h3", "caption", "summary", "figcaption"):
        assert any(HOSTILE in element["text"] for element in Page(text).of(tag)) or tag == "caption", tag


def test_unknown_values_are_dashes(page):
    cells = [part["text"] for table in page.of("table") for part in table["parts"] if part["tag"] == "td"]
    assert "–" in cells
    assert not any(re.search(r"nan|inf|None", cell) for cell in cells)
    assert not re.search(r"\bnan\b", html.unescape(" ".join(page.words)))


def test_tables_have_every_metric(page):
    heads = " ".join(part["text"] for table in page.of("table") for part in table["parts"] if part["tag"] == "th")
    errors = (
        "MSE 1e-4",
        "MSE masked",
        "MSE unmasked",
        "SSIM",
        "RMSE",
        "Bias",
        "SAM mean",
        "SAM median",
        "PSNR",
        "ERGAS",
        "R²",
    )
    depths = ("670", "1200", "1730", "2100", "2205", "2330")
    for head in (
        *errors,
        *depths,
        "inside 68\N{NO-BREAK SPACE}%",
        "inside 90\N{NO-BREAK SPACE}%",
        "Time",
        "training",
        "prior",
    ):
        assert head in heads, head
    for table in page.of("table")[:3]:
        assert sum(part["tag"] == "tr" for part in table["parts"]) == 1 + len(SIZES)


def test_models_that_lose_are_red(page):
    (summary,) = [element for element in page.of("ul") if "summary" in element["attrs"].get("class", "")]
    bad = [part["text"] for part in summary["parts"] if part["tag"] == "li" and part["attrs"].get("class") == "bad"]
    assert len(bad) == 1
    assert bad[0].startswith("spectral loses to the prior")
    badges = [
        part for table in page.of("table")[:3] for part in table["parts"] if "badge" in part["attrs"].get("class", "")
    ]
    assert [badge["text"] for badge in badges] == ["loses to the prior"] * 3


def test_sections_without_data_are_left_out():
    whole = evaluation_of(scenes=1, examples=0, windows=0)
    assert {section.anchor for section in draw_sections(whole)} == {"methods", "wavelengths", "reliability"}
    unsure = {method: replace(curve, reliability=None) for method, curve in whole.curves.items()}
    bare = replace(
        whole,
        curves=unsure,
        levels=(),
        notes=(),
        left_out={},
        rows=tuple(replace(row, covers={}) for row in whole.rows),
    )
    assert {section.anchor for section in draw_sections(bare)} == {"methods", "wavelengths"}
    Page(render(replace(bare, curves={})))
    nothing = replace(bare, rows=(), curves={}, scenes={}, unlike=0)
    assert "Nothing could be scored" in render(nothing)


def test_sections_say_how_many_figures_are_shown(monkeypatch):
    for name, most in (("MAX_EXAMPLES", 1), ("MAX_WINDOWS", 2), ("MAX_MAPS", 3)):
        monkeypatch.setattr(sections, name, most)
    picture = window_of(np.random.default_rng(0), 0, 8)
    worst = replace(picture, title="the worst", is_worst=True, rmse=0.001)
    many = replace(evaluation_of(examples=2), windows=(picture,) * 5 + (worst,))
    found = {section.anchor: section for section in sections.draw_sections(many)}
    assert len(found["spectra"].figures) == 1
    assert "1 of 2 are shown" in found["spectra"].lead
    assert len(found["bands"].figures) == 2
    assert found["bands"].figures[0].title.endswith("the worst")
    assert found["bands"].figures[0].badge
    assert "2 of 6 are shown" in found["bands"].lead
    assert len(found["maps"].figures[0].items) == 3
    assert "3 of 6 are shown" in found["maps"].lead


@pytest.mark.slow
def test_largest_page_is_below_15_mb(tmp_path):
    kinds = KINDS | {f"model {number}": "model" for number in range(4)}
    sizes = SIZES | {f"model {number}": 1.0 + number for number in range(4)}
    small = evaluation_of(scenes=50, sizes=sizes, kinds=kinds, bands=210, side=8, examples=1, windows=0)
    noise = window_of(np.random.default_rng(0), 0, 200)
    # No window or example of a page is larger than these: noise cannot be compressed.
    figures = {section.anchor: section.figures for section in draw_sections(replace(small, windows=(noise,)))}
    example, one_window = figures["spectra"][0], len(figures["bands"][0].image)
    one_example = len(example.image) + len(html.escape(example.chart)) + len(example.csv)
    one_map = len(figures["maps"][0].image)
    rest = write_report(small, tmp_path / "report.html").stat().st_size
    assert rest + MAX_EXAMPLES * one_example + MAX_WINDOWS * one_window + MAX_MAPS * one_map < 15e6


@pytest.mark.parametrize("loss", [True, False])
def test_method_loses_if_its_rmse_is_above_the_priors(loss):
    assert row_of("spectral", "model", 0.9 if loss else 0.5, ["a"]).loses == loss
