"""What MkDocs needs to show this repository: files outside docs/ as pages, and docstrings with roles and formulas."""

import html
import json
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = ("examples/*.*", "benchmarks/*.py", "CHANGELOG.md", "CONTRIBUTING.md")
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml"}


# -- files outside docs/ -----------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file of OUTSIDE."""
    for pattern in OUTSIDE:
        for file in sorted(ROOT.glob(pattern)):
            name = file.relative_to(ROOT).as_posix()
            files.append(File.generated(config, place(name), content=as_markdown(file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links, which hold in the repository, hold on the site."""
    here = page.file.src_uri
    origin = next((name for pattern in OUTSIDE for name in names(pattern) if place(name) == here), f"docs/{here}")

    def relative(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link[1]))
        return f"]({posixpath.relpath(place(target), posixpath.dirname(here))}"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)", relative, markdown)


def names(pattern: str) -> list[str]:
    """The files of a pattern, relative to the repository."""
    return [file.relative_to(ROOT).as_posix() for file in ROOT.glob(pattern)]


def place(name: str) -> str:
    """Where the site has a file of the repository, relative to docs/."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return name if name.endswith(".md") else f"{name}.md"


def as_markdown(file: Path) -> str:
    """A page that shows the file; a notebook with its outputs."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    if file.suffix != ".ipynb":
        return f"# {file.name}\n\n```{LANGUAGES[file.suffix]}\n{text}```\n"
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            printed = "".join(output.get("text", data.get("text/plain", "")))
            image = "".join(data.get("image/png", "")).replace("\n", "")
            parts.append(f"![Figure](data:image/png;base64,{image})" if image else f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts)


# -- docstrings --------------------------------------------------------------------------------------------------


class Roles(griffe.Extension):
    """Sphinx roles become code, formulas MathML, and examples sections of doctests."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object before it is parsed."""
        if obj.is_module:
            obj.docstring = None  # a page has its own words
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"^( *)\.\. math::((?:.*\n?)(?:\1 +.*\n?|\n)*)", display, text, flags=re.MULTILINE)
            text = re.sub(r":math:`([^`]+)`", lambda formula: convert(" ".join(formula[1].split())), text)
            obj.docstring.value = re.sub(r":(?:func|class|meth|attr|data|mod):`~?", "`", text)


def display(formula: re.Match[str]) -> str:
    """A formula in a paragraph of its own."""
    mathml = convert(" ".join(html.unescape(formula[2]).split()), display="block")
    return f'\n{formula[1]}<div class="formula">{mathml}</div>\n\n'
