"""The table of methods; a new method is one function and one row.

Rows of methods that read tokens are in `g3dvit.methods.table_tokens`, of those that run the model
on some of its patches or on other volumes in `g3dvit.methods.table_removal`, the others here.
"""

from __future__ import annotations

from g3dvit.methods.attention import attention_rollout, gradient_rollout
from g3dvit.methods.frozen_gates import frozen_gate
from g3dvit.methods.gradients import (
    expected_gradients,
    gradient_x_input,
    integrated_gradients,
    smoothgrad,
)
from g3dvit.methods.row import Method, Source
from g3dvit.methods.table_removal import REMOVAL_ROWS
from g3dvit.methods.table_tokens import TOKEN_ROWS

__all__ = ["METHODS", "Method", "Source"]

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        *TOKEN_ROWS,
        Method(
            name="frozen_gate",
            title="frozen-gate relevance",
            function=frozen_gate,
            equation="R_p = sum_d dy*/dh_pd * h_pd; R_v = dy*/dx_v * x_v (y* with gates frozen)",
            paper="Ali et al. 2022, XAI for Transformers (CP-LRP)",
            url="https://arxiv.org/abs/2202.07304",
            cost="F + B",
            source="frozen gates",
            space="voxel",
            signed=True,
            class_specific=True,
            linear=True,
            complete=True,
            arguments=(),
        ),
        Method(
            name="gradient_x_input",
            title="gradient times input",
            function=gradient_x_input,
            equation="R_p = sum_{v in p} dy/du_v * u_v (u: the voxels as the model sees them)",
            paper="Shrikumar et al. 2016, Not Just a Black Box",
            url="https://arxiv.org/abs/1605.01713",
            cost="F + B",
            source="input",
            space="voxel",
            signed=True,
            class_specific=True,
            linear=True,
            complete=False,
            arguments=(),
        ),
        Method(
            name="smoothgrad",
            title="SmoothGrad",
            function=smoothgrad,
            equation="R_p = sum_{v in p} mean_k dy/du_v(x + noise_k)",
            paper="Smilkov et al. 2017, SmoothGrad",
            url="https://arxiv.org/abs/1706.03825",
            cost="32 (F + B)",
            source="input",
            space="voxel",
            signed=True,
            class_specific=True,
            linear=True,
            complete=False,
            arguments=("samples", "noise", "seed"),
            units="score per unit of signal",
        ),
        Method(
            name="integrated_gradients",
            title="integrated gradients",
            function=integrated_gradients,
            equation="R_p = sum_{v in p} (x_v - r_v) * int_0^1 dy/dx_v(r + t (x - r)) dt",
            paper="Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks",
            url="https://arxiv.org/abs/1703.01365",
            cost="32 (F + B) per reference",
            source="input",
            space="voxel",
            signed=True,
            class_specific=True,
            linear=True,
            complete=True,
            arguments=("references", "samples"),
        ),
        Method(
            name="expected_gradients",
            title="expected gradients",
            function=expected_gradients,
            equation="R_p = sum_{v in p} E_{r,t} (x_v - r_v) * dy/dx_v(r + t (x - r))",
            paper="Erion et al. 2021, Improving performance of deep learning models",
            url="https://doi.org/10.1038/s42256-021-00343-w",
            cost="64 (F + B)",
            source="input",
            space="voxel",
            signed=True,
            class_specific=True,
            linear=True,
            complete=True,
            arguments=("references", "samples", "seed"),
        ),
        Method(
            name="attention_rollout",
            title="attention rollout",
            function=attention_rollout,
            equation="R_p = [r (A_L + I)/2 ... (A_1 + I)/2]_p (A_l: mean over heads)",
            paper="Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers",
            url="https://doi.org/10.18653/v1/2020.acl-main.385",
            cost="F, and with a class token F + B for one volume",
            source="attention",
            space="token",
            signed=False,
            class_specific=False,
            linear=False,
            complete=False,
            arguments=(),
            units="share of attention",
        ),
        Method(
            name="gradient_rollout",
            title="gradient rollout",
            function=gradient_rollout,
            equation="R_p = [r prod_l (I + mean_h max(A_l * dy/dA_l, 0)) - r]_p",
            paper="Chefer et al. 2021, Generic Attention-model Explainability",
            url="https://doi.org/10.1109/ICCV48922.2021.00045",
            cost="F + B, and with a class token F + B for one volume",
            source="attention",
            space="token",
            signed=False,
            class_specific=True,
            linear=False,
            complete=False,
            arguments=(),
            units="attention weighted by its gradient",
        ),
        *REMOVAL_ROWS,
    )
}
