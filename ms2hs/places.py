"""From a place and a date to a scene on the local disk: the search, the choice of the scene, and its fetch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ms2hs.api import convert
from ms2hs.conversion.planning import ConvertOptions, output_path
from ms2hs.conversion.result_files import ConversionResult, check_new_output
from ms2hs.errors import OutputError, QueryError
from ms2hs.fetching.fetch_request import FetchRequest, plan_requests
from ms2hs.fetching.fetcher import FetchOptions, fetch
from ms2hs.fetching.selection import SearchRequest, Selection, select_clearest
from ms2hs.models.weights import load_weights
from ms2hs.progress import Progress
from ms2hs.remote.object_store import OutputPath
from ms2hs.spectra.sensors import load_sensor


@dataclass(frozen=True, eq=False)
class PlacePlan:
    """The scene that covers a place, and where it and its cube are written."""

    selected: Selection
    """One scene."""
    request: FetchRequest
    """Of the scene; its file lies beside the cube, or in the working directory for a cube in an object store."""
    output: OutputPath
    """The cube."""
    fetching: FetchOptions
    options: ConvertOptions
    """Of the conversion of the fetched scene, which holds the place and nothing else."""

    @property
    def facts(self) -> dict[str, Any]:
        """`scene`, its file; `is_fetched`; `found`: id, datetime, tile, cloud_cover (percent), coverage, collection."""
        found = self.selected.candidates[0].facts
        return {"scene": str(self.request.scene_path), "is_fetched": self.request.is_complete, "found": found}

    @property
    def note(self) -> str:
        """One line that says which scene was chosen, and where its file is."""
        found = self.facts["found"]
        cloud = "unknown" if found["cloud_cover"] is None else f"{found['cloud_cover']:.1f} % of the whole scene"
        return (
            f"the clearest scene that covers the area is {found['id']} of {found['datetime'].replace('T', ' ')[:16]}: "
            f"cloud cover {cloud}, coverage {100 * found['coverage']:.0f} %; kept as {self.request.scene_path}"
        )

    def fetch(self, progress: Progress | None = None) -> Path:
        """Fetch the scene, or keep the complete one, and return the path to convert; errors as of `fetcher.fetch`."""
        return fetch(self.selected.items, self.selected.area, self.request.folder, self.fetching, progress).paths[0]


def plan_place(
    search: SearchRequest,
    target: str = "enmap",
    output: str | Path | None = None,
    options: ConvertOptions | None = None,
    *,
    to_fetch: bool = True,
) -> PlacePlan:
    """Search the clearest scene that covers an area, after a check of target and model; nothing is written.

    Parameters
    ----------
    options : without `bbox` and `window`: the search has the area.
    to_fetch : whether the scene will be read, which needs credentials at some providers.

    Raises
    ------
    QueryError, UnknownName : a search, target or model that is not known; no server was contacted.
    NothingFound : no scene covers the area. RemoteError : the server fails.
    OutputError : the cube exists, or another file has the name of the scene, and `overwrite` is False.
    """
    options = options or ConvertOptions()
    if options.bbox or options.window:
        raise QueryError("a bbox or window of a scene was given with a place; the place is allowed. Leave it out.")
    sensor = load_sensor(target)
    load_weights(options.model)
    selected = select_clearest(search, to_fetch=to_fetch)
    path = output_path(output, selected.items[0]["id"], sensor.name)
    check_new_output(path, **{flag: getattr(options, flag) for flag in ("uncertainty", "overwrite", "resume")})
    folder = path.parent if isinstance(path, Path) else Path()
    fetching = FetchOptions() if options.gsd_m is None else FetchOptions(options.gsd_m)
    where = selected.items, selected.area, folder, fetching.gsd_m
    try:
        (request,) = plan_requests(*where, overwrite=False)
    except OutputError:  # a scene of another place has this name
        if not options.overwrite:
            raise
        fetching = replace(fetching, overwrite=True)
        (request,) = plan_requests(*where, overwrite=True)
    options = replace(options, gsd_m="native" if fetching.gsd_m == "native" else None)
    return PlacePlan(selected, request, path, fetching, options)


def convert_place(
    bbox: Sequence[float],
    date: str,
    target: str = "enmap",
    output: str | Path | None = None,
    options: ConvertOptions | None = None,
    *,
    provider: str | None = None,
    max_cloud: float | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Fetch the clearest scene that covers an area at a date, and convert it; the scene is kept beside the cube.

    Parameters
    ----------
    bbox, date, provider, max_cloud : as for `ms2hs.search`; the others as for `ms2hs.convert`.

    Raises
    ------
    NothingFound : no scene covers the whole area. Ms2hsError : as for `search`, `fetch` and `convert`.
    """
    search = SearchRequest(bbox, date=date, provider=provider, max_cloud=max_cloud)
    place = plan_place(search, target, output, options)
    return convert(place.fetch(progress), target, place.output, place.options, progress)
