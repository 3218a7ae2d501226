"""The models of the benchmark: small 3D ViTs, trained once and kept by the hash of their recipe.

A `ModelRecipe` says everything that decides the weights: the phantom, the architecture, how it is
trained, and the seed. `trained_model` gives the model from the cache, goes on where an interrupted
training stopped, or trains from the start.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from g3dvit.benchmark.vit3d import embed, logits_of
from g3dvit.errors import InputError, ModelError
from g3dvit.folders import write_whole
from g3dvit.phantoms import PhantomVolumes, Recipe, recipe_hash
from g3dvit.plain import to_json

#: Called with the number of epochs done, of all, and the accuracy on the training volumes.
TrainProgress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """Everything that decides the weights of a model.

    Parameters
    ----------
    phantom
        What it is trained on.
    pooling
        ``"cls"`` or ``"mean"``.
    patch_norm
        False takes the normalisation of single patches out of the patch embedding.
    labels
        ``"true"``; ``"permuted"``, a model that learned nothing that is there; or
        ``"untrained"``, random weights.
    patch_size, dim, depth, heads, dim_head, mlp_dim
        Of ``vit_pytorch.vit_3d``.
    n_train, epochs, batch_size, learning_rate, weight_decay
        Of the training: AdamW, warm-up and cosine.
    seed
        Of the training volumes, the weights and the order.
    """

    phantom: Any
    pooling: Literal["cls", "mean"] = "cls"
    patch_norm: bool = True
    labels: Literal["true", "permuted", "untrained"] = "true"
    patch_size: int = 5
    dim: int = 128
    depth: int = 4
    heads: int = 4
    dim_head: int = 32
    mlp_dim: int = 256
    n_train: int = 2500
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pooling not in ("cls", "mean"):
            raise InputError(f"`pooling` is cls or mean, was given {self.pooling!r}")
        if self.labels not in ("true", "permuted", "untrained"):
            raise InputError(f"`labels` is true, permuted or untrained, was given {self.labels!r}")

    @property
    def hash(self) -> str:
        """16 hexadecimal digits; another recipe has others."""
        return recipe_hash(self.phantom, self)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A model of the benchmark.

    Parameters
    ----------
    model
        In evaluation mode.
    recipe
        What it is.
    training_accuracy
        On the training volumes in the last epoch; NaN for random weights.
    """

    model: nn.Module = field(repr=False)
    recipe: ModelRecipe
    training_accuracy: float


def default_cache() -> Path:
    """Return where trained models are kept: ``G3DVIT_CACHE``, or ``~/.cache/g3dvit``."""
    named = os.environ.get("G3DVIT_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "g3dvit"


def build_model(recipe: ModelRecipe) -> nn.Module:
    """Return the model with random weights; the global generator is left alone.

    Raises
    ------
    InputError
        If vit_pytorch is not installed.
    """
    try:
        from vit_pytorch.vit_3d import ViT
    except ImportError as error:
        raise InputError(
            "the benchmark trains vit_pytorch models; install them with: pip install g3dvit[demo]"
        ) from error
    shape = recipe.phantom.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: nn.Module = ViT(
            frames=shape[0],
            image_size=(shape[1], shape[2]),
            frame_patch_size=recipe.patch_size,
            image_patch_size=recipe.patch_size,
            num_classes=len(recipe.phantom.class_names),
            channels=1,
            dim=recipe.dim,
            depth=recipe.depth,
            heads=recipe.heads,
            dim_head=recipe.dim_head,
            mlp_dim=recipe.mlp_dim,
            pool=recipe.pooling,
        )
    if not recipe.patch_norm:
        embedding: Any = model.to_patch_embedding
        first = next(n for n, m in enumerate(embedding) if isinstance(m, nn.LayerNorm))
        embedding[first] = nn.Identity()
    return model.eval()


def is_trained(recipe: ModelRecipe, cache: Path | None = None) -> bool:
    """Tell whether `trained_model` would give the model without training it."""
    return recipe.labels == "untrained" or all(path.exists() for path in _files(recipe, cache)[:2])


def _files(recipe: ModelRecipe, cache: Path | None) -> tuple[Path, Path, Path]:
    """Return where weights, what is known of them, and an unfinished training are kept."""
    folder = (default_cache() if cache is None else cache) / "phantom-models"
    weights, about, partial = (
        folder / f"{recipe.hash}{end}" for end in (".safetensors", ".json", ".partial")
    )
    return weights, about, partial


def trained_model(
    recipe: ModelRecipe,
    cache: Path | None = None,
    *,
    progress: TrainProgress | None = None,
) -> TrainedModel:
    """Return a model from the cache, or train it.

    Parameters
    ----------
    recipe
        What it is.
    cache
        Folder; `default_cache()` if left out.
    progress
        Called after each epoch.

    Raises
    ------
    ModelError
        If the loss is not finite.
    """
    from safetensors.torch import load_file, save_file

    model = build_model(recipe)
    if recipe.labels == "untrained":
        return TrainedModel(model, recipe, float("nan"))
    weights, about, checkpoint = _files(recipe, cache)
    if is_trained(recipe, cache):
        model.load_state_dict(load_file(weights))
        known = json.loads(about.read_text())
        return TrainedModel(model, recipe, float(known["training_accuracy"]))
    accuracy = _train(model, recipe, checkpoint, progress)
    write_whole(weights, lambda path: save_file(model.state_dict(), path))
    text = to_json({"training_accuracy": accuracy, "recipe": recipe})
    write_whole(about, lambda path: path.write_text(text))
    checkpoint.unlink(missing_ok=True)
    return TrainedModel(model, recipe, accuracy)


def _train(
    model: nn.Module, recipe: ModelRecipe, checkpoint: Path, progress: TrainProgress | None
) -> float:
    phantom: Recipe = recipe.phantom
    drawn = phantom.draw(recipe.n_train, "train", recipe.seed)
    labels = drawn.labels
    if recipe.labels == "permuted":
        labels = np.random.default_rng([recipe.seed, 1]).permutation(labels)
    optimiser = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * math.ceil(recipe.n_train / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / steps))
    first, accuracy = 0, float("nan")
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first, accuracy = int(state["epoch"]), float(state["accuracy"])
    model.train()
    for epoch in range(first, recipe.epochs):
        # A generator of its own for each epoch, so that a resumed training is the same training.
        order = np.random.default_rng([recipe.seed, 2, epoch]).permutation(recipe.n_train)
        accuracy = _epoch(model, drawn, labels, order, recipe.batch_size, optimiser, schedule)
        state = {
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
            "accuracy": accuracy,
        }
        write_whole(checkpoint, lambda path, state=state: torch.save(state, path))  # type: ignore[misc]
        if progress is not None:
            progress(epoch + 1, recipe.epochs, accuracy)
    model.eval().zero_grad(set_to_none=True)
    return accuracy


def _epoch(
    model: nn.Module,
    drawn: PhantomVolumes,
    labels: NDArray[np.intp],
    order: NDArray[np.intp],
    batch_size: int,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Train one epoch and return the accuracy on its volumes."""
    correct = 0
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        truth = torch.from_numpy(labels[some])
        logits: Tensor = logits_of(
            model, embed(model, torch.from_numpy(drawn.volumes[some])[:, None])
        )
        loss = nn.functional.cross_entropy(logits, truth)
        if not torch.isfinite(loss):
            raise ModelError("the loss is not finite; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        correct += int((logits.argmax(dim=1) == truth).sum())
    return correct / len(order)


def _rate(done: float, warm_up: float = 0.1) -> float:
    """Return the learning rate's factor when a share of the training is done."""
    if done < warm_up:
        return (done + 1e-3) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm_up) / (1 - warm_up))))
