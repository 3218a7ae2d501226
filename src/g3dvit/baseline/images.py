"""What was found as images with an affine in mm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.baseline.found import Found
from g3dvit.baseline.searchlight import Spheres
from g3dvit.maps import RelevanceMap
from g3dvit.train.samples import Samples

Array = NDArray[np.float64]


def images_of(
    samples: Samples, found: Found, n_folds: int
) -> tuple[dict[str, RelevanceMap], dict[str, str]]:
    """Return maps by the name of their file, and those for ``g3dvit evaluate`` by their name there.

    Parameters
    ----------
    samples, found
        Of the job.
    n_folds
        Over which maps were averaged.
    """
    names = samples.class_names
    wanted: dict[str, tuple[Array, dict[str, Any]]] = {}
    if "linear_pattern" in found.maps:
        wanted["linear_pattern"] = (
            np.mean(found.maps["linear_pattern"], axis=0),
            {
                "title": "linear decoder: Haufe pattern, Cov(X) w, mean over folds",
                "units": "prepared value per standard deviation of the decision",
                "paper": "Haufe et al. 2014, https://doi.org/10.1016/j.neuroimage.2013.10.067",
                "volumes": "training volumes of each fold",
            },
        )
        wanted["linear_weights"] = (
            np.mean(found.maps["linear_weights"], axis=0),
            {
                "title": "linear decoder: weights, mean over folds; not to be read as places",
                "units": "decision per prepared value",
                "volumes": "training volumes of each fold",
            },
        )
    if found.glm_all is not None:
        wanted["glm"] = (
            found.glm_all,
            {"title": found.glm_words, "units": "z", "volumes": "all volumes"},
        )
    maps: dict[str, RelevanceMap] = {}
    for name, (values, about) in wanted.items():
        about |= {"method": name, "n_folds": n_folds}
        if len(values) == 1:
            about["target"] = f"{names[1]} against {names[0]}"
            maps[name] = _image(values[0], samples, about)
            continue
        for row, label in zip(values, names, strict=True):
            words = {**about, "target": f"{label} against the others"}
            maps[f"{name}_class-{''.join(c for c in label if c.isalnum())}"] = _image(
                row, samples, words
            )
        about["target"] = "size over classes (root mean square); not signed"
        maps[name] = _image(np.sqrt((values**2).mean(axis=0)), samples, about)
    if found.spheres is not None:
        plain = _searchlight_map(found, found.spheres, n_folds)
        maps["searchlight"] = plain
        # For patches: means of accuracies with zeros around the brain would be a map of how much
        # brain a patch holds.
        chance = 1 / len(names)
        above = np.where(plain.data > 0, np.maximum(plain.data - chance, 0), 0)
        about = {
            **plain.metadata,
            "title": "searchlight: held-out balanced accuracy above chance, mean over folds",
            "units": "balanced accuracy above chance, 0 below",
        }
        maps["searchlight_above_chance"] = replace(plain, data=above, metadata=about)
    listed: dict[str, str] = {}
    for name, file in (
        ("glm", "glm"),
        ("linear_pattern", "linear_pattern"),
        ("searchlight", "searchlight_above_chance"),
    ):
        if file in maps:
            listed[name] = file
    return maps, listed


def _image(values: Array, samples: Samples, about: Mapping[str, Any]) -> RelevanceMap:
    data = np.zeros(samples.grid.shape, np.float32)
    data[samples.brain] = values
    return RelevanceMap(data=data, grid=samples.grid, metadata=dict(about))


def _searchlight_map(found: Found, spheres: Spheres, n_folds: int) -> RelevanceMap:
    data = np.zeros(spheres.grid.shape, np.float32)
    data.reshape(-1)[spheres.centres] = np.mean(found.maps["searchlight"], axis=0)[0]
    return RelevanceMap(
        data=data,
        grid=spheres.grid,
        metadata={
            "method": "searchlight",
            "title": "searchlight: held-out balanced accuracy, mean over folds; 0 outside the "
            "brain",
            "units": "balanced accuracy",
            "radius_mm": found.radius_mm,
            "cube_edge_voxels": spheres.edge,
            "n_folds": n_folds,
            "paper": "Kriegeskorte et al. 2006, https://doi.org/10.1073/pnas.0600244103",
        },
        resolution_mm=(2 * found.radius_mm,) * 3,
    )


def searchlight_words(found: Found) -> dict[str, Any] | None:
    """Return plain facts about the searchlight; None without one."""
    if found.spheres is None:
        return None
    mean = np.mean(found.maps["searchlight"], axis=0)[0]
    spheres = found.spheres
    best = int(spheres.centres[int(mean.argmax())])
    ijk = np.array(np.unravel_index(best, spheres.grid.shape), dtype=np.float64)
    xyz = (spheres.grid.affine @ [*ijk, 1.0])[:3]
    return {
        "radius_mm": found.radius_mm,
        "cube_edge_voxels": spheres.edge,
        "n_spheres": len(mean),
        "peak_accuracy": float(mean.max()),
        "peak_xyz_mm": [round(float(v), 1) for v in xyz],
        "peak_is": f"the best of {len(mean)} on the test volumes themselves: not held out",
    }
