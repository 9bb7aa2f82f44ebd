"""The tree of the package: no circle of imports, no lower package that imports a higher one, no single modules."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import law_lightning

ROOT = Path(law_lightning.__file__).parent
#: From the ground up; the last four do not import each other but for the commands.
PACKAGES = [
    *("functional", "utilities", "capture", "stages", "weighting", "agent", "second_network", "callbacks", "search"),
    *("data", "models", "report", "cli"),
]


def name_of(file):
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in ROOT.rglob("*.py")}


def imported(file):
    """The package's modules that a file names in its imports, wherever they stand, TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            whole = [f"{node.module}.{each.name}" for each in node.names]
            yield from (each if each in MODULES else node.module for each in whole)


GRAPH = {name: set(imported(file)) - {name} for name, file in MODULES.items()}


def test_there_is_no_circle_of_imports():
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(MODULES) > 50  # or it raises a CycleError


def test_no_lower_package_imports_a_higher_one():
    def package(name):
        return name.split(".")[1] if name.count(".") else ""

    for name, others in GRAPH.items():
        if package(name) in PACKAGES:
            above = PACKAGES[PACKAGES.index(package(name)) + 1 :]
            assert not [each for each in others if package(each) in above], name


def test_no_module_stands_alone():
    assert {file.name for file in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "_compat.py"}
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} - {"__pycache__", "conf", "strategies"} == set(
        PACKAGES
    )
