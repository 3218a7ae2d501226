"""Show where in the brain a trained 3D Vision Transformer looked.

Reads one or more BOLD runs (or single volumes), prepares them as the model was trained, classifies
every chosen time point, and writes relevance maps in brain space with the checks that each map
passed or failed: NIfTI files, tables, figures and one offline page.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from g3dvit.cli.talk import progress_bar, say, seed

if TYPE_CHECKING:
    from g3dvit.run import RunSource
    from g3dvit.run_result import RunResult

NAME = "explain"
HELP = "maps of where the model looked, for every time point of a run"
#: A page, figures and maps of one short run: a disk with less room is full before the end.
_ROOM_MB = 50
EPILOG = """\
examples:
  g3dvit explain bold.nii.gz --model model.yaml -o maps
  g3dvit explain run-1.nii.gz run-2.nii.gz --model model.yaml -o maps \\
      --events run-1_events.tsv run-2_events.tsv --classes stim=face,scene rest=BASELINE
  g3dvit explain sub-*_bold.nii.gz --model model.yaml -o maps --labels participants.tsv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit explain``."""
    parser.add_argument("images", nargs="+", metavar="BOLD", help="3D or 4D images, one per run")
    parser.add_argument("--model", "-m", required=True, metavar="YAML", help="model description")
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output folder of an earlier run"
    )

    what = parser.add_argument_group("what is explained")
    what.add_argument(
        "--method",
        nargs="+",
        help="token_gradcam, frozen_gate, shift_averaged, shift_weighted_signed (default: these "
        "four, where the model allows them), "
        "shift_weighted, shift_weighted_local, shift_averaged_local, shift_averaged_gamma, "
        "frozen_gate_gamma, frozen_gate_noise, "
        "gradcam, hirescam, hirescam_blocks, layercam, xgradcam, gradcam_plus_plus, eigencam, "
        "cam, gradient_rollout, "
        "attention_rollout, agcam, legrad, gradient_x_input, smoothgrad, token_removal, rise; with "
        "--references integrated_gradients, "
        "expected_gradients, occlusion",
    )
    what.add_argument(
        "--target",
        default="predicted",
        help="predicted (default), label, a class name or number, or a contrast A-B",
    )
    what.add_argument(
        "--mean-target",
        metavar="CLASS",
        help="the one class that all class means explain (default: --target where it is one "
        "class, otherwise the last class)",
    )
    what.add_argument(
        "--score",
        choices=["logit", "log_odds", "probability"],
        help="the explained value (default: logit for token_gradcam alone, otherwise log_odds)",
    )
    what.add_argument(
        "--weighting",
        choices=["mean", "max", "abs", "relu", "all"],
        default="mean",
        help="pooling of the gradients in token_gradcam (default: mean)",
    )
    what.add_argument(
        "--layer", help="normalisation layer for token_gradcam and hirescam (see `inspect`)"
    )

    add_volume_arguments(parser)

    how = parser.add_argument_group("how it is computed and shown")
    how.add_argument("--batch-size", type=_positive, metavar="N", help="volumes per pass")
    how.add_argument(
        "--shifts",
        type=_from_zero,
        default=8,
        metavar="N",
        help="shifts of the volume that shift-averaged methods average over "
        "(default 8), each as costly as frozen_gate; 0 leaves these maps out",
    )
    how.add_argument(
        "--shift-averaged-per-volume",
        action="store_true",
        help="shift-averaged maps of every volume; without it they are made for class means only, "
        "each of its own class, from at most 20 volumes of each class evenly over the runs (how "
        "many is in the sidecar)",
    )
    how.add_argument(
        "--references",
        nargs="+",
        default=(),
        metavar="NII",
        help="real images that integrated_gradients, expected_gradients and occlusion compare "
        "with, prepared as the runs; of a 4D file 8 volumes, evenly",
    )
    how.add_argument(
        "--samples",
        type=_positive,
        metavar="N",
        help="passes of frozen_gate_noise, smoothgrad, integrated_gradients, expected_gradients, "
        "rise (default: 16, 32, 32, 64, 512)",
    )
    how.add_argument(
        "--noise",
        type=float,
        default=0.1,
        metavar="SD",
        help="of frozen_gate_noise and smoothgrad, in standard deviations of the voxels that are "
        "not 0 (default 0.1)",
    )
    how.add_argument(
        "--gamma",
        type=float,
        help="of frozen_gate_gamma (default 0.25), shift_averaged_gamma, shift_averaged_local and "
        "shift_weighted_local (0.5), shift_weighted_signed (0: none; 0.1 finds the inside of large "
        "places better)",
    )
    how.add_argument(
        "--seed", type=seed, default=0, help="of methods that draw at random (default 0)"
    )
    how.add_argument(
        "--atlas",
        metavar="NAME|NII",
        help="names the region at the page's crosshair; tables: `g3dvit regions OUT --atlas ...`",
    )
    how.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    how.add_argument(
        "--display-percentile",
        type=float,
        metavar="P",
        help="show only values beyond this percentile of |map| (figure and page only)",
    )
    how.add_argument(
        "--display-rectify", action="store_true", help="show positive values only (display only)"
    )
    how.add_argument(
        "--display-smooth-mm",
        type=float,
        default=6.0,
        metavar="FWHM",
        help="Gaussian for class means that are computed voxel by voxel (frozen_gate), 0 for none "
        "(default 6; figure and page only)",
    )
    how.add_argument(
        "--display-min-max", action="store_true", help="show scaled to 0..1 (display only)"
    )


def add_volume_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how images are read and volumes are chosen; other commands share this."""
    which = parser.add_argument_group("which volumes, and what they are called")
    which.add_argument("--volumes", metavar="A:B:STEP", help="time points, such as 0:100:2 or 3,5")
    which.add_argument("--events", nargs="+", metavar="TSV", help="BIDS events, one file per run")
    which.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME=TYPES",
        help="classes of event types: stim=face,scene rest=BASELINE",
    )
    which.add_argument(
        "--delay", type=float, default=5.0, metavar="S", help="haemodynamic delay in s (default 5)"
    )
    which.add_argument("--labels", metavar="TSV", help="one label per participant or file")

    which.add_argument(
        "--label-column", metavar="NAME", help="column of --labels, where it has several"
    )

    read = parser.add_argument_group("how the images are read")
    read.add_argument("--mask", metavar="NII", help="brain mask, where the preparation uses one")
    read.add_argument("--confounds", nargs="+", metavar="TSV", help="confounds, one file per run")
    read.add_argument("--reference", metavar="NII", help="image that gives arrays their affine")
    read.add_argument(
        "--assume-orientation",
        choices=["RAS", "LAS"],
        help="for images that do not say which side is left",
    )
    read.add_argument("--space", help="space of the images, where neither name nor sidecar tell")
    read.add_argument("--t-r", type=float, metavar="S", help="repetition time in s, if unknown")


def source_from(arguments: argparse.Namespace) -> RunSource:
    """Return the images and how their volumes are chosen, from the shared arguments."""
    from g3dvit.run import RunSource

    return RunSource.from_words(
        arguments.images,
        volumes=arguments.volumes,
        events=arguments.events,
        classes=arguments.classes,
        delay=arguments.delay,
        labels=arguments.labels,
        label_column=arguments.label_column,
        mask=arguments.mask,
        confounds=arguments.confounds,
        reference=arguments.reference,
        assume_orientation=arguments.assume_orientation,
        space=arguments.space,
        t_r=arguments.t_r,
    )


def run(arguments: argparse.Namespace) -> int:
    """Explain the images and print the paths of what was written."""
    from dataclasses import replace

    from g3dvit.errors import SpaceError
    from g3dvit.outputs import check_output, output_folder, write_run
    from g3dvit.regions.atlases import load_atlas
    from g3dvit.regions.spaces import check_space
    from g3dvit.run import explain_run
    from g3dvit.run_result import Display

    output = Path(arguments.output)
    check_output(output, overwrite=arguments.overwrite, room_mb=_ROOM_MB)
    atlas = load_atlas(arguments.atlas) if arguments.atlas else None
    with progress_bar("volumes") as progress:
        result = explain_run(
            source_from(arguments),
            arguments.model,
            methods=arguments.method,
            target=arguments.target,
            mean_target=arguments.mean_target,
            score=arguments.score,
            weighting=arguments.weighting,
            target_layer=arguments.layer,
            batch_size=arguments.batch_size,
            shifts=arguments.shifts,
            shift_averaged_per_volume=arguments.shift_averaged_per_volume,
            references=arguments.references,
            samples=arguments.samples,
            noise=arguments.noise,
            gamma=arguments.gamma,
            seed=arguments.seed,
            device=arguments.device,
            display=Display(
                rectify=arguments.display_rectify,
                min_max=arguments.display_min_max,
                percentile=arguments.display_percentile,
                smooth_mm=arguments.display_smooth_mm,
            ),
            say=say,
            progress=progress,
        )
    if atlas is not None:
        try:
            told = tuple(filter(None, [check_space(result.space, atlas)]))
            result = replace(result, parcellation=atlas, warnings=(*result.warnings, *told))
        except SpaceError as error:  # what was computed is worth more than the names
            say(f"warning: regions are not named: {error}")
    for sentence in result.warnings:
        say(f"warning: {sentence}")
    with output_folder(output, overwrite=arguments.overwrite) as folder:
        say("writing maps, figures and the page")
        write_run(result, folder)
    print_summary(result, output)
    return 0


def print_summary(result: RunResult, output: Path) -> None:
    """Print what the checks said and which file to open first."""
    for check in result.checks:
        print(f"{check.verdict.upper():4}  {check.sentence}")
    for maps in result.maps:
        failed = [check for check in maps.summary if check.verdict == "fail"]
        warned = [check for check in maps.summary if check.verdict == "warn"]
        verdict = "FAIL" if failed else "WARN" if warned else "PASS"
        advice = " (recommended for this model)" if maps.recommended else ""
        print(f"{verdict}  {maps.label}{advice}")
        for check in failed + warned:
            print(f"        {check.name}: {check.sentence}")
    if result.recommendation is not None:
        print(" ".join(result.recommendation.sentences))
    print()
    print(f"page         {output / 'report.html'}")
    for figure in sorted((output / "figures").glob("*.png")):
        print(f"figure       {figure}")
    print(f"maps         {output / 'maps'}, {output / 'class_means'}")
    print(f"predictions  {output / 'predictions.tsv'}")
    print(f"what is what {output / 'README.txt'}")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"takes a positive number, was given {text}")
    return value


def _from_zero(text: str) -> int:
    return 0 if text == "0" else _positive(text)
