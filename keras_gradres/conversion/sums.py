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

from keras_gradres.conversion.calls import Call, Calls, Path
from keras_gradres.pullbacks.registry import is_operation


class NotConvertibleError(ValueError):
    """Raised where a sum cannot be converted; its text is the reason."""


@dataclasses.dataclass(frozen=True)
class Skip:
    """A skip connection.

    Attributes:
        sum: The call of the sum.
        branch: The path from the fork to one of its inputs.
        shortcut: That to the other, or `None` where the fork itself is the other.
    """

    sum: Call
    branch: Path
    shortcut: Path | None

    @property
    def fork(self) -> Any:
        """The tensor where the two paths part."""
        return self.branch.fork

    @property
    def paths(self) -> list[Path]:
        """The branch and the shortcut, if there is one."""
        return [path for path in (self.branch, self.shortcut) if path is not None]


# Layers that are activations, and operations.
_ACTIVATIONS = tuple(
    getattr(keras.layers, name)
    for name in ("ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")
)
_FUNCTIONS = {
    *("Celu", "Elu", "Exp", "Gelu", "Glu", "HardSigmoid", "HardSilu", "HardTanh"),
    *("LeakyRelu", "LogSigmoid", "LogSoftmax", "Maximum", "Minimum", "Multiply"),
    *("Relu", "Relu6", "Selu", "Sigmoid", "Silu", "Softmax", "Softplus", "Softsign"),
    *("Square", "SquarePlus", "Tanh", "Threshold"),
}


def is_sum(call: Call) -> bool:
    """Whether a call is a sum of tensors, by an `Add` layer or written with `+`."""
    if type(call.layer) is keras.layers.Add:
        return True
    if not (is_operation(call.layer) and type(call.layer).__name__ == "Add"):
        return False
    return len(call.inputs) > 1  # The other summand may be a number.


def find(calls: Calls, call: Call) -> Skip:
    """The skip connection that a sum ends.

    Raises:
        NotConvertibleError: if it ends none.
    """
    if len(call.inputs) != 2:
        raise NotConvertibleError(
            f"it has {len(call.inputs)} inputs, and a skip connection two"
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
    shortcut, branch = sorted(paths, key=_weight)
    if not _is_projection(shortcut) or _weight(shortcut) == _weight(branch):
        raise NotConvertibleError(
            "it is no skip connection: neither input is computed from the other, and "
            f"neither is a projection of '{calls.name_of(fork)}', from which both are "
            "computed"
        )
    return Skip(call, branch, shortcut)


def _weight(path):
    """What orders paths: a projection comes before a branch."""
    return (not _is_projection(path), _matrices(path), len(path.calls))


def _is_projection(path):
    return _matrices(path) < 2 and not any(_is_activation(c.layer) for c in path.calls)


def _matrices(path):
    """How many layers have a weight of two or more axes."""
    return sum(
        any(len(weight.shape) > 1 for weight in call.layer.weights)
        for call in path.calls
        if isinstance(call.layer, keras.Layer)
    )


def _is_activation(layer):
    if is_operation(layer):
        return type(layer).__name__ in _FUNCTIONS
    activation = getattr(layer, "activation", None)
    if activation is not None:
        return activation is not keras.activations.linear
    return isinstance(layer, (*_ACTIVATIONS, keras.layers.Multiply))
