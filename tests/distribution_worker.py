"""Trains on one device and on two, and prints what that gives, in JSON."""

import json
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np
from keras import layers

from keras_gradres.layers import GradientResidualDense
from keras_gradres.optimizers import GAL


def train(gal):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    x = GradientResidualDense(activation="tanh")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if gal:
        optimizer = GAL(optimizer, alpha=0.5, seed=0)
        loss = optimizer.loss(loss)
    model.compile(optimizer, loss)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)), rng.integers(0, 3, 64)
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    variables = [*model.variables, *optimizer.variables]
    return np.concatenate([np.ravel(v.numpy()) for v in variables]).tolist()


def on_two_devices(gal):
    if keras.backend.backend() == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        return train(gal)
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        return train(gal)


if __name__ == "__main__":
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        (device,) = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(device, two)
    found = {"one": [train(False), train(True)], "two": [on_two_devices(False)]}
    try:
        found["two"].append(on_two_devices(True))
    except NotImplementedError as error:
        found["error"] = str(error)
    print(json.dumps(found))
