"""Multispectral scenes in, hyperspectral scenes out.

import ms2hs
result = ms2hs.convert("scene.tif", target="enmap")
cube = ms2hs.open_cube(result.output)
"""

import warnings
from importlib import import_module

from ms2hs._version import __version__ as __version__

TYPE_CHECKING = False  # as in `typing`, whose import takes a third of the time until Ctrl-C is caught
if TYPE_CHECKING:
    from typing import Any

    from ms2hs.api import convert, convert_all, evaluate, fetch, finetune, index, pretrain, search, spectrum
    from ms2hs.conversion.batch import BatchResult
    from ms2hs.conversion.dask_backend import Executor
    from ms2hs.conversion.planning import ConvertOptions, plan
    from ms2hs.conversion.result_files import ConversionResult
    from ms2hs.datasets.cubes.packing import prepare
    from ms2hs.datasets.pairs.pairing import PairOptions, pair
    from ms2hs.errors import (
        AddressError,
        ClusterError,
        CredentialsError,
        DataError,
        GridError,
        Interrupted,
        Ms2hsError,
        NothingFound,
        OutputError,
        PartlyDone,
        QueryError,
        RemoteError,
        SceneError,
        UnknownName,
        WeightsError,
    )
    from ms2hs.evaluation.report.page import write_report
    from ms2hs.places import convert_place
    from ms2hs.raster.cube import open_cube
    from ms2hs.scenes.formats import open_scene
    from ms2hs.spectra.product_error import InputError
    from ms2hs.spectra.sensors import load_sensor
    from ms2hs.training.engine.loop import FitSettings
    from ms2hs.viewing.format_export import export
    from ms2hs.viewing.page import view

# The module of every public name. A name is loaded on first use, so that importing the package costs nothing.
_HOMES = {
    "ms2hs.api": ("convert", "convert_all", "evaluate", "fetch", "finetune", "index", "pretrain", "search", "spectrum"),
    "ms2hs.conversion.batch": ("BatchResult",),
    "ms2hs.conversion.dask_backend": ("Executor",),
    "ms2hs.conversion.planning": ("ConvertOptions", "plan"),
    "ms2hs.conversion.result_files": ("ConversionResult",),
    "ms2hs.datasets.cubes.packing": ("prepare",),
    "ms2hs.datasets.pairs.pairing": ("PairOptions", "pair"),
    "ms2hs.errors": (
        *("AddressError", "ClusterError", "CredentialsError", "DataError", "GridError", "Interrupted", "Ms2hsError"),
        *("NothingFound", "OutputError", "PartlyDone", "QueryError", "RemoteError", "SceneError", "UnknownName"),
        "WeightsError",
    ),
    "ms2hs.evaluation.report.page": ("write_report",),
    "ms2hs.places": ("convert_place",),
    "ms2hs.raster.cube": ("open_cube",),
    "ms2hs.scenes.formats": ("open_scene",),
    "ms2hs.spectra.product_error": ("InputError",),
    "ms2hs.spectra.sensors": ("load_sensor",),
    "ms2hs.training.engine.loop": ("FitSettings",),
    "ms2hs.viewing.format_export": ("export",),
    "ms2hs.viewing.page": ("view",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
# Names of the release before, kept for one release.
_RENAMED = {"Choices": "ConvertOptions"}

__all__ = sorted(_MODULES)  # noqa: PLE0605 - the table above is the one list


def __getattr__(name: str) -> "Any":  # noqa: ANN401 - any public definition
    """Load a public name on first use."""
    if name in _RENAMED:
        new = _RENAMED[name]
        warnings.warn(f"ms2hs.{name} is deprecated; use ms2hs.{new}", DeprecationWarning, stacklevel=2)
        name = new
    if name not in _MODULES:
        raise AttributeError(f"module 'ms2hs' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
