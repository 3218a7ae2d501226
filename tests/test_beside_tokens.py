"""What reaches the score beside the tokens of the patches, unseen by methods at tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import g3dvit

DIM, EDGE = 16, 3
SHAPE = (1, 9, 9, 9)
AT_TOKENS = ("token_gradcam", "hirescam", "hirescam_blocks", "gradient_rollout", "frozen_gate")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(DIM, 32), nn.GELU(), nn.Linear(32, DIM))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ConvolvedPositions(Block):
    """A convolution over the patches' grid first; the class token joins them behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(DIM, DIM, 3, padding=1, groups=DIM)

    def forward(self, x: Tensor) -> Tensor:
        first, patches = x[:, :1], x[:, 1:].mT.reshape(-1, DIM, 3, 3, 3)
        patches = self.conv(patches) + patches
        return super().forward(torch.cat([first, patches.flatten(2).mT], 1))


class Model(nn.Module):
    def __init__(self, block: type[nn.Module] = Block, past: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, DIM, EDGE, EDGE)
        self.first = nn.Parameter(0.3 * torch.randn(1, 1, DIM))
        self.position = nn.Parameter(0.3 * torch.randn(1, 28, DIM))
        self.blocks = nn.ModuleList([block(), Block()])
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 2)
        self.past = past

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.head(self.norm(tokens)[:, 0])
        return out + self.past * x.mean((1, 2, 3, 4))[:, None] * torch.tensor([1.0, -1.0])


class Mean(nn.Module):
    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def verdicts(model: nn.Module, methods: tuple[str, ...] = AT_TOKENS) -> dict[str, set[str]]:
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)) + 0.5
    found = g3dvit.Explainer(model.eval(), SHAPE).explain(x, list(methods), score="log_odds")
    return {
        name: {
            c.verdict for row in found[name].checks for c in row if c.name == "beside the tokens"
        }
        for name in methods
    }


def test_a_plain_model_has_nothing_beside_its_tokens() -> None:
    torch.manual_seed(0)
    assert verdicts(Model()) == {name: {"pass"} for name in AT_TOKENS}


@pytest.mark.parametrize("what", ["second model", "path"])
def test_what_passes_by_the_tokens_fails_every_map_at_tokens(what: str) -> None:
    torch.manual_seed(0)
    model = Mean(Model(), Model()) if what == "second model" else Model(past=5.0)
    assert verdicts(model) == {name: {"fail"} for name in AT_TOKENS}


@pytest.mark.parametrize("method", AT_TOKENS[:-1])
def test_on_request_it_is_told_without_frozen_gates_too(method: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)) + 0.5
    for model, verdict in ((Model(past=5.0), "fail"), (Model(), "pass")):
        explainer = g3dvit.Explainer(model.eval(), SHAPE)
        options = {"score": "log_odds", "target": 0}
        plain = explainer.explain(x, method, **options)
        asked = explainer.explain(x, method, check="all", **options)
        both = explainer.explain(x, [method, "frozen_gate"], check="all", **options)
        for found, times in ((plain, 0), (asked, 1), (both[method], 1)):
            told = [[c for c in row if c.name == "beside the tokens"] for row in found.checks]
            assert [len(row) for row in told] == [times] * 3
            assert {c.verdict for row in told for c in row} <= {verdict}
        later = explainer.check(x, plain, "beside")
        expected = [
            c.value for row in both[method].checks for c in row if c.name == later[0][0].name
        ]
        assert [row[0].value for row in later] == pytest.approx(expected, abs=1e-6)


def test_its_size_is_that_of_the_path() -> None:
    torch.manual_seed(0)
    model, x = Model(past=5.0).eval(), torch.rand(2, *SHAPE)
    found = g3dvit.Explainer(model, SHAPE).explain(x, "frozen_gate", target=0, score="logit")
    size = found.relevance.flatten(1).abs().sum(1) + found.prefix.abs() + found.bias.abs()
    expected = 5.0 * x.mean((1, 2, 3, 4)) / torch.maximum(size, found.scores.abs())
    values = [c.value for row in found.checks for c in row if c.name == "beside the tokens"]
    assert values == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_class_token_that_joins_behind_a_convolution_is_prefix() -> None:
    torch.manual_seed(0)
    model, x = Model(ConvolvedPositions).eval(), torch.randn(2, *SHAPE)
    found = g3dvit.Explainer(model, SHAPE).explain(x, "frozen_gate", target=0, score="logit")
    assert float(found.completeness_error.max()) < 1e-5
    assert float(found.prefix.abs().min()) > 1e-3
    assert verdicts(model, ("frozen_gate",)) == {"frozen_gate": {"pass"}}
