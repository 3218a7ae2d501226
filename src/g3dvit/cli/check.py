"""Prove that a model is shown what it was trained on, before any map is believed.

Prepares volumes as the description says and draws what the model really sees, with left and
right; compares its class values with those of your own pipeline (--expect), and counts the
accuracy on labelled volumes, to compare with the one you know.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from g3dvit.cli.explain import add_volume_arguments, source_from
from g3dvit.cli.talk import progress_bar, say

NAME = "check"
HELP = "does your model see what it was trained on? picture, class values, accuracy"
EPILOG = """\
examples:
  g3dvit check bold.nii.gz --model model.yaml --volumes 0:20 --expect my_logits.npy -o check.png
  g3dvit check bold.nii.gz --model model.yaml --events events.tsv --classes stim=face rest=BASELINE

my_logits.npy: what your own code gives for the same volumes before softmax, (volumes, classes).
exit status: 1 where --expect was given and the class values differ.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit check``."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="3D or 4D images, one per run")
    parser.add_argument("--model", "-m", required=True, metavar="YAML", help="model description")
    parser.add_argument(
        "--expect", metavar="NPY", help="class values of your own pipeline, .npy, .tsv or .csv"
    )
    parser.add_argument(
        "--output", "-o", default="check.png", metavar="PNG", help="default: check.png"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    add_volume_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison and the accuracy, and write the picture."""
    from g3dvit.check_model import check_model, read_expected
    from g3dvit.errors import OutputError
    from g3dvit.report.check_figure import check_figure, save_figure

    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise OutputError(f"{output} exists; choose another name or pass --overwrite")
    expected = None if arguments.expect is None else read_expected(arguments.expect)
    with progress_bar("volumes") as progress:
        checked = check_model(
            source_from(arguments),
            arguments.model,
            expected=expected,
            device=arguments.device,
            progress=progress,
        )
    for sentence in checked.notes:
        say(f"note: {sentence}")
    print("\n".join(checked.lines()))
    figure = check_figure(
        checked.shown.data, checked.shown.grid, title=checked.title(), sentences=checked.captions()
    )
    print(save_figure(figure, output, overwrite=arguments.overwrite))
    comparison = checked.comparison
    return 1 if comparison is not None and comparison.verdict == "different" else 0
