"""Make the pictures of gallery.md: run its commands in their order, and draw what they write.

Needs matplotlib and Playwright, and a Chromium on PATH. Together the pictures stay below 2 MB.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rasterio
from PIL import Image
from playwright.sync_api import sync_playwright

from ms2hs import open_cube

PAGE = Path(__file__).with_name("gallery.md")
PICTURES = PAGE.parent / "images" / "gallery"
# Pictures that a command writes, and the page of which a screenshot is taken.
WRITTEN = {"quicklook.png": "scene_enmap.png", "spectrum.png": "spectrum.png"}
SIGMA_NM = (865, 1250)
INDICES = ("NDVI", "red-edge position (nm)", "CAI")


def main() -> None:
    """Run the commands in a temporary folder, then draw."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in re.findall(r"^    ms2hs (.+)$", PAGE.read_text("utf-8"), re.MULTILINE):
            print("ms2hs", command, flush=True)
            words = [sys.executable, "-m", "ms2hs.cli", *shlex.split(command)]
            subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for picture, source in WRITTEN.items():
            shutil.copy(folder / source, PICTURES / picture)
        sigma = open_cube(folder / "scene_enmap.tif").sigma.sel(wavelength=list(SIGMA_NM), method="nearest").values
        draw_maps(dict(zip([f"σ at {nm} nm" for nm in SIGMA_NM], sigma, strict=True)), PICTURES / "sigma.png")
        with rasterio.open(folder / "indices.tif") as file:
            maps = file.read(range(1, len(INDICES) + 1), masked=True).filled(np.nan)
        draw_maps(dict(zip(INDICES, maps, strict=True)), PICTURES / "indices.png")
        take_screenshot(folder / "compared.html", PICTURES / "compared.png")
    for path in PICTURES.glob("*.png"):  # 256 colours: a third of the bytes
        image = Image.open(path).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_maps(maps: dict[str, np.ndarray], picture: Path) -> None:
    """Draw maps (row, col) by title side by side, each from its 2nd to its 98th percentile."""
    figure, axes = plt.subplots(1, len(maps), figsize=(4.5 * len(maps), 3), layout="constrained")
    for axis, (title, values) in zip(axes, maps.items(), strict=True):
        low, high = np.nanpercentile(values, (2, 98))
        figure.colorbar(axis.imshow(values, vmin=low, vmax=high), ax=axis, shrink=0.8)
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(picture, dpi=80)


def take_screenshot(page_file: Path, picture: Path) -> None:
    """The page of two cubes, as it opens, in dark colours."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 840}, color_scheme="dark")
        page.goto(page_file.as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
