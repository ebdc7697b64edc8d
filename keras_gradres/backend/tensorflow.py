"""TensorFlow: a gradient tape around the one call, `tape.gradient` outside it."""

import weakref

import keras
import tensorflow as tf

from keras_gradres.traversal import layers_in


def vjp(function, tensors, layer, *, second_order=False):
    if second_order:
        _check_second_derivative(layer)
    recording = _tapes_are_recording()
    if not recording and tf.executing_eagerly():
        return _vjp_without_tape(function, tensors, layer)
    with tf.GradientTape(watch_accessed_variables=False, persistent=recording) as tape:
        tape.watch(tensors)
        outputs, others = function(*tensors)

    def pullback(cotangents):
        # Out of the tape's `with`: an outer tape still records the product, which is
        # what `second_order` needs.
        pairs = _known(outputs, cotangents)
        if recording:
            found = tape.gradient(
                [y for y, _ in pairs],
                tensors,
                output_gradients=[c for _, c in pairs],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        else:
            found = _symbolic_gradients(pairs, tensors)
        found = list(map(tf.convert_to_tensor, found))
        return found if second_order else list(map(tf.stop_gradient, found))

    return outputs, others, pullback


def _known(outputs, cotangents):
    """Those outputs that have a cotangent, with it."""
    return [
        (y, tf.broadcast_to(tf.cast(c, y.dtype), tf.shape(y)))
        for y, c in zip(outputs, cotangents, strict=True)
        if c is not None
    ]


def _symbolic_gradients(pairs, tensors):
    return tf.gradients(
        [y for y, _ in pairs],
        tensors,
        grad_ys=[c for _, c in pairs],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def _vjp_without_tape(function, tensors, layer):
    """Where tapes do not record: a graph of the same call, with the state before it."""
    # Operations and functions have none.
    variables = getattr(layer, "variables", ())
    state = [(v, tf.identity(v.value)) for v in variables]
    outputs, others = function(*tensors)

    @tf.function
    def again(tensors, cotangents):
        with keras.StatelessScope(state):
            outputs, _ = function(*tensors)
        return _symbolic_gradients(_known(outputs, cotangents), tensors)

    def pullback(cotangents):
        found = again(tensors, cotangents)
        return [tf.stop_gradient(p) for p in found]

    return outputs, others, pullback


def gradient_hook(x, backward, *operands):
    # Without what hangs on the tensors themselves, such as masks.
    operands = keras.tree.map_structure(tf.stop_gradient, operands)

    @tf.custom_gradient
    def hooked(x):
        def reverse(dx):
            return tf.cast(backward(dx, *operands), dx.dtype)

        alive.append(weakref.ref(reverse))
        return tf.identity(x), reverse

    alive: list = []
    graph = None
    if not tf.executing_eagerly():
        graph = weakref.ref(tf.compat.v1.get_default_graph())
    x = hooked(x)

    def is_pending():
        if graph is not None:
            return graph() is tf.compat.v1.get_default_graph()
        # A tape, if there is one, holds the backward function.
        return alive[0]() is not None

    return x, is_pending


def value_and_grad(function, tensors):
    # Copies: the tensors may be what else is recorded here.
    tensors = [tf.identity(t) for t in tensors]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        value, extra = function(tensors)
    gradients = tape.gradient(
        value, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return value, extra, [tf.convert_to_tensor(g) for g in gradients]


def _tapes_are_recording():
    """Whether tapes record here. `tf.custom_gradient`, and with it rematerialization,
    runs functions with all tapes of the thread stopped, also those begun inside.
    """
    with tf.GradientTape() as tape:
        x = tf.constant(0.0)
        tape.watch(x)
        y = tf.identity(x)
    return tape.gradient(y, x) is not None


def _check_second_derivative(layer):
    """Raises if `layer` computes moments whose second derivative is wrong.

    `tf.nn.moments` stops the gradient at the mean, which the first derivative of the
    variance does not depend on; the second does, and comes out wrong in silence.
    """
    moments = {
        keras.layers.BatchNormalization: "use `synchronized=True`, ",
        keras.layers.LayerNormalization: "",
        keras.layers.GroupNormalization: "",
    }
    for inner in layers_in(layer):
        if type(inner) not in moments or getattr(inner, "synchronized", False):
            continue
        if type(inner) is keras.layers.BatchNormalization and not inner.trainable:
            continue
        raise NotImplementedError(
            "TensorFlow gets the second derivative of the moments in layer "
            f"'{inner.name}' (of type {type(inner).__name__}) wrong, so that "
            "`second_order=True` would train on wrong gradients. Instead "
            f"{moments[type(inner)]}use `second_order=False`, or another backend."
        )


def uncompiled(function):
    return function


def parts(variable):
    if not isinstance(variable, keras.Variable):
        return [variable]
    # Its `tf.Variable`, or under a strategy the copy of each replica.
    strategy = tf.distribute.get_strategy()
    return [variable, *strategy.experimental_local_results(variable.value)]


def tracer():
    return None if tf.executing_eagerly() else "tf.function"


def eagerly(function):
    with tf.init_scope():
        return function()


def all_finite(tensors):
    tensors = [t.values if isinstance(t, tf.IndexedSlices) else t for t in tensors]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in tensors])


def broadcast(variables):
    pass  # They are one variable, made once.


def all_reduce(tensors, after):
    context = tf.distribute.get_replica_context()
    parts = [t for t in tensors if t.dtype.is_floating]
    if context is None or context.num_replicas_in_sync == 1 or not parts:
        return tensors
    dtype = max((t.dtype for t in parts), key=lambda dtype: dtype.size)
    flat = tf.concat([tf.reshape(tf.cast(t, dtype), [-1]) for t in parts], 0)
    # Devices that start collectives in different orders take each other's.
    with tf.control_dependencies([tf.convert_to_tensor(v.value) for v in after]):
        flat = tf.identity(flat)
    flat = context.all_reduce(tf.distribute.ReduceOp.MEAN, flat)
    means = iter(tf.split(flat, [tf.size(t) for t in parts]))
    return [
        tf.cast(tf.reshape(next(means), tf.shape(t)), t.dtype)
        if t.dtype.is_floating
        else t
        for t in tensors
    ]


def to_apply(gradients):
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return gradients if replicas == 1 else [g / replicas for g in gradients]


def assign(variable, value):
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        variable.assign(value)
    else:  # Without a collective, which its own `assign` has.
        strategy.extended.update(
            variable.value, lambda v, value: v.assign(value), args=(value,), group=False
        )


def known(condition):
    return condition
