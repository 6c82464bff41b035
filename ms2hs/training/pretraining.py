"""pretrain: a masked autoencoder from cubes, or from simulated scenes where none are given."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ms2hs.datasets.cubes.registry import Cube, check_scenes, open_cubes
from ms2hs.datasets.simulation.synthetic_scenes import SimulatedCube, simulated_cubes
from ms2hs.errors import DataError, UnknownName, WeightsError
from ms2hs.models.config import ModelConfig, preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.vit_init import VitReport, is_vit, load_vit
from ms2hs.models.weights import LINEAR, load_weights, save_weights
from ms2hs.progress import FitProgress
from ms2hs.training.engine.checkpointing import CHECKPOINT
from ms2hs.training.engine.distributed import is_first_process
from ms2hs.training.engine.loop import FitResult, FitSettings, fit
from ms2hs.training.masked_task import MaskedTask

# Scenes that are simulated where no data are given, and the least pixels on a side: smaller ones have no shapes.
SIMULATED_SCENES = 2000
SMALLEST_SIMULATED = 32
WHERE_DATA_ARE = (
    "simulated scenes are trained on; real ones teach more: HySpecNet-11k (hyspecnet.rsim.berlin, 11,483 patches of "
    "EnMAP, CC0), SpectralEarth (EnMAP, geoservice.dlr.de), EMIT L2A (EMITL2ARFL, search.earthdata.nasa.gov)"
)
# Scenes named in a card, at most.
NAMED = 60
# Fields of a configuration that say how it learns and not what it is made of.
HOW_IT_LEARNS = {"masking", "staged", "hidden", "unit_targets", "measured"}


@dataclass(frozen=True)
class Pretraining:
    """What to train, and on what."""

    preset: str
    data: tuple[Path, ...] = ()
    """Folders of cubes; none: simulated scenes."""
    split: str | None = None
    """A list of the folders' `splits/`, such as `hard/train`."""
    leave_out: tuple[str, ...] = ()
    """Names of scenes that are not trained on."""
    simulated: int = 0
    """Simulated scenes beside the data."""
    init: Path | None = None
    """Weights to begin with: of ms2hs, or a ViT in timm's naming."""
    prior: str = LINEAR
    """Weights whose spectral prior is built on, and whose spectra scenes are simulated from; a name or a path."""
    window: int | None = None
    """Pixels on a side of the windows trained on; None: the configuration's."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the configuration, changed."""
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True)
class PretrainingResult:
    """What came of it."""

    output: Path
    sha256: str
    fitted: FitResult
    notes: tuple[str, ...]


def pretrain(
    asked: Pretraining,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: FitProgress | None = None,
    note: Callable[[str], None] | None = None,
) -> PretrainingResult:
    """Train a preset and write its weights; log, checkpoints and pictures go to `<output stem>.run/` beside them.

    Parameters
    ----------
    resume : go on from the checkpoint that is there.
    overwrite : begin anew where there is one.
    progress : called after each step, as `fit` does.
    note : called with each note, in the first process.

    Raises
    ------
    Ms2hsError : data, weights or settings that cannot serve; interrupted.
    """
    notes: list[str] = []

    def tell(text: str) -> None:
        notes.append(text)
        if note and is_first_process():
            note(text)

    basis = load_weights(asked.prior)
    prior = basis.prior
    config = _configured(asked, prior)
    network, prior = _begun(config, prior, asked, tell)
    cubes = _cubes(asked, asked.window or config.window, prior, tell)
    lesson = MaskedTask(config, cubes, asked.fit.batch, asked.fit.steps, asked.fit.seed, asked.window)
    identity = {"config": config.to_dict(), "window": asked.window, "scenes": _digest(cubes), "init": str(asked.init)}
    identity["prior"] = basis.sha256
    folder = output.with_suffix(".run")
    if overwrite and not resume:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    fitted = fit(network, lesson, asked.fit, folder, identity=identity, resume=resume, progress=progress)
    digest = ""
    if fitted.first:
        digest = save_weights(output, prior, _card(asked, cubes, fitted, output), network.cpu())
    return PretrainingResult(output, digest, fitted, tuple(notes))


def _configured(asked: Pretraining, prior: SpectralPrior) -> ModelConfig:
    config = preset(asked.preset)
    unknown = sorted(set(asked.changes) - set(config.to_dict()))
    if unknown:
        raise UnknownName.of("setting", unknown[0], sorted(config.to_dict()), "Write for example --set depth=2.")
    try:
        changes = {name: _as(name, getattr(config, name), value) for name, value in asked.changes.items()}
        config = replace(config, **changes)
        _check_rank(config, prior)
    except (TypeError, ValueError, ArithmeticError) as error:
        told = ", ".join(f"{name}={_text(value)}" for name, value in asked.changes.items())
        raise DataError(
            f"preset {asked.preset} with {told} cannot be built ({error}); settings that fit each other are needed. "
            "Change them with --set."
        ) from error
    window = config.window if asked.window is None else asked.window
    if window < config.patch or window % config.patch:
        raise DataError(
            f"windows of {window} pixels; a multiple of the patch, {config.patch}, is needed. Change --window."
        )
    return config


def _as(name: str, there: Any, value: Any) -> Any:  # noqa: ANN401  a field of a configuration
    """A text as what the field holds, which is of the kind of what is `there`."""
    if not isinstance(value, str):
        return value
    if isinstance(there, bool):
        if value not in {"true", "false"}:
            raise ValueError(f"{name} is {value!r}; true or false is needed")
        return value == "true"
    if isinstance(there, tuple):
        return tuple(_as(name, there[0], part) for part in value.split(","))
    try:
        return type(there)(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; a {'whole ' * isinstance(there, int)}number is needed") from error


def _check_rank(config: ModelConfig, prior: SpectralPrior) -> None:
    directions = prior.factors.shape[1]
    if config.rank > directions:
        raise ValueError(f"rank is {config.rank}; the prior has {directions} directions")


def _text(value: Any) -> str:  # noqa: ANN401  a field of a configuration
    """As --set takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _cubes(asked: Pretraining, window: int, prior: SpectralPrior, tell: Callable[[str], None]) -> list[Cube]:
    cubes = [cube for folder in asked.data for cube in open_cubes(folder, asked.split)]
    check_scenes(cubes, asked.leave_out, "Give scenes that are there to --leave-out.")
    cubes = [cube for cube in cubes if cube.scene not in asked.leave_out]
    count = asked.simulated or (0 if cubes else SIMULATED_SCENES)
    if not asked.data:
        tell(WHERE_DATA_ARE)
    elif not cubes:
        raise DataError(
            f"{', '.join(map(str, asked.data))}: every scene is left out; at least one is needed to train on. Leave "
            "fewer out."
        )
    if count:
        side = max(window, SMALLEST_SIMULATED)
        cubes += simulated_cubes(count, asked.fit.seed, prior=prior, shape=(side, side))
    return cubes


def _begun(
    config: ModelConfig, prior: SpectralPrior, asked: Pretraining, tell: Callable[[str], None]
) -> tuple[SpectralMAE, SpectralPrior]:
    """The network that training begins with, and its prior."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.fit.seed)
        network = SpectralMAE(config, prior)
    if asked.init is None:
        return network, prior
    if is_vit(asked.init):
        tell(_told(load_vit(network, asked.init), asked.init))
        return network, prior
    weights = load_weights(str(asked.init))
    if weights.network is None:
        raise WeightsError(
            f"{asked.init}: a linear model; weights of a masked autoencoder, or a ViT in timm's naming, are needed to "
            "begin with. Give others with --init."
        )
    found, wanted = weights.network.config.to_dict(), config.to_dict()
    other = [name for name in wanted if name not in HOW_IT_LEARNS and found[name] != wanted[name]]
    if other:
        said = ", ".join(f"{name} {found[name]!r} instead of {wanted[name]!r}" for name in other[:4])
        raise WeightsError(
            f"{asked.init}: another configuration than preset {asked.preset}: {said}; only how it learns may differ. "
            "Give its own preset, or --set what differs."
        )
    network.prior = weights.network.prior
    fitting = network.load_state_dict(weights.network.state_dict(), strict=False)
    if fitting.missing_keys:
        tell(f"{asked.init.name} has no {', '.join(fitting.missing_keys)}: begun anew")
    return network, weights.prior


def _told(taken: VitReport, path: Path) -> str:
    left = "; ".join(f"{name}: {reason}" for name, reason in taken.unused.items())
    new = f"; new in the encoder: {', '.join(taken.new)}" if taken.new else ""
    return f"{len(taken.copied)} arrays of {path.name} taken; left: {left or 'none'}{new}"


def _digest(cubes: Sequence[Cube]) -> list[Any]:
    """What of the data a resumed run must share, in short."""
    return [len(cubes), *sorted({cube.scene for cube in cubes})[:NAMED]]


def _card(asked: Pretraining, cubes: Sequence[Cube], fitted: FitResult, output: Path) -> dict[str, Any]:
    """What the weights say of themselves."""
    simulated = sum(isinstance(cube, SimulatedCube) for cube in cubes)
    scenes = sorted({cube.scene for cube in cubes if not isinstance(cube, SimulatedCube)})
    named = scenes if len(scenes) <= NAMED else [*scenes[:NAMED], f"and {len(scenes) - NAMED} more"]
    named += [f"{simulated} simulated scenes"] if simulated else []
    late = [entry["all_mse"] for entry in fitted.history if entry["step"] > 0.9 * fitted.steps]  # type: ignore[operator]
    known = [value for value in late if value is not None]
    return {
        "command": _command(asked, output),
        "settings": {
            "preset": asked.preset,
            "window": asked.window,
            "changes": asked.changes,
            "init": asked.init.name if asked.init else None,
            "prior": Path(asked.prior).name,
            "leave_out": list(asked.leave_out),
            "fit": asked.fit.identity(),
        },
        "trained_on": named,
        "scores": {"train": {"mse": sum(known) / len(known)}} if known else {},
    }


def _command(asked: Pretraining, output: Path) -> str:
    """The command that trains the same, with the names of folders and files but not their places."""
    several = [("--data", folder.resolve().name) for folder in asked.data]
    several += [("--leave-out", scene) for scene in asked.leave_out]
    several += [("--set", f"{name}={_text(value)}") for name, value in asked.changes.items()]
    single = {
        "--split": asked.split,
        "--simulated": asked.simulated or None,
        "--init": asked.init.name if asked.init else None,
        "--prior": None if asked.prior == LINEAR else Path(asked.prior).name,
        "--window": asked.window,
        "--steps": asked.fit.steps,
        "--batch": asked.fit.batch,
        "--lr": asked.fit.lr,
        "--seed": asked.fit.seed,
        "--precision": asked.fit.precision,
        "--output": output.name,
    }
    options = [("--preset", asked.preset), *several, *((name, value) for name, value in single.items())]
    words = [str(word) for option, value in options if value is not None for word in (option, value)]
    return shlex.join(["ms2hs", "pretrain", *words])
