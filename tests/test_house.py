"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import g3dvit

ROOT = Path(__file__).parents[1]
HELP = "from g3dvit.cli import main\ntry:\n    main([{}])\nexcept SystemExit:\n    pass"
MODULES = sorted((ROOT / "src" / "g3dvit").rglob("*.py"))


@pytest.mark.parametrize(
    "code",
    [
        "import g3dvit",
        "import g3dvit; dir(g3dvit)",
        HELP.format("'--help'"),
        HELP.format("'explain', '-h'"),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    heavy = ["torch", "nilearn", "matplotlib", "pandas", "scipy"]
    check = f"\nimport sys\nloaded = set({heavy}) & set(sys.modules)\nassert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code + check], check=True, stdout=subprocess.DEVNULL)


def test_every_public_name_can_be_imported() -> None:
    assert list(g3dvit.__all__) == sorted(g3dvit.__all__)
    for name in g3dvit.__all__:
        assert getattr(g3dvit, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = g3dvit.nothing


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_has_two_purposes(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def _calls(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {
        base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_hooks_and_function_modes_live_in_capture(path: Path) -> None:
    if "capture" in path.parts:
        return
    forbidden = {name for name in _calls(path) if name.startswith("register_") and "hook" in name}
    forbidden |= _calls(path) & {"TorchFunctionMode", "TorchDispatchMode"}
    assert not forbidden


def test_the_version_is_written_once_the_same_everywhere() -> None:
    version = g3dvit.__version__
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
