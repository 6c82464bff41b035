"""What makes one masked autoencoder another, and the presets: configurations of one class. No torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ms2hs.errors import UnknownName
from ms2hs.models.masking import STRATEGIES

# Beside the strategies of `masking`: seeing what a source sensor would.
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
        """Refuse what cannot be built, or not be trained."""
        _allow("reach", self.reach, ("window", "place"))
        _allow("measured", self.measured, ("tokens", "pasted"))
        _allow("positions", self.positions, ("fourier", "learnt"))
        for name in self.masking:
            _allow("masking", name, (*STRATEGIES, SENSORS))
        for name, value in self.facts.items():
            least = 0 if name == "rank" else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise ValueError(f"{name} is {value}; {least} or more is needed")
        refused = next((reason for reason, holds in self._rules().items() if not holds), None)
        if refused:
            raise ValueError(refused)

    def _rules(self) -> dict[str, bool]:
        """What must hold between fields, by what to say where it does not."""
        sizes = (self.width, self.heads), (self.decoder_width, self.decoder_heads)
        masking = set(self.masking)
        return {
            f"widths {self.width} and {self.decoder_width}; multiples of 4 are needed": not any(
                width % 4 for width, _ in sizes
            ),
            "widths must be multiples of their numbers of heads": not any(width % heads for width, heads in sizes),
            f"a window of {self.window} pixels is no multiple of patches of {self.patch}": not self.window % self.patch,
            f"hidden is {','.join(map(str, self.hidden))}; LOW,HIGH between 0 and 1 are needed": len(self.hidden) == 2
            and 0 < self.hidden[0] <= self.hidden[1] < 1,
            "context joins places that do not meet otherwise; it needs reach `place`": not self.context
            or self.reach == "place",
            "masking `spatial` leaves nothing to see at hidden places; it needs reach `window`": self.reach == "window"
            or "spatial" not in masking,
            "with a prior, every place of a window sees the same bands: masking `sensors`, `spectral`": not self.rank
            or masking <= {SENSORS, "spectral"},
        }

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
