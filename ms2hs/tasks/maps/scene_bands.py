"""The bands of a scene that a task's model needs, in the order of the model.

Bands of a named sensor are matched by name, within the sensor's family as `convert` reads it: Sentinel-2A, B and C.
Bands that are known by wavelength only are matched by the nearest centre. All other bands are left out, so that a
pixel that lacks only these stays valid.
"""

from dataclasses import replace

import numpy as np

from ms2hs.errors import SceneError
from ms2hs.scenes.scene import CUSTOM, Scene
from ms2hs.spectra.sensors import shipped_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

# Largest distance of a band from the model's centre as a share of the model's width, and largest ratio of both widths.
MAX_SHIFT, MAX_WIDTH_RATIO = 0.5, 2.0
# Bands that a message lists.
MAX_LISTED = 8


def select_bands(scene: Scene, grid: SpectralGrid, sensor: str | None) -> Scene:
    """The scene with only the bands of `grid`, in its order; a note says which assumption that needs.

    Parameters
    ----------
    sensor : name of the sensor of `grid`; None: its bands are known by wavelength only.

    Raises
    ------
    SceneError : the scene has another sensor, or lacks bands.
    """
    note = ""
    if sensor is None:
        index, missing, shift_nm = _by_wavelength(scene.spectral, grid)
        if shift_nm > 0.5:
            note = f"bands are matched to the model's by wavelength; the largest difference is {shift_nm:.1f} nm."
    else:
        _check_sensor(scene.source, sensor)
        names = scene.spectral.names
        missing = [name for name in grid.names if name not in names]
        index = [] if missing else [names.index(name) for name in grid.names]
        if scene.source != sensor:
            note = f"the model is tuned on {sensor}, and the scene is of {scene.source}: bands are matched by name."
    if missing:
        more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
        raise SceneError(
            f"{scene.id}: lacks {len(missing)} of {len(grid)} bands of the model, {', '.join(missing[:MAX_LISTED])}"
            f"{more}; all are needed. Use a scene with these bands, or tune a model on labels with the bands of this "
            "scene."
        )
    return replace(scene.select(index), notes=(*scene.notes, *filter(None, [note])))


def _check_sensor(source: str, sensor: str) -> None:
    """Refuse a source that is neither the model's sensor nor of its family."""
    needed, found = shipped_sensor(sensor, "source"), shipped_sensor(source, "source")
    family = needed.family if needed else ""
    if source == sensor or (family and found and found.family == family):
        return
    kind = "known by wavelength only" if source == CUSTOM else source
    raise SceneError(
        f"the scene's sensor is {kind}; the model is tuned on {sensor}{f' (family {family})' if family else ''}. Use a "
        "scene of this sensor, give --source if the file is of it, or tune a model on labels of the scene's sensor."
    )


def _by_wavelength(found: SpectralGrid, needed: SpectralGrid) -> tuple[list[int], list[str], float]:
    """Position of the nearest band for each of `needed`, the bands that have none, and the largest distance in nm."""
    distance = np.abs(found.wavelength_nm[None] - needed.wavelength_nm[:, None])
    index = distance.argmin(axis=1)
    shift = distance.min(axis=1)
    ratio = found.fwhm_nm[index] / needed.fwhm_nm
    fits = (shift <= MAX_SHIFT * needed.fwhm_nm) & (ratio <= MAX_WIDTH_RATIO) & (ratio >= 1 / MAX_WIDTH_RATIO)
    missing = [f"{nm:.0f} nm" for nm in needed.wavelength_nm[~fits]]
    return index.tolist(), missing, float(shift[fits].max(initial=0))
