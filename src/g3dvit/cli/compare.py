"""Compare maps with outside evidence: a GLM's z map, a meta-analysis, another model's map.

Both are compared patch by patch. Correlations and overlaps stand beside what random maps as smooth
would give, and beside faithfulness where an evaluation is named: the two can disagree.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from g3dvit.cli.talk import seed

NAME = "compare"
HELP = "compare maps with a GLM, a meta-analysis or another model"
EPILOG = """\
examples:
  g3dvit compare maps glm_zmap.nii.gz                       every class mean of a run
  g3dvit compare maps glm_zmap.nii.gz --evaluation evaluation --atlas aal3
  g3dvit compare sub-01_relevance.nii.gz neurosynth.nii.gz --signs positive -o compared
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit compare``."""
    parser.add_argument(
        "map", metavar="MAP", help="relevance map, or the folder that `g3dvit explain -o` wrote"
    )
    parser.add_argument("references", nargs="+", metavar="REFERENCE", help="3D images (NIfTI)")
    parser.add_argument(
        "--signs",
        choices=["signed", "positive", "absolute"],
        default="signed",
        help="what is compared of both (default signed; relevance has the sign of evidence)",
    )
    parser.add_argument(
        "--top",
        nargs="+",
        type=float,
        default=[5, 10, 20],
        metavar="PERCENT",
        help="shares of the highest patches whose overlap is told (default 5 10 20)",
    )
    parser.add_argument(
        "--mask",
        metavar="NII",
        help="where to compare (default: the template's brain for maps in MNI space, else where "
        "both are not 0); the tables say which it was",
    )
    parser.add_argument("--method", nargs="+", metavar="NAME", help="of a run (default: all)")
    parser.add_argument("--atlas", metavar="NAME|NII", help="names places, as in g3dvit regions")
    parser.add_argument("--evaluation", metavar="DIR", help="folder of `g3dvit evaluate -o`")
    parser.add_argument(
        "--surrogates", type=int, default=1000, metavar="N", help="random maps for p (0: none)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of all randomness (default 0)")
    parser.add_argument("--output", "-o", metavar="DIR", help="folder for a single map")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists")


def run(arguments: argparse.Namespace) -> int:
    """Write tables and figures and print their paths."""
    from g3dvit.cli.talk import progress_bar, say
    from g3dvit.compare import CompareOptions, add_to_run, summary, write_comparison
    from g3dvit.compare.faithful import evaluation_beside, load_faithfulness
    from g3dvit.compare.sources import background_of, compare_folder, compare_one
    from g3dvit.compare.write import check_run_folder
    from g3dvit.errors import InputError
    from g3dvit.folders import check_output
    from g3dvit.regions import load_atlas, load_mask

    is_run = Path(arguments.map).is_dir()
    output = arguments.output or ""
    if is_run and output:
        raise InputError("a comparison of a run goes into its own folder; leave out -o")
    if not is_run and not output:
        raise InputError("the comparison of a single map needs a folder to go to: -o DIR")
    if not is_run and arguments.method:
        raise InputError("--method chooses from the folder of a run; a map has its own")
    if is_run:
        check_run_folder(arguments.map, overwrite=arguments.overwrite)
    else:
        check_output(output, overwrite=arguments.overwrite)
    evaluation = arguments.evaluation
    if evaluation:
        load_faithfulness(evaluation)  # before any work
    options = CompareOptions(
        signs=arguments.signs,
        shares=tuple(percent / 100 for percent in arguments.top),
        n_surrogates=arguments.surrogates,
        seed=arguments.seed,
        mask_name=Path(arguments.mask).name if arguments.mask else "",
    )
    atlas = load_atlas(arguments.atlas) if arguments.atlas else None
    mask = load_mask(arguments.mask) if arguments.mask else None
    with progress_bar("comparisons") as progress:
        if is_run:
            found = compare_folder(
                arguments.map,
                arguments.references,
                methods=arguments.method or (),
                mask=mask,
                options=options,
                progress=progress,
            )
        else:
            found = compare_one(arguments.map, arguments.references, mask=mask, options=options)
    for warning in dict.fromkeys(w for one in found for w in one.warnings):
        say(f"warning: {warning}")
    if is_run and not evaluation:
        evaluation = evaluation_beside(arguments.map, found)
        if evaluation:
            say(f"faithfulness is from {evaluation}, which measured the same model")
    for line in summary(found):
        say(line)
    background = background_of(arguments.map, found[0])
    if is_run:
        written = add_to_run(
            found,
            arguments.map,
            background,
            atlas=atlas,
            evaluation=evaluation,
            overwrite=arguments.overwrite,
        )
        for path in written:
            print(path)
        say(f"see it on the page: g3dvit report {arguments.map}")
    else:
        print(
            write_comparison(
                found,
                output,
                background,
                atlas=atlas,
                evaluation=evaluation,
                overwrite=arguments.overwrite,
            )
        )
    return 0
