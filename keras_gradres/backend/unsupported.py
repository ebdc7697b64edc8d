"""Keras backends that cannot differentiate: importing works, calling raises."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras

from keras_gradres.typing import ListPullback, Structure, Tensor

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _refusal() -> NotImplementedError:
    return NotImplementedError(
        f"The Keras backend '{keras.backend.backend()}' cannot differentiate. "
        "Set the environment variable `KERAS_BACKEND` to 'jax', 'tensorflow' or "
        "'torch' before Keras is imported."
    )


def value_and_grad(
    function: Callable[[Any], tuple[Tensor, Structure]], tensors: Sequence[Tensor]
) -> tuple[Tensor, Structure, list[Tensor]]:
    raise _refusal()


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    raise _refusal()


def vjp(
    function: Callable[..., tuple[list[Tensor], Structure]],
    tensors: Sequence[Tensor],
    layer: keras.Operation,
    *,
    second_order: bool = False,
) -> tuple[list[Tensor], Structure, ListPullback]:
    name = getattr(layer, "name", None) or type(layer).__name__
    raise NotImplementedError(
        f"The Keras backend '{keras.backend.backend()}' cannot differentiate, and the "
        f"layer '{name}' (of type {type(layer).__name__}) in the branch of a gradient "
        "residual has no pullback rule. Register one, or set the environment variable "
        "`KERAS_BACKEND` to 'jax', 'tensorflow' or 'torch' before Keras is imported."
    )


def gradient_hook(
    x: Tensor, backward: Callable[..., Tensor], *operands: Structure
) -> tuple[Tensor, Callable[[], bool]]:
    # Without a backward pass the hook is never called; the values stay the same.
    return x, lambda: False


def uncompiled(function: F) -> F:
    return function


def variable_copies(variable: Any) -> list[Any]:
    return [variable]


def tracer() -> str | None:
    return None


def eagerly(function: Callable[[], T]) -> T:
    return function()


def all_reduce(
    tensors: Sequence[Tensor], after: Sequence[keras.Variable]
) -> list[Tensor]:
    return list(tensors)


def broadcast(variables: Sequence[keras.Variable]) -> None:
    pass


def to_apply(gradients: Sequence[Tensor]) -> list[Tensor]:
    return list(gradients)


def assign(variable: keras.Variable, value: Tensor) -> None:
    variable.assign(value)


def bool_if_eager(condition: Tensor) -> Tensor:
    return condition
