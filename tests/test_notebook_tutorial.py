"""The tutorial is committed without outputs, and every cell of it runs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def cells(kind: str) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(TUTORIAL, as_version=4).cells if c.cell_type == kind]


def test_it_is_valid_and_holds_no_outputs() -> None:
    book = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(book)
    for cell in cells("code"):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert not cell.metadata
    assert "widgets" not in book.metadata
    assert TUTORIAL.stat().st_size < 40_000


def test_its_links_lead_somewhere() -> None:
    import re

    for cell in cells("markdown"):
        for link in re.findall(r"\]\(([^)#]+)", cell.source):
            assert "://" in link or (TUTORIAL.parent / link).exists(), link


@pytest.mark.slow  # it simulates a run and explains it
def test_every_cell_runs_and_what_it_says_is_so(tmp_path) -> None:
    book = nbformat.read(TUTORIAL, as_version=4)
    asserted = sum(cell.source.count("assert ") for cell in cells("code"))
    assert asserted >= 6
    client = NotebookClient(
        book,
        timeout=900,
        startup_timeout=300,  # a busy machine takes its time
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises what a cell raises
    shown = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
    html = [o.data["text/html"] for o in shown if "data" in o and "text/html" in o.data]
    assert sum("data:image/png" in text and "<iframe" not in text for text in html) == 3
    assert sum("<iframe" in text for text in html) == 1
    assert sum("image/png" in o.get("data", {}) for o in shown) == 3
    views = [o for o in shown if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert len(views) == 1
    assert not [o for o in shown if o.get("name") == "stderr" and "Error" in o.text]
