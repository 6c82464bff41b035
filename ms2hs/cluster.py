"""Deprecated: `ms2hs.convert_all` and `ms2hs.Executor` were published as `ms2hs.cluster.convert_all` and `Crew`."""

import warnings
from typing import Any

import ms2hs

RENAMED = {"convert_all": "convert_all", "Crew": "Executor"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public definition
    """Return the definition under its new name, with a warning."""
    if name not in RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = RENAMED[name]
    warnings.warn(f"ms2hs.cluster.{name} is deprecated; use ms2hs.{new}", DeprecationWarning, stacklevel=2)
    return getattr(ms2hs, new)
