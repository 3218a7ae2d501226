"""What probing a model tells about its tokens: a value, and how it prints.

Terms: a *token* is one element of the sequence inside the transformer; *prefix tokens* (class
token, registers) come before the patch tokens, *suffix tokens* after them. Nothing is measured
here; `g3dvit.probe` fills these values in by running the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from g3dvit.grids import Shape3
from g3dvit.shows_itself import ShowsItself

GradientStatus = Literal["alive", "uniform", "dead"]

#: What the table of layers means.
_LEGEND = (
    "gradient   of the class value at the patches' tokens. alive: it differs between patches;",
    "           uniform: it is the same for all, so a map made there says nothing about places;",
    "           dead: it is zero at all patches, or at all but one, so a map made there is empty",
    "share      largest gradient of a patch over the largest of any token",
    "spread     how much patches' gradients differ from their mean, over their size",
    "->         the last normalisation layer that is alive: token Grad-CAM's, unless told",
)


@dataclass(frozen=True, slots=True)
class NormLayer:
    """One normalisation layer that sees the tokens, and what its gradient carries.

    Parameters
    ----------
    name
        Dotted module name, as in ``model.named_modules()``. A normalisation that is a function
        call and not a module is named ``owner:function#n``: the n-th call inside ``owner``, from
        0. A module that runs several times in one pass is several layers, named ``module#n``.
    kind
        Class of the module, or name of the function.
    order
        Position in the order of execution, from 0.
    status
        ``"alive"``: the patch tokens' gradients differ from each other; ``"uniform"``: they are
        all equal, so they carry nothing about places; ``"dead"``: they are zero, or one patch of
        many has one alone (a head that takes a patch for a class token).
    gradient_share
        Largest norm of a patch token's gradient over the largest norm of any token's gradient.
    gradient_spread
        Norm of the patch gradients around their mean over their norm; 0 where all are equal.
    token_axis
        Axis of the layer's output along which its tokens lie: 1 for (batch, tokens, features), 0
        for (tokens, batch, features), 2 for (batch, features, tokens) and for a grid of tokens
        behind the features, as batch, group and instance normalisations give them.
    num_prefix_tokens
        Tokens before the patch tokens at this layer; None where it is as in the whole model. A
        normalisation inside the patch embedding runs before class token and registers join.
    """

    name: str
    kind: str
    order: int
    status: GradientStatus
    gradient_share: float
    gradient_spread: float
    token_axis: int = 1
    num_prefix_tokens: int | None = None

    @property
    def features_first(self) -> bool:
        """Whether its output is (batch, features, tokens), or a grid of tokens in their place."""
        return self.token_axis == 2


@dataclass(frozen=True, slots=True)
class Geometry(ShowsItself):
    """How a model divides its input into tokens, found by probing it.

    Parameters
    ----------
    input_shape
        Shape of one input of the model, without the batch axis.
    spatial_axes : (3,)
        Which axes of `input_shape` are the input's (i, j, k).
    channels
        Size of the channel axis; 1 where the model takes (batch, i, j, k).
    grid_shape, patch_size : (3,)
        Patches per axis, and voxels per patch, in the input's (i, j, k) order.
    num_prefix_tokens, num_suffix_tokens
        Tokens before and after the patch tokens.
    token_order : (patches,)
        ``token_order[p]`` is the position, among the PATCH tokens, of the token that patch `p`
        feeds, where `p` counts the patch grid in C order (k fastest). The identity for most
        models.
    pooling
        How the tokens reach the head.
    num_outputs
        Number of values that the model returns per volume.
    layers
        Every normalisation layer that sees tokens, in the order of execution.
    default_layer
        The last of them whose patch gradients are alive; "last normalisation layer" means this.
        Empty where no layer is alive.
    attention_layer
        Where all methods of one layer but token Grad-CAM take the tokens by default: the last layer
        in front of an attention, or `default_layer` where all goes through that one, as through a
        final normalisation. The normalisation of a feed-forward branch is passed by on the residual
        path.
    patch_guard
        Where the model normalises the voxels of each patch first: the standard deviation, in units
        of its input, below which hardly anything of a patch is left. None elsewhere.
    notes
        What a user should know about this model, in sentences.
    cautions
        Those of the notes that every reader of its maps should see.
    turned_layers
        Normalisation layers that see the patches in another order than `token_order` says; they
        are not among `layers`.
    one_sigmoid
        The model returns one value, and that has gone through a sigmoid.
    """

    input_shape: tuple[int, ...]
    spatial_axes: Shape3
    channels: int
    grid_shape: Shape3
    patch_size: Shape3
    num_prefix_tokens: int
    num_suffix_tokens: int
    token_order: tuple[int, ...]
    pooling: Literal["class token", "mean of patches", "mean of all tokens", "other"]
    num_outputs: int
    layers: tuple[NormLayer, ...]
    default_layer: str
    attention_layer: str = ""
    patch_guard: float | None = None
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    turned_layers: tuple[str, ...] = ()
    one_sigmoid: bool = False

    @property
    def num_patches(self) -> int:
        """Number of patch tokens."""
        i, j, k = self.grid_shape
        return i * j * k

    @property
    def num_tokens(self) -> int:
        """Number of all tokens."""
        return self.num_prefix_tokens + self.num_patches + self.num_suffix_tokens

    @property
    def alive_layers(self) -> tuple[str, ...]:
        """Names of the layers whose gradients can tell patches apart."""
        return tuple(layer.name for layer in self.layers if layer.status == "alive")

    def layer(self, name: str) -> NormLayer | None:
        """Return the layer of that name, or None."""
        return next((layer for layer in self.layers if layer.name == name), None)

    def patch_slice(self, name: str) -> slice:
        """Return where the patch tokens lie on the token axis of the layer of that name."""
        layer = self.layer(name)
        own = None if layer is None else layer.num_prefix_tokens
        start = self.num_prefix_tokens if own is None else own
        return slice(start, start + self.num_patches)

    def patch_place(self, patch: int) -> tuple[slice, ...]:
        """Return where a patch, by its number in C order of the grid, lies in an input."""
        place = [slice(None)] * len(self.input_shape)
        _, nj, nk = self.grid_shape
        numbers = (patch // (nj * nk), patch // nk % nj, patch % nk)
        for axis, n, size in zip(self.spatial_axes, numbers, self.patch_size, strict=True):
            place[axis] = slice(n * size, (n + 1) * size)
        return tuple(place)

    def __str__(self) -> str:
        """Return the table that ``g3dvit inspect`` prints."""
        return "\n".join([*self._facts(), "", *self._layer_table(), *self._note_lines()])

    def _facts(self) -> list[str]:
        axes = dict(zip(self.spatial_axes, "ijk", strict=True))
        shape = " x ".join(
            f"{axes.get(axis, 'channels')} {size}" for axis, size in enumerate(self.input_shape)
        )
        order = "as the input (k fastest)"
        if self.token_order != tuple(range(self.num_patches)):
            order = "not as the input; undone in every map"
        rows = [
            ("input", f"{shape} (without the batch)"),
            ("patch grid (i, j, k)", " x ".join(map(str, self.grid_shape))),
            ("patch size (i, j, k)", " x ".join(map(str, self.patch_size)) + " voxels"),
            (
                "tokens",
                f"{self.num_tokens} = {self.num_prefix_tokens} before + {self.num_patches} "
                f"patches + {self.num_suffix_tokens} after",
            ),
            ("order of the patches", order),
            ("pooling", self.pooling),
            ("outputs", str(self.num_outputs)),
            ("last normalisation layer", self.default_layer or "none is alive"),
        ]
        if self.attention_layer not in ("", self.default_layer):
            rows.append(("layer of other methods", self.attention_layer))
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {value}" for name, value in rows]

    def _layer_table(self) -> list[str]:
        width = max([len(layer.name) for layer in self.layers] + [5])
        kind = max([len(layer.kind) for layer in self.layers] + [4])
        head = (
            f"   {'layer':<{width}}  {'kind':<{kind}}  {'gradient':<8}  {'share':>7}  {'spread':>7}"
        )
        lines = [head.rstrip()]
        for layer in self.layers:
            mark = "->" if layer.name == self.default_layer else "  "
            lines.append(
                f"{mark} {layer.name:<{width}}  {layer.kind:<{kind}}  {layer.status:<8}  "
                f"{layer.gradient_share:>7.1e}  {layer.gradient_spread:>7.1e}"
            )
        return [*lines, "", *_LEGEND]

    def _note_lines(self) -> list[str]:
        if not self.notes:
            return []
        return ["", *(f"note: {note}" for note in self.notes)]
