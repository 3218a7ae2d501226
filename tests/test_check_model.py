"""`g3dvit check`: class values against a pipeline written here, accuracy, and the picture."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage

from g3dvit.check_model import check_model, read_expected
from g3dvit.cli import main
from g3dvit.compare_logits import compare_logits
from g3dvit.errors import DescriptionError, InputError
from g3dvit.grids import ImageGrid
from g3dvit.report.check_figure import check_figure, save_figure
from g3dvit.run import RunSource

vit_3d = pytest.importorskip("vit_pytorch.vit_3d")
MODEL = """\
factory: vit_pytorch.vit_3d:ViT
arguments: {image_size: [6, 10], image_patch_size: [3, 5], frames: 8, frame_patch_size: 4,
            num_classes: 2, dim: 12, depth: 1, heads: 2, mlp_dim: 12, channels: 1}
weights: w.safetensors
class_names: [stim, rest]
input_axes: b 1 i j k
vit_pytorch: 1.26.11
preparation: {steps: [{step: standardise, kind: volume}]}
"""


@pytest.fixture
def job(tmp_path):
    """Return a folder with a model, a run of 12 volumes, and the class values of a plain loop."""
    torch.manual_seed(3)
    net = vit_3d.ViT(
        image_size=(6, 10), image_patch_size=(3, 5), frames=8, frame_patch_size=4, num_classes=2,
        dim=12, depth=1, heads=2, mlp_dim=12, channels=1,
    ).eval()  # fmt: skip
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "model.yaml").write_text(MODEL)
    data = np.random.default_rng(1).normal(90, 20, (8, 6, 10, 12)).astype(np.float32)
    image = nib.Nifti1Image(data, np.diag([3, 3, 3, 1.0]))
    image.header["pixdim"][4] = 2.0
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "sub-01_bold.nii.gz")
    with torch.no_grad():
        logits = [
            net(torch.from_numpy((v - v.mean()) / v.std())[None, None])[0].numpy()
            for v in np.moveaxis(data, 3, 0)
        ]
    np.save(tmp_path / "logits.npy", np.stack(logits))
    return tmp_path


def _source(folder, **more):
    return RunSource((folder / "sub-01_bold.nii.gz",), **more)


def test_class_values_of_the_own_pipeline_are_met(job):
    checked = check_model(_source(job), job / "model.yaml", expected=np.load(job / "logits.npy"))
    assert checked.comparison.verdict == "same"
    assert checked.comparison.largest_difference < 1e-5
    assert checked.comparison.correlation == pytest.approx(1, abs=1e-6)
    assert len(checked.rows) == 12 and checked.rows[3][:3] == ("sub-01", 3, None)
    assert checked.accuracy() is None
    assert checked.shown.time_point == 6


@pytest.mark.parametrize(
    ("preparation", "axes", "cause"),
    [
        # FSL's stored LAS against RAS: the commonest fault
        ("{steps: [{step: reorient, axcodes: LAS}, {step: standardise, kind: volume}]}", None,
         "mirrored along i: check the orientation"),
        ("{steps: []}", None, "each prepared volume is z-scored"),
        ("{steps: [{step: standardise, kind: volume}]}", "b 1 i j k", None),
    ],
)  # fmt: skip
def test_the_cause_of_a_difference_is_named(job, preparation, axes, cause):
    text = MODEL.split("preparation:")[0] + f"preparation: {preparation}\n"
    (job / "model.yaml").write_text(text)
    if "{steps: []}" in preparation:  # vit_3d cannot see scale and offset; a conv stem can
        (job / "my_check_net.py").write_text(
            "import torch\n"
            "from torch import nn\n"
            "class Net(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.conv = nn.Linear(480, 2)\n"
            "    def forward(self, x):\n"
            "        return self.conv(x.flatten(1))\n"
        )
        torch.manual_seed(0)
        net = torch.nn.ModuleDict({"conv": torch.nn.Linear(480, 2)})
        save_file(net.state_dict(), job / "w.safetensors")
        (job / "model.yaml").write_text(
            f"factory: my_check_net:Net\nweights: w.safetensors\npreparation: {preparation}\n"
        )
        data = np.moveaxis(nib.load(job / "sub-01_bold.nii.gz").get_fdata(), 3, 0)
        flat = np.stack([(v - v.mean()) / v.std() for v in data]).reshape(12, -1)
        weight, bias = (net["conv"].weight.detach().numpy(), net["conv"].bias.detach().numpy())
        expected = flat @ weight.T + bias
    else:
        expected = np.load(job / "logits.npy")
    checked = check_model(_source(job), job / "model.yaml", expected=expected)
    if cause is None:
        assert checked.comparison.verdict == "same"
    else:
        assert checked.comparison.verdict == "different"
        assert any(cause in sentence for sentence in checked.comparison.sentences)


def test_accuracy_over_events(job):
    (job / "events.tsv").write_text("onset\tduration\ttrial_type\n0\t8\tface\n16\t8\tface\n")
    source = _source(
        job,
        events=(job / "events.tsv",),
        classes={"stim": ("face",), "rest": ("BASELINE",)},
        delay_s=0.0,
    )
    checked = check_model(source, job / "model.yaml")
    predicted = np.load(job / "logits.npy").argmax(1)
    stim = [row[1] for row in checked.rows if row[2] == "stim"]
    rest = [row[1] for row in checked.rows if row[2] == "rest"]
    assert len(stim) == 8 and len(rest) == 4
    hits = (int((predicted[stim] == 0).sum()), int((predicted[rest] == 1).sum()))
    assert checked.counts() == {"stim": (hits[0], 8), "rest": (hits[1], 4)}
    accuracy, balanced = checked.accuracy()
    assert accuracy == pytest.approx(sum(hits) / 12)
    assert balanced == pytest.approx((hits[0] / 8 + hits[1] / 4) / 2)


def test_what_two_tables_tell():
    generator = np.random.default_rng(2)
    own = generator.normal(size=(20, 3))
    softmax = np.exp(own) / np.exp(own).sum(1, keepdims=True)
    cases = {
        "save logits, not softmax": softmax,
        "another order: [2, 0, 1]": own[:, [2, 0, 1]],
        "shifted by 2": np.roll(own, 2, axis=0),
        "every map is void": generator.normal(size=(20, 3)),
    }
    for words, expected in cases.items():
        comparison = compare_logits(own, expected)
        assert comparison.verdict == "different"
        assert any(words in sentence for sentence in comparison.sentences), words
    assert compare_logits(own, own + 1e-6).verdict == "same"
    assert compare_logits(own, own + 0.02).verdict == "close"
    one = own[:, :1]
    assert "sigmoid" in " ".join(compare_logits(one, 1 / (1 + np.exp(-one))).sentences)
    with pytest.raises(InputError, match="gives 3 values per volume, the expected ones are 2"):
        compare_logits(own, own[:, :2])


def test_expected_values_from_files(tmp_path):
    table = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "a.npy", table)
    (tmp_path / "b.tsv").write_text("stim\trest\n0\t1\n2\t3\n4\t5\n")
    (tmp_path / "c.csv").write_text("0,1\n2,3\n4,5\n")
    for name in ("a.npy", "b.tsv", "c.csv"):
        assert np.array_equal(read_expected(tmp_path / name), table)
    (tmp_path / "d.csv").write_text("0,1\n2,x\n")
    with pytest.raises(InputError, match="cannot be read from"):
        read_expected(tmp_path / "d.csv")


def test_what_does_not_fit_is_refused(job):
    with pytest.raises(InputError, match=r"\(11, 2\) of float32, but 12 volumes were chosen"):
        check_model(_source(job), job / "model.yaml", expected=np.load(job / "logits.npy")[1:])
    (job / "model.yaml").write_text(MODEL.replace("[stim, rest]", "[stim, rest, other]"))
    with pytest.raises(DescriptionError, match="names 3 classes"):
        check_model(_source(job), job / "model.yaml")


def test_command(job, capsys):
    picture = job / "check.png"
    words = ["check", str(job / "sub-01_bold.nii.gz"), "--model", str(job / "model.yaml")]
    words += ["-o", str(picture), "--device", "cpu"]
    assert main([*words, "--expect", str(job / "logits.npy")]) == 0
    captured = capsys.readouterr()
    assert "class values: SAME" in captured.out
    assert captured.out.strip().endswith(str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(words) == 1
    assert "exists" in capsys.readouterr().err
    np.save(job / "wrong.npy", -np.load(job / "logits.npy"))
    assert main([*words, "--overwrite", "--expect", str(job / "wrong.npy")]) == 1
    assert "class values: DIFFERENT" in capsys.readouterr().out
    assert sorted(p.name for p in job.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSL", "oblique"])
def test_left_is_drawn_on_the_left(codes):
    """A bright block in the left front top corner is drawn there, however it is stored."""
    data = np.zeros((12, 14, 10), np.float32)
    data[1:4, 9:12, 6:9] = 5  # left, front, top of a RAS grid
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-11, -20, -18]
    if codes == "oblique":
        angle = np.deg2rad(8)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        affine[:2, :2] = turn @ affine[:2, :2]
    elif codes != "RAS":
        image = nib.Nifti1Image(data, affine)
        wanted = nib.orientations.axcodes2ornt(codes)
        image = image.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
        )
        data, affine = np.asarray(image.dataobj), image.affine
    grid = ImageGrid(data.shape, affine)
    where = grid.vox2world(ndimage.center_of_mass(data))
    figure = check_figure(data, grid, title="a title", cut_coords=where)
    sagittal, coronal, axial, values = figure.axes
    assert [t.get_text() for t in axial.texts] == ["L", "R", "P", "A"]
    assert [t.get_text() for t in coronal.texts] == ["L", "R", "I", "S"]
    assert [t.get_text() for t in sagittal.texts] == ["P", "A", "I", "S"]
    for axis, (right, up) in ((sagittal, (1, 2)), (coronal, (0, 2)), (axial, (0, 1))):
        shown = np.asarray(axis.images[0].get_array())  # rows upwards, columns to the right
        left_mm, right_mm, low_mm, high_mm = axis.images[0].get_extent()
        assert left_mm < right_mm and low_mm < high_mm
        row, column = ndimage.center_of_mass(shown)
        x = left_mm + (column + 0.5) / shown.shape[1] * (right_mm - left_mm)
        y = low_mm + (row + 0.5) / shown.shape[0] * (high_mm - low_mm)
        tolerance = 2.5 if codes == "oblique" else 1e-3
        assert (x, y) == pytest.approx((where[right], where[up]), abs=tolerance)
    assert values.get_title() == "values the model gets"


def test_picture_appears_whole_or_not(tmp_path, monkeypatch):
    grid = ImageGrid((4, 5, 6), np.eye(4))
    figure = check_figure(np.zeros(grid.shape, np.float32), grid, title="t")

    def fail(path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="cannot write"):
        save_figure(figure, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
