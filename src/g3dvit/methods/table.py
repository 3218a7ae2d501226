"""The table of methods; a new method is one function and one row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from g3dvit.methods.attention import attention_rollout, gradient_rollout
from g3dvit.methods.frozen_gates import frozen_gate
from g3dvit.methods.gradients import (
    expected_gradients,
    gradient_x_input,
    integrated_gradients,
    smoothgrad,
)
from g3dvit.methods.tokens import (
    cam,
    gradcam,
    hirescam,
    hirescam_blocks,
    layercam,
    token_gradcam,
)

Source = Literal["layer", "layers", "linear head", "frozen gates", "input", "attention"]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to make a map.

    Parameters
    ----------
    name
        As in ``explain(x, method=name)``.
    title
        As in prose.
    function
        The pure function behind it.
    equation
        Relevance R of patch p (or voxel v), score y, features d.
    paper, url
        Where it comes from.
    cost
        In passes, for one score.
    source
        What it needs: one ``"layer"`` (graph from there on), all ``"layers"`` that feed an
        attention, a ``"linear head"``, a pass with ``"frozen gates"``, gradients at
        the ``"input"``, or every ``"attention"``.
    space
        The finest resolution it gives.
    signed
        True if evidence against the target is negative.
    class_specific
        True if another target gives another map.
    linear
        True if it is linear in the score (with default arguments): contrasts are differences of
        classes, and the log-odds maps of two classes are opposite.
    complete
        True if its shares add up to the score.
    arguments
        Arguments of ``explain`` that only some methods take, and this one does.
    units
        Of its maps, where they are not those of the score.
    """

    name: str
    title: str
    function: Callable[..., Any]
    equation: str
    paper: str
    url: str
    cost: str
    source: Source
    space: Literal["token", "voxel"]
    signed: bool
    class_specific: bool
    linear: bool
    complete: bool
    arguments: tuple[str, ...]
    units: str = ""


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            name="token_gradcam",
            title="token Grad-CAM",
            function=token_gradcam,
            equation="R_p = pool_d(dy/da_pd) * sum_d a_pd",
            paper="Selvaraju et al. 2017, Grad-CAM, with one weight per token and not per feature",
            url="https://doi.org/10.1109/ICCV.2017.74",
            cost="F + B_1",
            source="layer",
            space="token",
            signed=True,
            class_specific=True,
            linear=True,
            complete=False,
            arguments=("weighting", "target_layer"),
        ),
        Method(
            name="hirescam",
            title="HiResCAM",
            function=hirescam,
            equation="R_p = sum_d dy/da_pd * a_pd",
            paper="Draelos and Carin 2020, Use HiResCAM instead of Grad-CAM",
            url="https://arxiv.org/abs/2011.08891",
            cost="F + B_1",
            source="layer",
            space="token",
            signed=True,
            class_specific=True,
            linear=True,
            complete=False,
            arguments=("target_layer",),
        ),
        Method(
            name="gradcam",
            title="Grad-CAM",
            function=gradcam,
            equation="R_p = sum_d mean_q(dy/da_qd) * a_pd",
            paper="Selvaraju et al. 2017, Grad-CAM",
            url="https://doi.org/10.1109/ICCV.2017.74",
            cost="F + B_1",
            source="layer",
            space="token",
            signed=True,
            class_specific=True,
            linear=True,
            complete=False,
            arguments=("target_layer",),
        ),
        Method(
            name="layercam",
            title="LayerCAM",
            function=layercam,
            equation="R_p = sum_d max(dy/da_pd, 0) * a_pd",
            paper="Jiang et al. 2021, LayerCAM",
            url="https://doi.org/10.1109/TIP.2021.3089943",
            cost="F + B_1",
            source="layer",
            space="token",
            signed=True,
            class_specific=True,
            linear=False,
            complete=False,
            arguments=("target_layer",),
        ),
        Method(
            name="hirescam_blocks",
            title="HiResCAM over all blocks",
            function=hirescam_blocks,
            equation="R_p = sum_ld dy/da_lpd * a_lpd (a_l: what the attention of block l reads)",
            paper="Draelos and Carin 2020, HiResCAM, summed over blocks",
            url="https://arxiv.org/abs/2011.08891",
            cost="F + B",
            source="layers",
            space="token",
            signed=True,
            class_specific=True,
            linear=True,
            complete=False,
            arguments=(),
        ),
        Method(
            name="cam",
            title="CAM",
            function=cam,
            equation="R_p = sum_d w_d * a_pd / N (a: the tokens whose mean the linear head takes)",
            paper="Zhou et al. 2016, Learning Deep Features for Discriminative Localization",
            url="https://doi.org/10.1109/CVPR.2016.319",
            cost="F + B_1, and 5 F for one volume",
            source="linear head",
            space="token",
            signed=True,
            class_specific=True,
            linear=True,
            complete=True,
            arguments=(),
        ),
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
    )
}
