"""Example pixels and windows for the report, selected while an evaluation runs.

No scene is read twice. Typical pixels come from a random sample of each land cover (reservoir sampling). Only the
worst windows and the candidates for the typical window of the current scene are kept.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.evaluation.aggregation import MethodOutput, ScoredWindow
from ms2hs.evaluation.results import Example, ExampleWindow
from ms2hs.spectra.indices import COVERS
from ms2hs.spectra.spectral_grid import SpectralGrid

# Sampled pixels per land cover; the pixel of median error is typical.
SAMPLED_PIXELS = 32
WORST_WINDOWS = 3
# Scenes with a typical window, and candidates per scene.
TYPICAL_SCENES, TYPICAL_CANDIDATES = 4, 64
# Wavelengths of the bands shown of a window, and the largest distance of a band from them.
EXAMPLE_BANDS_NM = (660.0, 1250.0, 2200.0)
MAX_EXAMPLE_DISTANCE_NM = 100.0
# Smaller windows are shown only if all windows are smaller.
MIN_SHOWN_PIXELS = 16


@dataclass(frozen=True, eq=False)
class _Candidate:
    rmse: float
    example: Example


@dataclass(eq=False)
class ExampleSelector:
    """Selects pixels and windows by the errors of one method."""

    method: str
    """Name of the method that selects by its errors and is shown in windows."""
    grid: SpectralGrid
    rng: np.random.Generator
    _sampled: dict[str, list[_Candidate]] = field(default_factory=dict)
    _sampled_windows: dict[str, int] = field(default_factory=dict)
    _worst: _Candidate | None = None
    _rmse: list[Float32Array] = field(default_factory=list)
    _scene_windows: list[ExampleWindow] = field(default_factory=list)
    _typical_windows: list[list[ExampleWindow]] = field(default_factory=list)
    """Of each scene those nearest to the median error, the nearest first: some may be among the worst of all."""
    _worst_windows: list[ExampleWindow] = field(default_factory=list)

    def add(self, window: ScoredWindow, outputs: Mapping[str, MethodOutput]) -> None:
        """Consider the pixels of a window, and the window itself."""
        error = _pixel_rmse(outputs[self.method].estimate, window)
        self._rmse.append(error[window.valid])
        for cover in np.unique(window.cover[window.valid]):
            self._sample(str(cover), window, outputs, error)
        row, col = np.unravel_index(np.nanargmax(error), error.shape)
        if self._worst is None or error[row, col] > self._worst.rmse:
            self._worst = _candidate(window, outputs, error, row, col)
        shown = self._example_window(window, outputs[self.method].estimate, error)
        self._worst_windows = heapq.nlargest(WORST_WINDOWS, [*self._worst_windows, shown], key=_by_size_and_rmse)
        if len(self._typical_windows) < TYPICAL_SCENES and len(self._scene_windows) < TYPICAL_CANDIDATES:
            self._scene_windows.append(shown)

    def close_scene(self) -> None:
        """Select the windows of median error of the scene whose windows were added."""
        ranked = sorted(self._scene_windows, key=_by_size_and_rmse)
        ranked = [window for window in ranked if _is_large(window)] or ranked
        if ranked:
            places = sorted(range(len(ranked)), key=lambda place: abs(place - len(ranked) // 2))
            self._typical_windows.append([ranked[place] for place in places[: WORST_WINDOWS + 1]])
        self._scene_windows = []

    def examples(self) -> tuple[Example, ...]:
        """A typical pixel of each land cover, the pixel of median error, and the worst pixel; each pixel once."""
        if self._worst is None:
            return ()
        reasons: dict[str, list[str]] = {}
        pixels_of: dict[str, _Candidate] = {}

        def select(pixel: _Candidate, reason: str) -> None:
            pixels_of[pixel.example.title] = pixel
            reasons.setdefault(pixel.example.title, []).append(reason)

        for cover in [*COVERS, "unknown"]:
            if pixels := self._sampled.get(cover):
                select(_nearest(pixels, float(np.median([pixel.rmse for pixel in pixels]))), f"typical of {cover}")
        sampled = [pixel for pixels in self._sampled.values() for pixel in pixels]
        select(_nearest(sampled, float(np.median(np.concatenate(self._rmse)))), f"median error of {self.method}")
        select(self._worst, f"worst of {self.method}")
        return tuple(_titled(pixels_of[title], ", ".join(texts)) for title, texts in reasons.items())

    def windows(self) -> tuple[ExampleWindow, ...]:
        """The worst windows, then a typical one of each scene; none twice. Small windows only if no window is large."""
        others = [
            [window for window in ranked if window not in self._worst_windows] for ranked in self._typical_windows
        ]
        result = [
            *(replace(window, is_worst=True) for window in self._worst_windows),
            *(ranked[0] for ranked in others if ranked),
        ]
        return tuple([window for window in result if _is_large(window)] or result)

    def _sample(
        self, cover: str, window: ScoredWindow, outputs: Mapping[str, MethodOutput], error: Float32Array
    ) -> None:
        """Offer one random pixel of the cover to its sample (reservoir sampling, Vitter 1985, algorithm R)."""
        pixels = self._sampled.setdefault(cover, [])
        self._sampled_windows[cover] = self._sampled_windows.get(cover, 0) + 1
        slot = len(pixels) if len(pixels) < SAMPLED_PIXELS else int(self.rng.integers(self._sampled_windows[cover]))
        row, col = self.rng.choice(np.argwhere(window.valid & (window.cover == cover)))
        if slot < SAMPLED_PIXELS:
            pixels[slot : slot + 1] = [_candidate(window, outputs, error, row, col)]

    def _example_window(self, window: ScoredWindow, estimate: Float32Array, error: Float32Array) -> ExampleWindow:
        bands = _shown_bands(self.grid, np.asarray(np.isfinite(window.truth).any(axis=(1, 2))))
        return ExampleWindow(
            title=window.title,
            method=self.method,
            wavelength_nm=tuple(float(self.grid.wavelength_nm[band]) for band in bands),
            truth=np.where(window.valid, window.truth[bands], np.float32(np.nan)),
            predicted=np.where(window.valid, estimate[bands], np.float32(np.nan)),
            error=error,
            rmse=float(np.sqrt(np.nanmean(np.square(error)))),
            is_worst=False,
        )


def _pixel_rmse(estimate: Float32Array, window: ScoredWindow) -> Float32Array:
    """(row, col) RMSE over the known bands; NaN where not valid."""
    known = np.isfinite(window.truth)
    error = np.where(window.valid & known, estimate - window.truth, np.float32(0))
    mean = np.einsum("ijk,ijk->jk", error, error) / np.maximum(known.sum(axis=0), 1)
    return np.where(window.valid, np.sqrt(mean), np.nan).astype(np.float32)


def _candidate(
    window: ScoredWindow, outputs: Mapping[str, MethodOutput], error: Float32Array, row: np.intp, col: np.intp
) -> _Candidate:
    example = Example(
        title=f"{window.title}, row {row}, column {col}",
        measured=window.measured[:, row, col].copy(),
        truth=window.truth[:, row, col].copy(),
        predicted={name: output.estimate[:, row, col].copy() for name, output in outputs.items()},
        sigma={name: out.sigma[:, row, col].copy() for name, out in outputs.items() if out.sigma is not None},
    )
    return _Candidate(float(error[row, col]), example)


def _shown_bands(grid: SpectralGrid, known: BoolArray) -> list[int]:
    """The known bands nearest to `EXAMPLE_BANDS_NM`; at least one band."""
    distance = np.abs(np.where(known, grid.wavelength_nm, np.inf) - np.array(EXAMPLE_BANDS_NM)[:, None])
    near = [int(row.argmin()) for row in distance if row.min() <= MAX_EXAMPLE_DISTANCE_NM]
    return list(dict.fromkeys(near)) or [int(distance[0].argmin())]


def _is_large(window: ExampleWindow) -> bool:
    return bool(min(window.error.shape) >= MIN_SHOWN_PIXELS)


def _by_size_and_rmse(window: ExampleWindow) -> tuple[bool, float]:
    return _is_large(window), window.rmse


def _nearest(pixels: list[_Candidate], rmse: float) -> _Candidate:
    return min(pixels, key=lambda pixel: abs(pixel.rmse - rmse))


def _titled(pixel: _Candidate, reason: str) -> Example:
    return replace(pixel.example, title=f"{pixel.example.title}: {reason} (RMSE {pixel.rmse:.4f})")
