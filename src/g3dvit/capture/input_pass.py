"""A forward pass whose graph begins at the input, or where the model normalises its voxels.

A normalisation straight on the voxels of a patch removes what is added to the patch and what it is
multiplied with; the gradient at the voxels then sums to zero over each patch, and so does
gradient times input. `InputPass` can begin the graph at the output of that normalisation,
one for one with the voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from jaxtyping import Float
from torch import Tensor

from g3dvit.capture.frozen_functions import wide
from g3dvit.capture.gates import FrozenGates, PatchNorm
from g3dvit.capture.outputs import first_output
from g3dvit.capture.passes import carry_back


class _PatchNorms(FrozenGates):
    """Begins the graph at normalisations of bare voxels, and changes nothing else."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        x = args[0] if args else keywords.get("input")
        if name != "layer_norm" or not isinstance(x, Tensor) or not self.is_voxels(x):
            return func(*args, **keywords)
        names = ("input", "normalized_shape", "weight", "bias", "eps")
        call = dict(zip(names, args, strict=False)) | keywords
        bias = call.pop("bias", None)
        leaf = F.layer_norm(**call).detach().requires_grad_()
        self.patch_norms.append(PatchNorm(leaf, x))
        return leaf.clone() if bias is None else leaf + bias


class InputPass:
    """A forward pass for gradients at the input.

    Parameters
    ----------
    run
        The model, or what calls it.
    x : (batch, ...)
        Its input.
    normalised
        Begin at the output of a layer normalisation of bare voxels, where there is one.
    """

    def __init__(
        self, run: Callable[[Tensor], Any], x: Tensor, *, normalised: bool = False
    ) -> None:
        self._gates = _PatchNorms(x, ())
        if normalised:
            with self._gates:
                self.logits = first_output(run(self._gates.input))
        else:
            self.logits = first_output(run(self._gates.input))
        norms = self._gates.patch_norms
        #: What the model sees, one number per voxel, in the input's layout.
        self.values: Tensor = self._collect([self._gates.leaf, *(norm.leaf for norm in norms)])

    def gradients(self, weights: Float[Tensor, "batch outputs"]) -> Tensor:
        """Return the gradient of ``(weights * logits).sum(1)`` with respect to `values`."""
        gates = self._gates
        leaves = [gates.leaf, *(norm.leaf for norm in gates.patch_norms)]
        found: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if self.logits.requires_grad:
            found = torch.autograd.grad(
                self.logits, leaves, weights.to(self.logits), retain_graph=True, allow_unused=True
            )
        pairs = zip(found, leaves, strict=True)
        return self._collect([torch.zeros_like(leaf) if g is None else g for g, leaf in pairs])

    def _collect(self, parts: list[Tensor]) -> Tensor:
        """Bring the values of a normalisation to the voxels, or return those of the input."""
        norms = self._gates.patch_norms
        if not norms:
            return wide(parts[0].detach())
        brought = [
            carry_back(wide(part.detach()), norm.source, self._gates.leaf)
            for part, norm in zip(parts[1:], norms, strict=True)
        ]
        return torch.stack(brought).sum(0)
