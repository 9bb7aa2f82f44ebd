"""Private names of Lightning and torch stand in one module, and a version without one is named."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import law_lightning
from law_lightning import _compat
from zoo import DropoutMLP, make_trainer

SOURCES = Path(law_lightning.__file__).parent
TREES = {
    path.relative_to(SOURCES).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in SOURCES.rglob("*.py")
    if path.relative_to(SOURCES).parts[0] != "conf"
}
#: Python's own: the fields of named tuples, and the way to end a process.
PYTHONS = {"_replace", "_fields", "_asdict", "_make", "_exit"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def defined(tree):
    """Private names that a module gives to what is its own."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def used(tree, own):
    """Private names that it takes from elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own | PYTHONS:
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("law_lightning"):
            yield from (f"{node.module}.{name.name}" for name in node.names if is_private(name.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr") and len(node.args) > 1:
            name = getattr(node.args[1], "value", "")
            if isinstance(name, str) and is_private(name) and name not in own:
                yield ast.unparse(node)


def test_no_other_module_uses_a_private_name():
    own = {name for tree in TREES.values() for name in defined(tree)}
    found = {path: list(used(tree, own)) for path, tree in TREES.items() if path != "_compat.py"}
    assert {path: names for path, names in found.items() if names} == {}
    assert len(list(used(TREES["_compat.py"], own))) > 3  # the search does find them


def test_every_use_gives_a_reason():
    for node in TREES["_compat.py"].body:
        if isinstance(node, ast.FunctionDef):
            assert len(ast.get_docstring(node)) > 30, node.name


@pytest.mark.parametrize(
    ("use", "name", "feature"),
    [
        (lambda: _compat.to_device(make_trainer(), torch.nn.Linear(1, 1), 0), "Linear._on_before_batch", "Evaluating"),
        (lambda: _compat.wrapped_by(SimpleNamespace(), DropoutMLP()), "SimpleNamespace._setup_model", "second network"),
        (lambda: _compat.hooks_of(SimpleNamespace()), "SimpleNamespace._forward_hooks", "Copying a module"),
    ],
)
def test_a_version_without_a_name_is_refused(use, name, feature):
    with pytest.raises(MisconfigurationException, match=rf"{feature}.* needs {re.escape(name)}.*constraints\.txt"):
        use()
