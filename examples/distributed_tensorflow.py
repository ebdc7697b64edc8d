"""GAL on several devices with TensorFlow: a strategy, and `fit`, as on one.

KERAS_BACKEND=tensorflow python examples/distributed_tensorflow.py
"""

import keras
import numpy as np
import tensorflow as tf
from spirals import make_data, make_model, report

from keras_gradres.optimizers import GAL

if __name__ == "__main__":
    # Two devices out of the one CPU. With GPUs leave these three lines out, and write
    # `tf.distribute.MirroredStrategy()`.
    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model()
        gal = GAL(keras.optimizers.SGD(0.1, momentum=0.9), alpha=1e-3, seed=0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(gal, gal.loss(loss))
    x, y = (np.concatenate(part) for part in zip(*make_data(), strict=True))
    model.fit(x, y, batch_size=64, epochs=2, verbose=2)
    report(model, gal, [])
