"""Multispectral scenes in, hyperspectral scenes out.

import ms2hs
made = ms2hs.convert("scene.tif", target="enmap")
cube = ms2hs.open_cube(made.output)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ms2hs._version import __version__ as __version__

if TYPE_CHECKING:
    from ms2hs.conversion.convert_scene import convert
    from ms2hs.conversion.planning import ConvertOptions, plan
    from ms2hs.errors import Ms2hsError
    from ms2hs.raster.cube import open_cube
    from ms2hs.scenes.formats import open_scene
    from ms2hs.spectra.sensors import load_sensor

__all__ = ["ConvertOptions", "Ms2hsError", "convert", "load_sensor", "open_cube", "open_scene", "plan"]

_HOMES = {
    "ConvertOptions": "ms2hs.conversion.planning",
    "Ms2hsError": "ms2hs.errors",
    "convert": "ms2hs.conversion.convert_scene",
    "load_sensor": "ms2hs.spectra.sensors",
    "open_cube": "ms2hs.raster.cube",
    "open_scene": "ms2hs.scenes.formats",
    "plan": "ms2hs.conversion.planning",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever lives under that name
    """Load a public name on first use, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ms2hs' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
