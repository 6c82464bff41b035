"""Accuracy of the prior on water and snow of sources that are left out, with all spectra of the same origin.

    python benchmarks/water_snow.py --data DIR [--corpus DIR] [--variant NAME ...] [--json]

Scored are spectra of libraries whose class is water or snow, and pixels of places with open water or snow, by the
indices of the source's bands. The source (Sentinel-2A) is simulated through its response functions; of EnMAP's 202
bands, those that the spectrum's own sensor measured are scored. A library is left out with all libraries that hold
copies or mixtures of its spectra, a place with all its files. Takes five minutes on a core.
"""

import argparse
import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.datasets.cubes.spectra_npz import read_spectra_folder, spectra_on
from ms2hs.spectra.indices import water_and_snow
from ms2hs.spectra.metrics import rmse, sam
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.prior_fit import PriorSettings, fit, gather

SOURCE, TARGET = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
KINDS = ("water", "snow")
# Beginnings of the names of libraries with spectra of one origin: emit_surface_liquids copies melting snow and turbid
# water of the USGS, the libraries of ISOFIT and photobiology have spectra of Johns Hopkins University (ECOSTRESS).
ORIGINS = {
    "USGS": ("usgs", "emit_surface_liquids", "soilspec_minerals"),
    "Johns Hopkins": ("ecostress", "isofit", "photobiology"),
    "CRREL Vermont": ("crrel",),
    "Greenland": ("greenland",),
}
PLACES = ("bay_area", "berlin", "franschhoek", "jasper_ridge", "seward")
# Settings, and whether land covers have maps of their own.
VARIANTS: dict[str, tuple[dict[str, float], bool]] = {
    "equal": ({"libraries": 1.0, "cover_share": 1.0, "trust": 0.0, "water": 0.0, "snow": 0.0}, False),
    "without simulations": ({"water": 0.0, "snow": 0.0}, True),
    "default": ({}, True),
}
# Libraries that hold no spectra of their own, as far as they are scored.
COPIES = ("usgs_splib06", "usgs_splib07_aviris95", "emit_surface_liquids", "photobiology")
MAX_SPECTRA = 2000

Spectra = tuple[NDArray[np.float32], NDArray[np.float32]]


def targets(folder: Path) -> dict[tuple[str, str, str], Spectra]:
    """By origin or place, file and kind: (source band, spectrum) and (target band, spectrum), NaN = unknown."""
    found = {}
    for file in read_spectra_folder(folder):
        origin = next((name for name, names in ORIGINS.items() if file.name.startswith(names)), None)
        name = origin if file.is_library else file.place
        if file.name.startswith(COPIES) or name is None or (not file.is_library and file.place not in PLACES):
            continue
        measured, (truth, _) = spectra_on(file, SOURCE, interpolate=True)[0], spectra_on(file, TARGET)
        usable = np.isfinite(measured).all(axis=1) & np.isfinite(truth).any(axis=1)
        classes = np.array(file.classes)
        members = [classes == kind for kind in KINDS] if file.is_library else water_and_snow(measured.T, SOURCE)
        for kind, chosen in zip(KINDS, members, strict=True):
            rows = np.flatnonzero(usable & chosen)
            rows = np.random.default_rng(0).permutation(rows)[:MAX_SPECTRA]
            if len(rows):
                found[name, file.name, kind] = np.ascontiguousarray(measured[rows].T), truth[rows].T
    return found


def main() -> None:
    """Score every source with every variant, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hyperspectral/, points/ and spectra/")
    parser.add_argument("--corpus", type=Path, help="folder that the prior is estimated from, if it is another")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: all")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    spectra = targets(arguments.data)
    rows: dict[str, dict[str, tuple[int, float, float]]] = {}
    for variant in arguments.variant or VARIANTS:
        settings, by_cover = VARIANTS[variant]
        table = rows[variant] = {}
        evidence_without = cache(
            partial(gather, arguments.corpus or arguments.data, replace(PriorSettings(), **settings))
        )
        for origin in dict.fromkeys(name for name, *_ in spectra):
            prior = fit(evidence_without(ORIGINS.get(origin, ())), {origin})
            posterior = (prior if by_cover else replace(prior, covers=None)).condition(SOURCE, TARGET)
            for (name, file, kind), (measured, truth) in spectra.items():
                if name == origin:
                    estimate = posterior.reconstruct(measured)
                    table[f"{kind} {file}"] = (measured.shape[1], rmse(estimate, truth), sam(estimate, truth))
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'spectra':42s}{'count':>6s}" + "".join(f"{name:>26s}" for name in rows))
    first = next(iter(rows.values()))
    for name in sorted(first):
        values = [table[name] for table in rows.values()]
        print(f"{name:42s}{values[0][0]:6d}" + "".join(f"{error:17.4f} {angle:7.2f}°" for _, error, angle in values))
    for kind in KINDS:
        names = [name for name in first if name.startswith(kind)]
        means = [np.mean([table[name][1] for name in names]) for table in rows.values()]
        print(f"{'mean of ' + kind:48s}" + "".join(f"{mean:17.4f} {mean / means[0]:8.3f}" for mean in means))


if __name__ == "__main__":
    main()
