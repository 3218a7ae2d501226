"""Which regions of an atlas a map lies in: tables of regions and clusters, in mm.

Honest about patches: a region smaller than a patch is described, not ranked, and no peak is told
more finely than the map resolves. `region_table` and `cluster_table` work on maps,
`regions_of_run` on the folder of a run.
"""

from __future__ import annotations

from g3dvit.regions.atlases import FETCHED, PACKAGED, load_atlas, load_mask
from g3dvit.regions.chance import coarse_blocks
from g3dvit.regions.clusters import CLUSTER_COLUMNS, cluster_table, threshold_of
from g3dvit.regions.described import ClusterOptions
from g3dvit.regions.families import Merged, merge_small
from g3dvit.regions.job import RegionReport, regions_of_maps, regions_of_run, table_names
from g3dvit.regions.tables import (
    BY_MAP_COLUMNS,
    COLUMNS,
    RegionOptions,
    default_mask,
    region_means,
    region_table,
    tables_by_map,
)
from g3dvit.regions.weights import RegionWeights, region_weights
from g3dvit.regions.write import add_to_run, check_tables, write_regions

__all__ = [
    "BY_MAP_COLUMNS",
    "CLUSTER_COLUMNS",
    "COLUMNS",
    "FETCHED",
    "PACKAGED",
    "ClusterOptions",
    "Merged",
    "RegionOptions",
    "RegionReport",
    "RegionWeights",
    "add_to_run",
    "check_tables",
    "cluster_table",
    "coarse_blocks",
    "default_mask",
    "load_atlas",
    "load_mask",
    "merge_small",
    "region_means",
    "region_table",
    "region_weights",
    "regions_of_maps",
    "regions_of_run",
    "table_names",
    "tables_by_map",
    "threshold_of",
    "write_regions",
]
