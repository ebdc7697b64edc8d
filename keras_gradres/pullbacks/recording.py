"""The calls of a functional model, found by the public API of Keras.

Usage:

    section = recorded(model)
    for layer, args, kwargs, output in section.calls:
        ...
"""

import dataclasses
import functools
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Section:
    """The calls of a functional model, or some of them.

    Attributes:
        inputs: The symbolic tensors that go in.
        calls: Tuples of a layer, its arguments, its keyword arguments and its output,
            in order.
        outputs: The symbolic tensors that come out.
    """

    inputs: list
    calls: list
    outputs: list


def recorded(model: keras.Model) -> Section:
    """The calls of a functional model or a `Sequential`; its layers are left alone."""
    calls: list[tuple] = []

    def record(layer, *args, **kwargs):
        output = Spec(layer)(*args, **kwargs)
        calls.append((layer, args, kwargs, output))
        return output

    # A model of the same calls, and one that is not compiled: a copy would be, too.
    copy = keras.models.clone_model(
        _as_functional(model), clone_function=lambda layer: layer, call_function=record
    )
    return Section(copy.inputs, calls, copy.outputs)


class Spec(keras.Operation):
    """In the place of a layer, to find the shape of its output without calling it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, *args, **kwargs):
        raise NotImplementedError

    def compute_output_spec(self, *args, **kwargs):
        kwargs = {k: v for k, v in kwargs.items() if k not in ("training", "mask")}
        return self.layer.compute_output_spec(*args, **kwargs)


@functools.cache
def _functional_call():
    # With names, so that none are taken from the layers of others.
    x = keras.Input((1,), name="x")
    y = keras.layers.Identity(name="y")(x)
    return type(keras.Model(x, y, name="functional")).call


def is_functional(layer: Any) -> bool:
    """Whether it is a model made of inputs and outputs, and nothing beside it."""
    return (
        isinstance(layer, keras.Model)
        and type(layer).call is _functional_call()
        and layer.activity_regularizer is None
    )


def is_open(layer: Any) -> bool:
    """Whether it is a model whose calls can be recorded."""
    return is_functional(layer) or (is_sequential(layer) and layer.built)


def is_sequential(layer: Any) -> bool:
    """Whether it is a `Sequential`, and nothing beside it."""
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
