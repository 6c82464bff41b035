"""Pages that the build makes: the command line, the notebook, and copies of files above the docs folder.

A page that loads something from elsewhere ends the build.
"""

import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import ms2hs
from ms2hs import errors

sys.path.insert(0, str(Path(__file__).parent))
from notebooks import notebook_text

ROOT = Path(__file__).parents[2]
# Pages that stand above the docs folder, where their readers look for them.
COPIES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "weights.md": "weights/README.md",
}
NOTEBOOK = "notebook.ipynb"
LINKS = {"README.md": "index.md", NOTEBOOK: "notebook.md"} | {source: page for page, source in COPIES.items()}
ELSEWHERE = re.compile(
    r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//|<link[^>]+stylesheet[^>]+href=\"?(?:https?:)?//"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of the docs folder."""
    pages = {page: local_links((ROOT / source).read_text("utf-8")) for page, source in COPIES.items()}
    made = {"cli.md": command_line(), "notebook.md": notebook_text(ROOT / "docs" / NOTEBOOK)}
    for page, text in (pages | made).items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Point links at the copies; end the page of the Python API with the docstrings of the public names."""
    if page.file.src_uri == "api.md":
        names = sorted(set(ms2hs.__all__) - set(vars(errors)), key=lambda name: (name[0].isupper(), name))
        markdown += "\n\n## Reference\n\n" + "\n\n".join(f"::: ms2hs.{name}" for name in names)
    return local_links(markdown)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Refuse a page that loads something from elsewhere."""
    if found := ELSEWHERE.search(output):
        raise PluginError(f"{page} loads from elsewhere: {found[0]}")
    return output


def local_links(text: str) -> str:
    """Links between the files of the repository as links between pages."""

    def local(found: re.Match[str]) -> str:
        path = found[1].removeprefix("../").removeprefix("docs/")
        return f"]({LINKS.get(path, path)}{found[2] or ''})"

    return re.sub(r"\]\(((?!https?:)[^)#\s]+)(#[^)]*)?\)", local, text)


def command_line() -> str:
    """Every command with its options, written by Typer from the application; its examples as blocks."""
    command = [sys.executable, "-m", "typer", "ms2hs.cli.app", "utils", "docs", "--name", "ms2hs"]
    made = subprocess.run([*command, "--title", "Command line"], capture_output=True, text=True, check=True, cwd=ROOT)
    text = re.sub(r"\*\*Commands\*\*:\n\n(?:\* .+\n)+\n", "", made.stdout)  # cut short, and in the table of contents
    return re.sub(r"^(ms2hs .+)$", r"    \1", text, flags=re.MULTILINE)
