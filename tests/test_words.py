"""Words that a reader must decode stand in no docstring, message, help text, comment, module name or page."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORDS = (
    *("census", "depot", "spool", "receipts?", "couples?", "companions?", "tally", "handover", "showcase", "standings"),
    *("an unfinished", "the unfinished", "told", "tells", "gone on", "goes on", "in other hands", "what it comes to"),
    *("what there is", "those of", "of all that", "seldom", "lest"),
)
PATTERN = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
MODULES = sorted(path for path in (ROOT / "ms2hs").rglob("*.py") if "_weights" not in path.parts)
NAMES = ("CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "weights/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted(ROOT.glob("docs/*.md"))]


def text_of(module: Path) -> str:
    """Strings and comments of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(module.read_text("utf-8")).readline)
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    return "\n".join(token.string for token in tokens if token.type in kinds)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_use_the_words_of_the_field(module):
    assert PATTERN.search(module.stem.replace("_", " ")) is None
    assert [found[0] for found in PATTERN.finditer(text_of(module))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(page):
    assert [found[0] for found in PATTERN.finditer(page.read_text("utf-8"))] == []
