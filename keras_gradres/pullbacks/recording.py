"""The calls of a functional model, found by the public API of Keras.

Usage:

    section = recorded(model)
    for layer, args, kwargs, output in section.calls:
        ...
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from keras_gradres.typing import Structure, SymbolicTensor

# A layer or operation, its arguments, its keyword arguments, and its output.
CallRecord: TypeAlias = tuple[Any, tuple[Any, ...], dict[str, Any], Structure]


@dataclasses.dataclass(frozen=True)
class Section:
    """The calls of a functional model, or some of them.

    Attributes:
        inputs: The symbolic tensors that go in.
        calls: Tuples of a layer, its arguments, its keyword arguments and its output,
            in the order of the forward pass.
        outputs: The symbolic tensors that come out.
    """

    inputs: list[SymbolicTensor]
    calls: list[CallRecord]
    outputs: list[SymbolicTensor]


def recorded(model: keras.Model) -> Section:
    """The calls of a functional model or a `Sequential`.

    Cloning the model repeats its calls. Each layer is replaced there by one that only
    computes shapes, so the layers of the model are not called and stay as they are.
    """
    calls: list[CallRecord] = []

    def record(layer: Any, *args: Any, **kwargs: Any) -> Structure:
        output = Spec(layer)(*args, **kwargs)
        calls.append((layer, args, kwargs, output))
        return output

    # `clone_model` compiles the copy of a compiled model. So a new model is cloned.
    copy = keras.models.clone_model(
        _as_functional(model), clone_function=lambda layer: layer, call_function=record
    )
    return Section(copy.inputs, calls, copy.outputs)


class Spec(keras.Operation):
    """Stands for a layer, and finds the shape of its output without calling it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Structure:
        raise NotImplementedError

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Structure:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("training", "mask")}
        return self.layer.compute_output_spec(*args, **kwargs)


@functools.cache
def _functional_call() -> Callable[..., Any]:
    """The method `call` of functional models, whose class is not public."""
    # Automatic names would change the names of layers that users make later.
    x = keras.Input((1,), name="x")
    y = keras.layers.Identity(name="y")(x)
    return type(keras.Model(x, y, name="functional")).call


def is_functional(layer: Any) -> bool:
    """Whether it is a model made of inputs and outputs, and does nothing else."""
    return (
        isinstance(layer, keras.Model)
        and type(layer).call is _functional_call()
        and layer.activity_regularizer is None
    )


def is_recordable(layer: Any) -> bool:
    """Whether it is a model whose calls can be recorded."""
    return is_functional(layer) or (is_sequential(layer) and layer.built)


def is_sequential(layer: Any) -> bool:
    """Whether it is a `Sequential`, and does nothing else."""
    return (
        isinstance(layer, keras.Sequential)
        and type(layer).call is keras.Sequential.call
        and layer.activity_regularizer is None
    )


def _as_functional(model: keras.Model) -> keras.Model:
    """A functional model of the same calls, which is not compiled."""
    if is_sequential(model):
        return keras.Model(model.inputs, model.outputs, name=model.name)
    return keras.Model(model.input, model.output, name=model.name)
