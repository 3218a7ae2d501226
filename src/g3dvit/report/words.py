"""The sentences that stand on every figure and page, in one place.

What a map shows and what it does not, what each method computes, and a methods text to paste.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from g3dvit import __version__
from g3dvit.run_result import CheckLike, ClassMean, MapSet, RunResult

USES_NOT_DIFFERS = (
    "A map shows what this model uses to classify these volumes, not where brains differ."
)
NOT_BOLD = (
    "Red is evidence for the class and blue is evidence against it, not higher or lower BOLD."
)

_METHODS = {
    "token_gradcam": (
        "Each patch is weighted by the pooled gradient of the score at its token (patch weight) "
        "and multiplied by what was seen there, the sum over the token's features (token sum).",
        "after Grad-CAM (Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74), with one weight per "
        "token instead of one per feature",
    ),
    "hirescam": (
        "Gradient times activation, feature by feature, summed within each patch token of the "
        "chosen layer.",
        "HiResCAM (Draelos & Carin 2020, arXiv:2011.08891)",
    ),
    "frozen_gate": (
        "The score is split exactly over patches, special tokens and biases, with attention and "
        "normalisation held as they were in this volume; the shares add up to the score.",
        "gradient times input with attention and normalisation frozen (Ali et al. 2022, "
        "arXiv:2202.07304)",
    ),
    "frozen_gate_noise": (
        "The score is split exactly over patches, special tokens and biases, with attention and "
        "normalisation held, in noisy copies of the volume; the mean shares are shown.",
        "frozen gates (Ali et al. 2022, arXiv:2202.07304), averaged over noise as in SmoothGrad "
        "(Smilkov et al. 2017, arXiv:1706.03825)",
    ),
    "frozen_gate_gamma": (
        "The score is split over patches, special tokens and biases, with attention and "
        "normalisation held; contributions that cancel each other count less. The shares add up "
        "to the score.",
        "frozen gates (Ali et al. 2022, arXiv:2202.07304) with the gamma rule (Achtibat et al. "
        "2024, arXiv:2402.05602)",
    ),
    "shift_averaged": (
        "What each patch adds to the score, where it is positive, is spread over its voxels by the "
        "size of their relevance, and averaged over shifts of the volume, so that the borders "
        "between patches lie elsewhere each time.",
        "frozen gates (Ali et al. 2022, arXiv:2202.07304), averaged over shifts after an idea of "
        "DAVE (arXiv:2602.06613)",
    ),
    "shift_weighted": (
        "What each patch adds to the score, where it is positive, is spread over its voxels by the "
        "size of their relevance, and averaged over shifts of the volume; shifts count by the "
        "evidence for the decision that they keep, and the volume as it is makes the rest.",
        "frozen gates (Ali et al. 2022, arXiv:2202.07304), averaged over shifts after an idea of "
        "DAVE (arXiv:2602.06613), weighted by evidence (G3D-ViT)",
    ),
    "shift_weighted_signed": (
        "What each patch adds to the score is spread over its voxels by how they differ from the "
        "patch's surroundings, evidence against the class counting half, and averaged over shifts "
        "of the volume; shifts count by the evidence for the decision that they keep, if they show "
        "the same places, and the volume as it is makes the rest.",
        "frozen gates (Ali et al. 2022, arXiv:2202.07304), averaged over shifts after an idea of "
        "DAVE (arXiv:2602.06613), weighted by evidence, for and against (G3D-ViT)",
    ),
    "shift_averaged_gamma": (
        "What each patch adds to the score (contributions that cancel each other count less) is "
        "spread over its voxels, finely where it is evidence for the class, and averaged over "
        "shifts of the volume.",
        "frozen gates with the gamma rule (Achtibat et al. 2024, arXiv:2402.05602), averaged over "
        "shifts after an idea of DAVE (arXiv:2602.06613)",
    ),
    "shift_averaged_local": (
        "What each patch adds to the score (contributions that cancel each other count less) is "
        "spread over its voxels, finely where it is evidence for the class, by how they differ "
        "from the patch's surroundings, and averaged over shifts of the volume.",
        "frozen gates with the gamma rule (Achtibat et al. 2024, arXiv:2402.05602), averaged over "
        "shifts after an idea of DAVE (arXiv:2602.06613), voxels against their surroundings "
        "(G3D-ViT)",
    ),
    "shift_weighted_local": (
        "What each patch adds to the score (contributions that cancel each other count less) is "
        "spread over its voxels, finely where it is evidence for the class, by how they differ "
        "from the patch's surroundings, and averaged over shifts of the volume; shifts count by "
        "the evidence for the decision that they keep, and the volume as it is makes the rest.",
        "frozen gates with the gamma rule (Achtibat et al. 2024, arXiv:2402.05602), averaged over "
        "shifts after an idea of DAVE (arXiv:2602.06613), voxels against their surroundings and "
        "weighted by evidence (G3D-ViT)",
    ),
    "token_removal": (
        "By how much the score falls when the token of one patch is really removed, one patch "
        "after the other.",
        "token removal (Jain et al. 2022, arXiv:2204.08945)",
    ),
    "occlusion": (
        "By how much the score falls when one patch is exchanged for that of real reference "
        "volumes, one patch after the other.",
        "occlusion (Zeiler & Fergus 2014, arXiv:1311.2901) by patches of real volumes",
    ),
    "rise": (
        "The mean score over random halves of the patches with a patch kept, less the mean over "
        "all halves.",
        "RISE (Petsiuk et al. 2018, arXiv:1806.07421) on tokens",
    ),
    "hirescam_blocks": (
        "Gradient times activation at what the attention of every block reads, added up over the "
        "blocks; their shares overlap and do not add up to the score.",
        "HiResCAM (Draelos & Carin 2020, arXiv:2011.08891), summed over blocks",
    ),
    "gradcam": (
        "One weight per feature, its gradient averaged over all patches, times what each patch "
        "holds of that feature: one direction for the whole volume.",
        "Grad-CAM (Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74) on tokens, before its ReLU",
    ),
    "layercam": (
        "The positive part of each patch's own gradient times its features; made for features that "
        "are never negative, which these are not.",
        "LayerCAM (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943) on tokens, before its ReLU",
    ),
    "xgradcam": (
        "As Grad-CAM, with weights that make the map add up to gradient times activation; features "
        "whose sum nearly cancels get very large ones.",
        "XGrad-CAM (Fu et al. 2020, arXiv:2008.02312) on tokens, before its ReLU",
    ),
    "gradcam_plus_plus": (
        "As Grad-CAM, with weights from positive gradients, derived for a score and features that "
        "a transformer does not have.",
        "Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063) on tokens, before its ReLU",
    ),
    "eigencam": (
        "How strongly each patch follows the pattern of features that varies most over patches; it "
        "knows no class, and its sign is a convention.",
        "EigenCAM (Muhammad & Yeasin 2020, arXiv:2008.00299) on tokens",
    ),
    "cam": (
        "What the last token of each patch adds to the score through a linear head; what it holds "
        "need not come from the place where it sits.",
        "CAM (Zhou et al. 2016, doi:10.1109/CVPR.2016.319), exact for this head",
    ),
    "gradient_x_input": (
        "The score's gradient at each voxel times what the model sees there; noisy in "
        "transformers, and blind to what is saturated.",
        "gradient times input (Shrikumar et al. 2016, arXiv:1605.01713)",
    ),
    "smoothgrad": (
        "The mean gradient over noisy copies: where a change would change the score, not what is "
        "there.",
        "SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825), signed",
    ),
    "integrated_gradients": (
        "What changes the score on the straight way from real reference volumes to this one; "
        "another reference gives another map.",
        "integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from real volumes",
    ),
    "expected_gradients": (
        "What changes the score on the way from real reference volumes to this one, averaged over "
        "random references and places on the way.",
        "expected gradients (Erion et al. 2021, doi:10.1038/s42256-021-00343-w)",
    ),
    "attention_rollout": (
        "Where the head's attention comes from, followed back through all blocks; it is the same "
        "for every class and does not say what was found there.",
        "attention rollout (Abnar & Zuidema 2020, doi:10.18653/v1/2020.acl-main.385)",
    ),
    "gradient_rollout": (
        "Attention that speaks for the class, followed back through all blocks; evidence against "
        "the class is not shown.",
        "gradient rollout (Chefer et al. 2021, doi:10.1109/ICCV48922.2021.00045)",
    ),
    "agcam": (
        "For each patch, how much more attention to it would raise the score, weighted by how well "
        "it matches what is looked for; evidence against the class is not shown.",
        "attention-guided CAM (Leem & Seo 2024, arXiv:2402.04563)",
    ),
    "legrad": (
        "By how much more attention to a patch would raise the score as read from each block, "
        "added up; evidence against the class is not shown.",
        "LeGrad (Bousselham et al. 2024, arXiv:2404.03214)",
    ),
}


def method_sentence(method: str) -> str:
    """Return one sentence that says what a method computes."""
    return _METHODS.get(method, (f"Relevance by the method {method}.", ""))[0]


def shares_beside(checks: Sequence[CheckLike]) -> str:
    """Return the shares that stand beside frozen-gate content, in a few words; else nothing."""
    values = {check.name: check.value for check in checks}
    if "position share" not in values:
        return ""
    words = f"position share {values['position share']:.0%}"
    steering = values.get("attention steering")
    return words if steering is None else f"{words}, attention steering {steering:.2f}"


def position_beside(maps: MapSet) -> str:
    """Return what a picture of frozen-gate content leaves out, and its share; else nothing."""
    shares = shares_beside(maps.summary)
    return f"position left out ({shares})" if shares and maps.content is not maps else shares


def stamp_of(checks: Sequence[CheckLike]) -> str | None:
    """Return the words to stamp across a map; None where no check failed."""
    failed = [f"{check.name}: {check.sentence}" for check in checks if check.verdict == "fail"]
    return "CHECK FAILED: " + " | ".join(failed) if failed else None


def units_on(maps: MapSet, on: str) -> str:
    """Return the units of values on ``"voxels"`` or ``"patches"``.

    Where a method divides the relevance of a patch among its voxels, a value is that of one of
    them: on 15 x 15 x 15 voxels the same map has numbers thousands of times smaller.
    """
    each = {"voxels": "per voxel", "patches": "per patch"}[on]
    return f"{maps.units} {each}".strip() if maps.fine else maps.units


def map_words(metadata: Mapping[str, Any]) -> list[str]:
    """Return what a single map is of, as its sidecar tells: method, weighting, target.

    Examples
    --------
    >>> map_words({"method": "frozen_gate", "companion": "content", "target": "right"})
    ['content of frozen_gate', 'right']
    """
    words = [str(metadata[key]) for key in ("method", "weighting", "target") if metadata.get(key)]
    companion = str(metadata.get("companion") or "").replace("_", " ")
    return [f"{companion} of {words[0]}", *words[1:]] if companion and words else words


def stamp_in(metadata: Mapping[str, Any]) -> str | None:
    """Return the stamp that a map's sidecar carries, for checks of the map and of its run."""
    stamps = [metadata.get("stamp"), *(metadata.get("stamps") or [])]
    failed = [
        f"CHECK FAILED: {check['name']}: {check['sentence']}"
        for check in metadata.get("run_checks") or []
        if check.get("verdict") == "fail"
    ]
    return next((str(stamp) for stamp in [*stamps, *failed] if stamp), None)


def shows(result: RunResult, maps: MapSet, mean: ClassMean | None = None) -> str:
    """Return what a class mean of a method shows, or all of them, in a heading's words."""
    own = [one for one in maps.class_means if one.target]
    label = maps.content.label
    if mean is not None:
        return f"{label}: evidence for “{mean.target or result.target}”"
    if own:
        return f"{label}: evidence for the volumes' own class"
    return f"{label}: evidence for “{result.target}”"


def display_sentence(*maps: MapSet) -> str:
    """Return that maps are for display only, where some are; empty where none is."""
    shown = [one for one in maps if one.display_only]
    if not shown:
        return ""
    own = [mean for one in shown for mean in one.class_means if mean.target]
    why = "; each class mean explains its own class, so that they cannot be subtracted" * bool(own)
    named = " and ".join(one.label for one in shown)
    are = "is" if len(shown) == 1 else "are"
    return f"{named[:1].upper()}{named[1:]} {are} for display, not for statistics{why}."


def millimetres(edges: Sequence[float]) -> str:
    """Return edges as text.

    Examples
    --------
    >>> millimetres((18.0, 18.0, 13.5))
    '18 × 18 × 13.5 mm'
    """
    return " × ".join(f"{edge:.4g}" for edge in edges) + " mm"


def wrapped(text: str, width: int) -> str:
    """Return text for a figure in lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(plain_text(text), width, break_long_words=True))


def plain_text(text: str) -> str:
    """Return text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def has_template_space(space: str | None) -> bool:
    """Tell whether coordinates may be called MNI: of the template of adults.

    Examples
    --------
    >>> has_template_space("MNI152NLin2009cAsym"), has_template_space("T1w")
    (True, False)
    >>> has_template_space("MNIInfant")
    False
    """
    if space is None or not space.upper().startswith("MNI"):
        return False
    return not any(word in space.upper() for word in ("INFANT", "PEDIATRIC"))


def methods_text(result: RunResult) -> str:
    """Return a paragraph for a paper's methods section."""
    volumes = sum(len(run.time_points) for run in result.inputs)
    runs = len(result.inputs)
    names = ", ".join(result.model.class_names)
    sentences = [
        f"Relevance maps were computed with G3D-ViT {__version__} for a 3D Vision Transformer "
        f"({result.model.name}; classes: {names}) from {volumes} volumes of {runs} "
        f"{'run' if runs == 1 else 'runs'}.",
        f"Preparation, as in training: {' '.join(result.model.preparation)}"
        if result.model.preparation
        else "",
        f"The explained score is the {result.score} of “{result.target}”, the same target for "
        f"all class means unless said otherwise.",
    ]
    if any(maps.volumes for maps in result.maps) and result.volume_target != result.target:
        sentences.append(f"Maps of single volumes explain the {result.volume_target}.")
    for maps in result.maps:
        name = f"{maps.label[0].upper()}{maps.label[1:]}"
        at = f" at {maps.layer}" if maps.layer else ""
        source = _METHODS.get(maps.method, ("", ""))[1]
        source = f" ({source})" if source else ""
        what = f"{method_sentence(maps.method)} {display_sentence(maps)}".rstrip()
        sentences.append(f"{name}{at}{source}: {what}")
        if any(mean.target for mean in maps.class_means):
            counts = "; ".join(mean.title for mean in maps.class_means)
            sentences.append(f"Its class means explain each group's own class ({counts}).")
        sentences += _settings(maps)
        if maps.content is not maps:
            sentences.append(
                "Pictures and tables of regions take the content, without what the place of a "
                "patch adds whatever is shown there."
            )
        sentences.append(_told(maps.summary, "These maps"))
    if result.maps:
        edges = millimetres(result.maps[0].resolution_mm)
        sentences.append(f"The effective resolution is one patch, {edges}.")
    one_sign = [maps.label for maps in result.maps if not maps.signed]
    but = f", but those of {' and '.join(one_sign)}, which have one sign" if one_sign else ""
    sentences.append(_told(result.checks, "The whole run"))
    sentences.append(
        f"{_averaged(result)}; values are unscaled, and signed{but}. "
        f"Accuracy of the model: {result.model.accuracy.rstrip('.')}."
    )
    return " ".join(sentence for sentence in sentences if sentence)


def _settings(maps: MapSet) -> list[str]:
    """Return what was set for a method, and which volumes its means are of, where told."""
    each = [*(mean.patch for mean in maps.class_means), *maps.volumes][:1]
    told = each[0].metadata if each else {}
    options, sample = told.get("options"), told.get("sample")
    sentences = []
    if isinstance(options, Mapping) and (set_to := [f"{k} {v}" for k, v in options.items()]):
        sentences.append(f"Settings: {', '.join(set_to)}.".replace("_", " "))
    if isinstance(sample, Mapping) and sample.get("rule"):
        sentences.append(f"Its class means are of {sample['rule']}.")
    return sentences


def _told(checks: Sequence[CheckLike], of: str) -> str:
    """Return which checks failed or warned, in sentences; empty where all passed."""
    told = []
    for verdict, words in (("fail", "failed"), ("warn", "drew warnings of")):
        names = [check.name.replace("_", " ") for check in checks if check.verdict == verdict]
        if names:
            told.append(f"{of} {words} the check{'s' * (len(names) > 1)} {', '.join(names)}.")
    return " ".join(told)


def _averaged(result: RunResult) -> str:
    if not result.part:
        return "Volumes that the model classified correctly and wrongly were averaged apart"
    return (
        f"These volumes are of {result.part}; those that the model classified correctly were "
        "averaged patch by patch, and describe this part alone"
    )
