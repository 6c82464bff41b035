"""Layers of the masked autoencoder: transformer block, position encodings, and functions on the patches of windows.

Modules of the block have timm's names, so that checkpoints of its vision transformers fit.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor, nn

from ms2hs.arrays import FloatArray
from ms2hs.models.config import SEPARATE_SIN_COS, SIN_COS
from ms2hs.spectra.product_error import InputError
from ms2hs.spectra.spectral_grid import line_weights

# Periods of the Fourier encoding: of the wavelength, from the whole solar range to finer than a band, in nm; of the
# width, in octaves.
WAVELENGTH_PERIODS_NM = np.geomspace(8000.0, 16.0, 24)
WIDTH_PERIODS = np.geomspace(16.0, 2.0, 4)
# Amplitude of the fixed sinusoids.
AMPLITUDE = 0.5
# Wavelengths of the entries of a learnt spectral position; in between it is linear.
KNOTS_NM = np.arange(370.0, 2511.0, 20.0)


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """(sequence, token, width); only for the `last` tokens of each sequence, if given."""
        sequences, tokens, width = x.shape
        qkv = self.qkv(x).view(sequences, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (sequence, head, token, width of a head)
        query = query if last is None else query[:, :, tokens - last :]
        attended = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(attended.transpose(1, 2).flatten(2))  # (sequence, token, width)
        return output


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width)."""
        output: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return output


class Block(nn.Module):
    """A transformer block with layer norm before attention and before the MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """(sequence, token, width); only the `last` tokens of each sequence, if given."""
        kept = x if last is None else x[:, x.shape[1] - last :]
        kept = kept + self.attn(self.norm1(x), last)
        output: Tensor = kept + self.mlp(self.norm2(kept))
        return output


@dataclass(frozen=True, eq=False)
class BandView:
    """Bands as a model reads or predicts them."""

    wavelength_nm: FloatArray
    """(band,) centres."""
    fwhm_nm: FloatArray
    """(band,)."""
    response: FloatArray | None = None
    """(band, wavelength) response on the prior's wavelengths, for models with a prior."""
    error: InputError = field(default_factory=InputError)
    """Errors of the input that a network of the prior's coefficients is given."""

    def select(self, bands: NDArray[np.integer]) -> "BandView":
        """The view of these bands, by position."""
        response = None if self.response is None else self.response[bands]
        return BandView(self.wavelength_nm[bands], self.fwhm_nm[bands], response, self.error)

    def groups(self, size: int) -> tuple[FloatArray, FloatArray]:
        """(group,) centres and widths in nm of every `size` bands; the last group may have fewer."""
        starts = np.arange(0, len(self.wavelength_nm), size)
        counts = np.diff(np.append(starts, len(self.wavelength_nm)))
        centre = np.add.reduceat(self.wavelength_nm, starts) / counts
        low = np.minimum.reduceat(self.wavelength_nm - self.fwhm_nm / 2, starts)
        high = np.maximum.reduceat(self.wavelength_nm + self.fwhm_nm / 2, starts)
        return centre, high - low


def fourier(wavelength_nm: FloatArray, width_nm: FloatArray) -> FloatArray:
    """(band, feature) sines and cosines of wavelengths, and of the logarithm of widths."""
    angles = np.concatenate(
        [wavelength_nm[:, None] / WAVELENGTH_PERIODS_NM, np.log2(width_nm)[:, None] / WIDTH_PERIODS], axis=1
    )
    return np.concatenate([np.sin(2 * np.pi * angles), np.cos(2 * np.pi * angles)], axis=1)


def spatial_width(positions: str, width: int) -> int:
    """Features of a position that stand for row and column; the others stand for the wavelength, or 0: they share."""
    return width // 8 * 4 if positions == SEPARATE_SIN_COS else width


class SpectralPosition(nn.Module):
    """Spectral position of tokens, from (band,) wavelengths and widths in nm."""

    amplitude: Tensor

    def __init__(self, positions: str, width: int) -> None:
        super().__init__()
        self.width, self.skipped = width, spatial_width(positions, width) % width
        if positions in {SIN_COS, SEPARATE_SIN_COS}:
            self.register_buffer("amplitude", torch.tensor(AMPLITUDE), persistent=False)
        self.learnt = nn.Parameter(0.02 * torch.randn(len(KNOTS_NM), width)) if positions == "learnt" else None
        features = 2 * (len(WAVELENGTH_PERIODS_NM) + len(WIDTH_PERIODS))
        self.encoded = nn.Linear(features, width) if positions == "fourier" else None

    def forward(self, wavelength_nm: FloatArray, width_nm: FloatArray) -> Tensor:
        """(band, width)."""
        if self.encoded is not None:
            features = _like(self.encoded.weight, fourier(wavelength_nm, width_nm))
            encoded: Tensor = self.encoded(features)
            return encoded
        if self.learnt is not None:
            return _like(self.learnt, line_weights(wavelength_nm, KNOTS_NM)) @ self.learnt
        longest, *_, shortest = WAVELENGTH_PERIODS_NM
        periods_nm = np.geomspace(longest, shortest, (self.width - self.skipped) // 2)
        angles = 2 * np.pi * wavelength_nm[:, None] / periods_nm
        fixed = self.amplitude * _like(self.amplitude, np.concatenate([np.sin(angles), np.cos(angles)], axis=1))
        return F.pad(fixed, (self.skipped, 0))


class SpatialPosition(nn.Module):
    """Spatial position of tokens, from the number of rows and columns of patches."""

    def __init__(self, positions: str, width: int, side: int) -> None:
        super().__init__()
        self.width, self.used = width, spatial_width(positions, width)
        self.rows = nn.Parameter(0.02 * torch.randn(side, width)) if positions == "learnt" else None
        self.cols = nn.Parameter(0.02 * torch.randn(side, width)) if positions == "learnt" else None

    def forward(self, rows: int, cols: int, like: Tensor) -> Tensor:
        """(patch, width), row by row."""
        if self.rows is not None and self.cols is not None:
            down, across = _stretch(self.rows, rows), _stretch(self.cols, cols)
            return (down[:, None] + across[None]).flatten(0, 1)
        periods = np.geomspace(4.0, 400.0, self.used // 4)
        shape = (rows, cols, self.used // 4)
        angles = [2 * np.pi * np.arange(count)[:, None] / periods for count in (rows, cols)]
        parts = [
            np.broadcast_to(part, shape)
            for angle in (angles[0][:, None], angles[1][None])
            for part in (np.sin(angle), np.cos(angle))
        ]
        fixed = AMPLITUDE * _like(like, np.concatenate(parts, axis=-1).reshape(rows * cols, self.used))
        return F.pad(fixed, (0, self.width - self.used))


def _stretch(table: Tensor, count: int) -> Tensor:
    """(count, width): the first entries of a learnt table, or its interpolation where it is too short."""
    if count <= len(table):
        return table[:count]
    return F.interpolate(table.T[None], count, mode="linear", align_corners=True)[0].T


def _like(tensor: Tensor, array: NDArray[Any]) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32).to(tensor.device, non_blocking=True)


def fill_invalid(reflectance: Tensor, valid: Tensor, patch: int) -> Tensor:
    """Values with each invalid pixel replaced by the mean of its patch, or of its window where the patch has none."""
    known = valid[:, None].to(reflectance.dtype)
    values = torch.where(valid[:, None], reflectance, torch.zeros_like(reflectance))
    of_window = values.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    share = F.avg_pool2d(known, patch)  # (window, 1, patch row, patch col)
    of_patch = torch.where(share > 0, F.avg_pool2d(values, patch) / share.clamp(min=1 / patch**2), of_window)
    return torch.where(valid[:, None], values, of_patch.repeat_interleave(patch, 2).repeat_interleave(patch, 3))


def mean_by_patch(tokens: Tensor, patches: Tensor, count: int) -> Tensor:
    """(window, patch, width) mean of the tokens (window, token, width) of each patch; 0 for a patch without tokens."""
    windows, _, width = tokens.shape
    index = patches[:, :, None].expand(-1, -1, width)
    total = tokens.new_zeros(windows, count, width).scatter_add(1, index, tokens)
    number = tokens.new_zeros(windows, count).scatter_add(1, patches, torch.ones_like(patches, dtype=tokens.dtype))
    return total / number.clamp(min=1)[:, :, None]


def smoothed(values: Tensor, patch: int) -> Tensor:
    """Values (window, band, row, col) averaged over a patch around each pixel, so that patches leave no visible edges.

    Weights are symmetric about the pixel: for patches of 4 they are 1, 2, 2, 2, 1.
    """
    if patch == 1:
        return values
    reach = patch // 2
    averaged = F.avg_pool2d(F.pad(values, (reach, reach, reach, reach), mode="replicate"), patch, 1)
    return averaged if patch % 2 else F.avg_pool2d(averaged, 2, 1)


def per_pixel(values: Tensor, side: tuple[int, int], patch: int) -> Tensor:
    """(window, 1, row, col) of values (window, patch)."""
    image = values.view(-1, 1, *side)
    return image.repeat_interleave(patch, 2).repeat_interleave(patch, 3) if patch > 1 else image


def patchify(values: Tensor, patch: int, group: int) -> Tensor:
    """(window, patch, group, group · patch²) tokens of (window, band, row, col); the last group is padded with 0."""
    windows, bands, rows, cols = values.shape
    values = F.pad(values, (0, 0, 0, 0, 0, -bands % group))
    values = values.view(windows, -1, group, rows // patch, patch, cols // patch, patch)
    values = values.permute(0, 3, 5, 1, 2, 4, 6)  # (window, patch row, patch col, group, band, row, col)
    return values.reshape(windows, (rows // patch) * (cols // patch), -1, group * patch**2)


def unpatchify(tokens: Tensor, side: tuple[int, int], patch: int, group: int) -> Tensor:
    """(window, band, row, col) of tokens (window, patch, group, group · patch²): undoes `patchify`, keeps padding."""
    windows, _, groups, _ = tokens.shape
    values = tokens.view(windows, *side, groups, group, patch, patch)
    values = values.permute(0, 3, 4, 1, 5, 2, 6)  # (window, group, band, patch row, row, patch col, col)
    return values.reshape(windows, groups * group, side[0] * patch, side[1] * patch)


def patch_means(values: Tensor, patch: int, valid: Tensor | None = None) -> Tensor:
    """(window, band, patch row, patch col) means of (window, band, row, col) over the valid pixels of each patch.

    0 for a patch without valid pixels.

    Parameters
    ----------
    valid : (window, 1, row, col), 1 where valid and 0 elsewhere; None: everywhere.
    """
    if valid is None:
        return F.avg_pool2d(values, patch)
    return F.avg_pool2d(values * valid, patch) / F.avg_pool2d(valid, patch).clamp(min=1 / patch**2)


def between_patches(values: Tensor, patch: int) -> Tensor:
    """(window, band, row, col) of values (window, band, patch row, patch col), bilinear between patch centres.

    Constant beyond the outermost centres.
    """
    pixels: Tensor = F.interpolate(values, scale_factor=patch, mode="bilinear", align_corners=False)
    return pixels
