"""Spectral indices of a cube, with uncertainty, as one COG that is written block by block.

An index is a formula of reflectances, each the weighted mean of some bands (`spectra.index_catalogue`). Its uncertainty
is first-order: with g the exact derivative of the index by each band (`spectra.formulas`), σ the bands' uncertainty and
C the correlation of their errors, the variance is (g σ)ᵀ C (g σ) (Guide to the Expression of Uncertainty in
Measurement, JCGM 100:2008, 5.2.2). C differs between land covers; a pixel's variance is the mean by its shares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.errors import OutputError, UnknownName
from ms2hs.files import check_output, file_ids
from ms2hs.progress import Progress
from ms2hs.raster.cog.encoding import Encoding
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import SUPPORT_TAG, open_cube, pixel_grid_of, sigma_beside, spectral_grid_of
from ms2hs.spectra.index_catalogue import SpectralIndex, band_weights, find_index, range_text, with_constants
from ms2hs.spectra.indices import CoverShares
from ms2hs.spectra.sensors import shipped_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands
from ms2hs.viewing.error_correlation import ErrorCorrelation, correlation_of

ENCODING = Encoding(dtype="float32", nodata=float("nan"), scale=None)
SIGMA_SUFFIX, TIFF_SUFFIXES = "_sigma", (".tif", ".tiff")
# Tags of the cube that its indices have too: the provenance.
TAG_PREFIX = "MS2HS_"
# From the weakest support of a band to the strongest; unknown support comes first.
SUPPORT_ORDER = ("", "inferred", "interpolated", "measured")


@dataclass(frozen=True, eq=False)
class BandIndex:
    """An index on the bands of one cube."""

    index: SpectralIndex
    weights: FloatArray
    """(name, band) weights of the cube's bands in each reflectance of the formula."""
    values: Mapping[str, float]
    """Constants and wavelengths of the formula."""
    support: str
    """The weakest support of its bands; empty if unknown."""
    notes: tuple[str, ...]

    @classmethod
    def of(cls, index: SpectralIndex, grid: SpectralGrid, source: SpectralGrid | None = None) -> "BandIndex":
        """The index on these bands, which were predicted from the bands of `source`; GridError if it needs others."""
        weights = band_weights(index, grid)
        centres = dict(zip(index.bands, weights @ grid.wavelength_nm, strict=True))
        values = dict(index.constants) | {name: float(centres[band]) for name, band in index.wavelengths.items()}
        notes, support = [], ""
        if grid.support:
            used = [grid.support[band] for band in np.flatnonzero(weights.any(axis=0))]
            support = min(used, key=SUPPORT_ORDER.index)
            notes = _support_notes(index, weights, grid)
        if source and (shared := _shared_bands(index, weights, grid, source)):
            support = "inferred"
            notes += shared
        if index.constants:
            defaults = ", ".join(f"{name} = {number:g}" for name, number in index.constants.items())
            notes.append(f"{index.name}: computed with {defaults}; --set changes them")
        return cls(index, weights, values, support, tuple(notes))

    def facts(self, grid: SpectralGrid) -> dict[str, Any]:
        """The index as JSON, with the names of the bands it is computed from."""
        bands = {
            name: [grid.names[band] for band in np.flatnonzero(row)]
            for name, row in zip(self.index.bands, self.weights, strict=True)
        }
        return self.index.facts() | {"bands": bands, "support": self.support or None, "notes": list(self.notes)}

    def compute(
        self, reflectance: FloatArray, sigma: FloatArray | None = None, correlation: ErrorCorrelation | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        """(pixel,) values, and (pixel,) uncertainty or None.

        Parameters
        ----------
        reflectance, sigma : (band, pixel).
        correlation : of the errors of the bands; needed with `sigma`.
        """
        used = np.flatnonzero(self.weights.any(axis=0))
        weights = self.weights[:, used]
        means = weights @ reflectance[used].astype(float)
        names = list(self.index.bands)
        value, slopes = self.index.formula.evaluate(dict(zip(names, means, strict=True)) | dict(self.values), names)
        result = np.where(np.isfinite(value), value, np.nan) + np.zeros(reflectance.shape[1])
        if sigma is None or correlation is None:
            return result, None
        gradient = np.stack([slopes.get(name, 0.0) + np.zeros(reflectance.shape[1]) for name in names])
        scaled = (weights.T @ gradient) * sigma[used]
        shares = correlation.shares(reflectance.astype(np.float32))
        matrices = correlation.matrices[:, used][:, :, used]
        variance = sum(
            share * (scaled * (matrix @ scaled)).sum(axis=0) for share, matrix in zip(shares, matrices, strict=True)
        )
        return result, np.where(np.isfinite(result), np.sqrt(np.maximum(variance, 0)), np.nan)


@dataclass(frozen=True)
class IndexResult:
    """The file of some indices."""

    output: Path
    """COG of float32 with a band for each index, then a band `<name>_sigma` for each if the cube has an uncertainty."""
    indices: tuple[dict[str, Any], ...]
    """Name, formula, bands, support, source and notes of each index."""
    notes: tuple[str, ...]
    """What holds for all of them."""

    def to_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return asdict(self) | {"output": str(self.output)}


def write_indices(
    cube_path: str | Path,
    names: Sequence[str],
    output: str | Path | None = None,
    *,
    constants: Mapping[str, float] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IndexResult:
    """Write spectral indices of a cube, and their uncertainty if the cube has one, as a COG.

    Parameters
    ----------
    names : of the catalogue (`ms2hs index --list`).
    output : .tif; None: `<stem>_indices.tif` in the current folder.
    constants : by name, instead of the catalogue's defaults, such as {"L": 0.5}.

    Raises
    ------
    UnknownName : no such index. GridError : the cube lacks bands for an index. QueryError : no such constant.
    SceneError : not a cube. OutputError : the file exists or cannot be written.
    """
    found = list({index.name: index for index in map(find_index, names)}.values())
    if not found:
        raise UnknownName("no name of an index; one is needed. Run `ms2hs index --list` for the names.")
    cube = open_cube(cube_path)
    grid = spectral_grid_of(cube)
    sensor = shipped_sensor(str(cube.attrs.get("MS2HS_SOURCE")), "source")
    source = sensor.grid if sensor else None
    on_all = [BandIndex.of(index, grid, source) for index in with_constants(found, constants or {})]
    path = Path(output or f"{Path(cube_path).stem}_indices.tif")
    if path.suffix.lower() not in TIFF_SUFFIXES:
        raise OutputError(f"{path}: indices are written as GeoTIFF; the suffix .tif is needed. Use {path.stem}.tif.")
    inputs = file_ids([cube_path, sigma_beside(cube_path)])
    check_output(path, overwrite=overwrite, inputs=inputs)
    used = np.flatnonzero(np.any([one.weights.any(axis=0) for one in on_all], axis=0) | _bands_of_covers(grid))
    chosen = [replace(one, weights=one.weights[:, used]) for one in on_all]
    part = cube.isel(wavelength=used)
    correlation = correlation_of(part) if "sigma" in part else None
    without = "the cube has no uncertainty; `ms2hs convert --uncertainty` writes it"
    notes = (correlation.note if correlation else without,)
    labels = _Labels(chosen, has_sigma=correlation is not None)
    tags = {key: str(text) for key, text in cube.attrs.items() if key.startswith(TAG_PREFIX)}
    tags["MS2HS_INDEX_NOTE"] = "; ".join(notes)
    with CogWriter(path, pixel_grid_of(cube), labels, tags, encoding=ENCODING) as writer:
        _write_blocks(writer, part, chosen, correlation, progress)
    return IndexResult(path, tuple(one.facts(grid) for one in on_all), notes)


def _bands_of_covers(grid: SpectralGrid) -> BoolArray:
    """(band,) True for the bands that the shares of the land covers are computed from."""
    covers = CoverShares.of(grid.wavelength_nm)
    return np.isin(np.arange(len(grid)), [] if covers is None else list(astuple(covers)))


def _write_blocks(
    writer: CogWriter,
    cube: xr.Dataset,
    chosen: Sequence[BandIndex],
    correlation: ErrorCorrelation | None,
    progress: Progress | None,
) -> None:
    """Compute and write one block after another, all bands of `cube` at once."""
    height, width, step = cube.sizes["y"], cube.sizes["x"], writer.block
    for row in range(0, height, step):
        for col in range(0, width, step):
            block = cube.isel(y=slice(row, row + step), x=slice(col, col + step)).load()
            shape = block.reflectance.shape
            reflectance = block.reflectance.values.reshape(shape[0], -1)
            sigma = block.sigma.values.reshape(shape[0], -1) if correlation else None
            values, uncertainties = zip(*(one.compute(reflectance, sigma, correlation) for one in chosen), strict=True)
            bands = [band for band in (*values, *uncertainties) if band is not None]
            writer.write_block(row, col, np.stack(bands).astype(np.float32).reshape(-1, *shape[1:]))
        if progress:
            progress("index", min(row + step, height), height)


class _Labels:
    """Names and tags of the bands of a file of indices."""

    def __init__(self, chosen: Sequence[BandIndex], *, has_sigma: bool) -> None:
        self._chosen, self._has_sigma = chosen, has_sigma

    def __len__(self) -> int:
        """Number of bands."""
        return len(self._chosen) * (1 + self._has_sigma)

    def write_to(self, file: Any) -> None:  # noqa: ANN401 - rasterio has no types
        """Set the descriptions and tags of an open rasterio dataset."""
        for band, one in enumerate(self._chosen, 1):
            tags = {"title": one.index.title, "formula": one.index.formula.text, "source": one.index.source}
            tags |= {SUPPORT_TAG: one.support} if one.support else {}
            file.update_tags(band, **tags, note="; ".join(one.notes))
            file.set_band_description(band, one.index.name)
            if self._has_sigma:
                at = band + len(self._chosen)
                file.update_tags(at, title=f"standard uncertainty of {one.index.name}", note="; ".join(one.notes))
                file.set_band_description(at, f"{one.index.name}{SIGMA_SUFFIX}")


def _support_notes(index: SpectralIndex, weights: FloatArray, grid: SpectralGrid) -> list[str]:
    """Notes on reflectances that rest on inferred bands, and on single wavelengths that are interpolated."""
    parts: dict[str, list[str]] = {"inferred": [], "interpolated": []}
    for (name, band_range), row in zip(index.bands.items(), weights, strict=True):
        supports: list[str] = [grid.support[band] for band in np.flatnonzero(row)]
        for kind, texts in parts.items():
            if (count := supports.count(kind)) and (kind == "inferred" or len(supports) == 1):
                texts.append(f"{name} at {range_text(band_range)} nm ({count} of {len(supports)} bands)")
    return [f"{index.name}: rests on {kind} bands: {', '.join(texts)}" for kind, texts in parts.items() if texts]


def _shared_bands(index: SpectralIndex, weights: FloatArray, grid: SpectralGrid, source: SpectralGrid) -> list[str]:
    """Notes on reflectances that one band of the source measures together: their difference is not measured."""
    measured_by = pasted_bands(source, grid)
    names: dict[frozenset[int], list[str]] = {}
    for name, row in zip(index.bands, weights, strict=True):
        names.setdefault(frozenset(measured_by[row > 0].tolist()), []).append(name)
    return [
        f"{index.name}: {', '.join(sorted(together))} lie in one band of the source "
        f"({source.names[next(iter(bands))]}): their difference is inferred"
        for bands, together in names.items()
        if len(bands) == 1 and -1 not in bands and len(together) > 1
    ]
