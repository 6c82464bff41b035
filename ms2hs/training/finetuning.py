"""`ms2hs finetune`: weights, and corrections of products, fitted to pairs of scenes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms2hs.datasets.cubes.registry import check_scenes, hold_out
from ms2hs.datasets.pairs.pair_sampling import sample_pixels
from ms2hs.datasets.pairs.pair_set import PairSet, open_pairs, simulated_pairs
from ms2hs.datasets.pairs.pair_types import Pair, SimulatedPair
from ms2hs.datasets.simulation.synthetic_scenes import simulated_cubes
from ms2hs.errors import DataError, UnknownName
from ms2hs.files import check_output, file_ids, files_in
from ms2hs.models.harmonization import Adjustment
from ms2hs.models.weights import LINEAR, Weights, load_weights, save_weights
from ms2hs.progress import FitProgress
from ms2hs.training.conformal import fit_sigma_scale
from ms2hs.training.engine.distributed import Note, collect_notes
from ms2hs.training.engine.loop import FitResult, FitSettings, fit
from ms2hs.training.model_card import MAX_NAMED, command_line, named_scenes, training_scores
from ms2hs.training.paired_task import PairedTask
from ms2hs.training.pretraining import MIN_SIMULATED_SIDE
from ms2hs.training.product_bias import adjustments_of, refitted

if TYPE_CHECKING:
    from ms2hs.spectra.spectral_grid import SpectralGrid

# Values of --train, and the prefixes of the parameters that it trains.
TRAINED = {"all": ("",), "decoder": ("to_decoder", "query", "decoder", "head"), "head": ("head",), "none": ()}
# Share of the scenes held out for the uncertainty where no split names them, if there are enough scenes.
HELD_OUT = 0.2
MIN_SCENES_TO_HOLD_OUT = 3
REHEARSAL_SCENES = 200


@dataclass(frozen=True)
class FinetuneOptions:
    """Initial weights, data and settings of a fine-tuning run."""

    init: str = LINEAR
    """Weights: a name or a path."""
    pairs: Path | None = None
    """A folder of pairs; or `corpus`."""
    corpus: Path | None = None
    """A folder of cubes, from which the bands of `source` are simulated."""
    source: str = "sentinel2a"
    target: str | None = None
    """Target bands of a corpus; None: each cube's own."""
    leave_out: tuple[str, ...] = ()
    """Scenes that are neither trained on nor calibrated on."""
    hold_out: tuple[str, ...] = ()
    """Scenes for the calibration of the uncertainty alone; none: the split `val`, or a fifth of the scenes."""
    train: str = "all"
    """Trained parts of a network, one of `TRAINED`."""
    rehearse: float = 0.2
    """Share of the steps with simulated scenes."""
    window: int | None = None
    """Side of the training windows, in pixels; None: the configuration's."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=300, batch=8, lr=1e-4))

    def __post_init__(self) -> None:
        """Check the options against each other."""
        if (self.pairs is None) == (self.corpus is None):
            raise ValueError("either pairs or a corpus is needed")
        if self.train not in TRAINED:
            raise UnknownName.of("part to train", self.train, list(TRAINED), "Give one of these to --train.")
        if not 0 <= self.rehearse < 1:
            raise ValueError("rehearse is a share, 0 or more and below 1")


@dataclass(frozen=True)
class FinetuneResult:
    """Result of `finetune`."""

    output: Path
    sha256: str
    adjustments: dict[str, Adjustment]
    """For the sensors of the pairs."""
    calibrated_on: tuple[str, ...]
    fit: FitResult | None
    """None where no network was trained."""
    notes: tuple[str, ...]


def finetune(
    options: FinetuneOptions,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: FitProgress | None = None,
    note: Note | None = None,
) -> FinetuneResult:
    """Fit weights to pairs and write them; log and checkpoint go to `<output stem>.run/`.

    First a gain and an offset for each band of each product are fitted and stored beside the model; simulated sources
    need none. Then the linear model is refitted in closed form, or the network is trained; of a network that corrects
    errors of the input, the spectral prior is refitted. Last the uncertainty is calibrated on held-out scenes.

    Parameters
    ----------
    resume, overwrite, progress, note : as in `pretraining.pretrain`.

    Raises
    ------
    Ms2hsError : unusable pairs, weights or settings; interrupted.
    """
    inputs = file_ids(files_in([options.pairs, options.corpus, options.init, options.target]))
    check_output(output, overwrite=overwrite, inputs=inputs)
    notes, add_note = collect_notes(note)
    weights = load_weights(options.init)
    if weights.task:
        add_note(f"{weights.name}: the head of its task is left out; it belongs to the network before this training")
    pairs, held_out = _split_pairs(options, add_note)
    samples = sample_pixels(pairs, options.fit.seed)
    if not samples:
        raise DataError(
            f"{options.pairs or options.corpus}: no pixel of {len(pairs)} pairs is known to both sensors; "
            "training needs some. Check the data (nodata, cloud), or give other pairs."
        )
    adjustments = adjustments_of(samples, add_note)
    weights = replace(weights, adjustments={**weights.adjustments, **adjustments})
    result = None
    network = weights.network
    if network is None:
        weights = refitted(weights, samples)
    elif network.config.by_patch and options.train != "none":
        weights = refitted(weights, samples)
        network.prior = weights.prior
        add_note(f"{weights.name}: its spectral prior is refitted; the network corrects errors of the input, and stays")
    elif options.train != "none":
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED[options.train]))
        identity = {
            "init": weights.sha256,
            "train": options.train,
            "window": options.window,
            "rehearse": options.rehearse,
            "scenes": sorted({pair.scene for pair in pairs})[:MAX_NAMED],
            "adjustments": {sensor: dict(bands) for sensor, bands in weights.adjustments.items()},
        }
        result = fit(
            *(network, _task(weights, options, pairs), options.fit, output.with_suffix(".run")),
            identity=identity,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
        network.cpu().eval()
    digest, scenes = "", tuple(sorted({pair.scene for pair in held_out}))
    if result is None or result.first:
        weights = _calibrated(weights, held_out, options.fit.seed, add_note)
        scores = {"calibrated_on": list(scenes), "scores": training_scores(result)}
        digest = save_weights(
            *(output, weights.prior, _card(options, weights, pairs, output) | scores, weights.network),
            sigma_scale=weights.sigma_scale,
            adjustments=weights.adjustments,
            overwrite=overwrite,
            inputs=inputs,
        )
    return FinetuneResult(output, digest, adjustments, scenes, result, tuple(notes))


def _split_pairs(options: FinetuneOptions, note: Note) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and the pairs to calibrate the uncertainty on."""
    pairs, held_out = _read_pairs(options, note)
    hint = "Give names of these scenes to --leave-out and --hold-out."
    check_scenes([*pairs, *held_out], (*options.leave_out, *options.hold_out), hint)
    if options.hold_out:
        held_out = [pair for pair in [*pairs, *held_out] if pair.scene in options.hold_out]
    excluded = {*options.leave_out, *(pair.scene for pair in held_out)}
    held_out = [pair for pair in held_out if pair.scene not in options.leave_out]
    train = [pair for pair in pairs if pair.scene not in excluded]
    if not held_out and len({pair.scene for pair in train}) >= MIN_SCENES_TO_HOLD_OUT:
        train, held_out = hold_out(train, HELD_OUT, options.fit.seed)
    if not train:
        raise DataError(
            f"{options.pairs or options.corpus}: every scene is left out or held out; training needs at least one. "
            "Leave out fewer scenes."
        )
    return train, held_out


def _read_pairs(options: FinetuneOptions, note: Note) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """The pairs, and the pairs that a split `val` holds out."""
    if options.corpus:
        return simulated_pairs(options.corpus, options.source, options.target).pairs, ()
    assert options.pairs is not None  # noqa: S101  checked in __post_init__
    lists = [path for path in (options.pairs / "splits").glob("*.csv") if path.stem in {"train", "val"}]
    splits = {path.stem for path in lists if path.read_text(encoding="utf-8-sig").strip()}
    if "train" not in splits:
        return _usable(open_pairs(options.pairs), note), ()
    held_out = _usable(open_pairs(options.pairs, "val"), note) if "val" in splits else ()
    return _usable(open_pairs(options.pairs, "train"), note), held_out


def _usable(pairs: PairSet, note: Note) -> Sequence[Pair]:
    if pairs.left_out:
        note(f"{len(pairs.left_out)} of {pairs.title} left out, the first: {next(iter(pairs.left_out.values()))}")
    return pairs.pairs


def _task(weights: Weights, options: FinetuneOptions, pairs: Sequence[Pair]) -> PairedTask:
    assert weights.network is not None  # noqa: S101  called only for a network
    config = weights.network.config
    return PairedTask(
        *(config, pairs, options.fit.batch, options.fit.seed, options.window),
        rehearsal=_rehearsal(weights, options, pairs, config.window) if options.rehearse else (),
        rehearsal_share=options.rehearse,
        adjustments=weights.adjustments,
    )


def _rehearsal(weights: Weights, options: FinetuneOptions, pairs: Sequence[Pair], window: int) -> list[Pair]:
    """Simulated scenes for each source and target of the pairs, all equally often."""
    kinds: dict[tuple[str, bytes], tuple[str, SpectralGrid]] = {}
    for pair in pairs:
        if pair.sensor != "custom":
            kinds.setdefault((pair.sensor, pair.target.wavelength_nm.tobytes()), (pair.sensor, pair.target))
    if not kinds:
        return []
    side = max(options.window or window, MIN_SIMULATED_SIDE)
    cubes = simulated_cubes(REHEARSAL_SCENES, options.fit.seed, prior=weights.prior, shape=(side, side))
    chosen = list(kinds.values())
    return [SimulatedPair(cube, *chosen[number % len(chosen)]) for number, cube in enumerate(cubes)]


def _calibrated(weights: Weights, held_out: Sequence[Pair], seed: int, note: Note) -> Weights:
    scale = fit_sigma_scale(weights, held_out, seed) if held_out else None
    if scale is None:
        kept = "keeps its calibration" if weights.calibrated_prior else "is not calibrated"
        note(f"the uncertainty {kept}: no scene was held out, which needs three or more scenes, or a split `val`")
        return weights
    if weights.network is None:
        return replace(weights, prior=replace(weights.prior, sigma_scale=scale))
    return replace(weights, sigma_scale=scale)


def _card(options: FinetuneOptions, weights: Weights, pairs: Sequence[Pair], output: Path) -> dict[str, Any]:
    folder = options.pairs or options.corpus
    assert folder is not None  # noqa: S101  checked in __post_init__
    words = [
        ("--init", Path(options.init).name),
        ("--pairs" if options.pairs else "--corpus", folder.resolve().name),
        *((("--source", options.source), ("--target", options.target)) if options.corpus else ()),
        *(("--leave-out", scene) for scene in options.leave_out),
        *(("--hold-out", scene) for scene in options.hold_out),
        ("--train", options.train),
        ("--rehearse", options.rehearse),
        ("--window", options.window),
    ]
    settings = {"init": weights.name, "init_sha256": weights.sha256, "train": options.train}
    return {
        "command": command_line("finetune", words, options.fit, output),
        "settings": {**settings, "fit": options.fit.identity()},
        "trained_on": [*weights.card.get("trained_on", []), *named_scenes(pair.scene for pair in pairs)],
    }
