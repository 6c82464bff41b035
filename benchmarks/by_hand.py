"""A simple conversion with a network, with the whole scene and cube in memory; `peers.py` measures it."""

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from writer import CODEC

from ms2hs.inference.predictor import Predictor
from ms2hs.raster.cog.encoding import BLOCK
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.tiling import Tiling, taper


def convert_by_hand(scene: Path, output: Path, network: Predictor, window: int) -> None:
    """Convert a GeoTIFF of DN to a COG: float32 sums and weights of the whole cube, compressed as by `convert`."""
    with rasterio.open(scene) as file:
        dn, profile = file.read(), file.profile
    valid = (dn != profile["nodata"]).all(axis=0)
    reflectance = dn * np.float32(SCALE)
    tiling = Tiling(*valid.shape, window, network.overlap)
    sums = np.zeros((network.target_count, *valid.shape), np.float32)
    weights = np.zeros(valid.shape, np.float32)
    for cut, ramps in zip(tiling, product(ramps_of(tiling.rows), ramps_of(tiling.cols)), strict=True):
        part = slice(cut.row, cut.row + cut.height), slice(cut.col, cut.col + cut.width)
        weight = np.outer(*ramps) * valid[part]
        sums[:, *part] += weight * np.nan_to_num(network.reconstruct(reflectance[:, *part], valid[part]))
        weights[part] += weight
    sums /= np.where(weights > 0, weights, np.float32(1)) * np.float32(SCALE)
    cube = np.rint(sums, out=sums).clip(-32767, 32767, out=sums).astype(np.int16)
    cube[:, weights == 0] = NODATA
    profile_of_cube = {name: profile[name] for name in ("crs", "transform", "height", "width")}
    profile_of_cube |= {"driver": "COG", "count": len(cube), "dtype": "int16", "nodata": NODATA}
    options = CODEC | {"LEVEL": 1, "PREDICTOR": "YES", "BLOCKSIZE": BLOCK, "OVERVIEW_RESAMPLING": "AVERAGE"}
    with rasterio.open(output, "w", **profile_of_cube, **options) as file:
        file.write(cube)


def ramps_of(spans: list[tuple[int, int]]) -> list[NDArray[np.float32]]:
    """Weights along each span, which rise and fall over the pixels shared with its neighbours."""
    shared = [0, *(before[1] - after[0] for before, after in pairwise(spans)), 0]
    return [taper(stop - start, *shared[i : i + 2]) for i, (start, stop) in enumerate(spans)]
