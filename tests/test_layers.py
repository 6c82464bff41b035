"""The layout of the package: floors, sizes, and who may import what. Read from the source, nothing is loaded."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ms2hs"
# Floor of each package and top-level module. Imports point to lower floors, within a package, or along `BESIDE`.
FLOORS = {
    **dict.fromkeys(("_version", "arrays", "errors", "progress", "files"), 1),
    **dict.fromkeys(("spectra", "remote"), 2),
    **dict.fromkeys(("raster", "raster.cog", "raster.formats", "models"), 3),
    **dict.fromkeys(("scenes", "inference"), 4),
    **dict.fromkeys(("datasets", "datasets.cubes", "datasets.pairs", "datasets.simulation"), 5),
    **dict.fromkeys(("fetching", "fetching.cubes", "conversion"), 6),
    **dict.fromkeys(("training", "training.engine", "evaluation", "evaluation.report"), 6),
    **dict.fromkeys(("viewing", "tasks", "tasks.labels", "tasks.maps", "places", "api", "cluster"), 7),
    "cli": 8,
}
# Imports between packages of one floor: two data packages build on the cubes, and a sub-package belongs to its package.
BESIDE = {
    ("datasets.pairs", "datasets.cubes"),
    ("datasets.simulation", "datasets.cubes"),
    ("datasets.cubes", "datasets"),
    ("raster.cog", "raster"),
    ("raster.formats", "raster"),
    ("raster.formats", "raster.cog"),
    ("fetching.cubes", "fetching"),
    ("training", "training.engine"),
    ("evaluation.report", "evaluation"),
    ("tasks", "tasks.labels"),
    ("tasks.maps", "tasks"),
    ("api", "viewing"),
    ("api", "tasks"),
    ("places", "api"),
    ("files", "errors"),
    ("progress", "errors"),
}
MOST_MODULES = 13
MOST_LINES = 400
# Libraries that are heavy or that reach the outside, and the packages that may use them.
LIBRARIES = {
    "typer": {"cli"},
    "rich": {"progress", "evaluation.report"},
    "filelock": {"files"},
    "rasterio": {
        "raster",
        "raster.cog",
        "raster.formats",
        "viewing",
        "tasks",
        "tasks.labels",
        "tasks.maps",
        "scenes",
        "fetching",
        "fetching.cubes",
        "remote",
        "datasets.cubes",
        "datasets.pairs",
        "datasets.simulation",
    },
    "xarray": {"raster", "raster.formats", "conversion", "evaluation", "viewing", "api"},
    "zarr": {"raster", "raster.formats"},
    "h5netcdf": {"raster", "raster.formats"},
    "spyndex": {"spectra", "viewing"},
    "pyogrio": {"viewing", "tasks.labels"},
    "sklearn": {"tasks"},
    "scipy": {"tasks.labels"},
    "pyarrow": {"tasks.labels"},
    "pystac_client": {"fetching"},
    "planetary_computer": {"remote"},
    "fsspec": {"remote"},
    "s3fs": {"remote"},
    "requests": {"remote", "fetching"},
    "urllib3": {"remote"},
    "h5py": {"datasets", "datasets.cubes", "raster.formats", "tasks.labels"},
    "matplotlib": {"training", "evaluation.report", "viewing", "tasks", "tasks.maps"},
    "jinja2": {"evaluation.report", "viewing", "tasks"},
    "safetensors": {"models", "datasets.cubes", "training.engine"},
    "skimage": {"spectra", "datasets.pairs"},
    "prosail": {"datasets.simulation"},
    "dask": {"conversion"},
    "distributed": {"conversion"},
    "torch": {
        *("models", "inference", "training", "training.engine", "conversion", "evaluation", "tasks", "tasks.maps"),
    },
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_weights" not in path.parts)


def package_of(module: str) -> str:
    """`ms2hs.raster.cog.writer` belongs to `raster.cog`, `ms2hs.errors` to `errors`."""
    parts = module.split(".")[1:]
    while parts and ".".join(parts) not in FLOORS:
        parts.pop()
    return ".".join(parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(module) for module in MODULES}


@cache
def imports(path: Path) -> list[str]:
    """Every module that a file imports, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name in NAMES else node.module for name in inside]
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if path != PACKAGE / "__init__.py"], ids=name_of)
def test_imports_point_to_lower_floors(path):
    own = package_of(name_of(path))
    assert own, f"{name_of(path)} belongs to no package of the table"
    for imported in imports(path):
        if imported.startswith("ms2hs."):
            other = package_of(imported)
            assert other == own or FLOORS[other] < FLOORS[own] or (own, other) in BESIDE, f"imports {imported}"
        elif imported.split(".")[0] in LIBRARIES:
            assert own in LIBRARIES[imported.split(".")[0]], f"imports {imported}"


def test_packages_have_at_most_13_modules_of_at_most_400_lines():
    modules = [path for path in MODULES if path.name not in {"__init__.py", "__main__.py"}]
    for package in {path.parent for path in modules} - {PACKAGE}:
        assert sum(path.parent == package for path in modules) <= MOST_MODULES, package.name
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {name_of(path): {name for name in imports(path) if name.startswith("ms2hs.")} for path in MODULES}
    graph.pop("ms2hs")
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys() - {name}]
        assert free, f"these import each other in a circle: {sorted(graph)}"
        for name in free:
            del graph[name]


def test_no_module_is_a_catch_all_or_named_like_a_function():
    assert {path.stem for path in MODULES}.isdisjoint({"utils", "common", "helpers", "misc"})
    functions = {
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert functions.isdisjoint({path.stem for path in MODULES}), "a module and a function share a name"
