"""What explaining gives: a value per method, with relevance in the input's own order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.diagnose import Check
from g3dvit.methods import Method
from g3dvit.shows_itself import ShowsItself
from g3dvit.targets import ScoreFunction


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """Arguments that only some methods take, at their defaults or as given.

    Parameters
    ----------
    references : (references, *input_shape)
        Real volumes that stand for "nothing to see".
    samples
        Passes of a method that averages; None is the method's own number.
    noise
        Standard deviation of added noise, in standard deviations of the voxels that are not 0.
    seed
        Of everything that is drawn.
    gamma
        Of the gamma rule: how much more contributions of a unit's own sign count; None is the
        method's own number.
    shifts
        Shifts of the input that are averaged over.
    """

    references: Tensor | None = field(default=None, repr=False)
    samples: int | None = None
    noise: float = 0.1
    seed: int = 0
    gamma: float | None = None
    shifts: int = 8

    def used(self, method: Method) -> dict[str, Any]:
        """Return what a method was given of these, its own values in the place of None."""
        given = {part.name: getattr(self, part.name) for part in fields(self)}
        return {
            name: method.defaults.get(name) if given[name] is None else given[name]
            for name in method.arguments
            if name in given
        }


@dataclass(frozen=True, slots=True, eq=False)
class Explanation(ShowsItself):
    """Maps of one method for a number of volumes.

    A target axis and a weighting axis are there only where several were asked for. Everything is
    float32 on the CPU, signed, in units of the score, and in the input's (i, j, k) order, also
    where the model permutes inside.

    Parameters
    ----------
    method
        Name of the method.
    relevance : (batch[, targets][, weightings], gi, gj, gk)
        Evidence for the target in each patch. Red is evidence for the class, not a higher signal.
    logits : (batch, outputs)
        The model's outputs.
    scores : (batch[, targets])
        The explained scalars.
    target
        Per volume: the class or contrast (a, b) that was explained; with a target axis a tuple of
        them.
    targets
        What was asked for, in the order of the target axis.
    weightings
        Token Grad-CAM's weightings, in the order of the weighting axis; else empty.
    score
        ``"logit"``, ``"log_odds"``, ``"probability"``, or the name of a function.
    target_layer
        Where the tokens were taken; None where the method has no layer.
    units
        Of the relevance.
    patch_weights, token_sum : like `relevance`
        The two halves of token Grad-CAM; else None.
    voxel_relevance : (batch[, targets], i, j, k)
        Relevance per voxel, summed over input channels, where a method has it; else None.
    content, position, embedding_bias : (batch[, targets], gi, gj, gk)
        Frozen-gate shares per patch: ``relevance = content + position``, and the voxels of a patch
        and its embedding bias make up its content; else None.
    prefix, bias : (batch[, targets])
        Shares of class and register tokens, and of all later constants (frozen gates, CAM); else
        None.
    completeness_error : (batch[, targets])
        How far all shares together miss what they must add up to, relative; else None.
    checks
        Per volume, what the checks said.
    score_function
        The score, where it is a function; else None.
    options
        The method's own arguments, such as references, samples and seed.
    """

    method: str
    relevance: Float[Tensor, "batch ... gi gj gk"] = field(repr=False)
    logits: Float[Tensor, "batch outputs"] = field(repr=False)
    scores: Float[Tensor, "batch ..."] = field(repr=False)
    target: tuple[Any, ...]
    targets: tuple[Any, ...]
    weightings: tuple[str, ...]
    score: str
    target_layer: str | None
    units: str
    patch_weights: Tensor | None = field(default=None, repr=False)
    token_sum: Tensor | None = field(default=None, repr=False)
    voxel_relevance: Tensor | None = field(default=None, repr=False)
    content: Tensor | None = field(default=None, repr=False)
    position: Tensor | None = field(default=None, repr=False)
    embedding_bias: Tensor | None = field(default=None, repr=False)
    prefix: Tensor | None = field(default=None, repr=False)
    bias: Tensor | None = field(default=None, repr=False)
    completeness_error: Tensor | None = field(default=None, repr=False)
    checks: tuple[tuple[Check, ...], ...] = field(default=(), repr=False)
    score_function: ScoreFunction | None = field(default=None, repr=False)
    options: Options = field(default_factory=Options, repr=False)

    def __len__(self) -> int:
        """Return the number of volumes."""
        return len(self.logits)


#: Tensors of a batch by their field name in `Explanation`, with every axis that they can have:
#: (batch, targets, weightings, ...) for what has weightings, (batch, targets, ...) for the rest.
Maps = dict[str, Tensor]
WITH_WEIGHTINGS = frozenset({"relevance", "patch_weights", "token_sum"})


def join(
    batches: Sequence[Maps], *, several_targets: bool, several_weightings: bool
) -> dict[str, Tensor]:
    """Put the maps of successive batches together and drop the axes that were not asked for."""
    joined: dict[str, Tensor] = {}
    for name in batches[0]:
        tensor = torch.cat([maps[name] for maps in batches]).float()
        if name in WITH_WEIGHTINGS and not several_weightings:
            tensor = tensor.squeeze(2)
        joined[name] = tensor if several_targets else tensor.squeeze(1)
    return joined
