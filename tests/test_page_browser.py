"""The page of a cube in a real browser: what it draws equals the file, and it requests nothing."""

import csv
from contextlib import contextmanager
from threading import Thread

import imagecodecs
import numpy as np
import pytest
from cube_files import COLS, ROWS, WAVELENGTH_NM, make_cube, numbers_of
from rasterio import Affine

import ms2hs
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.viewing.cube_layers import open_layers
from ms2hs.viewing.page import view
from ms2hs.viewing.server import CubeServer


@contextmanager
def opened(browser, address, **options):
    """The loaded page; an error in its script fails the test."""
    page = browser.new_page(**{"viewport": {"width": 1300, "height": 800}, **options})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.requests = requests
    page.goto(address if "://" in str(address) else address.as_uri())
    page.wait_for_selector("body[data-ready=yes]", timeout=30_000)
    try:
        yield page
    finally:
        page.close()
    assert errors == []


def click(page, row, col):
    """Click the centre of a pixel of the picture."""
    at = page.evaluate(
        "([row, col]) => { const {scale, scaleX, x, y} = picture.view, ratio = picture.ratio;"
        "return {x: (x + (col + 0.5) * scaleX) / ratio, y: (y + (row + 0.5) * scale) / ratio}; }",
        [row, col],
    )
    page.locator("#picture").click(position=at)


def drawn(page, entry=0, columns=3):
    """(3, band) drawn reflectance, upper and lower end of its interval, of a kept spectrum with this many columns."""
    first = 1 + entry * columns
    table = page.evaluate("([first]) => chart.plot.data.slice(first, first + 3)", [first])
    return np.array([row for row in zip(*table, strict=True) if row[0] is not None], float).T


def expected(path, row, col):
    values = numbers_of(path)[:, row, col] / 1e4
    sigma = numbers_of(path.with_name(f"{path.stem}_sigma.tif"))[:, row, col] / 1e4
    return np.stack([values, values + 1.645 * sigma, values - 1.645 * sigma])


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    return make_cube(tmp_path_factory.mktemp("cube") / "cube.tif")


@pytest.fixture(scope="module")
def page(browser, cube):
    """The page of a cube, without kept spectra at the beginning of each test."""
    with opened(browser, view(cube)) as loaded:
        yield loaded


def clear(page):
    """Remove all spectra."""
    page.locator("#clear").click()
    page.locator("#zoom-fit").click()


def test_page_draws_the_numbers_of_the_file(page, cube):
    assert page.locator("#pixels tbody tr").count() == 3
    clear(page)
    for at in ((20, 31), (3, 5), (7, 0)):  # row 3 is invalid
        click(page, *at)
    assert page.locator("#pixels tbody tr").count() == 2
    np.testing.assert_allclose(drawn(page, 0), expected(cube, 20, 31), atol=1e-12)
    np.testing.assert_allclose(drawn(page, 1), expected(cube, 7, 0), atol=1e-12)
    assert "row 20, column 31" in page.locator("#pixels tbody tr").first.inner_text()

    base = page.evaluate("picture.base.values.map((plane) => Array.from(plane))")
    bands = [int(np.argmin(np.abs(WAVELENGTH_NM - nm))) for nm in (650, 550, 470)]
    np.testing.assert_array_equal(base, numbers_of(cube)[bands].reshape(3, -1))
    low, high = page.evaluate("picture.limits")
    colour = page.evaluate("Array.from(picture.base.surface.getContext('2d').getImageData(31, 20, 1, 1).data)")
    stretched = (numbers_of(cube)[bands, 20, 31].astype(float) - low) * 255 / (high - low)
    assert np.abs(np.array(colour[:3]) - stretched.clip(0, 255)).max() <= 0.5
    assert colour[3] == 255

    with page.expect_download() as download:
        page.locator("#save-csv").click()
    rows = list(csv.DictReader(download.value.path().read_text("utf-8").splitlines()))
    values = [float(row["reflectance"]) for row in rows if row["spectrum"] == "2"]
    sigma = [float(row["sigma"]) for row in rows if row["spectrum"] == "2"]
    np.testing.assert_allclose(
        [values, sigma], [expected(cube, 7, 0)[0], numbers_of(cube.with_name("cube_sigma.tif"))[:, 7, 0] / 1e4]
    )
    with page.expect_download() as download:
        page.locator("#save-png").click()
    assert imagecodecs.png_decode(download.value.path().read_bytes()).shape[1] > 600
    assert len([url for url in page.requests if not url.startswith(("blob:", "data:"))]) == 1


def test_page_inferred_ranges_follow_the_support_of_the_bands(page, cube):
    support = np.array(open_layers([cube])[0].support)
    clear(page)
    click(page, 20, 31)
    ranges = page.evaluate("chart.ranges")
    dots = page.evaluate("chart.plot.series[1].points.filter(chart.plot).map((i) => chart.plot.data[0][i])")
    inside = np.array([any(low < nm < high for low, high in ranges) for nm in WAVELENGTH_NM])
    np.testing.assert_array_equal(inside, support == "inferred")
    assert set(support) == {"measured", "interpolated", "inferred"}
    np.testing.assert_allclose(dots, WAVELENGTH_NM[support == "measured"], atol=1e-3)


def test_page_works_by_keyboard(page, cube):
    clear(page)
    page.locator("#picture").focus()
    for key in ("ArrowDown", "Shift+ArrowRight", "+", "Enter"):
        page.keyboard.press(key)
    np.testing.assert_allclose(drawn(page), expected(cube, ROWS // 2 + 1, COLS // 2 + 10), atol=1e-12)
    assert page.evaluate("picture.view.scale > picture.fitScale")
    assert "row 17, column 30" in page.locator("#status").inner_text()
    page.keyboard.press("Delete")
    assert page.locator("#pixels tbody tr").count() == 0


@pytest.mark.slow
def test_page_works_by_touch_on_a_phone(browser, cube, tmp_path):
    options = {"has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 844}}
    with opened(browser, view(cube, tmp_path / "page.html"), **options) as page:
        clear(page)
        page.locator("#picture").scroll_into_view_if_needed()
        box = page.locator("#picture").bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("#pixels tbody tr")
        row, col = page.evaluate("[state.pixels[0].row, state.pixels[0].col]")
        assert (abs(row - ROWS / 2), abs(col - COLS / 2)) <= (1, 1)
        np.testing.assert_allclose(drawn(page), expected(cube, row, col), atol=1e-12)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_page_shows_any_band_and_keeps_names_as_text(browser, tmp_path):
    # pixels are half as high as wide, and the page has a name and tags that would be markup
    evil = "<img src=x onerror=document.title=1>"
    names = [f"{evil}{i}" for i in range(60)]
    cube = make_cube(
        tmp_path / f"{evil} $x.tif",
        names=names,
        model="</script><script>document.title=2</script>",
        transform=Affine(20, 0, 6e5, 0, -10, 5.1e6),
    )
    with opened(browser, view(cube, tmp_path / "page.html")) as page:
        page.get_by_role("button", name="One band").click()
        page.locator("#sliders input").press("End")
        page.wait_for_selector("#picture[data-bands='59']")
        np.testing.assert_array_equal(page.evaluate("Array.from(picture.base.values[0])"), numbers_of(cube)[59].ravel())
        assert page.title() == cube.name
        assert page.locator("img").count() == 0
        assert "</script>" in page.locator("#facts").inner_text()
        clear(page)
        click(page, 20, 31)
        np.testing.assert_allclose(drawn(page), expected(cube, 20, 31), atol=1e-12)
        with page.expect_download() as download:
            page.locator("#save-csv").click()
        page.locator("#reference-file").set_input_files(download.value.path())
        page.wait_for_selector("#pixels tbody tr:nth-child(2)")
        np.testing.assert_allclose(page.evaluate("state.references[0].values"), expected(cube, 20, 31)[0])


@pytest.mark.slow
def test_page_compares_cubes_and_references(browser, cube, tmp_path):
    other = make_cube(tmp_path / "other.tif", seed=1)
    (tmp_path / "field.csv").write_text("wavelength_nm,reflectance\n500,0.1\n900,0.4\n")
    (tmp_path / "mine.csv").write_text("Wavelength (um);Reflectance\n0.5;0.2\n0.9;0.3\n")
    path = view(cube, tmp_path / "both.html", [other, tmp_path / "field.csv"])
    with opened(browser, path) as page:
        clear(page)
        page.evaluate("state.references = [...META.references]")
        click(page, 9, 9)
        np.testing.assert_allclose(drawn(page), expected(cube, 9, 9), atol=1e-12)
        np.testing.assert_allclose(page.evaluate("state.pixels[0].spectra[1].values"), numbers_of(other)[:, 9, 9])
        page.locator("#reference-file").set_input_files(tmp_path / "mine.csv")
        page.wait_for_selector("#pixels tbody tr:nth-child(3)")
        texts = page.locator("#pixels tbody").inner_text()
        assert all(name in texts for name in ("field", "mine.csv"))
        assert page.evaluate("state.references.map((one) => [one.nm, one.values])") == [
            [[500, 900], [0.1, 0.4]],
            [[500, 900], [0.2, 0.3]],
        ]


def test_served_page_shows_full_detail(browser, cube):
    with CubeServer(cube) as server:
        thread = Thread(target=server.run)
        thread.start()
        try:
            with opened(browser, server.url) as page:
                clear(page)
                click(page, 20, 31)
                page.wait_for_selector("#pixels tbody tr")
                np.testing.assert_allclose(drawn(page), expected(cube, 20, 31), atol=1e-12)
                assert all(url.startswith((server.url, "data:", "blob:")) for url in page.requests)
        finally:
            server.stop()
            thread.join()


@pytest.mark.slow
def test_page_draws_a_real_scene(browser, real_data, tmp_path):
    scene = real_data / "sentinel2" / "ben_S2A_MSIL2A_20170617T113321_4_55.tif"
    options = ConvertOptions(model="linear", uncertainty=True)
    cube = ms2hs.convert(scene, output=tmp_path / "cube.tif", options=options).output
    with opened(browser, view(cube, scene=scene)) as page:
        clear(page)
        for at in ((10, 100), (77, 33)):
            click(page, *at)
        np.testing.assert_allclose(drawn(page, 1, columns=4), expected(cube, 77, 33), atol=1e-12)
        dots = page.evaluate("state.pixels[1].spectra[1].values")
        np.testing.assert_array_equal(dots, np.rint(numbers_of(scene)[:, 77, 33]))
