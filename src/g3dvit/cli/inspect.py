"""Show what a model's tokens and layers are, found by probing it.

Prints the patch grid, prefix and suffix tokens, the pooling, every normalisation layer that sees
tokens with what the class value's gradient carries there, and the layer that "last normalisation
layer" means for this model. Nothing is assumed from class names.
"""

from __future__ import annotations

import argparse

from g3dvit.cli.init import add_factory_arguments

NAME = "inspect"
HELP = "what a model's tokens and layers are, found by probing"
EPILOG = """\
examples:
  g3dvit inspect model.yaml
  g3dvit inspect --factory my_package.models:BrainViT --argument dim=256 --input-shape 1,90,90,90
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit inspect``."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model description")
    add_factory_arguments(parser, required=False)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from g3dvit.errors import InputError
    from g3dvit.models import build_model, load_model, resolve_device
    from g3dvit.parsing import parse_arguments, parse_shape
    from g3dvit.probe import probe_geometry

    shape = parse_shape(arguments.input_shape)
    if (arguments.model is None) == (arguments.factory is None):
        raise InputError("give a model description, or --factory with --input-shape, and not both")
    if arguments.model is not None:
        if arguments.argument:
            raise InputError("--argument belongs to --factory; a description has its own arguments")
        model = load_model(arguments.model, device=arguments.device)
    else:
        model = build_model(arguments.factory, parse_arguments(arguments.argument))
        model.to(resolve_device(arguments.device))
    print(probe_geometry(model, shape))
    return 0
