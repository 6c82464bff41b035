"""Weights as safetensors files: arrays, and a header that says what they are. Nothing in them runs.

A file holds the arrays of one model, and as metadata `format` (this layout's version), `kind` (which model), and `card`
(JSON: what it was trained on, by which command, its scores). Kind `linear` is the spectral prior. Kind `mae` is a
masked autoencoder: its parameters as `network.…`, the prior that it stands beside as `prior.…`, once it is calibrated
its `sigma_scale`, the `share` of what it adds to the prior that counts, and in the metadata its configuration as
`config`. Either may have `adjustments` of products as JSON.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ms2hs.arrays import Float32Array
from ms2hs.errors import UnknownName, WeightsError
from ms2hs.files import write_bytes
from ms2hs.models.config import PRESETS, ModelConfig
from ms2hs.models.harmonization import Adjustment
from ms2hs.models.prior import SpectralPrior

if TYPE_CHECKING:
    from ms2hs.models.mae import SpectralMAE

FORMAT = "1"
LINEAR, NETWORK = "linear", "mae"
# What `default` stands for: the first of these that is there.
DEFAULT, BEST_FIRST = "default", ("spatial-spectral", LINEAR)
OF_NETWORK, OF_PRIOR = "network.", "prior."
SIGMA_SCALE, SHARE = "sigma_scale", "share"
SUFFIX = ".safetensors"
PACKAGE = Path(__file__).parents[1]
# Where weights are looked for by name: the checkout's own, then those that the wheel brought.
FOLDERS = (PACKAGE.parent / "weights", PACKAGE / "_weights")
# Axes of each array of the linear model; letters that recur must agree.
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


@dataclass(frozen=True, eq=False)
class Weights:
    """A model read from a file, and what the file says of it."""

    name: str
    path: Path
    kind: str
    """`linear` or `mae`."""
    prior: SpectralPrior
    """The spectral prior: the model itself, or what the network adds to, is compared with and tells the unlike by."""
    sha256: str
    """Of the whole file, in hexadecimal."""
    range_nm: tuple[float, float]
    """Shortest and longest wavelength that the model knows."""
    network: "SpectralMAE | None" = None
    """The masked autoencoder, where the weights are one; ready to reconstruct, on the CPU."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """`trained_on`, `command`, `settings`, `scores`, as far as the file says."""
    sigma_scale: Float32Array | None = None
    """(wavelength,) of a network: what stands for `prior.sigma_scale` in its uncertainty; None: not calibrated."""
    adjustments: Mapping[str, Adjustment] = field(default_factory=dict)
    """By sensor: what pairs showed that its products are off by."""

    @property
    def spread(self) -> SpectralPrior | None:
        """The prior whose `condition(...).sigma` is this model's calibrated uncertainty; None where it has none.

        A network's errors are as large as its own held-out scenes say, and lie in the spectrum as the prior's do.
        """
        if self.network is None:
            return self.prior
        return None if self.sigma_scale is None else replace(self.prior, sigma_scale=self.sigma_scale)


def weights_names() -> list[str]:
    """Names of the weights that can be loaded without a path, sorted; `default` stands for one of them."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob(f"*{SUFFIX}")})


def find_weights(name_or_path: str) -> Path:
    """The file of these weights: a path that was given, else by name in the checkout, then in the installed package.

    `default` is the best there is: a network beside its prior, or where none is there the prior alone.

    Raises
    ------
    UnknownName : neither a file nor a known name; the message lists the known ones.
    WeightsError : a path of a weights file that is not there.
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
    """The model of a weights file, checked.

    Raises
    ------
    UnknownName, WeightsError : not found; not safetensors; of another format or kind; arrays missing or of the wrong
        shape or type.
    """
    path = find_weights(name_or_path)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError, TypeError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error}); weights of ms2hs are needed. Download them again, or "
            "make them with `ms2hs pretrain`."
        ) from error
    if header.get("format") != FORMAT or header.get("kind") not in {LINEAR, NETWORK}:
        raise WeightsError(
            f"{path}: weights of format {header.get('format')!r}, kind {header.get('kind')!r}; format {FORMAT!r} and "
            f"kind {LINEAR!r} or {NETWORK!r} are read. Make them again with `ms2hs pretrain`, or use another "
            "version of ms2hs."
        )
    network = sigma_scale = None
    if header["kind"] == NETWORK:
        prior = _linear(path, _part(arrays, OF_PRIOR))
        network = _network(path, header.get("config", ""), _part(arrays, OF_NETWORK), prior)
        sigma_scale, share = (_by_wavelength(path, name, arrays, prior) for name in (SIGMA_SCALE, SHARE))
        if share is not None:
            network.blend(share.astype(float))
    else:
        prior = _linear(path, arrays)
    low, high = float(prior.wavelength_nm[0]), float(prior.wavelength_nm[-1])
    return Weights(
        *(path.stem, path, header["kind"], prior, digest, (low, high), network, _card(path, header)),
        sigma_scale=sigma_scale,
        adjustments=_adjustments(path, header.get("adjustments", "{}")),
    )


def _by_wavelength(
    path: Path, name: str, arrays: Mapping[str, NDArray[np.generic]], prior: SpectralPrior
) -> Float32Array | None:
    """An array of the prior's wavelengths, not negative; None where the file has none."""
    if name not in arrays:
        return None
    found, size = arrays[name], len(prior.wavelength_nm)
    if found.shape != (size,) or found.dtype != np.float32 or not (np.asarray(found, float) >= 0).all():
        raise WeightsError(
            f"{path}: {name} is {found.dtype} {found.shape}; {size} float32 of 0 or more are needed. Download the "
            "weights again, or calibrate them again with `ms2hs finetune --train none`."
        )
    return np.asarray(found, np.float32)


def _adjustments(path: Path, text: str) -> dict[str, dict[str, tuple[float, float]]]:
    try:
        found = json.loads(text)
        result = {
            str(sensor): {str(band): (float(gain), float(offset)) for band, (gain, offset) in bands.items()}
            for sensor, bands in found.items()
        }
    except (json.JSONDecodeError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{path}: its adjustments cannot be read ({error}); a gain and an offset a band and sensor are needed. "
            "Download the weights again."
        ) from error
    if not np.isfinite([pair for bands in result.values() for pair in bands.values()]).all():
        raise WeightsError(f"{path}: its adjustments have numbers that are not finite. Download the weights again.")
    return result


def _part(arrays: Mapping[str, NDArray[np.generic]], start: str) -> dict[str, NDArray[np.generic]]:
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def save_weights(
    path: Path,
    prior: SpectralPrior,
    card: Mapping[str, Any],
    network: "SpectralMAE | None" = None,
    *,
    sigma_scale: Float32Array | None = None,
    adjustments: Mapping[str, Adjustment] | None = None,
) -> str:
    """Write a model and its card; returns the SHA-256 of the file. The same model and card give the same bytes.

    Parameters
    ----------
    prior : the model, or what stands beside the network.
    sigma_scale, adjustments : as in `Weights`.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(getattr(prior, name), np.float32) for name in LINEAR_AXES}
    arrays |= {name: np.array([getattr(prior, name)], np.float32) for name in LINEAR_NUMBERS}
    metadata = {"format": FORMAT, "kind": LINEAR, "card": json.dumps(card, sort_keys=True)}
    if network is not None:
        arrays = {OF_PRIOR + name: array for name, array in arrays.items()}
        for name, tensor in network.state_dict().items():
            arrays[OF_NETWORK + name] = np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)
        metadata |= {"kind": NETWORK, "config": json.dumps(network.config.facts, sort_keys=True)}
        by_wavelength = {SIGMA_SCALE: sigma_scale, SHARE: network.share}
        arrays |= {
            name: np.ascontiguousarray(found, np.float32) for name, found in by_wavelength.items() if found is not None
        }
    if adjustments:
        metadata["adjustments"] = json.dumps(adjustments, sort_keys=True)
    content = _ordered(save(arrays, metadata))
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def _ordered(content: bytes) -> bytes:
    """The file with the keys of its header sorted: safetensors writes metadata in no fixed order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # arrays begin at multiples of 8 bytes
    return len(header).to_bytes(8, "little") + header + content[end:]


def _card(path: Path, header: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        card = json.loads(header.get("card", "{}"))
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: its card is not JSON ({error}). Download the weights again.") from error
    return card if isinstance(card, dict) else {}


def _linear(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> SpectralPrior:
    axes = LINEAR_AXES | dict.fromkeys(LINEAR_NUMBERS, "1")
    sizes = {"1": 1}
    for name, letters in axes.items():
        if name not in arrays:
            raise WeightsError(f"{path}: no array {name!r}; a linear model has {', '.join(axes)}. Make it again.")
        array = arrays[name]
        if array.dtype != np.float32 or array.ndim != len(letters):
            raise WeightsError(
                f"{path}: {name} is {array.dtype} with {array.ndim} axes; float32 with {len(letters)} is needed. "
                "Make the weights again with `ms2hs pretrain`."
            )
        for letter, size in zip(letters, array.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise WeightsError(
                    f"{path}: {name} has shape {array.shape}; {sizes[letter]} is needed on axis {letter!r}. "
                    "Make the weights again with `ms2hs pretrain`."
                )
        if not np.isfinite(array.astype(float)).all():
            raise WeightsError(f"{path}: {name} has values that are not finite. Download the weights again.")
    if (np.diff(np.asarray(arrays["wavelength_nm"], float)) <= 0).any():
        raise WeightsError(f"{path}: wavelength_nm must ascend, and does not. Download the weights again.")
    numbers = {name: float(np.asarray(arrays[name], float)[0]) for name in LINEAR_NUMBERS}
    known = {entry.name for entry in fields(SpectralPrior)}
    return SpectralPrior(**{name: array for name, array in arrays.items() if name in known} | numbers)  # type: ignore[arg-type]


def _network(path: Path, config: str, arrays: Mapping[str, NDArray[np.generic]], prior: SpectralPrior) -> "SpectralMAE":
    """The network of a file, after every array was compared with what its configuration asks for."""
    import torch  # noqa: PLC0415  slow to import, and the linear model needs none of it

    from ms2hs.models.mae import SpectralMAE  # noqa: PLC0415

    network = SpectralMAE(_config(path, config), prior)
    needed = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: array.shape for name, array in arrays.items()}
    if needed.keys() != found.keys():
        lacking, beyond = sorted(needed.keys() - found.keys()), sorted(found.keys() - needed.keys())
        raise WeightsError(
            f"{path}: arrays do not fit its configuration: {len(lacking)} missing ({', '.join(lacking[:3])}), "
            f"{len(beyond)} unknown ({', '.join(beyond[:3])}). Download the weights again, or train them again."
        )
    for name, array in arrays.items():
        if array.shape != needed[name] or array.dtype != np.float32 or not np.isfinite(array.astype(float)).all():
            raise WeightsError(
                f"{path}: {name} is {array.dtype} {array.shape}; finite float32 {needed[name]} is needed. "
                "Download the weights again, or train them again."
            )
    network.load_state_dict({name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays.items()})
    return network.eval()


def _config(path: Path, text: str) -> ModelConfig:
    try:
        return ModelConfig.of(json.loads(text))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: its configuration cannot be read ({error}); the header of weights of ms2hs has one. "
            "Download the weights again, or use another version of ms2hs."
        ) from error
