"""Patches of windows: cutting and joining them, filling invalid pixels, means, and values between patches."""

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor


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
