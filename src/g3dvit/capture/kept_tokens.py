"""Run a model on some of its patches: the tokens of the others are really gone.

The rows of removed patches are taken out of the token sequence behind their positions and before
the first attention (`g3dvit.capture.token_stage` finds the place and proves that it is one). So
every other token keeps its position, no attention sees a removed patch, and a head that averages
tokens averages over fewer. For attention this is what an infinite negative key mask in every
layer does; for an average a mask would not be enough. Where blocks go by the place of a token, so
that none can be missing there, such a mask is used, and the rows are taken out behind the blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from g3dvit.capture.masked_keys import MaskKeys
from g3dvit.capture.token_stage import WayOut, find_way_out, run_changed
from g3dvit.errors import InputError, MethodError
from g3dvit.geometry import Geometry

#: About as many tokens as make good use of a processor.
_TOKENS_AT_A_TIME = 4096


#: What was found, with the geometry for which they hold; both are of one probing.
_FOUND: WeakKeyDictionary[nn.Module, tuple[Geometry, WayOut]] = WeakKeyDictionary()


class KeptTokens:
    """A model that is run on the patches that are kept.

    Parameters
    ----------
    network
        The module inside `g3dvit.capture.guest`; call the value inside it too.
    geometry
        How the model divides its input.
    run
        What to call in place of `network`, for instance with other parameters.
    batch_size
        Kept sets at a time; None chooses by the number of tokens.

    Raises
    ------
    MethodError
        If tokens cannot be taken out of this model.
    """

    def __init__(
        self,
        network: nn.Module,
        geometry: Geometry,
        *,
        run: Callable[[Tensor], Any] | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._network, self._geometry, self._run = network, geometry, run or network
        self._way = _way_out_of(network, geometry)
        self._batch_size = batch_size or max(1, min(64, _TOKENS_AT_A_TIME // geometry.num_tokens))

    @torch.no_grad()
    def __call__(
        self, x: Float[Tensor, "volumes ..."], keep: Bool[Tensor, "n patches"]
    ) -> Float[Tensor, "n outputs"]:
        """Return the model's outputs with the patches of each row of `keep` alone.

        Parameters
        ----------
        x : (n, *input_shape) or (1, *input_shape)
            One volume for each row of `keep`, or one for all; of the model's type and device.
        keep : (n, patches)
            True for the patches that stay. Patches count the patch grid of the input in C order
            (k fastest), as a map's ``relevance[n].flatten()`` does.

        Raises
        ------
        InputError
            If the shapes do not fit.
        MethodError
            If the model gives no finite values with so few patches.
        """
        geometry = self._geometry
        keep = keep.to(torch.bool).flatten(1) if keep.ndim > 1 else keep
        patches = geometry.num_patches
        if keep.ndim != 2 or keep.shape[1] != patches or len(x) not in (1, len(keep)):
            raise InputError(
                f"`keep` has the shape (n, {patches}) and `x` holds one volume or n; they were "
                f"given as {tuple(keep.shape)} and {tuple(x.shape)}"
            )
        rows = self._token_rows(keep).to(x.device)
        counts = rows.sum(1)
        if not len(keep) or int(counts.min()) == 0:
            raise MethodError("a model needs a token to say anything; keep at least one patch")
        x = x.expand(len(keep), *x.shape[1:])
        parts = [
            some
            for count in sorted(set(counts.tolist()))
            for some in (counts == count).nonzero().flatten().split(self._batch_size)
        ]
        z = torch.cat([self._pass(x[some], rows[some]) for some in parts])
        found = torch.empty_like(z).index_copy_(0, torch.cat(parts), z)
        if not bool(torch.isfinite(found).all()):
            fewest = int(keep.sum(1).min())
            raise MethodError(
                f"the model gives values that are not finite when as few as {fewest} of {patches} "
                "patches are kept; keep at least one"
            )
        return found

    def _token_rows(self, keep: Tensor) -> Tensor:
        """Return which tokens of the stage stay, from which patches of the input do."""
        geometry, stage = self._geometry, self._way.stage
        first = geometry.num_prefix_tokens if stage.num_tokens != geometry.num_patches else 0
        order = torch.as_tensor(geometry.token_order, device=keep.device)
        rows = keep.new_ones((len(keep), stage.num_tokens))
        rows[:, first + order] = keep
        return rows

    def _pass(self, x: Tensor, rows: Tensor) -> Tensor:
        index = rows.nonzero()[:, 1].reshape(len(rows), -1)
        row = torch.arange(len(rows), device=index.device)[:, None]

        def take_out(tokens: Tensor) -> Tensor:
            if tokens.shape[:2] != rows.shape:
                raise MethodError(
                    f"the model holds {tuple(tokens.shape[:2])} volumes and tokens where "
                    f"{tuple(rows.shape)} were expected; it cannot be run on some of its patches"
                )
            return tokens[row, index]

        hidden = MaskKeys(~rows) if self._way.hidden_before else nullcontext()
        with hidden:
            return run_changed(self._network, self._run, x, {self._way.stage: take_out})


def _way_out_of(network: nn.Module, geometry: Geometry) -> WayOut:
    """Return how tokens are removed from a model, looked for once for each geometry."""
    known, way = _FOUND.get(network, (None, None))
    if known is not geometry or way is None:
        way = find_way_out(network, geometry)
        _FOUND[network] = (geometry, way)
    return way
