"""Write the first model description for a checkpoint: what its tensors tell, and what they do not.

The factory is called and the weights are tried in it, so that a description that comes out of
here loads. What no tensor tells (preparation, class names, training data, version) is left to the
user, and named in the comments of the file.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from g3dvit.descriptions import ModelDescription
from g3dvit.errors import G3DError, WeightsError
from g3dvit.models import build_model, import_factory
from g3dvit.patch_order import convert_patch_order, find_embeddings
from g3dvit.prepare import Preparation
from g3dvit.weights import guess_prefix, load_strictly, read_weights, take_prefix

#: Arguments by which a factory of vit-pytorch's 3D families is known.
_VIT_3D = {"image_size", "image_patch_size", "frames", "frame_patch_size"}


@dataclass(frozen=True, slots=True)
class FirstDescription:
    """A description, and what a user should read about it.

    Parameters
    ----------
    description
        Loads as it is.
    assumed
        What was guessed and may be wrong, in sentences.
    left
        What the file lacks, in sentences.
    """

    description: ModelDescription
    assumed: tuple[str, ...]
    left: tuple[str, ...]

    def comments(self) -> list[str]:
        """Return the lines that stand above the description in its file."""
        lines = ["Model description of G3D-ViT, begun by `g3dvit init`; read and complete it."]
        for title, sentences in (("Assumed", self.assumed), ("To complete", self.left)):
            if sentences:
                lines += ["", f"{title}:", *(f"- {sentence}" for sentence in sentences)]
        return lines


def describe_checkpoint(
    checkpoint: Path,
    factory: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    class_names: Sequence[str] = (),
    preset: str | None = None,
    input_shape: Sequence[int] | None = None,
    input_axes: str | None = None,
    vit_pytorch: str | None = None,
) -> FirstDescription:
    """Find out how a checkpoint goes into a network, and describe it.

    Parameters
    ----------
    checkpoint
        The weights.
    factory
        What builds the network, ``package.module:Class``.
    arguments
        Its arguments as far as known; those of a ``vit_3d`` are read from the tensors.
    class_names, input_shape, input_axes, vit_pytorch
        As in `g3dvit.descriptions.ModelDescription`.
    preset
        Name of a preparation.

    Raises
    ------
    WeightsError
        If the weights do not fit the network under any prefix; the keys are listed.
    DescriptionError
        If the factory cannot be called like this.
    """
    state = read_weights(checkpoint)
    assumed: list[str] = []
    given = dict(arguments or {})
    known = _parameters(import_factory(factory))
    if known >= _VIT_3D:
        found, assumed = vit_3d_arguments(state, given)
        given = {key: value for key, value in found.items() if key in known} | given
    model = build_model(factory, given)
    prefix = guess_prefix(model, state)
    _try_weights(model, state, prefix or "", vit_pytorch)
    shape = tuple(input_shape) if input_shape else _input_shape(given)
    outputs = None if shape is None else _count_outputs(model, shape)
    if shape is not None and outputs is None and input_shape is None:
        shape = None
    axes = input_axes or ("b i j k" if shape is not None and len(shape) == 3 else "b 1 i j k")
    if shape is not None and len(shape) == 4 and input_axes is None:
        axes = f"b {shape[0]} i j k"
    description = ModelDescription(
        factory=factory,
        arguments=given,
        weights=checkpoint,
        key_prefix=prefix or "",
        preparation=None if preset is None else Preparation.preset(preset),
        class_names=tuple(class_names),
        input_axes=axes,
        input_shape=shape,
        vit_pytorch=vit_pytorch,
    )
    if input_axes is None:
        assumed.append(
            f"`input_axes: {axes}`: volumes (i, j, k) go in in their own order. If your code "
            "permuted them before the network, write its order here"
        )
    return FirstDescription(description, tuple(assumed), _left(description, model, outputs))


def _parameters(factory: Any) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return set()


def _try_weights(
    model: nn.Module, state: Mapping[str, Tensor], prefix: str, vit_pytorch: str | None
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keys outside the prefix and the version: see `_left`
        inside = take_prefix(state, prefix)
        try:
            load_strictly(model, convert_patch_order(model, inside, vit_pytorch))
        except WeightsError as error:
            raise WeightsError(
                f"{error}. Give the arguments that the network was built with: "
                "--argument name=value, as often as needed"
            ) from error


def _count_outputs(model: nn.Module, shape: Sequence[int]) -> int | None:
    from g3dvit.capture import first_output, guest

    try:
        with guest(model) as network, torch.no_grad():
            return int(first_output(network(torch.zeros(1, *shape))).shape[1])
    except (G3DError, RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None


def _left(description: ModelDescription, model: nn.Module, outputs: int | None) -> tuple[str, ...]:
    left = []
    if description.preparation is None:
        left.append(
            "`preparation`: the steps from an image to what the model was trained on, such as "
            "{preset: MNI152NLin6Asym_2mm_90}. Without it volumes go in as they are stored"
        )
    if not description.class_names:
        example = ", ".join(f"name-{n}" for n in range(outputs or 2))
        left.append(f"`class_names`: in the order of the outputs, such as [{example}]")
    if description.input_shape is None:
        left.append("`input_shape`: what model(x) takes without the batch, such as [1, 90, 90, 90]")
    left.append("`trained_on`: subjects or runs seen in training, such as [sub-01, sub-02]")
    if description.vit_pytorch is None and any(e.matters for e in find_embeddings(model)):
        left.append(
            "`vit_pytorch`: the version it was trained with, in quotes. Before 1.16.2 the voxels "
            "of a patch had another order; older weights load silently and are wrong unless "
            "declared, such as '1.10.1'"
        )
    left.append(
        "then prove it: g3dvit check IMAGE --model THIS_FILE --expect logits_of_your_pipeline.npy"
    )
    return tuple(left)


def _input_shape(arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Read the input's shape from arguments that name it (vit-pytorch, MONAI)."""
    if arguments.keys() >= {"image_size", "frames"}:
        size = arguments["image_size"]
        height, width = size if isinstance(size, Sequence) else (size, size)
        return (int(arguments.get("channels", 3)), int(arguments["frames"]), height, width)
    if "img_size" in arguments:
        size = arguments["img_size"]
        sizes = tuple(size) if isinstance(size, Sequence) else (size,) * 3
        return (int(arguments.get("in_channels", 1)), *sizes)
    return None


def vit_3d_arguments(
    state: Mapping[str, Tensor], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Read the arguments of a ``vit_3d`` or ``simple_vit_3d`` from the shapes of its tensors.

    Parameters
    ----------
    state
        The weights, under any prefix.
    given
        Arguments that are known; they are not guessed.

    Returns
    -------
    dict
        Arguments as far as shapes tell.
    list of str
        What was assumed in reading them.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items() if hasattr(value, "shape")}

    def shape(ending: str) -> tuple[int, ...] | None:
        fitting = [s for key, s in shapes.items() if key == ending or key.endswith(f".{ending}")]
        return fitting[0] if fitting else None

    found: dict[str, Any] = {}
    assumed: list[str] = []
    projection = shape("to_patch_embedding.2.weight")
    if projection is None:
        return found, assumed
    found["dim"], patch_dim = projection
    found["depth"] = sum(key.endswith(".0.norm.weight") for key in shapes)
    hidden, qkv = shape("0.1.net.1.weight"), shape("0.0.to_qkv.weight")
    if hidden is not None:
        found["mlp_dim"] = hidden[0]
    if qkv is not None:
        _heads(qkv[0] // 3, given, found, assumed)
    head = shape("mlp_head.1.weight") or shape("linear_head.weight") or shape("mlp_head.weight")
    if head is not None:
        found["num_classes"] = head[0]
    position = shape("pos_embedding")
    if position is not None:
        assumed.append("`pool: cls`, the default; nothing in the weights tells it from `mean`")
        found["pool"] = "cls"
        if not _VIT_3D & given.keys():
            _cubes(patch_dim, position[1] - 1, given, found, assumed)
    return found, assumed if found else []


def _heads(inner: int, given: Mapping[str, Any], found: dict[str, Any], assumed: list[str]) -> None:
    if "heads" in given:
        found["dim_head"] = inner // int(given["heads"])
    elif inner % int(given.get("dim_head", 64)) == 0:
        found["dim_head"] = int(given.get("dim_head", 64))
        found["heads"] = inner // found["dim_head"]
        if "dim_head" not in given:
            assumed.append(
                f"`heads: {found['heads']}` of `dim_head: 64`, the default; only their product "
                "can be read from the weights"
            )


def _cubes(
    patch_dim: int,
    patches: int,
    given: Mapping[str, Any],
    found: dict[str, Any],
    assumed: list[str],
) -> None:
    """Read sizes, on the assumption that patches and volume are cubes."""
    grid = round(patches ** (1 / 3))
    for channels in [int(given["channels"])] if "channels" in given else [1, 2, 3, 4]:
        edge = round((patch_dim / channels) ** (1 / 3))
        if edge**3 * channels == patch_dim and grid**3 == patches:
            found |= {
                "image_size": grid * edge, "image_patch_size": edge, "frames": grid * edge,
                "frame_patch_size": edge, "channels": channels,
            }  # fmt: skip
            assumed.append(
                f"cubic volumes of {grid * edge} voxels in patches of {edge}, {channels} channel(s)"
            )
            return
