"""TensorFlow: a gradient tape around the one call, `tape.gradient` outside it."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf

from keras_gradres.traversal import layers_in
from keras_gradres.typing import ListPullback, Structure, Tensor

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def vjp(
    function: Callable[..., tuple[list[Tensor], Structure]],
    tensors: Sequence[Tensor],
    layer: keras.Operation,
    *,
    second_order: bool = False,
) -> tuple[list[Tensor], Structure, ListPullback]:
    if second_order:
        _check_second_derivative(layer)
    recording = _tapes_are_recording()
    if not recording and tf.executing_eagerly():
        return _vjp_without_tape(function, tensors, layer)
    with tf.GradientTape(watch_accessed_variables=False, persistent=recording) as tape:
        tape.watch(tensors)
        outputs, others = function(*tensors)

    def pullback(cotangents: Sequence[Tensor | None]) -> list[Tensor]:
        # Outside of the tape's `with`, an outer tape still records the product. That is
        # what `second_order` needs.
        pairs = _paired(outputs, cotangents)
        if recording:
            products = tape.gradient(
                [y for y, _ in pairs],
                tensors,
                output_gradients=[c for _, c in pairs],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        else:
            products = _symbolic_gradients(pairs, tensors)
        products = list(map(tf.convert_to_tensor, products))
        return products if second_order else list(map(tf.stop_gradient, products))

    return outputs, others, pullback


def _paired(
    outputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> list[tuple[Tensor, Tensor]]:
    """Each output that has a cotangent, with the cotangent in its shape and dtype."""
    return [
        (y, tf.broadcast_to(tf.cast(c, y.dtype), tf.shape(y)))
        for y, c in zip(outputs, cotangents, strict=True)
        if c is not None
    ]


def _symbolic_gradients(
    pairs: Sequence[tuple[Tensor, Tensor]], tensors: Sequence[Tensor]
) -> list[Tensor]:
    return tf.gradients(
        [y for y, _ in pairs],
        tensors,
        grad_ys=[c for _, c in pairs],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def _vjp_without_tape(
    function: Callable[..., tuple[list[Tensor], Structure]],
    tensors: Sequence[Tensor],
    layer: keras.Operation,
) -> tuple[list[Tensor], Structure, ListPullback]:
    """`vjp` in first order, where tapes do not record.

    The pullback runs a graph that repeats the call, with the state from before it.
    """
    variables = getattr(layer, "variables", ())  # Operations have none.
    state = [(v, tf.identity(v.value)) for v in variables]
    outputs, others = function(*tensors)

    @tf.function
    def repeated(
        tensors: list[Tensor], cotangents: list[Tensor | None]
    ) -> list[Tensor]:
        with keras.StatelessScope(state):
            outputs, _ = function(*tensors)
        return _symbolic_gradients(_paired(outputs, cotangents), tensors)

    def pullback(cotangents: Sequence[Tensor | None]) -> list[Tensor]:
        return [tf.stop_gradient(p) for p in repeated(tensors, cotangents)]

    return outputs, others, pullback


def gradient_hook(
    x: Tensor, backward: Callable[..., Tensor], *operands: Structure
) -> tuple[Tensor, Callable[[], bool]]:
    # New tensors, without the attributes of the old ones, such as masks.
    operands = keras.tree.map_structure(tf.stop_gradient, operands)

    @tf.custom_gradient
    def hooked(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def reverse(dx: Tensor) -> Tensor:
            return tf.cast(backward(dx, *operands), dx.dtype)

        alive.append(weakref.ref(reverse))
        return tf.identity(x), reverse

    alive: list[weakref.ref] = []
    graph = None
    if not tf.executing_eagerly():
        graph = weakref.ref(tf.compat.v1.get_default_graph())
    x = hooked(x)

    def is_pending() -> bool:
        if graph is not None:
            return graph() is tf.compat.v1.get_default_graph()
        # Only a tape that recorded the call keeps the backward function alive.
        return alive[0]() is not None

    return x, is_pending


def value_and_grad(
    function: Callable[[Any], tuple[Tensor, Structure]], tensors: Sequence[Tensor]
) -> tuple[Tensor, Structure, list[Tensor]]:
    # An outer tape may watch the tensors, and would record what is computed from them.
    copies = [tf.identity(t) for t in tensors]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(copies)
        value, extra = function(copies)
    gradients = tape.gradient(
        value, copies, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return value, extra, [tf.convert_to_tensor(g) for g in gradients]


def _tapes_are_recording() -> bool:
    """Whether tapes record here.

    `tf.custom_gradient`, which rematerialization uses, runs a function with all tapes
    of the thread stopped, including those that the function opens.
    """
    with tf.GradientTape() as tape:
        x = tf.constant(0.0)
        tape.watch(x)
        y = tf.identity(x)
    return tape.gradient(y, x) is not None


def _check_second_derivative(layer: keras.Operation) -> None:
    """Raises if `layer` computes moments whose second derivative is wrong.

    `tf.nn.moments` stops the gradient at the mean. The first derivative of the variance
    does not depend on that path. The second derivative does, and would be wrong without
    an error.
    """
    moments = {
        keras.layers.BatchNormalization: "use `synchronized=True`, ",
        keras.layers.LayerNormalization: "",
        keras.layers.GroupNormalization: "",
    }
    for sublayer in layers_in(layer):
        kind = type(sublayer)
        if kind not in moments or getattr(sublayer, "synchronized", False):
            continue
        if kind is keras.layers.BatchNormalization and not sublayer.trainable:
            continue
        raise NotImplementedError(
            "TensorFlow gets the second derivative of the moments in layer "
            f"'{sublayer.name}' (of type {kind.__name__}) wrong, so that "
            "`second_order=True` would train on wrong gradients. Instead "
            f"{moments[kind]}use `second_order=False`, or another backend."
        )


def uncompiled(function: F) -> F:
    return function


def variable_copies(variable: Any) -> list[Any]:
    if not isinstance(variable, keras.Variable):
        return [variable]
    # The `tf.Variable` of it, or under a strategy the copy of each replica.
    strategy = tf.distribute.get_strategy()
    return [variable, *strategy.experimental_local_results(variable.value)]


def tracer() -> str | None:
    return None if tf.executing_eagerly() else "tf.function"


def eagerly(function: Callable[[], T]) -> T:
    if tf.executing_eagerly():
        return function()  # Tapes do not record in `init_scope`.
    with tf.init_scope():
        return function()


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    dense = [t.values if isinstance(t, tf.IndexedSlices) else t for t in tensors]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in dense])


def broadcast(variables: Sequence[keras.Variable]) -> None:
    pass  # All replicas share one variable.


def all_reduce(
    tensors: Sequence[Tensor], after: Sequence[keras.Variable]
) -> list[Tensor]:
    context = tf.distribute.get_replica_context()
    floats = [t for t in tensors if t.dtype.is_floating]
    if context is None or context.num_replicas_in_sync == 1 or not floats:
        return list(tensors)
    dtype = max((t.dtype for t in floats), key=lambda dtype: dtype.size)
    flat = tf.concat([tf.reshape(tf.cast(t, dtype), [-1]) for t in floats], 0)
    # Devices that start collectives in different orders would mix up their data.
    with tf.control_dependencies([tf.convert_to_tensor(v.value) for v in after]):
        flat = tf.identity(flat)
    flat = context.all_reduce(tf.distribute.ReduceOp.MEAN, flat)
    means = iter(tf.split(flat, [tf.size(t) for t in floats]))
    return [
        tf.cast(tf.reshape(next(means), tf.shape(t)), t.dtype)
        if t.dtype.is_floating
        else t
        for t in tensors
    ]


def to_apply(gradients: Sequence[Tensor]) -> list[Tensor]:
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return list(gradients) if replicas == 1 else [g / replicas for g in gradients]


def assign(variable: keras.Variable, value: Tensor) -> None:
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        variable.assign(value)
    else:  # `variable.assign` would start a collective.
        strategy.extended.update(
            variable.value, lambda v, value: v.assign(value), args=(value,), group=False
        )


def bool_if_eager(condition: Tensor) -> Tensor:
    return condition
