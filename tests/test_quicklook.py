"""write_quicklook: panels, stretch and transparency."""

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from ms2hs.errors import OutputError
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.quicklook import GAP, LONG_SIDE, STRETCH_PIXELS, write_quicklook
from ms2hs.spectra.spectral_grid import grid_of

pytestmark = pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")
CENTRES = np.array([470.0, 550.0, 650.0, 850.0, 1650.0, 2200.0])


def paint(tmp_path, dn, wavelength_nm=CENTRES):
    cube, png = tmp_path / "cube.tif", tmp_path / "cube.png"
    grid = PixelGrid("EPSG:32633", (30.0, 0.0, 0.0, 0.0, -30.0, 0.0), *dn.shape[1:])
    with CogWriter(cube, grid, grid_of(np.array(wavelength_nm)), {}) as writer:
        writer.write(0, dn)
    write_quicklook(cube, png)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.png", "cube.tif"]
    with rasterio.open(png) as file:
        return file.read()


def ramp(height, width, bands=6):
    """Bands with the numbers 0 to 3000 in a different random order each."""
    rng = np.random.default_rng(0)
    return np.stack(
        [rng.permutation(np.linspace(0, 3000, height * width)).reshape(height, width) for _ in range(bands)]
    )


def test_quicklook_shows_natural_colour_beside_short_wave_infrared(tmp_path):
    dn = ramp(40, 30).astype(np.int16)
    dn[:, :5] = NODATA
    picture = paint(tmp_path, dn)
    assert picture.shape == (4, 40, 30 + GAP + 30)
    natural, gap, swir = picture[..., :30], picture[..., 30:38], picture[..., 38:]
    assert not gap[3].any()
    for panel, bands in ((natural, (2, 1, 0)), (swir, (5, 4, 3))):
        assert not panel[3, :5].any()
        assert (panel[3, 5:] == 255).all()
        shown = dn[list(bands), 5:].astype(float)
        low, high = np.percentile(shown, (2, 98))
        assert np.abs(panel[:3, 5:] - 255 * np.clip((shown - low) / (high - low), 0, 1)).max() <= 1


def test_quicklook_of_a_wide_cube_stacks_its_panels(tmp_path):
    assert paint(tmp_path, ramp(30, 40).astype(np.int16)).shape == (4, 30 + GAP + 30, 40)


@pytest.mark.parametrize(
    "wavelength_nm",
    [[470, 550, 650, 700, 720, 740], [850, 900, 1000, 1100, 1650, 2200], [800, 810, 820, 830, 840, 845]],
)
def test_quicklook_omits_panels_without_bands(tmp_path, wavelength_nm):
    picture = paint(tmp_path, ramp(20, 20).astype(np.int16), np.array(wavelength_nm, float))
    assert picture.shape == (4, 20, 20)
    assert picture[:3].max() == 255


def test_quicklook_accepts_one_band_and_no_valid_pixel(tmp_path):
    assert paint(tmp_path, np.full((1, 10, 10), 500, np.int16), [900.0])[3].min() == 255
    assert not paint(tmp_path, np.full((6, 10, 10), NODATA, np.int16)).any()


def test_quicklook_of_a_large_cube_is_small(tmp_path):
    height, width = 2100, 300
    picture = paint(tmp_path, np.broadcast_to(np.arange(height, dtype=np.int16)[:, None], (6, height, width)))
    assert picture.shape == (4, 700, 100 + GAP + 100)
    assert picture.shape[1] <= LONG_SIDE
    assert (np.diff(picture[0, :, 50].astype(int)) >= 0).all()


def test_stretch_of_a_large_panel_matches_all_its_pixels(tmp_path):
    dn = ramp(900, 400).astype(np.int16)
    assert dn[0].size > 5 * STRETCH_PIXELS
    dn[:, :, :30] = NODATA
    shown = paint(tmp_path, dn)[:3, :, 30:400].astype(float)
    low, high = np.percentile(dn[[2, 1, 0], :, 30:], (2, 98))
    assert np.abs(shown - 255 * np.clip((dn[[2, 1, 0], :, 30:] - low) / (high - low), 0, 1)).max() <= 2


def test_quicklook_reports_a_failed_write(tmp_path):
    paint(tmp_path, ramp(10, 10).astype(np.int16))
    with pytest.raises(OutputError, match="could not be written"):
        write_quicklook(tmp_path / "cube.tif", tmp_path / "missing" / "cube.png")
