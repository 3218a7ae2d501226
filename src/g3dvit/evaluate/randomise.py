"""Copies of a model that have forgotten what they learned, all at once or from the head down.

The values of every parameter are shuffled among themselves, which keeps their distribution and
their scale and works for any module. Stages are found by running the model: what comes before its
blocks is the *embedding*, then each *block*, and what comes after is the *head*. The user's model
is copied, never changed.

References
----------
Adebayo et al. 2018, Sanity Checks for Saliency Maps, https://arxiv.org/abs/1810.03292
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from g3dvit.capture import guest, unwrap
from g3dvit.capture.tokens import Event, watch_tensors
from g3dvit.errors import ModelError


@dataclass(frozen=True, slots=True)
class Stage:
    """Parameters that belong together.

    Parameters
    ----------
    name
        ``"embedding"``, ``"block 0"`` ..., ``"head"``.
    parameters
        Their names in the model.
    """

    name: str
    parameters: tuple[str, ...]


def shuffled_copy(
    model: nn.Module, *, seed: int, parameters: Iterable[str] | None = None
) -> nn.Module:
    """Return a copy of a model whose parameters are shuffled.

    Parameters
    ----------
    model
        Is left as it is.
    seed
        Of the order.
    parameters
        Names of those to shuffle; None for all.

    Raises
    ------
    ModelError
        If the model cannot be copied.
    """
    try:
        made = copy.deepcopy(unwrap(model))
    except Exception as error:
        raise ModelError(
            f"this model cannot be copied ({error}), so its weights cannot be randomised; leave "
            "out the randomisation (--skip randomisation)"
        ) from error
    wanted = None if parameters is None else set(parameters)
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            # Every order is drawn, so that the same seed shuffles a parameter in the same way
            # whatever else is shuffled.
            order = torch.randperm(parameter.numel(), generator=generator)
            if (wanted is None or name in wanted) and id(parameter) not in done:
                flat = parameter.detach().flatten()[order.to(parameter.device)]
                parameter.copy_(flat.reshape(parameter.shape))
                done.add(id(parameter))
    return made


def find_stages(model: nn.Module, x: Tensor) -> tuple[Stage, ...]:
    """Return a model's stages in the order of execution.

    Parameters
    ----------
    model
        Any model.
    x : (1, *input_shape)
        A volume, to see what runs when.

    Returns
    -------
    tuple of Stage
        Embedding, blocks, head; those without parameters are left out. Where no blocks are found,
        the modules with parameters, one by one.
    """
    with guest(model) as network:
        first = _first_runs(network, x)
        owned = {
            name: [f"{name}.{own}".lstrip(".") for own in module._parameters]
            for name, module in network.named_modules()
            if any(p is not None for p in module._parameters.values())
        }
        blocks = _blocks(network)
    if not blocks:
        order = sorted(owned, key=lambda name: first.get(name, -1))
        return tuple(Stage(name or "model", tuple(owned[name])) for name in order)
    begins = min((first[n] for n in first if _within(n, blocks[0])), default=0)
    stages: dict[str, list[str]] = {"embedding": []}
    stages |= {f"block {number}": [] for number in range(len(blocks))}
    stages["head"] = []
    for name, parameters in owned.items():
        inside = [number for number, block in enumerate(blocks) if _within(name, block)]
        if inside:
            stages[f"block {inside[0]}"] += parameters
        else:  # what belongs to the model itself (class token, positions) joins before the blocks
            late = name != "" and first.get(name, -1) > begins
            stages["head" if late else "embedding"] += parameters
    return tuple(Stage(name, tuple(own)) for name, own in stages.items() if own)


def _first_runs(network: nn.Module, x: Tensor) -> dict[str, int]:
    """Return when each module first made something."""
    first: dict[str, int] = {}

    def see(event: Event) -> None:
        first.setdefault(event.owner, event.index)

    with torch.no_grad(), watch_tensors(network, see, norms=False):
        network(x)
    return first


def _blocks(network: nn.Module) -> list[str]:
    """Return the names of the repeated blocks: equal children of the largest such container."""
    best: tuple[int, list[str]] = (0, [])
    for name, module in network.named_modules():
        children = [(child, sub) for child, sub in module.named_children() if child.isdigit()]
        if not children or len(children) != len(list(module.children())):
            continue
        layouts = {
            tuple((key, tuple(p.shape)) for key, p in sub.named_parameters()) for _, sub in children
        }
        size = sum(p.numel() for p in module.parameters())
        if len(layouts) == 1 and len(children) > 1 and size > best[0]:
            best = (size, [f"{name}.{child}".lstrip(".") for child, _ in children])
    return best[1]


def _within(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.")
