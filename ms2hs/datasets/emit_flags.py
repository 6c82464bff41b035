"""MASK files of EMIT L2A granules: the file of a granule, and its layers that make a pixel unknown.

Until version 1, the MASK file belongs to the reflectance product. From version 2 on, it is a product of its own, with
other layers, so layers are found by their names (`mask_bands`). Both have flags of thresholds and a dilated cloud flag;
version 2 adds the cloud flag of SpecTf, its probability and the distance from its clouds. Source: emit-sds-l2a, ATBD of
the L2A mask, 2025.
"""

import re
from contextlib import suppress
from glob import escape
from pathlib import Path

from ms2hs.datasets.hdf5_file import Source, name_of, opened, stored_dataset, stored_table
from ms2hs.errors import DataError

KIND = "EMIT L2A"
# Layers that make a pixel unknown: cloud, cirrus, spacecraft, dilated cloud, SpecTf cloud. Water is a surface, and the
# aggregate flag contains it.
UNKNOWN_FLAG = re.compile(r"(?=.*(cloud|cirrus|spacecraft)).*flag", re.IGNORECASE)
# Their positions in files without `mask_bands` (user guide of EMITL2ARFL.001).
UNKNOWN_FLAGS = (0, 1, 3, 4)
# Time in the name of a file, which all files of a granule share; their versions may differ.
TIME = re.compile(r"\d{8}T\d{6}")


def flags_beside(granule: Path) -> Path | None:
    """The MASK file of a granule with the highest version, beside it."""
    if "_RFL_" not in granule.name:
        return None
    time = TIME.search(granule.name)
    pattern = f"EMIT_L2A_MASK_*{time[0]}*.nc" if time else escape(granule.name.replace("_RFL_", "_MASK_"))
    return max(granule.parent.glob(pattern), default=None)


def flag_layers(flags: Source, shape: tuple[int, int]) -> tuple[int, ...]:
    """Positions in a MASK file of the layers that make a pixel unknown; DataError if it does not fit the granule."""
    with opened(flags, KIND, "flags") as file:
        stored = stored_dataset(file, "mask").shape
        names: list[str] = []
        with suppress(KeyError):
            texts = stored_table(file, "sensor_band_parameters/mask_bands", is_text=True).ravel().tolist()
            names = [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in texts]
    layers = tuple(at for at, name in enumerate(names) if UNKNOWN_FLAG.fullmatch(name)) if names else UNKNOWN_FLAGS
    if len(stored) != 3 or stored[:2] != shape or not layers or stored[2] <= max(layers):
        raise DataError(
            f"{name_of(flags)}: flags of shape {stored} with the names {', '.join(names) or 'of version 1'}; "
            f"{shape} and flags of cloud are needed. The file belongs to another granule or is damaged: download it "
            "again, or remove it."
        )
    return layers
