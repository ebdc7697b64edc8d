"""JAX: `jax.vjp` of a pure version of the call, whose state is assigned afterwards.

The gradient hook is a `jax.custom_vjp`. Its backward function runs when the gradient is
computed, outside of the trace that is differentiated. The one of `jax.custom_gradient`
would be traced during the forward pass, before the gradient exists.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import keras
from jax.extend.core import get_opaque_trace_state

from keras_gradres.typing import ListPullback, Structure, Tensor

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class _Overlay(keras.StatelessScope):
    """A scope that keeps what is assigned in it and reads the rest from outside.

    Inside `jax.vjp` a layer may read values of the surrounding trace. But the values
    that it assigns to its variables, and the losses that it adds, belong to the trace
    of `jax.vjp`, and must leave it as results.

    A plain `StatelessScope` would need the values of all variables beforehand. Reading
    them there would cast them to the compute dtype of the surrounding layer.

    Attributes:
        assigned: The variables that were assigned in the scope, by their `id`.
    """

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.assigned: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        super().add_update(update)
        self.assigned[id(update[0])] = update[0]

    def get_current_value(self, variable: keras.Variable) -> Tensor | None:
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value


# Keras tells which layer a loss belongs to by the `id` of the loss, and a layer
# remembers these ids until it is called again. If a loss were freed before that, the
# loss of another layer could get the same id, and be dropped or counted twice. So the
# losses are kept alive. For each layer: the surrounding scope of its last call, and the
# losses of all its calls in that scope.
_losses_kept_alive: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _keep_alive(
    losses: Sequence[Tensor],
    layer: keras.Operation,
    outer_scope: keras.StatelessScope | None,
) -> None:
    last_scope, kept = _losses_kept_alive.get(layer, (None, []))
    if outer_scope is None or last_scope is None or last_scope() is not outer_scope:
        kept = []
    reference = None if outer_scope is None else weakref.ref(outer_scope)
    _losses_kept_alive[layer] = (reference, [*kept, *losses])


def vjp(
    function: Callable[..., tuple[list[Tensor], Structure]],
    tensors: Sequence[Tensor],
    layer: keras.Operation,
    *,
    second_order: bool = False,
) -> tuple[list[Tensor], Structure, ListPullback]:
    scope = _Overlay()

    def pure(
        *tensors: Tensor,
    ) -> tuple[list[Tensor], tuple[Structure, list[Tensor], list[Tensor]]]:
        with scope:
            outputs, others = function(*tensors)
        updates = [scope.get_current_value(v) for v in scope.assigned.values()]
        return outputs, (others, updates, scope.losses)

    outputs, transposed, (others, updates, losses) = jax.vjp(
        pure, *tensors, has_aux=True
    )
    for variable, value in zip(scope.assigned.values(), updates, strict=True):
        variable.assign(value)
    if losses:
        # A container may be unknown to the model, so its first layer gets the losses.
        owner = (getattr(layer, "layers", None) or [layer])[0]
        owner.add_loss(losses)
        _keep_alive([*scope.losses, *losses], layer, scope.original_scope)

    def pullback(cotangents: Sequence[Tensor | None]) -> list[Tensor]:
        full = [
            jnp.zeros_like(y)
            if c is None
            else jnp.broadcast_to(c, y.shape).astype(y.dtype)
            for c, y in zip(cotangents, outputs, strict=True)
        ]
        products = transposed(full)
        return list(products if second_order else map(jax.lax.stop_gradient, products))

    return outputs, others, pullback


def gradient_hook(
    x: Tensor, backward: Callable[..., Tensor], *operands: Structure
) -> tuple[Tensor, Callable[[], bool]]:
    recorded: list[bool] = []

    @jax.custom_vjp
    def hooked(x: Tensor, operands: Structure) -> Tensor:
        return x

    def forward(x: Tensor, operands: Structure) -> tuple[Tensor, Structure]:
        recorded.append(True)  # Called only where the call is differentiated.
        return x, operands

    def reverse(operands: Structure, dx: Tensor) -> tuple[Tensor, None]:
        recorded.clear()
        return backward(dx, *operands).astype(dx.dtype), None

    hooked.defvjp(forward, reverse)
    # If an error ended the trace, `recorded` is still true. But then the trace is no
    # longer the current one.
    trace = get_opaque_trace_state()
    return (
        hooked(x, operands),
        lambda: bool(recorded) and trace == get_opaque_trace_state(),
    )


def value_and_grad(
    function: Callable[[Any], tuple[Tensor, Structure]], tensors: Sequence[Tensor]
) -> tuple[Tensor, Structure, list[Tensor]]:
    (value, extra), gradients = jax.value_and_grad(function, has_aux=True)(tensors)
    return value, extra, gradients


def uncompiled(function: F) -> F:
    return function


def variable_copies(variable: Any) -> list[Any]:
    return [variable]


def tracer() -> str | None:
    return "jit"


def eagerly(function: Callable[[], T]) -> T:
    with jax.ensure_compile_time_eval():
        return function()


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(t)) for t in tensors]))


def all_reduce(
    tensors: Sequence[Tensor], after: Sequence[keras.Variable]
) -> list[Tensor]:
    # Under JAX a sum over the batch already is a sum over all devices.
    return list(tensors)


def broadcast(variables: Sequence[keras.Variable]) -> None:
    pass  # All devices share one variable.


def to_apply(gradients: Sequence[Tensor]) -> list[Tensor]:
    return list(gradients)


def assign(variable: keras.Variable, value: Tensor) -> None:
    variable.assign(value)


def bool_if_eager(condition: Tensor) -> Tensor:
    return condition
