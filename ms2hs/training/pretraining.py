"""`ms2hs pretrain`: a masked autoencoder trained on cubes, or on simulated scenes where no data are given."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ms2hs.datasets.cubes.registry import Cube, check_scenes, check_spectra, open_cubes
from ms2hs.datasets.simulation.synthetic_scenes import SimulatedCube, simulated_cubes
from ms2hs.errors import DataError, UnknownName, WeightsError
from ms2hs.files import check_output, file_ids, files_in
from ms2hs.models.config import ModelConfig, preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.vit_init import is_vit, load_vit
from ms2hs.models.weights import LINEAR, load_weights, save_weights
from ms2hs.progress import FitProgress
from ms2hs.training.engine.checkpointing import CHECKPOINT
from ms2hs.training.engine.distributed import Note, collect_notes, joined
from ms2hs.training.engine.loop import FitResult, FitSettings, fit
from ms2hs.training.masked_task import MaskedTask
from ms2hs.training.model_card import MAX_NAMED, command_line, named_scenes, training_scores

# Scenes to simulate where no data are given, and their smallest side in pixels: smaller scenes have no shapes.
SIMULATED_SCENES = 2000
MIN_SIMULATED_SIDE = 32
NO_DATA_NOTE = (
    "training on simulated scenes; real scenes give better weights: HySpecNet-11k (hyspecnet.rsim.berlin, 11,483 "
    "patches of EnMAP, CC0), SpectralEarth (EnMAP, geoservice.dlr.de), EMIT L2A (EMITL2ARFL, search.earthdata.nasa.gov)"
)
FEW_PLACES_NOTE = (
    "the prior comes from too few places to estimate errors of the input: the network will equal its prior. Use "
    "another --prior, or estimate one from more places"
)
# Fields of a configuration that describe the training and not the network.
TRAINING_FIELDS = {"masking", "staged", "hidden", "measured", "uncovered"}


@dataclass(frozen=True)
class PretrainOptions:
    """Model, data and settings of a pretraining run."""

    preset: str
    data: tuple[Path, ...] = ()
    """Folders of cubes; none: simulated scenes."""
    source: str | None = None
    """Sensor of multispectral images in `data`; None: the files name it."""
    split: str | None = None
    """A list in the folders' `splits/`, such as `hard/train`."""
    leave_out: tuple[str, ...] = ()
    """Scenes to leave out, by name."""
    simulated: int = 0
    """Number of simulated scenes in addition to the data."""
    init: Path | None = None
    """Initial weights: of ms2hs, or a ViT in timm's naming."""
    prior: str = LINEAR
    """Weights whose spectral prior the network corrects and scenes are simulated from; a name or a path."""
    window: int | None = None
    """Side of the training windows, in pixels; None: the configuration's."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the configuration that replace the preset's."""
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True)
class PretrainResult:
    """Result of `pretrain`."""

    output: Path
    sha256: str
    fit: FitResult
    notes: tuple[str, ...]


def pretrain(
    options: PretrainOptions,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: FitProgress | None = None,
    note: Note | None = None,
) -> PretrainResult:
    """Train a preset and write its weights; log, checkpoint and pictures go to `<output stem>.run/`.

    Parameters
    ----------
    resume : continue from the checkpoint of an earlier run.
    overwrite : start again where an earlier run left a checkpoint.
    progress : called after each step.
    note : called with each note, in the first process.

    Raises
    ------
    Ms2hsError : unusable data, weights or settings; interrupted.
    """
    inputs = file_ids(files_in([*options.data, options.init, options.prior]))
    check_output(output, overwrite=overwrite, inputs=inputs)
    notes, add_note = collect_notes(note)
    basis = load_weights(options.prior)
    config = _config(options, basis.prior)
    network, prior = _initial_network(config, basis.prior, options, add_note)
    if config.by_patch and prior.places is None:
        add_note(FEW_PLACES_NOTE)
    cubes = _cubes(options, config, prior, add_note)
    task = MaskedTask(config, cubes, options.fit.batch, options.fit.steps, options.fit.seed, options.window)
    identity = {
        "config": config.to_dict(),
        "window": options.window,
        "source": options.source,
        "scenes": [len(cubes), *sorted({cube.scene for cube in cubes})[:MAX_NAMED]],
        "init": str(options.init),
        "prior": basis.sha256,
    }
    result = fit(
        *(network, task, options.fit, output.with_suffix(".run")),
        identity=identity,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    digest = ""
    if result.first:
        card = _card(options, cubes, result, output)
        digest = save_weights(output, prior, card, network.cpu(), overwrite=overwrite, inputs=inputs)
    return PretrainResult(output, digest, result, tuple(notes))


def pretrain_stages(
    stages: Sequence[PretrainOptions],
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: FitProgress | None = None,
    note: Note | None = None,
) -> PretrainResult:
    """Train one stage after the other, each from the weights of the stage before; the last stage writes `output`.

    The weights of the others go to `<output stem>.run/stage-1.safetensors`. A stage starts with the learning rate of a
    new training. The data of all stages are opened before the first starts. Arguments and errors as of `pretrain`.

    Parameters
    ----------
    resume : keep the complete stages with the same settings, and continue the stage that was interrupted.
    """
    if len(stages) == 1:
        return pretrain(stages[0], output, resume=resume, overwrite=overwrite, progress=progress, note=note)
    folder = output.with_suffix(".run")
    paths = [*(folder / f"stage-{number}.safetensors" for number in range(1, len(stages))), output]
    chained = [stages[0], *(replace(stage, init=path) for stage, path in zip(stages[1:], paths, strict=False))]
    check_output(output, overwrite=overwrite)
    for stage in stages:
        prior = load_weights(stage.prior).prior
        _cubes(stage, _config(stage, prior), prior, lambda _: None)
    folder.mkdir(exist_ok=True)
    _, add_note = collect_notes(note)
    total, before = sum(stage.fit.steps for stage in stages), 0
    resumes = resume
    with joined(stages[0].fit.device) as processes:
        for number, (stage, path) in enumerate(zip(chained, paths, strict=True), 1):
            if resumes and path != output and _is_complete(path, stage):
                before += stage.fit.steps
                continue
            add_note(f"stage {number} of {len(stages)}: {', '.join(map(str, stage.data)) or 'simulated scenes'}")
            result = pretrain(
                *(stage, path),
                resume=resumes and (path.with_suffix(".run") / CHECKPOINT).is_file(),
                overwrite=overwrite or resume,
                progress=progress and _shifted(progress, before, total),
                note=note,
            )
            processes.wait()  # the first process has written the weights
            before += stage.fit.steps
            resumes = False  # the next stage starts from other weights than its checkpoint
    return result


def _is_complete(path: Path, stage: PretrainOptions) -> bool:
    """Whether the weights of a stage exist, trained with these settings."""
    return path.is_file() and load_weights(str(path)).card.get("settings") == json.loads(json.dumps(settings_of(stage)))


def _shifted(progress: FitProgress, before: int, total: int) -> FitProgress:
    """Progress of a stage, as progress of all stages."""
    return lambda step, _, loss: progress(before + step, total, loss)


def _config(options: PretrainOptions, prior: SpectralPrior) -> ModelConfig:
    config = preset(options.preset)
    fields = config.to_dict()
    if unknown := sorted(set(options.changes) - set(fields)):
        raise UnknownName.of("setting", unknown[0], sorted(fields), "Write for example --set depth=2.")
    try:
        config = replace(config, **{name: _parsed(name, fields[name], text) for name, text in options.changes.items()})
        if config.rank > (directions := prior.factors.shape[1]):
            raise ValueError(f"rank is {config.rank}; the prior has {directions} directions")  # noqa: TRY301
    except (TypeError, ValueError, ArithmeticError) as error:
        changes = ", ".join(f"{name}={_text(value)}" for name, value in options.changes.items())
        raise DataError(
            f"preset {options.preset} with {changes} cannot be built ({error}); settings that fit each other are "
            "needed. Change them with --set."
        ) from error
    window = config.window if options.window is None else options.window
    if window < config.patch or window % config.patch:
        needed = f"a multiple of the patch, {config.patch}, is needed. Change --window."
        raise DataError(f"windows of {window} pixels; {needed}")
    return config


def _parsed(name: str, current: Any, value: Any) -> Any:  # noqa: ANN401  a field of a configuration
    """The value of --set as the type of the field's current value."""
    if not isinstance(value, str):
        return value
    if isinstance(current, bool):
        if value not in {"true", "false"}:
            raise ValueError(f"{name} is {value!r}; true or false is needed")
        return value == "true"
    if isinstance(current, tuple):
        return tuple(_parsed(name, current[0], part) for part in value.split(","))
    try:
        return type(current)(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; a {'whole ' * isinstance(current, int)}number is needed") from error


def _text(value: Any) -> str:  # noqa: ANN401  a field of a configuration
    """A field as --set takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _opened(folder: Path, options: PretrainOptions) -> list[Cube]:
    return open_cubes(folder, options.split, options.source, multispectral=True)


def _cubes(options: PretrainOptions, config: ModelConfig, prior: SpectralPrior, note: Note) -> list[Cube]:
    cubes = [cube for folder in options.data for cube in _opened(folder, options)]
    check_scenes(cubes, options.leave_out, "Give names of these scenes to --leave-out.")
    cubes = [cube for cube in cubes if cube.scene not in options.leave_out]
    count = options.simulated or (0 if cubes else SIMULATED_SCENES)
    if not options.data:
        note(NO_DATA_NOTE)
    elif not cubes:
        needed = "training needs at least one. Leave out fewer scenes."
        raise DataError(f"{', '.join(map(str, options.data))}: every scene is left out; {needed}")
    if config.rank:
        needs = f"preset {options.preset} learns whole spectra from the bands of a sensor"
        remedy = "For multispectral images use --preset s2mae, general, dlr-ibm-spectral or dlr-ibm-spatial-spectral."
        check_spectra(cubes, needs, remedy)
    for text in dict.fromkeys(text for cube in cubes for text in getattr(cube, "notes", ())):
        note(text)
    if count:
        side = max(options.window or config.window, MIN_SIMULATED_SIDE)
        cubes += simulated_cubes(count, options.fit.seed, prior=prior, shape=(side, side))
    return cubes


def _initial_network(
    config: ModelConfig, prior: SpectralPrior, options: PretrainOptions, note: Note
) -> tuple[SpectralMAE, SpectralPrior]:
    """The network before training, and its prior."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.fit.seed)
        network = SpectralMAE(config, prior)
    if options.init is None:
        return network, prior
    if is_vit(options.init):
        report = load_vit(network, options.init)
        unused = "; ".join(f"{name}: {reason}" for name, reason in report.unused.items())
        new = f"; new in the encoder: {', '.join(report.new)}" if report.new else ""
        note(f"{len(report.copied)} arrays of {options.init.name} copied; unused: {unused or 'none'}{new}")
        return network, prior
    weights = load_weights(str(options.init))
    if weights.network is None:
        raise WeightsError(
            f"{options.init}: a linear model; weights of a masked autoencoder, or a ViT in timm's naming, are needed. "
            "Give other weights with --init."
        )
    stored, wanted = weights.network.config.to_dict(), config.to_dict()
    different = [name for name in wanted if name not in TRAINING_FIELDS and stored[name] != wanted[name]]
    if different:
        listed = ", ".join(f"{name} {stored[name]!r} instead of {wanted[name]!r}" for name in different[:4])
        raise WeightsError(
            f"{options.init}: another configuration than preset {options.preset}: {listed}; only training settings "
            "may differ. Use the preset of these weights, or --set the fields that differ."
        )
    network.prior = weights.network.prior
    loaded = network.load_state_dict(weights.network.state_dict(), strict=False)
    if loaded.missing_keys:
        note(f"{options.init.name} has no {', '.join(loaded.missing_keys)}: initialised at random")
    return network, weights.prior


def settings_of(options: PretrainOptions) -> dict[str, Any]:
    """The settings of a run in the card of its weights."""
    return {
        "preset": options.preset,
        "window": options.window,
        "changes": options.changes,
        "data": [folder.name for folder in options.data],
        "source": options.source,
        "split": options.split,
        "simulated": options.simulated,
        "init": options.init.name if options.init else None,
        "prior": Path(options.prior).name,
        "leave_out": list(options.leave_out),
        "fit": options.fit.identity(),
    }


def _card(options: PretrainOptions, cubes: Sequence[Cube], result: FitResult, output: Path) -> dict[str, Any]:
    real = [cube for cube in cubes if not isinstance(cube, SimulatedCube)]
    simulated = [f"{len(cubes) - len(real)} simulated scenes"] if len(cubes) > len(real) else []
    words = [
        ("--preset", options.preset),
        *(("--data", folder.resolve().name) for folder in options.data),
        *(("--leave-out", scene) for scene in options.leave_out),
        *(("--set", f"{name}={_text(value)}") for name, value in options.changes.items()),
        ("--source", options.source),
        ("--split", options.split),
        ("--simulated", options.simulated or None),
        ("--init", options.init.name if options.init else None),
        ("--prior", None if options.prior == LINEAR else Path(options.prior).name),
        ("--window", options.window),
    ]
    card = {
        "command": command_line("pretrain", words, options.fit, output),
        "settings": settings_of(options),
        "trained_on": named_scenes(cube.scene for cube in real) + simulated,
        "scores": training_scores(result),
    }
    if options.init is None or is_vit(options.init):
        return card
    first = load_weights(str(options.init)).card
    return card | {"continues": {name: first.get(name) for name in ("command", "settings", "trained_on", "continues")}}
