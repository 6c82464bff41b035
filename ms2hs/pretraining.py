"""pretrain: a masked autoencoder from cubes, or from simulated scenes where none are given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ms2hs.data.cubes import Cube, open_cubes
from ms2hs.data.landscapes import simulated_cubes
from ms2hs.errors import DataError, UnknownName, WeightsError
from ms2hs.learning.lessons import MaskedLesson
from ms2hs.learning.training import FitSettings, Fitted, fit
from ms2hs.models.configuration import ModelConfig, preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.vit import Taken, is_vit, take_vit
from ms2hs.models.weights import load_weights, save_weights

# Scenes that are simulated where no data are given, and the least pixels on a side: smaller ones have no shapes.
SIMULATED_SCENES = 2000
SMALLEST_SIMULATED = 32
WHERE_DATA_ARE = (
    "simulated scenes are trained on; real ones teach more: HySpecNet-11k (hyspecnet.rsim.berlin, 11,483 patches of "
    "EnMAP, CC0), SpectralEarth (EnMAP, geoservice.dlr.de), EMIT L2A (EMITL2ARFL, search.earthdata.nasa.gov)"
)
# Scenes named in a card, at most.
NAMED = 60


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
    window: int | None = None
    """Pixels on a side of the windows trained on; None: the configuration's."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the configuration, changed."""
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True)
class Pretrained:
    """What came of it."""

    output: Path
    sha256: str
    fitted: Fitted
    notes: tuple[str, ...]


def pretrain(
    asked: Pretraining,
    output: Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Pretrained:
    """Train a preset and write its weights; log, checkpoints and pictures go to `<output stem>.run/` beside them.

    Raises
    ------
    Ms2hsError : data, weights or settings that cannot serve; interrupted.
    """
    notes: list[str] = []

    def tell(text: str) -> None:
        notes.append(text)
        if note:
            note(text)

    prior = load_weights().prior
    config = _configured(asked)
    cubes = _cubes(asked, prior, tell)
    torch.manual_seed(asked.fit.seed)
    network = SpectralMAE(config, prior)
    if asked.init:
        network, prior = _begin(network, prior, asked, tell)
        config = network.config
    _check_window(asked, config)
    lesson = MaskedLesson(config, cubes, asked.fit.batch, asked.fit.steps, asked.fit.seed, asked.window)
    identity = {"config": config.facts, "window": asked.window, "scenes": _digest(cubes), "init": str(asked.init)}
    folder = output.with_suffix(".run")
    fitted = fit(network, lesson, asked.fit, folder, identity=identity, resume=resume, progress=progress)
    digest = ""
    if fitted.first:
        digest = save_weights(output, prior, _card(asked, cubes, fitted, output), network.cpu())
    return Pretrained(output, digest, fitted, tuple(notes))


def _configured(asked: Pretraining) -> ModelConfig:
    config = preset(asked.preset)
    unknown = sorted(set(asked.changes) - set(config.facts))
    if unknown:
        raise UnknownName.of("setting", unknown[0], sorted(config.facts), "Write for example --set depth=2.")
    try:
        kinds = {name: type(getattr(config, name)) for name in asked.changes}
        return replace(config, **{name: _as(kinds[name], value) for name, value in asked.changes.items()})
    except (TypeError, ValueError) as error:
        raise DataError(
            f"preset {asked.preset} with {asked.changes} cannot be built ({error}); settings that fit each other are "
            "needed. Change them with --set."
        ) from error


def _as(kind: type, value: Any) -> Any:  # noqa: ANN401  a field of a configuration
    """A text as what the field holds."""
    if not isinstance(value, str):
        return value
    if kind is bool:
        if value not in {"true", "false"}:
            raise ValueError(f"{value!r} is neither true nor false")
        return value == "true"
    if kind is tuple:
        parts = value.split(",")
        return tuple(float(part) if part[:1].isdigit() else part for part in parts)
    return kind(value)


def _cubes(asked: Pretraining, prior: SpectralPrior, tell: Callable[[str], None]) -> list[Cube]:
    cubes = [cube for folder in asked.data for cube in open_cubes(folder, asked.split)]
    absent = sorted(set(asked.leave_out) - {cube.scene for cube in cubes})
    if absent:
        scenes = sorted({cube.scene for cube in cubes})
        raise UnknownName.of("scene", absent[0], scenes[:20], "Give scenes that are there to --leave-out.")
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
        side = max(asked.window or preset(asked.preset).window, SMALLEST_SIMULATED)
        cubes += simulated_cubes(count, asked.fit.seed, prior=prior, shape=(side, side))
    return cubes


def _begin(
    network: SpectralMAE, prior: SpectralPrior, asked: Pretraining, tell: Callable[[str], None]
) -> tuple[SpectralMAE, SpectralPrior]:
    """The network that training begins with, and its prior."""
    assert asked.init is not None  # noqa: S101  asked for only then
    if is_vit(asked.init):
        taken = take_vit(network, asked.init)
        tell(_told(taken, asked.init))
        return network, prior
    weights = load_weights(str(asked.init))
    if weights.network is None:
        raise WeightsError(
            f"{asked.init}: a linear model; weights of a masked autoencoder, or a ViT in timm's naming, are needed to "
            "begin with. Give others with --init."
        )
    found, wanted = weights.network.config.facts, network.config.facts
    free = {"masking", "staged", "hidden", "unit_targets", "measured"}  # how it learns, not what it is made of
    other = [name for name in wanted if name not in free and found[name] != wanted[name]]
    if other:
        said = ", ".join(f"{name} {found[name]!r} instead of {wanted[name]!r}" for name in other[:4])
        raise WeightsError(
            f"{asked.init}: another configuration than preset {asked.preset}: {said}. Give its own preset, or "
            "--set what differs."
        )
    network.prior = weights.network.prior
    network.load_state_dict(weights.network.state_dict())
    return network, weights.prior


def _told(taken: Taken, path: Path) -> str:
    left = "; ".join(f"{name}: {reason}" for name, reason in taken.left.items())
    new = f"; new in the encoder: {', '.join(taken.new)}" if taken.new else ""
    return f"{len(taken.taken)} arrays of {path.name} taken; left: {left or 'none'}{new}"


def _check_window(asked: Pretraining, config: ModelConfig) -> None:
    window = config.window if asked.window is None else asked.window
    if window < config.patch or window % config.patch:
        raise DataError(
            f"windows of {window} pixels; a multiple of the patch, {config.patch}, is needed. Change --window."
        )


def _digest(cubes: Sequence[Cube]) -> list[Any]:
    """What of the data a resumed run must share, in short."""
    return [len(cubes), *sorted({cube.scene for cube in cubes})[:NAMED]]


def _card(asked: Pretraining, cubes: Sequence[Cube], fitted: Fitted, output: Path) -> dict[str, Any]:
    """What the weights say of themselves."""
    scenes = sorted({cube.scene for cube in cubes})
    named = scenes if len(scenes) <= NAMED else [*scenes[:NAMED], f"and {len(scenes) - NAMED} more"]
    late = [entry["all_mse"] for entry in fitted.history if entry["step"] > 0.9 * fitted.steps]  # type: ignore[operator]
    known = [value for value in late if value is not None]
    return {
        "command": f"ms2hs pretrain --preset {asked.preset} -o {output.name} --steps {asked.fit.steps}",
        "settings": {
            "preset": asked.preset,
            "window": asked.window,
            "changes": asked.changes,
            "init": asked.init.name if asked.init else None,
            "leave_out": list(asked.leave_out),
            "fit": asked.fit.identity(),
        },
        "trained_on": named,
        "scores": {"train": {"mse": sum(known) / len(known)}} if known else {},
    }
