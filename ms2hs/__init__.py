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

    from ms2hs.api import convert as convert
    from ms2hs.api import convert_all as convert_all
    from ms2hs.api import evaluate as evaluate
    from ms2hs.api import fetch as fetch
    from ms2hs.api import finetune as finetune
    from ms2hs.api import index as index
    from ms2hs.api import pretrain as pretrain
    from ms2hs.api import search as search
    from ms2hs.api import spectrum as spectrum
    from ms2hs.conversion.batch import BatchResult as BatchResult
    from ms2hs.conversion.dask_backend import Executor as Executor
    from ms2hs.conversion.planning import ConvertOptions as ConvertOptions
    from ms2hs.conversion.planning import plan as plan
    from ms2hs.conversion.point_spectra import convert_spectra as convert_spectra
    from ms2hs.conversion.result_files import ConversionResult as ConversionResult
    from ms2hs.datasets.cubes.packing import prepare as prepare
    from ms2hs.datasets.pairs.pairing import PairOptions as PairOptions
    from ms2hs.datasets.pairs.pairing import pair as pair
    from ms2hs.errors import AddressError as AddressError
    from ms2hs.errors import ClusterError as ClusterError
    from ms2hs.errors import CredentialsError as CredentialsError
    from ms2hs.errors import DataError as DataError
    from ms2hs.errors import GridError as GridError
    from ms2hs.errors import Interrupted as Interrupted
    from ms2hs.errors import Ms2hsError as Ms2hsError
    from ms2hs.errors import NothingFound as NothingFound
    from ms2hs.errors import OutputError as OutputError
    from ms2hs.errors import PartlyDone as PartlyDone
    from ms2hs.errors import QueryError as QueryError
    from ms2hs.errors import RemoteError as RemoteError
    from ms2hs.errors import SceneError as SceneError
    from ms2hs.errors import UnknownName as UnknownName
    from ms2hs.errors import WeightsError as WeightsError
    from ms2hs.evaluation.report.page import write_report as write_report
    from ms2hs.places import convert_place as convert_place
    from ms2hs.raster.cube import open_cube as open_cube
    from ms2hs.scenes.formats import open_scene as open_scene
    from ms2hs.spectra.product_error import InputError as InputError
    from ms2hs.spectra.sensors import load_sensor as load_sensor
    from ms2hs.training.engine.loop import FitSettings as FitSettings
    from ms2hs.viewing.format_export import export as export
    from ms2hs.viewing.page import view as view

# The module of every public name. A name is loaded on first use, so that importing the package costs nothing.
_HOMES = {
    "ms2hs.api": ("convert", "convert_all", "evaluate", "fetch", "finetune", "index", "pretrain", "search", "spectrum"),
    "ms2hs.conversion.batch": ("BatchResult",),
    "ms2hs.conversion.dask_backend": ("Executor",),
    "ms2hs.conversion.planning": ("ConvertOptions", "plan"),
    "ms2hs.conversion.point_spectra": ("convert_spectra",),
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
