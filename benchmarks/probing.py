"""Linear heads on features of real labelled data: the table of docs/tasks.md.

    python benchmarks/probing.py --data DIR [--set NAME ...] [--seeds 5] [--samples 1000] [--json FILE]

Each set is probed with its own bands and as Sentinel-2A, simulated without errors. A set is split by the place, plot,
crown or block of its samples; where each class has one group only, by pixel, which is optimistic. Crowns by species
have one crown a species, except pines: only their genus is split by crown. Left out are species with one pixel
(QUGE2), genera with one crown (ARVI4, CEMOG), a site with two plots (KM), and crowns without a label (jerc).
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from ms2hs.errors import Ms2hsError
from ms2hs.tasks.label_scores import SCORES, main_score
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.probe_report import explanations, findings, probe_json
from ms2hs.tasks.probing import ProbeOptions, ProbeResult, probe

MODELS = ("linear", "spectral", "spatial-spectral")
SOURCE = "sentinel2a"
# Labels within the folder of data.
SETS = {
    "minerals": LabelOptions(Path("points/cuprite_aviris.npz"), split="random"),
    "crowns-species": LabelOptions(Path("points/neon_osbs_crowns.npz"), split="random", drop=("QUGE2",)),
    "crowns-genus": LabelOptions(Path("points/neon_*_crowns.npz"), label_key="label~^(PI|QU)", group_key="individual"),
    "forests-site": LabelOptions(
        Path("points/fft_forests_aviris_c.npz"), label_key="plot~^[A-Z]+", group_key="plot", drop=("KM",)
    ),
    "covers": LabelOptions(Path("points/seward_aviris_ng_points.npz"), group_key="lat"),
    "jasper-ridge": LabelOptions(Path("labelled/jasper_ridge_abundances.npz")),
    "urban": LabelOptions(Path("labelled/urban_abundances.npz")),
    "samson": LabelOptions(Path("labelled/samson_vnir.npz")),
    "muufl": LabelOptions(Path("labelled/muufl_vnir.npz")),
}


def show(name: str, result: ProbeResult) -> None:
    """Print the main score of every row."""
    score = main_score(result.task)
    print(f"\n## {name}: {SCORES[score].heading}")
    for line in (*findings(result), *explanations(result)):
        print(line)
    print(f"{'feature':50s}" + "".join(f"{100 * share:>13g} %" for share in result.shares))
    for row in result.rows:
        cells = (row.of_share(share, score) for share in result.shares)
        print(f"{row.name:50s}" + "".join(f"{mean:8.3f} ± {deviation:.3f}" for mean, deviation in cells))
    sys.stdout.flush()


def main() -> None:
    """Probe every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = ProbeOptions(MODELS, seeds=arguments.seeds, samples=arguments.samples)
    results = {}
    for name in arguments.set or SETS:
        for source in (None, SOURCE):
            labels = replace(SETS[name], path=arguments.data / SETS[name].path, source=source)
            title = f"{name} as {source}" if source else name
            try:
                results[title] = probe(labels, options)
            except Ms2hsError as error:
                print(f"\n## {title}: {error}")
                continue
            show(title, results[title])
            if arguments.json:
                arguments.json.write_text(
                    json.dumps({key: probe_json(one) for key, one in results.items()}, indent=1), encoding="utf-8"
                )


if __name__ == "__main__":
    main()
