"""Why a skip connection cannot be a gradient residual, if it cannot.

A gradient residual has one input and one output. Its branch has something to learn, and
a gradient that does not vanish. And the outputs of the model must stay what they are.

Usage:

    check(calls, skip, masks)         # raises a `NotConvertibleError`
    check_gradient(branch)
"""

import collections
from typing import Any

import keras

from keras_gradres.conversion.calls import Calls, Path
from keras_gradres.conversion.cost import opened
from keras_gradres.conversion.sums import NotConvertibleError, Skip
from keras_gradres.layers import vanishing
from keras_gradres.pullbacks.graph import Graph, Traced
from keras_gradres.pullbacks.registry import is_operation
from keras_gradres.pullbacks.walk import VanishingGradientError


def check(calls: Calls, skip: Skip, masks: dict[int, Any]) -> None:
    """Raises if the skip connection cannot be converted as it is in the model."""
    _check_paths(calls, skip)
    if not any(_parameters(path.layer) for path in opened(skip.branch.calls)):
        raise NotConvertibleError("its branch has no parameters")
    _check_tensors(calls, skip)
    _check_masks(skip, masks)


def check_sharing(skip: Skip, uses: dict[int, int]) -> None:
    """Raises if a layer with variables is called outside of its path, too.

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
                f"what its branch or shortcut calls is called elsewhere, too: "
                f"{_quoted(dict.fromkeys(names))}. Keras would save it twice. Put the "
                "skip connection in a `keras.Model` that is called several times: a "
                "model is converted once, for all its calls"
            )


def check_gradient(skip: Skip) -> dict[str, list[str]]:
    """Raises if the gradient of the branch vanishes.

    Returns:
        What becomes of the layers of the branch, see `GradientResidual.parts`.
    """
    branch = skip.branch
    graph = Graph(branch.section)
    shape, dtype = tuple(branch.fork.shape), branch.fork.dtype
    found, reasons = [], []

    def trace(x):
        run = graph.run(x, training=True)
        found.append(run.parts())
        try:
            run.gradient()
        except VanishingGradientError as error:
            reasons.append(str(error))  # Kept, as what traces would run it again.
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
    return found[-1]


def feature_axis(skip: Skip) -> int:
    """The axis of the features: 1 if there are layers that have their channels first.

    Such layers may be in models, which are opened.
    """
    layers = [call.layer for path in skip.paths for call in opened(path.calls)]
    formats = [getattr(layer, "data_format", None) for layer in layers]
    return 1 if "channels_first" in formats else -1


def _check_paths(calls, skip):
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
                f"what is made inside its {name} is used outside of it, too: the "
                f"output of {_quoted(leaks)}"
            )


def _check_tensors(calls, skip):
    fork, (total,) = skip.fork, skip.sum.outputs
    shapes = [tuple(t.shape) for t in skip.sum.inputs]
    if any(shape != tuple(total.shape) for shape in shapes):
        raise NotConvertibleError(
            f"one of its inputs is broadcast. Their shapes are {shapes}"
        )
    dtypes = {total.dtype, fork.dtype}
    if is_operation(skip.sum.layer):  # An `Add` layer casts what it is given.
        dtypes.update(t.dtype for t in skip.sum.inputs)
    if not keras.backend.is_float_dtype(fork.dtype) or len(dtypes) > 1:
        raise NotConvertibleError(
            f"the sum has dtype {total.dtype}, its inputs "
            f"{[t.dtype for t in skip.sum.inputs]}, and what its branch is given, the "
            f"output of '{calls.name_of(fork)}', has {fork.dtype}. A gradient residual "
            "has one floating-point dtype"
        )
    if len(fork.shape) < 2 or fork.shape[feature_axis(skip)] is None:
        raise NotConvertibleError(
            "what its branch is given has no feature axis of known size. Its shape is "
            f"{tuple(fork.shape)}"
        )


def _check_masks(skip, masks):
    (total,) = skip.sum.outputs
    before, after = masks.get(id(skip.fork)), masks.get(id(total))
    if before is None and after is None:
        return
    inputs = [masks.get(id(t)) for t in skip.sum.inputs]
    if after is None or any(mask is not before for mask in inputs):
        raise NotConvertibleError(
            "the sum has not the mask of what its branch is given, and a gradient "
            "residual would have it. Sum with an `Add` layer, and let the layers of "
            "the branch support masking"
        )


def _parameters(layer):
    return isinstance(layer, keras.Layer) and bool(layer.weights)


def _variables(branch: Path) -> list[Any]:
    layers = [c.layer for c in branch.calls if isinstance(c.layer, keras.Layer)]
    variables = [v for layer in layers for v in layer.variables]
    return list({id(v): v for v in variables}.values())


def _quoted(names):
    return ", ".join(f"'{name}'" for name in names)
