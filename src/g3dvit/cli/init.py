"""Describe your own model: begin the file that every other command takes.

Builds the network, tries the weights in it under every prefix, and writes what it found as YAML
with comments on what was assumed and what is left to you. The arguments of vit-pytorch's vit_3d
are read from the weights where their shapes tell.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "init"
HELP = "describe your own model: write model.yaml for a checkpoint"
EPILOG = """\
examples:
  g3dvit init brain.ckpt --factory my_package.models:BrainViT --argument dim=256
  g3dvit init vit.safetensors --factory vit_pytorch.vit_3d:ViT --vit-pytorch 1.10.1 \\
      --classes patient control --preset MNI152NLin6Asym_2mm_90
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit init``."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=".safetensors, .ckpt or .pt")
    add_factory_arguments(parser, required=True)
    parser.add_argument(
        "--output", "-o", default="model.yaml", metavar="YAML", help="default: model.yaml"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--classes", nargs="+", default=(), metavar="NAME", help="class names, as the outputs"
    )
    parser.add_argument("--preset", metavar="NAME", help="preparation, as MNI152NLin6Asym_2mm_90")
    parser.add_argument("--input-axes", metavar="AXES", help='as "b 1 i j k" or "b k i j"')
    parser.add_argument(
        "--vit-pytorch", metavar="VERSION", help="version of vit-pytorch it was trained with"
    )


def add_factory_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declare how a network is built; ``g3dvit inspect`` shares this."""
    parser.add_argument(
        "--factory",
        required=required,
        metavar="PACKAGE:CLASS",
        help="what builds the network, as my_package.models:BrainViT",
    )
    parser.add_argument(
        "--argument",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of it; repeat for more. The value is read as YAML: 3, true, [9, 9, 9]",
    )
    parser.add_argument(
        "--input-shape",
        metavar="N,N,N,N",
        help="what model(x) takes without the batch, as 1,90,90,90",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the description and print its path."""
    from g3dvit.descriptions import save_description
    from g3dvit.init_description import describe_checkpoint
    from g3dvit.parsing import parse_arguments, parse_shape

    output = Path(arguments.output)
    first = describe_checkpoint(
        Path(arguments.checkpoint),
        arguments.factory,
        parse_arguments(arguments.argument),
        class_names=arguments.classes,
        preset=arguments.preset,
        input_shape=parse_shape(arguments.input_shape),
        input_axes=arguments.input_axes,
        vit_pytorch=arguments.vit_pytorch,
    )
    path = save_description(
        first.description, output, overwrite=arguments.overwrite, comments=first.comments()
    )
    print("\n".join(first.comments()[1:]).strip(), file=sys.stderr)
    print(path)
    return 0
