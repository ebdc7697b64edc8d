"""GAL in a training loop of one's own, with TensorFlow.

KERAS_BACKEND=tensorflow python examples/custom_loop_tensorflow.py
"""

import keras
import tensorflow as tf
from spirals import make_data, make_model, report

from keras_gradres.optimizers import GAL


def train(model, gal, loss, batches):
    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = gal.scale_loss(loss(y, model(x, training=True)))
        gradients = tape.gradient(value, model.trainable_variables)
        gal.apply(gradients, model.trainable_variables)
        return value

    return [step(x, y) for x, y in batches]


if __name__ == "__main__":
    model = make_model()
    gal = GAL(keras.optimizers.SGD(0.1, momentum=0.9), alpha=1e-3, seed=0)
    loss = gal.loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    report(model, gal, train(model, gal, loss, make_data()))
