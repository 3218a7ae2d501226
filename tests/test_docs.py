"""What the documentation shows is run: docstring examples, the README's Python, links."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import g3dvit

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(g3dvit.__path__, "g3dvit.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0, f"{found.failed} of {found.attempted} examples of {name} fail"


def test_there_are_docstring_examples() -> None:
    finder = doctest.DocTestFinder()
    tests = [
        t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples
    ]
    assert len(tests) > 20


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow  # the reference model has 40 million weights
def test_the_python_of_the_readme_runs(capsys) -> None:
    shown = blocks(ROOT / "README.md")
    assert shown
    for code in shown:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert "(2, 10, 10, 10)" in capsys.readouterr().out.replace("torch.Size([", "(").replace(
        "])", ")"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_python_of_every_page_compiles(page: Path) -> None:
    for code in re.findall(r"^```python[^\n]*\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        compile(code, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_that_are_shown_exist(page: Path) -> None:
    from g3dvit.cli import COMMANDS

    for line in re.findall(r"^g3dvit (\S+)", page.read_text(), flags=re.MULTILINE):
        assert line in COMMANDS or line.startswith("-"), f"{page.name} shows g3dvit {line}"
