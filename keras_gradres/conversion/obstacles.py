"""Why a skip connection cannot be a gradient residual, if it cannot.

A gradient residual has one input and one output. Its branch has weights, and a gradient
that does not vanish. And the conversion must not change the outputs of the model.

Usage:

    check(calls, skip, masks)         # raises a `NotConvertibleError`
    check_gradient(skip)
"""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_gradres.conversion.calls import ModelCalls, Path
from keras_gradres.conversion.cost import flattened
from keras_gradres.conversion.sums import NotConvertibleError, Skip
from keras_gradres.layers import vanishing
from keras_gradres.pullbacks.graph import Graph, Traced
from keras_gradres.pullbacks.registry import is_operation
from keras_gradres.pullbacks.walk import VanishingGradientError
from keras_gradres.typing import Mask, Tensor


def check(calls: ModelCalls, skip: Skip, masks: Mapping[int, Mask]) -> None:
    """Raises if the skip connection cannot be converted as it is in the model.

    Args:
        calls: The calls of the model.
        skip: The skip connection.
        masks: The masks of symbolic tensors, by the `id` of the tensors.
    """
    _check_paths(calls, skip)
    if not any(_has_weights(call.layer) for call in flattened(skip.branch.calls)):
        raise NotConvertibleError("its branch has no parameters")
    _check_tensors(calls, skip)
    _check_masks(skip, masks)


def check_sharing(skip: Skip, uses: Mapping[int, int]) -> None:
    """Raises if a layer with variables is called both inside and outside of a path.

    A branch is a model, and Keras saves a layer that is in two models as two layers.

    Args:
        skip: The skip connection.
        uses: How often each layer is called, by its `id`.
    """
    for path in skip.paths:
        inside = collections.Counter(id(call.layer) for call in path.calls)
        names = [
            call.layer.name
            for call in path.calls
            if isinstance(call.layer, keras.Layer)
            and call.layer.variables
            and uses[id(call.layer)] > inside[id(call.layer)]
        ]
        if names:
            raise NotConvertibleError(
                "layers of its branch or shortcut are also called elsewhere: "
                f"{_quoted(dict.fromkeys(names))}. Keras would save them twice. Put "
                "the skip connection in a `keras.Model` that is called several times: "
                "a model is converted once, for all its calls"
            )


def check_gradient(skip: Skip) -> dict[str, list[str]]:
    """Raises if the gradient of the branch vanishes.

    Returns:
        The names of the layers of the branch by kind, see `GradientResidual.parts`.
    """
    branch = skip.branch
    graph = Graph(branch.section)
    shape, dtype = tuple(branch.fork.shape), branch.fork.dtype
    parts: list[dict[str, list[str]]] = []
    reasons: list[str] = []

    def trace(x: Tensor) -> Tensor:
        run = graph.run(x, training=True)
        parts.append(run.parts())
        try:
            run.gradient()
        except VanishingGradientError as error:
            # If it raised here, Keras would call the function again.
            reasons.append(str(error))
        return x

    Traced(trace).compute_output_spec(keras.KerasTensor(shape, dtype=dtype))
    if not graph.is_certain:
        variables = _variables(branch)
        for training in (True, False):
            if not reasons:
                reason = vanishing.measure(graph, variables, shape, dtype, training)
                reasons += [reason] if reason else []
    if reasons:
        raise NotConvertibleError(f"the gradient of its branch vanishes. {reasons[0]}")
    return parts[-1]


def feature_axis(skip: Skip) -> int:
    """The axis of the features: 1 if a layer has its channels first, else -1.

    Layers of models in the paths count, too.
    """
    layers = [call.layer for path in skip.paths for call in flattened(path.calls)]
    formats = [getattr(layer, "data_format", None) for layer in layers]
    return 1 if "channels_first" in formats else -1


def _check_paths(calls: ModelCalls, skip: Skip) -> None:
    for path, name in zip(skip.paths, ("branch", "shortcut"), strict=False):
        if path.entries:
            raise NotConvertibleError(
                f"there is more than one entry into its {name}: beside "
                f"{_quoted([calls.name_of(path.fork)])} also {_quoted(path.entries)}"
            )
        leaks = path.leaks
        if calls.is_used_beside(path.end, skip.sum):
            leaks = [*leaks, calls.name_of(path.end)]
        if leaks:
            raise NotConvertibleError(
                f"tensors inside its {name} are used outside of it, too: the output of "
                f"{_quoted(leaks)}"
            )


def _check_tensors(calls: ModelCalls, skip: Skip) -> None:
    fork, (total,) = skip.fork, skip.sum.outputs
    shapes = [tuple(t.shape) for t in skip.sum.inputs]
    if any(shape != tuple(total.shape) for shape in shapes):
        raise NotConvertibleError(
            f"one of its inputs is broadcast. Their shapes are {shapes}"
        )
    dtypes = {total.dtype, fork.dtype}
    if is_operation(skip.sum.layer):  # An `Add` layer casts its inputs to one dtype.
        dtypes.update(t.dtype for t in skip.sum.inputs)
    if not keras.backend.is_float_dtype(fork.dtype) or len(dtypes) > 1:
        raise NotConvertibleError(
            f"the sum has dtype {total.dtype}, its inputs "
            f"{[t.dtype for t in skip.sum.inputs]}, and the input of its branch, the "
            f"output of '{calls.name_of(fork)}', has {fork.dtype}. A gradient residual "
            "has one floating-point dtype"
        )
    if len(fork.shape) < 2 or fork.shape[feature_axis(skip)] is None:
        raise NotConvertibleError(
            "the input of its branch has no feature axis of known size. Its shape is "
            f"{tuple(fork.shape)}"
        )


def _check_masks(skip: Skip, masks: Mapping[int, Mask]) -> None:
    (total,) = skip.sum.outputs
    before, after = masks.get(id(skip.fork)), masks.get(id(total))
    if before is None and after is None:
        return
    inputs = [masks.get(id(t)) for t in skip.sum.inputs]
    if after is None or any(mask is not before for mask in inputs):
        raise NotConvertibleError(
            "the sum does not have the mask of the input of its branch, and a gradient "
            "residual would have that mask. Sum with an `Add` layer, and let the "
            "layers of the branch support masking"
        )


def _has_weights(layer: Any) -> bool:
    return isinstance(layer, keras.Layer) and bool(layer.weights)


def _variables(branch: Path) -> list[keras.Variable]:
    layers = [c.layer for c in branch.calls if isinstance(c.layer, keras.Layer)]
    variables = [v for layer in layers for v in layer.variables]
    return list({id(v): v for v in variables}.values())


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
