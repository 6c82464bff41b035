"""The masked autoencoder: reflectance of all target bands from the visible tokens of a window.

A token is a cube of reflectance: a patch of p by p pixels by a group of s bands. Its position encodes the patch, and
the group's wavelength and width in nm, so the weights depend on no band count. In training a strategy of `masking`
hides tokens, and the encoder receives the visible tokens (He et al. 2022, arXiv 2111.06377). The decoder gets a query
for each target group, computed from its wavelength, and predicts hidden and visible bands. With a prior (`rank` above
0) one query for each patch predicts a correction of the prior's expectation.

With `measured` as `coefficients` a token is a patch: what the prior expects of its pixels, given the visible bands, as
coefficients of the prior's directions. The decoder is queried by the source's bands: it predicts the errors of each
band that all pixels of the window have in common, from the patches and from a closed-form estimate, to which it adds.
These errors correct the coefficients of each patch; corrections of the pixels are interpolated between patches. A pixel
then costs two matrix products, as with the prior alone, and the network's cost is that of its few tokens.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from ms2hs.arrays import FloatArray
from ms2hs.models.config import TARGETS, ModelConfig
from ms2hs.models.layers import (
    BandView,
    Block,
    SpatialPosition,
    SpectralPosition,
    between_patches,
    fill_invalid,
    mean_by_patch,
    patchify,
    per_pixel,
    smoothed,
    unpatchify,
)
from ms2hs.models.masking import SENSORS
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.prior_tensors import ERRORS, EVIDENCE, LARGEST_ERROR, PriorOfBands, content_size, features
from ms2hs.spectra.indices import LAND
from ms2hs.spectra.product_error import InputError
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

# Without a prior, the reflectance of land in tokens is scaled to about -1 … 1: (x - MIDDLE) / SPREAD.
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
        pixels, side = c.patch**2, c.window // c.patch
        if c.by_patch:
            self.embed = nn.Linear(content_size(c.rank), c.width)
            self.unseen = nn.Parameter(0.02 * torch.randn(c.width))  # content of a patch that is hidden or invalid
            self.embed_evidence = nn.Linear(EVIDENCE, c.decoder_width)
        else:
            extra = 1 if c.rank else 0  # the logarithm of the scale
            self.embed = nn.Linear(c.group * pixels + extra, c.width)
            single_bands = c.group > 1 and (c.measured == "tokens" or SENSORS in c.masking)
            self.embed_band = nn.Linear(pixels + extra, c.width) if single_bands else None
            self.spectral = SpectralPosition(c.positions, c.width)
            self.query = nn.Parameter(0.02 * torch.randn(c.decoder_width))
            self.decoder_spatial = SpatialPosition(c.positions, c.decoder_width, side)
        self.decoder_spectral = SpectralPosition(c.positions, c.decoder_width)
        self.spatial = SpatialPosition(c.positions, c.width, side)
        self.encoder = nn.ModuleList(Block(c.width, c.heads) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        self.to_decoder = nn.Linear(c.width, c.decoder_width)
        self.decoder = nn.ModuleList(Block(c.decoder_width, c.decoder_heads) for _ in range(c.decoder_depth))
        self.decoder_norm = nn.LayerNorm(c.decoder_width, eps=1e-6)
        values = len(ERRORS) if c.by_patch else pixels * (c.rank or c.group)
        self.head = nn.Linear(c.decoder_width, values)
        self.apply(_initialise)
        # training starts at the prior's expectation, or near the middle of reflectance
        nn.init.normal_(self.head.weight, std=0.0 if c.rank else 0.02)

    def set_share(self, share: FloatArray | None) -> None:
        """Scale the network's correction of the prior by `share`.

        Parameters
        ----------
        share : (wavelength,) 0-1, on the prior's wavelengths; None: the whole correction.
        """
        if self.prior is None:
            raise ValueError("a network without a prior has no correction to scale")
        self.share, self._cached = share, None

    def band_view(self, grid: SpectralGrid, error: InputError | None = None) -> BandView:
        """The bands of a grid as input or output of this model. Takes some 10 ms, so keep it.

        Parameters
        ----------
        error : errors of the input, which a network of the prior's coefficients then corrects.

        Raises
        ------
        GridError : bands outside the prior's wavelengths, where the model has a prior.
        """
        response = None if self.prior is None else response_matrix(grid, self.prior.wavelength_nm)
        return BandView(grid.wavelength_nm, grid.fwhm_nm, response, error or InputError())

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
            Not of a network of `coefficients`.
        valid : (window, row, col) False where a pixel is unknown; it then counts as the mean of its patch.
        """
        if self.config.by_patch:
            return self._corrected(reflectance, source, target or source, valid)
        group = self.config.group if target is None else 1
        target = source if target is None else target
        values = reflectance if valid is None else fill_invalid(reflectance, valid, self.config.patch)
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
            scaled = values / per_pixel(scaling.scale, side, c.patch) - scaling.prior.mean[:, None, None]
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
        for block in self.encoder:
            sequences = block(sequences)
        encoded = self.norm(sequences).view(windows, -1, *sequences.shape[1:])  # (window, sequence, token, width)
        return EncodedTokens(encoded, None if c.per_patch else patch_index, centre, width, group_index)

    def decode(
        self, encoded: EncodedTokens, target: BandView, side: tuple[int, int], scaling: PriorScaling | None
    ) -> Tensor:
        """(window, target band, row, col) of a window of `side` patches."""
        c = self.config
        windows, bands = len(encoded.tokens), len(target.wavelength_nm)
        x = self.to_decoder(encoded.tokens)  # (window, sequence, token, width)
        spectral = self.decoder_spectral(encoded.centre_nm, encoded.width_nm)  # (group, width)
        spectral = spectral if encoded.groups is None else spectral[encoded.groups]
        x = x + spectral
        size = bands if c.rank else c.group  # with a prior one query stands for the whole spectrum
        query = self.query + self.decoder_spectral(*target.groups(size))  # (group, width)
        # Queries start from the mean of their patch's visible tokens. With equal queries for all patches, networks
        # predict the mean spectrum for hundreds of steps, until attention distinguishes patches.
        if encoded.patches is None:
            queries = query + x.mean(dim=2, keepdim=True)  # (window, patch, group, width)
        else:
            spatial = self.decoder_spatial(*side, x)  # (patch, width)
            visible = spatial + mean_by_patch(x[:, 0], encoded.patches[:, 0], len(spatial))  # (window, patch, width)
            queries = (query + visible[:, :, None]).flatten(1, 2)[:, None]  # (window, 1, patch · group, width)
            x = x + spatial[encoded.patches]
        x = torch.cat([x, queries], dim=2).flatten(0, 1)  # (window · sequence, token + query, width)
        for block in self.decoder[:-1]:
            x = block(x)
        x = self.decoder[-1](x, last=queries.shape[2])  # (window · sequence, query, width)
        output = self.head(self.decoder_norm(x)).view(windows, side[0] * side[1], -1)  # (window, patch, group · value)
        if scaling is None:
            values = output.view(*output.shape[:2], -1, c.group * c.patch**2)  # (window, patch, group, value)
            middle, spread, _ = TARGETS[c.targets]
            return (spread * unpatchify(values, side, c.patch, c.group) + middle)[:, :bands]
        values = output.view(*output.shape[:2], c.patch**2, c.rank).transpose(2, 3)  # (window, patch, rank, pixel)
        image = unpatchify(values.flatten(2)[:, :, None], side, c.patch, c.rank).float()  # (window, rank, row, col)
        image = smoothed(image * per_pixel(scaling.scale, side, c.patch), c.patch)
        correction = (scaling.prior.basis @ image.flatten(2)).view(windows, bands, *image.shape[2:])
        return scaling.expected + correction

    def _corrected(self, reflectance: Tensor, source: BandView, target: BandView, valid: Tensor | None) -> Tensor:
        """The prior's expectation plus the network's correction; arguments and result as of `forward`."""
        c = self.config
        values = reflectance if valid is None else fill_invalid(reflectance, valid, c.patch)
        prior = self.prior_between(source, target, values.device)
        content = prior.content(values, c.patch, valid)
        return prior.corrected(values, between_patches(self.correct(content, prior).float(), c.patch))

    def correct(self, content: Tensor, prior: PriorOfBands, errors: Tensor | None = None) -> Tensor:
        """(window, rank, patch row, patch col) corrections of the prior's coefficients, for spectra of scale 1.

        They are 0 without given errors: what a window adds to a pixel is the errors that its pixels have in common.

        Parameters
        ----------
        content : from `prior.content`; a patch whose last value is 0 is unknown.
        errors : (source band, 3) from `estimate`, of the whole raster; None: each window's own.
        """
        windows, rows, cols, _ = content.shape
        if prior.errors is None:
            nothing = 0 * self.head.bias.sum()  # training stays possible
            return nothing.expand(windows, self.config.rank, rows, cols)
        errors = self.estimate(content, prior)[0] if errors is None else errors.expand(windows, -1, -1)
        with torch.autocast(content.device.type, enabled=False):
            corrections = prior.errors.corrections(errors, *prior.split(content)[1:])
        return corrections.view(windows, rows, cols, -1).permute(0, 3, 1, 2)

    def estimate(self, content: Tensor, prior: PriorOfBands) -> tuple[Tensor, Tensor]:
        """(window, source band, 3) errors that are common to each window, in units of `CommonErrors.deviation`.

        Also (window,) the share of known land in each window, times its patches. `content` is as of `correct`.
        """
        assert prior.errors is not None  # noqa: S101  called only with given errors
        _, rows, cols, _ = content.shape
        described, *evidence = prior.split(content)
        with torch.autocast(content.device.type, enabled=False):
            expected, features = prior.errors.estimate(*evidence)
        known = described[..., -1:].flatten(1, 2) > 0  # (window, patch, 1)
        x = torch.where(known, self.embed(described.flatten(1, 2)), self.unseen) + self.spatial(rows, cols, content)
        for block in self.encoder:
            x = block(x)
        queries = self.embed_evidence(features) + self.decoder_spectral(*prior.errors.bands)
        x = torch.cat([self.to_decoder(self.norm(x)), queries], dim=1)
        for block in self.decoder[:-1]:
            x = block(x)
        x = self.decoder[-1](x, last=queries.shape[1])  # (window, source band, decoder width)
        errors = (expected + self.head(self.decoder_norm(x)).float()).clamp(-LARGEST_ERROR, LARGEST_ERROR)
        return errors, evidence[-1][..., -len(LAND) :].sum((1, 2))

    def _scaling(self, values: Tensor, source: BandView, target: BandView) -> PriorScaling:
        """The prior's expectation and scale, in float32 also under autocast."""
        prior = self.prior_between(source, target, values.device)
        with torch.autocast(values.device.type, enabled=False):
            flat = values.float().flatten(2)  # (window, source band, pixel)
            expected = prior.gain @ features(flat, prior.covers)  # (window, target band, pixel)
            expected = expected.view(len(flat), -1, *values.shape[2:])
            scale = F.avg_pool2d(prior.scale(values.float()), self.config.patch).flatten(1)
        return PriorScaling(expected, scale, prior)

    def prior_between(self, source: BandView, target: BandView, device: torch.device) -> PriorOfBands:
        """The prior between two sets of bands; cached for the last two, since a conversion uses no others."""
        if self._cached is not None and self._cached[:3] == (source, target, device):
            return self._cached[3]
        assert self.prior is not None  # noqa: S101  called only with a prior
        prior = PriorOfBands.of(self.prior, source, target, device, rank=self.config.rank, share=self.share)
        self._cached = (source, target, device, prior)
        return prior


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
