"""The HTML page of an evaluation: one file without links to anything outside, for screens and for print."""

from collections import defaultdict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ms2hs._version import __version__
from ms2hs.errors import OutputError
from ms2hs.evaluation.report.summary import findings
from ms2hs.evaluation.report.tables import conventions, detail_tables, overall_tables, scene_table
from ms2hs.evaluation.results import Evaluation
from ms2hs.files import NO_FILES, FileIds, write_bytes

TEMPLATE = Path(__file__).with_name("report.html")
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

    Parameters
    ----------
    overwrite, inputs : as in `files.move_into_place`.

    Raises
    ------
    OutputError : matplotlib or jinja2 is not installed, or the page cannot be written.
    """
    check_report()
    path = Path(path)
    write_bytes(path, render(evaluation).encode("utf-8", "replace"), overwrite=overwrite, inputs=inputs)
    return path


def render(evaluation: Evaluation) -> str:
    """The page as HTML."""
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
        sections=draw_sections(evaluation),
    )


def typeset(text: str) -> str:
    """A number with the signs of print: minus, infinity, and a dash for an unknown value."""
    return "–" if text == "-" else text.replace("-", "−").replace("inf", "∞").replace(" to ", "–")


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    reasons = defaultdict(list)
    for name, reason in left_out.items():
        reasons[reason].append(name)
    return dict(reasons)
