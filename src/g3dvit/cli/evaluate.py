"""Measure how far the maps of your model can be believed, on your own data.

Removes what each map calls relevant and watches the decision, beside random orders, images that
know no model and the removal oracle; tries the top region alone; shuffles weights; measures the
point spread in mm; compares layers, scores, targets and methods. Half of the subjects (runs,
blocks) choose the method, the other half give the numbers. Can be stopped at any time: the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from g3dvit.cli.explain import add_volume_arguments, source_from
from g3dvit.cli.talk import progress_bar, say, seed
from g3dvit.errors import InputError

if TYPE_CHECKING:
    from g3dvit.evaluate.settings import EvaluationSettings
    from g3dvit.evaluate.summary import Evaluation

NAME = "evaluate"
HELP = "how far the maps of your model can be believed, in numbers"
EPILOG = """\
examples:
  g3dvit evaluate bold.nii.gz --model model.yaml -o evaluation \\
      --events events.tsv --classes stim=face,scene rest=BASELINE
  g3dvit evaluate sub-*_bold.nii.gz --model model.yaml --labels participants.tsv -o evaluation
  g3dvit evaluate bold.nii.gz --model fold-1.yaml --model fold-2.yaml -o evaluation
  g3dvit evaluate bold.nii.gz --model model.yaml --quick -o first-look

how long: about (patches in the brain + 20 x maps) passes per volume for the removal, and as much
again for the rest; it is told before it begins, and --volumes-in-all, --random-orders and --skip
make it shorter.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit evaluate``."""
    from g3dvit.evaluate.settings import DEFAULT_METHODS, OPTIONAL, EvaluationSettings

    usual = EvaluationSettings()
    parser.add_argument("images", nargs="+", metavar="BOLD", help="3D or 4D images, one per run")
    parser.add_argument(
        "--model",
        "-m",
        required=True,
        action="append",
        metavar="YAML",
        help="model description; given again for other seeds or folds of the same model, whose "
        "maps are compared with the first's",
    )
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output folder of an earlier run"
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--method",
        nargs="+",
        metavar="NAME",
        help=f"default: those of {', '.join(DEFAULT_METHODS)} that the model allows",
    )
    what.add_argument(
        "--target",
        default="predicted",
        help="predicted (default), label, a class name or number, or a contrast A-B",
    )
    what.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="NAME=IMAGE",
        help="maps from elsewhere in the same table, such as glm=zmap.nii.gz; only their size "
        "counts",
    )
    what.add_argument(
        "--baseline",
        metavar="DIR",
        help="folder of `g3dvit baseline`: its GLM, pattern and searchlight in the same table, and "
        "how far each map agrees with them",
    )
    what.add_argument(
        "--null-model",
        action="append",
        default=[],
        metavar="YAML",
        help="the same model trained on permuted labels (g3dvit train --permute-labels); may be "
        "given several times",
    )
    what.add_argument(
        "--skip",
        nargs="+",
        default=[],
        choices=OPTIONAL,
        metavar="STEP",
        help=f"steps to leave out: {', '.join(OPTIONAL)}",
    )
    how = parser.add_argument_group("how thoroughly")
    how.add_argument(
        "--quick", action="store_true", help="a first look: 12 volumes, fewer random models"
    )
    how.add_argument(
        "--volumes-in-all",
        type=int,
        metavar="N",
        help=f"volumes that are measured, half of them reported (default {usual.n_volumes}), "
        "spread evenly over classes and blocks of those that are chosen below",
    )
    how.add_argument(
        "--random-orders",
        type=int,
        metavar="N",
        default=usual.random_orders,
        help=f"per volume (default {usual.random_orders})",
    )
    how.add_argument(
        "--random-models",
        type=int,
        metavar="N",
        help=f"with shuffled weights (default {usual.random_models})",
    )
    how.add_argument("--seed", type=seed, default=0, help="of everything that is drawn (default 0)")
    how.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    add_volume_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the maps and print the paths of what was written."""
    from g3dvit.evaluate.evaluation import evaluate_run
    from g3dvit.evaluate.parts import remove_parts
    from g3dvit.evaluate.write import write_evaluation
    from g3dvit.folders import check_output, output_folder

    output = check_output(Path(arguments.output), overwrite=arguments.overwrite)
    parts = output.with_name(f".{output.name}.parts")
    try:
        with progress_bar("passes") as progress:
            found = evaluate_run(
                source_from(arguments),
                arguments.model[0],
                more_models=arguments.model[1:],
                null_models=arguments.null_model,
                methods=arguments.method,
                given=_given(arguments.compare),
                baseline=arguments.baseline,
                target=arguments.target,
                settings=_settings(arguments),
                device=arguments.device,
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
        written = [path.relative_to(folder) for path in write_evaluation(found, folder)]
    remove_parts(parts)
    _print_table(found)
    print(found.sentence)
    print()
    for path in written:
        print(output / path)
    return 0


def _given(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise InputError(f"a map is given as NAME=IMAGE, such as glm=zmap.nii.gz; not {word!r}")
        found[name] = path
    return found


def _settings(arguments: argparse.Namespace) -> EvaluationSettings:
    from g3dvit.evaluate.settings import EvaluationSettings

    usual = EvaluationSettings.quick() if arguments.quick else EvaluationSettings()
    return replace(
        usual,
        n_volumes=arguments.volumes_in_all or usual.n_volumes,
        random_orders=arguments.random_orders,
        random_models=arguments.random_models or usual.random_models,
        skip=tuple(arguments.skip),
        seed=arguments.seed,
    )


def _print_table(found: Evaluation) -> None:
    """Print the columns that one looks at first."""
    from g3dvit.evaluate.words import p_in_words

    columns = {
        "map": "map",
        "srg": "SRG",
        "relative_srg": "relative",
        "saco": "SaCo",
        "single": "single",
        "p_random": "p",
        "spread_mm": "spread mm",
        "unlike_random": "shuffled",
    }
    table = found.table[[name for name in columns if name in found.table.columns]].copy()
    table["p_random"] = [
        p_in_words(p).removeprefix("= ") if math.isfinite(p) else "-" for p in table["p_random"]
    ]
    text = table.rename(columns=columns).to_string(
        index=False, na_rep="-", float_format=lambda value: f"{value:.2f}"
    )
    print(text)
    print()
