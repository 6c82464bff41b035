"""The example notebook runs, and its cells give the stored outputs."""

import importlib.util
import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
NOTEBOOK = DOCS / "notebook.ipynb"


@pytest.mark.slow
def test_cells_run_and_give_the_stored_outputs(tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("run_notebook", DOCS / "run_notebook.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    names: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        outputs = runner.run_cell("".join(cell["source"]), names)
        assert [one["output_type"] for one in outputs] == [one["output_type"] for one in cell["outputs"]]
        for found, stored in zip(outputs, cell["outputs"], strict=True):
            assert set(found.get("data", {})) == set(stored.get("data", {}))
            assert found.get("text") == stored.get("text")
    assert names["cube"].sizes == {"wavelength": 202, "y": 230, "x": 310}


def test_notebook_is_small_and_executed():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert NOTEBOOK.stat().st_size < 400_000
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] for cell in code)
