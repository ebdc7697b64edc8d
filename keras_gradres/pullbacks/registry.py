"""The pullback rules, by the class of the layer.

Usage:

    @register(MyLayer)
    def my_layer(call, x):
        ...
        return y, pullback
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras

from keras_gradres.pullbacks.rule import (
    Call,
    Pullback,
    Rule,
    differentiate,
)
from keras_gradres.typing import Structure

# The gradients of the two inputs of these layers may cancel. Only a measurement shows
# whether they do.
MAY_CANCEL = ("Subtract",)

_RULES: dict[type, Rule] = {}
_OPERATION_RULES: dict[str, Rule] = {}
R = TypeVar("R", bound=Callable[..., Any])


def register(*kinds: type) -> Callable[[R], R]:
    """Decorates the pullback rule of one or several classes of layers.

    A rule is called as `rule(call, *args, **kwargs)`, with a `Call` and the arguments
    that the layer is given in the branch. It must

    - call the layer exactly once, as `call(*args, **kwargs)`, so that its state,
      losses, masks and seeds are as in any model;
    - return the output and the pullback: a function from the cotangent of the output to
      that of the input, written with `keras.ops`. The pullback of a layer with several
      floating-point inputs returns a list. A `Pullback` may be returned in the place of
      the function. A layer that composes several functions may return a list of
      pullbacks, the one of the last function first;
    - use `call.saved(tensor)` for tensors of the forward pass that the pullback needs,
      and `call.weight(variable)` for weights.

    A cotangent has the shape of the output. Where it is the same for all samples, its
    batch size is 1 instead. What the rule returns must broadcast to the shape of the
    input in the same way. A rule should keep a batch size of 1 where it can, because
    that makes the affine tail of a branch cheap: it is pulled back for one sample.

    A rule holds for exactly these classes, because a subclass may compute something
    else.

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

    def decorator(rule: R) -> R:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return decorator


def register_named(*names: str) -> Callable[[R], R]:
    """`register` for layers of `keras.layers`, given by their names.

    A name that this release of Keras does not have is left out.
    """
    return register(
        *(getattr(keras.layers, name) for name in names if hasattr(keras.layers, name))
    )


def register_operation(*names: str) -> Callable[[R], R]:
    """`register` for operations of Keras, as in `a + b`.

    Their classes are not public, so they are given by the names of the classes.
    """

    def decorator(rule: R) -> R:
        _OPERATION_RULES.update(dict.fromkeys(names, rule))
        return rule

    return decorator


def has_rule(layer: keras.Operation) -> bool:
    """Whether there is a pullback rule for a layer of this class."""
    return find(layer) is not None


def find(layer: keras.Operation) -> Rule | None:
    """The rule for a layer or an operation, or `None`."""
    if is_operation(layer):
        return _OPERATION_RULES.get(type(layer).__name__)
    return _RULES.get(type(layer))


def is_operation(layer: Any) -> bool:
    """Whether it is an operation of Keras itself, as in `a + b`, and no layer."""
    of_keras = type(layer).__module__.startswith("keras.")
    return of_keras and not isinstance(layer, keras.Layer)


def has_known_activation(layer: Any) -> bool:
    """Whether the layer has no activation, or one whose derivative is known."""
    activation = getattr(layer, "activation", None)
    if activation is None or isinstance(activation, keras.Layer):
        return activation is None or has_rule(activation)
    return getattr(activation, "__module__", "").startswith("keras.")


def pull(
    call: Call, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Structure, list[Pullback]]:
    """Calls the layer of `call`.

    Args:
        call: The call.
        args: The arguments of the layer.
        kwargs: Its keyword arguments.

    Returns:
        The output, and the pullbacks in the order in which they are applied.
    """
    rule = find(call.layer)
    if rule is None:
        output, pullback = differentiate(call, args, kwargs)
        return output, [pullback]
    output, returned = rule(call, *args, **kwargs)
    pullbacks = returned if isinstance(returned, Sequence) else [returned]
    return output, [p if isinstance(p, Pullback) else Pullback(p) for p in pullbacks]
