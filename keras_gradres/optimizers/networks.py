"""The adjustment networks of `GAL`: making, calling and training them."""

import copy

import keras
from keras import ops

from keras_gradres.layers import inner

HIDDEN_UNITS = (100, 32, 16)


def check(network, hidden_units, output_shapes):
    """Raises if these arguments of `GAL` are wrong."""
    given = network if isinstance(network, (list, tuple)) else [network]
    if network is not None and not (
        given and all(isinstance(n, keras.Layer) for n in given)
    ):
        raise ValueError(
            "`network` must be a Keras layer or model, or a list of them, one for each "
            f"adjusted loss. Received: network={network}"
        )
    if network is not None and hidden_units is not None:
        raise ValueError(
            "Only one of `network` and `hidden_units` can be given. "
            f"Received: network={network}, hidden_units={hidden_units}"
        )
    if hidden_units is not None and not (
        isinstance(hidden_units, (list, tuple))
        and all(isinstance(n, int) and n > 0 for n in hidden_units)
    ):
        raise ValueError(
            "`hidden_units` must be a list of positive integers. "
            f"Received: hidden_units={hidden_units}"
        )
    if output_shapes is not None and not (
        isinstance(output_shapes, (list, tuple))
        and output_shapes
        and all(isinstance(shape, (list, tuple)) and shape for shape in output_shapes)
    ):
        raise ValueError(
            "`output_shapes` must be a list with the shape of each adjusted output, as "
            f"[(None, 10)]. Received: output_shapes={output_shapes}"
        )


def build(gal):
    """The networks of `gal`, built: one for each of its output shapes."""
    count = len(gal.output_shapes)
    if gal.network is None:
        found = [_mlp(gal, i, shape) for i, shape in enumerate(gal.output_shapes)]
    else:
        given = gal.network
        found = list(given) if isinstance(given, (list, tuple)) else [given]
        if len(found) != count:
            raise ValueError(
                f"`network` must be a list of {count} networks, one for each adjusted "
                f"loss. Received: {len(found)}"
            )
    for network, shape in zip(found, gal.output_shapes, strict=True):
        shape = _with_features(shape)
        output = inner.build(network, "network", shape, keras.config.floatx())
        if output[1:] != shape[1:]:
            raise ValueError(
                "`network` must return a tensor of the shape of its input. "
                f"Received: network={network}, which maps {shape} to {output}"
            )
    return tuple(found)


def call(network, z, theta, state):
    """V = h(z; theta), the new state, and the losses of the network itself."""
    trainable, other = network.trainable_variables, network.non_trainable_variables
    mapping = zip([*trainable, *other], [*theta, *state], strict=True)
    with keras.StatelessScope(list(mapping), collect_losses=True) as scope:
        inputs = ops.expand_dims(z, -1) if len(z.shape) == 1 else z
        v = network(inputs, training=True)
        penalty = sum(network.losses)
        state = [scope.get_current_value(v) for v in other]
    return ops.reshape(ops.cast(v, z.dtype), ops.shape(z)), state, penalty


def optimizer(gal):
    """What trains the networks: `adjustment_optimizer`, or a copy of the inner one."""
    if gal.adjustment_optimizer is not None:
        return gal.adjustment_optimizer
    original = gal.inner_optimizer
    if isinstance(original, keras.optimizers.LossScaleOptimizer):
        original = original.inner_optimizer  # The remainder is not scaled.
    config = copy.deepcopy(original.get_config())
    innermost = config
    while isinstance(innermost.get("inner_optimizer"), dict):
        innermost = innermost["inner_optimizer"]["config"]
    if "learning_rate" in innermost:
        innermost.update(learning_rate=0.0, loss_scale_factor=None, use_ema=False)
    return type(original).from_config(config)


def follow(optimizer, learning_rate):
    """Gives `optimizer` a copy's learning rate: that of the original."""
    optimizer.learning_rate = learning_rate


def _mlp(gal, index, shape):
    units = HIDDEN_UNITS if gal.hidden_units is None else gal.hidden_units
    shape = _with_features(shape)

    def dense(size, activation, i):
        seed = None if gal.seed is None else gal.seed + 1000 * index + i
        return keras.layers.Dense(
            size,
            activation=activation,
            kernel_initializer=keras.initializers.GlorotUniform(seed),
            dtype=keras.config.floatx(),
        )

    hidden = [dense(size, gal.activation, i) for i, size in enumerate(units)]
    return keras.Sequential(
        [*hidden, dense(shape[-1], None, len(hidden))],
        name=f"{gal.name}_network_{index}",
    )


def _with_features(shape):
    return (*shape, 1) if len(shape) == 1 else tuple(shape)
