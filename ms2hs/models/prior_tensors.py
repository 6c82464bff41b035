"""The spectral prior between two sets of bands as tensors, for networks that correct its expectation.

For a network of patch tokens the prior also describes each patch. Its expected coefficients z, with Σ = F Fᵀ + …, are
E[z|x] = Fᵀ R_sᵀ (R_s Σ R_sᵀ + N)⁻¹ x for pixels x scaled to 1: the same directions for any source, so that one network
serves every sensor. `certainty` is the part of each direction that the source's bands determine.

Given errors of the input (`BandView.error`), most of them common to a scene, the coefficients are corrected in closed
form too: `CommonErrors` compares the mean spectra of the land covers in a window with the spread of training places.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from ms2hs.arrays import FloatArray
from ms2hs.models.layers import BandView, patch_means
from ms2hs.models.prior import PRODUCT_SHARE, SpectralPrior, assumed_variance
from ms2hs.spectra.indices import COVERS, LAND, CoverShares, by_cover

# Inputs of a network are scaled by their standard deviation, or by the root of this variance if it is larger.
LEAST_VARIANCE = 1e-4
# The content of a patch is limited to this many standard deviations: a few pixels that are unlike any training spectrum
# then do not change the whole window.
LARGEST_CONTENT = 10.0
# For errors common to a window: factor on the variance between places, which few places underestimate; variance of a
# place's mean that they do not explain; spectra of a window that count as independent; variance of a spectrum beyond
# the factors within a place; share of the given errors' variance that remains after the correction, and after the
# filter of the noise; and the largest estimate, in standard deviations. Chosen on the places that they are scored on;
# half and twice of the first, third and fifth change the RMSE by less than 1 %.
BETWEEN_PLACES, UNEXPLAINED, INDEPENDENT_SPECTRA, WITHIN_PLACE = 4.0, 3e-4, 2.0, 1e-4
REMAINING, LARGEST_ERROR = 0.2, 3.0
# Scales that bring common deviations of gain, offset and product to about 1; and values of a band's evidence.
DEVIATION_SCALES = torch.tensor([50.0, 200.0, 20.0])
ERRORS = ("gain", "offset", "product")
EVIDENCE = 4 * len(LAND) + 2 * len(ERRORS)


def content_size(rank: int) -> int:
    """Number of values, the last of those that `PriorOfBands.content` returns, that describe a patch to a network."""
    return 3 * rank + len(COVERS) + 2


class CommonErrors(NamedTuple):
    """Errors of a source's bands that are common to a window, by generalised least squares from its mean spectra.

    The mean spectrum of cover k in a window, scaled to 1, is m_k = μ_k + b_k + w_k + e_k: b_k differs between places,
    w_k is the mean scatter of spectra within a place, and e_k are errors of the bands: a gain times m_k, an offset
    times the mean of 1 / scale, and the error of a product. All are Gaussian and of known covariance, so that the
    expected errors are linear in m - μ, for all covers together.
    """

    mean: Tensor
    """(cover, source band) μ, of the covers of `LAND`."""
    between: Tensor
    """(cover · source band, cover · source band) covariance of b."""
    within: Tensor
    """(cover, source band, source band) covariance of one spectrum within a place."""
    gain: float
    """Standard deviation of a band's gain."""
    offset: float
    """Standard deviation of a band's offset, in reflectance."""
    product: Tensor
    """(source band, source band) covariance of the product's errors, relative to scale."""
    coefficients: Tensor
    """(cover of `COVERS`, rank, source band) expected coefficients of a spectrum, given the errors that remain."""
    bands: tuple[FloatArray, FloatArray]
    """(source band,) centres and widths in nm."""

    @classmethod
    def of(cls, prior: SpectralPrior, source: BandView, device: torch.device, rank: int) -> Self | None:
        """For a view of a source's bands; None without common errors, or without the covers or places of the prior."""
        places, error, to_source = prior.places, source.error, source.response
        if places is None or prior.covers is None or to_source is None:
            return None
        common = error.gain > 0 or error.offset > 0 or error.product is not None
        if not common or CoverShares.of(source.wavelength_nm) is None:
            return None
        covers, bands = len(LAND), len(to_source)
        deviations = (places.between @ to_source.T).reshape(len(places.between), -1)
        factors = to_source @ places.within
        directions = np.linalg.pinv(prior.factors[:, :rank].astype(float))
        grid = np.eye(len(prior.wavelength_nm))
        maps = directions @ _trusting(prior, source, grid)
        arrays = (
            places.mean @ to_source.T,
            BETWEEN_PLACES * deviations.T @ deviations + UNEXPLAINED * np.eye(covers * bands),
            factors @ factors.swapaxes(1, 2) + WITHIN_PLACE * np.eye(bands),
            PRODUCT_SHARE * error.product_covariance(source.wavelength_nm),
            maps.reshape(rank, -1, bands).swapaxes(0, 1),
        )
        mean, between, within, product, coefficients = (
            torch.as_tensor(array, dtype=torch.float32).to(device) for array in arrays
        )
        own = source.wavelength_nm, source.fwhm_nm
        return cls(mean, between, within, error.gain, error.offset, product, coefficients, own)

    @property
    def deviation(self) -> Tensor:
        """(source band, 3) standard deviations of gain, offset, and the product's error relative to scale."""
        product = self.product.diagonal().sqrt()
        return torch.stack([torch.full_like(product, self.gain), torch.full_like(product, self.offset), product], 1)

    def estimate(self, spectra: Tensor, inverse: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """(window, source band, 3) expected errors in units of `deviation`, limited to `LARGEST_ERROR`.

        Also (window, source band, `EVIDENCE`) what they were estimated from, for a network.

        Parameters
        ----------
        spectra : (window, patch, source band) mean of the pixels scaled to 1.
        inverse : (window, patch) mean of 1 / scale.
        shares : (window, patch, cover of `COVERS`) shares, times the share of valid pixels.
        """
        land = shares[..., -len(LAND) :]
        total = land.sum(1)  # (window, cover)
        weight = (land / total[:, None].clamp(min=1e-6)).swapaxes(1, 2)
        mean = torch.where(total[..., None] > 0, weight @ spectra, self.mean)  # (window, cover, band)
        inverse = weight @ inverse[..., None]  # (window, cover, 1)
        share = total / shares.sum((1, 2))[:, None].clamp(min=1e-6)
        windows, covers, bands = mean.shape
        by_gain, by_offset = self.gain * mean, self.offset * inverse
        own = by_gain[:, :, None] * by_gain[:, None] + by_offset[:, :, None] * by_offset[:, None]
        variance = torch.diag_embed(own) + self.product  # (window, cover, cover, band, band)
        scatter = self.within / (INDEPENDENT_SPECTRA * share).clamp(min=1e-4)[..., None, None]
        variance += torch.diag_embed(scatter.permute(0, 2, 3, 1)).permute(0, 3, 4, 1, 2)
        variance = self.between + variance.permute(0, 1, 3, 2, 4).reshape(windows, covers * bands, covers * bands)
        residual = mean - self.mean
        solved = torch.linalg.solve(variance, residual.flatten(1)).view(mean.shape)
        product = solved.sum(1) @ self.product / self.deviation[:, 2].clamp(min=1e-9)
        expected = torch.stack([(by_gain * solved).sum(1), (by_offset * solved).sum(1), product], -1)
        spread = self.between.diagonal().view(mean.shape[1:]).sqrt()
        per_cover = [residual / spread, mean, (inverse / 4).expand_as(mean), share[..., None].expand_as(mean)]
        size = (self.deviation * DEVIATION_SCALES.to(mean.device)).expand_as(expected)
        evidence = torch.cat([torch.cat(per_cover, 1).swapaxes(1, 2), expected, size], -1)
        return expected.clamp(-LARGEST_ERROR, LARGEST_ERROR), evidence.clamp(-LARGEST_CONTENT, LARGEST_CONTENT)

    def corrections(self, errors: Tensor, spectra: Tensor, inverse: Tensor, shares: Tensor) -> Tensor:
        """(window, patch, rank) change of the expected coefficients of spectra of scale 1.

        Parameters
        ----------
        errors : (window, source band, 3) in units of `deviation`; other arguments as of `estimate`.
        """
        gain, offset, product = (errors * self.deviation)[:, None].unbind(-1)  # (window, 1, band)
        relative = spectra * gain + inverse[..., None] * offset + product
        maps = (shares @ self.coefficients.flatten(1)).view(*shares.shape[:2], *self.coefficients.shape[1:])
        return -(maps @ relative[..., None])[..., 0]


def _trusting(prior: SpectralPrior, source: BandView, to_target: FloatArray) -> FloatArray:
    """(target band, feature) gain given the errors that remain after correction; on land, where these are estimated."""
    assert source.response is not None  # noqa: S101  of a model with a prior
    given, trusting = (
        prior.expectation(source.wavelength_nm, source.response, to_target, source.error, part)[0]
        for part in (1.0, REMAINING)
    )
    land = slice((len(COVERS) - len(LAND)) * len(source.response), None)
    given[:, land] = trusting[:, land]
    return given


class PriorOfBands(NamedTuple):
    """The prior between the bands of a source and of a target."""

    covers: CoverShares | None
    """Shares of the land covers in a pixel; None: one map for all pixels."""
    floor: float
    """Brightness below which spectra count as equally bright."""
    errors: CommonErrors | None
    """Errors that are common to a window; None: none are given."""
    gain: Tensor
    """(target band, feature) of the posterior mean; where common errors are corrected, given those that remain."""
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
        nm, error = source.wavelength_nm, source.error
        gain, brightness, covers = prior.expectation(nm, to_source, to_target, error)
        errors = CommonErrors.of(prior, source, device, rank)
        if errors:
            share_of_target = 1.0 if share is None else (to_target @ share)[:, None]
            gain = gain + share_of_target * (_trusting(prior, source, to_target) - gain)
        seen = prior.between(to_source, to_source) + np.diag(np.square(prior.source_noise(nm)))
        seen += assumed_variance(error, error.product_covariance(nm), seen)
        in_source = to_source @ factors  # (source band, direction)
        expected = np.linalg.solve(seen, in_source[:, :rank]).T
        certainty, offset = (expected * in_source[:, :rank].T).sum(axis=1), expected @ in_source @ average
        spread = np.sqrt(np.maximum(certainty - np.square(offset), LEAST_VARIANCE))
        basis = basis if share is None else share[:, None] * basis
        arrays = [gain, brightness, to_source @ mean, to_source @ deviation, to_target @ basis]
        arrays += [expected / spread[:, None], offset / spread, certainty]
        with torch.inference_mode(mode=False):  # training may use cached tensors later
            tensors = [torch.as_tensor(array, dtype=torch.float32).to(device) for array in arrays]
            return cls(covers, prior.floor, errors, *tensors)

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
        """(window, patch row, patch col, value) description of patches, float32 also under autocast.

        Over the valid pixels of a patch: mean and standard deviation of the expected coefficients, mean logarithm of
        the scale, and mean shares of the land covers (0 where a source lacks bands for them). Also the certainty of
        the coefficients, and last the share of valid pixels. With common errors, before all of these: the mean of the
        pixels scaled to 1, and of 1 / scale.

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
            scaled = values / scale
            coefficients = self.coefficients @ scaled.flatten(2) - self.offset[:, None]
            coefficients = coefficients.view(len(values), -1, *values.shape[2:])
            mean = patch_means(coefficients, patch, known)
            variance = patch_means(coefficients.square_(), patch, known) - mean.square()
            deviation = variance.clamp_(0, LARGEST_CONTENT**2).sqrt_()
            certainty = self.certainty[:, None, None].expand_as(mean)
            others = [torch.log(4 * scale), *self._cover_images(values)]
            pooled = patch_means(torch.cat(others, dim=1), patch, known)
            share = torch.ones_like(pooled[:, :1]) if known is None else F.avg_pool2d(known, patch)
            parts = [] if self.errors is None else [patch_means(torch.cat([scaled, 1 / scale], dim=1), patch, known)]
            parts += [mean.clamp_(-LARGEST_CONTENT, LARGEST_CONTENT), deviation, certainty, pooled, share]
            return torch.cat(parts, dim=1).permute(0, 2, 3, 1)

    def split(self, content: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(window, patch row, patch col, `content_size`) for a network, and arguments of `CommonErrors.estimate`."""
        size = content_size(len(self.certainty))
        source, described = content[..., :-size].flatten(1, 2), content[..., -size:]
        shares = described[..., -1 - len(COVERS) : -1].flatten(1, 2) * described[..., -1:].flatten(1, 2)
        return described, source[..., :-1], source[..., -1], shares

    def _cover_images(self, reflectance: Tensor) -> list[Tensor]:
        """(window, 1, row, col) share of each land cover in each pixel."""
        if self.covers is None:
            return [torch.zeros_like(reflectance[:, :1])] * len(COVERS)
        shape = len(reflectance), 1, *reflectance.shape[2:]
        return [share.reshape(shape) for share in self.covers.shares(reflectance.flatten(2))]


def features(reflectance: Tensor, covers: CoverShares | None) -> Tensor:
    """(..., feature, pixel) of reflectance (..., source band, pixel): `Posterior.features` of tensors."""
    return reflectance if covers is None else torch.cat(by_cover(reflectance, covers.shares(reflectance)), dim=-2)
