"""The public verbs. Each is thin: the work is done in the package that the function imports when it runs."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import xarray as xr

    from ms2hs.conversion.batch import BatchResult
    from ms2hs.conversion.dask_backend import Executor
    from ms2hs.conversion.planning import ConvertOptions, Plan
    from ms2hs.conversion.result_files import ConversionResult
    from ms2hs.evaluation.results import Evaluation
    from ms2hs.fetching.fetcher import FetchResult
    from ms2hs.fetching.selection import SearchRequest
    from ms2hs.progress import FitProgress, Progress
    from ms2hs.scenes.scene import Scene
    from ms2hs.training.engine.loop import FitSettings
    from ms2hs.training.finetuning import FinetuneResult
    from ms2hs.training.pretraining import PretrainResult
    from ms2hs.viewing.band_indices import IndexResult

BBox = tuple[float, float, float, float]
Item = dict[str, Any]


def convert(
    scene: "str | Path | Scene",
    target: str = "enmap",
    output: str | Path | None = None,
    options: "ConvertOptions | None" = None,
    progress: "Progress | None" = None,
    *,
    choices: "ConvertOptions | None" = None,
) -> "ConversionResult":
    """Convert a scene to a hyperspectral COG, with a quicklook and a STAC item beside it.

    Parameters
    ----------
    scene : GeoTIFF, SAFE folder or zip, folder or archive of band files, STAC item (file or URL), or an opened scene.
    target : name of a sensor, or path of a CSV of center_nm,fwhm_nm.
    output : output .tif; or a directory or URL of a directory, where the file becomes `<scene>_<target>.tif`.
    options : everything else, such as `ConvertOptions(uncertainty=True, site="auto")`.
    progress : called with the stage, the rows done and all rows.
    choices : deprecated name of `options`.

    Raises
    ------
    Ms2hsError : bad input, or an output that cannot be written. No file is left then.
    """
    from ms2hs.conversion import convert_scene
    from ms2hs.conversion.planning import plan

    planned = plan(scene, target, output, _renamed(options, choices, "choices", "options"))
    return convert_scene.run(with_site(planned, progress=progress), progress)


def with_site(planned: "Plan", *, to_fetch: bool = True, progress: "Progress | None" = None) -> "Plan":
    """The plan with the cubes of passes over its scene, if its `site` is `auto`.

    Parameters
    ----------
    to_fetch : sample the passes; False only names them in the note.
    progress : called with the number of passes that were sampled.

    Raises
    ------
    QueryError : a period or limit of passes that cannot be searched.
    """
    from ms2hs.conversion.planning import AUTO, with_found_site
    from ms2hs.fetching.cubes.site_search import SiteFinder
    from ms2hs.files import file_ids

    if planned.options.site != AUTO:
        return planned
    finder = SiteFinder(planned.options.site_date, planned.options.site_limit, progress)
    site = finder.find(planned.grid, planned.scene.datetime, to_fetch=to_fetch)
    inputs = planned.inputs | file_ids(site.cubes)
    return replace(planned, options=with_found_site(planned.options, site), inputs=inputs)


def convert_all(
    scenes: Sequence[str | Path],
    target: str = "enmap",
    folder: str | Path | None = None,
    options: "ConvertOptions | None" = None,
    *,
    executor: "Executor | None" = None,
    shard: tuple[int, int] | None = None,
    progress: "Progress | None" = None,
    choices: "ConvertOptions | None" = None,
    crew: "Executor | None" = None,
) -> "BatchResult":
    """Convert several scenes. A failing scene does not stop the others; `BatchResult.failed` names it.

    Parameters
    ----------
    folder : output directory, or a URL; created if missing.
    executor : local processes or a dask cluster; None converts one scene after the other in this process. A script
        that starts local processes needs `if __name__ == "__main__":`, since each process imports the script.
    shard : (i, n) converts only the i-th of n equal shares of the sorted scenes; i is 1 to n.
    progress : called with the stage, the scenes done and all scenes.
    choices, crew : deprecated names of `options` and `executor`.

    Raises
    ------
    Ms2hsError : a target, weights, folder or cluster that no scene can be converted with.
    """
    from ms2hs.conversion import dask_backend
    from ms2hs.conversion.planning import AUTO
    from ms2hs.fetching.cubes.site_search import SiteFinder

    options = _renamed(options, choices, "choices", "options")
    finder = SiteFinder(options.site_date, options.site_limit) if options and options.site == AUTO else None
    return dask_backend.convert_all(
        scenes,
        target,
        folder,
        options,
        executor=_renamed(executor, crew, "crew", "executor"),
        shard=shard,
        progress=progress,
        find_site=finder.find if finder else None,
    )


def search(
    bbox: BBox | None = None,
    date: str | None = None,
    *,
    intersects: str | Path | None = None,
    provider: str | None = None,
    stac: str | None = None,
    collection: str | None = None,
    max_cloud: float | None = None,
    limit: int | None = None,
    sort: Literal["cloud", "date", "coverage"] = "cloud",
    product: str | None = None,
    near: str | None = None,
) -> list[Item]:
    """STAC items of the scenes that cover an area at a date, the best first.

    Parameters
    ----------
    bbox : west, south, east, north in degrees; or `intersects`, a GeoJSON file.
    date : day, month, year or range, such as 2024-06 or 2024-06-01/2024-06-30.
    provider : a name in `ms2hs.remote.providers.PROVIDERS`; or `stac`, the URL of another STAC API.
    max_cloud : largest cloud cover of a scene, in percent; None is 20.
    limit : largest number of scenes; None is 10.
    product : hyperspectral product, a name in `ms2hs.fetching.cubes.products.PRODUCTS`; the date is optional then.
    near : with `product`, a day such as 2024-06-15: order by cloud cover, then by the season and distance of this day.

    Raises
    ------
    QueryError, UnknownName : an area, date or name that cannot be searched. NothingFound : no scene.
    RemoteError : the server fails.
    """
    request = _request(bbox, intersects, date, provider, stac, collection, max_cloud, limit, sort)
    return _select(request, product, near, to_fetch=False)


def fetch(
    bbox: BBox | None = None,
    date: str | None = None,
    output: str | Path = "scenes",
    *,
    items: Sequence[Item] | None = None,
    intersects: str | Path | None = None,
    provider: str | None = None,
    stac: str | None = None,
    collection: str | None = None,
    max_cloud: float | None = None,
    limit: int | None = None,
    sort: Literal["cloud", "date", "coverage"] = "cloud",
    product: str | None = None,
    near: str | None = None,
    gsd_m: float | Literal["native"] = 30.0,
    mosaic: bool = False,
    jobs: int = 4,
    overwrite: bool = False,
    progress: "Progress | None" = None,
) -> "FetchResult":
    """Fetch scenes of an area and a date as files that `convert` takes; complete files are kept.

    With `product`, fetch hyperspectral passes as cubes that `open_cube` opens; `gsd_m` and `mosaic` do not apply.

    Parameters
    ----------
    output : directory; its parent must exist.
    items : STAC items, as `search` returns them, instead of a search. The area is optional then.
    gsd_m : pixel size in metres, or `native`: one unchanged file a band.
    mosaic : merge the scenes of one overpass, the clearest on top.
    jobs : parallel connections.
    Others as for `search`.

    Raises
    ------
    Ms2hsError : as `search`; CredentialsError : the provider needs a login; OutputError : the directory cannot be
        written. A scene that fails is listed in `FetchResult.failed`.
    """
    from ms2hs.fetching import fetcher
    from ms2hs.fetching.cubes import cube_fetcher

    request = _request(bbox, intersects, date, provider, stac, collection, max_cloud, limit, sort)
    area = request.given_area
    if items is None:
        items = _select(request, product, near, to_fetch=True)
    options = fetcher.FetchOptions(gsd_m=gsd_m, mosaic=mosaic, jobs=jobs, overwrite=overwrite)
    fetch_items = fetcher.fetch if product is None else cube_fetcher.fetch_cubes
    return fetch_items(items, area, Path(output), options, progress)


def pretrain(
    preset: str,
    output: str | Path,
    data: Sequence[str | Path] = (),
    *,
    fit: "FitSettings | None" = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: "FitProgress | None" = None,
    note: Callable[[str], None] | None = None,
    **settings: Any,  # noqa: ANN401 - the fields of Pretraining have their own types
) -> "PretrainResult":
    """Train a network preset on folders of hyperspectral cubes; without data, on simulated scenes.

    Parameters
    ----------
    preset : a name in `ms2hs.models.config.PRESETS`.
    output : weights file; log and checkpoints go to `<stem>.run/`.
    fit : steps, batch size, learning rate, device.
    settings : fields of `ms2hs.training.pretraining.Pretraining`, such as `init`, `window`, `leave_out`.
    progress : called with steps done, all steps and the loss. note : called with each note.

    Raises
    ------
    Ms2hsError : data, weights or settings that cannot be used; an interrupt, after saving.
    """
    from ms2hs.training import pretraining
    from ms2hs.training.engine.loop import FitSettings

    task = pretraining.PretrainOptions(preset, tuple(map(Path, data)), fit=fit or FitSettings(), **settings)
    return pretraining.pretrain(task, Path(output), resume=resume, overwrite=overwrite, progress=progress, note=note)


def finetune(
    pairs: str | Path | None = None,
    output: str | Path = "finetuned.safetensors",
    *,
    corpus: str | Path | None = None,
    init: str = "linear",
    fit: "FitSettings | None" = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: "FitProgress | None" = None,
    note: Callable[[str], None] | None = None,
    **settings: Any,  # noqa: ANN401 - the fields of Finetuning have their own types
) -> "FinetuneResult":
    """Fit weights to pairs, or to pairs simulated from a corpus of cubes, and calibrate their uncertainty.

    Parameters
    ----------
    init : name or path of the initial weights.
    settings : fields of `ms2hs.training.finetuning.Finetuning`, such as `hold_out`, `train`, `source`.
    Others as for `pretrain`.

    Raises
    ------
    Ms2hsError : pairs, weights or settings that cannot be used; an interrupt, after saving.
    """
    from ms2hs.training import finetuning

    task = finetuning.FinetuneOptions(init=init, pairs=_path(pairs), corpus=_path(corpus), **settings)
    if fit:
        task = replace(task, fit=fit)
    return finetuning.finetune(task, Path(output), resume=resume, overwrite=overwrite, progress=progress, note=note)


def evaluate(
    models: Sequence[str] = (),
    pairs: str | Path | None = None,
    *,
    corpus: str | Path | None = None,
    source: str = "sentinel2a",
    target: str = "enmap",
    split: str | None = None,
    scenes: Sequence[str] = (),
    prior: str = "linear",
    windows: int = 64,
    seed: int = 0,
    progress: "Progress | None" = None,
) -> "Evaluation":
    """Scores of models beside the baselines, on measured pairs or on cubes with a simulated source.

    Parameters
    ----------
    models : names or paths of weights.
    pairs : folder of pairs; or `corpus`, a folder of cubes from which `source` is simulated and `target` is scored.
    prior : weights of the prior to beat, not trained on these scenes.
    windows : largest number of windows of a scene.

    Returns
    -------
    Evaluation; `write_report(evaluation, "report.html")` draws it.

    Raises
    ------
    ValueError : not exactly one of pairs and corpus. Ms2hsError : data or weights that cannot be used.
    """
    from ms2hs.datasets.pairs.pair_set import open_pairs, simulated_pairs
    from ms2hs.evaluation import evaluator

    if (pairs is None) == (corpus is None):
        raise ValueError("give either pairs or corpus")
    pair_set = simulated_pairs(Path(corpus), source, target, split) if corpus else open_pairs(Path(pairs or ""), split)
    settings = evaluator.EvaluationSettings(prior, windows, seed)
    return evaluator.evaluate_pairs(models, pair_set.of_scenes(scenes), settings, progress)


def index(
    cube: str | Path,
    names: Sequence[str],
    output: str | Path | None = None,
    *,
    constants: Mapping[str, float] | None = None,
    overwrite: bool = False,
    progress: "Progress | None" = None,
) -> "IndexResult":
    """Write spectral indices of a cube, such as ["NDVI", "CAI"], as a COG; parameters and errors of `write_indices`."""
    from ms2hs.viewing.band_indices import write_indices

    return write_indices(cube, names, output, constants=constants, overwrite=overwrite, progress=progress)


def spectrum(cube: str | Path, lon: float, lat: float) -> "xr.Dataset":
    """The spectrum of the pixel at a location.

    Parameters
    ----------
    cube : a file that `open_cube` opens.
    lon, lat : degrees (WGS 84).

    Returns
    -------
    `reflectance` and, if the file exists, `sigma` by `wavelength`, with the coordinates of `open_cube`.

    Raises
    ------
    SceneError : the file is not a cube, or the location lies outside it.
    """
    from ms2hs.raster.cube import CubeAccessor, open_cube

    return CubeAccessor(open_cube(cube)).spectrum(lon, lat)


def _request(
    bbox: BBox | None,
    intersects: str | Path | None,
    *search: Any,  # noqa: ANN401 - the other fields of SearchRequest, in their order
) -> "SearchRequest":
    from ms2hs.fetching.selection import SearchRequest

    return SearchRequest(bbox, _path(intersects), *search)


def _select(request: "SearchRequest", product: str | None, near: str | None, *, to_fetch: bool) -> list[Item]:
    """The items of a search of scenes, or of a hyperspectral product."""
    from ms2hs.fetching.cubes.product_search import select_passes
    from ms2hs.fetching.cubes.products import product_named
    from ms2hs.fetching.search_query import parse_period
    from ms2hs.fetching.selection import select

    if product is None:
        return select(request, to_fetch=to_fetch).items
    start = parse_period(near).start if near else None
    return select_passes(request, product_named(product), start and start.date(), to_fetch=to_fetch).items


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _renamed(new: Any, old: Any, old_name: str, new_name: str) -> Any:  # noqa: ANN401 - any parameter
    """The value of a renamed parameter; the old name warns."""
    if old is None:
        return new
    warnings.warn(f"{old_name} is deprecated and will be removed; use {new_name}", DeprecationWarning, stacklevel=3)
    return old
