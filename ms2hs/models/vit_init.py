"""Initialisation of an encoder with a vision transformer (ViT) trained on photographs, in timm's naming."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ms2hs.errors import WeightsError
from ms2hs.models.mae import SpectralMAE

# Array of every ViT of timm, and of no weights of ms2hs.
MARKER = "blocks.0.attn.qkv.weight"
FILTERS = "patch_embed.proj.weight"


@dataclass(frozen=True)
class VitReport:
    """Use of each array of a ViT file."""

    copied: tuple[str, ...]
    """Names in the file whose values the encoder now has."""
    unused: dict[str, str]
    """Names in the file that were not used, and the reason."""
    new: tuple[str, ...]
    """Names of encoder arrays that the file has no values for."""


def is_vit(path: Path) -> bool:
    """Whether a safetensors file is a ViT in timm's naming."""
    try:
        with safe_open(path, framework="numpy") as file:
            return MARKER in file.keys()  # noqa: SIM118  no mapping
    except (SafetensorError, OSError):
        return False


def load_vit(network: SpectralMAE, path: Path) -> VitReport:
    """Copy the blocks and the last norm of a ViT into the network's encoder, and its patch filters where they fit.

    A band is a grey image, so its filter is the sum of the filters for red, green and blue.

    Raises
    ------
    WeightsError : the file cannot be read, or its width or number of blocks differs from the encoder's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            arrays: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error}); a ViT in timm's naming is needed. Download it again."
        ) from error
    config = network.config
    depth = 1 + max((int(name.split(".")[1]) for name in arrays if name.startswith("blocks.")), default=-1)
    width = arrays[MARKER].shape[1] if MARKER in arrays else 0
    if (width, depth) != (config.width, config.depth):
        raise WeightsError(
            f"{path}: a ViT of width {width} with {depth} blocks; width {config.width} with {config.depth} is needed. "
            f"Give another file, or build a matching encoder with --set width={width} --set depth={depth}."
        )
    state, copied, unused = network.state_dict(), {}, {}
    for name, array in arrays.items():
        own, values, reason = _encoder_array(name, array, network)
        if own is None:
            unused[name] = reason
        elif state[own].shape != values.shape:
            unused[name] = f"shape {tuple(array.shape)} does not fit {tuple(state[own].shape)}"
        else:
            copied[own] = (name, values.to(state[own].dtype))
    network.load_state_dict(state | {own: values for own, (_, values) in copied.items()})
    encoder = [name for name in state if name.startswith(("encoder.", "norm.", "embed."))]
    names = tuple(sorted(name for name, _ in copied.values()))
    return VitReport(names, unused, tuple(name for name in encoder if name not in copied))


def _encoder_array(name: str, array: Tensor, network: SpectralMAE) -> tuple[str | None, Tensor, str]:
    """Name in the encoder (None: unused), values for it, and the reason where unused, of an array of a ViT."""
    if name.startswith("blocks."):
        own = "encoder." + name.removeprefix("blocks.")
        return (own if own in network.state_dict() else None), array, "the encoder's blocks have no such array"
    if name in {"norm.weight", "norm.bias"}:
        return name, array, ""
    if name not in {FILTERS, "patch_embed.proj.bias"}:
        return None, array, "positions and classes of photographs"
    config = network.config
    if config.group != 1 or config.rank:
        return None, array, "tokens of this encoder are not single bands"
    if name == FILTERS and array.shape[-1] != config.patch:
        return None, array, f"patches of {array.shape[-1]} pixels, {config.patch} here"
    grey = torch.flatten(array.sum(dim=1), 1) if name == FILTERS else array
    return "embed." + name.rpartition(".")[2], grey, ""
