"""Draw docs/images/example_map.png: a class map of the example scene, by a head trained on a few pixels of each class.

    python benchmarks/example_map.py [--folder DIR] [--init spatial-spectral] [--train head] [--steps 300]
        [--window 32]

The example's land is drawn, so that the cover of every pixel is known. Blocks of 32 pixels alternate like the squares
of a chessboard. The black ones hold up to 60 labelled pixels of each class; accuracy is measured on the pixels of one
cover in the white ones. Prints the accuracy of the map, and of logistic regression on the bands of the same training
pixels. Needs: pip install 'ms2hs[tasks]'
"""

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ms2hs
from ms2hs.datasets.simulation.example_land import FINE, draw_land
from ms2hs.datasets.simulation.example_scene import SCENE_HEIGHT, SCENE_WIDTH, SURFACES, write_example
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_reader import open_labels
from ms2hs.tasks.labels.splits import split
from ms2hs.tasks.maps.map_files import CLASSES, TABLE_SUFFIX, MapWriter, write_table
from ms2hs.tasks.maps.map_legend import Legend
from ms2hs.tasks.tuning import TuneOptions, tune
from ms2hs.training.engine.loop import FitSettings

PICTURE = Path("docs/images/example_map.png")
COVERS = {
    "water": ("river", "pond"),
    "broadleaf forest": ("broadleaf", "oak"),
    "conifer forest": ("conifer",),
    "grassland": ("meadow", "hay"),
    "crops": ("wheat", "barley", "rapeseed", "beet"),
    "bare soil": ("loam", "sand", "peat", "gravel", "track"),
    "built-up": ("tiles", "slate", "hall", "asphalt", "ballast"),
}
# Above this share of soil a sub-pixel counts as bare soil; above this share of one cover a pixel counts as pure.
BARE, PURE = 0.5, 0.99
LABELS_PER_CLASS, BLOCK = 60, 32
# Labels this near to the other side of the split are not trained on: half a patch.
GUARD = 4


@dataclass(frozen=True, eq=False)
class Truth:
    """The covers of the example scene."""

    cover: NDArray[np.int64]
    """(row, col) index of the main cover."""
    pure: NDArray[np.bool_]
    """(row, col) True where the pixel has one cover only."""

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """(row, col) True in white blocks."""
        rows, cols = np.indices(self.cover.shape) // BLOCK
        return (rows + cols) % 2 == 1

    @classmethod
    def of_example(cls) -> "Truth":
        """The land that `example_dn` draws, by its default seed."""
        shape = SCENE_HEIGHT, SCENE_WIDTH
        land = draw_land(list(SURFACES), shape, np.random.default_rng(20240607))
        index = np.array([[name in members for members in COVERS.values()] for name in SURFACES]).argmax(axis=1)
        cover = np.where(land.bare > BARE, index[land.soil], index[land.surface])
        blocks = cover.reshape(shape[0], FINE, shape[1], FINE)
        shares = np.stack([(blocks == number).mean(axis=(1, 3)) for number in range(len(COVERS))])
        return cls(shares.argmax(axis=0), shares.max(axis=0) > PURE)


def write_labels(path: Path, truth: Truth, grid: PixelGrid, seed: int = 0) -> NDArray[np.uint8]:
    """Write a class raster with names, as `map` writes it: labelled pixels of the black blocks; returns it."""
    rng, numbers = np.random.default_rng(seed), np.zeros(truth.cover.shape, np.uint8)
    for number in range(len(COVERS)):
        rows, cols = np.nonzero(truth.pure & ~truth.held_out & (truth.cover == number))
        chosen = rng.permutation(len(rows))[:LABELS_PER_CLASS]
        numbers[rows[chosen], cols[chosen]] = number + 1
    legend = Legend.of(tuple(COVERS))
    with MapWriter(path, grid, ["labels"], CLASSES, tags={}, legend=legend) as writer:
        writer.write(0, numbers[None], numbers > 0)
        writer.finish()
    write_table(path.with_name(f"{path.name}{TABLE_SUFFIX}"), legend, np.bincount(numbers.ravel(), minlength=8)[1:])
    return numbers


def main() -> None:
    """Train, map, compare and draw."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, help="keep all files here")
    arguments.add_argument("--init", default="spatial-spectral")
    arguments.add_argument("--train", default="head", choices=("head", "all"))
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--window", type=int, default=32, help="side of the training's windows, in pixels")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        path = write_example(folder / "example.tif", overwrite=True)
        truth = Truth.of_example()
        labels = write_labels(folder / "labels.tif", truth, ms2hs.open_scene(str(path)).grid)
        options = TuneOptions(
            LabelOptions(folder / "labels.tif", scene=path),
            init=given.init,
            train=given.train,
            window=given.window,
            fit=FitSettings(steps=given.steps, batch=16, lr=1e-2 if given.train == "head" else 1e-3),
        )
        tuned = tune(options, folder / "landcover.safetensors", overwrite=True, note=partial(print, flush=True))
        result = ms2hs.map_scene(
            path,
            model=tuned.output,
            output=folder / "map.tif",
            options=ms2hs.MapOptions(probability="best", overwrite=True),
        )
        print(result.summary())
        with rasterio.open(result.output) as file:
            mapped = file.read(1).astype(int) - 1
        with rasterio.open(path) as file:
            bands = np.moveaxis(file.read(), 0, -1) * 1e-4
        label_set = open_labels(options.labels)
        train = split(label_set, options.fit.seed, guard=GUARD).train
        at = label_set.row[train], label_set.col[train]
        raw = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(bands[at], labels[at] - 1)
        tested = truth.pure & truth.held_out & (mapped >= 0)
        for name, found in (("map", mapped[tested]), ("logistic regression on bands", raw.predict(bands[tested]))):
            known = truth.cover[tested]
            score = f1_score(known, found, average="macro")
            print(f"{name}: accuracy {(found == known).mean():.3f}, macro F1 {score:.3f} ({tested.sum()} pixels)")
        shutil.copy(folder / "map.png", PICTURE)
        print(PICTURE)


if __name__ == "__main__":
    main()
