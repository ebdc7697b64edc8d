"""The pullback rules, by the class of the layer.

Usage:

    @register(MyLayer)
    def my_layer(call, x):
        ...
        return y, pullback
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_gradres.pullbacks.rule import Call, Pullback, differentiate

# Of layers whose paths may cancel, which only a measurement tells.
MAY_CANCEL = ("Subtract",)

_RULES: dict[type, Callable] = {}
_OPERATION_RULES: dict[str, Callable] = {}


def register(*kinds: type) -> Callable:
    """Decorates the pullback rule of one or several classes of layers.

    A rule is called as `rule(call, *args, **kwargs)`, with a `Call` and what the layer
    is given in the branch. It must

    - call the layer exactly once, as `call(*args, **kwargs)`, so that its state,
      losses, masks and seeds are as in any model;
    - return the output and the pullback: a function from the cotangent of the output to
      that of the input, made of `keras.ops`. Layers with several floating-point inputs
      return a list. A `Pullback` can be returned in the place of the function, and a
      list of them, the one of the output first, for a layer of several steps;
    - take what the pullback uses of the forward pass through `call.saved` (tensors) and
      `call.weight` (weights).

    A cotangent has the shape of the output, or 1 in the place of the batch size where
    it is the same for all samples; what the rule returns has to broadcast to the shape
    of the input likewise. Keeping the 1 where it may be kept is what makes a tail of
    affine layers cheap.

    Rules hold for exactly these classes: a subclass may compute something else.

    Args:
        *kinds: Classes of layers.

    Returns:
        A decorator.

    Example:
    >>> class Double(keras.Layer):
    ...     def call(self, x):
    ...         return 2 * x
    >>> @keras_gradres.pullbacks.register(Double)
    ... def double(call, x):
    ...     return call(x), lambda c: 2 * c
    >>> keras_gradres.pullbacks.has_rule(Double())
    True
    """
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, keras.Operation)):
            raise ValueError(
                "A pullback rule must be registered for classes of Keras layers. "
                f"Received: {kind}"
            )

    def decorator(rule: Callable) -> Callable:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return decorator


def register_named(*names: str) -> Callable:
    """`register` for layers of `keras.layers`, of which not every release has all."""
    return register(
        *(getattr(keras.layers, name) for name in names if hasattr(keras.layers, name))
    )


def register_operation(*names: str) -> Callable:
    """`register` for operations of Keras, as in `a + b`, whose classes have no name."""

    def decorator(rule: Callable) -> Callable:
        _OPERATION_RULES.update(dict.fromkeys(names, rule))
        return rule

    return decorator


def has_rule(layer: keras.Operation) -> bool:
    """Whether there is a pullback rule for a layer of this class."""
    return find(layer) is not None


def find(layer: keras.Operation) -> Callable | None:
    """The rule for a layer or an operation, or `None`."""
    if is_operation(layer):
        return _OPERATION_RULES.get(type(layer).__name__)
    return _RULES.get(type(layer))


def is_operation(layer: Any) -> bool:
    """Whether it is an operation of Keras itself, as in `a + b`, and no layer."""
    ours = type(layer).__module__.startswith("keras.")
    return ours and not isinstance(layer, keras.Layer)


def has_known_activation(layer: Any) -> bool:
    """Whether the activation of a layer, if it has one, has a rule, too."""
    activation = getattr(layer, "activation", None)
    if activation is None or isinstance(activation, keras.Layer):
        return activation is None or has_rule(activation)
    return getattr(activation, "__module__", "").startswith("keras.")


def pull(call: Call, args: Sequence, kwargs: dict) -> tuple[Any, list[Pullback]]:
    """Calls the layer of `call`; returns its output and its pullbacks, last first."""
    rule = find(call.layer)
    if rule is None:
        output, pullback = differentiate(call, args, kwargs)
        return output, [pullback]
    output, found = rule(call, *args, **kwargs)
    pullbacks = found if isinstance(found, (list, tuple)) else [found]
    return output, [p if isinstance(p, Pullback) else Pullback(p) for p in pullbacks]
