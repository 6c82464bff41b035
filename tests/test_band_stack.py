"""band_stack: the COG of a scene with a quality band, written by the COG writer of the package."""

import numpy as np
import rasterio
from cog_rules import broken_rules
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from ms2hs.fetching.band_stack import StackLayout, StackStrip, write_stack
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import load_sensor


def test_write_stack_keeps_pixels_and_band_descriptions(tmp_path):
    grid = PixelGrid("EPSG:32632", (30.0, 0.0, 600_000.0, 0.0, -30.0, 5_100_000.0), 700, 531)
    spectral = load_sensor("sentinel2a").grid
    spectral = spectral.select(spectral.index(["B02", "B03", "B04", "B8A"]))
    layout = StackLayout(grid, spectral, "SCL", {"MS2HS_ITEM": "item"})
    dn = np.random.default_rng(0).integers(-2000, 12_000, (5, grid.height, grid.width)).astype(np.int16)
    dn[-1] %= 12
    strips = (StackStrip(row, dn[:, row : row + 128], 3, 2) for row in range(0, grid.height, 128))
    counts = write_stack(tmp_path / "a.tif", layout, strips)
    assert counts == (18, 12)
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(), dn)
        assert file.descriptions == ("B02", "B03", "B04", "B8A", "SCL")
        assert (file.dtypes[0], file.nodata, file.crs.to_epsg()) == ("int16", -32768, 32632)
        assert (file.scales, set(file.offsets)) == ((1e-4, 1e-4, 1e-4, 1e-4, 1.0), {0.0})
        assert file.colorinterp[:3] == (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
        assert set(file.colorinterp[3:]) == {ColorInterp.undefined}
        assert file.tags()["MS2HS_ITEM"] == "item"
        assert file.tags(1, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"] == f"{spectral.wavelength_nm[0] / 1000:.7g}"
        assert file.tags(5, ns="IMAGERY") == {}
        assert file.overviews(1) == [2, 4]
    expected = dn
    for level in range(2):
        expected = expected[:, ::2, ::2]
        with rasterio.open(tmp_path / "a.tif", overview_level=level) as overview:
            np.testing.assert_array_equal(overview.read(), expected)
    assert cog_validate(tmp_path / "a.tif", quiet=True)[0]
    assert broken_rules(tmp_path / "a.tif") == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
