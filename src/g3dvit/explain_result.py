"""Put the batches of one method together into what the caller gets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from g3dvit.explain_context import BatchResult
from g3dvit.explain_request import Request
from g3dvit.explanation import Explanation, join
from g3dvit.methods import ALIASES, METHODS
from g3dvit.targets import score_name


class ByMethod(dict[str, Explanation]):
    """Explanations by the names of their methods; other names of these find them too."""

    def __missing__(self, name: str) -> Explanation:
        if name not in ALIASES:
            raise KeyError(name)
        return self[ALIASES[name]]


def explanation_of(
    name: str,
    request: Request,
    batches: Sequence[BatchResult],
    *,
    several_targets: bool,
    several_weightings: bool,
) -> Explanation:
    """Return the explanation of one method.

    Parameters
    ----------
    name
        Of the method.
    request
        What was explained.
    batches
        In the order of the volumes.
    several_targets, several_weightings
        Whether results have these axes.
    """
    method = METHODS[name]
    weighted = "weighting" in method.arguments
    tensors = join(
        [{"scores": batch.scores, **batch.maps[name]} for batch in batches],
        several_targets=several_targets,
        several_weightings=several_weightings or not weighted,
    )
    rows = [row for batch in batches for row in batch.chosen]
    return Explanation(
        method=name,
        logits=torch.cat([batch.logits for batch in batches]).float(),
        target=tuple(row if several_targets else row[0] for row in rows),
        targets=request.targets,
        weightings=request.weightings if weighted else (),
        score=score_name(request.score),
        score_function=None if isinstance(request.score, str) else request.score,
        options=request.options,
        target_layer=request.layer_of(name),
        units=method.units or score_name(request.score).replace("_", "-"),
        checks=tuple(row for batch in batches for row in batch.checks[name]),
        **tensors,
    )
