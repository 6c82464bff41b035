"""Scores as CSV and JSON, for programs."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from ms2hs.evaluation.metric_table import METRICS, Scores
from ms2hs.evaluation.results import Evaluation, MethodScores
from ms2hs.files import NO_FILES, FileIds, write_bytes

_FEATURE = "depth_"


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """All numbers of an evaluation as JSON values, without examples and windows."""
    result: dict[str, Any] = json_values(
        {
            "title": evaluation.title,
            "command": evaluation.command,
            "source_nm": evaluation.source.wavelength_nm,
            "target_nm": evaluation.target.wavelength_nm,
            "measured": evaluation.measured,
            "rows": [_row_json(row) for row in evaluation.rows],
            "curves": evaluation.curves,
            "levels": evaluation.levels,
            "scenes": evaluation.scenes,
            "pixels": evaluation.pixels,
            "unlike": evaluation.unlike,
            "left_out": evaluation.left_out,
            "notes": evaluation.notes,
        }
    )
    return result


def _row_json(row: MethodScores) -> dict[str, Any]:
    nested = {
        "overall": _nested(row.overall),
        "scenes": {name: _nested(scores) for name, scores in row.scenes.items()},
        "covers": {name: _nested(scores) for name, scores in row.covers.items()},
    }
    return vars(row) | nested | {"loses": row.loses}


def _nested(scores: Scores) -> dict[str, Any]:
    """The scores as a mapping, with `depth_670` and the other features as a mapping `depth` by wavelength."""
    depth = {key.removeprefix(_FEATURE): value for key, value in scores.items() if key.startswith(_FEATURE)}
    return {key: value for key, value in scores.items() if not key.startswith(_FEATURE)} | {"depth": depth}


def json_values(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """Dataclasses, mappings, sequences, arrays and numbers as JSON values; None stands for NaN and infinity."""
    if is_dataclass(value):
        return json_values(vars(value))
    if isinstance(value, Mapping):
        return {str(key): json_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(inner) for inner in value]
    if hasattr(value, "tolist"):
        return json_values(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_of(evaluation: Evaluation) -> str:
    """One line per method and scene, and one per method with the scene `*`: the mean over scenes. NaN is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "kind", "scene", *METRICS])
    for row in evaluation.rows:
        for scene, scores in (*row.scenes.items(), ("*", row.overall)):
            values = ("" if math.isnan(scores[key]) else scores[key] for key in METRICS)
            writer.writerow([row.method, row.kind, scene, *values])
    return text.getvalue()


def write_numbers(
    evaluation: Evaluation, path: Path, *, overwrite: bool = True, inputs: FileIds = NO_FILES
) -> tuple[Path, Path]:
    """Write `<stem>.csv` and `<stem>.json` beside a path, and return their paths; OutputError if that fails.

    Parameters
    ----------
    overwrite, inputs : as in `files.move_into_place`.
    """
    csv_path, json_path = path.with_suffix(".csv"), path.with_suffix(".json")
    numbers = json.dumps(evaluation_json(evaluation), indent=1)
    for file, text in ((csv_path, csv_of(evaluation)), (json_path, numbers)):
        write_bytes(file, text.encode("utf-8", "replace"), overwrite=overwrite, inputs=inputs)
    return csv_path, json_path
