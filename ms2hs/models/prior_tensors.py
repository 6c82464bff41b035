"""The spectral prior between two sets of bands as tensors, for networks that correct its expectation.

For a network of patch tokens the prior also describes each patch. Its expected coefficients z, with Σ = F Fᵀ + …, are
E[z|x] = Fᵀ R_sᵀ (R_s Σ R_sᵀ + N)⁻¹ x for pixels x scaled to 1: the same directions for any source, so that one network
serves every sensor. `certainty` is the part of each direction that the source's bands determine.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from ms2hs.arrays import FloatArray
from ms2hs.models.layers import BandView, patch_means
from ms2hs.models.prior import SpectralPrior
from ms2hs.spectra.indices import COVERS, CoverShares, by_cover

# Inputs of a network are scaled by their standard deviation, or by the root of this variance if it is larger.
LEAST_VARIANCE = 1e-4
# The content of a patch is limited to this many standard deviations: a few pixels that are unlike any training spectrum
# then do not change the whole window.
LARGEST_CONTENT = 10.0


def content_size(rank: int) -> int:
    """Number of values that `PriorOfBands.content` returns for each patch."""
    return 3 * rank + len(COVERS) + 2


class PriorOfBands(NamedTuple):
    """The prior between the bands of a source and of a target."""

    covers: CoverShares | None
    """Shares of the land covers in a pixel; None: one map for all pixels."""
    floor: float
    """Brightness below which spectra count as equally bright."""
    gain: Tensor
    """(target band, feature)."""
    brightness: Tensor
    """(source band,)."""
    mean: Tensor
    """(source band,) mean of spectra of scale 1."""
    deviation: Tensor
    """(source band,) standard deviation of spectra of scale 1."""
    basis: Tensor
    """(target band, rank) directions, times the share of a correction that counts."""
    coefficients: Tensor
    """(rank, source band) expected coefficients of a spectrum of scale 1, in standard deviations."""
    offset: Tensor
    """(rank,) mean of these coefficients."""
    certainty: Tensor
    """(rank,) share, 0-1, of a coefficient's second moment that the source's bands explain."""

    @classmethod
    def of(
        cls,
        prior: SpectralPrior,
        source: BandView,
        target: BandView,
        device: torch.device,
        *,
        rank: int,
        share: FloatArray | None,
    ) -> Self:
        """The prior between two views of its wavelengths; `share`: as in `SpectralMAE.set_share`."""
        to_source, to_target = source.response, target.response
        assert to_source is not None and to_target is not None  # noqa: S101, PT018  of a model with a prior
        factors, average = prior.factors.astype(float), prior.sample.mean(axis=0).astype(float)
        mean, basis = factors @ average, factors[:, :rank]
        deviation = np.sqrt(np.maximum(np.square(factors).sum(axis=1) - np.square(mean), LEAST_VARIANCE))
        gain, brightness, covers = prior.expectation(source.wavelength_nm, to_source, to_target)
        seen = prior.between(to_source, to_source) + np.diag(np.square(prior.source_noise(source.wavelength_nm)))
        in_source = to_source @ factors  # (source band, direction)
        expected = np.linalg.solve(seen, in_source[:, :rank]).T
        certainty, offset = (expected * in_source[:, :rank].T).sum(axis=1), expected @ in_source @ average
        spread = np.sqrt(np.maximum(certainty - np.square(offset), LEAST_VARIANCE))
        basis = basis if share is None else share[:, None] * basis
        arrays = [gain, brightness, to_source @ mean, to_source @ deviation, to_target @ basis]
        arrays += [expected / spread[:, None], offset / spread, certainty]
        with torch.inference_mode(mode=False):  # training may use cached tensors later
            return cls(covers, prior.floor, *(torch.as_tensor(a, dtype=torch.float32).to(device) for a in arrays))

    def scale(self, reflectance: Tensor) -> Tensor:
        """(window, 1, row, col) scale of pixels (window, source band, row, col)."""
        brightness = self.brightness @ reflectance.flatten(2)
        return torch.sqrt(brightness.square() + self.floor**2).view(len(reflectance), 1, *reflectance.shape[2:])

    def corrected(self, reflectance: Tensor, coefficients: Tensor) -> Tensor:
        """(window, target band, row, col) expectation and correction, float32 also under autocast.

        Parameters
        ----------
        reflectance : (window, source band, row, col).
        coefficients : (window, rank, row, col) corrections for spectra of scale 1.
        """
        with torch.autocast(reflectance.device.type, enabled=False):
            values = reflectance.float()
            added = coefficients.float() * self.scale(values)
            predicted = self.gain @ features(values.flatten(2), self.covers) + self.basis @ added.flatten(2)
        return predicted.view(len(values), -1, *values.shape[2:])

    @torch.no_grad()
    def content(self, reflectance: Tensor, patch: int, valid: Tensor | None = None) -> Tensor:
        """(window, patch row, patch col, `content_size`) description of patches, float32 also under autocast.

        Over the valid pixels of a patch: mean and standard deviation of the expected coefficients, mean logarithm of
        the scale, and mean shares of the land covers (0 where a source lacks bands for them). Also the certainty of
        the coefficients, and last the share of valid pixels.

        Parameters
        ----------
        reflectance : (window, source band, row, col), rows and columns multiples of `patch`; any value where not valid.
        valid : (window, row, col); None: everywhere.
        """
        with torch.autocast(reflectance.device.type, enabled=False):
            values, known = reflectance.float(), None
            if valid is not None:
                known, values = valid[:, None].float(), torch.where(valid[:, None], values, 0.0)
            scale = self.scale(values)
            coefficients = self.coefficients @ (values / scale).flatten(2) - self.offset[:, None]
            coefficients = coefficients.view(len(values), -1, *values.shape[2:])
            mean = patch_means(coefficients, patch, known)
            variance = patch_means(coefficients.square_(), patch, known) - mean.square()
            deviation = variance.clamp_(0, LARGEST_CONTENT**2).sqrt_()
            certainty = self.certainty[:, None, None].expand_as(mean)
            others = [torch.log(4 * scale), *self._cover_images(values)]
            pooled = patch_means(torch.cat(others, dim=1), patch, known)
            share = torch.ones_like(pooled[:, :1]) if known is None else F.avg_pool2d(known, patch)
            parts = [mean.clamp_(-LARGEST_CONTENT, LARGEST_CONTENT), deviation, certainty, pooled, share]
            return torch.cat(parts, dim=1).permute(0, 2, 3, 1)

    def _cover_images(self, reflectance: Tensor) -> list[Tensor]:
        """(window, 1, row, col) share of each land cover in each pixel."""
        if self.covers is None:
            return [torch.zeros_like(reflectance[:, :1])] * len(COVERS)
        shape = len(reflectance), 1, *reflectance.shape[2:]
        return [share.reshape(shape) for share in self.covers.shares(reflectance.flatten(2))]


def features(reflectance: Tensor, covers: CoverShares | None) -> Tensor:
    """(..., feature, pixel) of reflectance (..., source band, pixel): `Posterior.features` of tensors."""
    return reflectance if covers is None else torch.cat(by_cover(reflectance, covers.shares(reflectance)), dim=-2)
