"""What a pullback rule is given, a `Call`, and what it returns, a `Pullback`.

Usage, for a layer y = sin(x):

    y = call(x)
    slope = ops.cos(call.saved(x))
    pullback = Pullback(lambda c: c * slope, constant=lambda axes: frozenset())
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_gradres import backend, exports
from keras_gradres.pullbacks.masks import Masks
from keras_gradres.typing import (
    Axes,
    AxesFunction,
    Mask,
    PullbackFunction,
    Structure,
    Tensor,
)

NO_AXES: Axes = frozenset()


# Values of `Pullback.constant`.


def same_axes(axes: Axes) -> Axes:
    """The cotangent of the input is constant where that of the output is."""
    return axes


def batch_only(axes: Axes) -> Axes:
    """It stays constant along the batch, but varies at the borders of windows."""
    return axes & {0}


def no_axes(axes: Axes) -> Axes:
    """It is not constant along any axis."""
    return NO_AXES


@dataclasses.dataclass(frozen=True)
class Pullback:
    """The function from the cotangent of an output to that of an input, and its facts.

    A rule may return a plain function instead. The facts show from the structure alone
    when a gradient vanishes: a normalization removes a cotangent that is constant along
    its axes.

    Attributes:
        function: Takes the cotangent of the output and returns that of the input, or a
            list of them, one for each floating-point tensor that the layer was given.
        constant: From the axes along which the cotangent of the output is constant, a
            frozenset of ints, to those of the input. By default unknown. Then the layer
            that holds the branch measures, once, whether the gradient vanishes.
        normalizes: The axes along which the layer normalizes, or `None`.
        active: Whether the layer normalizes by statistics of its input in this call.
            `False` for a BatchNormalization in inference.
        before: The tensor that is normalized. Needed with `normalizes`.
        automatic: The name of the layer that is differentiated automatically, or
            `None`.
    """

    function: PullbackFunction
    constant: AxesFunction | None = None
    normalizes: Axes | None = None
    active: bool = True
    before: Tensor = None
    automatic: str | None = None


# What a rule returns: the output, and one pullback or several.
RuleResult: TypeAlias = tuple[
    Structure, Pullback | PullbackFunction | Sequence[Pullback | PullbackFunction]
]
# Takes a `Call`, and what the layer is given.
Rule: TypeAlias = Callable[..., RuleResult]


class Call:
    """One call of a layer inside a branch, as a rule sees it.

    Attributes:
        layer: The layer, or a Keras operation, or an activation function.
        training: Whether the call is one in training, a bool.
        second_order: Whether gradients flow through the cotangents.
    """

    def __init__(self, layer: Any, training: bool, second_order: bool, masks: Masks):
        self.layer = layer
        self.training = training
        self.second_order = second_order
        self.masks = masks

    def __call__(self, *args: Any, **kwargs: Any) -> Structure:
        """Calls the layer, through its `__call__`."""
        if isinstance(self.layer, keras.Layer):
            kwargs.setdefault("training", self.training)
        return self.layer(*args, **kwargs)

    def saved(self, tensor: Tensor) -> Tensor:
        """A tensor of the forward pass, for use in a pullback.

        In first order it is a constant, so that nothing of the pullback is recorded.
        """
        return tensor if self.second_order else ops.stop_gradient(tensor)

    def weight(self, variable: keras.Variable) -> Tensor:
        """A weight in the compute dtype of the layer, for use in a pullback."""
        return self.saved(self.cast(ops.convert_to_tensor(variable)))

    def cast(self, tensor: Tensor) -> Tensor:
        """A tensor in the compute dtype of the layer."""
        return ops.cast(tensor, self.layer.compute_dtype)

    def mask(self, tensor: Tensor) -> Mask:
        """The Keras mask of a tensor, or `None`."""
        return self.masks.of(tensor)

    def with_mask(
        self, function: Callable[[Tensor], Structure], tensor: Tensor
    ) -> Structure:
        """`function(tensor)`, whose first result has the mask of the tensor."""
        if self.layer.supports_masking:
            return self.masks.carry(function, tensor)
        return function(tensor)

    def automatic(self, *args: Any, **kwargs: Any) -> tuple[Structure, Pullback]:
        """Calls the layer and differentiates it automatically."""
        return differentiate(self, args, kwargs)

    def to(self, layer: Any) -> "Call":
        """The call of another layer under the same conditions."""
        return Call(layer, self.training, self.second_order, self.masks)


def differentiate(
    call: Call, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Structure, Pullback]:
    """The output of the layer of `call`, and its pullback by automatic differentiation.

    Args:
        call: The call.
        args: The arguments of the layer.
        kwargs: Its keyword arguments.
    """
    name = getattr(call.layer, "name", None) or type(call.layer).__name__
    exports.check(name, type(call.layer))
    flat = keras.tree.flatten((args, kwargs))
    floats = [value for value in flat if is_float_tensor(value)]
    # A tensor that is given twice is one input.
    tensors = list({id(t): t for t in floats}.values())
    masks = [call.mask(t) for t in tensors]

    structures: list[Structure] = []

    def function(*values: Tensor) -> tuple[list[Tensor], Structure]:
        # The backend replaces the tensors by others, which have no masks.
        replacements = {
            id(t): call.masks.attach(value, mask)
            for t, value, mask in zip(tensors, values, masks, strict=True)
        }
        packed = [replacements.get(id(value), value) for value in flat]
        new_args, new_kwargs = keras.tree.pack_sequence_as((args, kwargs), packed)
        output = call(*new_args, **new_kwargs)
        outputs = keras.tree.flatten(output)
        structures.append(output)
        return (
            [y for y in outputs if is_float_tensor(y)],
            (
                [y for y in outputs if not is_float_tensor(y)],
                [call.mask(y) for y in outputs],
            ),
        )

    differentiable, (others, output_masks), pullback = backend.vjp(
        function, tensors, call.layer, second_order=call.second_order
    )
    structure = structures[-1]
    results = {True: iter(differentiable), False: iter(others)}
    outputs = [
        call.masks.attach(next(results[is_float_tensor(y)]), mask)
        for y, mask in zip(keras.tree.flatten(structure), output_masks, strict=True)
    ]

    def by_input(c: Tensor | list[Tensor | None]) -> list[Tensor | None]:
        products = pullback(c if isinstance(c, list) else [c])
        by_tensor = dict(zip(map(id, tensors), products, strict=True))
        # A tensor that was given twice gets its cotangent once, `None` the next time.
        return [by_tensor.pop(id(value), None) for value in floats]

    return (
        keras.tree.pack_sequence_as(structure, outputs),
        Pullback(by_input, automatic=name),
    )


def is_float_tensor(value: Any) -> bool:
    """Whether `value` is a tensor that has a derivative."""
    return ops.is_tensor(value) and keras.backend.is_float_dtype(value.dtype)
