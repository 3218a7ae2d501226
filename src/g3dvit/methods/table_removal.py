"""Rows of the methods that run the model on some of its patches, or with patches exchanged."""

from __future__ import annotations

from g3dvit.methods.removal import occlusion, rise, token_removal
from g3dvit.methods.row import Method

REMOVAL_ROWS: tuple[Method, ...] = (
    Method(
        name="token_removal",
        title="token removal",
        function=token_removal,
        equation="R_p = y(all patches) - y(all but p) (the token of p is really removed)",
        paper="Jain et al. 2022, Missingness Bias in Model Debugging",
        url="https://arxiv.org/abs/2204.08945",
        cost="N F",
        source="kept tokens",
        space="token",
        signed=True,
        class_specific=True,
        linear=True,
        complete=False,
        arguments=(),
    ),
    Method(
        name="occlusion",
        title="occlusion by real volumes",
        function=occlusion,
        equation="R_p = y(x) - mean_r y(x with patch p of the reference volume r)",
        paper="Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks",
        url="https://arxiv.org/abs/1311.2901",
        cost="N F per reference",
        source="kept tokens",
        space="token",
        signed=True,
        class_specific=True,
        linear=True,
        complete=False,
        arguments=("references",),
    ),
    Method(
        name="rise",
        title="RISE on tokens",
        function=rise,
        equation="R_p = mean_{k keeps p} y(m_k) - mean_k y(m_k) (m_k: random halves of the tokens)",
        paper="Petsiuk et al. 2018, RISE",
        url="https://arxiv.org/abs/1806.07421",
        cost="512 F",
        source="kept tokens",
        space="token",
        signed=True,
        class_specific=True,
        linear=True,
        complete=False,
        arguments=("samples", "seed"),
        defaults={"samples": 512},
    ),
)
