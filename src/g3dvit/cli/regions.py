"""Say in which regions of an atlas maps lie: tables of regions and clusters, in mm.

Given the folder of a run, its tables are added there, and `g3dvit report` shows them and names the
region at the crosshair. Given maps from files, one per subject, tables are written to a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from g3dvit.cli.talk import seed

NAME = "regions"
HELP = "in which regions of an atlas maps lie"
EPILOG = """\
examples:
  g3dvit regions maps --atlas aal3                      (pip install 'g3dvit[atlas]')
  g3dvit regions maps --atlas my_atlas_dseg.nii.gz      with my_atlas_dseg.tsv beside it
  g3dvit regions sub-*_relevance.nii.gz --atlas schaefer100 --allow-download -o regions
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit regions``."""
    parser.add_argument(
        "maps",
        nargs="+",
        metavar="MAP",
        help="folder that `g3dvit explain -o` wrote; or relevance maps, one per subject",
    )
    parser.add_argument(
        "--atlas",
        required=True,
        metavar="NAME|NII",
        help="label image with a table of index and name; or aal3, aal, schaefer100, schaefer200, "
        "schaefer400, harvard-oxford, yeo7, destrieux",
    )
    parser.add_argument("--names", metavar="TSV", help="table of index and name, if not beside it")
    parser.add_argument(
        "--allow-download", action="store_true", help="let nilearn download the atlas"
    )
    parser.add_argument(
        "--method", nargs="+", metavar="NAME", help="of a run (default: frozen gates, recommended)"
    )
    parser.add_argument("--mask", metavar="NII", help="voxels that count (default: the atlas)")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument(
        "--threshold", type=float, metavar="X", help="of clusters, in units of the map"
    )
    cut.add_argument(
        "--percentile", type=float, default=95.0, metavar="P", help="of clusters (default 95)"
    )
    parser.add_argument(
        "--surrogates", type=int, default=1000, metavar="N", help="random maps for p (0: none)"
    )
    parser.add_argument(
        "--merge-small",
        action="store_true",
        help="merge regions smaller than a patch with those of their family (column parent of the "
        "table, or beginnings of names), left and right apart",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of all randomness (default 0)")
    parser.add_argument("--output", "-o", metavar="DIR", help="folder for tables of single maps")
    parser.add_argument("--overwrite", action="store_true", help="replace tables that exist")


def run(arguments: argparse.Namespace) -> int:
    """Write the tables and print their paths."""
    from g3dvit.cli.talk import progress_bar, say
    from g3dvit.errors import InputError
    from g3dvit.folders import check_output
    from g3dvit.regions import (
        ClusterOptions,
        RegionOptions,
        add_to_run,
        check_tables,
        load_atlas,
        load_mask,
        regions_of_maps,
        regions_of_run,
        table_names,
        write_regions,
    )
    from g3dvit.saved_runs import load_run

    output = arguments.output or ""
    folders = [path for path in arguments.maps if Path(path).is_dir()]
    if folders and len(arguments.maps) > 1:
        raise InputError("name one folder of a run, or maps from files, not both")
    if not folders:
        if not output:
            raise InputError("tables of single maps need a folder to go to: -o DIR")
        if arguments.method:
            raise InputError("--method chooses from the folder of a run; maps have theirs")
        check_output(output, overwrite=arguments.overwrite)
    elif output:
        raise InputError("tables of a run go into its own folder; leave out -o")
    options = RegionOptions(
        n_surrogates=arguments.surrogates,
        seed=arguments.seed,
        merge_small=arguments.merge_small,
        mask_name=Path(arguments.mask).name if arguments.mask else "",
    )
    clusters = ClusterOptions(arguments.threshold, arguments.percentile)
    result, methods = load_run(folders[0]) if folders else None, arguments.method or ()
    if result is not None:
        names = table_names(result, methods=methods)
        check_tables(folders[0], names, overwrite=arguments.overwrite)
    atlas = load_atlas(
        arguments.atlas, names=arguments.names, allow_download=arguments.allow_download
    )
    mask = load_mask(arguments.mask) if arguments.mask else None
    with progress_bar("maps") as progress:
        if result is not None:
            report = regions_of_run(
                result,
                atlas,
                methods=methods,
                mask=mask,
                options=options,
                clusters=clusters,
                progress=progress,
            )
        else:
            report = regions_of_maps(
                arguments.maps,
                atlas,
                mask=mask,
                options=options,
                clusters=clusters,
                progress=progress,
            )
    if folders:
        for path in add_to_run(report, folders[0], overwrite=arguments.overwrite):
            print(path)
        say(f"see them on the page: g3dvit report {folders[0]}")
    else:
        print(write_regions(report, output, overwrite=arguments.overwrite))
    return 0
