"""Notebooks as Markdown: text as it is, code with its outputs.

The converter of the Jupyter project would bring forty packages and 600 kB of style sheets for each page, and would load
scripts from elsewhere.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def notebook_text(path: Path) -> str:
    """An executed notebook as Markdown."""
    return "\n\n".join(_blocks(json.loads(path.read_text("utf-8"))["cells"]))


def _blocks(cells: list[dict[str, Any]]) -> Iterator[str]:
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            yield _output(output.get("data", {}), output)


def _output(data: dict[str, Any], output: dict[str, Any]) -> str:
    """The richest form of an output that a page can show."""
    if "image/png" in data:
        return f'<img alt="output" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        html = "".join(data["text/html"]).replace(":root", ":host")
        # A shadow root keeps the styles of the page and of the output apart.
        return f'<div class="output"><template shadowrootmode="open">\n{html}\n</template></div>'
    return f"```text\n{''.join(data.get('text/plain') or output.get('text', ''))}\n```"
