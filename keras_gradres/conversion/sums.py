"""Which sums are skip connections, and what their branch is.

    y = a + b
    b leads to a                     branch: from b to a       identity skip
    a leads to b                     branch: from a to b       identity skip
    neither, both come from f        one path without an activation and with at most
                                     one matrix is the shortcut, the other the branch

Usage:

    skip = find(calls, call)
    skip.branch, skip.shortcut
"""

import dataclasses
from typing import Any

import keras

from keras_gradres.conversion.calls import ModelCall, ModelCalls, Path
from keras_gradres.pullbacks.registry import is_operation
from keras_gradres.typing import SymbolicTensor


class NotConvertibleError(ValueError):
    """Raised where a sum cannot be converted; its text is the reason."""


@dataclasses.dataclass(frozen=True)
class Skip:
    """A skip connection.

    Attributes:
        sum: The call that computes the sum.
        branch: The path from the fork to one input of the sum.
        shortcut: The path to the other input, or `None` where that is the fork itself.
    """

    sum: ModelCall
    branch: Path
    shortcut: Path | None

    @property
    def fork(self) -> SymbolicTensor:
        """The tensor where the two paths part."""
        return self.branch.fork

    @property
    def paths(self) -> list[Path]:
        """The branch and the shortcut, if there is one."""
        return [path for path in (self.branch, self.shortcut) if path is not None]


# The classes of layers that are activations.
_ACTIVATION_LAYERS = tuple(
    getattr(keras.layers, name)
    for name in ("ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")
)
# The names of classes of operations that are not affine.
_NONLINEAR_OPERATIONS = {
    *("Celu", "Elu", "Exp", "Gelu", "Glu", "HardSigmoid", "HardSilu", "HardTanh"),
    *("LeakyRelu", "LogSigmoid", "LogSoftmax", "Maximum", "Minimum", "Multiply"),
    *("Relu", "Relu6", "Selu", "Sigmoid", "Silu", "Softmax", "Softplus", "Softsign"),
    *("Square", "SquarePlus", "Tanh", "Threshold"),
}


def is_sum(call: ModelCall) -> bool:
    """Whether a call is a sum of tensors, by an `Add` layer or written with `+`."""
    if type(call.layer) is keras.layers.Add:
        return True
    if not (is_operation(call.layer) and type(call.layer).__name__ == "Add"):
        return False
    return len(call.inputs) > 1  # The other summand may be a number.


def find(calls: ModelCalls, call: ModelCall) -> Skip:
    """The skip connection that ends in a sum.

    Args:
        calls: The calls of the model.
        call: The call that computes the sum.

    Raises:
        NotConvertibleError: if no skip connection ends there.
    """
    if len(call.inputs) != 2:
        raise NotConvertibleError(
            f"it has {len(call.inputs)} inputs, and a skip connection has two"
        )
    a, b = call.inputs
    if a is b:
        raise NotConvertibleError("it is no skip connection: its inputs are one tensor")
    for end, fork in ((a, b), (b, a)):
        if calls.leads_to(fork, end):
            return Skip(call, calls.between(fork, end), None)
    fork = calls.common(a, b)
    if fork is None:
        raise NotConvertibleError(
            "it is no skip connection: its inputs have nothing in common that they "
            "are computed from"
        )
    paths = [calls.between(fork, end) for end in (a, b)]
    shortcut, branch = sorted(paths, key=_size)
    if not _is_projection(shortcut) or _size(shortcut) == _size(branch):
        raise NotConvertibleError(
            "it is no skip connection: neither input is computed from the other, and "
            f"neither is a projection of '{calls.name_of(fork)}', from which both are "
            "computed"
        )
    return Skip(call, branch, shortcut)


def _size(path: Path) -> tuple[bool, int, int]:
    """What orders paths: the shortcut is the smaller one of two."""
    return (not _is_projection(path), _count_matrices(path), len(path.calls))


def _is_projection(path: Path) -> bool:
    """Whether a path has no activation, and at most one layer with a matrix."""
    if any(_is_activation(call.layer) for call in path.calls):
        return False
    return _count_matrices(path) < 2


def _count_matrices(path: Path) -> int:
    """How many layers have a weight of two or more axes."""
    return sum(
        any(len(weight.shape) > 1 for weight in call.layer.weights)
        for call in path.calls
        if isinstance(call.layer, keras.Layer)
    )


def _is_activation(layer: Any) -> bool:
    if is_operation(layer):
        return type(layer).__name__ in _NONLINEAR_OPERATIONS
    activation = getattr(layer, "activation", None)
    if activation is not None:
        return activation is not keras.activations.linear
    return isinstance(layer, (*_ACTIVATION_LAYERS, keras.layers.Multiply))
