"""The model is a guest: nothing of it changes, and the graph begins where it should."""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from g3dvit.capture import as_tokens, clean_input, first_output, guest, unwrap, watch_layer
from g3dvit.capture.gates import frozen_gates
from g3dvit.errors import LayerError, ModelError
from gallery import SHAPE, PlainEncoder, TinyViT, seeded


class Moody(nn.Module):
    """Changes buffers, draws random numbers and replaces a buffer, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x, failure=None):
        self.count += 1
        self.last = torch.rand(3)
        np.random.rand()  # noqa: NPY002 - as others' models do
        random.random()
        out = self.head(self.body(x))
        if failure is not None:
            raise failure
        return out


def fingerprint(model):
    return {
        "training": [(n, m.training) for n, m in model.named_modules()],
        "grad flags": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.sum().item()) for p in
                  model.parameters()],
        "buffers": [(n, id(b), b.tolist()) for n, b in model.named_buffers()],
        "parameters": [(n, id(p), p.sum().item()) for n, p in model.named_parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "fast": torch.backends.mha.get_fastpath_enabled(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }  # fmt: skip


def moody():
    model = Moody().train()
    model.body[1].eval()  # a mixture of modes
    model.head.bias.requires_grad_(False)
    model(torch.randn(5, 4)).sum().backward()
    return model


@pytest.mark.parametrize("failure", [None, ValueError("no"), KeyboardInterrupt()])
def test_guest_leaves_no_trace(failure):
    model = moody()
    before = fingerprint(model)
    try:
        with guest(model) as inside:
            assert not any(m.training for m in inside.modules())
            assert not any(p.requires_grad for p in inside.parameters())
            assert not torch.backends.cudnn.allow_tf32
            with watch_layer(inside, "body.0") as record:
                inside(torch.randn(3, 4), failure)  # random numbers are drawn, too
            assert record.calls == 1
    except BaseException as error:
        assert error is failure
    assert fingerprint(model) == before


def test_guest_leaves_no_trace_of_frozen_gates_after_an_exception():
    model, x = moody(), torch.randn(3, 4)
    before = fingerprint(model)
    with pytest.raises(ValueError, match="no"), guest(model) as g, frozen_gates(x, (4,)) as gates:
        g(gates.input, ValueError("no"))
    assert fingerprint(model) == before
    a = torch.randn(3, requires_grad=True)
    (grad,) = torch.autograd.grad(torch.softmax(a, 0)[0], a)
    assert grad.abs().max() > 0  # the mode is off again


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_inside_no_grad_and_inference_mode(mode):
    model = seeded(TinyViT)()
    with mode():
        x = torch.randn(2, 1, *SHAPE)
        before = fingerprint(model)
        with guest(model) as g, watch_layer(g, "blocks.1.norm1") as record:
            logits = g(clean_input(x))
            (gradient,) = torch.autograd.grad(logits[:, 0].sum(), record.activations)
        assert fingerprint(model) == before
    expected = direct_gradient(model, x.clone())
    torch.testing.assert_close(gradient.clone(), expected)


def direct_gradient(model, x, layer=lambda m: m.blocks[1].norm1):
    kept = []
    handle = layer(model).register_forward_hook(lambda *a: kept.append(a[2]))
    logits = model(x)
    handle.remove()
    return torch.autograd.grad(logits[:, 0].sum(), kept[-1])[0]


def test_parameters_made_in_inference_mode_are_replaced_for_the_time_being():
    with torch.inference_mode():
        model = seeded(TinyViT)()
    twin = seeded(TinyViT)()
    x = torch.randn(2, 1, *SHAPE)
    with guest(model) as g, watch_layer(g, "blocks.1.norm1") as record:
        logits = g(x)
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), record.activations)
    torch.testing.assert_close(gradient, direct_gradient(twin, x))
    assert all(p.is_inference() for p in model.parameters())


@pytest.mark.parametrize("how", ["function", "method"])
def test_compiled_models_run_eagerly(how):
    model = seeded(TinyViT)()
    x = torch.randn(2, 1, *SHAPE)
    expected = direct_gradient(model, x)
    if how == "function":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
        compiled = model
    with torch.no_grad():
        compiled(x)  # the compiled code exists before the hook is added
    with guest(compiled) as g, watch_layer(g, "blocks.1.norm1") as record:
        logits = g(x)
    assert record.calls == 1
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), record.activations)
    torch.testing.assert_close(gradient, expected)


def test_unwrap_opens_wrappers():
    model = nn.Linear(2, 2)
    assert unwrap(torch.compile(nn.DataParallel(model), backend="eager")) is model


def test_the_fused_encoder_layer_is_off_inside():
    model = seeded(PlainEncoder)()
    with guest(model) as g, watch_layer(g, "encoder.layers.1.norm1") as record, torch.no_grad():
        g(torch.randn(1, 1, *SHAPE))
    assert record.calls == 1


class Probe(torch.autograd.Function):
    """Tells whether a graph was being recorded where it stood."""

    recorded: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx, x):
        Probe.recorded.append(ctx.needs_input_grad[0])
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Listening(nn.Module):
    def forward(self, x):
        return Probe.apply(x)


def test_nothing_upstream_of_the_layer_is_recorded():
    model = nn.Sequential(
        nn.Linear(4, 4), Listening(), nn.LayerNorm(4), Listening(), nn.Linear(4, 2)
    )
    Probe.recorded.clear()
    with guest(model) as g, watch_layer(g, "2") as record:
        out = g(torch.randn(3, 4))
    assert Probe.recorded == [False, True]
    assert out.requires_grad and record.activations.is_leaf


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        x = self.norm(x)
        x += 1
        return x.square().sum(-1, keepdim=True)


def test_models_may_change_the_layers_output_in_place():
    x = torch.randn(3, 4)
    model = InPlace()
    with guest(model) as g, watch_layer(g, "norm") as record:
        out = g(x)
        (gradient,) = torch.autograd.grad(out.sum(), record.activations)
    plain = nn.functional.layer_norm(x, (4,))
    torch.testing.assert_close(record.activations, plain)
    torch.testing.assert_close(gradient, 2 * (plain + 1))


class Calls(nn.Module):
    """Normalises twice with the same function, and runs one module twice."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        a = nn.functional.layer_norm(x, (4,))
        b = nn.functional.layer_norm(a @ self.weight, (4,))
        return self.norm(self.norm(b) @ self.weight).square().sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("name", "step"), [(":layer_norm#1", 0), (":layer_norm#2", 1), ("norm#1", 2), ("norm#2", 3)]
)
def test_function_calls_and_repeated_runs_have_names(name, step):
    model, x = Calls(), torch.randn(3, 4)
    stages = []
    y = nn.functional.layer_norm(x, (4,))
    for _ in range(4):
        stages.append(y)
        y = nn.functional.layer_norm(y @ model.weight, (4,)) if len(stages) != 2 else model.norm(y)
    with guest(model) as g, watch_layer(g, name) as record:
        g(x)
    torch.testing.assert_close(record.activations, stages[step].detach())


def test_absent_and_unsuitable_layers_are_refused():
    model = nn.Sequential(nn.LSTM(3, 3), nn.Identity())
    with pytest.raises(LayerError, match="no layer 'nowhere'"), watch_layer(model, "nowhere"):
        pass
    with pytest.raises(LayerError, match="gives tuple"), watch_layer(model, "0"):
        model(torch.randn(2, 3))
    assert not model[0]._forward_hooks


def test_first_output_takes_the_one_matrix_of_a_mapping_and_never_guesses():
    z, features = torch.randn(3, 2), torch.randn(3, 8)
    assert first_output({"loss": torch.tensor(0.3), "tokens": torch.randn(3, 5, 8), "out": z}) is z
    assert first_output({"features": features, "logits": z}) is z
    with pytest.raises(
        ModelError, match=r"'features' \(3, 8\), 'out' \(3, 2\); call the right one"
    ):
        first_output({"features": features, "out": z})


def test_first_output_reads_tuples_mappings_and_vectors():
    z = torch.randn(3, 2)
    named = {"loss": None, "logits": z}
    for output in (z, (z, [z]), [z], named, {"out": z}, ({"logits": z},)):
        assert first_output(output) is z
    assert first_output(z[:, 0]).shape == (3, 1)
    with pytest.raises(ModelError, match="no class values"):
        first_output(None)
    with pytest.raises(ModelError, match=r"\(3, 2, 1\)"):
        first_output(z[..., None])


@pytest.mark.parametrize(
    "layout",
    ["b t d -> b t d", "b t d -> t b d", "b t d -> b d t", "grid last", "grid first"],
)
def test_tokens_are_found_in_every_layout(layout):
    tokens = torch.randn(2, 24, 5)
    if layout == "grid last":
        given = tokens.reshape(2, 2, 3, 4, 5)
    elif layout == "grid first":
        given = tokens.transpose(1, 2).reshape(2, 5, 2, 3, 4)
    else:
        left, right = (side.split() for side in layout.split("->"))
        given = tokens.permute([left.index(axis) for axis in right])
    torch.testing.assert_close(as_tokens(given, 2, 24), tokens)
    assert as_tokens(given, 2, 23) is None
