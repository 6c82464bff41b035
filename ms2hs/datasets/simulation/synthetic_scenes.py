"""Simulated hyperspectral scenes: measured spectra arranged by a random layout or like a real scene, and illuminated.

A pixel is a linear mixture of a few spectra, times a brightness, times its illumination: direct light, which slopes and
cloud shadows change, and diffuse light (Bird & Riordan 1986). The arrangement is a random layout (`land_layout`) or
follows the pixels of a real multispectral window (`texture`). Ours; the scenes are for training and show no real place.
A scene of 128 x 128 pixels and 211 wavelengths takes 0.05 s, since its reflectance has a low rank.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import check_window
from ms2hs.datasets.simulation.land_layout import Layout, draw_layout
from ms2hs.datasets.simulation.materials import Spectra, spectra_of, spectra_of_folder
from ms2hs.datasets.simulation.random_fields import Shape, fit_to_shape, smooth_noise
from ms2hs.datasets.simulation.spectra_mixing import view
from ms2hs.models.prior import SpectralPrior
from ms2hs.spectra.spectral_grid import SpectralGrid

if TYPE_CHECKING:
    from ms2hs.datasets.simulation.texture import Texture

# Number of spectra, drawn by weight, from which a scene like a real window chooses.
POOL_SIZE = 1500
# Smallest and largest number of archetypes of a real window.
ARCHETYPE_COUNT = (6, 12)
# Ranges of the brightness of a pixel relative to its archetypes, and of the factor that scales a spectrum to its
# archetype.
TEXTURE_RANGE, RESCALING_RANGE = (0.4, 1.8), (0.6, 1.4)
# Added to reflectance before the logarithm when spectra are compared: the colour of darker pixels is noise.
LOG_OFFSET = 0.03
# The kind of surface to use instead of a kind without spectra.
SUBSTITUTES = {"urban": "soil", "npv": "soil", "mineral": "soil"}
# Dirichlet parameters of the shares of three spectra in a blend; the first has two thirds on average.
BLEND_SHARES = (1.0, 0.25, 0.25)
# Diffuse share of the light at 550 nm under a clear sky, and the power by which it falls with wavelength, so that it is
# about 0.25 at 450 nm and 0.02 at 1600 nm (Bird & Riordan 1986, J. Climate Appl. Meteor. 25:87).
DIFFUSE_SHARE, DIFFUSE_POWER = (0.10, 0.25), (1.5, 2.3)
# Scenes that a process keeps in memory; one of 128 x 128 pixels has 14 MB.
MAX_CACHED_SCENES = 8


@dataclass(frozen=True, eq=False)
class Landscape:
    """Surfaces and illumination of a scene."""

    members: Float32Array
    """(member, wavelength) reflectance of the spectra in the mixture."""
    share: Float32Array
    """(member, row, col) share of the pixel's area; sums to 1."""
    brightness: Float32Array
    """(row, col) factor of the reflectance: texture."""
    sunlit: Float32Array
    """(row, col) direct light relative to level open ground: 0 in cast shadow, above 1 on slopes towards the sun."""
    diffuse: FloatArray
    """(wavelength,) diffuse share of the light on level ground."""

    def reflectance(self) -> Float32Array:
        """(wavelength, row, col) reflectance as in a product without terrain correction.

        `brightness * (diffuse + (1 - diffuse) * sunlit) * (members mixed by share)`.
        """
        mixed = self.members.T @ self.share.reshape(len(self.members), -1)
        mixed *= self.brightness.reshape(1, -1)
        if (self.sunlit != 1).any():
            for band, diffuse in zip(mixed, self.diffuse.astype(np.float32), strict=True):
                band *= diffuse + (1 - diffuse) * self.sunlit.ravel()  # noqa: PLW2901  in place: a scene may be large
        return mixed.reshape(-1, *self.brightness.shape)


def simulate(
    spectra: Spectra, shape: Shape, rng: np.random.Generator, texture: "Texture | None" = None
) -> Float32Array:
    """(wavelength, row, col) reflectance of a random scene; the same state of `rng` gives the same scene.

    The scene follows `texture`, a real window, or has a random layout. SceneError if the file of the texture is missing
    or damaged.
    """
    if texture is None:
        return landscape_of_layout(spectra, draw_layout(shape, rng), rng).reflectance()
    return landscape_like(spectra, fit_to_shape(texture.read(), shape, rng), texture.grid, rng).reflectance()


def landscape_of_layout(spectra: Spectra, layout: Layout, rng: np.random.Generator) -> Landscape:
    """A landscape with a random spectrum of the right kind for each member; of any kind if the kind has none."""
    members = np.stack([_blend(spectra, kind, rng) for kind in layout.kinds])
    sunlit, diffuse = _light(spectra.wavelength_nm, layout.relief, rng)
    return Landscape(members, layout.share, layout.brightness, sunlit, diffuse)


def _blend(spectra: Spectra, kind: str, rng: np.random.Generator) -> Float32Array:
    """(wavelength,) a spectrum of the kind, blended with a little of two more, since few pixels are pure."""
    candidates = [np.where(spectra.kinds == name, spectra.weights, 0) for name in (kind, SUBSTITUTES.get(kind, kind))]
    weights = next((weights for weights in candidates if weights.any()), spectra.weights)
    drawn = rng.choice(len(weights), 3, p=weights / weights.sum())
    return rng.dirichlet(BLEND_SHARES).astype(np.float32) @ spectra.reflectance[drawn]


def landscape_like(spectra: Spectra, window: Float32Array, grid: SpectralGrid, rng: np.random.Generator) -> Landscape:
    """A landscape arranged like a real window: pixels that resemble an archetype of the window share its spectra.

    Each archetype gets two spectra, drawn by similarity in the window's bands; the tolerance differs between scenes, so
    that a few windows serve for many spectra. Of the residuals, brightness becomes texture, and colour becomes the
    ratio of the two spectra.

    Parameters
    ----------
    window : (band, row, col) reflectance above 0, in the bands of `grid`.
    """
    shape = window.shape[1:]
    pixels = window.reshape(len(window), -1).T
    archetypes, share = _unmix(pixels, int(rng.integers(*ARCHETYPE_COUNT, endpoint=True)), rng)
    explained = share @ archetypes
    texture = np.clip(pixels.mean(axis=1) / explained.mean(axis=1), *TEXTURE_RANGE).reshape(shape)
    second = _second_share(np.log((pixels + LOG_OFFSET) / (explained + LOG_OFFSET)), shape, rng)
    pool = rng.choice(len(spectra.weights), POOL_SIZE, p=spectra.weights / spectra.weights.sum())
    in_bands = view(spectra.reflectance[pool], spectra.wavelength_nm, grid)
    drawn = pool[_draw_similar(archetypes, in_bands, rng)]
    members = spectra.reflectance[drawn]
    bright = archetypes.mean(axis=1)[:, None, None]
    own = view(members.reshape(-1, members.shape[-1]), spectra.wavelength_nm, grid).mean(axis=1)
    members = members * np.clip(bright / np.maximum(own, 1e-3).reshape(-1, 2, 1), *RESCALING_RANGE)
    shares = np.stack([share.T.reshape(-1, *shape) * part for part in (1 - second, second)], axis=1)
    sunlit, diffuse = _light(spectra.wavelength_nm, smooth_noise(shape, 2.0, rng), rng)
    members, share, brightness = (
        part.astype(np.float32)
        for part in (members.reshape(-1, members.shape[-1]), shares.reshape(-1, *shape), texture)
    )
    return Landscape(members, share, brightness, sunlit, diffuse)


def _unmix(pixels: FloatArray, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(archetype, band) dissimilar pixels, and (pixel, archetype) the share of each archetype in each pixel.

    Archetypes are drawn like the first centres of k-means++ (Arthur & Vassilvitskii 2007). Shares are Gaussian in the
    distance of logarithms.
    """
    relative = np.log(pixels + LOG_OFFSET)
    relative = relative - relative.mean(axis=0)
    chosen = [int(rng.integers(len(pixels)))]
    distance = np.empty((len(pixels), count))
    for archetype in range(count):
        if archetype:
            nearest = distance[:, :archetype].min(axis=1)
            if not nearest.any():
                break
            chosen.append(int(rng.choice(len(pixels), p=nearest / nearest.sum())))
        distance[:, archetype] = np.square(relative - relative[chosen[-1]]).sum(axis=1)
    distance = distance[:, : len(chosen)]
    nearest = distance.min(axis=1, keepdims=True)
    share = np.exp((nearest - distance) / (2 * max(float(nearest.mean()), 1e-6)))
    return pixels[chosen], share / share.sum(axis=1, keepdims=True)


def _draw_similar(archetypes: FloatArray, spectra: FloatArray, rng: np.random.Generator) -> NDArray[np.intp]:
    """(archetype, 2) positions of two `spectra` (spectrum, band) for each archetype, drawn by similarity."""
    first, second = (np.log(np.clip(part, 0, None) + LOG_OFFSET) for part in (archetypes, spectra))
    distance = np.square(first[:, None] - second[None]).mean(axis=2)
    tolerance = np.exp(rng.uniform(np.log(0.08), np.log(0.8)))
    similarity = np.exp((distance.min(axis=1, keepdims=True) - distance) / (2 * tolerance**2))
    return np.stack([rng.choice(len(spectra), 2, p=row / row.sum()) for row in similarity])


def _second_share(residual: FloatArray, shape: Shape, rng: np.random.Generator) -> FloatArray:
    """(row, col) share, 0-1, of the second spectrum: colour of the residual (pixel, band), plus noise."""
    colour = residual - residual.mean(axis=1, keepdims=True)
    colour = colour @ np.linalg.svd(colour.T @ colour)[0][:, 0]
    colour /= max(float(colour.std()), 1e-6)
    regions = colour.reshape(shape) + smooth_noise(shape, rng.uniform(1.2, 1.8), rng)
    return np.asarray(1 / (1 + np.exp(-rng.uniform(0.5, 2) * regions)))


def _light(wavelength_nm: FloatArray, relief: FloatArray, rng: np.random.Generator) -> tuple[Float32Array, FloatArray]:
    """(row, col) direct light on a relief, and (wavelength,) diffuse share of the light.

    Half of the scenes are level, and one in five has cloud shadows with soft edges.
    """
    sunlit = np.ones(relief.shape)
    if rng.uniform() < 0.5:
        azimuth, steepness = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.2)
        down, right = np.gradient(relief)
        slope = np.cos(azimuth) * down + np.sin(azimuth) * right
        sunlit = np.clip(1 + steepness * slope / max(slope.std(), 1e-9), 0, 1.4)
    if rng.uniform() < 0.2:
        cloud = smooth_noise(relief.shape, 2.2, rng)
        depth = rng.uniform(0.5, 1.0)
        sunlit *= 1 - depth * np.clip(3 * (cloud - rng.uniform(1.0, 1.8)), 0, 1)
    diffuse = rng.uniform(*DIFFUSE_SHARE) * (wavelength_nm / 550) ** -rng.uniform(*DIFFUSE_POWER)
    return sunlit.astype(np.float32), diffuse


@dataclass(frozen=True, eq=False)
class SimulatedCube:
    """A simulated scene as a cube, computed at the first read; the same in every process."""

    spectra: Spectra
    seed: tuple[int, ...]
    shape: Shape = (128, 128)
    """Rows and columns."""
    texture: "Texture | None" = None

    @property
    def scene(self) -> str:
        """A scene of its own, named after the seed."""
        return f"simulated-{'-'.join(map(str, self.seed))}"

    @property
    def name(self) -> str:
        """Name of the scene, which has no other cube."""
        return self.scene

    @property
    def grid(self) -> SpectralGrid:
        """The bands, ascending."""
        return self.spectra.grid

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, without unknown values. Errors as in `simulate` and `Cube.read`."""
        check_window(self.shape, row, col, height, width)
        return _simulate_cube(self)[:, row : row + height, col : col + width].copy()


@lru_cache(maxsize=MAX_CACHED_SCENES)
def _simulate_cube(cube: SimulatedCube) -> Float32Array:
    return simulate(cube.spectra, cube.shape, np.random.default_rng(cube.seed), cube.texture)


def simulated_cubes(
    count: int,
    seed: int,
    *,
    folder: Path | None = None,
    prior: SpectralPrior | None = None,
    shape: Shape = (128, 128),
    leave_out: Collection[str] = (),
) -> list[SimulatedCube]:
    """Different simulated scenes as cubes; every second scene follows a real window, if the folder has scenes.

    Parameters
    ----------
    folder : a data folder with spectra and multispectral scenes; needs rasterio and prosail.
    prior : its sample of spectra is used if no folder is given.
    leave_out : places whose files are not used.

    Raises
    ------
    ValueError : neither folder nor prior is given.
    DataError : the folder has no cubes or spectra, or prosail is not installed.
    """
    rng = np.random.default_rng(seed)
    windows: list[Texture] = []
    if folder is not None:
        from ms2hs.datasets.simulation.texture import find_textures  # noqa: PLC0415  needs rasterio, which simulation does not

        spectra = spectra_of_folder(folder, rng, leave_out)
        windows = find_textures(folder, max(shape))
    elif prior is not None:
        spectra = spectra_of(prior)
    else:
        raise ValueError("simulated scenes need a folder of spectra or a prior")
    textures = [(_draw_window(windows, rng) if windows and number % 2 else None) for number in range(count)]
    return [SimulatedCube(spectra, (seed, number), shape, texture) for number, texture in enumerate(textures)]


def _draw_window(windows: "Sequence[Texture]", rng: np.random.Generator) -> "Texture":
    """A random window of a random scene; all scenes have the same probability."""
    scenes = sorted({window.scene.id for window in windows})
    chosen = scenes[int(rng.integers(len(scenes)))]
    of_scene = [window for window in windows if window.scene.id == chosen]
    return of_scene[int(rng.integers(len(of_scene)))]
