"""The training loop: AdamW, warm-up and cosine, label smoothing, a fixed number of epochs.

The number of epochs is fixed beforehand: stopping early on held-out volumes would use them
twice. Nothing is drawn from the global generators; the same seed, data and number of threads
give the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from g3dvit.capture import first_output
from g3dvit.errors import InputError, ModelError
from g3dvit.train.samples import Samples

ToInput = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Fitting:
    """How a model is trained.

    Parameters
    ----------
    epochs, batch_size, learning_rate, weight_decay, label_smoothing
        As everywhere.
    warm_up
        Share of the steps in which the learning rate rises; it then falls as a cosine.
    shift_voxels
        Every batch is shifted by up to so many voxels along each axis; 0 for none.
    hidden_share, hidden_edge_voxels
        In training every volume has this share of its cubes of so many voxels set to 0, chosen
        anew each time, so that no single place is relied on; 0 for none.
    embedding_scale, embedding_decay
        The weights of the patch embedding are scaled by this before training and decay by this
        (with `weight_decay` where None). Random weights that training never had a reason to
        change are noise in every voxel map.
    clip_norm
        Largest norm of the gradient.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warm_up: float = 0.15
    shift_voxels: int = 0
    hidden_share: float = 0.0
    hidden_edge_voxels: int = 15
    embedding_scale: float = 1.0
    embedding_decay: float | None = None
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise InputError(f"epochs, batch size and learning rate are above 0: {self}")
        if self.weight_decay < 0 or self.shift_voxels < 0 or self.clip_norm <= 0:
            raise InputError(f"weight decay and shift are at least 0, the norm above 0: {self}")
        shares = (self.label_smoothing, self.warm_up, self.hidden_share)
        if not all(0 <= share < 1 for share in shares) or self.hidden_edge_voxels < 1:
            raise InputError(
                f"label smoothing, warm-up and hidden share lie in 0 to 1, the edge is 1 or more: "
                f"{self}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What the loop reports: mean loss and accuracy of every epoch, on the training volumes."""

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]


def fit_model(
    model: nn.Module,
    samples: Samples,
    train: NDArray[np.intp],
    to_input: ToInput,
    fitting: Fitting,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Fit:
    """Train a model in place.

    Parameters
    ----------
    model
        Returns (batch, classes), or a tuple that begins with it. Left in evaluation mode.
    samples, train
        The volumes, and which of them to use.
    to_input
        Turns (batch, i, j, k) volumes into the model's input.
    fitting
        How.
    seed
        Of the order, the shifts and dropout.
    device
        Where to compute.
    progress
        Called after every batch with the volumes passed so far, over all epochs, and the mean
        loss of this epoch.

    Raises
    ------
    ModelError
        If the model's output does not fit the classes, or the loss is not finite.
    """
    rng = np.random.default_rng(seed)
    model.to(device).train()
    counts = np.bincount(samples.label[train], minlength=len(samples.class_names))
    weight = torch.tensor(len(train) / (counts.size * counts), dtype=torch.float32, device=device)
    loss_of = nn.CrossEntropyLoss(weight=weight, label_smoothing=fitting.label_smoothing)
    optimiser = torch.optim.AdamW(_groups(model, to_input, samples, fitting), fitting.learning_rate)
    n_batches = math.ceil(len(train) / fitting.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _rate(step / (fitting.epochs * n_batches), fitting.warm_up)
    )
    buffer = np.empty((min(fitting.batch_size, len(train)), *samples.grid.shape), np.float32)
    losses: list[float] = []
    accuracies: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(fitting.epochs):
            total, correct, done = 0.0, 0, 0
            order = rng.permutation(train)
            for start in range(0, len(order), fitting.batch_size):
                chosen = order[start : start + fitting.batch_size]
                volumes = _shift(samples.fill(chosen, buffer), fitting.shift_voxels, rng)
                volumes = _hide(volumes, fitting.hidden_share, fitting.hidden_edge_voxels, rng)
                labels = torch.from_numpy(samples.label[chosen]).to(device)
                logits = _logits(model, to_input(volumes), samples, device)
                loss = loss_of(logits, labels)
                if not torch.isfinite(loss):
                    raise ModelError(
                        "the loss is not finite; lower the learning rate, or standardise the "
                        "volumes in the preparation"
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), fitting.clip_norm)
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
                correct += int((logits.argmax(dim=1) == labels).sum())
                done += len(chosen)
                if progress is not None:
                    progress(len(losses) * len(train) + done, total / done)
            losses.append(total / done)
            accuracies.append(correct / done)
    model.zero_grad(set_to_none=True)
    model.eval()
    return Fit(tuple(losses), tuple(accuracies))


def predict(
    model: nn.Module,
    samples: Samples,
    which: NDArray[np.intp],
    to_input: ToInput,
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Return the logits of chosen volumes, (n, classes), in evaluation mode."""
    model.to(device).eval()
    buffer = np.empty((min(batch_size, max(1, len(which))), *samples.grid.shape), np.float32)
    parts = [np.zeros((0, len(samples.class_names)), np.float32)]
    with torch.no_grad():
        for start in range(0, len(which), batch_size):
            volumes = samples.fill(which[start : start + batch_size], buffer)
            parts.append(_logits(model, to_input(volumes), samples, device).cpu().numpy())
    return np.concatenate(parts)


def _logits(
    model: nn.Module, x: NDArray[np.float32], samples: Samples, device: torch.device | str
) -> torch.Tensor:
    inputs = torch.from_numpy(np.ascontiguousarray(x)).to(device)
    logits = first_output(model(inputs)).float()
    n_classes = len(samples.class_names)
    if logits.ndim != 2 or logits.shape[1] != n_classes:
        raise ModelError(
            f"the model returns {tuple(logits.shape)} for {len(inputs)} volumes; training on "
            f"{n_classes} classes needs ({len(inputs)}, {n_classes}): set its number of classes"
        )
    return logits


def _groups(
    model: nn.Module, to_input: ToInput, samples: Samples, fitting: Fitting
) -> list[dict[str, object]]:
    """Return the optimiser's groups of parameters; scales the patch embedding where asked."""
    embedding = _patch_embedding(model)
    if embedding is None and (fitting.embedding_scale != 1 or fitting.embedding_decay is not None):
        raise ModelError(
            "the model's patch embedding was not found (a linear layer or convolution that comes "
            "first); leave embedding_scale and embedding_decay as they are"
        )
    if embedding is not None and fitting.embedding_scale != 1:
        with torch.no_grad():
            embedding.mul_(fitting.embedding_scale)
    decay = fitting.weight_decay if fitting.embedding_decay is None else fitting.embedding_decay
    others = [p for p in model.parameters() if p is not embedding]
    groups: list[dict[str, object]] = [{"params": others, "weight_decay": fitting.weight_decay}]
    if embedding is not None:
        groups.append({"params": [embedding], "weight_decay": decay})
    return groups


def _patch_embedding(model: nn.Module) -> nn.Parameter | None:
    """Return the weight of the first linear layer or convolution, which sees the voxels."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d | nn.Conv2d):
            weight = module.weight
            return weight if isinstance(weight, nn.Parameter) else None
    return None


def _rate(done: float, warm_up: float) -> float:
    """Return the learning rate relative to its largest, from the share of steps done."""
    if done < warm_up:
        return 0.04 + 0.96 * done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _shift(
    volumes: NDArray[np.float32], most: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Shift a batch by whole voxels; what comes in at the border is the border's own value."""
    if not most:
        return volumes
    steps = rng.integers(-most, most + 1, 3)
    for axis, step in enumerate(steps, start=1):
        size = volumes.shape[axis]
        volumes = np.take(volumes, np.clip(np.arange(size) - step, 0, size - 1), axis=axis)
    return volumes


def _hide(
    volumes: NDArray[np.float32], share: float, edge: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Set a random share of the cubes of every volume to 0, in place."""
    if not share:
        return volumes
    n, *shape = volumes.shape
    hidden = rng.random((n, *(-(-size // edge) for size in shape))) < share
    for volume, i, j, k in np.argwhere(hidden) * (1, edge, edge, edge):
        volumes[volume, i : i + edge, j : j + edge, k : k + edge] = 0
    return volumes
