"""The last stages of one pass, and what made each of them.

A head that averages its tokens and one that weighs them end in the same sum, at which every token
has the same gradient. They differ in what comes before. So of each stage it is kept whether a
normalisation, a linear map or a module made it, or a step in between, such as ``w * h``; and enough
of its values to see that it is an earlier stage times one number for each token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from g3dvit.capture.tokens import Event, on_gradient
from g3dvit.probe_stages import Stage, sketch, tokens_of

#: How many stages are kept; behind the last normalisation of a model there are few.
_KEPT = 48
#: Numbers for each token that differ less than this are one number.
_ONE = 1e-4
#: Directions that turn by less than this share of how the lengths differ are the same.
_TURN = 1e-2
_LINEAR = frozenset({"linear", "addmm"})


@dataclass(slots=True, eq=False)
class LateStage:
    """One stage of the form of tokens that the class values depend on.

    Parameters
    ----------
    stage
        Where.
    owner
        Name of the innermost module in which it was made.
    is_norm
        Whether a normalisation made it.
    made
        Whether a normalisation, a linear map or a module made it.
    lengths : (tokens,)
        Length of each token.
    directions : (tokens, at most 128)
        Some features of each token, to length 1.
    gradient : (tokens, features)
        Of the class values, as soon as it is computed.
    """

    stage: Stage
    owner: str
    is_norm: bool
    made: bool
    lengths: Tensor
    directions: Tensor
    gradient: Tensor | None = None

    @property
    def counts(self) -> bool:
        """Whether the class values depend on it."""
        return self.gradient is not None and bool(self.gradient.any())

    def factors_of(self, other: LateStage) -> Tensor | None:
        """Return by what each token of another stage was multiplied to give this; None if not so.

        Parameters
        ----------
        other
            An earlier stage with as many tokens.

        Returns
        -------
        (tokens,)
            The sizes of the factors.
        """
        if other.directions.shape != self.directions.shape:
            return None
        there = (self.lengths > 0) & (other.lengths > 0)
        if int(there.sum()) < 2:
            return None
        factors = self.lengths / other.lengths.clamp_min(torch.finfo(torch.float32).tiny)
        signs = (self.directions * other.directions).sum(1, keepdim=True).sign()
        turned = float((self.directions - signs * other.directions)[there].norm(dim=1).max())
        return factors if turned <= _TURN * max(spread(factors), _ONE) else None


def spread(values: Tensor) -> float:
    """Return how much numbers (tokens,) differ from their mean, relative to their size."""
    return float((values - values.mean()).norm() / values.norm().clamp_min(1e-30))


@dataclass(slots=True)
class LateStages:
    """The last stages of one pass, in the order of execution."""

    _stages: dict[tuple[int, int, int], LateStage] = field(default_factory=dict)

    def add(self, event: Event, tensor: Tensor, stage: Stage, version: tuple[int, int]) -> None:
        """Remember a stage, and its gradient as soon as that is computed.

        Parameters
        ----------
        event, tensor, stage
            What made it, what it is, and where.
        version
            Number of the tensor, and how often it was changed in place.
        """
        features = sketch(tensor, stage.token_axis)
        size = features.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        lengths = tokens_of(tensor, stage.token_axis).float().norm(dim=1).cpu()
        is_norm = event.norm is not None or spread(lengths) < _ONE  # one length: a norm by hand
        made = is_norm or event.kind in _LINEAR or (event.is_module and bool(event.owner))
        late = LateStage(
            stage=stage,
            owner=event.owner,
            is_norm=is_norm,
            made=made,
            lengths=lengths,
            directions=features / size,
        )
        key = (*version, stage.token_axis)
        self._stages[key] = late
        if len(self._stages) > _KEPT:
            del self._stages[next(iter(self._stages))]

        def keep(gradient: Tensor) -> None:
            if key not in self._stages:
                return
            tokens = tokens_of(gradient, stage.token_axis).float().cpu()
            late.gradient = tokens if late.gradient is None else late.gradient + tokens

        on_gradient(tensor, keep)

    def returned(self, event: Event, version: tuple[int, int]) -> None:
        """Remember that a module returned what was made inside it, not merely given to it."""
        for axis in range(3):
            late = self._stages.get((*version, axis))
            if late is not None and event.owner and _inside(late.owner, event.owner):
                late.made = True
                late.is_norm |= event.norm is not None

    def of(self, num_tokens: int) -> list[LateStage]:
        """Return the stages of that many tokens on which the class values depend."""
        return [s for s in self._stages.values() if s.stage.num_tokens == num_tokens and s.counts]

    def read_by_head(self, num_tokens: int) -> Iterator[LateStage]:
        """Yield the stages that the head may be said to read.

        The first of them is the last that a normalisation, a linear map or a module made out of
        tokens. Where tokens were weighed behind the last normalisation, further ones are what
        they were before.

        Parameters
        ----------
        num_tokens
            Of the stages to look at.
        """
        stages = self.of(num_tokens)
        made = (n for n in reversed(range(len(stages))) if _is_own(stages[n], stages[:n]))
        last = next(made, None)
        if last is not None:
            yield stages[last]
        norms = [n for n, s in enumerate(stages) if s.is_norm]
        for n in range(norms[-1] + 1 if norms else len(stages), len(stages)):
            source = _weighed(stages[n], stages[:n])
            if source is not None:
                yield source


def _is_own(late: LateStage, earlier: list[LateStage]) -> bool:
    """Tell whether a stage is a result of a norm, a linear map or a module, and no mere repeat."""
    if late.is_norm or not late.made:
        return late.made
    if _weighed(late, earlier) is not None:
        return False
    outside = (e for e in earlier if not _inside(e.owner, late.owner))
    return all(late.factors_of(e) is None for e in outside)


def _weighed(late: LateStage, earlier: list[LateStage]) -> LateStage | None:
    """Return the stage of which this is the tokens times different numbers, if there is one."""
    if late.is_norm:
        return None
    for other in reversed(earlier):
        factors = late.factors_of(other)
        if factors is not None and spread(factors) >= _ONE:
            return other
    return None


def _inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
