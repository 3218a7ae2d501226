"""Make the page of a run again, without the model.

Reads the folder that `explain` wrote: maps, predictions, checks, and every table in its folder
`tables`. The page takes the place of the folder's `report.html` unless another name is given.
"""

from __future__ import annotations

import argparse

NAME = "report"
HELP = "make the page of a run again, from its output folder"
EPILOG = """\
examples:
  g3dvit report maps
  g3dvit report maps --evaluation evaluated
  g3dvit report maps --background sub-01_T1w_in_the_maps_space.nii.gz -o talk.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit report``."""
    parser.add_argument("folder", metavar="OUT", help="folder that `g3dvit explain -o` wrote")
    parser.add_argument("--output", "-o", metavar="HTML", help="another place for the page")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output")
    parser.add_argument(
        "--background", metavar="NII", help="3D image in the space of the maps, shown under them"
    )
    parser.add_argument(
        "--evaluation", metavar="DIR", help="folder of `g3dvit evaluate -o`, shown as evidence"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the page and print its path."""
    from g3dvit.remake import remake_page

    page = remake_page(
        arguments.folder,
        output=arguments.output,
        overwrite=arguments.overwrite,
        background=arguments.background,
        evaluation=arguments.evaluation,
    )
    print(page)
    return 0
