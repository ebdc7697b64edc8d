"""JAX: `jax.vjp` of a pure version of the call, whose state is assigned afterwards.

The gradient hook is a `jax.custom_vjp`, whose backward function runs at the level
outside of what is differentiated. (That of `jax.custom_gradient` is traced during the
forward pass, before the gradient exists.)
"""

import weakref

import jax
import jax.numpy as jnp
import keras
from jax.extend.core import get_opaque_trace_state


class _Overlay(keras.StatelessScope):
    """A scope that keeps what is assigned in it and reads the rest from outside.

    Inside `jax.vjp` a layer may read values of the surrounding trace, but what it
    assigns to its variables and adds to its losses belongs to the inner trace, and
    must leave it as a result. A plain `StatelessScope` would need the values of all
    variables beforehand, and reading them there would cast them to the compute
    dtype of the surrounding layer.
    """

    def __init__(self):
        super().__init__(collect_losses=True)
        self.assigned = {}

    def add_update(self, update):
        super().add_update(update)
        self.assigned[id(update[0])] = update[0]

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value


# Keras tells whose a loss is by its `id`, which a layer remembers until it is next
# called. If the loss were freed before that, another layer's loss could be given the
# same id, and be dropped or counted twice. For each layer: the surrounding scope of
# its last call, and the losses of all its calls there.
_remembered: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _keep_alive(losses, layer, outer_scope):
    last_scope, kept = _remembered.get(layer, (None, []))
    if outer_scope is None or last_scope is None or last_scope() is not outer_scope:
        kept = []
    reference = None if outer_scope is None else weakref.ref(outer_scope)
    _remembered[layer] = (reference, [*kept, *losses])


def vjp(function, tensors, layer, *, second_order=False):
    scope = _Overlay()

    def call(*tensors):
        with scope:
            outputs, others = function(*tensors)
        updates = [scope.get_current_value(v) for v in scope.assigned.values()]
        return outputs, (others, updates, scope.losses)

    outputs, transposed, (others, updates, losses) = jax.vjp(
        call, *tensors, has_aux=True
    )
    for variable, value in zip(scope.assigned.values(), updates, strict=True):
        variable.assign(value)
    if losses:
        # Not to a container: it may be one that no model knows of.
        owner = (getattr(layer, "layers", None) or [layer])[0]
        owner.add_loss(losses)
        _keep_alive([*scope.losses, *losses], layer, scope.original_scope)

    def pullback(cotangents):
        cotangents = [
            jnp.zeros_like(y)
            if c is None
            else jnp.broadcast_to(c, y.shape).astype(y.dtype)
            for c, y in zip(cotangents, outputs, strict=True)
        ]
        found = transposed(cotangents)
        return list(found if second_order else map(jax.lax.stop_gradient, found))

    return outputs, others, pullback


def gradient_hook(x, backward, *operands):
    recorded = []

    @jax.custom_vjp
    def hooked(x, operands):
        return x

    def forward(x, operands):
        recorded.append(True)  # Called only where the call is differentiated.
        return x, operands

    def reverse(operands, dx):
        recorded.clear()
        return backward(dx, *operands).astype(dx.dtype), None

    hooked.defvjp(forward, reverse)
    # A trace that an error has ended stays recorded, but is the current one no more.
    trace = get_opaque_trace_state()
    return (
        hooked(x, operands),
        lambda: bool(recorded) and trace == get_opaque_trace_state(),
    )


def value_and_grad(function, tensors):
    (value, extra), gradients = jax.value_and_grad(function, has_aux=True)(tensors)
    return value, extra, gradients


def uncompiled(function):
    return function


def parts(variable):
    return [variable]


def tracer():
    return "jit"


def eagerly(function):
    with jax.ensure_compile_time_eval():
        return function()


def all_finite(tensors):
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(t)) for t in tensors]))


def all_reduce(tensors, after):
    # A sum over the batch is one over all devices already, wherever its parts lie.
    return tensors


def broadcast(variables):
    pass  # They are one variable, made once.


def to_apply(gradients):
    return gradients


def assign(variable, value):
    variable.assign(value)


def known(condition):
    return condition
