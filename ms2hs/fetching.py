"""fetch: scenes to disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ms2hs.progress import Progress
from ms2hs.raster.query import Place


@dataclass(frozen=True)
class FetchChoices:
    """How to fetch; the defaults suit most."""

    gsd_m: float | Literal["native"] = 30.0
    """Ground sampling of what is written, in m, or `native`: a file a band as it is."""
    mosaic: bool = False
    """Scenes of one pass together on one grid, clearest first."""
    jobs: int = 4
    """Connections at once, at most."""
    overwrite: bool = False
    """Fetch again what is there and whole."""


@dataclass(frozen=True)
class Fetched:
    """What a run of `fetch` left."""

    paths: tuple[Path, ...]
    """Every scene that is there now and converts, in the order of the items."""
    kept: int
    """How many of them were there before, and whole."""
    bytes_read: int
    """Over the network."""
    failed: tuple[str, ...] = ()
    """What could not be fetched: a line each, with item and reason, and no address with a signature."""


def fetch(
    items: Sequence[dict[str, Any]],
    place: Place | None,
    output: Path,
    choices: FetchChoices | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch scenes, of each only the part inside `place` (None: all of it), into a folder.

    Parameters
    ----------
    items : STAC items, as `raster.stac.search` gives them.
    output : the folder; its parent must exist.

    Raises
    ------
    RemoteError, CredentialsError, AddressError, OutputError : nothing could be fetched.
    """
    raise NotImplementedError
