"""The encoder of a masked autoencoder as a module: from reflectance of any bands to one feature vector for each patch.

Each configuration gets its bands as in training. Bands are tokens of their own where the network was trained with such
tokens. A network of groups has the bands in groups; the bands of a multispectral sensor are pasted into a hyperspectral
grid first, of which only the covered groups are visible, unless the network was pretrained on this sensor's images. A
network of the prior's coefficients has one token for each patch. All bands are visible, and the tokens of a patch are
averaged.
"""

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from ms2hs.errors import GridError, WeightsError
from ms2hs.inference.band_mapping import BandMapping
from ms2hs.models.layers import fill_invalid, mean_by_patch
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import Weights
from ms2hs.spectra.indices import CoverShares
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR, input_error_named
from ms2hs.spectra.sensors import load_sensor, shipped_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

# Grid that the bands of a multispectral sensor are pasted into.
PASTED_INTO = "enmap"
# The encoder's part of a `SpectralMAE`: the first names of its parameters.
ENCODER_PARTS = frozenset({"embed", "embed_band", "unseen", "spectral", "spatial", "encoder", "norm"})


class TaskEncoder(nn.Module):
    """The encoder of one network for one set of bands."""

    _bands: Tensor

    def __init__(self, weights: Weights, network: SpectralMAE, grid: SpectralGrid, sensor: str | None) -> None:
        """Use the bands of `grid`, in any order, that lie inside the model's wavelengths.

        Parameters
        ----------
        weights : the model, whose card says on which sensor's images it was pretrained.
        network : the model's network, or a network of the same configuration.
        sensor : name of the sensor of the bands; None: they are known by wavelength only.

        Raises
        ------
        GridError : no band in the range; or bands that the network cannot use.
        """
        super().__init__()
        config, range_nm = network.config, weights.range_nm
        self.network, self.patch, self.width = network, config.patch, config.width
        order = np.argsort(grid.wavelength_nm, kind="stable")
        nm = grid.wavelength_nm[order]
        order = order[(nm >= range_nm[0]) & (nm <= range_nm[1])]
        if not len(order):
            needed = f"bands at {range_nm[0]:.0f}-{range_nm[1]:.0f} nm are needed. Choose other bands."
            raise GridError(f"{len(grid)} bands, none of them at wavelengths of the model; {needed}")
        source = grid.select(order)
        multispectral = shipped_sensor(sensor or "", "source")
        error = None
        if config.by_patch:
            if CoverShares.of(source.wavelength_nm) is None:
                raise GridError(
                    f"bands of {source.wavelength_nm[0]:.0f}-{source.wavelength_nm[-1]:.0f} nm; this model finds the "
                    "land cover from green, red, near infrared and 1610 nm. Use bands with these, or another model."
                )
            product = multispectral.product_error if multispectral else ""
            error = input_error_named(product) if product else TYPICAL_INPUT_ERROR
        self._mapping = None
        settings = weights.card.get("settings")
        pretrained_on = settings.get("source") if isinstance(settings, dict) else None
        if config.measured == "pasted" and multispectral and multispectral.name != pretrained_on:
            target = load_sensor(PASTED_INTO).grid
            target = target.select(np.argsort(target.wavelength_nm, kind="stable"))
            self._mapping = BandMapping(config, source, target)
            source = target
        self._group = config.group if config.measured == "pasted" else 1
        self._view = network.band_view(source, error)
        self.register_buffer("_bands", torch.from_numpy(order), persistent=False)

    @classmethod
    def of(cls, weights: Weights, grid: SpectralGrid, sensor: str | None = None) -> Self:
        """The encoder of weights; WeightsError for a linear model, GridError as in the constructor."""
        return cls(weights, network_of(weights), grid, sensor)

    @classmethod
    def random(cls, weights: Weights, grid: SpectralGrid, sensor: str | None = None, seed: int = 0) -> Self:
        """The same architecture with random parameters, as before any training; errors as of `of`."""
        config = network_of(weights).config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(weights, SpectralMAE(config, weights.prior).eval(), grid, sensor)

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the encoder by their names in the network, without the decoder's."""
        named = self.network.named_parameters()
        return {name: parameter for name, parameter in named if name.split(".")[0] in ENCODER_PARTS}

    def forward(self, reflectance: Tensor, valid: Tensor) -> Tensor:
        """(window, patch row, patch col, width) features; patches at the lower and right edge may be cut.

        Parameters
        ----------
        reflectance : (window, band, row, col) in the order of the grid; any value, also NaN, where not valid.
        valid : (window, row, col) bool. An invalid pixel counts as the mean of its patch, or of its window where the
            patch has no valid pixel.
        """
        rows, cols = reflectance.shape[2:]
        padding = (0, -cols % self.patch, 0, -rows % self.patch)
        bands = reflectance[:, self._bands]
        bands = bands if self._mapping is None else self._mapping.paste(bands)
        valid = F.pad(valid, padding)
        values = fill_invalid(F.pad(bands, padding), valid, self.patch)
        side = values.shape[2] // self.patch, values.shape[3] // self.patch
        tokens = self._patch_tokens(values, valid) if self.network.config.by_patch else self._pooled(values, side)
        return tokens.view(len(values), *side, self.width)

    def _patch_tokens(self, values: Tensor, valid: Tensor) -> Tensor:
        """(window, patch, width) of a network of coefficients."""
        prior = self.network.prior_between(self._view, self._view, values.device)
        return self.network.encode_patches(prior.split(prior.content(values, self.patch, valid))[0])

    def _pooled(self, values: Tensor, side: tuple[int, int]) -> Tensor:
        """(window, patch, width) means of the tokens of each patch."""
        network, visible = self.network, None
        if self._mapping is not None:
            positions = torch.from_numpy(self._mapping.visible(*values.shape[2:]))
            visible = positions.to(values.device).expand(len(values), -1, -1)
        scaling = network.scaling(values, self._view, self._view) if network.prior is not None else None
        encoded = network.encode(values, self._view, visible, scaling, self._group)
        if encoded.patches is None:
            return encoded.tokens.mean(dim=2)
        return mean_by_patch(encoded.tokens[:, 0], encoded.patches[:, 0], side[0] * side[1])


def network_of(weights: Weights) -> SpectralMAE:
    """The network of weights; WeightsError for a linear model."""
    if weights.network is None:
        needed = "weights of a masked autoencoder are needed. Use --model spatial-spectral, or train a preset."
        raise WeightsError(f"{weights.name}: a linear model has no encoder; {needed}")
    return weights.network
