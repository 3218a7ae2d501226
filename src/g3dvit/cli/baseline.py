"""Ask what a linear decoder, a GLM and a searchlight find on the volumes of your model.

Takes images, events or labels as `g3dvit train` and `explain` do, and the preparation from the
model description. Folds are those of the model's own test where `g3dvit train` left it beside the
model, otherwise new ones; leakage is refused. Can be stopped at any time: the same command goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from g3dvit.cli.explain import add_volume_arguments, source_from
from g3dvit.cli.talk import progress_bar, say, seed

NAME = "baseline"
HELP = "linear decoder, GLM and searchlight on the same volumes and folds"
EPILOG = """\
examples:
  g3dvit baseline bold.nii.gz --model model.yaml -o baseline \\
      --events events.tsv --classes stim=face,scene rest=BASELINE
  g3dvit baseline sub-*_bold.nii.gz --model model.yaml --labels participants.tsv -o baseline
  g3dvit evaluate bold.nii.gz --model model.yaml --baseline baseline -o evaluation ...
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit baseline``."""
    parser.add_argument("images", nargs="+", metavar="BOLD", help="3D or 4D images, one per run")
    parser.add_argument("--model", "-m", required=True, metavar="YAML", help="model description")
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output folder of an earlier run"
    )
    split = parser.add_argument_group("what is held out (default: as in the model's own test)")
    split.add_argument(
        "--split",
        choices=["subject", "run", "block"],
        help="new folds that hold these out as a whole",
    )
    split.add_argument("--folds", type=int, metavar="N", help="new folds (default at most 5)")
    split.add_argument(
        "--gap", type=int, metavar="N", help="volumes left out beside test blocks (least: 6)"
    )
    what = parser.add_argument_group("what is computed")
    what.add_argument(
        "--radius", type=float, default=12.0, metavar="MM", help="of a sphere (default 12)"
    )
    what.add_argument(
        "--searchlight-minutes",
        type=float,
        default=10.0,
        metavar="M",
        help="cubes of voxels are averaged until the searchlight takes about that (default 10)",
    )
    what.add_argument(
        "--skip",
        nargs="+",
        default=[],
        choices=["linear", "glm", "searchlight"],
        metavar="NAME",
        help="linear, glm or searchlight",
    )
    what.add_argument("--seed", type=seed, default=0, help="of new folds (default 0)")
    add_volume_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the baseline and print the paths of what was written."""
    from g3dvit.baseline import BaselineSettings, run_baseline, write_baseline
    from g3dvit.evaluate.parts import remove_parts
    from g3dvit.folders import check_output, output_folder

    output = check_output(Path(arguments.output), overwrite=arguments.overwrite)
    parts = output.with_name(f".{output.name}.parts")
    settings = BaselineSettings(
        split=arguments.split,
        n_folds=arguments.folds,
        gap_volumes=arguments.gap,
        radius_mm=arguments.radius,
        searchlight_minutes=arguments.searchlight_minutes,
        skip=tuple(arguments.skip),
        seed=arguments.seed,
    )
    try:
        with progress_bar("steps") as progress:
            found = run_baseline(
                source_from(arguments),
                arguments.model,
                settings=settings,
                parts=parts,
                say=say,
                progress=progress,
            )
    except KeyboardInterrupt:
        say(f"finished parts are kept in {parts}; the same command goes on from there")
        raise
    for note in found.notes:
        say(f"note: {note}")
    with output_folder(output, overwrite=arguments.overwrite) as folder:
        written = [path.relative_to(folder) for path in write_baseline(found, folder)]
    remove_parts(parts)
    columns = ["approach", "fold", "balanced_accuracy", "mean_over_units", "low", "high", "p"]
    shown = found.table[[*columns, "chance", "n_units", "unit", "n_volumes"]]
    print(
        shown.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.3g}"),
        end="\n\n",
    )
    print(found.sentence, end="\n\n")
    for path in written:
        print(output / path)
    return 0
