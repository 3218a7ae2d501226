"""Streaming moments equal numpy's, whatever the order and the split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g3dvit.aggregate import GroupedMeans, GroupKey, RunningMean, group_of
from g3dvit.errors import GridError


def running_of(values):
    running = RunningMean(values.shape[1:])
    for value in values:
        running.add(value)
    return running


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 30), cut=st.integers(0, 30), offset=st.sampled_from([0.0, 1e6, -3.5]))
def test_mean_and_variance_equal_numpys_also_after_merging(n, cut, offset):
    values = np.random.default_rng(n).normal(size=(n, 3, 2, 4)) + offset
    cut = min(cut, n)
    running = running_of(values[:cut])
    running.merge(running_of(values[cut:]))
    assert running.n == n
    np.testing.assert_allclose(running.mean, values.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(running.variance(), values.var(axis=0), rtol=1e-7)
    np.testing.assert_allclose(running.variance(ddof=1), values.var(axis=0, ddof=1), rtol=1e-7)


def test_large_offset_loses_no_variance():
    values = np.random.default_rng(0).normal(size=(500, 5)) + 1e8
    np.testing.assert_allclose(running_of(values).variance(), values.var(axis=0), rtol=1e-6)


def test_empty_mean_is_nan_and_merges_into_anything():
    empty, full = RunningMean((2,)), running_of(np.array([[1.0, 2.0]]))
    assert np.isnan(empty.mean).all()
    assert np.isnan(full.variance(ddof=1)).all()
    empty.merge(RunningMean((2,)))
    assert empty.n == 0
    empty.merge(full)
    assert empty.mean.tolist() == [1.0, 2.0]


def test_mean_handed_out_is_a_copy():
    running = running_of(np.ones((3, 2)))
    running.mean[:] = 9
    assert running.mean.tolist() == [1.0, 1.0]


def test_groups_by_label_and_by_prediction_only_without_label():
    volumes = [("L", "L", 1.0), ("L", "R", 2.0), ("R", "R", 3.0), (None, "L", 4.0), ("L", "L", 5.0)]
    means = GroupedMeans((1,))
    for label, predicted, value in volumes:
        means.add(group_of(label, predicted), [value])
    assert [(str(key), run.n, run.mean[0]) for key, run in means] == [
        ("all/L", 1, 4.0),
        ("correct/L", 2, 3.0),
        ("error/L", 1, 2.0),
        ("correct/R", 1, 3.0),
    ]


def test_groups_merge_over_runs():
    one, two = GroupedMeans((1,)), GroupedMeans((1,))
    one.add(GroupKey("L", "correct"), [1.0])
    two.add(GroupKey("L", "correct"), [3.0])
    two.add(GroupKey("R", "correct"), [7.0])
    one.merge(two)
    assert one[GroupKey("L", "correct")].mean.tolist() == [2.0]
    assert one[GroupKey("R", "correct")].n == 1
    two.add(GroupKey("R", "correct"), [9.0])  # merging took values, not the other's memory
    assert one[GroupKey("R", "correct")].n == 1


def test_other_shape_is_refused():
    with pytest.raises(GridError, match=r"shape \(3,\) cannot join a mean of shape \(2,\)"):
        RunningMean((2,)).add([1.0, 2.0, 3.0])
