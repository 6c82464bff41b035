"""The house: who may import whom. Read from the source, so that nothing has to be loaded."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ms2hs"
# From the ground up. A room imports rooms below its own; raster and models stand side by side and do not meet.
HEIGHT = {
    "errors": 0,
    "progress": 0,
    "spectra": 1,
    "raster": 2,
    "models": 2,
    "data": 3,
    "learning": 4,
    "delivering": 4,
    "scoring": 5,
    "reporting": 6,
    "front": 7,
    "cli": 8,
}
FRONT = {
    *("adaptation", "catalogue", "comparison", "conversion", "estimation", "evaluation", "planning"),
    *("crossfitting", "finetuning", "finished", "pairing", "preparation", "pretraining", "provenance", "truth"),
    *("cluster", "fetching", "series", "census", "streaming", "unfinished"),
}
# Heavy or outside-facing libraries, and the rooms that may use them.
LIBRARIES = {
    "typer": {"cli"},
    "rich": {"progress"},
    "rasterio": {"raster", "data"},
    "xarray": {"raster", "front"},
    "pystac_client": {"raster"},
    "planetary_computer": {"raster"},
    "fsspec": {"raster"},
    "s3fs": {"raster"},
    "requests": {"raster"},
    "urllib3": {"raster"},
    "h5py": {"data"},
    "matplotlib": {"learning", "reporting"},
    "jinja2": {"reporting"},
    "safetensors": {"models", "data", "learning"},
    "skimage": {"spectra", "raster"},
    "prosail": {"data"},
    "dask": {"front"},
    "distributed": {"front"},
    "torch": {"models", "learning", "front"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_weights" not in path.parts)


def room(module: str) -> str:
    """`ms2hs.raster.cog` lives in `raster`."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "front"
    return "front" if name in FRONT else name


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[str]:
    """Every module that a file imports, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            known = {name_of(module) for module in MODULES}
            found += [name if name in known else node.module for name in inside]
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if path != PACKAGE / "__init__.py"], ids=name_of)
def test_imports_point_down(path):
    own = room(name_of(path))
    assert own in HEIGHT, f"{name_of(path)} has no place in the house"
    for imported in imports(path):
        if imported.startswith("ms2hs."):
            other = room(imported)
            assert other == own or HEIGHT[other] < HEIGHT[own], f"{name_of(path)} imports {imported}"
        elif imported.split(".")[0] in LIBRARIES:
            assert own in LIBRARIES[imported.split(".")[0]], f"{name_of(path)} imports {imported}"


def test_no_module_waits_for_itself():
    graph = {name_of(path): {name for name in imports(path) if name.startswith("ms2hs.")} for path in MODULES}
    graph.pop("ms2hs")
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys() - {name}]
        assert free, f"these import each other in a circle: {sorted(graph)}"
        for name in free:
            del graph[name]


def test_there_is_no_room_for_leftovers():
    assert {path.stem for path in MODULES}.isdisjoint({"utils", "common", "helpers", "misc"})
    functions = {
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert functions.isdisjoint({path.stem for path in MODULES}), "a module and a function share a name"
