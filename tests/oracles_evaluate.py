"""Slow, direct computations of what `g3dvit.evaluate` computes: loops over definitions."""

from __future__ import annotations

import numpy as np


def saco_by_definition(relevance, groups, drop_of):
    """SaCo pair by pair, as its paper states it; `drop_of(patches)` is the fall of the score."""
    order = sorted(range(len(relevance)), key=lambda p: -relevance[p])
    size = [len(part) for part in np.array_split(np.arange(len(order)), groups)]
    members, start = [], 0
    for n in size:
        members.append(order[start : start + n])
        start += n
    salience = [sum(relevance[p] for p in g) for g in members]
    drops = [drop_of(g) for g in members]
    faithful = total = 0.0
    for i in range(groups):
        for j in range(i + 1, groups):
            weight = salience[i] - salience[j]
            if drops[i] < drops[j]:
                weight = -weight
            faithful += weight
            total += abs(weight)
    return faithful / total


def curve_by_definition(relevance, inside, n_patches, counts, value_of, *, least_first):
    """One removal curve, patch after patch; `value_of(kept list)` is the score."""
    order = sorted(range(len(inside)), key=lambda n: -relevance[n])
    if least_first:
        order = order[::-1]
    values = []
    for count in counts:
        gone = {int(inside[n]) for n in order[:count]}
        values.append(value_of([p for p in range(n_patches) if p not in gone]))
    return np.array(values)


def icc_by_anova(ratings):
    """ICC(2,1) from a two-way analysis of variance with explicit sums."""
    n, k = ratings.shape
    grand = sum(sum(row) for row in ratings) / (n * k)
    ss_total = sum((ratings[i, j] - grand) ** 2 for i in range(n) for j in range(k))
    ss_rows = k * sum((sum(ratings[i]) / k - grand) ** 2 for i in range(n))
    ss_columns = n * sum((sum(ratings[:, j]) / n - grand) ** 2 for j in range(k))
    ms_rows = ss_rows / (n - 1)
    ms_columns = ss_columns / (k - 1)
    ms_error = (ss_total - ss_rows - ss_columns) / ((n - 1) * (k - 1))
    return (ms_rows - ms_error) / (ms_rows + (k - 1) * ms_error + k * (ms_columns - ms_error) / n)


def profile_by_loops(change, centre_mm, grid, edges):
    """Mean |change| by distance, voxel after voxel."""
    sums, counts = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for ijk in np.ndindex(change.shape):
        apart = np.linalg.norm(grid.vox2world(ijk) - centre_mm)
        for b in range(len(edges) - 1):
            if edges[b] <= apart < edges[b + 1]:
                sums[b] += abs(change[ijk])
                counts[b] += 1
    with np.errstate(invalid="ignore"):
        return sums / counts / np.abs(change).sum()
