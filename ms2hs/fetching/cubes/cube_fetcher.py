"""The download of hyperspectral items as cubes on disk (`fetch --product`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms2hs.fetching.fetcher import FetchOptions, FetchResult
from ms2hs.fetching.search_query import SearchArea
from ms2hs.progress import Progress


def fetch_cubes(
    items: Sequence[dict[str, Any]],
    area: SearchArea | None,
    output: Path,
    options: FetchOptions | None = None,
    progress: Progress | None = None,
) -> FetchResult:
    """Fetch the parts of hyperspectral items inside an area into a folder, as one cube (COG) per item.

    The cubes are orthorectified, in reflectance, with wavelengths, good bands only; flagged pixels are nodata.
    Parameters, result and errors as for `fetcher.fetch`; `gsd_m` and `mosaic` do not apply.
    """
    raise NotImplementedError
