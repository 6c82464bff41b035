"""What a hyperspectral pass of the same site is worth, on places that the prior has not seen.

    python benchmarks/site.py --data DIR [--draws 2] [--scene NAME ...] [--json]

Every image scene is converted (simulated Sentinel-2A to EnMAP's bands) without and with a site, by a prior without the
place. Sites: the other half of the scene; a simulated old pass after a mild and a strong change of the land; the other
half while water or snow covers a third of the scene; and a scene of another place. An old pass is the scene mixed with
other parts of itself, shifted by 0.3 pixel, with a gain error of 2 % and an offset error of 0.003, both smooth in
wavelength (100 nm), and noise of 0.003. The source is exact, or has the typical errors of a product, which the model
knows or not; or the model assumes the measured errors of Sentinel-2. Printed is the ratio of the RMSE to that without a
site under the same errors. Takes ten minutes on a core.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from known_truth import perturbed
from numpy.typing import NDArray
from scipy import ndimage

from ms2hs.conversion.site_fit import fit_site
from ms2hs.datasets.cubes.spectra_npz import SpectraFile, read_spectra, spectra_on
from ms2hs.models.prior import Posterior, SpectralPrior
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.metrics import coverage, rmse
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR, InputError, input_error_named
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.prior_fit import PriorSettings, calibrate, fit, gather

SCENES = (
    "jasper_ridge_aviris",
    "bavaria_hyspex",
    "bavaria_hyspex_b",
    "berlin_enmap_simulated",
    "berlin_hymap",
    "salton_sea_aviris",
    "urban_hydice",
    "urban_hydice_b",
    "san_diego_aviris",
    "sjer_neon",
    "osbs_mlbs_neon_plots",
    "franschhoek_airborne_3x3",
    "four_corners_aviris_ng",
    "emit_jpl_pasadena_10x10",
)
SOURCE, TARGET = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
# Input of the conversion, and the errors that the model is given.
INPUTS: dict[str, tuple[bool, InputError | None]] = {
    "exact": (False, None),
    "exact, Sentinel-2's errors assumed": (False, input_error_named("sentinel2")),
    "errors, not known": (True, None),
    "errors, known": (True, TYPICAL_INPUT_ERROR),
    "errors, Sentinel-2's assumed": (True, input_error_named("sentinel2")),
}
# Share of another part of the scene in each pixel, share of the area that is replaced, and change of brightness.
CHANGES = {"old pass, mild change": (0.15, 0.0, 0.0), "old pass, strong change": (0.3, 0.2, 0.05)}
SHIFT_PIXELS, PASS_GAIN, PASS_OFFSET, PASS_NOISE, PASS_LENGTH_NM = 0.3, 0.02, 0.003, 0.003, 100.0
COVERED = 1 / 3
# Pixels that are scored, and pixels of a site.
SCORED, SITE = 1000, 2000


@dataclass(frozen=True, eq=False)
class SiteScene:
    """A scene whose spectra have places: an image, or plots, which have shape (plot, row, col)."""

    name: str
    place: str
    wavelength_nm: NDArray[np.float64]
    spectra: NDArray[np.float32]
    """(plot, row, col, own band)."""
    measured: NDArray[np.float32]
    """(pixel, source band)."""
    truth: NDArray[np.float32]
    """(pixel, target band)."""
    known: NDArray[np.bool_]
    """(target band,) True where the scene's own sensor measured the band."""

    @classmethod
    def of(cls, corpus: SpectraFile) -> "SiteScene":
        """From the spectra of a file."""
        shape = corpus.shape if len(corpus.shape) == 3 else (1, *corpus.shape)
        measured, _ = spectra_on(corpus, SOURCE, interpolate=True)
        truth, known = spectra_on(corpus, TARGET)
        spectra = corpus.reflectance.reshape(*shape, -1)
        return cls(corpus.name, corpus.place, corpus.wavelength_nm, spectra, measured, truth, known)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(pixel,) True where input and truth are known."""
        return np.isfinite(self.measured).all(axis=1) & np.isfinite(self.truth[:, self.known]).all(axis=1)

    def halves(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(pixel,) True in the upper half of an image, or in every other plot; and the rest."""
        half = np.zeros(self.spectra.shape[:3], bool)
        if len(half) == 1:
            half[:, : half.shape[1] // 2] = True
        else:
            half[::2] = True
        return half.ravel(), ~half.ravel()

    def elsewhere(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """The spectra with each pixel replaced by one of another part of the scene."""
        plots, rows, cols, _ = self.spectra.shape
        if plots > 1:
            return np.roll(self.spectra, rng.integers(1, plots), axis=0)
        steps = [int(rng.integers(size // 4, 3 * size // 4 + 1)) for size in (rows, cols)]
        return np.roll(self.spectra, steps, axis=(1, 2))

    def field(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """(plot, row, col) a smooth field of mean 0 and standard deviation 1; one number for each plot."""
        plots, rows, cols, _ = self.spectra.shape
        if plots > 1:
            field = np.broadcast_to(rng.standard_normal((plots, 1, 1)), (plots, rows, cols))
        else:
            field = ndimage.gaussian_filter(rng.standard_normal((1, rows, cols)), (0, *[max(rows, cols) / 6] * 2))
        return (field - field.mean()) / max(field.std(), 1e-9)

    def old_pass(self, change: tuple[float, float, float], rng: np.random.Generator) -> NDArray[np.float32]:
        """(pixel, own band) another date of the scene, seen by another instrument."""
        mixed, replaced, brightness = change
        share = np.clip(mixed * (1 + self.field(rng)), 0, 1)[..., None]
        values = (1 - share) * self.spectra + share * self.elsewhere(rng)
        field = self.field(rng)
        values = np.where((field > np.quantile(field, 1 - replaced))[..., None], self.elsewhere(rng), values)
        values = values * (1 + brightness * self.field(rng))[..., None]
        unknown = np.isnan(values)
        values = ndimage.shift(
            np.where(unknown, 0, values), (0, SHIFT_PIXELS, SHIFT_PIXELS, 0), order=1, mode="nearest"
        )
        values[
            ndimage.shift(unknown.astype(float), (0, SHIFT_PIXELS, SHIFT_PIXELS, 0), order=1, mode="nearest") > 0
        ] = np.nan
        gain, offset = (smooth_curve(self.wavelength_nm, rng) for _ in range(2))
        values = values * (1 + PASS_GAIN * gain) + PASS_OFFSET * offset + PASS_NOISE * rng.standard_normal(values.shape)
        return values.reshape(-1, values.shape[-1]).astype(np.float32)


def smooth_curve(wavelength_nm: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(wavelength,) a random curve of standard deviation 1 that is smooth over `PASS_LENGTH_NM`."""
    step = 10.0
    grid = np.arange(-700.0, 3600.0, step)
    curve = ndimage.gaussian_filter1d(rng.standard_normal(len(grid)), PASS_LENGTH_NM / step)
    return np.asarray(np.interp(wavelength_nm, grid, curve / curve.std()))


@dataclass(frozen=True, eq=False)
class Case:
    """A scene's pixels, and a site for them."""

    site: NDArray[np.float32]
    """(spectrum, band)."""
    wavelength_nm: NDArray[np.float64]
    """(band,) of the site."""
    measured: NDArray[np.float32]
    """(pixel, source band)."""
    truth: NDArray[np.float32]
    """(pixel, target band)."""


def surfaces(data: Path, kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(spectrum, source band) and (spectrum, target band) of the library spectra of water or snow."""
    measured, truth = [], []
    for path in sorted((data / "spectra").glob("*.npz")):
        corpus = read_spectra(path)
        rows = [row for row, name in enumerate(corpus.classes) if name == kind]
        if rows:
            part = SpectraFile(path.stem, corpus.place, corpus.wavelength_nm, corpus.reflectance[rows], (len(rows),))
            measured.append(spectra_on(part, SOURCE, interpolate=True)[0])
            truth.append(spectra_on(part, TARGET)[0])
    both = np.concatenate(measured), np.concatenate(truth)
    usable = np.isfinite(both[0]).all(axis=1) & np.isfinite(both[1]).all(axis=1)
    return both[0][usable], both[1][usable]


def thinned(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """About `count` evenly spaced rows."""
    return values[:: max(1, len(values) // count)]


def cases(scene: SiteScene, other: SiteScene, data: Path, draw: int) -> Iterator[tuple[str, Case]]:
    """Each kind of site with the pixels that it is scored on."""
    rng = np.random.default_rng(draw)
    own = scene.spectra.reshape(-1, len(scene.wavelength_nm))

    def case(site: NDArray[np.float32], wavelength_nm: NDArray[np.float64], pixels: NDArray[np.bool_]) -> Case:
        chosen = thinned(np.flatnonzero(pixels & scene.usable), SCORED)
        site = site[np.isfinite(site).all(axis=1)]
        return Case(thinned(site, SITE), wavelength_nm, scene.measured[chosen], scene.truth[chosen])

    halves = scene.halves()
    for half, rest in (halves, halves[::-1]):
        if (half & scene.usable).sum() < 40:
            continue
        plain = case(own[half], scene.wavelength_nm, rest)
        yield "other half", plain
        for kind in ("water", "snow"):
            measured, truth = surfaces(data, kind)
            covered = rng.random(len(plain.measured)) < COVERED
            drawn = rng.integers(0, len(measured), covered.sum())
            changed = plain.measured.copy(), plain.truth.copy()
            changed[0][covered], changed[1][covered] = measured[drawn], truth[drawn]
            yield f"other half, a third under {kind}", Case(plain.site, plain.wavelength_nm, *changed)
    everywhere = np.ones(len(own), bool)
    for kind, change in CHANGES.items():
        yield kind, case(scene.old_pass(change, rng), scene.wavelength_nm, everywhere)
    elsewhere = other.spectra.reshape(-1, len(other.wavelength_nm))
    yield "another place", case(elsewhere, other.wavelength_nm, everywhere)


def scored(posterior: Posterior, case: Case, measured: NDArray[np.float32], known: NDArray[np.bool_]) -> list[float]:
    """RMSE, and coverage of the 90 % interval."""
    bands, truth = np.ascontiguousarray(measured.T), case.truth.T[known]
    estimate = posterior.reconstruct(bands)[known]
    return [rmse(estimate, truth), coverage(estimate, posterior.sigma(bands)[known], truth)]


def score(prior: SpectralPrior, case: Case, known: NDArray[np.bool_], draw: int) -> dict[str, list[float]]:
    """For each input: RMSE and coverage without the site, and with it; 1 where the site is used."""
    points = interpolate_known(case.site, case.wavelength_nm, prior.wavelength_nm.astype(float))
    found = {}
    for name, (has_errors, error) in INPUTS.items():
        rng = np.random.default_rng([draw, 1])
        measured = perturbed(case.measured.T, rng).T if has_errors else case.measured
        site = fit_site(prior, points, SOURCE, measured, error)
        plain = scored(prior.condition(SOURCE, TARGET, error), case, measured, known)
        found[name] = [*plain, *scored(site.condition(TARGET), case, measured, known), float(site.is_used)]
    return found


def show(results: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Print a row for each kind of site and input: ratio of mean RMSE, worst scene, coverage, and each scene."""
    kinds = list(dict.fromkeys(kind for found in results.values() for kind in found))
    print(f"{'RMSE x 1e4 without -> with':62s} ratio worst used  90 % interval holds (worst)")
    for kind in kinds:
        for name in INPUTS:
            rows = {scene: found[kind][name] for scene, found in results.items() if kind in found}
            without, _, with_site, inside, used = np.array(list(rows.values())).T
            ratios = with_site / without
            print(
                f"{kind}, {name}".ljust(62)
                + f" {with_site.mean() / without.mean():5.3f} {ratios.max():5.3f} {used.mean():4.2f}"
                + f"  {100 * inside.mean():.0f} % ({100 * inside.min():.0f} %)  {1e4 * without.mean():.0f} -> "
                + f"{1e4 * with_site.mean():.0f}  "
                + " ".join(f"{scene[:8]} {ratio:.2f}" for scene, ratio in zip(rows, ratios, strict=True))
            )


def main() -> None:
    """Score every scene, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hyperspectral/ and spectra/")
    parser.add_argument("--draws", type=int, default=2, help="old passes and errors of each scene")
    parser.add_argument("--scene", action="append", choices=SCENES, help="only these scenes")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    start = time.monotonic()
    evidence = gather(arguments.data, PriorSettings())
    scenes = [SiteScene.of(read_spectra(arguments.data / "hyperspectral" / f"{name}.npz")) for name in SCENES]
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for number, scene in enumerate(scenes):
        if arguments.scene and scene.name not in arguments.scene:
            continue
        prior = calibrate(fit(evidence, {scene.place}), evidence, {scene.place})
        elsewhere = [other for other in (*scenes[number:], *scenes) if other.place != scene.place]
        scores: dict[str, dict[str, list[list[float]]]] = {}
        for draw in range(arguments.draws):
            for kind, case in cases(scene, elsewhere[draw % len(elsewhere)], arguments.data, draw):
                for name, found in score(prior, case, scene.known, draw).items():
                    scores.setdefault(kind, {}).setdefault(name, []).append(found)
        results[scene.name] = {
            kind: {name: np.mean(values, axis=0).tolist() for name, values in found.items()}
            for kind, found in scores.items()
        }
    if arguments.json:
        print(json.dumps(results))
    else:
        show(results)
        print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
