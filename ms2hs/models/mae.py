"""The masked autoencoder: reflectance of all target bands from the visible tokens of a window.

A token is a cube of reflectance: a patch of p by p pixels by a group of s bands. Its position encodes the patch, and
the group's wavelength and width in nm, so the weights depend on no band count. In training a strategy of `masking`
hides tokens, and the encoder receives the visible tokens (He et al. 2022, arXiv 2111.06377). The decoder gets a query
for each target group, computed from its wavelength, and predicts hidden and visible bands. With a prior (`rank` above
0) one query for each patch predicts a correction of the prior's expectation.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from ms2hs.arrays import FloatArray
from ms2hs.models.config import ModelConfig
from ms2hs.models.layers import BandView, Block, SpatialPosition, SpectralPosition
from ms2hs.models.masking import SENSORS
from ms2hs.models.prior import SpectralPrior
from ms2hs.spectra.indices import CoverShares, by_cover
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

# Without a prior, reflectance of land is scaled to about -1 … 1: (x - MIDDLE) / SPREAD.
MIDDLE, SPREAD = 0.25, 0.25


class EncodedTokens(NamedTuple):
    """Output of the encoder: the visible tokens and their positions."""

    tokens: Tensor
    """(window, sequence, token, width)."""
    patches: Tensor | None
    """(window, sequence, token) patch of each token; None: the sequence is the patch."""
    centre_nm: FloatArray
    """(group,) centres of the source's groups."""
    width_nm: FloatArray
    groups: Tensor | None
    """(window, sequence, token) group of each token; None: all groups in order."""


class PriorOfBands(NamedTuple):
    """The prior between the bands of a source and of a target, as tensors."""

    covers: CoverShares | None
    """Shares of the land covers; None: one map for all pixels."""
    gain: Tensor
    """(target band, feature)."""
    brightness: Tensor
    """(source band,)."""
    mean: Tensor
    """(source band,) mean of spectra of scale 1."""
    deviation: Tensor
    """(source band,) standard deviation of spectra of scale 1."""
    basis: Tensor
    """(target band, rank)."""


class PriorScaling(NamedTuple):
    """The prior's expectation of a batch, and the scale of its patches."""

    expected: Tensor
    """(window, target band, row, col)."""
    scale: Tensor
    """(window, patch)."""
    prior: PriorOfBands


class SpectralMAE(nn.Module):
    """A masked autoencoder of spectra. All presets are configurations of this class."""

    def __init__(self, config: ModelConfig, prior: SpectralPrior | None = None) -> None:
        super().__init__()
        if config.rank and prior is None:
            raise ValueError("a configuration with rank needs the spectral prior that it adds to")
        c = self.config = config
        self.prior = prior if c.rank else None
        self.share: FloatArray | None = None
        self._cached: tuple[BandView, BandView, torch.device, PriorOfBands] | None = None
        pixels = c.patch**2
        extra = 1 if c.rank else 0  # the logarithm of the scale
        self.embed = nn.Linear(c.group * pixels + extra, c.width)
        single_bands = c.group > 1 and (c.measured == "tokens" or SENSORS in c.masking)
        self.embed_band = nn.Linear(pixels + extra, c.width) if single_bands else None
        side = c.window // c.patch
        self.spectral = SpectralPosition(c.positions, c.width)
        self.spatial = SpatialPosition(c.positions, c.width, side)
        self.encoder = nn.ModuleList(Block(c.width, c.heads) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        self.place = nn.Parameter(0.02 * torch.randn(c.width)) if c.context else None  # a patch's summary token
        self.context = nn.ModuleList(Block(c.width, c.heads) for _ in range(c.depth if c.context else 0))
        self.to_decoder = nn.Linear(c.width, c.decoder_width)
        self.query = nn.Parameter(0.02 * torch.randn(c.decoder_width))
        self.decoder_spectral = SpectralPosition(c.positions, c.decoder_width)
        self.decoder_spatial = SpatialPosition(c.positions, c.decoder_width, side)
        self.decoder = nn.ModuleList(Block(c.decoder_width, c.decoder_heads) for _ in range(c.decoder_depth))
        self.decoder_norm = nn.LayerNorm(c.decoder_width, eps=1e-6)
        self.head = nn.Linear(c.decoder_width, pixels * (c.rank or c.group))
        self.apply(_initialise)
        # training starts at the prior's expectation, or near the middle of reflectance
        nn.init.normal_(self.head.weight, std=0.0 if c.rank else 0.02)

    @cached_property
    def _prior_statistics(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(wavelength,) mean and deviation, and (wavelength, rank) basis, of the prior's spectra of scale 1."""
        assert self.prior is not None  # noqa: S101  called only with a prior
        factors = self.prior.factors.astype(float)
        coefficients = self.prior.sample.mean(axis=0).astype(float)
        mean = factors @ coefficients
        variance = np.square(factors).sum(axis=1) - np.square(mean)
        return mean, np.sqrt(np.maximum(variance, 1e-4)), factors[:, : self.config.rank]

    def set_share(self, share: FloatArray | None) -> None:
        """Scale the network's correction of the prior by `share`.

        Parameters
        ----------
        share : (wavelength,) 0-1, on the prior's wavelengths; None: the whole correction.
        """
        if self.prior is None:
            raise ValueError("a network without a prior has no correction to scale")
        self.share, self._cached = share, None

    def band_view(self, grid: SpectralGrid) -> BandView:
        """The bands of a grid as input or output of this model. Takes some 10 ms, so keep it.

        Raises
        ------
        GridError : bands outside the prior's wavelengths, where the model has a prior.
        """
        response = None if self.prior is None else response_matrix(grid, self.prior.wavelength_nm)
        return BandView(grid.wavelength_nm, grid.fwhm_nm, response)

    def forward(
        self,
        reflectance: Tensor,
        source: BandView,
        target: BandView | None = None,
        visible: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """(window, target band, row, col) reflectance.

        Parameters
        ----------
        reflectance : (window, source band, row, col), rows and columns multiples of `patch`; any finite value where not
            valid or not visible.
        source : the input's bands, in ascending wavelength where they are cut into groups.
        target : the output's bands; each source band is then a token. None: the source's bands, which are then cut
            into groups of `config.group`.
        visible : (window, sequence, token) positions of the visible tokens, from `masking.visible_index`; None: all.
        valid : (window, row, col) False where a pixel is unknown; it then counts as the mean of its patch.
        """
        group = self.config.group if target is None else 1
        target = source if target is None else target
        values = reflectance if valid is None else _filled(reflectance, valid, self.config.patch)
        scaling = self._scaling(values, source, target) if self.prior is not None else None
        encoded = self.encode(values, source, visible, scaling, group)
        rows, cols = (size // self.config.patch for size in reflectance.shape[2:])
        return self.decode(encoded, target, (rows, cols), scaling)

    def encode(
        self, values: Tensor, source: BandView, visible: Tensor | None, scaling: PriorScaling | None, group: int
    ) -> EncodedTokens:
        """The visible tokens after the encoder's blocks."""
        c = self.config
        side = (values.shape[2] // c.patch, values.shape[3] // c.patch)
        if scaling is None:
            tokens = patchify((values - MIDDLE) / SPREAD, c.patch, group)  # (window, patch, group, value)
        else:
            scaled = values / _per_pixel(scaling.scale, side, c.patch) - scaling.prior.mean[:, None, None]
            tokens = patchify(scaled / scaling.prior.deviation[:, None, None], c.patch, group)
            log_scale = torch.log(4 * scaling.scale)[:, :, None, None].expand(*tokens.shape[:3], 1)
            tokens = torch.cat([tokens, log_scale], dim=-1)  # (window, patch, group, value + 1)
        windows, patches, groups, _ = tokens.shape
        centre, width = source.groups(group)
        spectral = self.spectral(centre, width)  # (group, width)
        embed = self.embed if group == c.group else self.embed_band
        if embed is None:
            raise ValueError("this configuration takes measured bands pasted, not as tokens of their own")
        if visible is None and c.per_patch:
            group_index = patch_index = None
            x = embed(tokens) + spectral  # (window, patch, group, width)
        else:
            if visible is None:
                visible = torch.arange(patches * groups, device=values.device).expand(windows, 1, -1)
            flat = tokens.flatten(1, 2)  # (window, patch · group, value)
            index = visible.flatten(1)[:, :, None].expand(-1, -1, flat.shape[2])  # (window, sequence · token, value)
            group_index, patch_index = visible % groups, visible // groups
            x = embed(flat.gather(1, index)).view(*visible.shape, c.width)  # (window, sequence, token, width)
            x = x + spectral[group_index]
        if not c.per_patch:
            x = x + self.spatial(*side, x)[patch_index]
        sequences = x.flatten(0, 1)  # (window · sequence, token, width)
        if self.place is not None:
            sequences = self._with_context(sequences, self.place + self.spatial(*side, x), windows)
        else:
            for block in self.encoder:
                sequences = block(sequences)
        encoded = self.norm(sequences).view(windows, -1, *sequences.shape[1:])  # (window, sequence, token, width)
        return EncodedTokens(encoded, None if c.per_patch else patch_index, centre, width, group_index)

    def _with_context(self, x: Tensor, summaries: Tensor, windows: int) -> Tensor:
        """(window · patch, 1 + token, width): a summary token before each patch's tokens, shared over the window.

        In each layer the tokens of a patch attend to each other and to their summary, then the summaries of a window
        attend to each other.
        """
        x = torch.cat([summaries.repeat(windows, 1)[:, None], x], dim=1)
        for block, context in zip(self.encoder, self.context, strict=True):
            x = block(x)
            shared = context(x[:, 0].view(windows, -1, x.shape[2]))  # (window, patch, width)
            x = torch.cat([shared.flatten(0, 1)[:, None], x[:, 1:]], dim=1)
        return x

    def decode(
        self, encoded: EncodedTokens, target: BandView, side: tuple[int, int], scaling: PriorScaling | None
    ) -> Tensor:
        """(window, target band, row, col) of a window of `side` patches."""
        c = self.config
        windows, bands = len(encoded.tokens), len(target.wavelength_nm)
        x = self.to_decoder(encoded.tokens)  # (window, sequence, token, width)
        spectral = self.decoder_spectral(encoded.centre_nm, encoded.width_nm)  # (group, width)
        spectral = spectral if encoded.groups is None else spectral[encoded.groups]
        # the summary token of a patch has no spectral position
        x = torch.cat([x[:, :, :1], x[:, :, 1:] + spectral], dim=2) if c.context else x + spectral
        size = bands if c.rank else c.group  # with a prior one query stands for the whole spectrum
        query = self.query + self.decoder_spectral(*target.groups(size))  # (group, width)
        # Queries start from the mean of their patch's visible tokens. With equal queries for all patches, networks
        # predict the mean spectrum for hundreds of steps, until attention distinguishes patches.
        if encoded.patches is None:
            queries = query + x.mean(dim=2, keepdim=True)  # (window, patch, group, width)
        else:
            spatial = self.decoder_spatial(*side, x)  # (patch, width)
            visible = spatial + _mean_by_patch(x[:, 0], encoded.patches[:, 0], len(spatial))  # (window, patch, width)
            queries = (query + visible[:, :, None]).flatten(1, 2)[:, None]  # (window, 1, patch · group, width)
            x = x + spatial[encoded.patches]
        x = torch.cat([x, queries], dim=2).flatten(0, 1)  # (window · sequence, token + query, width)
        for block in self.decoder[:-1]:
            x = block(x)
        x = self.decoder[-1](x, last=queries.shape[2])  # (window · sequence, query, width)
        output = self.head(self.decoder_norm(x)).view(windows, side[0] * side[1], -1)  # (window, patch, group · value)
        if scaling is None:
            values = output.view(*output.shape[:2], -1, c.group * c.patch**2)  # (window, patch, group, value)
            return (SPREAD * unpatchify(values, side, c.patch, c.group) + MIDDLE)[:, :bands]
        values = output.view(*output.shape[:2], c.patch**2, c.rank).transpose(2, 3)  # (window, patch, rank, pixel)
        image = unpatchify(values.flatten(2)[:, :, None], side, c.patch, c.rank).float()  # (window, rank, row, col)
        image = _smoothed(image * _per_pixel(scaling.scale, side, c.patch), c.patch)
        correction = (scaling.prior.basis @ image.flatten(2)).view(windows, bands, *image.shape[2:])
        return scaling.expected + correction

    def _scaling(self, values: Tensor, source: BandView, target: BandView) -> PriorScaling:
        """The prior's expectation and scale, in float32 also under autocast."""
        assert self.prior is not None  # noqa: S101  called only with a prior
        prior = self._prior_for(source, target, values.device)
        with torch.autocast(values.device.type, enabled=False):
            flat = values.float().flatten(2)  # (window, source band, pixel)
            expected = prior.gain @ features(flat, prior.covers)  # (window, target band, pixel)
            expected = expected.view(len(flat), -1, *values.shape[2:])
            brightness = (prior.brightness @ flat).view(len(flat), *values.shape[2:])  # (window, row, col)
            scale = torch.sqrt(brightness.square() + self.prior.floor**2)
            scale = F.avg_pool2d(scale[:, None], self.config.patch).flatten(1)  # (window, patch)
        return PriorScaling(expected, scale, prior)

    def _prior_for(self, source: BandView, target: BandView, device: torch.device) -> PriorOfBands:
        """The prior between two sets of bands; cached for the last two, since a conversion uses no others."""
        if self._cached is not None and self._cached[:3] == (source, target, device):
            return self._cached[3]
        assert self.prior is not None and source.response is not None and target.response is not None  # noqa: S101, PT018
        mean, deviation, basis = self._prior_statistics
        gain, brightness, covers = self.prior.expectation(source.wavelength_nm, source.response, target.response)
        if self.share is not None:
            basis = self.share[:, None] * basis
        arrays = (gain, brightness, source.response @ mean, source.response @ deviation, target.response @ basis)
        with torch.inference_mode(mode=False):  # training may use the cached tensors later
            tensors = [torch.as_tensor(array, dtype=torch.float32).to(device) for array in arrays]
            prior = PriorOfBands(covers, *tensors)
        self._cached = (source, target, device, prior)
        return prior


def features(reflectance: Tensor, covers: CoverShares | None) -> Tensor:
    """(..., feature, pixel) of reflectance (..., source band, pixel): `Posterior.features` of tensors."""
    return reflectance if covers is None else torch.cat(by_cover(reflectance, covers.shares(reflectance)), dim=-2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _filled(reflectance: Tensor, valid: Tensor, patch: int) -> Tensor:
    """Values with each invalid pixel replaced by the mean of its patch, or of its window where the patch has none."""
    known = valid[:, None].to(reflectance.dtype)
    values = torch.where(valid[:, None], reflectance, torch.zeros_like(reflectance))
    of_window = values.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    share = F.avg_pool2d(known, patch)  # (window, 1, patch row, patch col)
    of_patch = torch.where(share > 0, F.avg_pool2d(values, patch) / share.clamp(min=1 / patch**2), of_window)
    return torch.where(valid[:, None], values, of_patch.repeat_interleave(patch, 2).repeat_interleave(patch, 3))


def _mean_by_patch(tokens: Tensor, patches: Tensor, count: int) -> Tensor:
    """(window, patch, width) mean of the tokens (window, token, width) of each patch; 0 for a patch without tokens."""
    windows, _, width = tokens.shape
    index = patches[:, :, None].expand(-1, -1, width)
    total = tokens.new_zeros(windows, count, width).scatter_add(1, index, tokens)
    number = tokens.new_zeros(windows, count).scatter_add(1, patches, torch.ones_like(patches, dtype=tokens.dtype))
    return total / number.clamp(min=1)[:, :, None]


def _smoothed(values: Tensor, patch: int) -> Tensor:
    """Values (window, band, row, col) averaged over a patch around each pixel, so that patches leave no visible edges.

    Weights are symmetric about the pixel: for patches of 4 they are 1, 2, 2, 2, 1.
    """
    if patch == 1:
        return values
    reach = patch // 2
    averaged = F.avg_pool2d(F.pad(values, (reach, reach, reach, reach), mode="replicate"), patch, 1)
    return averaged if patch % 2 else F.avg_pool2d(averaged, 2, 1)


def _per_pixel(values: Tensor, side: tuple[int, int], patch: int) -> Tensor:
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
