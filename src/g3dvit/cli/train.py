"""Train a small 3D Vision Transformer on labelled BOLD volumes.

Reads runs with events (or labels), holds out whole subjects, runs or blocks, trains, and writes
the model description, the weights and the predictions on held-out volumes, beside those of a
linear decoder. Splits in which training data would be test data too are refused.
"""

from __future__ import annotations

import argparse
from typing import Any

from g3dvit.cli.explain import add_volume_arguments, source_from
from g3dvit.cli.talk import progress_bar, say, seed

NAME = "train"
HELP = "a small reference model from runs and events or labels"
EPILOG = """\
examples:
  g3dvit train sub-*_bold.nii.gz --events sub-*_events.tsv --classes left=left right=right \\
      --preset MNI152NLin6Asym_2mm_90 --prepare standardise=time -o model
  g3dvit train sub-*_bold.nii.gz --labels participants.tsv --split subject --folds 5 -o model
  g3dvit train run.nii.gz --events events.tsv --classes stim=face,scene rest=BASELINE \\
      --split block --folds 3 --prepare standardise=time --factory monai.networks.nets:ViT \\
      --argument in_channels=1 --argument img_size=[45,54,45] --argument patch_size=9 -o model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit train``."""
    parser.add_argument("images", nargs="+", metavar="BOLD", help="3D or 4D images, one per run")
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output folder of an earlier training"
    )

    model = parser.add_argument_group("the model")
    model.add_argument(
        "--factory",
        default="vit_pytorch.vit_3d:ViT",
        metavar="PACKAGE:CLASS",
        help="what builds it (default: a small vit_pytorch.vit_3d)",
    )
    model.add_argument(
        "--argument",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the factory, or a change to the small default; the value is read as "
        "YAML; may be repeated",
    )
    model.add_argument(
        "--patch-size", type=int, metavar="P", help="voxels per patch edge of the small default"
    )
    model.add_argument(
        "--input-axes",
        default="b 1 i j k",
        help="what the model takes, from volumes (b, i, j, k) (default: 'b 1 i j k')",
    )

    prepare = parser.add_argument_group("the preparation, saved with the model")
    prepare.add_argument(
        "--preset",
        default="MNI152NLin6Asym_2mm_90",
        help="MNI152NLin6Asym_2mm_90 (default), reference-crop, or none for the image's own grid",
    )
    prepare.add_argument(
        "--prepare",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="changes to it, such as standardise=time trend_degree=1 mask=file smoothing_mm=6",
    )

    split = parser.add_argument_group("what is held out")
    split.add_argument(
        "--split",
        choices=["subject", "run", "block"],
        help="what is held out as a whole (default: the widest that the data allow)",
    )
    split.add_argument("--folds", type=int, default=1, metavar="N", help="divisions (default 1)")
    split.add_argument(
        "--test-share", type=float, default=0.25, metavar="S", help="share tested (default 0.25)"
    )
    split.add_argument(
        "--test", nargs="+", default=[], metavar="NAME", help="subjects or runs to test"
    )
    split.add_argument(
        "--gap",
        type=int,
        default=6,
        metavar="N",
        help="volumes left out on either side of test blocks (default and least: 6)",
    )
    split.add_argument(
        "--no-refit",
        action="store_true",
        help="with several folds: write the folds' models only, none trained on everything",
    )

    add_volume_arguments(parser)

    how = parser.add_argument_group("how it is trained")
    how.add_argument("--epochs", type=int, default=20, metavar="N", help="(default 20)")
    how.add_argument("--batch-size", type=int, default=32, metavar="N", help="(default 32)")
    how.add_argument(
        "--learning-rate", type=float, default=1e-3, metavar="R", help="(default 1e-3)"
    )
    how.add_argument("--weight-decay", type=float, default=0.05, metavar="W", help="(default 0.05)")
    how.add_argument(
        "--shift", type=int, default=0, metavar="N", help="random shifts of up to N voxels"
    )
    how.add_argument(
        "--hide", type=float, default=0.0, metavar="S", help="share of cubes set to 0 at random"
    )
    how.add_argument(
        "--embedding-scale", type=float, default=1.0, metavar="F", help="of the first weights"
    )
    how.add_argument("--embedding-decay", type=float, metavar="W", help="their own weight decay")
    how.add_argument("--no-linear", action="store_true", help="train no linear decoder beside it")
    how.add_argument(
        "--permute-labels",
        action="store_true",
        help="exchange labels between blocks (or subjects) first: a null model for evaluate "
        "--null-model",
    )
    how.add_argument("--seed", type=seed, default=0, help="(default 0)")
    how.add_argument("--device", default="auto", help="auto (default), cpu, cuda")


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the paths of what was written."""
    from g3dvit.prepare import Preparation
    from g3dvit.train import Fitting, train_model

    changes = _named_values(arguments.prepare, "--prepare")
    preset = None if arguments.preset == "none" else arguments.preset
    preparation = Preparation.from_dict({"preset": preset, **changes})
    given = _named_values(arguments.argument, "--argument")
    with progress_bar("volumes") as progress:
        report = train_model(
            source_from(arguments),
            arguments.output,
            preparation=preparation,
            factory=arguments.factory,
            arguments=given or None,
            patch_size=arguments.patch_size,
            input_axes=arguments.input_axes,
            split=arguments.split,
            n_folds=arguments.folds,
            test_share=arguments.test_share,
            test=arguments.test,
            gap_volumes=arguments.gap,
            refit=not arguments.no_refit,
            fitting=Fitting(
                epochs=arguments.epochs,
                batch_size=arguments.batch_size,
                learning_rate=arguments.learning_rate,
                weight_decay=arguments.weight_decay,
                shift_voxels=arguments.shift,
                hidden_share=arguments.hide,
                embedding_scale=arguments.embedding_scale,
                embedding_decay=arguments.embedding_decay,
            ),
            linear=not arguments.no_linear,
            permute=arguments.permute_labels,
            seed=arguments.seed,
            device=arguments.device,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    for number, fold in enumerate(report.folds, start=1):
        say(
            f"fold {number}: trained on {fold.n_train} volumes, tested {fold.n_test} "
            f"({', '.join(fold.held_out)}), balanced accuracy {fold.balanced_accuracy:.2f}, "
            f"linear {fold.linear_balanced_accuracy:.2f}"
        )
    say(report.sentence())
    for path in sorted(report.folder.rglob("*")):
        if path.suffix in (".yaml", ".tsv"):
            print(path)
    return 0


def _named_values(entries: list[str], option: str) -> dict[str, Any]:
    import yaml

    from g3dvit.errors import InputError

    values: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not name.isidentifier() or name in values:
            raise InputError(f"{option} takes NAME=VALUE, each name once; was given {entry!r}")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{option} {entry!r}: the value is no YAML: {error}") from error
    return values
