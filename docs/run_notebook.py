"""Run the code cells of docs/notebook.ipynb in order and store their outputs in it; needs matplotlib, and no Jupyter.

python docs/run_notebook.py
"""

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from PIL import Image

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")
MAX_BYTES = 400_000
DPI, COLOURS = 72, 128  # few, so that the file stays small


def run_cell(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Execute a cell, and return its outputs as nbformat 4 stores them: text, the value of the last line, figures."""
    tree, printed = ast.parse(source), io.StringIO()
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)  # noqa: S102 - our own notebook
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
    figures = plt.get_fignums()
    if value is not None and not figures:
        data = {"text/plain": lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = lines(value._repr_html_())
        outputs.append({"output_type": "execute_result", "execution_count": None, "data": data, "metadata": {}})
    for number in figures:
        drawn, content = io.BytesIO(), io.BytesIO()
        plt.figure(number).savefig(drawn, format="png", dpi=DPI, bbox_inches="tight")
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(content, "png", optimize=True)
        data = {"image/png": base64.b64encode(content.getvalue()).decode() + "\n"}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    plt.close("all")
    return outputs


def lines(text: str) -> list[str]:
    """Text as nbformat stores it."""
    return text.splitlines(keepends=True)


def main() -> None:
    """Run all cells in a temporary folder, and write the notebook."""
    mpl.use("Agg")
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    names: dict[str, Any] = {}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        count = 0
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell["outputs"] = run_cell("".join(cell["source"]), names)
                cell["execution_count"] = count
                for output in cell["outputs"]:
                    if "execution_count" in output:
                        output["execution_count"] = count
        os.chdir(before)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise SystemExit(f"{len(text.encode())} bytes; at most {MAX_BYTES} are allowed")
    NOTEBOOK.write_text(text, encoding="utf-8")
    print(f"{NOTEBOOK.name}: {len(text.encode()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
