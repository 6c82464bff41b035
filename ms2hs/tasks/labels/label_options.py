"""What a user says about labels: where they are, what they mean, and how they are split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Task = Literal["classification", "multilabel", "segmentation", "regression", "change"]
SplitKind = Literal["groups", "given", "random"]
# Side of the blocks into which one image is split, in pixels.
BLOCK = 16


@dataclass(frozen=True)
class LabelOptions:
    """Labelled data of one task."""

    path: Path
    """A file, a folder in a layout of `label_reader.FORMATS`, or a pattern of several `.npz` such as `crowns_*.npz`."""
    task: Task | None = None
    """None: the task of the format."""
    scene: Path | None = None
    """The image on whose grid the labels of a raster, `.mat` or table lie; None where the format has its images."""
    source: str | None = None
    """Sensor of the images, or a CSV of `center_nm,fwhm_nm`; None: from the files."""
    scale: float | None = None
    """Reflectance = stored * scale; None: from the files."""
    variables: tuple[str, ...] = ()
    """Names of the arrays of a `.mat`: labels, cube; empty: the only array of the needed shape."""
    label_key: str | None = None
    """Array of an `.npz` or column of a table with the labels; `KEY~PATTERN` takes the part that matches."""
    group_key: str | None = None
    """Array or column whose values a split keeps on one side; `KEY~PATTERN` as above."""
    drop: tuple[str, ...] = ()
    """Classes that are left out."""
    split: SplitKind = "groups"
    """`groups`: by `group_key`, place or block, unless the data set gives a split; `given`: only the given split;
    `random`: sample by sample, which is optimistic."""
    block: int = BLOCK
    """Side in pixels of the blocks of one image that a split keeps on one side."""
