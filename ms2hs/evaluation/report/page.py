"""The page of an evaluation: one HTML file that asks nothing of anyone, by day, by night and on paper."""

from collections import defaultdict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ms2hs._version import __version__
from ms2hs.errors import OutputError
from ms2hs.evaluation.report.summary import findings
from ms2hs.evaluation.report.tables import detail_tables, overall_tables, scene_table
from ms2hs.evaluation.results import Evaluation
from ms2hs.files import write_bytes

NEEDED = {"jinja2": "the page is filled in with it", "matplotlib": "its figures are drawn with it"}
TEMPLATE = Path(__file__).with_name("report.html")
# Tables of places with no more lines are open from the start; of what was left out, so many names are listed a reason.
OPEN_LINES, NAMED = 12, 100


def check_report() -> None:
    """OutputError, unless all that a report takes is installed; to ask before long work."""
    for name, why in NEEDED.items():
        if find_spec(name) is None:
            raise OutputError(
                f"{name} is not installed; {why}. `pip install 'ms2hs[report]'` brings it, or ask for no report."
            )


def write_report(evaluation: Evaluation, path: Path) -> Path:
    """Write the page, all in one file; what is there is replaced when the new one is whole.

    Raises
    ------
    OutputError : matplotlib or jinja2 is not installed, or the page cannot be written; nothing is left then.
    """
    check_report()
    path = Path(path)
    write_bytes(path, render(evaluation).encode("utf-8", "replace"))
    return path


def render(evaluation: Evaluation) -> str:
    """The page's HTML."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  comes with ms2hs[report]

    from ms2hs.evaluation.report.plates import INKS, Key, styles_of  # noqa: PLC0415
    from ms2hs.evaluation.report.sections import draw_sections  # noqa: PLC0415

    places = {
        "scene": list(evaluation.scenes),
        "land cover": list(dict.fromkeys(name for row in evaluation.rows for name in row.covers)),
    }
    told = findings(evaluation)
    tones = {finding.tone for finding in told}
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        evaluation=evaluation,
        version=__version__,
        inks=INKS,
        keys={name: Key(name, "line", style) for name, style in styles_of(evaluation.rows).items()},
        findings=told,
        lost="bad" in tones and "good" not in tones,
        tables=overall_tables(evaluation.rows),
        places=[scene_table(evaluation.rows, names, of) for of, names in places.items() if names],
        details={of: detail_tables(evaluation.rows, of) for of in places},
        open_lines=OPEN_LINES,
        left_out=_by_reason(evaluation.left_out),
        named=NAMED,
        sections=draw_sections(evaluation),
    )


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    reasons = defaultdict(list)
    for name, reason in left_out.items():
        reasons[reason].append(name)
    return dict(reasons)
