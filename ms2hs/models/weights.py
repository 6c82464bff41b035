"""Weights files: one model as safetensors arrays, with a header that describes it. Loading runs no code.

The header's metadata has `format` (version of this layout), `kind`, and `card` (JSON: data, command and scores of the
training). Kind `linear` is the spectral prior. Kind `mae` is a masked autoencoder: its parameters as `network.…`, its
prior as `prior.…`, its configuration as `config`, and once it is calibrated `sigma_scale`, and `share`, the factor on
its correction of the prior. Both kinds may have the `adjustments` of products as JSON. A network with the head of a
task has the `task` as JSON, the arrays `task.head.…`, and `task.encoder.…` where the encoder was tuned too: conversions
use the network as it was before.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ms2hs.arrays import Float32Array
from ms2hs.errors import UnknownName, WeightsError, input_errors
from ms2hs.files import NO_FILES, FileIds, write_bytes
from ms2hs.models.config import PRESETS, ModelConfig
from ms2hs.models.harmonization import Adjustment
from ms2hs.models.prior import CoverFactors, PlaceSpread, SpectralPrior
from ms2hs.spectra.indices import COVERS, LAND

if TYPE_CHECKING:
    from ms2hs.models.mae import SpectralMAE

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")
Arrays = Mapping[str, NDArray[np.generic]]

FORMAT = "1"
LINEAR, NETWORK = "linear", "mae"
# Weights that `default` stands for: the first that exists.
DEFAULT, BEST_FIRST = "default", ("spatial-spectral", LINEAR)
NETWORK_PREFIX, PRIOR_PREFIX = "network.", "prior."
SIGMA_SCALE, SHARE = "sigma_scale", "share"
TASK_PREFIX = "task."
SUFFIX = ".safetensors"
PACKAGE = Path(__file__).parents[1]
# Folders that are searched by name: the checkout's, then the wheel's.
FOLDERS = (PACKAGE.parent / "weights", PACKAGE / "_weights")
# Axes of each array of the linear model; axes with the same letter must have the same size.
LINEAR_AXES = {
    "wavelength_nm": "w",
    "factors": "wr",
    "residual": "w",
    "reach": "w",
    "sigma_scale": "w",
    "shift": "w",
    "sample": "nr",
}
LINEAR_NUMBERS = ("floor", "noise")
# Arrays of the land covers, all or none.
COVER_PREFIX, COVER_AXES = "cover_", {"factors": "cwr", "residual": "cw", "sigma_scale": "cw"}
# Arrays of the spread of places, all or none.
PLACE_PREFIX, PLACE_AXES = "place_", {"mean": "lw", "between": "plw", "within": "lwq"}
# Allowed values of each array, far beyond real spectra; with them no later number overflows.
LINEAR_RANGES = {
    "wavelength_nm": (100, 100_000),
    "factors": (-100, 100),
    "residual": (0, 100),
    "reach": (0, 1),
    "sigma_scale": (0, 1000),
    "shift": (0, 1),
    "sample": (-10_000, 10_000),
    "floor": (0, 10),
    "noise": (0, 10),
    "mean": (-100, 100),
    "between": (-100, 100),
    "within": (-100, 100),
}
LEAST_SIZES = {"w": 2, "r": 1, "n": 1, "1": 1, "c": len(COVERS), "l": len(LAND), "p": 1, "q": 1}
# Limits before memory is taken. The second moment has a number for each pair of wavelengths.
MAX_FILE_BYTES = 2_000_000_000
MAX_WAVELENGTHS = 5000
# A gain and an offset that pairs can teach.
GAINS, MAX_OFFSET = (0.1, 10.0), 1.0


class TaskPart(NamedTuple):
    """The head of a task."""

    facts: Mapping[str, Any]
    """The task, its classes and its bands; text of a file, which `tasks.task_model` checks."""
    arrays: Mapping[str, NDArray[np.generic]]
    """`head.weight` (output, feature), `head.bias` (output,), and `encoder.NAME` the encoder's tuned parameters."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A model read from a file, and its header."""

    name: str
    path: Path
    kind: str
    """`linear` or `mae`."""
    prior: SpectralPrior
    """The spectral prior: the model itself, or the baseline that the network corrects."""
    sha256: str
    """Hash of the whole file, in hexadecimal."""
    range_nm: tuple[float, float]
    """Shortest and longest wavelength of the model, in nm."""
    network: "SpectralMAE | None" = None
    """The masked autoencoder, in evaluation mode on the CPU; None for the linear model."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """`trained_on`, `command`, `settings` and `scores`, where the file has them."""
    sigma_scale: Float32Array | None = None
    """(wavelength,) for a network: replaces `prior.sigma_scale` in its uncertainty; None: not calibrated."""
    adjustments: Mapping[str, Adjustment] = field(default_factory=dict)
    """By sensor: the correction of its products, fitted to pairs."""
    task: "TaskPart | None" = None
    """The task that a head was trained for."""

    @property
    def calibrated_prior(self) -> SpectralPrior | None:
        """The prior whose `condition(...).sigma` is this model's calibrated uncertainty; None: not calibrated.

        A network's errors are distributed over the spectrum as the prior's are; their size is measured on held-out
        scenes (`sigma_scale`).
        """
        if self.network is None:
            return self.prior
        return None if self.sigma_scale is None else self.prior.with_sigma_scale(self.sigma_scale)


def weights_names() -> list[str]:
    """Names of the weights that load without a path, sorted; `default` stands for one of them."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob(f"*{SUFFIX}")})


def find_weights(name_or_path: str) -> Path:
    """Path of a weights file: the given path, or the file of this name in the checkout or the installed package.

    `default` is a network, or the linear model where no network is installed.

    Raises
    ------
    UnknownName : neither a file nor a known name; the message lists the known names.
    WeightsError : a path without a file.
    """
    given = Path(name_or_path)
    if given.is_file():
        return given
    if given.suffix == SUFFIX or len(given.parts) > 1:
        raise WeightsError(
            f"{given}: no such weights file; a path to a {SUFFIX} file or one of {', '.join(weights_names())} is "
            "needed. Check the path."
        )
    for name in BEST_FIRST if name_or_path == DEFAULT else (name_or_path,):
        for folder in FOLDERS:
            if (path := folder / f"{name}{SUFFIX}").is_file():
                return path
    hint = "Give one of these, or a path."
    if name_or_path in PRESETS:
        hint = f"Train them with `ms2hs pretrain --preset {name_or_path}`, and give the path."
    raise UnknownName.of("weights", name_or_path, weights_names(), hint)


def load_weights(name_or_path: str = LINEAR) -> Weights:
    """The model of a weights file, with every array checked.

    Raises
    ------
    UnknownName, WeightsError : not found; not safetensors; unknown format or kind; arrays missing, or of a wrong shape
        or type.
    """
    path = find_weights(name_or_path)
    with input_errors(str(path), WeightsError):
        weights = _load(path)
    LOGGER.debug("weights: %s, %s, %g-%g nm, sha256 %s", path, weights.kind, *weights.range_nm, weights.sha256)
    return weights


def _load(path: Path) -> Weights:
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise _error(path, f"{size / 1e9:.1f} GB; weights of at most {MAX_FILE_BYTES / 1e9:g} GB are read")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError, TypeError) as error:
        hint = "Download them again, or train them with `ms2hs pretrain`."
        raise _error(path, f"not a readable safetensors file ({error}); weights of ms2hs are needed", hint) from error
    if header.get("format") != FORMAT or header.get("kind") not in {LINEAR, NETWORK}:
        problem = f"weights of format {header.get('format')!r}, kind {header.get('kind')!r}"
        needed = f"format {FORMAT!r} and kind {LINEAR!r} or {NETWORK!r} are needed"
        hint = "Train them again with `ms2hs pretrain`, or use another version of ms2hs."
        raise _error(path, f"{problem}; {needed}", hint)
    network = sigma_scale = None
    if header["kind"] == NETWORK:
        prior = _linear(path, _part(arrays, PRIOR_PREFIX))
        config = _header_value(path, header, "config", ModelConfig.from_dict)
        network = _network(path, config, _part(arrays, NETWORK_PREFIX), prior)
        sigma_scale, share = (_by_wavelength(path, name, arrays, prior) for name in (SIGMA_SCALE, SHARE))
        if share is not None:
            network.set_share(share.astype(float))
    else:
        prior = _linear(path, arrays)
    range_nm = float(prior.wavelength_nm[0]), float(prior.wavelength_nm[-1])
    card = _header_value(path, header, "card", dict)
    adjustments = _header_value(path, header, "adjustments", _adjustments)
    facts = _header_value(path, header, "task", dict)
    others = card, sigma_scale, adjustments, _task(path, facts, _part(arrays, TASK_PREFIX), network)
    return Weights(path.stem, path, header["kind"], prior, digest, range_nm, network, *others)


def _by_wavelength(path: Path, name: str, arrays: Arrays, prior: SpectralPrior) -> Float32Array | None:
    """(wavelength,) array of 0 or more; None where the file has no such array."""
    if name not in arrays:
        return None
    array, size = arrays[name], len(prior.wavelength_nm)
    if array.shape != (size,) or array.dtype != np.float32 or not (np.asarray(array, float) >= 0).all():
        hint = "Download the weights again, or calibrate them again with `ms2hs finetune --train none`."
        raise _error(path, f"{name} is {array.dtype} {array.shape}; {size} float32 of 0 or more are needed", hint)
    return np.asarray(array, np.float32)


def _header_value(path: Path, header: Mapping[str, str], name: str, parse: Callable[[Any], T]) -> T:
    """A JSON value of the header, parsed."""
    try:
        return parse(json.loads(header.get(name, "{}")))
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        hint = "Download the weights again, or use another version of ms2hs."
        problem = f"cannot read {name!r} of its header ({str(error)[:200]}); JSON of this version of ms2hs is needed"
        raise _error(path, problem, hint) from error


def _error(path: Path, problem: str, hint: str = "Download the weights again.") -> WeightsError:
    return WeightsError(f"{path}: {problem}. {hint}")


def _adjustments(stored: Any) -> dict[str, dict[str, tuple[float, float]]]:  # noqa: ANN401  JSON
    adjustments = {
        str(sensor): {str(band): (float(gain), float(offset)) for band, (gain, offset) in bands.items()}
        for sensor, bands in stored.items()
    }
    for bands in adjustments.values():
        for gain, offset in bands.values():
            if not (GAINS[0] <= gain <= GAINS[1] and abs(offset) <= MAX_OFFSET):
                raise ValueError(
                    f"gain {gain:g}, offset {offset:g}; a finite gain of {GAINS[0]:g} to {GAINS[1]:g} and an offset of "
                    f"up to {MAX_OFFSET:g} are allowed"
                )
    return adjustments


def _part(arrays: Arrays, start: str) -> dict[str, NDArray[np.generic]]:
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def save_weights(
    path: Path,
    prior: SpectralPrior,
    card: Mapping[str, Any],
    network: "SpectralMAE | None" = None,
    *,
    sigma_scale: Float32Array | None = None,
    adjustments: Mapping[str, Adjustment] | None = None,
    task: TaskPart | None = None,
    overwrite: bool = True,
    inputs: FileIds = NO_FILES,
) -> str:
    """Write a model and its card; the SHA-256 of the file. The same model and card give the same bytes.

    Parameters
    ----------
    prior : the model, or the prior of the network.
    sigma_scale, adjustments, task : as in `Weights`.
    overwrite, inputs : as in `files.move_into_place`.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(getattr(prior, name), np.float32) for name in LINEAR_AXES}
    arrays |= {name: np.array([getattr(prior, name)], np.float32) for name in LINEAR_NUMBERS}
    for prefix, axes, part in (
        (COVER_PREFIX, COVER_AXES, prior.covers),
        (PLACE_PREFIX, PLACE_AXES, prior.places),
    ):
        if part is not None:
            arrays |= {prefix + name: np.ascontiguousarray(getattr(part, name), np.float32) for name in axes}
    metadata = {"format": FORMAT, "kind": LINEAR, "card": json.dumps(card, sort_keys=True)}
    if network is not None:
        arrays = {PRIOR_PREFIX + name: array for name, array in arrays.items()}
        for name, tensor in network.state_dict().items():
            arrays[NETWORK_PREFIX + name] = np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)
        metadata |= {"kind": NETWORK, "config": json.dumps(network.config.to_dict(), sort_keys=True)}
        for name, array in ((SIGMA_SCALE, sigma_scale), (SHARE, network.share)):
            if array is not None:
                arrays[name] = np.ascontiguousarray(array, np.float32)
    if adjustments:
        metadata["adjustments"] = json.dumps(adjustments, sort_keys=True)
    if task:
        metadata["task"] = json.dumps(task.facts, sort_keys=True)
        arrays |= {TASK_PREFIX + name: np.ascontiguousarray(array, np.float32) for name, array in task.arrays.items()}
    content = save(arrays, metadata)
    # safetensors writes metadata in no fixed order: sort the keys of the header
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # arrays begin at multiples of 8 bytes
    content = len(header).to_bytes(8, "little") + header + content[end:]
    write_bytes(path, content, overwrite=overwrite, inputs=inputs)
    return hashlib.sha256(content).hexdigest()


def _linear(path: Path, arrays: Arrays) -> SpectralPrior:
    """The prior of a file, with every array checked."""
    axes = LINEAR_AXES | dict.fromkeys(LINEAR_NUMBERS, "1")
    of_covers, of_places = _part(arrays, COVER_PREFIX), _part(arrays, PLACE_PREFIX)
    for prefix, part, of_part in ((COVER_PREFIX, of_covers, COVER_AXES), (PLACE_PREFIX, of_places, PLACE_AXES)):
        axes |= {prefix + name: letters for name, letters in of_part.items() if part}
    train_again = "Train the weights again with `ms2hs pretrain`."
    sizes = {"1": 1, "c": len(COVERS), "l": len(LAND)}
    for name, letters in axes.items():
        if name not in arrays:
            raise _error(path, f"no array {name!r}; a linear model has {', '.join(axes)}")
        array = arrays[name]
        if array.dtype != np.float32 or array.ndim != len(letters):
            problem = f"{name} is {array.dtype} with {array.ndim} axes; float32 with {len(letters)} is needed"
            raise _error(path, problem, train_again)
        for letter, size in zip(letters, array.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                problem = f"{name} has shape {array.shape}; {sizes[letter]} is needed on axis {letter!r}"
                raise _error(path, problem, train_again)
            if size < LEAST_SIZES[letter] or (letter == "w" and size > MAX_WAVELENGTHS):
                problem = f"{name} has shape {array.shape}; {LEAST_SIZES[letter]} or more are needed on axis {letter!r}"
                raise _error(path, f"{problem}, and at most {MAX_WAVELENGTHS} wavelengths", train_again)
        (low, high), values = (
            LINEAR_RANGES[name.removeprefix(COVER_PREFIX).removeprefix(PLACE_PREFIX)],
            np.asarray(array, float),
        )
        if not ((low <= values) & (values <= high)).all():
            raise _error(path, f"{name} has values that are not finite or beyond {low:g} to {high:g}", train_again)
    if (np.diff(np.asarray(arrays["wavelength_nm"], float)) <= 0).any():
        raise _error(path, "wavelength_nm does not ascend; ascending wavelengths are needed")
    numbers = {name: float(np.asarray(arrays[name], float)[0]) for name in LINEAR_NUMBERS}
    known = {name: arrays[name] for name in LINEAR_AXES}
    covers = CoverFactors(**{name: of_covers[name] for name in COVER_AXES}) if of_covers else None  # type: ignore[arg-type]
    places = PlaceSpread(**{name: of_places[name] for name in PLACE_AXES}) if of_places else None  # type: ignore[arg-type]
    return SpectralPrior(**known, **numbers, covers=covers, places=places)  # type: ignore[arg-type]


def _network(path: Path, config: ModelConfig, arrays: Arrays, prior: SpectralPrior) -> "SpectralMAE":
    """The network of a file, with every array checked against its configuration."""
    import torch  # noqa: PLC0415  slow to import; the linear model does not need torch

    from ms2hs.models.mae import SpectralMAE  # noqa: PLC0415

    if config.rank > (rank := prior.factors.shape[1]):
        raise _error(path, f"rank {config.rank} in its configuration; its prior has {rank}, and at most that is needed")
    # A wrong configuration may be huge: then only shapes are built, without memory, for which torch loads a second.
    is_plausible = config.least_parameters <= sum(array.size for array in arrays.values())
    with torch.device("cpu" if is_plausible else "meta"):
        network = SpectralMAE(config, prior)
    needed = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if needed.keys() != arrays.keys():
        missing, unknown = sorted(needed.keys() - arrays.keys()), sorted(arrays.keys() - needed.keys())
        absent = f"{len(missing)} missing arrays ({', '.join(missing[:3])})"
        extra = f"{len(unknown)} unknown ({', '.join(unknown[:3])})"
        raise _error(path, f"{absent} and {extra}; the arrays of its configuration are needed")
    for name, array in arrays.items():
        _check_array(path, name, array, needed[name])
    network.load_state_dict({name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays.items()})
    return network.eval()


def _task(path: Path, facts: Mapping[str, Any], arrays: Arrays, network: "SpectralMAE | None") -> TaskPart | None:
    """The head of a task, with every array checked against the network."""
    if not (facts or arrays):
        return None
    weight = arrays.get("head.weight", np.zeros(0))
    if network is None or not facts or weight.ndim != 2:
        raise _error(path, "half a head of a task; a network, a header `task` and head.weight (2 axes) are needed")
    needed = {f"encoder.{name}": tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    needed |= {"head.weight": weight.shape, "head.bias": weight.shape[:1]}
    for name in arrays.keys() | {"head.bias"}:
        if name not in arrays or name not in needed:
            problem = f"{'no' if name in needed else 'an unknown'} array {TASK_PREFIX + name!r}"
            raise _error(path, f"{problem}; head.weight, head.bias and arrays of the encoder are allowed")
        _check_array(path, TASK_PREFIX + name, arrays[name], needed[name])
    return TaskPart(facts, arrays)


def _check_array(path: Path, name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    """WeightsError unless an array is finite float32 of this shape."""
    if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array.astype(float)).all():
        raise _error(path, f"{name} is {array.dtype} {array.shape}; finite float32 {shape} is needed")
