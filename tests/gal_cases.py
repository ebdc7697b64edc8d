"""What the tests of GAL in Keras need: a model, its data, and how it is trained."""

import keras
import numpy as np
from keras import layers

MODE_IDS = ["jit", "graph", "eager"]
# Where compiling is not what is tested. Without, JAX compiles each operation by itself;
# with, TensorFlow compiles twice, and PyTorch takes long.
QUICK = {"jit_compile": keras.backend.backend() == "jax"}


def make_data(n=32, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype("float32")
    return x, rng.integers(0, classes, n)


def make_model(seed=0):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(gal, model, shape=None):
    """Makes the variables: TensorFlow traces a step that makes them twice."""
    gal.output_shapes = [(None, *(shape or model.output_shape)[1:])]
    gal.build(model.trainable_variables)


def fit(optimizer, loss=None, *, steps=6, mode=None, model=None, **arguments):
    if model is None:
        model = make_model()
        if hasattr(optimizer, "output_shapes"):
            build(optimizer, model)
    mode = mode or QUICK
    model.compile(optimizer, loss=loss or optimizer.loss(cross_entropy()), **mode)
    x, y = make_data(4 * steps)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, **arguments)
    return model


def constant_network(size):
    """h(z) is (1, 0, 0, ...) whatever z, so that v~ = alpha |dl/dz| (1, 0, 0, ...)."""
    network = keras.Sequential([layers.Dense(size, bias_initializer="zeros")])
    network.build((None, size))
    network.set_weights([np.zeros((size, size)), np.eye(size)[0]])
    return network


def adjusted_bias_gradient(logits, y, alpha):
    """That of the cross-entropy at a bias that is added to the logits, by hand.

    For each sample dl/dz = softmax(z) - one-hot, to which `constant_network` adds
    alpha |dl/dz| at the first class. The gradient at the bias is the mean of these.
    """
    p = np.exp(logits - logits.max(-1, keepdims=True))
    g = p / p.sum(-1, keepdims=True) - np.eye(logits.shape[-1])[y]
    g[:, 0] += alpha * np.linalg.norm(g, axis=-1)
    return g.mean(0)


def network_variables(gal):
    return [v for network in gal.networks for v in network.variables]


def assert_same(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)
