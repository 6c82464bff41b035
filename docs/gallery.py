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
from playwright.sync_api import sync_playwright

PAGE = Path(__file__).with_name("gallery.md")
PICTURES = PAGE.parent / "images" / "gallery"


def main() -> None:
    """Run the commands in a temporary folder, then draw."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in re.findall(r"^    ms2hs (.+)$", PAGE.read_text("utf-8"), re.MULTILINE):
            print("ms2hs", command, flush=True)
            subprocess.run([sys.executable, "-m", "ms2hs.cli", *shlex.split(command)], cwd=folder, check=True)
        shutil.copy(folder / "scene_enmap.png", PICTURES / "quicklook.png")
        shutil.copy(folder / "spectrum.png", PICTURES / "spectrum.png")
        sigma = {nearest_band(folder, 1250): "σ at 1250 nm"}
        draw_maps(folder / "scene_enmap_sigma.tif", PICTURES / "sigma.png", sigma)
        draw_maps(folder / "indices.tif", PICTURES / "indices.png", {1: "NDVI", 2: "red-edge position (nm)"})
        take_screenshot(folder / "page.html", PICTURES / "view.png")


def nearest_band(folder: Path, wavelength_nm: float) -> int:
    """The number of the band nearest to a wavelength."""
    with rasterio.open(folder / "scene_enmap.tif") as cube:
        centres = [float(cube.tags(band, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"]) for band in cube.indexes]
    return int(np.argmin(np.abs(1000 * np.array(centres) - wavelength_nm))) + 1


def draw_maps(raster: Path, picture: Path, titles: dict[int, str]) -> None:
    """Draw bands of a raster side by side, from the 2nd to the 98th percentile of each."""
    figure, axes = plt.subplots(1, len(titles), figsize=(5 * len(titles), 4), layout="constrained", squeeze=False)
    with rasterio.open(raster) as file:
        for axis, (band, title) in zip(axes[0], titles.items(), strict=True):
            values = file.read(band, masked=True).astype(float).filled(np.nan) * file.scales[band - 1]
            low, high = np.nanpercentile(values, (2, 98))
            figure.colorbar(axis.imshow(values, vmin=low, vmax=high, interpolation="nearest"), ax=axis)
            axis.set_title(title)
            axis.set_axis_off()
    figure.savefig(picture, dpi=80)


def take_screenshot(page_file: Path, picture: Path) -> None:
    """The page with three pixels clicked."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.goto(page_file.as_uri())
        page.wait_for_timeout(1000)
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
