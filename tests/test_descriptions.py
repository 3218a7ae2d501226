from __future__ import annotations

import itertools

import numpy as np
import pytest
import yaml

from g3dvit.descriptions import (
    ModelDescription,
    load_description,
    overlaps_training,
    save_description,
)
from g3dvit.errors import DescriptionError, OutputError


def _volumes():
    return np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


@pytest.mark.parametrize("order", ["".join(p) for p in itertools.permutations("ijk")])
@pytest.mark.parametrize("channel", ["", "first", "last"])
def test_every_way_in_comes_back(order, channel):
    axes = ["b", *order]
    if channel:
        axes.insert(1 if channel == "first" else 4, "2")
    description = ModelDescription("a:B", input_axes=" ".join(axes))
    volumes = _volumes()
    inputs = description.to_input(volumes)
    if channel == "first":
        assert inputs.shape[1] == 2 and np.array_equal(inputs[:, 0], inputs[:, 1])
        inputs = inputs[:, 1]
    elif channel == "last":
        assert inputs.shape[-1] == 2 and np.array_equal(inputs[..., 0], inputs[..., 1])
        inputs = inputs[..., 1]
    for b, i, j, k in [(0, 1, 2, 3), (1, 2, 0, 4), (1, 0, 3, 1)]:
        place = {"i": i, "j": j, "k": k}
        assert inputs[(b, *(place[letter] for letter in order))] == volumes[b, i, j, k]
    assert np.array_equal(description.from_input(inputs), volumes)
    assert np.array_equal(description.from_input(inputs[0]), volumes[0])


def test_shapes_of_volume_and_input_belong_together():
    description = ModelDescription("a:B", input_axes="b 1 k i j", input_shape=(1, 5, 3, 4))
    assert description.volume_shape == (3, 4, 5)
    assert description.axes.input_shape((3, 4, 5)) == (1, 5, 3, 4)
    assert description.to_input(_volumes()).shape == (2, 1, 5, 3, 4)
    with pytest.raises(DescriptionError, match=r"takes volumes of \(3, 4, 5\) voxels"):
        description.to_input(_volumes().transpose(0, 2, 1, 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs `factory"),
        ({"factory": "package.Class"}, "package.module:Class"),
        ({"factory": "a:B", "wieghts": "x"}, "did you mean 'weights'"),
        ({"factory": "a:B", "arguments": [1]}, "`arguments` is a mapping"),
        ({"factory": "a:B", "class_names": [True, False]}, "put such a name in quotes"),
        ({"factory": "a:B", "class_names": ["x", "x"]}, "a name twice"),
        ({"factory": "a:B", "class_names": "ab"}, "`class_names` is a list"),
        ({"factory": "a:B", "input_axes": "b i j"}, "such as 'b 1 i j k'"),
        ({"factory": "a:B", "input_axes": "i j k"}, "such as 'b 1 i j k'"),
        ({"factory": "a:B", "input_axes": "b c i j k"}, "such as 'b 1 i j k'"),
        ({"factory": "a:B", "input_axes": "b 1 1 i j k"}, "such as 'b 1 i j k'"),
        ({"factory": "a:B", "input_shape": [1, 90, 90]}, "has 3 axes without the batch"),
        ({"factory": "a:B", "input_shape": [2, 9, 9, 9]}, "has 2 channels"),
        ({"factory": "a:B", "input_shape": [1, 9.5, 9, 9]}, "whole numbers"),
        ({"factory": "a:B", "vit_pytorch": 1.1}, "in quotes, such as '1.10.1'"),
        ({"factory": "a:B", "preparation": "MNI"}, "`preparation` is a mapping"),
        ([1], "is a mapping, was given"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(DescriptionError, match=message):
        ModelDescription.from_dict(values)


def test_file_and_back(tmp_path):
    from g3dvit.prepare import Preparation

    description = ModelDescription(
        factory="my_package.models:Nets.brain",
        arguments={"dim": 24, "size": [1, 2]},
        weights=tmp_path / "weights" / "a.safetensors",
        key_prefix="net.",
        preparation=Preparation.preset("MNI152NLin6Asym_2mm_90", standardise="time"),
        class_names=("stim", "rest"),
        input_axes="b k i j",
        input_shape=(90, 90, 90),
        trained_on=("sub-01", "sub-02_run-1"),
        vit_pytorch="1.10.1",
        accuracy={"n_correct": 9, "n_total": 10},
    )
    path = save_description(description, tmp_path / "model.yaml", comments=["Read me.", ""])
    text = path.read_text()
    assert text.startswith("# Read me.\n#\n")
    assert yaml.safe_load(text)["weights"] == "weights/a.safetensors"
    again = load_description(path)
    assert again.path == path
    for name in ModelDescription.__slots__:
        if name != "path":
            assert getattr(again, name) == getattr(description, name), name
    with pytest.raises(OutputError, match="exists"):
        save_description(description, path)
    save_description(ModelDescription("a:B"), path, overwrite=True)
    assert yaml.safe_load(path.read_text()) == {"factory": "a:B", "input_axes": "b 1 i j k"}
    assert [p.name for p in tmp_path.iterdir()] == ["model.yaml"]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DescriptionError, match="g3dvit init CHECKPOINT"):
        load_description(tmp_path / "no.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("factory: [")
    with pytest.raises(DescriptionError, match="cannot be read as a model description"):
        load_description(broken)
    broken.write_text("factory: nothing")
    with pytest.raises(DescriptionError, match=r"broken\.yaml: `factory` names"):
        load_description(broken)


def test_training_data_are_recognised():
    description = ModelDescription(
        "a:B", trained_on=("sub-01", "sub-02_task-rest_run-1", "sub-03_bold.nii.gz", "S07")
    )
    sources = {
        "/data/sub-01/func/sub-01_task-rest_bold.nii.gz": True,
        "/data/sub-010/func/sub-010_task-rest_bold.nii.gz": False,
        "sub-02_task-rest_run-1_space-MNI_bold.nii.gz": True,
        "sub-02_task-rest_run-2_space-MNI_bold.nii.gz": False,
        "sub-03_bold.nii": True,
        "S07_rest.mgz": True,
        "S077_rest.mgz": False,
    }
    for source, expected in sources.items():
        assert bool(overlaps_training(description, [source])) is expected, source
    assert overlaps_training(description, ["x/sub-01_a.nii"]) == [
        "sub-01_a.nii (trained on sub-01)"
    ]
    assert overlaps_training(ModelDescription("a:B"), list(sources)) == []
