"""Beginning an encoder with a vision transformer that was trained on photographs, in timm's naming."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ms2hs.errors import WeightsError
from ms2hs.models.mae import SpectralMAE

# Present in every ViT of timm, in no weights of ours.
SIGN = "blocks.0.attn.qkv.weight"
FILTERS = "patch_embed.proj.weight"


@dataclass(frozen=True)
class Taken:
    """What was done with each array of a file."""

    taken: tuple[str, ...]
    """Names in the file whose values the encoder now has."""
    left: dict[str, str]
    """Names in the file that were not used, and why."""
    new: tuple[str, ...]
    """Names of the encoder that the file did not serve."""


def is_vit(path: Path) -> bool:
    """Whether a safetensors file is a ViT in timm's naming."""
    try:
        with safe_open(path, framework="numpy") as file:
            return SIGN in file.keys()  # noqa: SIM118  no mapping
    except (SafetensorError, OSError):
        return False


def take_vit(network: SpectralMAE, path: Path) -> Taken:
    """Give the network's encoder the blocks and the last norm of a ViT, and its patch filters where they fit.

    A band is a grey picture, so a filter of a band is the sum of those of red, green and blue.

    Raises
    ------
    WeightsError : the file cannot be read, or its width or number of blocks is another than the encoder's.
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
    width = arrays[SIGN].shape[1] if SIGN in arrays else 0
    if (width, depth) != (config.width, config.depth):
        raise WeightsError(
            f"{path}: a ViT of width {width} with {depth} blocks; width {config.width} with {config.depth} is needed. "
            f"Give another, or build the encoder like it with --set width={width} --set depth={depth}."
        )
    state, wanted, left = network.state_dict(), {}, {}
    for name, array in arrays.items():
        own, values, reason = _place(name, array, network)
        if own is None:
            left[name] = reason
        elif state[own].shape != values.shape:
            left[name] = f"shape {tuple(array.shape)} does not fit {tuple(state[own].shape)}"
        else:
            wanted[own] = (name, values.to(state[own].dtype))
    network.load_state_dict(state | {own: values for own, (_, values) in wanted.items()})
    encoder = [name for name in state if name.startswith(("encoder.", "norm.", "embed."))]
    taken = tuple(sorted(name for name, _ in wanted.values()))
    return Taken(taken, left, tuple(name for name in encoder if name not in wanted))


def _place(name: str, array: Tensor, network: SpectralMAE) -> tuple[str | None, Tensor, str]:
    """Where an array of a ViT belongs in ours (None: nowhere), as which values, or why not."""
    if name.startswith("blocks."):
        own = "encoder." + name.removeprefix("blocks.")
        return (own if own in network.state_dict() else None), array, "the encoder's blocks have no such part"
    if name in {"norm.weight", "norm.bias"}:
        return name, array, ""
    if name not in {FILTERS, "patch_embed.proj.bias"}:
        return None, array, "positions and classes of photographs"
    config = network.config
    if config.group != 1 or config.rank:
        return None, array, "a token here is no single band"
    if name == FILTERS and array.shape[-1] != config.patch:
        return None, array, f"patches of {array.shape[-1]} pixels, {config.patch} here"
    grey = torch.flatten(array.sum(dim=1), 1) if name == FILTERS else array
    return "embed." + name.rpartition(".")[2], grey, ""
