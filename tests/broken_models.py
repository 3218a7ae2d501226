"""Models and volumes that are broken in one known way each, with the check that must say so.

`CASES` maps a name to a `Case`. Nothing here is trained: what is wrong is built in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from small_models import Recipe, SmallViT, draw

BASE = Recipe(0, classes=3)
MEAN = replace(BASE, pool="mean")
POOLS = {"cls": BASE, "mean": MEAN}


@dataclass(frozen=True)
class Case:
    """What is explained, which check must tell, and how strongly.

    `caught` is the check's name, `verdict` the least that it must say, of every volume; `says` is
    part of its sentence.
    """

    model: Callable[[], nn.Module]
    caught: str
    method: str = "frozen_gate"
    verdict: str = "fail"
    volumes: Callable[[], torch.Tensor] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    recipe: Recipe = BASE


def volumes(recipe=BASE, n=3):
    return draw(recipe, n, 9).x


def fresh(recipe):
    """Random weights, norms at identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return SmallViT(recipe).eval()


def drifted(recipe, amount=0.2):
    """Random weights of some size, norms away from identity as after training."""
    model = fresh(recipe)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.add_(amount * noise)
            elif name in ("before", "position"):
                p.copy_(0.3 * noise)
    return model


def changed(recipe, change, start=drifted):
    """A model with something changed in place."""

    def build():
        model = start(recipe)
        with torch.no_grad():
            change(model)
        return model

    return build


def scaled(path, factor):
    """Multiply a parameter."""

    def change(model):
        model.get_parameter(path).mul_(factor)

    return change


def no_view_of_voxels(model):
    for p in model.embed.parameters():
        p.mul_(1e-5)


def biases_alone(model):
    no_view_of_voxels(model)
    model.embed[-1].bias.fill_(1.0)
    model.position.mul_(0.05)


def no_attention_to_patches(factor):
    def change(model):
        for block in model.blocks:
            block.attention.to_out.weight.mul_(factor)

    return change


def same_head_for_all_classes(model):
    weight = model.head.weight
    weight.copy_(weight[:1] * torch.tensor([[1.0], [0.7], [0.4]]))


def no_positions(model):
    model.position.zero_()


# -- pieces that break things --------------------------------------------------------------
class Strange(nn.Module):
    """An operation that frozen gates do not know."""

    def forward(self, x):
        return torch.asinh(30 * x)


class StrangeBlock(nn.Module):
    """The same, as a function call inside a block's own forward."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return x + torch.asinh(30 * self.block(x))


class Twice(nn.Module):
    """One module that runs twice."""

    def __init__(self, module):
        super().__init__()
        self.inside = nn.ModuleDict({"deep": nn.Sequential(module, Strange())})

    def forward(self, x):
        return self.inside["deep"](self.inside["deep"](x))


def strange_after(path):
    def change(model):
        parent, _, last = path.rpartition(".")
        module = model.get_submodule(path)
        setattr(model.get_submodule(parent), last, nn.Sequential(module, Strange()))

    return change


def strange_block(model):
    model.blocks[1] = StrangeBlock(model.blocks[1])


def strange_twice(model):
    model.blocks[0].mlp = Twice(model.blocks[0].mlp)


class HandNorm(nn.Module):
    """Centres and scales each patch by hand; without a guard a constant patch is 0 / 0."""

    def __init__(self, guard):
        super().__init__()
        self.guard = guard

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + self.guard).sqrt()


def hand_norm(guard):
    def change(model):
        model.embed = nn.Sequential(model.embed[0], HandNorm(guard), *model.embed[1:])

    return change


class Wrapped(nn.Module):
    """Does something to the volume before, or to the outputs after."""

    def __init__(self, model, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)))


def of_the_batch(x):
    """A batch normalisation without running statistics."""
    return torch.nn.functional.batch_norm(x, None, None, training=True)


class TokenBatchNorm(nn.Module):
    """Features of all tokens of all volumes, normalised together."""

    def forward(self, x):
        return of_the_batch(x.transpose(1, 2)).transpose(1, 2)


def batch_norm_at_the_end(model):
    model.norm = TokenBatchNorm()


def standardised(x):
    return (x - x.mean((1, 2, 3, 4), keepdim=True)) / x.std((1, 2, 3, 4), keepdim=True)


def rounded(x):
    """Lose nearly every digit, as a badly scaled preparation does."""
    return (x + 1.2e7) - 1.2e7


class Additive(nn.Module):
    """Every patch speaks against class 0, whose value is high all the same."""

    def __init__(self, recipe):
        super().__init__()
        self.inner = SmallViT(recipe)
        self.inner.blocks = nn.ModuleList()
        self.inner.norm = nn.Identity()
        with torch.no_grad():
            self.inner.embed[-1].weight.copy_(torch.rand_like(self.inner.embed[-1].weight))
            self.inner.embed[-1].bias.zero_()
            self.inner.position.zero_()
            self.inner.head.weight.copy_(torch.tensor([[-1.0], [1.0], [1.0]]).expand(3, 32))
            self.inner.head.bias.copy_(torch.tensor([1e4, 0.0, 0.0]))

    def forward(self, x):
        return self.inner(x)


class Shouting(nn.Module):
    """Follows what is far below the noise of any measurement."""

    def forward(self, x):
        return torch.sin(2e4 * x)


def shouting(model):
    model.embed = nn.Sequential(model.embed[0], Shouting(), model.embed[1])


def dead_relu(model):
    """A ReLU behind the embedding that never lets anything through."""
    model.embed[-1].bias.fill_(-1e3)
    model.embed = nn.Sequential(*model.embed, nn.ReLU())


# -- volumes that break things -------------------------------------------------------------
def with_constant_patches(share, contrast=0.0, recipe=BASE):
    """Volumes in which a share of the patches is constant, or nearly, each at its own level."""

    def make():
        x = volumes(recipe)
        grid, edge = recipe.grid, recipe.edge
        number = grid[0] * grid[1] * grid[2]
        for p in range(round(share * number)):
            i, j, k = (n * edge for n in (p // (grid[1] * grid[2]), p // grid[2] % grid[1],
                                          p % grid[2]))  # fmt: skip
            box = (slice(None), 0, slice(i, i + edge), slice(j, j + edge), slice(k, k + edge))
            x[box] = contrast * x[box] + 0.25 * (p + 1)  # its mean is exact
        return x

    return make


def one_patch_everywhere(recipe=BASE):
    x = volumes(recipe)
    edge = recipe.edge
    return x[:, :, :edge, :edge, :edge].repeat(1, 1, *recipe.grid)


def bright():
    return volumes().abs() + 1


def _both(name, make):
    return {f"{name}, {pool}": make(recipe) for pool, recipe in POOLS.items()}


def _patched(recipe):
    return replace(recipe, patch_norm=True)


def _case(change, caught, **rest):
    return lambda recipe: Case(changed(recipe, change), caught, recipe=recipe, **rest)


CASES: dict[str, Case] = {
    # token Grad-CAM behind normalisations that have not drifted
    **{
        f"fresh norms, {pool}{', patch norm' if norm else ''}, {weighting}": Case(
            lambda r=recipe: fresh(r),
            "centring",
            "token_gradcam",
            options={"weighting": weighting},
            recipe=recipe,
        )
        for pool in POOLS
        for norm in (False, True)
        for recipe in (replace(POOLS[pool], patch_norm=norm),)
        for weighting in ("mean", "abs")
    },
    **_both(
        "fresh norms in float64",
        lambda r: Case(lambda: fresh(r), "float64 agreement", "token_gradcam", recipe=r),
    ),
    **_both(
        "bf16",
        lambda r: Case(
            lambda: drifted(r, 0.1).bfloat16(), "centring", "token_gradcam", recipe=r
        ),
    ),
    # the head
    **_both(
        "saturated probability",
        _case(
            lambda m: (m.head.weight.mul_(1e3), m.head.bias.mul_(1e3)),
            "saturated head",
            options={"score": "probability"},
        ),
    ),
    **_both(
        "one direction for all classes",
        _case(same_head_for_all_classes, "class-blind", options={"score": "logit"}),
    ),
    **_both(
        "one direction for all classes, HiResCAM",
        _case(same_head_for_all_classes, "class-blind", method="hirescam",
              options={"score": "logit"}),
    ),
    "attention rollout knows no class": Case(lambda: drifted(BASE), "class-blind",
                                             "attention_rollout"),
    "EigenCAM knows no class": Case(lambda: drifted(BASE), "class-blind", "eigencam"),
    "abs weights of two classes": Case(
        lambda: drifted(replace(BASE, classes=2)), "class-blind", "token_gradcam",
        options={"weighting": "abs", "score": "log_odds"}, recipe=replace(BASE, classes=2),
    ),
    # what the volume has to say
    **_both("positions alone", _case(no_view_of_voxels, "position share")),
    **_both("positions alone, HiResCAM", _case(no_view_of_voxels, "input-blind",
                                               method="hirescam")),
    **_both("biases of the embedding alone", _case(biases_alone, "voxel share")),
    "dead ReLU": Case(changed(MEAN, dead_relu), "position share", recipe=MEAN),
    "dead ReLU, token removal": Case(changed(MEAN, dead_relu), "input-blind", "token_removal",
                                     recipe=MEAN),
    "class token alone": Case(changed(BASE, no_attention_to_patches(1e-3)), "patch share"),
    "class token alone, nothing left": Case(
        changed(BASE, no_attention_to_patches(1e-8)), "empty map"
    ),
    "class token alone, last norm": Case(
        changed(BASE, no_attention_to_patches(1e-8)), "empty map", "hirescam"
    ),
    "class token alone, all blocks": Case(
        changed(BASE, no_attention_to_patches(1e-8)), "empty map", "hirescam_blocks"
    ),
    "class token alone, gradient": Case(
        changed(BASE, no_attention_to_patches(1e-8)), "empty map", "gradient_x_input"
    ),
    "class token alone, token removal": Case(
        changed(BASE, no_attention_to_patches(1e-8)), "removal", "token_removal"
    ),
    "a bias decides": Case(
        changed(MEAN, lambda m: m.head.bias.copy_(torch.tensor([1e4, 0.0, 0.0]))), "patch share",
        recipe=MEAN,
    ),
    "every patch speaks against it": Case(
        lambda: Additive(MEAN).eval(), "positive share", volumes=bright, recipe=MEAN,
        options={"target": 0, "score": "logit"},
    ),
    "every patch alike, mean": Case(
        changed(MEAN, no_positions), "flat map", recipe=MEAN,
        volumes=lambda: one_patch_everywhere(MEAN),
    ),
    "every patch alike, cls": Case(
        changed(BASE, no_positions), "flat map", "hirescam", volumes=one_patch_everywhere
    ),
    # patches that cannot be seen
    **{
        f"constant patches, {pool}": Case(
            lambda r=recipe: drifted(_patched(r)), "invisible patches", recipe=_patched(recipe),
            volumes=with_constant_patches(0.7),
        )
        for pool, recipe in POOLS.items()
    },
    "a fifth of the patches constant": Case(
        lambda: drifted(_patched(BASE)), "invisible patches", verdict="warn",
        volumes=with_constant_patches(0.2), recipe=_patched(BASE),
    ),
    "patches below the guard of the norm": Case(
        lambda: drifted(_patched(BASE)), "invisible patches", recipe=_patched(BASE),
        volumes=with_constant_patches(0.7, contrast=1e-4),
    ),
    "patches normalised by hand": Case(
        changed(BASE, hand_norm(1e-6)), "invisible patches",
        volumes=with_constant_patches(0.7),
    ),
    **{
        f"amplitude of patches, {pool}": Case(
            lambda r=recipe: drifted(_patched(r)), "amplitude blindness", verdict="warn",
            says="of each patch", recipe=_patched(recipe),
        )
        for pool, recipe in POOLS.items()
    },
    "amplitude of patches in bf16": Case(
        lambda: drifted(_patched(BASE)).bfloat16(),
        "amplitude blindness",
        verdict="warn",
        says="of each patch",
        recipe=_patched(BASE),
    ),
    "amplitude of the volume": Case(
        lambda: Wrapped(drifted(BASE), before=standardised), "amplitude blindness",
        verdict="warn", says="of the volume",
    ),
    # the volumes beside it
    **_both(
        "statistics of the batch at the input",
        lambda r: Case(
            lambda: Wrapped(drifted(r), before=of_the_batch), "batch dependence", recipe=r,
            says="BatchNorm",
        ),
    ),
    **_both(
        "statistics of the batch at the last norm",
        lambda r: Case(changed(r, batch_norm_at_the_end), "batch dependence", recipe=r),
    ),
    # numbers
    **_both(
        "constant patch divided by its spread",
        lambda r: Case(changed(r, hand_norm(0.0)), "finite values", recipe=r,
                       volumes=with_constant_patches(0.1)),
    ),
    **_both(
        "voxels that cancel in every patch",
        lambda r: Case(changed(r, hand_norm(1e-9)), "cancelling voxels", "gradient_x_input",
                       recipe=r, verdict="warn"),
    ),
    "digits lost on the way": Case(
        lambda: Wrapped(drifted(BASE), before=rounded), "float64 agreement", verdict="warn"
    ),
    "digits lost, HiResCAM": Case(
        lambda: Wrapped(drifted(MEAN), before=rounded), "float64 agreement", "hirescam", "warn",
        recipe=MEAN,
    ),
    **_both("noise decides", _case(shouting, "jitter", method="hirescam_blocks")),
    # operations that frozen gates do not know
    "unknown gate in a block": Case(
        changed(BASE, strange_after("blocks.0.mlp.1")), "completeness",
        says="blocks.0.mlp.1.1' (Strange)",
    ),
    "unknown gate in the embedding": Case(
        changed(MEAN, strange_after("embed.1")), "completeness", says="embed.1.1' (Strange)",
        recipe=MEAN,
    ),
    "unknown gate behind the head": Case(
        changed(BASE, strange_after("head")), "completeness", says="head.1' (Strange)",
        options={"target": 0, "score": "logit"},
    ),
    "unknown function inside a block": Case(
        changed(BASE, strange_block), "completeness", says="blocks.1' (StrangeBlock)"
    ),
    "unknown gate, nested, that runs twice": Case(
        changed(BASE, strange_twice), "completeness", says="blocks.0.mlp.inside.deep.1' (Strange)"
    ),
    "softmax at the end": Case(
        lambda: Wrapped(drifted(BASE), after=lambda z: z.softmax(1)), "completeness",
        says="explain its logits instead",
    ),
    # too few draws
    "few random halves": Case(
        lambda: drifted(BASE), "draws", "rise", options={"samples": 4}
    ),
    "one point of a path": Case(
        lambda: drifted(BASE), "completeness", "expected_gradients",
        verdict="warn", options={"samples": 1, "references": volumes(BASE, 8)[4:] * 3},
    ),
}  # fmt: skip
