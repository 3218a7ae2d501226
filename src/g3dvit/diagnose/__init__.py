"""Checks that tell whether a map is evidence or rounding.

Each check is a pure, scale-free measurement with a threshold, a verdict and a sentence for a
neuroscientist. A failed check marks a map, it never withholds it. Terms: for patch p and
feature d, ``a_pd`` are activations and ``g_pd`` gradients at the target layer; ``R_p`` is the
relevance; ``u`` is the rounding unit of the type the model computes in (6e-8 in float32, 4e-3
in bf16).

Always made; they need no further pass:

==================  =========================================================  ========  =======
check               measured                                                   fails at  warns at
==================  =========================================================  ========  =======
dead gradient       max_p |g_p| / max_t |g_t| over all tokens t                < 1e-6    < 1e-3
uniform gradient    |G - mean_p g_p| / |G|                                     < 1e-4    < 1e-2
empty map           max_p |R_p| / max(max_p |R_p|, |score|); where shares      < 1e-6    < 1e-3
                    are known, |prefix| and |bias| in the place of |score|
centring            sqrt(D) * median_p |sum_d a_pd| / sum_d |a_pd|             < 100 u   < 0.1
discarded share     median_p (sum_d gamma_d g_pd)^2 / (D |gamma g_p|^2)        -         -
finite values       share of patches whose R_p is not a finite number          > 0       -
positive share      sum_p max(R_p, 0) / sum_p |R_p|                            < 1e-6    < 1e-3
flat map            |R - mean_p R_p| / |R|                                     < 0.05    < 0.2
patch share         sum_p |R_p| / (sum_p |R_p| + |prefix| + |bias|)            < 0.02    < 0.2
position share      sum_p |pos_p| / sum_p (|content_p| + |pos_p|)              > 0.99    > 0.9
voxel share         sum_p |vox_p| / sum_p (|vox_p| + |bias_p| + |pos_p|)           < 0.01    < 0.03
voxels and patches  max_p |content_p - (vox_p + bias_p)| / max_p |content_p|       -         > 0.05
outside the brain   sum of |R_p| over patches without brain / sum_p |R_p|      > 0.5     > 0.25
saturated head      distance of an explained probability from 0 and 1          < 1e-6    < 1e-3
cancelling voxels   sum_p |R_p| / sum_v |R_v|                                  < 100 u   < 1e-3
completeness        |sum of shares - score| / max(|score|, sum |R|); in half   > 0.01    > 1e-4
                    precision, and along paths, it fails above 0.05 and warns
                    above 0.01
beside the tokens   sum_v |R_v| of what does not pass the tokens / max(|score|,  > 0.2   > 0.01
                    sum |R|); told by frozen gates, for methods at tokens in
                    the same call too, and without them on request
held constants      sum over tokens of |held constants| / max(|score|, sum |R|);  > 0.2    > 0.02
                    warns too where the model takes numbers out of torch
invisible patches   share of patches with var < eps, where the model begins    > 0.5     > 0.1
                    with a layer normalisation of each patch
removal             max_p |R_p| / max(max_p |R_p|, |score|)                    < 6e-6    < 1e-3
draws               rms standard error of R_p over their standard deviation    > 0.7     > 0.4
kept shifts         share of shifts that do not change the model's decision    0         < 0.5
evidence at shifts  mean over shifts of the decision's lead / lead unshifted   < 0       < 0.3
moved share         mean over shifts of w_s, the weight of moved volumes       -         -
moved and unmoved   correlation over patches of a map over shifts and that of  < 0       < 0.3
                    the volume as it is
==================  =========================================================  ========  =======

On the first batch of a run, or on request; they need passes of their own:

===================  ========================================================  ========  =======
check                measured                                                  fails at  warns at
===================  ========================================================  ========  =======
float64 agreement    Spearman correlation of float32 and float64 R_p           < 0.95    < 0.99
jitter               the same of x and x + noise of 1e-3 of each patch's sd    < 0.8     < 0.95
class-blind          the same of the explained class and the runner-up         > 0.98    > 0.9
input-blind          the same of different volumes, mean over pairs            > 0.98    > 0.9
amplitude blindness  change of the outputs, 2 x + 1 over x mirrored            -         < 1e-3
batch dependence     change of the outputs beside another volume, over mirrored  > 0.05  > 1e-3
invisible patches    the same of patches in the brain, and however the model   > 0.5     > 0.1
                     normalises its patches
attention steering   |g_full - g_frozen| / |g_full| at the voxels              -         -
better than chance   lower end of the interval of the balanced accuracy        <= chance -
===================  ========================================================  ========  =======

A centring of 0.8 is that of random features; a layer normalisation with unit weights and no bias
gives 2 to 5 u. The discarded share is the part of the gradient that a layer normalisation's own
backward pass throws away, and all that mean weights keep; 1/D is chance.

Where the thresholds are from: those of rounding are multiples of the rounding unit. A flat map of
one sign has a normalised entropy above 0.999. The others lie well beyond what ten trained
development models gave in 928 maps of right decisions (``tests/test_check_healthy.py``): lowest
spread 0.27, patch share 0.75 and voxel share 0.11, highest position share 0.89, mean correlation
between volumes 0.49 and between classes 0.38 (methods that know the class), float64 agreement and
jitter 0.996 and more. They are judged there on other models.
"""

from __future__ import annotations

from g3dvit.accuracy import balanced_accuracy, model_at_chance
from g3dvit.checks import Check, Verdict, judge, not_applicable, worst
from g3dvit.diagnose.compare import (
    agreement_float64,
    check_amplitude,
    check_batch,
    check_invisible,
    check_jitter,
    check_steering,
    class_blind,
    input_blind,
    mean_spearman,
    no_float64,
    spearman,
)
from g3dvit.diagnose.gradients import (
    cancelling,
    centring,
    check_cancelling,
    check_centring,
    check_dead,
    check_discarded,
    check_uniform,
    dead_gradient,
    discarded_share,
    rounding_unit,
    uniform_gradient,
)
from g3dvit.diagnose.maps import (
    check_against_unmoved,
    check_draws,
    check_empty,
    check_evidence_left,
    check_finite,
    check_flat,
    check_kept,
    check_moved_share,
    check_outside,
    check_positive,
    check_removal,
    check_saturated,
    evidence_left,
    not_finite,
    outside_share,
    positive_share,
    size_in_score,
    spread,
)
from g3dvit.diagnose.shares import (
    check_beside,
    check_completeness,
    check_held,
    check_patches,
    check_path,
    check_position,
    check_voxels,
    check_voxels_agree,
    completeness_limits,
    patch_share,
    position_share,
    voxel_disagreement,
    voxel_share,
)

__all__ = [
    "Check",
    "Verdict",
    "agreement_float64",
    "balanced_accuracy",
    "cancelling",
    "centring",
    "check_against_unmoved",
    "check_amplitude",
    "check_batch",
    "check_beside",
    "check_cancelling",
    "check_centring",
    "check_completeness",
    "check_dead",
    "check_discarded",
    "check_draws",
    "check_empty",
    "check_evidence_left",
    "check_finite",
    "check_flat",
    "check_held",
    "check_invisible",
    "check_jitter",
    "check_kept",
    "check_moved_share",
    "check_outside",
    "check_patches",
    "check_path",
    "check_position",
    "check_positive",
    "check_removal",
    "check_saturated",
    "check_steering",
    "check_uniform",
    "check_voxels",
    "check_voxels_agree",
    "class_blind",
    "completeness_limits",
    "dead_gradient",
    "discarded_share",
    "evidence_left",
    "input_blind",
    "judge",
    "mean_spearman",
    "model_at_chance",
    "no_float64",
    "not_applicable",
    "not_finite",
    "outside_share",
    "patch_share",
    "position_share",
    "positive_share",
    "rounding_unit",
    "size_in_score",
    "spearman",
    "spread",
    "uniform_gradient",
    "voxel_disagreement",
    "voxel_share",
    "worst",
]
