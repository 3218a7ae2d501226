"""What the page offers to save: maps and tables of its own, and links to the files beside it.

Links are relative to the output folder: they work where the page lies in it. Nothing is read but
names and sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from g3dvit.folders import MARKER

#: Before the names of tables that were added to a run, so that none hides the page's own.
FURTHER = "table-"

_HEADER = 352  # bytes of a NIfTI-1 header
#: What the page of a whole run is called.
PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of an output folder.

    Parameters
    ----------
    sizes
        Bytes by path from the folder, with slashes.
    methods
        Which file holds which map: ``methods`` of `g3dvit.saved_runs.description_of`.
    name
        What the folder is called.
    pages
        File, kind and name of the pages of single subjects and runs beside the page.
    whole
        Beside a page of a single subject or run: the page of the whole run. Empty otherwise.
    """

    sizes: Mapping[str, int]
    methods: Sequence[Mapping[str, Any]] = ()
    name: str = ""
    pages: Sequence[tuple[str, str, str]] = ()
    whole: str = ""

    @classmethod
    def of(cls, path: Path, methods: Sequence[Mapping[str, Any]] = ()) -> Folder:
        """Return the files of a folder, hidden ones and the page itself left out."""
        files = sorted(p for p in path.rglob("*") if p.is_file())
        named = {p.relative_to(path).as_posix(): p for p in files}
        shown = {n: p for n, p in named.items() if n != PAGE and not n.startswith(".")}
        sizes = {name: p.stat().st_size for name, p in shown.items()}
        return cls(sizes, methods, path.resolve().name)

    def entry(self, path: str | None) -> dict[str, Any] | None:
        """Return a link to a file, its name and its size in words; None where it is not there."""
        if path is None or path not in self.sizes:
            return None
        # the provenance gets the list of all files last
        size = "" if path == MARKER else size_words(self.sizes[path])
        return {"href": f"./{quote(path)}", "name": path, "size": size}


def pages_of(folder: Folder | None) -> list[dict[str, Any]]:
    """Return the pages of single subjects and runs, by kind: ``title`` and links."""
    found = folder.pages if folder is not None else ()
    return [
        {
            "title": f"Pages of single {kind}s",
            "files": [{"href": f"./{quote(f)}", "name": name} for f, k, name in found if k == kind],
        }
        for kind in dict.fromkeys(kind for _, kind, _ in found)
    ]


def downloads_of(
    layers: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
    folder: Folder | None,
) -> dict[str, Any]:
    """Return what stands under *Downloads*.

    Parameters
    ----------
    layers, methods
        Of the scene.
    tables
        Columns and rows of the tables on the page, by name; `FURTHER` before those of the run.
    folder
        The output folder; None where the page stands alone.

    Returns
    -------
    dict
        ``maps``: for each layer its number, titles, size in words of the float32 NIfTI that the
        page can make, and the exact file. ``tables``: by name, size in words of the TSV that the
        page makes, and the exact file. ``folders``: every file, by folder.
    """
    known = folder or Folder({})
    maps = [
        {
            "layer": number,
            "method": methods[layer["method"]]["title"],
            "title": layer["title"],
            "size": size_words(_HEADER + 4 * _values(layer)),
            "file": known.entry(_file_of(layer, known)),
        }
        for number, layer in enumerate(layers)
    ]
    folders: dict[str, list[dict[str, Any] | None]] = {}
    for path in known.sizes:
        above = path.rpartition("/")[0]
        folders.setdefault(above, []).append(known.entry(path))
    return {
        "maps": maps,
        "tables": {
            name: {
                "size": size_words(_tsv_bytes(columns, rows)),
                "file": known.entry(
                    f"tables/{name.removeprefix(FURTHER)}.tsv"
                    if name.startswith(FURTHER)
                    else f"{name}.tsv"
                ),
            }
            for name, (columns, rows) in tables.items()
        },
        "provenance": known.entry(MARKER),
        "folders": [
            {"name": name, "files": files, "size": size_words(_total(known, files))}
            for name, files in sorted(folders.items())
        ],
    }


def size_words(size: int) -> str:
    """Return a file's size for a reader.

    Examples
    --------
    >>> size_words(950), size_words(12_345), size_words(3_210_000)
    ('1 kB', '12 kB', '3.2 MB')
    """
    if size < 999_500:
        return f"{max(1, round(size / 1e3))} kB"
    return f"{size / 1e6:.1f} MB"


def _tsv_bytes(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(len(f"{cell}\t".encode()) for row in (columns, *rows) for cell in row)


def _values(layer: Mapping[str, Any]) -> int:
    i, j, k = layer["shape"]
    return int(i * j * k * layer["frames"])


def _total(folder: Folder, files: Sequence[Mapping[str, Any] | None]) -> int:
    return sum(folder.sizes[entry["name"]] for entry in files if entry is not None)


def _file_of(layer: Mapping[str, Any], folder: Folder) -> str | None:
    """Return the path of the file that holds a layer's exact values."""
    if layer["method"] >= len(folder.methods):
        return None
    method = folder.methods[layer["method"]]
    if layer["kind"] == "volumes":
        path = method["volumes"][layer["run"]]
    elif layer["kind"] == "class mean":
        path = method["class_means"][layer["mean"]]["voxel" if layer["on"] == "voxels" else "patch"]
    else:
        return None
    if path is None:  # a mean of one subject or run is in no file
        return None
    if layer["what"] == "content" and layer["on"] == "patches":
        return str(path).replace("_relevance.nii.gz", "_content.nii.gz")
    return str(path)
