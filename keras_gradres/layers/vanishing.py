"""Measures whether the gradient of a branch vanishes, where its structure cannot tell.

    |J^T 1| <= threshold |J^T c|        for a random cotangent c, at a random input

During the measurement the weights have other values. Matrices are random, and vectors
are 1, the initial value of the scales of normalizations. So the result says something
of the structure of the branch. It depends neither on the present weights nor on the
data, and the state of the branch stays as it is.

Usage:

    measured = Measurements(graph, branch, "float32")
    measured.check(shape, training=True)
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
from keras_gradres.typing import Dtype, Shape, Tensor

_BATCH, _UNKNOWN_SIZE = 4, 8


class Measurements:
    """The measurements of a branch, each made once and kept.

    Args:
        graph: The calls of the branch, which is built.
        branch: The branch.
        dtype: The dtype of its input.
    """

    def __init__(self, graph: Graph, branch: keras.Layer, dtype: Dtype) -> None:
        self._graph = graph
        self._branch = branch
        self._dtype = dtype
        self._reasons: dict[tuple, str | None] = {}

    def reason(self, shape: Shape, training: bool) -> str | None:
        """Why the gradient vanishes, or `None` if it does not; see `measure`."""
        # In training it matters which normalizations are frozen, which may change.
        frozen = tuple(layer.trainable for layer in layers_in(self._branch))
        key = (training, training and frozen)
        if key not in self._reasons:
            self._reasons[key] = measure(
                self._graph, self._branch.variables, shape, self._dtype, training
            )
        return self._reasons[key]

    def check(self, shape: Shape, training: bool) -> None:
        """Raises if the gradient vanishes."""
        reason = self.reason(shape, training)
        if reason is not None:
            raise VanishingGradientError(reason)


def measure(
    graph: Graph,
    variables: list[keras.Variable],
    shape: Shape,
    dtype: Dtype,
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

    def lengths() -> tuple[float, float]:
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
        # The backend cannot differentiate, or the model is being exported: this is an
        # error, not a failed measurement.
        raise
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
        f"outputs does not depend on it. (Its norm was {p:.0e} on random input, and "
        f"{q:.0e} for a sum with random weights.) The cause is one of {_names(graph)}, "
        "for instance a normalization, the sum of whose outputs is constant. Put an "
        "activation after it, or take it out. Or use a `residual` without gradient."
    )


def _value(variable: keras.Variable, rng: np.random.Generator) -> np.ndarray:
    """The value that a variable has during the measurement."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    shape = tuple(variable.shape)
    if not keras.backend.is_float_dtype(dtype):
        # Signed integers may be weights, as in quantized layers. Others are seeds.
        signed = dtype.startswith("int")
        return np.broadcast_to(
            rng.integers(1, 9, shape) if signed else 0, shape
        ).astype(dtype)
    if len(shape) < 2:
        return np.ones(shape, "float32")
    return _normal(rng, shape) / np.sqrt(max(np.prod(shape[:-1]), 1)).astype("float32")


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape).astype("float32")


def _random(rng: np.random.Generator, tensor: Tensor) -> Tensor:
    return ops.cast(
        ops.convert_to_tensor(_normal(rng, tuple(tensor.shape))), tensor.dtype
    )


def _length(tensor: Tensor) -> float:
    """The norm over all entries."""
    values = ops.convert_to_numpy(ops.cast(tensor, "float32"))
    return float(np.linalg.norm(values.astype("float64")))


def _names(graph: Graph) -> list[str]:
    return [getattr(layer, "name", type(layer).__name__) for layer in graph.layers]
