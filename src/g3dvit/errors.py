"""Every error that G3D-ViT raises on purpose.

::

    G3DError
    ├── InputError           the caller's data or arguments
    │   ├── ImageError       an image that cannot be read, or has no usable affine
    │   │   ├── OrientationError   left and right cannot be told from the file
    │   │   └── SpaceError         the image is not in the space the model was trained in
    │   ├── GridError        shapes or affines that do not fit together
    │   ├── SelectionError   volumes, events or labels that select nothing or contradict
    │   ├── PreparationError a preparation step that cannot be applied as described
    │   ├── TargetError      a class, contrast or score that the model does not have
    │   ├── MethodError      an unknown method or an argument that it does not take
    │   └── LeakageError     a split in which training data would be tested
    ├── ModelError           the model, its description or its weights
    │   ├── DescriptionError the model description file
    │   ├── WeightsError     weights that do not fit the model
    │   ├── GeometryError    the patch grid could not be found by probing
    │   └── LayerError       a named layer that is absent, dead or uniform
    └── OutputError          a result that cannot be written, or would overwrite another

Each message says what is wrong, what was given, what is allowed and what to do.
The command line prints it without a traceback and exits with status 1.
A `G3DWarning` marks what a user should know but what does not make a result wrong.
"""

from __future__ import annotations


class G3DError(Exception):
    """Base of every error that G3D-ViT raises on purpose."""


class InputError(G3DError, ValueError):
    """The caller's data or arguments cannot be used."""


class ImageError(InputError):
    """An image cannot be read, or has no usable affine."""


class OrientationError(ImageError):
    """Left and right cannot be told from the file."""


class SpaceError(ImageError):
    """The image is not in the space that the model was trained in."""


class GridError(InputError):
    """Shapes or affines do not fit together."""


class SelectionError(InputError):
    """Volumes, events or labels select nothing, or contradict each other."""


class PreparationError(InputError):
    """A preparation step cannot be applied as it is described."""


class TargetError(InputError):
    """A class, contrast or score that the model does not have."""


class MethodError(InputError):
    """An unknown method, or an argument that the method does not take."""


class LeakageError(InputError):
    """A split in which training data would also be test data."""


class ModelError(G3DError, RuntimeError):
    """The model, its description or its weights cannot be used."""


class DescriptionError(ModelError):
    """The model description file cannot be used."""


class WeightsError(ModelError):
    """The weights do not fit the model, or cannot be loaded safely."""


class GeometryError(ModelError):
    """The patch grid of the model could not be found by probing it."""


class LayerError(ModelError):
    """A named layer is absent, or its gradients carry nothing about places."""


class OutputError(G3DError, OSError):
    """A result cannot be written, or would overwrite another."""


class G3DWarning(UserWarning):
    """Something the user should know that does not make the result wrong."""
