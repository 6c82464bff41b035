"""What is shown of an evaluation: some pixels and windows, chosen while they pass by."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.evaluation.aggregation import Made, View
from ms2hs.evaluation.results import Example, Picture
from ms2hs.spectra.indices import COVERS
from ms2hs.spectra.spectral_grid import SpectralGrid

# Pixels of a land cover out of which a typical one is chosen.
CANDIDATES = 32
WORST_WINDOWS = 3
# Scenes of which a typical window is shown, and windows out of which it is chosen.
TYPICAL_SCENES, TYPICAL_OF = 4, 64
SHOWN_NM = (660.0, 1250.0, 2200.0)
# The bands of a picture may lie so far from those.
SHOWN_REACH_NM = 100.0
# Smaller windows are pictured only where all are.
LEAST_SIDE = 16


@dataclass(frozen=True, eq=False)
class _Pixel:
    rmse: float
    example: Example


@dataclass(eq=False)
class ExampleSelector:
    """Pixels and windows, chosen by the errors of one method."""

    leading: str
    """The method by whose errors they are chosen, and whose windows are pictured."""
    grid: SpectralGrid
    rng: np.random.Generator
    _typical: dict[str, list[_Pixel]] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    _worst: _Pixel | None = None
    _rmse: list[Float32Array] = field(default_factory=list)
    _scene: list[Picture] = field(default_factory=list)
    _pictures: list[Picture] = field(default_factory=list)
    _worst_pictures: list[Picture] = field(default_factory=list)

    def add(self, view: View, made: Mapping[str, Made]) -> None:
        """Look at a view; it is not kept."""
        error = _pixel_rmse(made[self.leading].estimate, view)
        self._rmse.append(error[view.valid])
        for cover in np.unique(view.cover[view.valid]):
            self._meet(str(cover), view, made, error)
        worst = np.unravel_index(np.nanargmax(error), error.shape)
        if self._worst is None or error[worst] > self._worst.rmse:
            self._worst = _pixel_of(view, made, error, worst)
        picture = self._picture(view, made[self.leading].estimate, error)
        self._worst_pictures = heapq.nlargest(
            WORST_WINDOWS, [*self._worst_pictures, picture], key=lambda one: (_is_large(one), one.rmse)
        )
        if len(self._pictures) < TYPICAL_SCENES and len(self._scene) < TYPICAL_OF:
            self._scene.append(picture)

    def close_scene(self) -> None:
        """Choose a typical window of the scene whose views have passed."""
        ranked = sorted(self._scene, key=lambda one: (_is_large(one), one.rmse))
        large = [one for one in ranked if _is_large(one)] or ranked
        if large:
            self._pictures.append(large[len(large) // 2])
        self._scene = []

    def examples(self) -> tuple[Example, ...]:
        """A typical pixel of each land cover, the one of median error of all, and the worst."""
        if self._worst is None:
            return ()
        chosen = []
        for cover in [*COVERS, "unknown"]:
            if pixels := self._typical.get(cover):
                typical = _nearest(pixels, float(np.median([pixel.rmse for pixel in pixels])))
                chosen.append(_titled(typical, f"typical of {cover}"))
        everything = [pixel for pixels in self._typical.values() for pixel in pixels]
        median = float(np.median(np.concatenate(self._rmse)))
        chosen.append(_titled(_nearest(everything, median), f"median error of {self.leading}"))
        chosen.append(_titled(self._worst, f"worst of {self.leading}"))
        return tuple(chosen)

    def pictures(self) -> tuple[Picture, ...]:
        """The worst windows, then the typical ones; small ones only where there are no others."""
        found = [*(replace(one, is_worst=True) for one in self._worst_pictures), *self._pictures]
        return tuple([one for one in found if _is_large(one)] or found)

    def _meet(self, cover: str, view: View, made: Mapping[str, Made], error: Float32Array) -> None:
        """One random pixel of the cover, kept with the chance that makes all met ones equal (Vitter 1985, R)."""
        pixels = self._typical.setdefault(cover, [])
        self._seen[cover] = self._seen.get(cover, 0) + 1
        slot = len(pixels) if len(pixels) < CANDIDATES else int(self.rng.integers(self._seen[cover]))
        place = self.rng.choice(np.argwhere(view.valid & (view.cover == cover)))
        if slot < CANDIDATES:
            pixels[slot : slot + 1] = [_pixel_of(view, made, error, tuple(place))]

    def _picture(self, view: View, estimate: Float32Array, error: Float32Array) -> Picture:
        known = np.asarray(np.isfinite(view.truth).any(axis=(1, 2)))
        bands = _shown_bands(self.grid, known)
        return Picture(
            title=view.title,
            method=self.leading,
            wavelength_nm=tuple(float(self.grid.wavelength_nm[band]) for band in bands),
            truth=np.where(view.valid, view.truth[bands], np.float32(np.nan)),
            made=np.where(view.valid, estimate[bands], np.float32(np.nan)),
            error=error,
            rmse=float(np.sqrt(np.nanmean(np.square(error)))),
            is_worst=False,
        )


def _pixel_rmse(estimate: Float32Array, view: View) -> Float32Array:
    """(row, col) over known bands; NaN where not valid."""
    apart = np.where(view.valid & np.isfinite(view.truth), estimate - view.truth, np.float32(0))
    count = np.isfinite(view.truth).sum(axis=0)
    mean = np.einsum("ijk,ijk->jk", apart, apart) / np.maximum(count, 1)
    return np.where(view.valid, np.sqrt(mean), np.nan).astype(np.float32)


def _pixel_of(view: View, made: Mapping[str, Made], error: Float32Array, place: tuple[np.intp, ...]) -> _Pixel:
    row, col = int(place[0]), int(place[1])
    example = Example(
        title=f"{view.title}, row {row}, column {col}",
        measured=view.measured[:, row, col].copy(),
        truth=view.truth[:, row, col].copy(),
        made={name: one.estimate[:, row, col].copy() for name, one in made.items()},
        sigma={name: one.sigma[:, row, col].copy() for name, one in made.items() if one.sigma is not None},
    )
    return _Pixel(float(error[row, col]), example)


def _shown_bands(grid: SpectralGrid, known: BoolArray) -> list[int]:
    """The known bands nearest to `SHOWN_NM`; at least one."""
    distance = np.abs(np.where(known, grid.wavelength_nm, np.inf) - np.array(SHOWN_NM)[:, None])
    near = [int(row.argmin()) for row in distance if row.min() <= SHOWN_REACH_NM]
    return list(dict.fromkeys(near)) or [int(distance[0].argmin())]


def _is_large(picture: Picture) -> bool:
    return bool(min(picture.error.shape) >= LEAST_SIDE)


def _nearest(pixels: list[_Pixel], rmse: float) -> _Pixel:
    return min(pixels, key=lambda pixel: abs(pixel.rmse - rmse))


def _titled(pixel: _Pixel, why: str) -> Example:
    return replace(pixel.example, title=f"{pixel.example.title}: {why} (RMSE {pixel.rmse:.4f})")
