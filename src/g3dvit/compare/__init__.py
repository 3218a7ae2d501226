"""Maps against outside evidence: a GLM, a meta-analysis, another model.

`compare_maps` and `compare_files` give numbers with p-values against maps as smooth;
`write_comparison` and `add_to_run` write tables and figures.
"""

from __future__ import annotations

from g3dvit.compare.agreement import SHARES, Agreement, Overlap, Signs, agreement
from g3dvit.compare.clusters import clusters_both_ways
from g3dvit.compare.figure import comparison_with_reference
from g3dvit.compare.job import (
    CompareOptions,
    Comparison,
    compare_files,
    compare_maps,
    compare_reference,
    disagreements,
)
from g3dvit.compare.places import Reference, load_reference, open_reference
from g3dvit.compare.write import (
    add_to_run,
    agreement_table,
    summary,
    tables_of,
    write_comparison,
)

__all__ = [
    "SHARES",
    "Agreement",
    "CompareOptions",
    "Comparison",
    "Overlap",
    "Reference",
    "Signs",
    "add_to_run",
    "agreement",
    "agreement_table",
    "clusters_both_ways",
    "compare_files",
    "compare_maps",
    "compare_reference",
    "comparison_with_reference",
    "disagreements",
    "load_reference",
    "open_reference",
    "summary",
    "tables_of",
    "write_comparison",
]
