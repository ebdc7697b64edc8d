"""What does GAL cost?

Times a training step of three networks, with the inner optimizer alone (SGD with
momentum) and with GAL around it, as `model.compile` sets both up:

    resnet          ResNet-20 of width 16, 64 images of 32 x 32
    efficientnet    keras.applications.EfficientNetB0, 16 images of 96 x 96
    mlp             two layers of 64, a batch of 64: fixed costs, and nothing else

The two run in turn, each in a process of its own, and the ratio is the median of those
of the rounds. "retraced" is how many of the steps after the second ran the Python
code of the loss again: none, where steps are compiled; all, where they are eager.

    python -m benchmarks.gal_cost --backend jax
    python -m benchmarks.gal_cost --backend torch --check
"""

import statistics
import sys

from benchmarks import rounds as interleaved

CEILING = 1.03
CHECKED = ("resnet", "efficientnet")
NETWORKS = (*CHECKED, "mlp")
VARIANTS = ("inner", "gal")


def resnet():
    from keras_gradres import models

    return models.ResNet(20, residual="identity"), (64, 32, 32, 3), 10


def efficientnet():
    import keras

    model = keras.applications.EfficientNetB0(
        weights=None, input_shape=(96, 96, 3), classifier_activation=None
    )
    return model, (16, 96, 96, 3), 1000


def mlp():
    import keras
    from keras import layers

    inputs = keras.Input((32,))
    x = layers.Dense(64, activation="relu")(inputs)
    x = layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x)), (64, 32), 10


def serve(network, variant):
    """Trains a step when it is told to."""
    import keras
    import numpy as np

    from keras_gradres.optimizers import GAL

    keras.utils.set_random_seed(0)
    model, shape, classes = globals()[network]()
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    calls = []

    def loss(y_true, y_pred):
        calls.append(len(steps))
        return keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred, from_logits=True
        )

    if variant == "gal":
        gal = GAL(optimizer, skip=False)
        model.compile(gal, gal.loss(loss))
    else:
        model.compile(optimizer, loss)
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype("float32")
    y = rng.integers(0, classes, shape[0])
    steps = []

    def train():
        steps.append(None)
        model.train_on_batch(x, y)

    interleaved.serve({"train": train})
    print(len({step for step in calls if step > 2}), len(steps) - 2)


def report(network, rounds):
    """Prints the rows of a network, and returns the ratio."""
    servers = {
        variant: interleaved.Server("benchmarks.gal_cost", network, variant)
        for variant in VARIANTS
    }
    first, times = interleaved.measure(servers, ["train"], rounds)
    for variant in VARIANTS:
        seconds = times["train", variant]
        ratio = interleaved.ratio(seconds, times["train", "inner"])
        memory, (traces,) = servers[variant].finish()
        print(
            f"| {network} | {variant} | {1000 * statistics.median(seconds):.1f} "
            f"| {ratio:.3f} | {1000 * max(seconds):.1f} "
            f"| {first['train', variant]:.1f} | {memory:.0f} "
            f"| {' of '.join(traces.split())} |",
            flush=True,
        )
    return ratio


def main():
    checked = f"GAL costs more than {CEILING} times on {CHECKED}"
    options = interleaved.parse(__doc__, 31, checked)
    if options.serve:
        return serve(*options.serve)

    print(
        f"{options.rounds} rounds\n\n"
        "| network | optimizer | step, ms | ratio | slowest, ms | first, s | peak, MiB "
        "| retraced |\n|---|---|---:|---:|---:|---:|---:|---:|",
        flush=True,
    )
    # The small one takes no time, and needs more rounds for its noise.
    ratios = {
        network: report(network, options.rounds * (10 if network == "mlp" else 1))
        for network in NETWORKS
    }
    slow = {n: r for n, r in ratios.items() if n in CHECKED and r > CEILING}
    if options.check and slow:
        sys.exit(f"GAL costs more than {CEILING} times: {slow}.")


if __name__ == "__main__":
    main()
