"""The land of the example scene: fields with rows, a meandering river, woods and a town, drawn in sub-pixels.

Lengths are pixels of the scene (10 m). Layers are painted over each other: fields on their soils, flood plain, woods,
river, lakes, town, roads. A layer says which surface a sub-pixel shows, how much of the soil is bare, and how bright
it is. The light on the relief comes last. Sizes and shapes are as in central Europe: fields of 1-10 ha between
tracks, a river of 50 m, houses of 10 m along streets.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.simulation.random_fields import Shape, smooth_noise

Integers = NDArray[np.integer]
Line = Sequence[tuple[float, float]]
# Sub-pixels on a side of a pixel.
FINE = 3
# Crops of early June: share of the fields, surface, share of bare soil, contrast of tramlines and rows.
CROPS = (
    (0.24, "wheat", 0.05, 0.10),
    (0.16, "barley", 0.08, 0.10),
    (0.11, "rapeseed", 0.06, 0.08),
    (0.12, "beet", 0.55, 0.06),
    (0.08, "beet", 0.80, 0.05),
    (0.14, "meadow", 0.06, 0.03),
    (0.07, "hay", 0.10, 0.12),
    (0.08, "loam", 0.00, 0.06),
)
# Rows and columns of the blocks of fields between tracks.
BLOCKS = (4, 6)
# (row, col) of the centres of the town and its works, and through which roads pass, with their half widths.
TOWN, WORKS = (66, 222), (96, 262)
MAIN_ROAD = ((234, 118), (190, 150), (140, 186), (100, 208), TOWN, (30, 250), (-4, 262))
SIDE_ROAD = ((96, -4), (104, 40), (92, 90), (84, 140), (72, 190), TOWN, (58, 270), (60, 316))
RAILWAY = ((-4, 120), (22, 150), (50, 182), (78, 214), (98, 250), (116, 290), (122, 316))
ROADS: tuple[tuple[Line, float, str], ...] = (
    (MAIN_ROAD, 0.55, "asphalt"),
    (SIDE_ROAD, 0.4, "asphalt"),
    (RAILWAY, 0.45, "ballast"),
)
# Gravel pits: row and column, half height and half width, turn in radians, brightness of the water.
LAKES = ((199, 62, 9, 17, 0.3, 1.1), (206, 96, 7, 11, -0.2, 0.85))


class Land:
    """What each sub-pixel shows: arrays of (row, col) sub-pixels."""

    def __init__(self, names: Sequence[str], shape: Shape, rng: np.random.Generator) -> None:
        self.names, self.shape, self.rng = names, shape, rng
        sides = [(np.arange(side * FINE, dtype=np.float32) + np.float32(0.5)) / FINE for side in shape]
        self.y, self.x = np.meshgrid(*sides, indexing="ij")
        self.surface = np.zeros(self.y.shape, np.uint8)
        """Position in `names`."""
        self.soil = np.zeros_like(self.surface)
        self.bare = np.zeros_like(self.y)
        """Share of the soil, 0-1."""
        self.light = np.ones_like(self.y)
        """Factor of the reflectance."""
        pixels = [np.arange(side) + 0.5 for side in shape]
        self._finer = [
            np.stack([np.interp(fine, coarse, unit).astype(np.float32) for unit in np.eye(len(coarse))], axis=1)
            for fine, coarse in zip(sides, pixels, strict=True)
        ]
        self.crowns, self.detail = self.noise(0.6), self.noise(0.9)

    def noise(self, slope: float) -> Float32Array:
        """Noise of unit variance; rough noise (slope < 1.4) has detail in sub-pixels."""
        if slope < 1.4:
            return smooth_noise((len(self.y), len(self.y[0])), slope, self.rng).astype(np.float32)
        coarse = smooth_noise(self.shape, slope, self.rng).astype(np.float32)
        return np.asarray(self._finer[0] @ coarse @ self._finer[1].T, np.float32)

    def number(self, name: str) -> np.uint8:
        """The position of a surface in `names`."""
        return np.uint8(self.names.index(name))

    def paint(
        self,
        where: BoolArray,
        surface: str | NDArray[np.uint8],
        bare: float | Float32Array = 0.0,
        light: float | Float32Array = 1.0,
    ) -> None:
        """Cover sub-pixels with one surface, or with the one whose number each has."""
        value = self.number(surface) if isinstance(surface, str) else surface
        for layer, values in ((self.surface, value), (self.bare, bare), (self.light, light)):
            layer[where] = values[where] if isinstance(values, np.ndarray) else values

    def plant(self, where: BoolArray, surface: str | NDArray[np.uint8], strength: float = 1.0) -> None:
        """Trees: crowns lit from the south-east, and their shadow on the ground beside them."""
        sunlit = np.roll(self.crowns, (1, 1), (0, 1)) - np.roll(self.crowns, (-1, -1), (0, 1))
        self.shade(where, 2, 0.75)
        self.paint(where, surface, 0.0, np.exp(strength * (0.15 * self.crowns + 0.12 * sunlit)))

    def shade(self, where: BoolArray, length: int, light: float) -> None:
        """Darken what lies to the north-west of objects."""
        self.light[np.roll(where, (-length, -length), (0, 1)) & ~where] *= light


def draw_land(names: Sequence[str], shape: Shape, rng: np.random.Generator) -> Land:
    """Draw the land; `names` must hold the surfaces of this module."""
    land = Land(names, shape, rng)
    hill = np.exp(-(((land.x - 38) / 85) ** 2) - ((land.y - 6) / 75) ** 2)
    height = 0.35 * land.noise(2.4) + hill * (2.6 + 0.55 * land.noise(1.9))
    roads = [(_distance(land, line), half_width, surface) for line, half_width, surface in ROADS]
    to_road = np.minimum(roads[0][0], roads[1][0])
    town = np.hypot((land.y - TOWN[0]) / 30, (land.x - TOWN[1]) / 38)  # 1 at its edge; it grows along the roads
    town += 0.1 + 0.17 * land.noise(1.7) - 0.35 * np.exp(-to_road / 4)
    river = _River(land)
    _paint_fields(land)
    _paint_flood_plain(land, river)
    _paint_woods(land, (height + 0.12 * land.noise(1.4) > 1.35) & (town > 1.3), river)
    _paint_oxbow(land)
    river.paint(land)
    _paint_lakes(land)
    _paint_town(land, town)
    for distance, half_width, surface in roads:
        land.paint((distance < half_width + 0.5) & (town > 1), "meadow", 0.3, 0.95)
        land.paint(distance < half_width, surface)
    _paint_works(land)
    down, right = np.gradient(height, 1 / FINE)
    land.light *= np.clip(1 - 3.0 * (0.65 * down + 0.75 * right), 0.55, 1.5)
    return land


def _lanes(position: FloatArray, edges: FloatArray) -> tuple[Integers, FloatArray]:
    """The lane between edges in which each position lies, and its distance to the nearer edge."""
    lane = np.clip(np.searchsorted(edges, position), 1, len(edges) - 1)
    return lane, np.minimum(position - edges[lane - 1], edges[lane] - position)


def _number(first: Integers, second: Integers) -> Integers:
    """The number, from 0 and without gaps, of each pair of two numbers."""
    pair = (first - first.min()) * (second.max() - second.min() + 1) + second - second.min()
    used = np.zeros(pair.max() + 1, bool)
    used[pair] = True
    return np.asarray((np.cumsum(used) - 1)[pair])


def _turned(y: FloatArray, x: FloatArray, angle: float | FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates along and across a direction."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def _paint_fields(land: Land) -> None:
    """Blocks between tracks, each with strips in a direction of its own, which are cut into fields."""
    rng, everywhere = land.rng, np.ones(land.y.shape, bool)
    kind = land.noise(2.0)
    names = [land.number(name) for name in ("sand", "peat", "loam")]
    land.soil[:] = np.select([kind > 0.8, kind < -0.7], names[:2], names[2])
    y, x = land.y + 3 * land.noise(2.6), land.x + 3 * land.noise(2.6)
    block, other, border = _blocks(land, y, x)
    blocks = BLOCKS[0] * BLOCKS[1]
    angle = rng.normal(0.45, 0.2, blocks) + rng.choice([0, np.pi / 2], blocks, p=[0.65, 0.35])
    width, length = rng.uniform(5, 14, blocks)[block], rng.uniform(18, 60, blocks)[block]
    along, across = _turned(y, x, angle.astype(np.float32)[block])
    edges = np.cumsum(rng.uniform(0.35, 1.8, 2600))
    strip, to_side = _lanes(across / width + 40 * block + 300, edges)
    shift = rng.uniform(0, 1, strip.max() + 1)[strip]
    cut, to_end = _lanes(along / length + shift + 40 * block + 300, edges)
    to_side, to_end = to_side * width, to_end * length
    field = _number(strip, cut)
    fields = int(field.max()) + 1
    shares, surfaces, soils, contrasts = zip(*CROPS, strict=True)
    crop = rng.choice(len(CROPS), fields, p=np.array(shares) / sum(shares))
    bare = (np.array(soils)[crop] * rng.uniform(0.6, 1.3, fields))[field]
    contrast = (np.array(contrasts)[crop] * rng.uniform(0.4, 1.4, fields))[field]
    period = rng.choice([2.4, 3.0, 3.6], fields)[field]  # working width of a sprayer: 24-36 m
    tramline, sowing = across % period < 0.45, np.sin(2 * np.pi * across / (2.3 * period))
    growth = land.noise(1.5)
    headland = (to_end < 1.4) & (to_end > 0.3)
    bare = bare * np.exp(0.35 * land.noise(1.9)) + 0.07 * np.clip(growth - 0.8, 0, 2) + 0.6 * contrast * tramline
    light = rng.normal(0, 0.08, fields)[field] + 0.05 * growth + 0.03 * land.detail + 0.3 * contrast * sowing
    light += 0.05 * headland - contrast * tramline
    surface = np.array([land.number(name) for name in surfaces])[crop][field]
    land.paint(everywhere, surface, np.clip(bare + 0.06 * headland, 0, 0.97), np.exp(light))
    orchard = (rng.uniform(size=fields) < 0.05)[field]
    land.paint(orchard, "meadow", 0.15)
    land.plant(orchard & (np.abs(across % 1.2 - 0.6) < 0.33), "oak", 0.6)
    land.paint(np.minimum(to_side, to_end) < 0.2, "meadow", 0.25, 0.97)
    chance, shrubs = rng.uniform(size=(2, blocks, blocks))[:, np.minimum(block, other), np.maximum(block, other)]
    land.paint(border < np.where(chance < 0.7, 0.8, 0.35), "meadow", 0.1)
    land.paint((border < 0.27) & (chance < 0.7), "track")
    land.plant((border > 0.4) & (border < 1.4) & (land.noise(1.2) > 2.4 * shrubs), "oak")


def _blocks(land: Land, y: FloatArray, x: FloatArray) -> tuple[Integers, Integers, FloatArray]:
    """The number of the nearest centre and of the second nearest one, and the distance to the border between them."""
    places = np.mgrid[0 : BLOCKS[0], 0 : BLOCKS[1]].reshape(2, -1).T + 0.5
    centres = (places / BLOCKS * land.shape + land.rng.uniform(-18, 18, places.shape)).astype(np.float32)
    first, second = np.full(y.shape, np.inf, np.float32), np.full(y.shape, np.inf, np.float32)
    block, other = np.zeros(y.shape, np.int64), np.zeros(y.shape, np.int64)
    for number, (row, col) in enumerate(centres):
        squared = (y - row) ** 2 + (x - col) ** 2
        closer = squared < first
        other = np.where(closer, block, np.where(squared < second, number, other))
        second = np.where(closer, first, np.minimum(second, squared))
        first, block = np.minimum(first, squared), np.where(closer, number, block)
    apart = np.hypot(*(centres[:, None] - centres).transpose(2, 0, 1))
    return block, other, (second - first) / (2 * apart[block, other])


class _River:
    """A sine-generated curve: its direction is a sine of the way along it (Langbein & Leopold 1966, USGS PP 422-H)."""

    def __init__(self, land: Land) -> None:
        way = np.arange(0, 800, 0.5)
        swing = 1.15 + 0.3 * np.sin(way / 67 + 0.6)
        heading = swing * np.sin(2 * np.pi * way / 121 + 0.9 + 0.5 * np.sin(way / 90)) + 0.16 * np.sin(way / 17) - 0.05
        line_x = np.cumsum(np.cos(heading)) * 0.5 - 14
        line_y = np.cumsum(np.sin(heading)) * 0.5 + 0.66 * land.shape[0]
        rows, cols = (np.arange(side, dtype=np.float32) + np.float32(0.5) for side in land.shape)
        best, nearest = np.full(land.shape, np.inf, np.float32), np.zeros(land.shape, np.int64)
        for number in range(0, len(way), 4):
            squared = (rows[:, None] - np.float32(line_y[number])) ** 2 + (cols - np.float32(line_x[number])) ** 2
            closer = squared < best
            best[closer], nearest[closer] = squared[closer], number
        nearest = nearest.repeat(FINE, 0).repeat(FINE, 1)
        y, x = land.y - line_y[nearest], land.x - line_x[nearest]
        direct, across = np.hypot(y, x), _turned(y, x, heading[nearest])[1]
        self.distance = np.where(direct > 25, direct, np.abs(across)).astype(np.float32)
        curvature = np.gradient(heading, 0.5)[nearest]
        self.bend, self.inside = np.abs(curvature), np.sign(curvature) * across
        self.wobble = land.noise(1.6)
        self.half_width = 1.9 + 0.3 * self.wobble + 9 * self.bend

    def paint(self, land: Land) -> None:
        """Water that is brighter where it is shallow, banks of grass, and gravel bars inside bends."""
        half = self.half_width
        bar = 2.6 * np.clip(self.bend * 22 - 0.7 + 0.35 * self.wobble, 0, 1.2) * (self.inside > 0)
        land.paint(self.distance < half + 0.4, "meadow", 0.4, 0.9)
        shingle = np.clip(0.25 + 0.2 * land.detail, 0, 0.8), np.exp(0.1 * land.detail)
        land.paint((bar > 0) & (self.distance < half + bar), "gravel", *shingle)
        depth = np.clip((half - self.distance) / 1.6, 0, 1)
        land.paint(self.distance < half, "river", 0.0, 1.35 - 0.35 * depth + 0.03 * land.detail)


def _paint_flood_plain(land: Land, river: _River) -> None:
    """Meadows along the river: grazed, mown or wet, with the bows of former bars inside bends."""
    within = river.inside > 0
    plain = river.distance < 9 + 5 * land.noise(2.0) + 8 * within * np.clip(river.bend * 30, 0, 1)
    bows = np.sin(1.3 * river.inside + 1.6 * river.wobble) * within * np.clip(river.bend * 40, 0, 1)
    growth, wet = land.noise(1.3), land.noise(1.7)
    bare = np.clip(0.07 + 0.08 * bows + 0.07 * growth, 0, 0.5)
    land.paint(plain, "meadow", bare, np.exp(0.07 * bows + 0.10 * growth))
    land.paint(plain & (wet > 0.6) & (wet < 1.2), "hay", bare, np.exp(0.08 * growth))
    land.paint(plain & (wet < -1), "wheat", bare, 0.85 * np.exp(0.1 * growth))


def _paint_woods(land: Land, hill: BoolArray, river: _River) -> None:
    """Woods in stands of three kinds with clearings and rides, copses, and trees along the river."""
    copse = (land.noise(1.8) > 1.8) & (river.distance > 14)
    clearing, stand = land.noise(1.3) > 2.1, land.noise(1.5)
    names = [land.number(name) for name in ("conifer", "oak", "broadleaf")]
    kind = np.select([stand > 0.5, stand < -0.8], names[:2], names[2])
    along, across = _turned(land.y, land.x, 0.64)
    ride = (np.abs((along + 3 * stand) % 34 - 17) < 0.3) | (np.abs((across + 2 * stand) % 46 - 23) < 0.3)
    land.paint(hill & (clearing | ride), "meadow", 0.25, 0.9)
    land.plant((hill & ~clearing & ~ride) | copse, kind)
    beside = np.exp(-(((river.distance - river.half_width - 1.6) / 1.5) ** 2))
    land.plant((land.noise(1.1) + 1.7 * beside > 1.55) & (river.distance < 16), "oak", 0.8)


def _paint_oxbow(land: Land) -> None:
    """A bow of still water, overgrown at its ends."""
    y, x = land.y - 192, 0.85 * (land.x - 246)
    turn = np.arctan2(y, x)
    distance = np.abs(np.hypot(y, x) + 0.5 * np.sin(3 * turn) - 15)
    width = np.clip(2.3 - np.abs(turn - 0.35), 0, 1)
    land.paint(distance < 4.5 * width, "meadow", 0.05, 0.85)
    land.plant((distance < 4.2 * width) & (land.crowns > 0.2), "oak", 0.9)
    land.paint(distance < 2.3 * width, "meadow", 0.0, 0.7)
    land.paint(distance < 1.7 * width, "pond")


def _paint_lakes(land: Land) -> None:
    """Gravel pits with shallow edges, shores of gravel, and bushes."""
    wobble = land.noise(1.7)
    for row, col, height, width, turn, light in LAKES:
        along, across = _turned(land.y - row, land.x - col, turn)
        size = (np.abs(along / width) ** 3 + np.abs(across / height) ** 3) ** (1 / 3) + 0.07 * wobble
        land.paint(size < 1.3, "meadow", 0.2, 0.95)
        land.plant((size < 1.3) & (land.detail > 0.6), "oak", 0.9)
        land.paint(size < 1.07 + 0.06 * land.detail, "gravel", 0.3)
        land.paint(size < 1, "pond", 0.0, light * (1.3 - 0.3 * np.clip(8 * (1 - size), 0, 1)))


def _distance(land: Land, line: Line) -> FloatArray:
    """Distance to a smooth line through (row, col), in four straight parts from one to the next (Catmull-Rom)."""
    through = np.array(line, np.float32)
    through = np.concatenate([2 * through[:1] - through[1:2], through, 2 * through[-1:] - through[-2:-1]])
    steps = np.linspace(0, len(line) - 1, 4 * (len(line) - 1) + 1)
    part = np.minimum(steps.astype(int), len(line) - 2)
    t = (steps - part)[:, None].astype(np.float32)
    a, b, c, d = (through[part + k] for k in range(4))
    smooth = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    best = np.full(land.y.shape, np.inf, np.float32)
    for (row, col), (down, right) in zip(smooth[:-1], np.diff(smooth, axis=0), strict=True):
        y, x = land.y - row, land.x - col
        nearest = np.clip((y * down + x * right) / (down**2 + right**2), 0, 1)
        best = np.minimum(best, (y - nearest * down) ** 2 + (x - nearest * right) ** 2)
    return np.sqrt(best)


def _paint_town(land: Land, town: FloatArray) -> None:
    """Houses on both sides of streets and gardens behind them, in two quarters; denser in the middle."""
    rng, inside, dense = land.rng, town < 1, np.clip(1.2 - town, 0, 1)
    y, x = land.y - TOWN[0] + 4 * land.noise(2.4), land.x - TOWN[1] + 4 * land.noise(2.4)
    quarter = np.where(land.noise(2.2) + x / 30 > 0.5, 1.35, 0.42)
    along, across = _turned(y, x, quarter + 0.003 * (x + y))
    crossings, streets = np.cumsum(rng.uniform(9, 18, 40)) - 250, np.cumsum(rng.uniform(5, 8, 80)) - 250
    column, to_crossing = _lanes(along, crossings)
    row, to_street = _lanes(across, streets)
    exists = rng.uniform(size=(len(crossings), len(streets)))[column, row] > 0.4
    to_crossing = np.where(exists, to_crossing, np.inf)
    land.paint(inside, "meadow", np.clip(0.15 + 0.3 * dense + 0.05 * land.detail, 0, 1), np.exp(0.1 * land.detail))
    land.plant(inside & (land.detail > 0.5 + dense), "broadleaf", 0.8)
    upper = across > (streets[row] + streets[row - 1]) / 2
    plot = np.floor(along / 1.6).astype(int)
    house = _number(2 * row + upper, plot)
    houses = int(house.max()) + 1
    depth = rng.uniform(0.7, 1.1, houses)[house] + 0.9 * dense
    front = 0.5 + rng.uniform(0, 0.3, houses)[house] * (1 - dense)
    half_width = rng.uniform(0.45, 0.7, houses)[house] + 0.3 * dense
    built = inside & (rng.uniform(size=houses)[house] < 0.6 + 0.5 * dense) & (to_crossing > 0.5)
    built &= (np.abs(along - (plot + 0.5) * 1.6) < half_width) & (to_street > front) & (to_street < front + depth)
    roofs = np.array([land.number(name) for name in ("tiles", "slate", "hall")])
    light = np.exp(rng.normal(0, 0.14, houses))[house] * np.where(upper, 1.1, 0.92)  # of two sides of a roof
    land.shade(built, 1, 0.65)
    land.paint(built, rng.choice(roofs, houses, p=[0.58, 0.405, 0.015])[house], 0.0, light)
    street = inside & (np.minimum(to_street, to_crossing) < 0.36)
    land.paint(street, "asphalt", 0.0, 1.15 * np.exp(0.06 * land.detail))


def _paint_works(land: Land) -> None:
    """Halls, yards and lawns beside the railway."""
    along, across = _turned(land.y - WORKS[0], land.x - WORKS[1], 0.45)
    column, to_side = _lanes(along, np.cumsum(land.rng.uniform(4, 11, 40)) - 150)
    row, to_end = _lanes(across, np.cumsum(land.rng.uniform(3.5, 7, 50)) - 150)
    hall = _number(column, row)
    size = np.abs(along / 27) ** 3 + np.abs((across - 9) / 10) ** 3
    inside = (np.bincount(hall.ravel(), size.ravel()) / np.bincount(hall.ravel()) < 1)[hall]
    names = np.array([land.number(name) for name in ("hall", "slate", "gravel", "meadow", "asphalt")])
    kind = land.rng.choice(names, hall.max() + 1, p=[0.16, 0.30, 0.08, 0.24, 0.22])[hall]
    light = np.exp(land.rng.normal(0, 0.2, hall.max() + 1))[hall]
    land.paint(inside, "asphalt", 0.0, np.exp(0.1 * land.detail))
    land.paint(inside & (np.minimum(to_side, to_end) > 0.7), kind, 0.0, light)
    land.plant(inside & (land.crowns > 1.6), "oak")
