"""Draw docs/images/view.png: a screenshot of a page of `ms2hs view`, in 256 colours.

Needs Playwright, Pillow, and Chromium on PATH or in MS2HS_BROWSER.
"""

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    """Load the page, and save what it shows at first."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("page", type=Path, help="HTML file")
    arguments.add_argument("--output", type=Path, default=Path("docs/images/view.png"))
    arguments.add_argument("--theme", choices=("light", "dark"), default="light")
    given = arguments.parse_args()
    browser_path = os.environ.get("MS2HS_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 784}, color_scheme=given.theme)
        page.goto(given.page.resolve().as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        page.mouse.move(600, 5)  # away from the chart and the picture
        screenshot = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    screenshot.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(given.output, optimize=True)
    print(given.output)


if __name__ == "__main__":
    main()
