"""What the examples with loops of their own train: the arm of a spiral of a point."""

import keras
import numpy as np
from keras import layers

CLASSES = 3


def make_data(steps=300, batch_size=64, seed=0):
    """Batches of points of the plane and of the arms that they lie on."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, steps * batch_size)
    radius = rng.uniform(0.1, 1, y.shape)
    angle = 2 * np.pi * y / CLASSES + 4 * radius + rng.normal(0, 0.1, y.shape)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    x = x.astype("float32").reshape(steps, batch_size, 2)
    return list(zip(x, y.reshape(steps, batch_size), strict=True))


def make_model(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((2,))
    x = layers.Dense(32, activation="relu")(inputs)
    x = layers.Dense(32, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def report(model, gal, losses):
    for i in range(0, len(losses), 50):
        value = np.mean([float(loss) for loss in losses[i : i + 50]])
        print(f"steps {i + 1:4} to {i + 50:4}: loss {value:.3f}")
    (x, y), *_ = make_data(steps=1, batch_size=3000, seed=1)
    accuracy = np.mean(model.predict(x, verbose=0).argmax(1) == y)
    print(f"accuracy on new points: {100 * accuracy:.1f} %")
    for name, value in gal.diagnostics.items():
        print(f"{name:10} {value:.3g}")
