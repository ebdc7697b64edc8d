"""The adjustment networks of `GAL`: making, calling and training them."""

import copy
import itertools

import keras
from keras import ops

from keras_gradres.layers import inner

HIDDEN_UNITS = (100, 32, 16)


class MLP(keras.Layer):
    """A multilayer perceptron from the last axis of its input to one of its size.

    In one layer, since what each call of a layer takes is felt in an eager step.

    Args:
        hidden_units: The widths of the hidden layers.
        activation: Their activation, a function.
        seed: That of the kernels.
        **kwargs: The arguments of all Keras layers.
    """

    def __init__(self, hidden_units, activation, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.hidden_units = hidden_units
        self.activation = activation
        self.seed = seed

    def build(self, input_shape):
        sizes = [input_shape[-1], *self.hidden_units, input_shape[-1]]
        self.kernels, self.biases = [], []
        for i, shape in enumerate(itertools.pairwise(sizes)):
            seed = None if self.seed is None else self.seed + i
            initializer = keras.initializers.GlorotUniform(seed)
            self.kernels.append(
                self.add_weight(shape, initializer=initializer, name=f"kernel_{i}")
            )
            self.biases.append(
                self.add_weight(shape[1:], initializer="zeros", name=f"bias_{i}")
            )

    def call(self, z):
        last = len(self.kernels) - 1
        for i, weights in enumerate(zip(self.kernels, self.biases, strict=True)):
            z = ops.matmul(z, weights[0]) + weights[1]
            if i < last:
                z = self.activation(z)
        return z

    def compute_output_shape(self, input_shape):
        return input_shape


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
        found = [
            MLP(
                HIDDEN_UNITS if gal.hidden_units is None else gal.hidden_units,
                gal.activation,
                None if gal.seed is None else gal.seed + 1000 * i,
                name=f"{gal.name}_network_{i}",
                dtype=keras.config.floatx(),
            )
            for i in range(count)
        ]
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


def _with_features(shape):
    return (*shape, 1) if len(shape) == 1 else tuple(shape)
