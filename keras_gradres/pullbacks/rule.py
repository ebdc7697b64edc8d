"""What a pullback rule is given, a `Call`, and what it returns, a `Pullback`.

Usage, for a layer y = sin(x):

    y = call(x)
    slope = ops.cos(call.saved(x))
    pullback = Pullback(lambda c: c * slope, constant=lambda axes: frozenset())
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_gradres import backend, exports
from keras_gradres.pullbacks.masks import Masks

Axes = frozenset[int]


@dataclasses.dataclass(frozen=True)
class Pullback:
    """The function from the cotangent of an output to that of an input, and its facts.

    A rule may return a plain function instead. The facts say when a gradient vanishes
    by structure: a normalization gives none to a sum that is constant along its axes.

    Attributes:
        function: Takes the cotangent of the output and returns that of the input, or a
            list of them, one for each floating-point tensor that the layer was given.
        constant: From the axes along which the cotangent of the output is constant, a
            frozenset of ints, to those of the input. By default unknown; the layer that
            holds the branch then measures, once, whether the gradient vanishes.
        normalizes: The axes along which the layer normalizes, or `None`.
        active: Whether it normalizes by what it is given in this call. `False` for a
            BatchNormalization in inference.
        before: What is normalized, a tensor; given with `normalizes`.
        automatic: The name of the layer that is differentiated automatically, or
            `None`.
    """

    function: Callable
    constant: Callable[[Axes], Axes] | None = None
    normalizes: Axes | None = None
    active: bool = True
    before: Any = None
    automatic: str | None = None


class Call:
    """One call of a layer inside a branch, as a rule sees it.

    Attributes:
        layer: The layer.
        training: Whether the call is one in training, a bool.
        second_order: Whether gradients flow through the cotangents.
    """

    def __init__(self, layer: Any, training: bool, second_order: bool, masks: Masks):
        self.layer = layer
        self.training = training
        self.second_order = second_order
        self.masks = masks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer, through its `__call__`."""
        if isinstance(self.layer, keras.Layer):
            kwargs.setdefault("training", self.training)
        return self.layer(*args, **kwargs)

    def saved(self, tensor: Any) -> Any:
        """A tensor of the forward pass, as a pullback may use it.

        In first order it is a constant, so that nothing of the pullback is recorded.
        """
        return tensor if self.second_order else ops.stop_gradient(tensor)

    def weight(self, variable: Any) -> Any:
        """A weight in the compute dtype of the layer, as a pullback may use it."""
        return self.saved(self.cast(ops.convert_to_tensor(variable)))

    def cast(self, tensor: Any) -> Any:
        """A tensor in the compute dtype of the layer, in which it computes."""
        return ops.cast(tensor, self.layer.compute_dtype)

    def mask(self, tensor: Any) -> Any:
        """The Keras mask of a tensor, or `None`."""
        return self.masks.of(tensor)

    def with_mask(self, function: Callable, tensor: Any) -> Any:
        """`function(tensor)`, whose first result has the mask of the tensor."""
        if self.layer.supports_masking:
            return self.masks.carry(function, tensor)
        return function(tensor)

    def automatic(self, *args: Any, **kwargs: Any) -> tuple[Any, Pullback]:
        """Calls the layer and differentiates it automatically."""
        return differentiate(self, args, kwargs)

    def to(self, layer: Any) -> "Call":
        """The call of another layer under the same conditions."""
        return Call(layer, self.training, self.second_order, self.masks)


def differentiate(call: Call, args: Sequence, kwargs: dict) -> tuple[Any, Pullback]:
    """The layer of `call` and its pullback, by automatic differentiation."""
    name = getattr(call.layer, "name", None) or type(call.layer).__name__
    exports.check(name, type(call.layer))
    flat = keras.tree.flatten((args, kwargs))
    floats = [value for value in flat if is_float_tensor(value)]
    # A tensor that is given twice is one input.
    tensors = list({id(t): t for t in floats}.values())
    masks = [call.mask(t) for t in tensors]

    def function(*values):
        # What is differentiated are other tensors, without what hangs on these.
        new = {
            id(t): call.masks.attach(value, mask)
            for t, value, mask in zip(tensors, values, masks, strict=True)
        }
        packed = [new.get(id(value), value) for value in flat]
        inner_args, inner_kwargs = keras.tree.pack_sequence_as((args, kwargs), packed)
        output = call(*inner_args, **inner_kwargs)
        outputs = keras.tree.flatten(output)
        structure.append(output)
        return (
            [y for y in outputs if is_float_tensor(y)],
            (
                [y for y in outputs if not is_float_tensor(y)],
                [call.mask(y) for y in outputs],
            ),
        )

    structure: list[Any] = []
    differentiable, (others, output_masks), pullback = backend.vjp(
        function, tensors, call.layer, second_order=call.second_order
    )
    found = {True: iter(differentiable), False: iter(others)}
    outputs = [
        call.masks.attach(next(found[is_float_tensor(y)]), mask)
        for y, mask in zip(keras.tree.flatten(structure[-1]), output_masks, strict=True)
    ]

    def by_input(c):
        found = pullback(c if isinstance(c, list) else [c])
        by_tensor = dict(zip(map(id, tensors), found, strict=True))
        return [by_tensor.pop(id(value), None) for value in floats]

    return (
        keras.tree.pack_sequence_as(structure[-1], outputs),
        Pullback(by_input, automatic=name),
    )


def is_float_tensor(value: Any) -> bool:
    """Whether `value` is a tensor that has a derivative."""
    return ops.is_tensor(value) and keras.backend.is_float_dtype(value.dtype)
