"""The configuration of a masked autoencoder, and `PRESETS`, the table of named configurations. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ms2hs.errors import UnknownName
from ms2hs.models.masking import SENSORS, STRATEGIES

# Side of the windows of a conversion by a network that looks beyond its patch, in pixels.
WINDOW = 128
# Input of a network that corrects the prior's coefficients.
COEFFICIENTS = "coefficients"
# Largest whole numbers of a configuration: published models have a fraction of each.
MOST = {"patch": 64, "group": 1024, "width": 8192, "depth": 100, "heads": 256, "window": 1024, "rank": 1000}
# Target bands of a visible token that no source band covers.
NEAREST, NEUTRAL = "nearest", "neutral"
# Fixed sinusoids of wavelength, row and column, added or side by side.
SIN_COS, SEPARATE_SIN_COS = "sin-cos", "spatial-spectral-sin-cos"
# Training target and output of a network without a prior: value = middle + spread · output, and limits of the target.
TARGETS: dict[str, tuple[float, float, tuple[float, float] | None]] = {
    "reflectance": (0.25, 0.25, None),
    "unit": (0.25, 0.25, (0.0, 1.0)),
    "signed": (0.5, 0.5, (0.0, 1.0)),
}
# Fields of earlier versions with their values, and the fields of today.
RETIRED: list[tuple[str, bool, dict[str, Any]]] = [
    ("context", False, {}),
    ("unit_targets", False, {}),
    ("unit_targets", True, {"targets": "unit"}),
]
MOST |= {f"decoder_{name}": MOST[name] for name in ("width", "depth", "heads")}


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and training of a masked autoencoder; stored in the header of its weights."""

    patch: int
    """p: side of a token, in pixels."""
    group: int
    """s: bands of a token."""
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    window: int = 128
    """Side of a window in training and conversion, in pixels; any multiple of `patch` works."""
    reach: str = "window"
    """Range of attention: all tokens of the `window`, or the tokens of the same patch (`place`)."""
    measured: str = "tokens"
    """Input of a source's bands: each as `tokens` of its own, `pasted` into the target bands that it covers, or as the
    prior's `coefficients`, one token for each patch."""
    uncovered: str = NEAREST
    """Value of `pasted` bands that no source band covers, in a visible token: `nearest`, the value of the nearest
    covered band of the token; `neutral`, the middle of reflectance, which hides them."""
    positions: str = "fourier"
    """`fourier`: a learned projection of sinusoids of wavelength and width, and sinusoids of row and column; `learnt`:
    separable tables; `sin-cos`: fixed sinusoids of all, added; `spatial-spectral-sin-cos`: fixed, half of the width for
    row and column, half for the wavelength."""
    rank: int = 0
    """Directions of the spectral prior that the network adds to the prior's expectation; 0: plain reflectance."""
    masking: tuple[str, ...] = ("spectral",)
    """Training strategies: names of `masking.STRATEGIES`, and `sensors`."""
    staged: bool = False
    """Whether the strategies follow one another in training; otherwise each step draws one."""
    hidden: tuple[float, float] = (0.75, 0.75)
    """Range that the share of hidden tokens is drawn from."""
    targets: str = "reflectance"
    """Training target, of `TARGETS`: `reflectance` as it is; `unit`, clipped to 0-1; `signed`, clipped and scaled to
    -1 … 1. The output is reflectance with each."""

    def __post_init__(self) -> None:
        """ValueError for a configuration that cannot be built or trained."""
        _allow("reach", self.reach, ("window", "place"))
        _allow("measured", self.measured, ("tokens", "pasted", COEFFICIENTS))
        _allow("uncovered", self.uncovered, (NEAREST, NEUTRAL))
        _allow("positions", self.positions, ("fourier", "learnt", SIN_COS, SEPARATE_SIN_COS))
        _allow("targets", self.targets, tuple(TARGETS))
        for name in self.masking:
            _allow("masking", name, (*STRATEGIES, SENSORS))
        for name, value in self.to_dict().items():
            _require(isinstance(value, TYPES[name]), f"{name} is {value!r}; {TYPES[name].__name__} is needed")
            if TYPES[name] is int:
                least, most = 0 if name == "rank" else 1, MOST[name]
                problem = f"{name} is {value}; {least} or more is needed, and at most {most}"
                _require(least <= value <= most and not isinstance(value, bool), problem)
        width, decoder_width = self.width, self.decoder_width
        low, high = self.hidden if len(self.hidden) == 2 else (0.0, 0.0)
        strategies = {name: STRATEGIES[name] for name in self.masking if name != SENSORS}
        whole = "".join([name for name, strategy in strategies.items() if strategy.hides_whole_patches][:1])
        uneven = "".join([name for name, strategy in strategies.items() if not strategy.same_for_all_patches][:1])
        problem = f"widths {width} and {decoder_width}; multiples of 4 are needed"
        _require(width % 4 == decoder_width % 4 == 0, problem)
        problem = "widths must be multiples of their numbers of heads"
        _require(width % self.heads == decoder_width % self.decoder_heads == 0, problem)
        problem = f"a window of {self.window} pixels; a multiple of patches of {self.patch} is needed"
        _require(self.window % self.patch == 0, problem)
        problem = f"hidden is {','.join(map(str, self.hidden))}; LOW,HIGH between 0 and 1 are needed"
        _require(0 < low <= high < 1, problem)
        problem = "targets `signed` scale the output, which a prior (rank above 0) gives; use `reflectance` or `unit`"
        _require(not (self.rank and self.targets == "signed"), problem)
        problem = f"a patch of {self.patch} pixels; with `coefficients`, a divisor of 256 is needed"
        _require(not self.by_patch or 256 % self.patch == 0, problem)
        problem = f"masking `{whole}` leaves hidden patches without a token; reach `window` is needed"
        _require(not (whole and self.per_patch), problem)
        problem = f"masking `{uneven}` shows different bands in each patch; with a prior (rank above 0) use"
        _require(not (self.rank and uneven), f"{problem} `sensors` or `spectral`")
        problem = (
            "measured `coefficients` belong to a prior and to all patches of a window given a sensor's bands; rank"
        )
        fits = self.rank > 0 and not self.per_patch and self.masking == (SENSORS,)
        _require(not self.by_patch or fits, f"{problem} above 0, reach `window` and masking `sensors` are needed")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of a weights header; ValueError or TypeError where `values` do not make one."""
        known = {entry.name for entry in fields(cls)}
        values = dict(values)
        for name, value, today in RETIRED:
            if name in values and values[name] == value:
                del values[name]
                values |= today
        if unknown := set(values) - known:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples})

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as `from_dict` reads them."""
        return asdict(self)

    @property
    def per_patch(self) -> bool:
        """Whether tokens attend only to tokens of their own patch, a sequence for each patch."""
        return self.reach == "place"

    @property
    def least_parameters(self) -> int:
        """A lower bound of the number of parameters: the matrices of the blocks, of the first and of the last layer."""
        blocks = 12 * (self.depth * self.width**2 + self.decoder_depth * self.decoder_width**2)
        pixels, values = (1, self.rank) if self.by_patch else (self.patch**2, self.rank or self.group)
        return blocks + pixels * (self.group * self.width + values * self.decoder_width)

    @property
    def by_patch(self) -> bool:
        """Whether a token is a patch, with the coefficients of the prior as its content."""
        return self.measured == COEFFICIENTS

    def windows(self, side: int | None = None) -> tuple[int, int]:
        """Side and least overlap, in pixels, of the windows of a conversion; (patch, 0) for a local network.

        `side` : a multiple of the patch; None: `WINDOW`, or the larger window of the training.
        """
        if self.is_local:
            return self.patch, 0
        side = side or max(self.window, WINDOW // self.patch * self.patch)
        overlap = side // 4
        if self.by_patch:  # windows begin at patches
            overlap = max(overlap // self.patch, 1) * self.patch if side > self.patch else 0
        return side, overlap

    @property
    def is_local(self) -> bool:
        """Whether a patch's result depends on that patch alone, so that windows need no overlap."""
        return self.per_patch


TYPES: dict[str, type] = {
    entry.name: {"int": int, "str": str, "bool": bool}.get(str(getattr(entry.type, "__name__", entry.type)), tuple)
    for entry in fields(ModelConfig)
}
"""The type of each field of a configuration."""


def _allow(name: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{name} is {value!r}; one of {', '.join(allowed)} is allowed")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


OURS: dict[str, Any] = {"rank": 32, "masking": (SENSORS, "spectral"), "hidden": (0.85, 0.97)}
# (patch, group), then (width, depth, heads) of the encoder and of the decoder.
PRESETS: dict[str, ModelConfig] = {
    # arXiv 2502.19451. p and s are not published; 8 by 8 by 8 values fit into a width of 768.
    "dlr-ibm-spectral": ModelConfig(
        *(8, 8), *(768, 4, 8), *(512, 2, 8), reach="place", measured="pasted", uncovered=NEUTRAL
    ),
    "dlr-ibm-spatial-spectral": ModelConfig(
        *(8, 8), *(768, 4, 8), *(512, 2, 8), measured="pasted", uncovered=NEUTRAL, masking=("spatial-spectral",)
    ),
    # S2MAE, CVPR 2024: cubes, 90 % hidden, learnt separable positions, four decoder blocks, targets in 0-1.
    "s2mae": ModelConfig(
        *(8, 4, *(768, 12, 12), *(512, 4, 8)),
        window=64,
        measured="pasted",
        positions="learnt",
        masking=("spatial-spectral",),
        hidden=(0.9, 0.9),
        targets="unit",
    ),
    # arXiv 2503.01628: channels by wavelength and bandwidth; spatial, then spatial-spectral masking; starts from a ViT.
    "general": ModelConfig(
        *(16, 1), *(768, 12, 12), *(512, 2, 8), window=64, masking=("spatial", "spatial-spectral"), staged=True
    ),
    # Ours: the network adds a correction to the prior. Tokens are measured bands, or patches of expected coefficients.
    "spectral": ModelConfig(*(1, 1), *(48, 2, 4), *(48, 1, 4), window=16, reach="place", **OURS),
    "spatial-spectral": ModelConfig(
        *(8, 1, *(64, 2, 4), *(64, 1, 4)), measured=COEFFICIENTS, **(OURS | {"masking": (SENSORS,)})
    ),
}


def preset(name: str) -> ModelConfig:
    """The configuration of a preset; UnknownName where no such preset exists."""
    if name not in PRESETS:
        raise UnknownName.of("preset", name, sorted(PRESETS), "Give one of these.")
    return PRESETS[name]
