"""The masked autoencoder: spectra of all bands from tokens of a few. One class; its presets are configurations of it.

A token is a cube of reflectance, p by p pixels by s bands, with a place in the window and in the spectrum; the latter
is an encoding of wavelength and width in nm, so no band count is written down. The encoder (He et al. 2022,
arXiv 2111.06377) sees the visible tokens only. The decoder is asked for target bands by their wavelengths.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor, nn

from ms2hs.arrays import FloatArray
from ms2hs.models.config import SENSORS, ModelConfig
from ms2hs.models.layers import BandView, Block, SpatialPosition, SpectralPosition
from ms2hs.models.prior import SpectralPrior
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

# Reflectance of land is brought to about -1 … 1 for models that have no prior: (x - MIDDLE) / SPREAD.
MIDDLE, SPREAD = 0.25, 0.25


class Memory(NamedTuple):
    """What the encoder made of the visible tokens."""

    tokens: Tensor
    """(window, sequence, token, width)."""
    places: Tensor | None
    """(window, sequence, token) place of each token; None: the sequence is the place."""
    centre_nm: FloatArray
    """(group,) of the groups that tokens were cut into."""
    width_nm: FloatArray
    groups: Tensor | None
    """(window, sequence, token) group of each; None: all, in order."""


class Scaling(NamedTuple):
    """What the prior makes of an input: its expectation, and how input and output are brought to scale 1."""

    expected: Tensor
    """(window, target band, row, col)."""
    scale: Tensor
    """(window, place)."""
    mean: Tensor
    """(source band,) of spectra of scale 1."""
    deviation: Tensor
    """(source band,)."""
    basis: Tensor
    """(target band, rank)."""


class SpectralMAE(nn.Module):
    """Reflectance of all target bands from some tokens of a window."""

    def __init__(self, config: ModelConfig, prior: SpectralPrior | None = None) -> None:
        super().__init__()
        if config.rank and prior is None:
            raise ValueError("a configuration with rank needs the spectral prior that it adds to")
        c = self.config = config
        self.prior = prior if c.rank else None
        self.share: FloatArray | None = None
        self._kept: tuple[BandView, BandView, torch.device, _Sight] | None = None
        pixels = c.patch**2
        extra = 1 if c.rank else 0  # the logarithm of the scale
        self.embed = nn.Linear(c.group * pixels + extra, c.width)
        own = c.group > 1 and (c.measured == "tokens" or SENSORS in c.masking)
        self.embed_band = nn.Linear(pixels + extra, c.width) if own else None
        side = c.window // c.patch
        self.spectral = SpectralPosition(c.positions, c.width)
        self.spatial = SpatialPosition(c.positions, c.width, side)
        self.encoder = nn.ModuleList(Block(c.width, c.heads) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        self.place = nn.Parameter(0.02 * torch.randn(c.width)) if c.context else None
        self.context = nn.ModuleList(Block(c.width, c.heads) for _ in range(c.depth if c.context else 0))
        self.to_decoder = nn.Linear(c.width, c.decoder_width)
        self.query = nn.Parameter(0.02 * torch.randn(c.decoder_width))
        self.decoder_spectral = SpectralPosition(c.positions, c.decoder_width)
        self.decoder_spatial = SpatialPosition(c.positions, c.decoder_width, side)
        self.decoder = nn.ModuleList(Block(c.decoder_width, c.decoder_heads) for _ in range(c.decoder_depth))
        self.decoder_norm = nn.LayerNorm(c.decoder_width, eps=1e-6)
        self.head = nn.Linear(c.decoder_width, pixels * (c.rank or c.group))
        self.apply(_initialise)
        # so that training starts at the prior, or near the middle of reflectance
        nn.init.normal_(self.head.weight, std=0.0 if c.rank else 0.02)

    @cached_property
    def _fine(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(wavelength,) mean and deviation, and (wavelength, rank) basis, of the prior's spectra of scale 1."""
        assert self.prior is not None  # noqa: S101  asked for only then
        factors = self.prior.factors.astype(float)
        coefficients = self.prior.sample.mean(axis=0).astype(float)
        mean = factors @ coefficients
        variance = np.square(factors).sum(axis=1) - np.square(mean)
        return mean, np.sqrt(np.maximum(variance, 1e-4)), factors[:, : self.config.rank]

    def blend(self, share: FloatArray | None) -> None:
        """Let only a share of what the network adds to the prior count.

        Parameters
        ----------
        share : (wavelength,) 0-1, on the prior's wavelengths; None: all of it.
        """
        if self.prior is None:
            raise ValueError("a network without a prior has nothing to blend with")
        self.share, self._kept = share, None

    def lens(self, grid: SpectralGrid) -> BandView:
        """A grid's bands as this model looks through them; worth keeping, it takes some 10 ms.

        Raises
        ------
        GridError : bands outside the prior's wavelengths, where the model has one.
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
        reflectance : (window, source band, row, col), rows and columns multiples of `patch`; anything finite where
            not valid or not visible.
        source : its bands, in ascending wavelength where they are cut into groups.
        target : bands asked for; None: the source's own, which are then cut into groups of `config.group`. With a
            target each source band is a token of its own.
        visible : (window, sequence, token) positions of the tokens seen, as `masking.visible_index` gives; None: all.
        valid : (window, row, col) False where a pixel is not known; it then counts as the mean of its place.
        """
        own = target is None
        values = reflectance if valid is None else _filled(reflectance, valid, self.config.patch)
        scaling = self._scaling(values, source, target or source) if self.prior is not None else None
        memory = self.encode(values, source, visible, scaling, group=self.config.group if own else 1)
        rows, cols = (size // self.config.patch for size in reflectance.shape[2:])
        return self.decode(memory, target or source, (rows, cols), scaling)

    def encode(
        self, values: Tensor, source: BandView, visible: Tensor | None, scaling: Scaling | None, group: int
    ) -> Memory:
        """The visible tokens, after they have met."""
        c = self.config
        side = (values.shape[2] // c.patch, values.shape[3] // c.patch)
        if scaling is None:
            scaled = (values - MIDDLE) / SPREAD
            tokens = cut(scaled, c.patch, group)  # (window, place, group, value)
        else:
            scaled = values / _spread(scaling.scale, side, c.patch) - scaling.mean[:, None, None]
            tokens = cut(scaled / scaling.deviation[:, None, None], c.patch, group)
            size = torch.log(4 * scaling.scale)[:, :, None, None].expand(*tokens.shape[:3], 1)
            tokens = torch.cat([tokens, size], dim=-1)
        windows, places, groups, _ = tokens.shape
        centre, width = source.groups(group)
        where = self.spectral(centre, width)  # (group, width)
        by_place = c.reach == "place"
        embed = self.embed if group == c.group else self.embed_band
        if embed is None:
            raise ValueError("this configuration takes measured bands pasted, not as tokens of their own")
        at: Tensor | None = None
        which: Tensor | None = None
        if visible is None and by_place:
            x = embed(tokens) + where
        else:
            if visible is None:
                visible = torch.arange(places * groups, device=values.device).expand(windows, 1, -1)
            flat = tokens.flatten(1, 2)  # (window, place · group, value)
            taken = visible.flatten(1)[:, :, None].expand(-1, -1, flat.shape[2])
            which, at = visible % groups, visible // groups
            x = embed(flat.gather(1, taken)).view(*visible.shape, c.width) + where[which]
        if not by_place:
            x = x + self.spatial(*side, x)[at]
        sequences = x.flatten(0, 1)  # (window · sequence, token, width)
        if self.place is not None:
            sequences = self._with_context(sequences, self.place + self.spatial(*side, x), windows)
        else:
            for block in self.encoder:
                sequences = block(sequences)
        made = self.norm(sequences).view(windows, -1, *sequences.shape[1:])
        return Memory(made, None if by_place else at, centre, width, which)

    def _with_context(self, x: Tensor, places: Tensor, windows: int) -> Tensor:
        """Each place's tokens meet behind one that stands for it, and those meet over the window."""
        x = torch.cat([places.repeat(windows, 1)[:, None], x], dim=1)
        for block, context in zip(self.encoder, self.context, strict=True):
            x = block(x)
            heads = context(x[:, 0].view(windows, -1, x.shape[2])).flatten(0, 1)
            x = torch.cat([heads[:, None], x[:, 1:]], dim=1)
        return x

    def decode(self, memory: Memory, target: BandView, side: tuple[int, int], scaling: Scaling | None) -> Tensor:
        """(window, target band, row, col) of a window of `side` places."""
        c = self.config
        windows, bands = len(memory.tokens), len(target.wavelength_nm)
        x = self.to_decoder(memory.tokens)
        where = self.decoder_spectral(memory.centre_nm, memory.width_nm)
        seen = where if memory.groups is None else where[memory.groups]
        # the token that stands for a place lies nowhere in the spectrum
        x = torch.cat([x[:, :, :1], x[:, :, 1:] + seen], dim=2) if c.context else x + seen
        size = bands if c.rank else c.group  # with a prior one query asks for the whole spectrum
        asked = self.query + self.decoder_spectral(*target.groups(size))  # (group, width)
        # Queries begin with the mean of what their place shows. Else nothing tells them apart from place to place until
        # attention has learnt where to look, and networks stay at the mean spectrum for hundreds of steps.
        if memory.places is None:
            queries = asked + x.mean(dim=2, keepdim=True)  # (window, place, group, width)
        else:
            spatial = self.decoder_spatial(*side, x)  # (place, width)
            shown = spatial + _mean_by_place(x[:, 0], memory.places[:, 0], len(spatial))
            queries = (asked + shown[:, :, None]).flatten(1, 2)[:, None]  # (window, 1, place · group, width)
            x = x + spatial[memory.places]
        x = torch.cat([x, queries], dim=2).flatten(0, 1)
        for block in self.decoder[:-1]:
            x = block(x)
        x = self.decoder[-1](x, asking=queries.shape[2])
        made = self.head(self.decoder_norm(x)).view(windows, side[0] * side[1], -1)
        if scaling is None:
            values = made.view(*made.shape[:2], -1, c.group * c.patch**2)
            return (SPREAD * paste(values, side, c.patch, c.group) + MIDDLE)[:, :bands]
        values = made.view(*made.shape[:2], c.patch**2, c.rank).transpose(2, 3)
        image = paste(values.flatten(2)[:, :, None], side, c.patch, c.rank).float()
        image = _feathered(image * _spread(scaling.scale, side, c.patch), c.patch)
        added = (scaling.basis @ image.flatten(2)).view(windows, bands, *image.shape[2:])
        return scaling.expected + added

    def _scaling(self, values: Tensor, source: BandView, target: BandView) -> Scaling:
        """What the prior expects, in float32 whatever the rest is computed in."""
        assert self.prior is not None  # noqa: S101  asked for only then
        sight = self._sight(source, target, values.device)
        with torch.autocast(values.device.type, enabled=False):
            flat = values.float().flatten(2)  # (window, band, pixel)
            expected = (sight.gain @ flat).view(len(flat), -1, *values.shape[2:])
            bright = (sight.brightness @ flat).view(len(flat), *values.shape[2:])
            scale = torch.sqrt(bright.square() + self.prior.floor**2)
            scale = F.avg_pool2d(scale[:, None], self.config.patch).flatten(1)
        return Scaling(expected, scale, sight.mean, sight.deviation, sight.basis)

    def _sight(self, source: BandView, target: BandView, device: torch.device) -> "_Sight":
        """The prior between two lenses; that of the last two is kept, since a conversion asks for no others."""
        if self._kept is not None and self._kept[:3] == (source, target, device):
            return self._kept[3]
        assert self.prior is not None and source.response is not None and target.response is not None  # noqa: S101, PT018
        mean, deviation, basis = self._fine
        noise = self.prior.source_noise(source.wavelength_nm)
        gain, brightness = self.prior.expectation(source.response, target.response, noise)
        if self.share is not None:
            basis = self.share[:, None] * basis
        arrays = (gain, brightness, source.response @ mean, source.response @ deviation, target.response @ basis)
        with torch.inference_mode(mode=False):  # it may be kept for training
            sight = _Sight(*(torch.as_tensor(array, dtype=torch.float32).to(device) for array in arrays))
        self._kept = (source, target, device, sight)
        return sight


class _Sight(NamedTuple):
    """What of the prior depends on the bands alone."""

    gain: Tensor
    """(target band, source band)."""
    brightness: Tensor
    """(source band,)."""
    mean: Tensor
    """(source band,) of spectra of scale 1."""
    deviation: Tensor
    """(source band,)."""
    basis: Tensor
    """(target band, rank)."""


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _filled(reflectance: Tensor, valid: Tensor, patch: int) -> Tensor:
    """Values with the mean of the valid pixels of a place, or where it has none of the window, where not valid."""
    known = valid[:, None].to(reflectance.dtype)
    values = torch.where(valid[:, None], reflectance, torch.zeros_like(reflectance))
    of_window = values.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    share = F.avg_pool2d(known, patch)
    of_place = torch.where(share > 0, F.avg_pool2d(values, patch) / share.clamp(min=1 / patch**2), of_window)
    return torch.where(valid[:, None], values, of_place.repeat_interleave(patch, 2).repeat_interleave(patch, 3))


def _mean_by_place(tokens: Tensor, places: Tensor, count: int) -> Tensor:
    """(window, place, width) mean of the tokens (window, token, width) of each place; 0 where it has none."""
    windows, _, width = tokens.shape
    index = places[:, :, None].expand(-1, -1, width)
    total = tokens.new_zeros(windows, count, width).scatter_add(1, index, tokens)
    number = tokens.new_zeros(windows, count).scatter_add(1, places, torch.ones_like(places, dtype=tokens.dtype))
    return total / number.clamp(min=1)[:, :, None]


def _feathered(values: Tensor, patch: int) -> Tensor:
    """Values (window, band, row, col) averaged over a patch about each pixel: patches that nothing ties would step.

    Weights are even about the pixel: of patches of 4 they are 1, 2, 2, 2, 1.
    """
    if patch == 1:
        return values
    reach = patch // 2
    averaged = F.avg_pool2d(F.pad(values, (reach, reach, reach, reach), mode="replicate"), patch, 1)
    return averaged if patch % 2 else F.avg_pool2d(averaged, 2, 1)


def _spread(scale: Tensor, side: tuple[int, int], patch: int) -> Tensor:
    """(window, 1, row, col) of values (window, place)."""
    image = scale.view(-1, 1, *side)
    return image.repeat_interleave(patch, 2).repeat_interleave(patch, 3) if patch > 1 else image


def cut(values: Tensor, patch: int, group: int) -> Tensor:
    """(window, place, group, group · patch²) tokens of (window, band, row, col); the last group is padded with 0."""
    windows, bands, rows, cols = values.shape
    values = F.pad(values, (0, 0, 0, 0, 0, -bands % group))
    values = values.view(windows, -1, group, rows // patch, patch, cols // patch, patch)
    return values.permute(0, 3, 5, 1, 2, 4, 6).reshape(windows, (rows // patch) * (cols // patch), -1, group * patch**2)


def paste(tokens: Tensor, side: tuple[int, int], patch: int, group: int) -> Tensor:
    """(window, band, row, col) of tokens (window, place, group, group · patch²): undoes `cut`, padding stays."""
    windows, _, groups, _ = tokens.shape
    values = tokens.view(windows, *side, groups, group, patch, patch).permute(0, 3, 4, 1, 5, 2, 6)
    return values.reshape(windows, groups * group, side[0] * patch, side[1] * patch)
