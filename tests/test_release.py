"""What a release depends on agrees."""

import ast
import re
from pathlib import Path

import law_lightning

ROOT = Path(__file__).parents[1]


def read(*names):
    return "".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def test_the_changelog_has_the_version():
    assert re.search(
        rf"^## \[{re.escape(law_lightning.__version__)}\] - \d{{4}}-\d\d-\d\d$", read("CHANGELOG.md"), re.M
    )


def test_the_hooks_have_the_linter_of_the_sessions():
    (wanted,) = re.findall("^ruff==.*$", read("constraints.txt"), re.M)
    assert set(re.findall("ruff==[0-9.]+", read(".pre-commit-config.yaml"))) == {wanted}


def test_the_workflows_run_sessions_that_there_are():
    workflows = read(*(f".github/workflows/{name}.yml" for name in ("tests", "nightly", "release")))
    called = re.findall(r"nox -s (.*)", workflows) + re.findall(r"session: \[(.*)\]", workflows)
    names = {name for line in called for name in re.findall(r"[a-z_]+", line.replace("${{ matrix.session }}", ""))}
    functions = {each.name for each in ast.parse(read("noxfile.py")).body if isinstance(each, ast.FunctionDef)}
    assert {"tests", "lowest", "candidates", "build"} <= names <= functions
