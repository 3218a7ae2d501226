"""What explaining one batch costs, relative to the bare forward pass.

Measures, on the reference ViT (90 x 90 x 90 volumes, patch 9, width 1024, depth 6, 8 heads, MLP
2048, class token), the time of

- token Grad-CAM for the predicted class with all four weightings (asked: at most 1.25 forwards),
- token Grad-CAM for both classes (at most 1.5),
- frozen-gate relevance of the predicted class (at most 2.5),

and with ``--fine``, on a ViT of width 512 and depth 6, of the maps that are finer than a patch
(nothing is asked of these), each between two bare forward passes under ``no_grad`` of the same
batch, so that all meet the same load of the machine; printed is the median of the ratios of such
groups. Why: a neuroscientist explains hundreds of volumes per run, and a method that costs several
forwards is not used.

    python benchmarks/explain_cost.py --threads 2 --batch 2 --pairs 9
    python benchmarks/explain_cost.py --fine --batch 1 --pairs 3
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from vit_pytorch.vit_3d import ViT

from g3dvit.explain import Explainer


def reference_vit(dim: int = 1024) -> ViT:
    """Return the reference model with random weights, or a narrower one."""
    torch.manual_seed(0)
    return ViT(
        image_size=90, image_patch_size=9, frames=90, frame_patch_size=9, channels=1,
        num_classes=2, dim=dim, depth=6, heads=8, mlp_dim=2 * dim,
    ).eval()  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--fine", action="store_true", help="maps that are finer than a patch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = reference_vit(512 if arguments.fine else 1024)
    explainer = Explainer(model, input_shape=(1, 90, 90, 90))
    x = torch.randn(arguments.batch, 1, 90, 90, 90)

    def forward() -> object:
        with torch.no_grad():
            return model(x)

    works: dict[str, tuple[float, Callable[[], object]]] = {
        "predicted class, four weightings": (1.25, lambda: explainer.explain(x, weighting="all")),
        "both classes": (1.5, lambda: explainer.explain(x, target="all")),
        "frozen gates, predicted class": (2.5, lambda: explainer.explain(x, "frozen_gate")),
    }
    if arguments.fine:
        asked = float("nan")
        together = ["shift_averaged", "shift_weighted", "shift_weighted_signed"]
        works = {
            "frozen gates": (asked, lambda: explainer.explain(x, "frozen_gate")),
            "gamma rule": (asked, lambda: explainer.explain(x, "frozen_gate_gamma")),
            "shift_averaged": (asked, lambda: explainer.explain(x, "shift_averaged")),
            "shift_weighted_signed": (asked, lambda: explainer.explain(x, "shift_weighted_signed")),
            "all three without gamma": (asked, lambda: explainer.explain(x, together)),
            "shift_weighted_local": (asked, lambda: explainer.explain(x, "shift_weighted_local")),
        }
    ratios: dict[str, list[float]] = {name: [] for name in works}
    bare: list[float] = []
    forward()
    for _ in range(arguments.pairs):
        for name, (_, work) in works.items():
            before = seconds(forward)
            spent = seconds(work)
            after = seconds(forward)
            bare += [before, after]
            ratios[name].append(2 * spent / (before + after))
    print(
        f"bare forward: {statistics.median(bare):.2f} s for {arguments.batch} volumes on "
        f"{arguments.threads} threads, torch {torch.__version__}"
    )
    print(f"{'explained':<34}{'median':>8}{'low':>8}{'high':>8}{'asked':>8}")
    for name, (asked, _) in works.items():
        low, *_, high = sorted(ratios[name])
        middle = statistics.median(ratios[name])
        print(f"{name:<34}{middle:>8.2f}{low:>8.2f}{high:>8.2f}{asked:>8.2f}")


if __name__ == "__main__":
    main()
