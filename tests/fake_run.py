"""A run result with a known answer, for tests of outputs, figures and page. Nothing was explained.

"right" is planted at the left hand knob, (-40, -22, 56) mm, and "left" at its mirror image.
The target of all maps is "right": evidence for it is positive on the left side, evidence
against it negative on the right side. frozen_gate passes its checks; token Grad-CAM fails one.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from g3dvit.aggregate import GroupedMeans, group_of
from g3dvit.grids import ImageGrid, PatchGrid
from g3dvit.maps import RelevanceMap, patch_map
from g3dvit.run_result import (
    Background,
    ClassMean,
    MapSet,
    ModelSummary,
    RunInput,
    RunResult,
    summarise_checks,
)

HAND_KNOB_MM = np.array([-40.0, -22.0, 56.0])
CLASSES = ("left", "right")


@dataclass(frozen=True)
class FakeCheck:
    name: str
    value: float
    threshold_warn: float | None
    threshold_fail: float | None
    verdict: str
    sentence: str


def grid_mm(shape, step, origin):
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = origin
    return ImageGrid(shape, affine)


FULL = PatchGrid(grid_mm((90, 90, 90), 2.0, (-90, -106, -72)), (9, 9, 9))
SMALL = PatchGrid(grid_mm((40, 48, 36), 4.0, (-80, -110, -64)), (5, 6, 4))


def blob(grid, centre_mm, sd_mm):
    """A Gaussian of height 1 at a place in mm, on any grid."""
    xyz = grid.vox2world(np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.exp(-(((xyz - centre_mm) / sd_mm) ** 2).sum(-1) / 2).astype(np.float32)


def mirrored(centre_mm):
    return np.asarray(centre_mm) * [-1, 1, 1]


def template_background():
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    data = np.asarray(image.dataobj, dtype=np.float32)
    return Background(data, ImageGrid(data.shape, image.affine), "MNI152 template (ICBM 2009a)")


def flat_background(grid):
    """A box head, quick to make: brighter towards the front."""
    ramp = np.linspace(0.3, 1, grid.shape[1], dtype=np.float32)[None, :, None]
    data = np.zeros(grid.shape, np.float32)
    data[3:-3, 3:-3, 3:-3] = np.broadcast_to(ramp, grid.shape)[3:-3, 3:-3, 3:-3]
    return Background(data, grid, "mean of the run")


def fake_run(
    *,
    patches=FULL,
    n_volumes=40,
    class_names=CLASSES,
    run_name="sub-01_task-motor_run-1",
    space="MNI152NLin6Asym",
    background=None,
    labelled=True,
    n_runs=1,
    seed=0,
):
    rng = np.random.default_rng(seed)
    grid, patch_grid = patches.volume, patches.to_image_grid()
    left, right = class_names
    evidence = {  # what speaks for "right", in a volume of either class
        right: blob(grid, HAND_KNOB_MM, 9) - 0.35 * blob(grid, mirrored(HAND_KNOB_MM), 9),
        left: 0.3 * blob(grid, HAND_KNOB_MM, 9) - blob(grid, mirrored(HAND_KNOB_MM), 9),
    }
    on_patches = {
        right: blob(patch_grid, HAND_KNOB_MM, 12)
        - 0.35 * blob(patch_grid, mirrored(HAND_KNOB_MM), 12),
        left: 0.3 * blob(patch_grid, HAND_KNOB_MM, 12)
        - blob(patch_grid, mirrored(HAND_KNOB_MM), 12),
    }
    rows, content, cam, weights, sums = [], [], [], [], []
    # what the position code adds to every volume alike
    position = 0.03 * np.random.default_rng(99).normal(size=patches.shape)
    gate_checks, cam_checks = [], []
    means = {name: GroupedMeans(patches.shape) for name in ("gate", "content", "cam")}
    voxel_means = GroupedMeans(grid.shape)
    for run in range(n_runs):
        for t in range(n_volumes):
            label = class_names[(t // 5) % 2]
            wrong = rng.random() < 0.15
            predicted = class_names[1 - class_names.index(label)] if wrong else label
            strength = rng.uniform(0.6, 1.2) * (0.4 if wrong else 1)
            p_right = 1 / (1 + np.exp(-rng.uniform(0.3, 3) * (1 if predicted == right else -1)))
            noise = 0.02 * rng.normal(size=patches.shape)
            content.append(0.3 * strength * on_patches[label] + noise)
            weights.append(1e-3 * rng.normal(size=patches.shape))
            sums.append(4e-6 * rng.normal(size=patches.shape))
            cam.append(weights[-1] * sums[-1])
            key = group_of(label if labelled else None, predicted)
            means["content"].add(key, content[-1])
            means["gate"].add(key, content[-1] + position)
            means["cam"].add(key, cam[-1])
            voxel_means.add(key, 0.004 * strength * evidence[label])
            gate_checks.append(
                (
                    FakeCheck(
                        "completeness", 2e-5, 0.01, 0.05, "pass", "Shares add up to the score."
                    ),
                    FakeCheck(
                        "D1 dead gradient", 0.8, 1e-3, 1e-6, "pass", "Gradients reach the patches."
                    ),
                )
            )
            cam_checks.append(
                (
                    FakeCheck(
                        "D1 dead gradient", 0.8, 1e-3, 1e-6, "pass", "Gradients reach the patches."
                    ),
                    FakeCheck(
                        "D3 centring",
                        2e-7,
                        0.1,
                        6e-6,
                        "fail",
                        "The features of each patch sum to zero but for rounding (ratio 2e-07, at "
                        "least 6e-06 needed): the map is rounding noise",
                    ),
                )
            )
            rows.append(
                {
                    "run": f"{run_name}" if n_runs == 1 else f"{run_name}{run + 1}",
                    "time_point": t,
                    "onset_s": 2.0 * t + 1.0,
                    "label": label if labelled else None,
                    "predicted": predicted,
                    "target": right,
                    "score": float(np.log(p_right / (1 - p_right))),
                    f"p_{left}": 1 - p_right,
                    f"p_{right}": p_right,
                    f"logit_{left}": -0.5 * float(np.log(p_right / (1 - p_right))),
                    f"logit_{right}": 0.5 * float(np.log(p_right / (1 - p_right))),
                    "block": t // 5,
                }
            )
    predictions = pd.DataFrame(rows)

    def of_runs(values, companions, metadata):
        stack = np.stack(values, axis=-1).astype(np.float32)
        extra = {name: np.stack(v, axis=-1).astype(np.float32) for name, v in companions.items()}
        return tuple(
            patch_map(
                stack[..., run * n_volumes : (run + 1) * n_volumes],
                patches,
                metadata=metadata,
                companions={
                    name: v[..., run * n_volumes : (run + 1) * n_volumes]
                    for name, v in extra.items()
                },
                t_r=2.0,
                sform_code=4,
                qform_code=4,
            )
            for run in range(n_runs)
        )

    def class_means(grouped, metadata, checks, voxels=None, contents=None):
        summary = summarise_checks(checks)
        found = []
        for key, running in grouped:
            parts = {}
            if contents is not None:
                parts = {"content": contents[key].mean, "position": position}
            patch = patch_map(
                running.mean, patches, metadata=metadata, companions=parts, sform_code=4
            )
            voxel = patch.to_grid(grid)
            if voxels is not None:
                voxel = RelevanceMap(
                    voxels[key].mean.astype(np.float32),
                    grid,
                    metadata=metadata,
                    resolution_mm=patch.resolution_mm,
                    sform_code=4,
                )
            found.append(ClassMean(key, running.n, patch, voxel, summary))
        return tuple(found)

    about_gate = {
        "method": "frozen_gate",
        "units": "log-odds",
        "target": right,
        "model_sha256": "ab" * 32,
    }
    about_cam = {
        "method": "token_gradcam",
        "units": "logit",
        "target": right,
        "model_sha256": "ab" * 32,
    }
    return RunResult(
        title=f"{run_name}: where the model looked",
        model=ModelSummary(
            name="hands.yaml (vit_pytorch.vit_3d.ViT)",
            sha256="ab" * 32,
            class_names=tuple(class_names),
            preparation=(
                "Reorient to RAS.",
                "Crop to 90 x 90 x 90 voxels of 2 mm, first voxel at (-90, -106, -72) mm.",
                "Standardise each voxel over the whole run after a linear trend is removed.",
            ),
            geometry="input (1, 90, 90, 90)\npatches 10 x 10 x 10 of 9 voxels\nprefix tokens 1",
            accuracy="held-out balanced accuracy 0.88 (35 of 40 volumes)",
            trained_on=("sim-01", "sim-02"),
        ),
        inputs=tuple(
            RunInput(
                name=f"{run_name}" if n_runs == 1 else f"{run_name}{run + 1}",
                source=f"/data/{run_name}_space-{space}_bold.nii.gz",
                grid=grid_mm((91, 109, 91), 2.0, (-90, -126, -72)),
                space=space,
                n_time_points=n_volumes,
                time_points=tuple(range(n_volumes)),
                t_r=2.0,
                selection="all volumes; labels from events.tsv, 5 s after onset",
            )
            for run in range(n_runs)
        ),
        target=right,
        volume_target=right,
        score="log-odds",
        predictions=predictions,
        maps=(
            MapSet(
                method="frozen_gate",
                title="frozen gate",
                units="log-odds",
                weighting=None,
                layer=None,
                signed=True,
                volumes=of_runs(
                    [values + position for values in content],
                    {"content": content, "position": [position] * len(content)},
                    about_gate,
                ),
                class_means=class_means(
                    means["gate"], about_gate, gate_checks, voxel_means, means["content"]
                ),
                checks=tuple(gate_checks),
                recommended=True,
                fine=True,
            ),
            MapSet(
                method="token_gradcam",
                title="token Grad-CAM",
                units="logit",
                weighting="mean",
                layer="transformer.layers.5.0.norm",
                signed=True,
                volumes=of_runs(cam, {"patch_weights": weights, "token_sum": sums}, about_cam),
                class_means=class_means(means["cam"], about_cam, cam_checks),
                checks=tuple(cam_checks),
            ),
        ),
        background=background or template_background(),
        prepared_grid=grid,
        space=space,
        checks=(
            FakeCheck(
                "model_at_chance",
                0.88,
                None,
                None,
                "pass",
                "Balanced accuracy 0.88, 95 % interval 0.74 to 0.95, is above chance (0.50).",
            ),
        ),
        warnings=(),
        notes=("The BOLD data are simulated; the answer is planted.",),
        provenance={"command": "g3dvit demo", "versions": {"torch": "2.14.1"}, "seed": seed},
        truth={right: evidence[right]},
    )


def small_run(**changes):
    """The same on a coarse grid without the template: quick."""
    given = {"patches": SMALL, "n_volumes": 12, "background": flat_background(SMALL.volume)}
    return fake_run(**{**given, **changes})


def named_runs(names, *, n_volumes=10, **changes):
    """A small result of several runs that are called like this."""
    run = small_run(n_runs=len(names), n_volumes=n_volumes, **changes)
    inputs = tuple(replace(one, name=name) for one, name in zip(run.inputs, names, strict=True))
    table = run.predictions.assign(run=np.repeat(names, n_volumes))
    return replace(run, inputs=inputs, predictions=table)
