"""Rows of the methods that average frozen-gate maps over shifts of the input."""

from __future__ import annotations

from dataclasses import replace

from g3dvit.methods.row import Method
from g3dvit.methods.shift_averaged import shift_averaged, shift_weighted

_GAMMA = Method(
    name="shift_averaged_gamma",
    title="shift-averaged relevance with the gamma rule",
    function=shift_averaged,
    equation="R_p = sum_{v in p} mean_s F_s(v + s), F_s(v) = R_q max(R_v, 0) / sum_{u in q} "
    "max(R_u, 0) for v in q if R_q > 0, else R_q / |q| (gamma rule at x shifted by s)",
    paper="DAVE 2026, the idea of averaging over shifts; frozen gates with the gamma rule",
    url="https://arxiv.org/abs/2602.06613",
    cost="about 16 (F + B)",
    source="shifts",
    space="voxel",
    signed=True,
    class_specific=True,
    linear=False,
    complete=False,
    arguments=("shifts", "gamma"),
    defaults={"gamma": 0.5},
    display_only=True,
    spreading="signed",
)

_POSITIVE = Method(
    name="shift_averaged",
    title="shift-averaged relevance",
    function=shift_averaged,
    equation="R_p = sum_{v in p} mean_s F_s(v + s), F_s(v) = max(R_q, 0) |R_v| / sum_{u in q} "
    "|R_u| for v in q (frozen gates at x shifted by s)",
    paper="DAVE 2026, the idea of averaging over shifts; relevance with frozen gates",
    url="https://arxiv.org/abs/2602.06613",
    cost="8 (F + B)",
    source="shifts",
    space="voxel",
    signed=False,
    class_specific=True,
    linear=False,
    complete=False,
    arguments=("shifts",),
    display_only=True,
)
_LOCAL = replace(
    _GAMMA,
    name="shift_averaged_local",
    title="shift-averaged relevance against the surroundings",
    equation="R_p = sum_{v in p} mean_s F_s(v + s), F_s as in shift_averaged_gamma with "
    "R_v = s_v (x_v - r_q) where the model normalises patches: s_v the slope at the voxel "
    "(gates frozen), r_q the median level around patch q",
    paper="G3D-ViT, docs/methods.md; averaged over shifts as in DAVE 2026",
    against_surroundings=True,
)
_BY_EVIDENCE = (
    "R_p = sum_{v in p} sum_s (w_s F_s(v + s) + (1 - w_s) F_0(v)) / S, "
    "w_s = clip(m_s / m, 0, 1)^2, m the lead of the decision over the next class, m_s that at "
    "shift s, "
)

_WEIGHTED = replace(
    _POSITIVE,
    name="shift_weighted",
    title="weighted shift-averaged relevance",
    function=shift_weighted,
    equation=_BY_EVIDENCE + "F_s as in shift_averaged",
    paper="G3D-ViT, docs/methods.md; averaged over shifts as in DAVE 2026",
    cost="9 (F + B)",
    by_evidence=True,
)

SHIFT_ROWS: tuple[Method, ...] = (
    _POSITIVE,
    _WEIGHTED,
    replace(
        _WEIGHTED,
        name="shift_weighted_signed",
        title="signed shift-averaged relevance",
        equation=_BY_EVIDENCE + "and w_s = 0 where the patches of F_s(v + s), each averaged with "
        "its neighbours, correlate with those of F_0 by .3 or less, F_s(v) = c R_q max(g R_v, 0) / "
        "sum_{u in q} max(g R_u, 0) for v in q, g the sign of R_q, c = 1 if R_q > 0 else 1/2, R_v "
        "= s_v (x_v - r_q) where the model normalises patches: s_v the slope at the voxel (gates "
        "frozen), r_q the median level around patch q",
        signed=True,
        arguments=("shifts", "gamma"),
        defaults={"gamma": 0.0},
        against_surroundings=True,
        spreading="both",
    ),
    _GAMMA,
    _LOCAL,
    replace(
        _LOCAL,
        name="shift_weighted_local",
        title="weighted shift-averaged relevance against the surroundings",
        function=shift_weighted,
        equation=_BY_EVIDENCE + "F_s as in shift_averaged_local",
        cost="about 17 (F + B)",
        by_evidence=True,
    ),
)
