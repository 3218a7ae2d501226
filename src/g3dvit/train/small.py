"""Arguments of the model to train: a small `vit_pytorch.vit_3d` unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g3dvit.errors import InputError

#: The default factory, and what tells it everything.
SMALL = "vit_pytorch.vit_3d:ViT"
_COMPLETE = frozenset(
    {"image_size", "frames", "image_patch_size", "frame_patch_size"}
    | {"num_classes", "dim", "depth", "heads", "mlp_dim"}
)


def arguments_of(
    factory: str,
    arguments: Mapping[str, Any] | None,
    shape: Sequence[int],
    n_classes: int,
    patch_size: int | None,
) -> dict[str, Any]:
    """Return the arguments of a factory; those given change the small default.

    Parameters
    ----------
    factory, arguments
        What builds the model, and what was told about it.
    shape, n_classes, patch_size
        As for `small_vit`.

    Raises
    ------
    InputError
        If there are none for a factory that needs them, or no patch size divides the grid.
    """
    own = dict(arguments or {})
    if arguments is not None and (factory != SMALL or set(own) >= _COMPLETE):
        return own
    if {"image_patch_size", "frame_patch_size"} <= set(own):
        patch_size = 1  # theirs count
    return {**small_vit(factory, shape, n_classes, patch_size), **own}


def small_vit(
    factory: str, shape: Sequence[int], n_classes: int, patch_size: int | None
) -> dict[str, Any]:
    """Return the arguments of a small `vit_pytorch.vit_3d` for a grid.

    Parameters
    ----------
    factory
        Must be the default one: other factories need their own arguments.
    shape : (i, j, k)
        Of the prepared grid.
    n_classes
        Outputs.
    patch_size
        Voxels per edge; by default the largest up to 15 that divides the grid.

    Raises
    ------
    InputError
        If the factory is another one, or no patch size divides the grid.
    """
    if factory != SMALL:
        raise InputError(f"{factory} needs its arguments: --argument NAME=VALUE ...")
    fits = [p for p in range(15, 2, -1) if not any(n % p for n in shape)]
    if patch_size is None and fits:
        patch_size = fits[0]
    if patch_size is None or patch_size < 1 or any(n % patch_size for n in shape):
        raise InputError(
            f"a patch of {patch_size} voxels does not divide the prepared grid {tuple(shape)}; "
            + (f"choose one of {fits}" if fits else "crop or pad it in the preparation")
        )
    frames, rows, columns = (int(n) for n in shape)
    return {
        "frames": frames,
        "image_size": [rows, columns],
        "frame_patch_size": patch_size,
        "image_patch_size": patch_size,
        "channels": 1,
        "num_classes": n_classes,
        "dim": 64,
        "depth": 2,
        "heads": 4,
        "dim_head": 16,
        "mlp_dim": 128,
        "dropout": 0.1,
        "emb_dropout": 0.1,
        "pool": "cls",
    }
