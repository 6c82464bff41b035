"""Passes of hyperspectral sensors over a scene, for `convert --site auto`.

All products in SITE_PRODUCTS whose provider has a login are searched at the same time, within a deadline. Passes are
sorted by cloud, season and date (`pass_order`) and sampled in this order, until enough of them have clear pixels.
The choice is kept in the cache beside the samples, so that a second conversion needs no network.
No error of a server or file is raised: it becomes a part of the one note about the passes.
"""

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ms2hs.errors import CredentialsError, NothingFound, OutputError, QueryError, RemoteError, failure
from ms2hs.fetching.cubes.pass_samples import JOBS, Sample, cache_folder, cache_key, read_sample, sample_pass
from ms2hs.fetching.cubes.product_search import EVERY_DATE, pass_order
from ms2hs.fetching.cubes.products import PRODUCTS, Product
from ms2hs.fetching.search_query import Period, SearchArea, parse_period
from ms2hs.fetching.stac_search import Candidate, StacQuery, search
from ms2hs.files import read_json, write_bytes
from ms2hs.progress import Progress
from ms2hs.raster.dates import parse_time
from ms2hs.raster.pixel_grid import PixelGrid, lonlat_bounds
from ms2hs.remote.client import MAX_DOCUMENT_BYTES, RetryPolicy, WebClient
from ms2hs.remote.providers import PROVIDERS
from ms2hs.remote.url_policy import host_of

SITE_PRODUCTS = ("emit", "enmap")
# Seconds to the first answer of a server, and for a whole search. Without a network, a conversion waits for the first.
FIRST_ANSWER_S, SEARCH_S = 6.0, 45.0
RETRIES = RetryPolicy(attempts=4, connect_s=4.0, unreachable_s=4.0, read_s=15.0, total_s=30.0)
# Largest cloud cover of a pass, in percent, and smallest share of the scene that it covers.
MAX_CLOUD, MIN_COVERAGE = 80.0, 0.05
# Passes that are tried at most, as a multiple of the limit; and failed passes after which a server is given up.
MAX_TRIED, MAX_LOST = 2, 2
# A choice of passes is used again for so many days: newer passes appear.
MAX_AGE_DAYS = 30


@dataclass(frozen=True)
class Site:
    """The passes over a scene."""

    cubes: tuple[Path, ...]
    """Sample of each pass, best first."""
    passes: tuple[str, ...]
    """Id, day, and clear pixels or cloud cover of each pass."""
    note: str
    """One line: the passes, and why others or all are missing."""

    @classmethod
    def of(cls, cubes: Sequence[Path], passes: Sequence[str], missing: Sequence[str]) -> "Site":
        """The site with its note; `missing` holds reasons."""
        return cls(tuple(cubes), tuple(passes), "; ".join([f"site: {', '.join(passes) or 'no pass'}", *missing]))


@dataclass(frozen=True)
class SitePass:
    """A pass over a scene, as the search found it."""

    product: Product
    candidate: Candidate

    @property
    def day(self) -> str:
        """Day of acquisition."""
        return self.candidate.time[:10]

    @property
    def text(self) -> str:
        """Id, day and cloud cover."""
        cloud = "unknown cloud" if self.candidate.cloud is None else f"{self.candidate.cloud:.0f} % cloud"
        return f"{self.candidate.item['id']} ({self.day}, {cloud})"


@dataclass(frozen=True)
class _Choice:
    """The passes that were chosen for a scene."""

    samples: tuple[Sample, ...]
    missing: tuple[str, ...]
    """Why better passes have no sample, and which products have no pass."""


class SiteFinder:
    """Finds the passes over the scenes of one run.

    Equal footprints are searched once, and a server that failed is not asked again.
    """

    def __init__(self, date: str | None = None, limit: int = 3, progress: Progress | None = None) -> None:
        """Check the request; no server is contacted.

        Parameters
        ----------
        date : period of the passes, as `parse_period` takes it; None: any.
        limit : largest number of passes.
        progress : called with the number of passes that were sampled.

        Raises
        ------
        QueryError : no period, or a limit below 1.
        """
        if limit < 1:
            raise QueryError(f"--site-limit {limit}; at least 1 pass is needed. Use --site-limit 3.")
        try:
            self._period = parse_period(date or EVERY_DATE)
        except QueryError as error:
            raise QueryError(str(error).replace("--date", "--site-date")) from error
        self._limit, self._progress = limit, progress or (lambda _stage, _done, _total: None)
        self._found: dict[SearchArea, tuple[list[SitePass], list[str]]] = {}
        self._failed: dict[str, str] = {}
        """Why a product is not searched, by its name."""
        for name in SITE_PRODUCTS:
            try:
                PROVIDERS[PRODUCTS[name].provider].check_credentials()
            except CredentialsError as error:
                self._failed[name] = _reason(error)
        self._with_login = tuple(name for name in SITE_PRODUCTS if name not in self._failed)

    def find(self, grid: PixelGrid, taken: str | None, *, to_fetch: bool = True) -> Site:
        """The passes over a scene.

        Parameters
        ----------
        grid : pixels of the scene.
        taken : time or day of its acquisition, ISO 8601; None if unknown.
        to_fetch : sample the passes; False only names them, and writes nothing.
        """
        bounds = lonlat_bounds(grid)
        if bounds is None:
            return Site.of([], [], ["the scene has no position on the Earth"])
        west, south, east, north = (round(degrees, 6) for degrees in bounds)
        area = SearchArea((west, south, east, north))
        path = self._choice_path(area, taken)
        choice = _read_choice(path, MAX_AGE_DAYS)
        if choice is None and not to_fetch:
            passes, missing = self._search(area, taken)
            return Site.of([], [one.text for one in passes[: self._limit]], [*missing, *self._failures()])
        if choice is None:
            choice = self._sample(area, taken, path)
        passes_used = [f"{one.name} ({one.day}, {one.pixels} pixels)" for one in choice.samples]
        return Site.of([one.cube for one in choice.samples], passes_used, [*choice.missing, *self._failures()])

    def _choice_path(self, area: SearchArea, taken: str | None) -> Path:
        key = cache_key(area.bbox, self._period.text, self._limit, (taken or "")[:10], self._with_login)
        return cache_folder() / f"passes_{key}.json"

    def _failures(self) -> list[str]:
        return [f"{name}: {reason}" for name, reason in self._failed.items()]

    def _search(self, area: SearchArea, taken: str | None) -> tuple[list[SitePass], list[str]]:
        """The passes over an area, best first for a scene of this time; and which products have none."""
        if area not in self._found:
            names = [name for name in self._with_login if name not in self._failed]
            self._found[area] = _search_products(names, area, self._period, self._failed)
        passes, missing = self._found[area]
        moment = parse_time(taken or "") or datetime.now(UTC)
        order = pass_order(moment.date())
        return sorted(passes, key=lambda one: order(one.candidate)), missing

    def _sample(self, area: SearchArea, taken: str | None, path: Path) -> _Choice:
        """Sample passes over an area, and keep the choice if every server answered; else an old choice counts."""
        passes, missing = self._search(area, taken)
        samples: list[Sample] = []
        reasons, tried, lost = list(missing), 0, Counter[str]()
        with WebClient(RETRIES, JOBS, logs_waits=False) as client:
            for one in passes:
                if len(samples) == self._limit or tried == MAX_TRIED * self._limit:
                    break
                if one.product.name in self._failed:
                    continue
                self._progress("site", len(samples), self._limit)
                tried += 1
                try:
                    samples.append(sample_pass(client, one.candidate.item, one.product.name, one.day, area))
                except Exception as error:  # noqa: BLE001  one pass must not stop the conversion
                    lost[one.product.name] += isinstance(error, RemoteError)
                    if isinstance(error, CredentialsError | OutputError) or lost[one.product.name] == MAX_LOST:
                        self._failed[one.product.name] = _reason(error)
                    else:
                        reasons.append(_reason(error, one.candidate.item["id"]))
        self._progress("site", self._limit, self._limit)
        choice = _Choice(tuple(samples), tuple(reasons))
        if not samples:
            return _read_choice(path) or choice
        if not lost.total() and not self._failed.keys() & {*self._with_login}:
            facts = {"samples": [sample.cube.name for sample in samples], "missing": reasons}
            with suppress(OutputError):  # the next conversion searches again
                write_bytes(path, (json.dumps(facts, indent=1) + "\n").encode())
        return choice


def _read_choice(path: Path, max_age_days: float = math.inf) -> _Choice | None:
    """A choice in the cache; None if it is missing, damaged or too old, or one of its samples is missing or damaged."""
    try:
        if time.time() - path.stat().st_mtime > max_age_days * 86_400:
            return None
        facts = read_json(path, MAX_DOCUMENT_BYTES)
        samples = [read_sample(path.parent / Path(name).name) for name in facts["samples"]]
        whole = tuple(sample for sample in samples if sample)
        return _Choice(whole, tuple(map(str, facts["missing"]))) if len(whole) == len(samples) else None
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None


def _search_products(
    names: Sequence[str], area: SearchArea, period: Period, failed: dict[str, str]
) -> tuple[list[SitePass], list[str]]:
    """The passes of products over an area, and a text for each product without a pass.

    A server that sends nothing is given up after FIRST_ANSWER_S, any other after SEARCH_S.

    Parameters
    ----------
    failed : receives the reason for each product whose server failed.
    """
    began = time.monotonic()
    searches = [_Search(name, area, period) for name in names]
    for one in searches:
        one.start()
    for limit_s in (FIRST_ANSWER_S, SEARCH_S):
        for one in searches:
            if limit_s == FIRST_ANSWER_S or one.client.bytes_read:
                one.join(max(0.0, began + limit_s - time.monotonic()))
    passes: list[SitePass] = []
    missing: list[str] = []
    for one in searches:
        if one.is_alive():
            one.client.stop()
            host = host_of(PROVIDERS[one.product.provider].url)
            failed[one.product.name] = f"{host} did not answer within {time.monotonic() - began:.0f} s"
        elif one.problem:
            failed[one.product.name] = one.problem
        elif one.passes:
            passes += one.passes
        else:
            missing.append(f"{one.product.name}: no pass")
    return passes, missing


class _Search(threading.Thread):
    """The search of one product, in a thread that does not keep the process from ending."""

    def __init__(self, name: str, area: SearchArea, period: Period) -> None:
        super().__init__(name=f"search-{name}", daemon=True)
        self.product = PRODUCTS[name]
        self.client = WebClient(RETRIES, logs_waits=False)
        self.passes: list[SitePass] = []
        self.problem: str | None = None
        provider = PROVIDERS[self.product.provider]
        self._query = StacQuery(provider, self.product.collection, area, period, None, None)

    def run(self) -> None:
        """Search; an error becomes `problem`."""
        try:
            found = search(self._query, client=self.client)
        except NothingFound:
            return
        except Exception as error:  # noqa: BLE001  a server must not stop the conversion
            self.problem = _reason(error)
        else:
            usable = [one for one in found if one.coverage >= MIN_COVERAGE and (one.cloud or 0.0) <= MAX_CLOUD]
            self.passes = [SitePass(self.product, one) for one in usable]


def _reason(error: Exception, name: str = "") -> str:
    """What is wrong and what is needed: the first sentence of a message."""
    return failure(name, error).split(". ")[0]
