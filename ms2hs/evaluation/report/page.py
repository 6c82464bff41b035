"""The HTML page of an evaluation: one file that loads nothing, for screens and for print.

Charts are drawn by two scripts inside the page, which the page's policy allows by their checksums; no other script
runs. The arrays of the example windows lie in an NPZ file beside the page.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from ms2hs._version import __version__
from ms2hs.errors import OutputError
from ms2hs.evaluation.report.summary import findings
from ms2hs.evaluation.report.tables import conventions, detail_tables, overall_tables, scene_table
from ms2hs.evaluation.results import Evaluation
from ms2hs.files import NO_FILES, FileIds, write_bytes

TEMPLATE = Path(__file__).with_name("report.html")
SCRIPTS = ("uPlot.iife.min.js", "report.js")
ARRAYS_SUFFIX = ".npz"
# Longer tables of scenes are closed at first.
MAX_OPEN_ROWS = 12
# Names listed per reason among the pairs left out.
MAX_NAMES = 100


def check_report() -> None:
    """Raise OutputError unless jinja2 and matplotlib are installed; to be called before long work."""
    for name in ("jinja2", "matplotlib"):
        if find_spec(name) is None:
            raise OutputError(
                f"{name} is not installed; the report needs it. `pip install 'ms2hs[report]'` brings it, or leave out "
                "--report."
            )


def write_report(evaluation: Evaluation, path: Path, *, overwrite: bool = True, inputs: FileIds = NO_FILES) -> Path:
    """Write the page, and return its path; an existing file is replaced when the new one is complete.

    If the evaluation has example windows, their arrays are written to `<stem>.npz` first.

    Parameters
    ----------
    overwrite, inputs : as in `files.move_into_place`.

    Raises
    ------
    OutputError : matplotlib or jinja2 is not installed, or the page cannot be written.
    """
    check_report()
    from ms2hs.evaluation.report.chart_data import window_arrays  # noqa: PLC0415  matplotlib
    from ms2hs.evaluation.report.sections import MAX_MAPS, ordered_windows  # noqa: PLC0415  likewise

    path = Path(path)
    arrays = path.with_suffix(ARRAYS_SUFFIX) if evaluation.windows else None
    if arrays:
        content = window_arrays(ordered_windows(evaluation)[:MAX_MAPS])
        write_bytes(arrays, content, overwrite=overwrite, inputs=inputs)
    page = render(evaluation, arrays.name if arrays else "")
    write_bytes(path, page.encode("utf-8", "replace"), overwrite=overwrite, inputs=inputs)
    return path


def render(evaluation: Evaluation, arrays_name: str = "") -> str:
    """The page as HTML.

    Parameters
    ----------
    arrays_name : name of the file of arrays beside the page, if there is one.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  comes with ms2hs[report]

    from ms2hs.evaluation.report.sections import draw_sections  # noqa: PLC0415  matplotlib, likewise

    names = {
        "scene": list(evaluation.scenes),
        "land cover": list(dict.fromkeys(name for row in evaluation.rows for name in row.covers)),
    }
    summary = findings(evaluation)
    tones = {finding.tone for finding in summary}
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["typeset"] = typeset
    sections = draw_sections(evaluation)
    has_charts = any(figure.chart for section in sections for figure in section.figures)
    scripts = [_static(name) for name in SCRIPTS] if has_charts else []
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        evaluation=evaluation,
        version=__version__,
        findings=summary,
        is_lost="bad" in tones and "good" not in tones,
        tables=overall_tables(evaluation.rows),
        conventions=conventions(),
        scene_tables=[scene_table(evaluation.rows, part, rows_are) for rows_are, part in names.items() if part],
        details={rows_are: detail_tables(evaluation.rows, rows_are) for rows_are in names},
        max_open_rows=MAX_OPEN_ROWS,
        left_out=_by_reason(evaluation.left_out),
        max_names=MAX_NAMES,
        sections=sections,
        scripts=scripts,
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        chart_style=_static("uPlot.min.css") if has_charts else "",
        arrays={"name": arrays_name, "href": quote(arrays_name)},
    )


def _static(name: str) -> str:
    return (files("ms2hs") / "static" / name).read_text(encoding="utf-8")


def typeset(text: str) -> str:
    """A number with the signs of print: minus, infinity, and a dash for an unknown value."""
    return "–" if text == "-" else text.replace("-", "−").replace("inf", "∞").replace(" to ", "–")


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    reasons = defaultdict(list)
    for name, reason in left_out.items():
        reasons[reason].append(name)
    return dict(reasons)
