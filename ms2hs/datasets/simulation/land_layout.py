"""Random layouts of land: farmland, woodland, bare ground and towns, with roads, rivers and lakes.

The largest of several noise fields decides the zone of a pixel. A zone is divided into parcels or cells, each with a
main surface over a second one. Lines and patches lie on top, and a point-spread function blurs the shares. Ours:
designed to have the shapes and the power spectrum of Sentinel-2 scenes, not to show a real place.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.simulation.random_fields import Shape, blur, cells, line, parcels, smooth_noise

# Smallest and largest number of members of each group in a scene, and their kind of surface.
GROUPS = {
    "crops": (3, 6, "vegetation"),
    "woods": (2, 3, "vegetation"),
    "stubble": (1, 2, "npv"),
    "soils": (2, 4, "soil"),
    "rocks": (1, 1, "mineral"),
    "roofs": (3, 6, "urban"),
    "waters": (1, 2, "water"),
}
ZONES = ("farmland", "woodland", "bare", "town")
# Added to the noise field (unit variance) of each zone: zones with a larger number cover more of the land.
ZONE_BIAS = (0.5, 0.0, -0.2, -0.8)
# Standard deviation of the logarithm of brightness: within a parcel, and between parcels of one crop.
TEXTURE_SIGMA, PARCEL_SIGMA = (0.04, 0.12), 0.06
# Standard deviation, in pixels, of the sensor's point-spread function, whose full width is about one pixel.
BLUR = (0.35, 0.6)


@dataclass(frozen=True, eq=False)
class Layout:
    """The surfaces of a scene: a few members, each later one spectrum, and their share in each pixel."""

    kinds: tuple[str, ...]
    """(member,) kind of surface, a class of `materials.CLASS_WEIGHTS`."""
    share: Float32Array
    """(member, row, col) share of the pixel's area; sums to 1."""
    brightness: Float32Array
    """(row, col) factor of the reflectance."""
    relief: FloatArray
    """(row, col) height, of unit variance."""


@dataclass(frozen=True, eq=False)
class _Zone:
    """Ground cover of a whole scene as one zone: a main and a second member in each pixel."""

    main: NDArray[np.integer]
    second: NDArray[np.integer]
    second_share: FloatArray
    """(row, col) share of the second member, 0-1 after clipping."""
    parcel: NDArray[np.integer]
    """(row, col) number of the parcel."""


def draw_layout(shape: Shape, rng: np.random.Generator) -> Layout:
    """A random layout in pixels of about 10-30 m."""
    groups, kinds = _draw_members(rng)
    relief = smooth_noise(shape, rng.uniform(1.8, 2.3), rng)
    bias = np.array(ZONE_BIAS) + rng.normal(0, 1, len(ZONES))
    score = np.stack([smooth_noise(shape, 1.7, rng) for _ in ZONES]) + bias[:, None, None]
    zone_of = score.argmax(axis=0)
    share = np.zeros((len(kinds), *shape), np.float32)
    brightness = smooth_noise(shape, rng.uniform(0.7, 1.2), rng) * rng.uniform(*TEXTURE_SIGMA)
    for number, draw_zone in enumerate((_farmland, _woodland, _bare, _town)):
        inside = zone_of == number
        if not inside.any():
            continue
        zone = draw_zone(shape, groups, rng)
        row, col = np.nonzero(inside)
        second = np.clip(zone.second_share[inside], 0, 1)
        np.add.at(share, (zone.main[inside], row, col), 1 - second)
        np.add.at(share, (zone.second[inside], row, col), second)
        brightness[inside] += rng.normal(0, PARCEL_SIGMA, int(zone.parcel.max()) + 1)[zone.parcel[inside]]
    for member, cover in _overlays(shape, groups, relief, rng):
        share *= (1 - cover).astype(np.float32)
        share[member] += cover
    return Layout(kinds, blur(share, rng.uniform(*BLUR)), np.exp(brightness).astype(np.float32), relief)


Groups = dict[str, NDArray[np.int64]]


def _draw_members(rng: np.random.Generator) -> tuple[Groups, tuple[str, ...]]:
    """Positions of the members of each group, and the kind of each member."""
    groups: Groups = {}
    kinds: list[str] = []
    for name, (low, high, kind) in GROUPS.items():
        count = int(rng.integers(low, high + 1))
        groups[name] = np.arange(len(kinds), len(kinds) + count)
        kinds += [kind] * count
    return groups, tuple(kinds)


def _draw_uneven(members: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count,) draws of members with random probabilities."""
    return rng.choice(members, count, p=rng.dirichlet(np.ones(len(members))))


def _patchwork(
    parcel: NDArray[np.int64],
    main: NDArray[np.int64],
    second: NDArray[np.int64],
    sparse: float,
    rng: np.random.Generator,
) -> _Zone:
    """Parcels of `main` members over ground of `second` ones, whose mean share is about `sparse`."""
    count = int(parcel.max()) + 1
    shown = rng.beta(2 * sparse, 2 * (1 - sparse), count)[parcel]
    shown = shown + rng.uniform(0.05, 0.2) * smooth_noise((parcel.shape[0], parcel.shape[1]), 1.0, rng)
    return _Zone(_draw_uneven(main, count, rng)[parcel], _draw_uneven(second, count, rng)[parcel], shown, parcel)


def _farmland(shape: Shape, groups: Groups, rng: np.random.Generator) -> _Zone:
    parcel = parcels(shape, float(np.exp(rng.uniform(np.log(8), np.log(45)))), rng)
    main = np.concatenate([groups["crops"], groups["stubble"], groups["soils"]])
    return _patchwork(parcel, main, groups["soils"], 0.25, rng)


def _woodland(shape: Shape, groups: Groups, rng: np.random.Generator) -> _Zone:
    count = max(2, round(shape[0] * shape[1] / rng.uniform(100, 1200)))
    main, second = groups["woods"], np.concatenate([groups["woods"], groups["crops"]])
    return _patchwork(cells(shape, min(count, 60), rng), main, second, 0.35, rng)


def _bare(shape: Shape, groups: Groups, rng: np.random.Generator) -> _Zone:
    """Soils that change gradually, with outcrops of rock."""
    main, second = rng.choice(groups["soils"], 2, replace=False)
    whole = np.zeros(shape, np.int64)
    steepness = rng.uniform(1, 4)
    shown = 1 / (1 + np.exp(-steepness * smooth_noise(shape, rng.uniform(1.2, 1.7), rng)))
    rock = smooth_noise(shape, 1.5, rng) > rng.uniform(0.8, 2)
    shown = np.where(rock, 0.5 + shown / 2, shown)  # soil between rocks
    return _Zone(np.where(rock, groups["rocks"][0], main), whole + second, shown, whole)


def _town(shape: Shape, groups: Groups, rng: np.random.Generator) -> _Zone:
    parcel = parcels(shape, rng.uniform(3, 8), rng)
    main = np.concatenate([groups["roofs"], groups["roofs"], groups["woods"], groups["crops"][:1]])
    return _patchwork(parcel, main, groups["roofs"][:1], 0.3, rng)


def _overlays(
    shape: Shape, groups: Groups, relief: FloatArray, rng: np.random.Generator
) -> list[tuple[int, FloatArray]]:
    """Members that lie over the zones, in that order, and (row, col) the share of each pixel that they cover."""
    overlays: list[tuple[int, FloatArray]] = []
    if rng.uniform() < 0.4:
        shore = np.quantile(relief, rng.uniform(0.02, 0.25))
        overlays.append((int(groups["waters"][0]), (relief < shore).astype(float)))
    if rng.uniform() < 0.4:
        width = float(np.exp(rng.uniform(np.log(0.8), np.log(7))))
        overlays.append((int(groups["waters"][-1]), line(shape, width, max(shape) / 8, rng)))
    if rng.uniform() < 0.6:
        dots = smooth_noise(shape, rng.uniform(0.2, 0.8), rng)  # trees, houses, boulders
        cover = rng.uniform(0.3, 0.8) * np.clip(2 * (dots - rng.uniform(1.3, 2.5)), 0, 1)
        overlays.insert(0, (int(rng.choice([groups["woods"][0], groups["roofs"][-1]], p=[0.7, 0.3])), cover))
    for _ in range(int(rng.integers(0, 6))):
        surface = int(rng.choice(np.concatenate([groups["roofs"][:1], groups["soils"][:1]])))
        overlays.append((surface, line(shape, rng.uniform(0.3, 1.5), rng.uniform(0, max(shape) / 20), rng)))
    return overlays
