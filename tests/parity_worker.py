"""Loads a model file, and writes what this backend computes with it."""

import pathlib
import sys

import keras
import numpy as np
from keras import layers

from keras_gradres import models
from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)
from keras_gradres.optimizers import GAL, Lookahead

# An epsilon that is not small against rounding in the gradients.
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(1e-2, epsilon=1e-2),
}
PARTS = (*OPTIMIZERS, "models")


def make_model():
    image = keras.Input((None, None, 4), name="image")
    x = GradientResidualConv(activation="gelu")(image)
    x = GradientResidual(
        [
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.PReLU(shared_axes=(1, 2)),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
        ],
        alpha=-1.0,
    )(x)
    x = GradientResidual(
        [
            GradientResidual([layers.DepthwiseConv2D(3, padding="same")]),
            layers.Activation("tanh"),
            layers.Conv2D(6, 1),
        ],
        residual="additive",
        shortcut=layers.Conv2D(6, 1),
    )(x)
    x = GradientResidualDense(residual="magnitude", second_order=True)(x)
    steps = keras.Input((None, 4), name="steps")
    masked = layers.Masking()(steps)
    y = GradientResidual(layers.LSTM(4, return_sequences=True))(masked)
    y = GradientResidualDense(activation="tanh", second_order=True)(y)
    return keras.Model([image, steps], [x, y])


def gal_numbers(optimizer):
    """The weights of a model and of its adjustment network after five steps of GAL."""
    rng = np.random.default_rng(2)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, "tanh")])
    model.add(layers.Dense(3))
    network = keras.Sequential([layers.Dense(4, "tanh"), layers.Dense(3)])
    network.build((None, 3))
    for part in (model, network):
        part.set_weights([rng.normal(size=w.shape) for w in part.get_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    gal = GAL(Lookahead(optimizer, sync_period=2), alpha=0.5, network=network)
    model.compile(gal, gal.loss(loss))
    x, y = rng.normal(size=(40, 6)).astype("float32"), rng.integers(0, 3, 40)
    weight = rng.uniform(size=40).astype("float32")
    before = network.get_weights()
    model.fit(x, y, 8, sample_weight=weight, shuffle=False, verbose=0)
    numbers = {
        f"gal/weights/{i}": w
        for i, w in enumerate([*model.get_weights(), *network.get_weights()])
    }
    for i, (old, new) in enumerate(zip(before, network.get_weights(), strict=True)):
        numbers[f"before/theta/{i}"], numbers[f"after/theta/{i}"] = old, new
    return {**numbers, "gal/diagnostics": np.array(list(gal.diagnostics.values()))}


def models_numbers():
    """What the papers' networks compute."""
    rng = np.random.default_rng(3)
    made = {
        "sedsr": models.SEDSR(2, alpha=1.0),
        "srresnet": models.SRResNet(3, blocks=1),
        "resnet": models.ResNet(20),
        "unet": models.UNet(3, filters=4),
        "mlp": models.MLP(3),
    }
    numbers = {}
    for name, model in made.items():
        for v in model.variables:
            if "seed" not in v.path:
                size = np.sqrt(3 / np.prod(v.shape[:-1] or 1))
                low = 0.5 if "moving_variance" in v.path else -size
                v.assign(rng.uniform(low, size + (low > 0), v.shape))
        shape = (2, 3) if name == "mlp" else (2, 9, 10, 3)
        x = rng.normal(size=shape).astype("float32")
        numbers[f"models/{name}"] = model.predict(x, verbose=0)
    return numbers


def save_model(path):
    keras.utils.set_random_seed(0)
    model = make_model()
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(v + 0.1 * rng.normal(size=v.shape))
    model.save(path)


def training_numbers(path, optimizer):
    """What the model predicts, and becomes in a step; what GAL does with another."""
    model = keras.models.load_model(path)
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(4, 5, 4)).astype("float32")
    steps[:2, 3:] = 0
    inputs = [rng.normal(size=(4, 6, 5, 4)).astype("float32"), steps]
    targets = [rng.normal(size=s).astype("float32") for s in ((4, 6, 5, 6), (4, 5, 4))]

    numbers = {}
    for i, output in enumerate(model.predict(inputs, verbose=0)):
        numbers[f"predicted/{i}"] = output
    before = [v.numpy().copy() for v in model.trainable_variables]
    model.compile(optimizer(), "mse")
    numbers["loss"] = np.array(model.train_on_batch(inputs, targets)).ravel()[0]
    for i, v in enumerate(model.variables):
        if "seed" not in v.path:
            numbers[f"weights/{i}"] = np.array(v.numpy())
    for i, (v, old) in enumerate(zip(model.trainable_variables, before, strict=True)):
        numbers[f"before/{i}"], numbers[f"after/{i}"] = old, np.array(v.numpy())
    return numbers | gal_numbers(optimizer())


def main(folder):
    path = folder / "model.keras"
    found = {name: training_numbers(path, make) for name, make in OPTIMIZERS.items()}
    for part, numbers in (*found.items(), ("models", models_numbers())):
        np.savez(folder / f"{keras.backend.backend()}-{part}.npz", **numbers)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
