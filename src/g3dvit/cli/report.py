"""Make the page of a run again, without the model.

Reads the folder that `explain` wrote: maps, predictions, checks, and every table in its folder
`tables`. The page takes the place of the folder's `report.html` unless another name is given.
With `--each` every subject, or every run, gets a complete page of its own beside it.
"""

from __future__ import annotations

import argparse

NAME = "report"
HELP = "make the page of a run again, from its output folder"
EPILOG = """\
examples:
  g3dvit report maps
  g3dvit report maps --evaluation evaluated --atlas aal3
  g3dvit report maps --each subject
  g3dvit report maps --background sub-01_T1w_in_the_maps_space.nii.gz -o talk.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit report``."""
    parser.add_argument("folder", metavar="OUT", help="folder that `g3dvit explain -o` wrote")
    parser.add_argument("--output", "-o", metavar="HTML", help="another place for the page")
    parser.add_argument(
        "--each",
        choices=("subject", "run"),
        help="also write one page for each subject, or for each run, of its volumes alone: "
        "report_NAME.html beside report.html, which links to them",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the file of --output, or the pages of --each",
    )
    parser.add_argument(
        "--background", metavar="NII", help="3D image in the space of the maps, shown under them"
    )
    parser.add_argument(
        "--evaluation", metavar="DIR", help="folder of `g3dvit evaluate -o`, shown as evidence"
    )
    parser.add_argument(
        "--atlas",
        metavar="NAME|NII",
        help="names the region at the crosshair: as for `g3dvit regions`, which makes tables too",
    )
    parser.add_argument("--names", metavar="TSV", help="table of index and name of the atlas")
    parser.add_argument(
        "--allow-download", action="store_true", help="let nilearn download the atlas"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the page, or the pages, and print their paths."""
    from g3dvit.cli.talk import progress_bar
    from g3dvit.errors import InputError
    from g3dvit.regions.atlases import load_atlas
    from g3dvit.remake import remake_page
    from g3dvit.remake_parts import remake_part_pages

    atlas = None
    if arguments.atlas is not None:
        atlas = load_atlas(
            arguments.atlas, names=arguments.names, allow_download=arguments.allow_download
        )
    elif arguments.names is not None:
        raise InputError("--names explains an atlas; name it with --atlas")
    if arguments.each is not None:
        if arguments.output is not None:
            raise InputError("--each writes its pages into the folder of the run; leave out -o")
        with progress_bar("pages") as progress:
            pages = remake_part_pages(
                arguments.folder,
                arguments.each,
                overwrite=arguments.overwrite,
                background=arguments.background,
                evaluation=arguments.evaluation,
                atlas=atlas,
                progress=progress,
            )
        for path in pages:
            print(path)
        return 0
    page = remake_page(
        arguments.folder,
        output=arguments.output,
        overwrite=arguments.overwrite,
        background=arguments.background,
        evaluation=arguments.evaluation,
        atlas=atlas,
    )
    print(page)
    return 0
