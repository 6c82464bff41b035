"""Simulated scenes: measured spectra laid out as land is, after windows of real scenes or by chance; sun and shadow.

A landscape is a few spectra, the share that each has in each pixel, and how bright and how shaded each pixel is. So its
reflectance is of low rank, and a scene of 128 x 128 pixels and 211 wavelengths takes a twentieth of a second.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.simulation.land_layout import Layout, lay_out
from ms2hs.datasets.simulation.materials import Spectra, spectra_of, spectra_of_folder
from ms2hs.datasets.simulation.random_fields import Shape, fitted, smooth_noise
from ms2hs.datasets.simulation.spectra_mixing import view
from ms2hs.models.prior import SpectralPrior
from ms2hs.spectra.spectral_grid import SpectralGrid

if TYPE_CHECKING:
    from ms2hs.datasets.simulation.texture import Texture

# Out of how many spectra, drawn by weight, a scene chooses.
POOL = 1500
# How many archetypes of a real window a scene has at least and at most.
ARCHETYPES = (6, 12)
# How far a pixel may differ in brightness from its archetypes, and an archetype's spectrum be scaled to its brightness.
TEXTURE, RESCALED = (0.4, 1.8), (0.6, 1.4)
# Added to reflectance before its logarithm tells how alike two are: of what is darker, the colour tells nothing.
DARK = 0.03
# What stands for a kind of surface of which there is no spectrum.
INSTEAD = {"urban": "soil", "npv": "soil", "mineral": "soil"}
# How the shares of three spectra in a blend are drawn: the first has two thirds, on average.
PURITY = (1.0, 0.25, 0.25)
# Diffuse share of the light at 550 nm under clear sky, and the power to which it falls with wavelength: about what
# clear-sky models give (Bird & Riordan 1986, J. Climate Appl. Meteor. 25:87): 0.25 at 450, 0.02 at 1600 nm.
DIFFUSE, DIFFUSE_POWER = (0.10, 0.25), (1.5, 2.3)
# Scenes that a process keeps; one of 128 x 128 pixels is 14 MB.
KEPT_SCENES = 8


@dataclass(frozen=True, eq=False)
class Landscape:
    """What stands where, and how it is lit."""

    members: Float32Array
    """(member, wavelength) reflectance of the spectra that it is made of."""
    share: Float32Array
    """(member, row, col) of the pixel's area, summing to 1."""
    brightness: Float32Array
    """(row, col) factor of the reflectance: texture."""
    sunlit: Float32Array
    """(row, col) direct light, relative to level open ground: 0 in cast shadow, above 1 on slopes towards the sun."""
    diffuse: FloatArray
    """(wavelength,) share of the light on level ground that comes from the sky."""

    def reflectance(self) -> Float32Array:
        """(wavelength, row, col) as a product has it that takes all ground for level and lit."""
        shape = self.brightness.shape
        mixed = self.members.T @ self.share.reshape(len(self.members), -1)
        mixed *= self.brightness.reshape(1, -1)
        if (self.sunlit != 1).any():
            for band, diffuse in zip(mixed, self.diffuse.astype(np.float32), strict=True):
                band *= diffuse + (1 - diffuse) * self.sunlit.ravel()  # noqa: PLW2901  in place: a scene may be large
        return mixed.reshape(-1, *shape)


def simulate(
    spectra: Spectra, shape: Shape, rng: np.random.Generator, structure: "Texture | None" = None
) -> Float32Array:
    """(wavelength, row, col) reflectance of one scene; each call is another one, the same for the same `rng`.

    Parameters
    ----------
    structure : the real window whose shapes it takes; None: shapes by chance.

    Raises
    ------
    SceneError : the file of `structure` is gone or damaged.
    """
    if structure is None:
        return furnish(spectra, lay_out(shape, rng), rng).reflectance()
    return liken(spectra, fitted(structure.read(), shape, rng), structure.grid, rng).reflectance()


def furnish(spectra: Spectra, layout: Layout, rng: np.random.Generator) -> Landscape:
    """A landscape in which each member of the layout has a spectrum of its kind, or of any kind if there is none."""
    members = np.stack([_blend(spectra, kind, rng) for kind in layout.kinds])
    sunlit, diffuse = _light(spectra.wavelength_nm, layout.relief, rng)
    return Landscape(members, layout.share, layout.brightness, sunlit, diffuse)


def _blend(spectra: Spectra, kind: str, rng: np.random.Generator) -> Float32Array:
    """(wavelength,) a spectrum of that kind, blended with some of two others: few pixels show one pure material."""
    wanted = [np.where(spectra.kinds == name, spectra.weights, 0) for name in (kind, INSTEAD.get(kind, kind))]
    weights = next((found for found in wanted if found.any()), spectra.weights)
    drawn = rng.choice(len(weights), 3, p=weights / weights.sum())
    return rng.dirichlet(PURITY).astype(np.float32) @ spectra.reflectance[drawn]


def liken(spectra: Spectra, window: Float32Array, grid: SpectralGrid, rng: np.random.Generator) -> Landscape:
    """A landscape of the shapes of a real window: pixels like one of some archetypes have its spectrum.

    Each archetype is given two spectra, drawn by their likeness to it in the window's bands, strict in some scenes and
    loose in others, so that the shapes of a few windows carry many spectra. What shares do not explain of the window's
    brightness stays as texture, and of its colour as the mixture of the two.

    Parameters
    ----------
    window : (band, row, col) reflectance, above 0, in the bands of `grid`.
    """
    shape = window.shape[1:]
    pixels = window.reshape(len(window), -1).T
    archetypes, share = _unmix(pixels, int(rng.integers(*ARCHETYPES, endpoint=True)), rng)
    explained = share @ archetypes
    texture = np.clip(pixels.mean(axis=1) / explained.mean(axis=1), *TEXTURE).reshape(shape)
    second = _second_share(np.log((pixels + DARK) / (explained + DARK)), shape, rng)
    pool = rng.choice(len(spectra.weights), POOL, p=spectra.weights / spectra.weights.sum())
    seen = view(spectra.reflectance[pool], spectra.wavelength_nm, grid)
    drawn = pool[_alike(archetypes, seen, rng)]
    members = spectra.reflectance[drawn]
    bright = archetypes.mean(axis=1)[:, None, None]
    own = view(members.reshape(-1, members.shape[-1]), spectra.wavelength_nm, grid).mean(axis=1)
    members = members * np.clip(bright / np.maximum(own, 1e-3).reshape(-1, 2, 1), *RESCALED)
    shares = np.stack([share.T.reshape(-1, *shape) * part for part in (1 - second, second)], axis=1)
    sunlit, diffuse = _light(spectra.wavelength_nm, smooth_noise(shape, 2.0, rng), rng)
    return Landscape(
        members=members.reshape(-1, members.shape[-1]).astype(np.float32),
        share=shares.reshape(-1, *shape).astype(np.float32),
        brightness=texture.astype(np.float32),
        sunlit=sunlit,
        diffuse=diffuse,
    )


def _unmix(pixels: FloatArray, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(archetype, band) some pixels unlike each other, and (pixel, archetype) how much each pixel is like them.

    Archetypes are drawn as k-means++ draws its first centres (Arthur & Vassilvitskii 2007), shares are Gaussian in the
    distance of relative spectra.
    """
    relative = np.log(pixels + DARK)
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


def _alike(archetypes: FloatArray, seen: FloatArray, rng: np.random.Generator) -> NDArray[np.intp]:
    """(archetype, 2) positions of two spectra for each, drawn out of those that were `seen` (spectrum, band)."""
    ours, theirs = (np.log(np.clip(part, 0, None) + DARK) for part in (archetypes, seen))
    distance = np.square(ours[:, None] - theirs[None]).mean(axis=2)
    tolerance = np.exp(rng.uniform(np.log(0.08), np.log(0.8)))
    liking = np.exp((distance.min(axis=1, keepdims=True) - distance) / (2 * tolerance**2))
    return np.stack([rng.choice(len(seen), 2, p=row / row.sum()) for row in liking])


def _second_share(residual: FloatArray, shape: Shape, rng: np.random.Generator) -> FloatArray:
    """(row, col) share, 0-1, of the second of each pair of spectra: it follows the colour of the residual and noise.

    Parameters
    ----------
    residual : (pixel, band) logarithm of the window's pixels over what the archetypes explain.
    """
    colour = residual - residual.mean(axis=1, keepdims=True)
    colour = colour @ np.linalg.svd(colour.T @ colour)[0][:, 0]
    colour /= max(float(colour.std()), 1e-6)
    regions = colour.reshape(shape) + smooth_noise(shape, rng.uniform(1.2, 1.8), rng)
    share: FloatArray = 1 / (1 + np.exp(-rng.uniform(0.5, 2) * regions))
    return share


def _light(wavelength_nm: FloatArray, relief: FloatArray, rng: np.random.Generator) -> tuple[Float32Array, FloatArray]:
    """(row, col) direct light on a relief, and (wavelength,) the sky's share; half of the scenes are level.

    One in five has shadows of clouds, of soft edge.
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
    diffuse = rng.uniform(*DIFFUSE) * (wavelength_nm / 550) ** -rng.uniform(*DIFFUSE_POWER)
    return sunlit.astype(np.float32), diffuse


@dataclass(frozen=True, eq=False)
class SimulatedCube:
    """A simulated scene as a cube to learn from: made when it is first read, the same in every process."""

    spectra: Spectra
    seed: tuple[int, ...]
    shape: Shape = (128, 128)
    """Rows and columns."""
    structure: "Texture | None" = None

    @property
    def scene(self) -> str:
        """What must stay together in any split: each simulated scene is one of its own."""
        return f"simulated-{'-'.join(map(str, self.seed))}"

    @property
    def name(self) -> str:
        """Of the cube: it is the only one of its scene."""
        return self.scene

    @property
    def grid(self) -> SpectralGrid:
        """Its bands, ascending."""
        return self.spectra.grid

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, all of it known.

        Raises
        ------
        ValueError : the window reaches beyond the scene.
        SceneError : the file of `structure` is gone or damaged.
        """
        rows, cols = self.shape
        if row < 0 or col < 0 or not (0 < height <= rows - row and 0 < width <= cols - col):
            raise ValueError(f"window {(row, col, height, width)} reaches beyond {rows}x{cols}")
        return _whole(self)[:, row : row + height, col : col + width].copy()


@lru_cache(maxsize=KEPT_SCENES)
def _whole(cube: SimulatedCube) -> Float32Array:
    return simulate(cube.spectra, cube.shape, np.random.default_rng(cube.seed), cube.structure)


def simulated_cubes(
    count: int,
    seed: int,
    *,
    folder: Path | None = None,
    prior: SpectralPrior | None = None,
    shape: Shape = (128, 128),
    leave_out: Collection[str] = (),
) -> list[SimulatedCube]:
    """Simulated scenes as cubes, no two alike; every other one after a window of a real scene, where there are any.

    Parameters
    ----------
    folder : a data folder, whose spectra and multispectral scenes are used; needs rasterio and prosail.
    prior : whose sample of spectra is used where there is no folder.
    leave_out : families of the folder's files that must not be seen.

    Raises
    ------
    ValueError : neither folder nor prior.
    DataError : the folder has no cubes or spectra, or prosail is not installed.
    """
    rng = np.random.default_rng(seed)
    windows: list[Texture] = []
    if folder is not None:
        from ms2hs.datasets.simulation.texture import structures  # noqa: PLC0415  needs rasterio, which simulation does not

        spectra = spectra_of_folder(folder, rng, leave_out)
        windows = structures(folder, max(shape))
    elif prior is not None:
        spectra = spectra_of(prior)
    else:
        raise ValueError("simulated scenes need a folder of spectra or a prior")
    places = [(_window(windows, rng) if windows and number % 2 else None) for number in range(count)]
    return [SimulatedCube(spectra, (seed, number), shape, place) for number, place in enumerate(places)]


def _window(windows: "Sequence[Texture]", rng: np.random.Generator) -> "Texture":
    """A window of any scene, each scene as often as another."""
    scenes = sorted({window.scene.id for window in windows})
    chosen = scenes[int(rng.integers(len(scenes)))]
    own = [window for window in windows if window.scene.id == chosen]
    return own[int(rng.integers(len(own)))]
