"""A trained network with skip connections, converted and trained on.

Trains a ResNet-20 of half the width on small images. Then trains it on in two ways,
from the same weights and with the same batches: as it is, and converted to gradient
residuals. Prints the error on the test images of both, seed by seed, and what
conversion cost. The images are those of CIFAR-10, averaged to 16 by 16, from the folder
in KERAS_GRADRES_DATA; without one, the handwritten digits of scikit-learn:

    KERAS_BACKEND=torch python examples/convert_resnet.py
"""

import argparse
import os
import pathlib
import sys
import time

import keras
import numpy as np
from keras import layers
from scipy import stats
from sklearn.datasets import load_digits

import keras_gradres

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
from benchmarks.data import cifar10, halved, has


def make_data(samples):
    """Images `(n, 16, 16, 3)` and labels, for training and for testing."""
    folder = os.environ.get("KERAS_GRADRES_DATA")
    if has(folder, "cifar10") or has(folder, "cifar-10-batches-py"):
        train, test = (
            (halved(x[:samples]) / 255, y[:samples]) for x, y in cifar10(folder)
        )
    else:
        images, y = load_digits(return_X_y=True)
        x = images.reshape(-1, 8, 8, 1).repeat(2, 1).repeat(2, 2).repeat(3, 3) / 16
        order = np.random.default_rng(0).permutation(len(x))
        kept = order[:-500][:samples]
        train, test = (x[kept], y[kept]), (x[order[-500:]], y[order[-500:]])
    mean, deviation = train[0].mean(), train[0].std()
    return [((x - mean) / deviation, y.astype("int32")) for x, y in (train, test)]


def make_model(width=8, blocks=3):
    """A ResNet as anybody writes it: 6 x 3 + 2 = 20 layers."""

    def convolution(x, filters, size=3, strides=1):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((16, 16, 3))
    x = layers.ReLU()(convolution(inputs, width))
    for stage, filters in enumerate((width, 2 * width, 4 * width)):
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            h = layers.ReLU()(convolution(x, filters, strides=strides))
            h = convolution(h, filters)
            skip = x if strides == 1 else convolution(x, filters, 1, strides)
            x = layers.ReLU()(layers.Add()([skip, h]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def train(model, data, epochs, rate, seed):
    """Trains; returns the error on the test images in %."""
    (x, y), test = data
    keras.utils.set_random_seed(seed)
    steps = epochs * -(-len(x) // 64)
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(rate, max(steps, 1)),
            momentum=0.9,
            weight_decay=1e-4,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    _, accuracy = model.evaluate(*test, batch_size=500, verbose=0)
    return 100 * (1 - accuracy)


def time_ratio(model, converted, data, steps):
    """How much longer a step of the converted model takes: a median of pairs."""
    x, y = (array[:64] for array in data[0])
    ratios = []
    for _ in range(steps):
        seconds = []
        for each in (model, converted):
            start = time.perf_counter()
            each.train_on_batch(x, y)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    return np.median(ratios)


def compare(data, epochs, further, seeds):
    """Errors before, after without conversion, and after with it; the time ratio."""
    errors = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = make_model()
        before = train(model, data, epochs, 0.1, seed)
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        converted = keras_gradres.convert(copy)
        if seed == 0:
            print(keras_gradres.conversion_report(model), "\n")
            x = data[1][0][:8]
            same = np.array_equal(
                model.predict_on_batch(x), converted.predict_on_batch(x)
            )
            print(f"the same outputs before the first step: {same}")
        found = [train(m, data, further, 0.02, seed) for m in (model, converted)]
        errors.append([before, *found])
        print(
            "seed {}: trained {:.2f} %, trained on {:.2f} %, converted {:.2f} %".format(
                seed, *errors[-1]
            ),
            flush=True,
        )
    return np.array(errors), time_ratio(model, converted, data, 20)


def verdict(errors, ratio):
    """What the numbers say, as text."""
    plain, converted = errors[:, 1], errors[:, 2]
    lines = [
        f"test error, mean of {len(errors)} seeds: "
        f"trained {errors[:, 0].mean():.2f} %, trained on {plain.mean():.2f} %, "
        f"converted {converted.mean():.2f} %"
    ]
    if len(errors) > 1:
        p = stats.ttest_rel(converted, plain).pvalue
        difference = converted - plain
        lines.append(
            f"converted - unchanged: {difference.mean():+.2f} +- "
            f"{difference.std(ddof=1):.2f} points (paired t-test, p = {p:.2g})"
        )
    lines.append(f"a step of the converted model takes {ratio:.2f} times as long")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--further", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    data = make_data(options.samples)
    print(verdict(*compare(data, options.epochs, options.further, options.seeds)))
