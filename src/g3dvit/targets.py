"""What is explained: which class, and which score of it.

Terms: the *target* is a class or a contrast of two, chosen for each volume; the *score* is the
scalar of that target whose gradient is taken. At a given input each score is a weighted sum of
the model's outputs and a constant, its tangent, so that one forward pass serves all of them:

``logit``
    ``y = z_c``.
``log_odds``
    ``y = z_c - logsumexp_{j != c} z_j``; with two classes ``z_c - z_other``. Softmax ignores what
    is added to all class values alike, and so does this score.

``probability``
    ``y = softmax(z)_c``, for one output ``sigmoid``; a contrast is ``p_a - p_b``. Near 0 and 1 its
    gradient vanishes.
a function
    Of the outputs (batch, outputs), giving (batch,): for regression, or any other question. It
    chooses for itself what it explains; there is no target.

A contrast (a, b) is ``z_a - z_b`` under the first two. A model with one output z (sigmoid) has two
classes, of values +z (class 1) and -z (class 0); z is the log-odds of class 1 already, so under
``log_odds`` its contrast (1, 0) is z, under ``logit`` the difference 2 z.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.errors import TargetError

NamedScore = Literal["logit", "log_odds", "probability"]
ScoreFunction = Callable[[Tensor], Tensor]
Score = NamedScore | ScoreFunction
SCORES: tuple[NamedScore, ...] = get_args(NamedScore)
Contrast = tuple[int, int]
#: A class, a contrast, or ``"score"`` where the score is a function and needs no target.
Chosen = int | Contrast | Literal["score"]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of a batch as weighted sums of the model's outputs.

    Parameters
    ----------
    weights : (batch, targets, outputs)
        ``scores = sum_k weights_k * z_k + offsets``.
    offsets : (batch, targets)
        Constant at this input.
    values : (batch, targets)
        The scores.
    """

    weights: Float[Tensor, "batch targets outputs"] = field(repr=False)
    offsets: Float[Tensor, "batch targets"] = field(repr=False)
    values: Float[Tensor, "batch targets"]


def resolve_score(score: str | ScoreFunction | None, methods: Sequence[str]) -> Score:
    """Return the score that is meant.

    Parameters
    ----------
    score
        ``"logit"``, ``"log_odds"``, ``"probability"``, a function of the outputs, or None: the
        logit for token Grad-CAM alone, log-odds as soon as another method is asked for.
    methods
        The methods asked for.

    Raises
    ------
    TargetError
        If there is no such score.
    """
    if score is None:
        return "logit" if set(methods) == {"token_gradcam"} else "log_odds"
    if not isinstance(score, str) and callable(score):
        return score
    if score not in SCORES:
        raise TargetError(
            f"there is no score {score!r}; choose from {', '.join(SCORES)}, or give a function of "
            "the outputs"
        )
    return score


def score_name(score: Score) -> str:
    """Return the name under which a score is recorded."""
    if isinstance(score, str):
        return score
    return str(getattr(score, "__name__", type(score).__name__))


def refuse_target_of_function(score: Score, target: Any) -> None:
    """Refuse a target beside a score that is a function.

    Raises
    ------
    TargetError
        If `target` is not at its default.
    """
    default = isinstance(target, str) and target == "predicted"
    if not isinstance(score, str) and not default:
        raise TargetError(
            f"the score {score_name(score)!r} is a function of all outputs and has no target; it "
            f"was given target={target!r}. Leave `target` out, or choose it inside the function"
        )


def refuse_one_sigmoid(score: Score, one_sigmoid: bool) -> None:  # noqa: FBT001 - of a geometry
    """Refuse named scores of a model whose one value has gone through a sigmoid.

    Parameters
    ----------
    score
        From `resolve_score`.
    one_sigmoid
        As `Geometry.one_sigmoid`.

    Raises
    ------
    TargetError
        If the classes of such a model are asked for.
    """
    if one_sigmoid and isinstance(score, str):
        raise TargetError(
            "the model's one value goes through a sigmoid at its end. With one value the class is "
            "decided at 0, and a sigmoid is never below: every volume would be called the second "
            "class. Let the model return the value before the sigmoid (the logit), or explain a "
            "function of the outputs, score=lambda y: y[:, 0]"
        )


def split_targets(target: Any, num_outputs: int) -> tuple[tuple[Any, ...], bool]:
    """Return the single targets of a request, and whether several were asked for.

    A list, range or array means several; a tuple of two is a contrast; ``"all"`` is every class.

    Examples
    --------
    >>> split_targets("all", 3)
    ((0, 1, 2), True)
    >>> split_targets((1, 0), 2)
    (((1, 0),), False)
    """
    if isinstance(target, str) and target == "all":
        return tuple(range(num_classes(num_outputs))), True
    if isinstance(target, (np.ndarray, Tensor)) and target.ndim == 1:
        target = target.tolist()
    if isinstance(target, (list, range)):
        if not target:
            raise TargetError("`target` is an empty list; name at least one class")
        return tuple(target), True
    return (target,), False


def num_classes(num_outputs: int) -> int:
    """Return how many classes a model has: one output stands for two."""
    return max(2, num_outputs)


def choose(
    targets: Sequence[Any],
    logits: Float[Tensor, "batch outputs"],
    class_names: Sequence[str] = (),
    labels: Sequence[Any] | None = None,
) -> tuple[tuple[Chosen, ...], ...]:
    """Return for each volume the class or contrast that each target means.

    Parameters
    ----------
    targets
        Each a class index or name, ``"predicted"``, ``"label"``, or a contrast (a, b).
    logits : (batch, outputs)
        The model's outputs.
    class_names
        In the order of the outputs.
    labels : (batch,)
        Class index or name of each volume, None where it has none.

    Raises
    ------
    TargetError
        If the model has no such class, or a label is needed and absent.
    """
    classes = num_classes(logits.shape[1])
    columns: list[list[Chosen]] = []
    for target in targets:
        if isinstance(target, str) and target == "predicted":
            columns.append(list(predicted(logits)))
        elif isinstance(target, str) and target == "label":
            columns.append(_from_labels(labels, len(logits), classes, class_names))
        else:
            columns.append([_one(target, classes, class_names)] * len(logits))
    return tuple(zip(*columns, strict=True))


def predicted(logits: Float[Tensor, "batch outputs"]) -> tuple[int, ...]:
    """Return the class of the largest value of each volume; with one output, 1 where z > 0."""
    if logits.shape[1] == 1:
        return tuple(int(z > 0) for z in logits[:, 0].tolist())
    return tuple(int(c) for c in logits.argmax(dim=1).tolist())


def _from_labels(
    labels: Sequence[Any] | None, batch: int, classes: int, names: Sequence[str]
) -> list[Chosen]:
    if labels is None:
        raise TargetError('target="label" needs `labels`, one class per volume')
    if len(labels) != batch:
        raise TargetError(f"{len(labels)} `labels` were given for {batch} volumes")
    missing = [n for n, label in enumerate(labels) if label is None]
    if missing:
        raise TargetError(
            f'target="label" needs a label for every volume; {len(missing)} have none, the first '
            f"is volume {missing[0]}"
        )
    return [_class(label, classes, names) for label in labels]


def _one(target: Any, classes: int, names: Sequence[str]) -> Chosen:
    if isinstance(target, tuple):
        if len(target) != 2:
            raise TargetError(
                f"a contrast is two classes (a, b), was given {target!r}; several targets are a "
                "list"
            )
        a, b = (_class(part, classes, names) for part in target)
        if a == b:
            raise TargetError(f"a contrast needs two different classes, was given {target!r}")
        return a, b
    return _class(target, classes, names)


def _class(value: Any, classes: int, names: Sequence[str]) -> int:
    allowed = f"classes 0 to {classes - 1}" + (f" ({', '.join(names)})" if names else "")
    if isinstance(value, str):
        if value in names:
            return list(names).index(value)
        raise TargetError(
            f"there is no class {value!r}; this model has {allowed}. Also allowed: "
            '"predicted", "label", "all", a contrast (a, b), or a list of these'
        )
    try:
        index = operator.index(value)
    except TypeError:
        index = -1
    if isinstance(value, bool) or not 0 <= index < classes:
        raise TargetError(f"there is no class {value!r}; this model has {allowed}")
    return index


def score_batch(
    chosen: Sequence[Sequence[Chosen]], logits: Float[Tensor, "batch outputs"], score: Score
) -> Scores:
    """Return the scores of a batch as weighted sums of its outputs.

    Parameters
    ----------
    chosen : (batch, targets)
        The class or contrast of each volume and target.
    logits : (batch, outputs)
        The model's outputs.
    score
        Which score of them.
    """
    z = logits.detach()
    z = z if z.dtype == torch.float64 else z.float()
    if not isinstance(score, str):
        return _from_function(score, z)
    count = len(chosen[0])
    weights = z.new_zeros((*z.shape[:1], count, z.shape[1]))
    offsets = z.new_zeros((len(z), count))
    for volume, row in enumerate(chosen):
        for number, target in enumerate(row):
            _fill(weights[volume, number], offsets[volume], number, target, z[volume], score)
    values = (weights * z[:, None]).sum(-1) + offsets
    return Scores(weights, offsets, values)


def _from_function(score: ScoreFunction, z: Tensor) -> Scores:
    """Return the tangent of a user's score at these outputs."""
    name = score_name(score)
    leaf = z.clone().requires_grad_()
    with torch.enable_grad():
        values = score(leaf)
        total = values.sum() if isinstance(values, Tensor) else None
    if not isinstance(values, Tensor) or values.shape != z.shape[:1]:
        given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise TargetError(
            f"the score {name!r} must give one number per volume, ({len(z)},), for outputs "
            f"{tuple(z.shape)}; it gave {given}"
        )
    if total is None or not total.requires_grad:
        raise TargetError(
            f"the score {name!r} does not depend on the outputs; compute it with torch functions, "
            "without detach, item or numpy"
        )
    (weights,) = torch.autograd.grad(total, leaf)
    values = values.detach().to(z)
    if not bool(torch.isfinite(weights).all() and torch.isfinite(values).all()):
        raise TargetError(f"the score {name!r} or its gradient is not finite for these outputs")
    offsets = values - (weights * z).sum(1)
    return Scores(weights[:, None], offsets[:, None], values[:, None])


def _fill(
    weights: Tensor, offsets: Tensor, number: int, target: Chosen, z: Tensor, score: NamedScore
) -> None:
    """Write the weights and the constant of one score."""
    if isinstance(target, str):
        raise TargetError("this target belongs to a score that is a function")
    if score == "probability":
        classes = torch.cat([-z, z]) / 2 if len(z) == 1 else z  # sigmoid is a softmax of these
        p = classes.softmax(0)
        sides = target if isinstance(target, tuple) else (target,)
        slope = torch.zeros_like(p)
        for side, sign in zip(sides, (1.0, -1.0), strict=False):
            slope -= sign * p[side] * p
            slope[side] += sign * p[side]
            offsets[number] += sign * p[side]
        weights.copy_((slope[1:] - slope[:1]) / 2 if len(z) == 1 else slope)
        offsets[number] -= (weights * z).sum()
    elif len(z) == 1:
        if isinstance(target, tuple):
            sign = 1 if target[0] == 1 else -1
            weights[0] = sign * (2 if score == "logit" else 1)
        else:
            weights[0] = 1 if target == 1 else -1
    elif isinstance(target, tuple):
        weights[target[0]], weights[target[1]] = 1, -1
    else:
        if score == "log_odds":
            others = [k for k in range(len(z)) if k != target]
            share = z[others].softmax(0)
            weights[others] = -share
            # logsumexp = sum(share * z) + entropy: the entropy is what no output adds linearly.
            offsets[number] = torch.xlogy(share, share).sum()
        weights[target] = 1
