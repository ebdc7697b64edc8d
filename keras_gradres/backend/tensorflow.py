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
    state = [(v, tf.identity(v.value)) for v in layer.non_trainable_variables]
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
    graph = tf.compat.v1.get_default_graph() if not tf.executing_eagerly() else None
    x = hooked(x)

    def is_pending():
        if graph is not None:
            return graph is tf.compat.v1.get_default_graph()
        # A tape, if there is one, holds the backward function.
        return alive[0]() is not None

    return x, is_pending


def value_and_grad(function, tensors):
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1:
        raise NotImplementedError(
            "GAL does not work with a `tf.distribute` strategy of several replicas: "
            "each would train the adjustment network by itself. Use one replica, or "
            "JAX with `keras.distribution.DataParallel`. "
            f"Received: num_replicas_in_sync={replicas}"
        )
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


def outside_of_traces():
    return tf.init_scope()


def uncompiled(function):
    return function
