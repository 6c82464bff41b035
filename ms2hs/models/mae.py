"""The masked autoencoder: spectra of all bands from tokens of a few. One class; its presets are configurations of it.

A token is a cube of reflectance, p by p pixels by s bands, with a place in the window and in the spectrum; the latter
is an encoding of wavelength and width in nm, so no band count is written down. The encoder (He et al. 2022,
arXiv 2111.06377) sees the visible tokens only. The decoder is asked for target bands by their wavelengths.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as everywhere
from numpy.typing import NDArray
from torch import Tensor, nn

from ms2hs.errors import UnknownName
from ms2hs.models.masking import STRATEGIES
from ms2hs.models.prior import SpectralPrior
from ms2hs.spectra.grid import FloatArray, SpectralGrid, response_matrix

# Reflectance of land is brought to about -1 … 1 for models that have no prior: (x - MIDDLE) / SPREAD.
MIDDLE, SPREAD = 0.25, 0.25
# Periods of the Fourier encoding: of the wavelength, from the whole solar range to finer than a band, in nm; of the
# width, in octaves.
WAVELENGTH_PERIODS_NM = np.geomspace(8000.0, 16.0, 24)
WIDTH_PERIODS = np.geomspace(16.0, 2.0, 4)
# Where a learnt spectral position has its knots.
KNOTS_NM = np.arange(370.0, 2511.0, 20.0)
SENSORS = "sensors"


@dataclass(frozen=True)
class ModelConfig:
    """All that makes one masked autoencoder another; stored with its weights."""

    patch: int
    """p: pixels on a side of a token."""
    group: int
    """s: bands of a token."""
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    window: int = 128
    """Pixels on a side that it is trained on and converts at a time; any multiple of `patch` works."""
    reach: str = "window"
    """What a token meets: all tokens of its `window`, or only those of its `place`."""
    context: bool = False
    """With reach `place`: one token a place stands for it, and meets those of all other places of the window."""
    measured: str = "tokens"
    """How a source's bands come in: as `tokens` of their own, or `pasted` into the target bands they cover (frozen)."""
    positions: str = "fourier"
    """`fourier`: computed from wavelength and place; `learnt`: separable tables over both."""
    rank: int = 0
    """Above 0: output is the spectral prior's expectation plus so many of its directions, and input is scaled by its
    brightness. 0: plain reflectance."""
    masking: tuple[str, ...] = ("spectral",)
    """Strategies of `masking` that it is trained by, and `sensors`: a source's view of the target's spectra."""
    staged: bool = False
    """The strategies follow one another in training; otherwise each step draws one."""
    hidden: tuple[float, float] = (0.75, 0.75)
    """Share of tokens that are hidden, drawn from this range."""
    unit_targets: bool = False
    """Clip what is learnt to 0-1."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        _allow("reach", self.reach, ("window", "place"))
        _allow("measured", self.measured, ("tokens", "pasted"))
        _allow("positions", self.positions, ("fourier", "learnt"))
        for name in self.masking:
            _allow("masking", name, (*STRATEGIES, SENSORS))
        for name in ("width", "decoder_width"):
            if getattr(self, name) % 4:
                raise ValueError(f"{name} is {getattr(self, name)}; a multiple of 4 is needed")
        if self.width % self.heads or self.decoder_width % self.decoder_heads:
            raise ValueError("widths must be multiples of their numbers of heads")
        if self.window % self.patch:
            raise ValueError(f"a window of {self.window} pixels is no multiple of patches of {self.patch}")
        if self.context and self.reach != "place":
            raise ValueError("context joins places that do not meet otherwise; it needs reach `place`")
        if self.rank and not set(self.masking) <= {SENSORS, "spectral"}:
            raise ValueError("with a prior, every place of a window sees the same bands: masking `sensors`, `spectral`")

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The configuration of a header's facts; ValueError or TypeError where they are none."""
        known = {entry.name for entry in fields(cls)}
        if unknown := set(facts) - known:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        tuples = {name: tuple(value) for name, value in facts.items() if isinstance(value, list)}
        return cls(**{**facts, **tuples})

    @property
    def facts(self) -> dict[str, Any]:
        """What `of` reads."""
        return asdict(self)

    @property
    def is_local(self) -> bool:
        """Whether a place's result depends on nothing outside it, so that windows need no overlap."""
        return self.reach == "place" and not self.context


def _allow(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; one of {', '.join(allowed)} is allowed")


@dataclass(frozen=True)
class _Size:
    width: int
    depth: int
    heads: int


def _config(patch: int, group: int, encoder: _Size, decoder: _Size, **others: Any) -> ModelConfig:  # noqa: ANN401
    own: dict[str, Any] = asdict(encoder)
    own |= {f"decoder_{name}": value for name, value in asdict(decoder).items()}
    return ModelConfig(patch=patch, group=group, **own, **others)


PRESETS: dict[str, ModelConfig] = {
    # arXiv 2502.19451. p and s are not published; 8 by 8 by 8 values fit into a width of 768.
    "dlr-ibm-spectral": _config(8, 8, _Size(768, 4, 8), _Size(512, 2, 8), reach="place", measured="pasted"),
    "dlr-ibm-spatial-spectral": _config(
        8, 8, _Size(768, 4, 8), _Size(512, 2, 8), measured="pasted", masking=("spatial-spectral",)
    ),
    # S2MAE, CVPR 2024: cubes, 90 % hidden, learnt separable positions, four decoder blocks, targets in 0-1.
    "s2mae": _config(
        *(8, 4, _Size(768, 12, 12), _Size(512, 4, 8)),
        window=64,
        measured="pasted",
        positions="learnt",
        masking=("spatial-spectral",),
        hidden=(0.9, 0.9),
        unit_targets=True,
    ),
    # arXiv 2503.01628: channels by wavelength and bandwidth, spatial then spatial-spectral masking, begun with a ViT.
    "general": _config(
        *(16, 1, _Size(768, 12, 12), _Size(512, 2, 8)), window=64, masking=("spatial", "spatial-spectral"), staged=True
    ),
    # Ours: bands are tokens of their own, and the network adds to the prior what the prior misses.
    "spectral": _config(
        *(1, 1, _Size(48, 2, 4), _Size(48, 1, 4)),
        window=16,
        reach="place",
        rank=32,
        masking=(SENSORS, "spectral"),
        hidden=(0.85, 0.97),
    ),
    "spatial-spectral": _config(
        *(4, 1, _Size(96, 3, 4), _Size(96, 1, 4)),
        window=64,
        reach="place",
        context=True,
        rank=32,
        masking=(SENSORS, "spectral"),
        hidden=(0.85, 0.97),
    ),
}


def preset(name: str) -> ModelConfig:
    """The configuration of this name.

    Raises
    ------
    UnknownName : no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise UnknownName.of("preset", name, sorted(PRESETS), "Give one of these.")
    return PRESETS[name]


@dataclass(frozen=True, eq=False)
class Lens:
    """Bands as a model looks through them."""

    wavelength_nm: FloatArray
    """(band,) centres."""
    fwhm_nm: FloatArray
    """(band,)."""
    response: FloatArray | None = None
    """(band, wavelength) on the prior's grid, for models that have one."""

    def select(self, bands: NDArray[np.integer]) -> "Lens":
        """The lens of these bands, by position."""
        response = None if self.response is None else self.response[bands]
        return Lens(self.wavelength_nm[bands], self.fwhm_nm[bands], response)

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


def between_knots(positions: FloatArray, knots: FloatArray) -> FloatArray:
    """(position, knot) weights of linear interpolation; beyond the ends the last knot holds."""
    return np.stack([np.interp(positions, knots, unit) for unit in np.eye(len(knots))], axis=1)


class SpectralPosition(nn.Module):
    """Where in the spectrum a token lies: (band,) wavelengths and widths to (band, width)."""

    def __init__(self, positions: str, width: int) -> None:
        super().__init__()
        self.learnt = nn.Parameter(0.02 * torch.randn(len(KNOTS_NM), width)) if positions == "learnt" else None
        features = 2 * (len(WAVELENGTH_PERIODS_NM) + len(WIDTH_PERIODS))
        self.encoded = nn.Linear(features, width) if positions == "fourier" else None

    def forward(self, wavelength_nm: FloatArray, width_nm: FloatArray) -> Tensor:
        """(band, width)."""
        if self.encoded is not None:
            features = _like(self.encoded.weight, fourier(wavelength_nm, width_nm))
            encoded: Tensor = self.encoded(features)
            return encoded
        assert self.learnt is not None  # noqa: S101  one of the two
        return _like(self.learnt, between_knots(wavelength_nm, KNOTS_NM)) @ self.learnt


class SpatialPosition(nn.Module):
    """Where in the window a token lies: rows and columns of places to (place, width)."""

    def __init__(self, positions: str, width: int, side: int) -> None:
        super().__init__()
        self.width = width
        shape = (side, width)
        learnt = positions == "learnt"
        self.rows = nn.Parameter(0.02 * torch.randn(shape)) if learnt else None
        self.cols = nn.Parameter(0.02 * torch.randn(shape)) if learnt else None

    def forward(self, rows: int, cols: int, like: Tensor) -> Tensor:
        """(rows * cols, width), row by row."""
        if self.rows is not None and self.cols is not None:
            down, across = _stretch(self.rows, rows), _stretch(self.cols, cols)
            return (down[:, None] + across[None]).flatten(0, 1)
        periods = np.geomspace(4.0, 400.0, self.width // 4)
        shape = (rows, cols, self.width // 4)
        angles = [2 * np.pi * np.arange(count)[:, None] / periods for count in (rows, cols)]
        parts = [
            np.broadcast_to(part, shape)
            for angle in (angles[0][:, None], angles[1][None])
            for part in (np.sin(angle), np.cos(angle))
        ]
        return 0.5 * _like(like, np.concatenate(parts, axis=-1).reshape(rows * cols, self.width))


def _stretch(table: Tensor, count: int) -> Tensor:
    """(count, width) of a table learnt for another number of places: held on to the same distances while it lasts."""
    if count <= len(table):
        return table[:count]
    return F.interpolate(table.T[None], count, mode="linear", align_corners=True)[0].T


def _like(tensor: Tensor, array: NDArray[Any]) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32).to(tensor.device, non_blocking=True)


class Attention(nn.Module):
    """Self-attention; names as in timm, so that its checkpoints fit."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, asking: int | None = None) -> Tensor:
        """(sequence, token, width); of the last `asking` tokens only, if given."""
        sequences, tokens, width = x.shape
        qkv = self.qkv(x).view(sequences, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (sequence, head, token, width of a head)
        query = query if asking is None else query[:, :, tokens - asking :]
        met = F.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.proj(met.transpose(1, 2).flatten(2))
        return joined


class Perceptron(nn.Module):
    """Two layers with GELU between; names as in timm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width)."""
        made: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return made


class Block(nn.Module):
    """A transformer's block, normalised before each part; names as in timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Perceptron(width)

    def forward(self, x: Tensor, asking: int | None = None) -> Tensor:
        """(sequence, token, width); with `asking` only the last so many tokens go on."""
        kept = x if asking is None else x[:, x.shape[1] - asking :]
        kept = kept + self.attn(self.norm1(x), asking)
        made: Tensor = kept + self.mlp(self.norm2(kept))
        return made


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
        self._kept: tuple[Lens, Lens, torch.device, _Sight] | None = None
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

    def lens(self, grid: SpectralGrid) -> Lens:
        """A grid's bands as this model looks through them; worth keeping, it takes some 10 ms.

        Raises
        ------
        GridError : bands outside the prior's wavelengths, where the model has one.
        """
        response = None if self.prior is None else response_matrix(grid, self.prior.wavelength_nm)
        return Lens(grid.wavelength_nm, grid.fwhm_nm, response)

    def forward(
        self,
        reflectance: Tensor,
        source: Lens,
        target: Lens | None = None,
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
        valid : (window, row, col) False where a pixel is not known; it then counts as the mean of those known.
        """
        own = target is None
        values = reflectance if valid is None else _filled(reflectance, valid)
        scaling = self._scaling(values, source, target or source) if self.prior is not None else None
        memory = self.encode(values, source, visible, scaling, group=self.config.group if own else 1)
        rows, cols = (size // self.config.patch for size in reflectance.shape[2:])
        return self.decode(memory, target or source, (rows, cols), scaling)

    def encode(
        self, values: Tensor, source: Lens, visible: Tensor | None, scaling: Scaling | None, group: int
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

    def decode(self, memory: Memory, target: Lens, side: tuple[int, int], scaling: Scaling | None) -> Tensor:
        """(window, target band, row, col) of a window of `side` places."""
        c = self.config
        windows, sequences, _, _ = memory.tokens.shape
        x = self.to_decoder(memory.tokens)
        where = self.decoder_spectral(memory.centre_nm, memory.width_nm)
        seen = where if memory.groups is None else where[memory.groups]
        # the token that stands for a place lies nowhere in the spectrum
        x = torch.cat([x[:, :, :1], x[:, :, 1:] + seen], dim=2) if c.context else x + seen
        bands = len(target.wavelength_nm)
        size = bands if c.rank else c.group  # with a prior one query asks for the whole spectrum
        asked = self.query + self.decoder_spectral(*target.groups(size))  # (group, width)
        if memory.places is not None:
            spatial = self.decoder_spatial(*side, x)
            x = x + spatial[memory.places]
            asked = (spatial[:, None] + asked).flatten(0, 1)  # (place · group, width)
        x = torch.cat([x, asked.expand(windows, sequences, *asked.shape)], dim=2).flatten(0, 1)
        for block in self.decoder[:-1]:
            x = block(x)
        x = self.decoder[-1](x, asking=len(asked))
        made = self.head(self.decoder_norm(x)).view(windows, side[0] * side[1], -1)
        if scaling is None:
            values = made.view(*made.shape[:2], -1, c.group * c.patch**2)
            return (SPREAD * paste(values, side, c.patch, c.group) + MIDDLE)[:, :bands]
        values = (made.view(*made.shape[:2], c.patch**2, c.rank) @ scaling.basis.T).transpose(2, 3)
        added = paste(values.flatten(2)[:, :, None], side, c.patch, bands)
        return scaling.expected + added.float() * _spread(scaling.scale, side, c.patch)

    def _scaling(self, values: Tensor, source: Lens, target: Lens) -> Scaling:
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

    def _sight(self, source: Lens, target: Lens, device: torch.device) -> "_Sight":
        """The prior between two lenses; that of the last two is kept, since a conversion asks for no others."""
        if self._kept is not None and self._kept[:3] == (source, target, device):
            return self._kept[3]
        assert self.prior is not None and source.response is not None and target.response is not None  # noqa: S101, PT018
        mean, deviation, basis = self._fine
        noise = self.prior.source_noise(source.wavelength_nm)
        gain, brightness = self.prior.expectation(source.response, target.response, noise)
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


def _filled(reflectance: Tensor, valid: Tensor) -> Tensor:
    """Values with the mean of a window's valid pixels, band by band, where a pixel is not valid."""
    known = valid[:, None].to(reflectance.dtype)
    values = torch.where(valid[:, None], reflectance, torch.zeros_like(reflectance))
    mean = values.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(valid[:, None], values, mean)


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
