"""Measures whether the gradient of a branch vanishes, where its structure cannot tell.

    |J^T 1| <= threshold |J^T c|        for a random cotangent c, at a random input

Vectors alone are at 1, as those of normalizations are when training begins, and
matrices random. So the outcome is that of the structure: it depends neither on what the
weights are now nor on the data, and the state of the branch stays as it is.

Usage:

    refuse(Measured().reason(graph, branch, shape, "float32", training=True))
"""

import warnings

import keras
import numpy as np
from keras import ops

from keras_gradres import backend
from keras_gradres.precision import spacing
from keras_gradres.pullbacks.graph import Graph
from keras_gradres.pullbacks.walk import VanishingGradientError
from keras_gradres.traversal import layers_in

_BATCH, _UNKNOWN_SIZE = 4, 8


class Measured:
    """What was measured of a branch. (Not a dict, which Keras would track.)"""

    def __init__(self) -> None:
        self._reasons: dict[tuple, str | None] = {}

    def reason(
        self,
        graph: Graph,
        branch: keras.Layer,
        shape: tuple,
        dtype: str,
        training: bool,
    ) -> str | None:
        """See `measure`; measured once for what it depends on."""
        frozen = tuple(layer.trainable for layer in layers_in(branch))
        key = (training, training and frozen)
        if key not in self._reasons:
            self._reasons[key] = measure(
                graph, branch.variables, shape, dtype, training
            )
        return self._reasons[key]


def refuse(reason: str | None) -> None:
    """Raises if there is a reason to."""
    if reason is not None:
        raise VanishingGradientError(reason)


def measure(
    graph: Graph,
    variables: list[keras.Variable],
    shape: tuple,
    dtype: str,
    training: bool,
) -> str | None:
    """Why the gradient vanishes, or `None` if it does not.

    Args:
        graph: The calls of the branch, which is built.
        variables: All variables of the branch.
        shape: The shape of its input.
        dtype: The dtype of its input.
        training: Whether the calls are those in training.
    """
    rng = np.random.default_rng(0)
    sizes = (_BATCH, *(n or _UNKNOWN_SIZE for n in shape[1:]))

    def lengths():
        state = [(v, ops.convert_to_tensor(_value(v, rng))) for v in variables]
        with keras.StatelessScope(state):
            x = ops.cast(ops.convert_to_tensor(_normal(rng, sizes)), dtype)
            run = graph.run(x, training)
            return _length(run.gradient()), _length(
                run.gradient(lambda tensor: _random(rng, tensor))
            )

    try:
        p, q = backend.eagerly(lengths)
    except VanishingGradientError as error:
        return str(error)
    except NotImplementedError:
        raise  # The backend cannot differentiate, or the model is being exported.
    except Exception as error:
        warnings.warn(
            "It could not be measured whether the gradient of a branch vanishes, since "
            f"it raises on random input of shape {sizes}: {error}",
            stacklevel=2,
        )
        return None
    if q == 0 or p > max(1e-4, 16 * spacing(dtype)) * q:
        return None
    return (
        "The gradient of `branch` is zero whatever its input is: the sum of its "
        f"outputs does not depend on it (measured: {p:.0e}, and {q:.0e} with random "
        "weights). "
        "Something in it, such as a normalization, takes out what all entries have in "
        f"common: one of {_names(graph)}. Put an activation after it, or take it out. "
        "Or use a `residual` without gradient."
    )


def _value(variable, rng):
    dtype = keras.backend.standardize_dtype(variable.dtype)
    shape = tuple(variable.shape)
    if not keras.backend.is_float_dtype(dtype):
        signed = dtype.startswith("int")
        return np.broadcast_to(
            rng.integers(1, 9, shape) if signed else 0, shape
        ).astype(dtype)
    if len(shape) < 2:
        return np.ones(shape, "float32")
    return _normal(rng, shape) / np.sqrt(max(np.prod(shape[:-1]), 1)).astype("float32")


def _normal(rng, shape):
    return rng.normal(size=shape).astype("float32")


def _random(rng, tensor):
    return ops.cast(
        ops.convert_to_tensor(_normal(rng, tuple(tensor.shape))), tensor.dtype
    )


def _length(tensor):
    values = ops.convert_to_numpy(ops.cast(tensor, "float32"))
    return float(np.linalg.norm(values.astype("float64")))


def _names(graph):
    return [getattr(layer, "name", type(layer).__name__) for layer in graph.layers]
