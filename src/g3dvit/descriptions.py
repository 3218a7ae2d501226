"""The model description: one YAML file that says what a trained model is and what it was shown.

It names the network (an importable factory and its arguments), the weights, the preparation of
the volumes, the classes, and the way from a volume (i, j, k) to the network's input axes. A model
must be explained with what it was trained on, so that all of this is one file. Nothing is loaded
or computed here (`g3dvit.models` does), and torch is not imported.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from g3dvit.errors import DescriptionError, OutputError
from g3dvit.grids import Shape3
from g3dvit.input_axes import InputAxes
from g3dvit.plain import to_plain

if TYPE_CHECKING:
    from g3dvit.prepare import Preparation

_FACTORY = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a trained model is, and what it was shown.

    Parameters
    ----------
    factory
        What builds the network: ``package.module:Class`` or ``package.module:function``.
    arguments
        Its keyword arguments.
    weights
        The checkpoint; None for a network with random weights.
    key_prefix
        What the network's keys begin with in the checkpoint, such as ``volume_encoder.vit3d.``.
    preparation
        The steps from a source image to the model's grid; None where the images are prepared.
    class_names
        In the order of the outputs; may be empty.
    input_axes
        How a batch of volumes becomes the input: ``b`` (batch), ``i``, ``j``, ``k``, and at most
        one number, the size of the channel axis (the volume is repeated along it).
    input_shape
        What ``model(x)`` takes without the batch; None where nobody said.
    trained_on
        Subjects or runs that the model has seen in training.
    vit_pytorch
        The version of vit-pytorch that the weights were trained with, if any.
    accuracy
        Held-out accuracy as ``g3dvit train`` found it; None where unknown.
    path
        The file that this was loaded from.

    Examples
    --------
    >>> description = ModelDescription("my_models:BrainViT", input_axes="b 1 k i j")
    >>> description.to_input(np.zeros((2, 4, 5, 6), np.float32)).shape
    (2, 1, 6, 4, 5)
    >>> description.from_input(np.zeros((2, 6, 4, 5))).shape
    (2, 4, 5, 6)
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    key_prefix: str = ""
    preparation: Preparation | None = None
    class_names: tuple[str, ...] = ()
    input_axes: str = "b 1 i j k"
    input_shape: tuple[int, ...] | None = None
    trained_on: tuple[str, ...] = ()
    vit_pytorch: str | None = None
    accuracy: Mapping[str, Any] | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.factory, str) or not _FACTORY.match(self.factory):
            raise DescriptionError(
                f"`factory` names what builds the network as 'package.module:Class', was given "
                f"{self.factory!r}"
            )
        if not isinstance(self.arguments, Mapping) or any(
            not isinstance(key, str) for key in self.arguments
        ):
            raise DescriptionError(f"`arguments` is a mapping, was given {self.arguments!r}")
        names = tuple(_words(self.class_names, "class_names"))
        if len(set(names)) != len(names):
            raise DescriptionError(f"`class_names` has a name twice: {list(names)}")
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "trained_on", tuple(_words(self.trained_on, "trained_on")))
        if self.input_shape is not None:
            object.__setattr__(self, "input_shape", _shape(self.input_shape))
            self.axes.check(self.input_shape)
        else:
            InputAxes.parse(self.input_axes)
        version = self.vit_pytorch
        if version is not None and not (
            isinstance(version, str) and re.match(r"^\d+(\.\d+)+", version)
        ):
            raise DescriptionError(
                "`vit_pytorch` is the version that the weights were trained with, in quotes, such "
                f"as '1.10.1'; was given {version!r}"
            )
        if self.weights is not None:
            object.__setattr__(self, "weights", Path(self.weights))

    # -- axes ------------------------------------------------------------------------------
    @property
    def axes(self) -> InputAxes:
        """`input_axes`, read."""
        return InputAxes.parse(self.input_axes)

    @property
    def volume_shape(self) -> Shape3 | None:
        """Shape (i, j, k) of the volumes that fit `input_shape`; None where that is unknown."""
        return None if self.input_shape is None else self.axes.volume_shape(self.input_shape)

    def to_input(self, volumes: NDArray[Any]) -> NDArray[Any]:
        """Turn volumes into the model's input.

        Parameters
        ----------
        volumes : (batch, i, j, k)
            Prepared volumes.

        Raises
        ------
        DescriptionError
            If they have not the shape that `input_shape` asks for.
        """
        volumes = np.asarray(volumes)
        expected = self.volume_shape
        if volumes.ndim != 4 or (expected is not None and volumes.shape[1:] != expected):
            raise DescriptionError(
                f"the model takes volumes of {expected or '(i, j, k)'} voxels, but the prepared "
                f"ones are {volumes.shape[1:]}; mend `preparation`, `input_axes` or `input_shape`"
            )
        return self.axes.to_input(volumes)

    def from_input(self, relevance: NDArray[Any]) -> NDArray[Any]:
        """Turn an array on the input's spatial axes back to volume order (i, j, k).

        Parameters
        ----------
        relevance : (..., a, b, c)
            Anything whose last three axes are the input's spatial axes.
        """
        return self.axes.from_input(np.asarray(relevance))

    # -- files -----------------------------------------------------------------------------
    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Return the description as plain values; what has no value is left out.

        Parameters
        ----------
        folder
            Where the file will lie: `weights` is written relative to it where it lies below it.
        """
        values: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "path" or value is None or value == one.default or value == ():
                continue
            if one.name == "weights":
                value = str(_relative(value, folder))
            elif one.name == "preparation":
                value = value.to_dict()
            if one.name != "arguments" or value:
                values[one.name] = to_plain(value)
        return {"input_axes": self.input_axes, **values} if "input_axes" not in values else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, path: Path | None = None) -> ModelDescription:
        """Return the description that `to_dict` or a person wrote.

        Parameters
        ----------
        values
            The fields; relative `weights` lie beside `path`.
        path
            The file that they come from.

        Raises
        ------
        DescriptionError
            If a key is unknown or a value not allowed.
        """
        if not isinstance(values, Mapping):
            raise DescriptionError(f"a model description is a mapping, was given {values!r}")
        allowed = [one.name for one in fields(cls) if one.name != "path"]
        for key in values:
            if key not in allowed:
                near = difflib.get_close_matches(str(key), allowed, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DescriptionError(
                    f"a model description has no {key!r}{hint} It has: {', '.join(allowed)}"
                )
        if "factory" not in values:
            raise DescriptionError(
                "a model description needs `factory: package.module:Class`, what builds the network"
            )
        given = {key: value for key, value in values.items() if value is not None}
        weights = given.get("weights")
        if weights is not None:
            weights = Path(str(weights)).expanduser()
            given["weights"] = weights if path is None else path.parent / weights
        if "preparation" in given and isinstance(given["preparation"], Mapping):
            from g3dvit.prepare import Preparation

            given["preparation"] = Preparation.from_dict(given["preparation"])
        elif "preparation" in given and not hasattr(given["preparation"], "to_dict"):
            raise DescriptionError(
                "`preparation` is a mapping, such as {preset: MNI152NLin6Asym_2mm_90}, was given "
                f"{given['preparation']!r}"
            )
        return cls(**given, path=path)


def load_description(path: str | os.PathLike[str]) -> ModelDescription:
    """Read a model description file.

    Parameters
    ----------
    path
        A YAML file.

    Raises
    ------
    DescriptionError
        If it cannot be read, is no YAML mapping, or says something that is not allowed.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DescriptionError(
            f"no model description at {path}; `g3dvit init CHECKPOINT --factory package:Class` "
            "writes one"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DescriptionError(
            f"{path} cannot be read as a model description (YAML): {error}"
        ) from error
    try:
        return ModelDescription.from_dict(values, path=path)
    except DescriptionError as error:
        raise DescriptionError(f"{path}: {error}") from error


def save_description(
    description: ModelDescription,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    comments: Sequence[str] = (),
) -> Path:
    """Write a model description file; it appears whole or not at all.

    Parameters
    ----------
    description
        What to write.
    path
        The YAML file.
    overwrite
        Whether an existing file may be replaced.
    comments
        Lines to write above, each behind ``#``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; choose another name or pass overwrite (--overwrite)")
    text = "".join(f"# {line}".rstrip() + "\n" for line in comments)
    values = description.to_dict(path.parent)
    text += yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def overlaps_training(
    description: ModelDescription, sources: Iterable[str | os.PathLike[str]]
) -> list[str]:
    """Return which images the model has seen in training, in words.

    Parameters
    ----------
    description
        With `trained_on`: subjects (``sub-01``), runs (``sub-01_task-rest_run-1``) or files.
    sources
        Image files. An image belongs to an entry if its path has all parts of the entry.

    Examples
    --------
    >>> description = ModelDescription("a:B", trained_on=("sub-01",))
    >>> overlaps_training(description, ["sub-01_bold.nii.gz", "sub-010_bold.nii.gz"])
    ['sub-01_bold.nii.gz (trained on sub-01)']
    """
    found = []
    for source in sources:
        parts = _parts(os.fspath(source))
        for entry in description.trained_on:
            wanted = _parts(entry)
            if wanted and wanted <= parts:
                found.append(f"{Path(source).name} (trained on {entry})")
                break
    return found


def _parts(text: str) -> set[str]:
    """Split a path or name into its BIDS entities and other parts, without extensions."""
    text = re.sub(r"\.(nii|img|hdr|mgz|mgh|npy|npz|pt|gz|bz2)(?=$|\.)", "", text)
    return {part for part in re.split(r"[/\\_]", text) if part and part != "."}


def _words(values: Any, name: str) -> list[str]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise DescriptionError(f"`{name}` is a list, was given {values!r}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DescriptionError(
                f"`{name}` is a list of words, has {value!r}; YAML reads yes, no, on and off as "
                "true and false, so put such a name in quotes"
            )
    return [str(value) for value in values]


def _shape(values: Any) -> tuple[int, ...]:
    try:
        shape = tuple(int(value) for value in values)
        if len(shape) in (3, 4) and min(shape) > 0 and list(shape) == list(values):
            return shape
    except (TypeError, ValueError):
        pass
    raise DescriptionError(
        "`input_shape` is what the model takes without the batch, three or four positive whole "
        f"numbers such as [1, 90, 90, 90]; was given {values!r}"
    )


def _relative(weights: Path, folder: Path | None) -> Path:
    if folder is None:
        return weights
    weights, folder = weights.resolve(), folder.resolve()
    return weights.relative_to(folder) if weights.is_relative_to(folder) else weights
