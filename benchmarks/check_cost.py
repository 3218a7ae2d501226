"""What checks cost, relative to explaining.

First the checks that are made on every map, timed inside `Explainer.explain` (both defaults, token
Grad-CAM and frozen gates): their time over the whole, median over repeats. They must stay below
2 %: a check that costs is a check that people turn off. Then the further checks, which are made on
the first batch of a run only (two volumes): explaining with and without each, one right after the
other, so that both meet the same load of the machine.

    python benchmarks/check_cost.py --threads 2 --batch 2 --pairs 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from explain_cost import reference_vit, seconds
from torch import nn
from vit_pytorch.vit_3d import ViT

from g3dvit import diagnose, explain_batch
from g3dvit.explain import CHECKS, Explainer

METHODS = ("token_gradcam", "frozen_gate")


def small_vit() -> ViT:
    """Return a model of the size of the phantoms' with random weights."""
    torch.manual_seed(0)
    return ViT(
        image_size=30, image_patch_size=5, frames=30, frame_patch_size=5, channels=1,
        num_classes=2, dim=128, depth=4, heads=4, mlp_dim=256,
    ).eval()  # fmt: skip


class Timer:
    """Adds up the time inside some functions of a module while it lasts."""

    def __init__(self, places: list[tuple[Any, str]]) -> None:
        self.places = [(module, name, getattr(module, name)) for module, name in places]
        self.total = 0.0

    def __enter__(self) -> Timer:
        for module, name, function in self.places:
            setattr(module, name, self._timed(function))
        return self

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.total += time.perf_counter() - start

        return timed

    def __exit__(self, *_: object) -> None:
        for module, name, function in self.places:
            setattr(module, name, function)


ALWAYS = [
    (explain_batch, "add_map_checks"),
    (explain_batch, "completeness_error"),
    *((diagnose, f"{name}_gradient") for name in ("dead", "uniform")),
    *((diagnose, name) for name in ("centring", "discarded_share")),
    *((diagnose, f"check_{name}") for name in ("dead", "uniform", "centring", "discarded")),
]


def report(name: str, model: nn.Module, edge: int, batch: int, pairs: int) -> None:
    """Print what the checks cost for one model."""
    explainer = Explainer(model, input_shape=(1, edge, edge, edge))
    x = torch.randn(batch, 1, edge, edge, edge)
    explainer.explain(x, METHODS)
    shares = []
    for _ in range(pairs):
        with Timer([place for place in ALWAYS if hasattr(*place)]) as timer:
            whole = seconds(lambda: explainer.explain(x, METHODS))
        shares.append(timer.total / whole)
    print(f"{name}; {batch} volumes, {torch.get_num_threads()} threads")
    print(f"  checks of every map   {statistics.median(shares):7.2%}  (at most 2 %)")
    for check in CHECKS:
        more = []
        for _ in range(max(1, pairs // 2)):
            bare = seconds(lambda: explainer.explain(x, METHODS))
            with_it = seconds(lambda check=check: explainer.explain(x, METHODS, check=check))
            more.append((with_it - bare) / bare)
        print(f"  {check:<20}{statistics.median(more):9.0%}")


def main() -> None:
    """Print tables for two models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rest = (arguments.batch, arguments.pairs)
    report("30^3, patch 5, width 128, depth 4", small_vit(), 30, *rest)
    report("90^3, patch 9, width 1024, depth 6", reference_vit(), 90, *rest)


if __name__ == "__main__":
    main()
