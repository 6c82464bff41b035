"""finetune: weights, and what products are off by, learnt from pairs."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms2hs.datasets.cubes.registry import check_scenes, hold_out
from ms2hs.datasets.pairs.pair_sampling import sample_pixels
from ms2hs.datasets.pairs.pair_set import PairSet, measured_pairs, simulated_pairs
from ms2hs.datasets.pairs.pair_types import Pair, SimulatedPair
from ms2hs.datasets.simulation.synthetic_scenes import simulated_cubes
from ms2hs.errors import DataError, UnknownName
from ms2hs.models.harmonization import Adjustment
from ms2hs.models.weights import LINEAR, Weights, load_weights, save_weights
from ms2hs.progress import FitProgress
from ms2hs.training.conformal import fit_sigma_scale
from ms2hs.training.engine.checkpointing import CHECKPOINT
from ms2hs.training.engine.distributed import is_first_process
from ms2hs.training.engine.loop import FitResult, FitSettings, fit
from ms2hs.training.paired_task import PairedTask
from ms2hs.training.product_bias import adjustments_of, refitted

if TYPE_CHECKING:
    from ms2hs.spectra.spectral_grid import SpectralGrid

TRAINED = ("all", "decoder", "head", "none")
# Parts of a network that learn with each; the names of its modules begin so.
PARTS = {
    "decoder": ("to_decoder", "query", "decoder", "head"),
    "head": ("head",),
}
# Share of the scenes that are held out for the uncertainty, where no split says which; of fewer scenes none are.
HELD_OUT = 0.2
FEWEST_SCENES = 3
# Simulated scenes that stay in.
REHEARSED = 200
SMALLEST_SIMULATED = 32
NAMED = 60


@dataclass(frozen=True)
class Finetuning:
    """What to begin with, and what to learn from."""

    init: str = LINEAR
    """Weights: a name or a path."""
    pairs: Path | None = None
    """A folder of pairs; or"""
    corpus: Path | None = None
    """a folder of cubes, through which `source` looks."""
    source: str = "sentinel2a"
    target: str | None = None
    """Bands that are learnt of a corpus; None: each cube's own."""
    leave_out: tuple[str, ...] = ()
    """Scenes that are neither learnt from nor calibrated on."""
    hold_out: tuple[str, ...] = ()
    """Scenes that only the uncertainty is calibrated on; none: the split `val`, or a fifth of the scenes."""
    train: str = "all"
    """Parts of a network that learn, one of `TRAINED`."""
    rehearse: float = 0.2
    """Share of the steps that show simulated scenes."""
    window: int | None = None
    """Pixels on a side of the windows trained on; None: the configuration's."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=300, batch=8, lr=1e-4))

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if (self.pairs is None) == (self.corpus is None):
            raise ValueError("either pairs or a corpus")
        if self.train not in TRAINED:
            raise UnknownName.of("part to train", self.train, list(TRAINED), "Give one of these to --train.")
        if not 0 <= self.rehearse < 1:
            raise ValueError("rehearse is a share, 0 or more and below 1")


@dataclass(frozen=True)
class FinetuningResult:
    """What came of it."""

    output: Path
    sha256: str
    adjustments: dict[str, Adjustment]
    """Of the sensors that the pairs are of."""
    calibrated_on: tuple[str, ...]
    fitted: FitResult | None
    """None where no network was trained."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Material:
    learnt: list[Pair]
    held: list[Pair]


def finetune(
    asked: Finetuning,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: FitProgress | None = None,
    note: Callable[[str], None] | None = None,
) -> FinetuningResult:
    """Learn from pairs, and write weights that convert products of these sensors.

    Of products, not of simulated sources, a gain and an offset a band are learnt first; they stand beside the model, by
    sensor. The linear model is then refitted in closed form; a network is trained. The uncertainty is calibrated on
    scenes held out.

    Parameters
    ----------
    resume, overwrite, progress, note : as `pretraining.pretrain` has them.

    Raises
    ------
    Ms2hsError : pairs, weights or settings that cannot serve; interrupted.
    """
    notes: list[str] = []

    def tell(text: str) -> None:
        notes.append(text)
        if note and is_first_process():
            note(text)

    weights = load_weights(asked.init)
    material = _material(asked, tell)
    samples = sample_pixels(material.learnt, asked.fit.seed)
    if not samples:
        raise DataError(
            f"{asked.pairs or asked.corpus}: no pixel of {len(material.learnt)} pairs is known to both sensors; "
            "learning needs some. Look at the data (nodata, cloud), or give others."
        )
    fresh = adjustments_of(samples, tell)
    weights = replace(weights, adjustments={**weights.adjustments, **fresh})
    fitted = None
    if weights.network is None:
        weights = refitted(weights, samples)
    elif asked.train != "none":
        folder = output.with_suffix(".run")
        if overwrite and not resume:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        fitted = _trained(weights, asked, material, folder, resume=resume, progress=progress)
        weights.network.cpu().eval()
    digest, scenes = "", tuple(sorted({pair.scene for pair in material.held}))
    if fitted is None or fitted.first:
        weights = _calibrated(weights, material.held, asked.fit.seed, tell)
        card = _card(asked, weights, material, fitted, output)
        digest = save_weights(
            output,
            weights.prior,
            card,
            weights.network,
            sigma_scale=weights.sigma_scale,
            adjustments=weights.adjustments,
        )
    return FinetuningResult(output, digest, fresh, scenes, fitted, tuple(notes))


def _material(asked: Finetuning, tell: Callable[[str], None]) -> _Material:
    pairs, held = _given(asked, tell)
    hint = "Give scenes that are there to --leave-out and --hold-out."
    check_scenes([*pairs, *held], (*asked.leave_out, *asked.hold_out), hint)
    chosen = set(asked.hold_out)
    held = [pair for pair in [*pairs, *held] if pair.scene in chosen] if chosen else held
    outside = {*asked.leave_out, *(pair.scene for pair in held)}
    held = [pair for pair in held if pair.scene not in asked.leave_out]
    learnt = [pair for pair in pairs if pair.scene not in outside]
    if not held and len({pair.scene for pair in learnt}) >= FEWEST_SCENES:
        learnt, held = hold_out(learnt, HELD_OUT, asked.fit.seed)
    if not learnt:
        raise DataError(
            f"{asked.pairs or asked.corpus}: every scene is left out or held out; at least one is needed to learn "
            "from. Leave fewer out."
        )
    return _Material(learnt, held)


def _given(asked: Finetuning, tell: Callable[[str], None]) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """What there is to learn from, and what a split `val` holds out."""
    if asked.corpus:
        return simulated_pairs(asked.corpus, asked.source, asked.target).pairs, ()
    assert asked.pairs is not None  # noqa: S101  one of them was given
    lists = {split for split in ("train", "val") if _lists_any(asked.pairs / "splits" / f"{split}.csv")}
    if "train" not in lists:
        return _told(measured_pairs(asked.pairs), tell), ()
    held = _told(measured_pairs(asked.pairs, "val"), tell) if "val" in lists else ()
    return _told(measured_pairs(asked.pairs, "train"), tell), held


def _lists_any(listing: Path) -> bool:
    return listing.is_file() and bool(listing.read_text(encoding="utf-8-sig").strip())


def _told(found: PairSet, tell: Callable[[str], None]) -> Sequence[Pair]:
    if found.left_out:
        tell(f"{len(found.left_out)} of {found.title} left out, the first: {next(iter(found.left_out.values()))}")
    return found.pairs


def _trained(
    weights: Weights,
    asked: Finetuning,
    material: _Material,
    folder: Path,
    *,
    resume: bool,
    progress: FitProgress | None,
) -> FitResult:
    network = weights.network
    assert network is not None  # noqa: S101  asked for only then
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(PARTS.get(asked.train, ("",))))
    lesson = PairedTask(
        *(network.config, material.learnt, asked.fit.batch, asked.fit.seed, asked.window),
        rehearsal=_rehearsal(weights, asked, material) if asked.rehearse else (),
        rehearsal_share=asked.rehearse,
        adjustments=weights.adjustments,
    )
    identity = {
        "init": weights.sha256,
        "train": asked.train,
        "window": asked.window,
        "rehearse": asked.rehearse,
        "scenes": sorted({pair.scene for pair in material.learnt})[:NAMED],
        "adjustments": {sensor: dict(bands) for sensor, bands in weights.adjustments.items()},
    }
    return fit(network, lesson, asked.fit, folder, identity=identity, resume=resume, progress=progress)


def _rehearsal(weights: Weights, asked: Finetuning, material: _Material) -> list[Pair]:
    """Simulated scenes through the sources, and to the targets, of the pairs, each kind as often as another."""
    kinds: dict[tuple[str, bytes], tuple[str, SpectralGrid]] = {}
    for pair in material.learnt:
        if pair.sensor != "custom":
            kinds.setdefault((pair.sensor, pair.target.wavelength_nm.tobytes()), (pair.sensor, pair.target))
    if not kinds:
        return []
    side = max(asked.window or (weights.network.config.window if weights.network else 0), SMALLEST_SIMULATED)
    cubes = simulated_cubes(REHEARSED, asked.fit.seed, prior=weights.prior, shape=(side, side))
    chosen = list(kinds.values())
    return [SimulatedPair(cube, *chosen[number % len(chosen)]) for number, cube in enumerate(cubes)]


def _calibrated(weights: Weights, held: Sequence[Pair], seed: int, tell: Callable[[str], None]) -> Weights:
    scale = fit_sigma_scale(weights, held, seed) if held else None
    if scale is None:
        kept = "keeps its calibration" if weights.calibrated_prior else "is not calibrated"
        tell(
            f"no scene was held out: the uncertainty {kept}; three or more scenes, or a split `val`, are needed for it"
        )
        return weights
    if weights.network is None:
        return replace(weights, prior=replace(weights.prior, sigma_scale=scale))
    return replace(weights, sigma_scale=scale)


def _card(
    asked: Finetuning, weights: Weights, material: _Material, fitted: FitResult | None, output: Path
) -> dict[str, Any]:
    """What the weights say of themselves."""
    late = [entry["all_mse"] for entry in fitted.history if entry["step"] > 0.9 * fitted.steps] if fitted else []  # type: ignore[operator]
    known = [value for value in late if value is not None]
    learnt = sorted({pair.scene for pair in material.learnt})
    named = learnt if len(learnt) <= NAMED else [*learnt[:NAMED], f"and {len(learnt) - NAMED} more"]
    return {
        "command": _command(asked, output),
        "settings": {
            "init": weights.name,
            "init_sha256": weights.sha256,
            "train": asked.train,
            "fit": asked.fit.identity(),
        },
        "trained_on": [*weights.card.get("trained_on", []), *named],
        "calibrated_on": sorted({pair.scene for pair in material.held}),
        "scores": {"train": {"mse": sum(known) / len(known)}} if known else {},
    }


def _command(asked: Finetuning, output: Path) -> str:
    """The command that learns the same, with the names of folders and files but not their places."""
    folder = asked.pairs or asked.corpus
    assert folder is not None  # noqa: S101  one of them was given
    options: list[tuple[str, Any]] = [
        ("--init", Path(asked.init).name),
        ("--pairs" if asked.pairs else "--corpus", folder.resolve().name),
        *((("--source", asked.source), ("--target", asked.target)) if asked.corpus else ()),
        *(("--leave-out", scene) for scene in asked.leave_out),
        *(("--hold-out", scene) for scene in asked.hold_out),
        ("--train", asked.train),
        ("--rehearse", asked.rehearse),
        ("--window", asked.window),
        *(("--" + name, getattr(asked.fit, name)) for name in ("steps", "batch", "lr", "seed", "precision")),
        ("--output", output.name),
    ]
    words = [str(word) for option, value in options if value is not None for word in (option, value)]
    return shlex.join(["ms2hs", "finetune", *words])
