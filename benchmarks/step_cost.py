"""What does a gradient residual cost?

Times a training step and an inference step of three networks that differ in their
skip connections only:

    identity    conv - activation - conv, plus the input: plain Keras
    plain       gradient residual, the whole branch differentiated
    shipped     gradient residual as the library does it, the affine tail at batch 1

for the block stack of EDSR (16 patches of 48 x 48, 64 channels, 4 blocks) and for a
stack of dense blocks. The three run in turn, in rounds, each in a process of its own,
and the ratios are medians of the ratios within a round, so that a machine whose speed
drifts does not matter.

The floor is a count of convolutions. A block of two takes two for its outputs, two for
the gradients of its kernels and two for those of its inputs; the gradient term takes
one more: 7/6 for a training step, 3/2 for inference.

    python -m benchmarks.step_cost --backend jax
    python -m benchmarks.step_cost --backend torch --check
"""

import statistics
import sys

from benchmarks import rounds as interleaved

CEILING = 1.25
FLOOR = {"train": 7 / 6, "infer": 3 / 2}
VARIANTS = ("identity", "plain", "shipped")


def build(stack, variant):
    """Returns a compiled model and a batch of inputs and targets."""
    import keras
    import numpy as np
    from keras import layers

    from keras_gradres.layers import GradientResidual

    class Whole(keras.Layer):
        """A branch whose layers cannot be seen, and so are differentiated whole."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def build(self, input_shape):
            self.inner.build(input_shape)

        def compute_output_shape(self, input_shape):
            return input_shape

        def call(self, inputs):
            return self.inner(inputs)

    def block(x, layer):
        branch = [layer(), layers.ReLU(), layer()]
        if variant == "shipped":
            return GradientResidual(branch)(x)
        if variant == "plain":
            return GradientResidual(Whole(keras.Sequential(branch)))(x)
        y = x
        for inner in branch:
            y = inner(y)
        return layers.Add()([x, y])

    keras.utils.set_random_seed(0)
    if stack == "edsr":
        inputs = keras.Input((48, 48, 3))
        x = layers.Conv2D(64, 3, padding="same")(inputs)
        for _ in range(4):
            x = block(x, lambda: layers.Conv2D(64, 3, padding="same"))
        outputs = layers.Conv2D(3, 3, padding="same")(x)
        shape = (16, 48, 48, 3)
    else:
        inputs = keras.Input((256,))
        x = layers.Dense(256)(inputs)
        for _ in range(4):
            x = block(x, lambda: layers.Dense(256))
        outputs = x
        shape = (1024, 256)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(1e-4), "mse")
    batch = np.random.default_rng(0).normal(size=shape).astype("float32")
    return model, batch


def serve(stack, variant):
    """Trains and infers when it is told to."""
    model, batch = build(stack, variant)
    actions = {
        "train": lambda: model.train_on_batch(batch, batch),
        "infer": lambda: model.predict_on_batch(batch),
    }
    interleaved.serve(actions)


def report(stack, rounds):
    """Prints the table of a stack, and returns the training ratio as shipped."""
    servers = {
        variant: interleaved.Server("benchmarks.step_cost", stack, variant)
        for variant in VARIANTS
    }
    first, times = interleaved.measure(servers, FLOOR, rounds)
    ratios = {
        (step, variant): interleaved.ratio(values, times[step, "identity"])
        for (step, variant), values in times.items()
    }
    print(
        f"\n{stack}, {rounds} rounds\n\n"
        "| skip | train, ms | ratio | infer, ms | ratio | first step, s | peak, MiB |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for variant in VARIANTS:
        row = [variant]
        for step in FLOOR:
            row.append(f"{1000 * statistics.median(times[step, variant]):.1f}")
            row.append(f"{ratios[step, variant]:.3f}")
        row.append(f"{first['train', variant]:.1f}")
        row.append(f"{servers[variant].finish()[0]:.0f}")
        print(f"| {' | '.join(row)} |")
    print(
        f"| floor | | {FLOOR['train']:.3f} | | {FLOOR['infer']:.3f} | | |", flush=True
    )
    return ratios["train", "shipped"]


def main():
    checked = f"training the EDSR stack costs more than {CEILING} times"
    options = interleaved.parse(__doc__, 21, checked)
    if options.serve:
        return serve(*options.serve)

    ratio, _ = report("edsr", options.rounds), report("mlp", options.rounds)
    if options.check and ratio > CEILING:
        sys.exit(f"Training the EDSR stack costs {ratio:.3f} times, over {CEILING}.")


if __name__ == "__main__":
    main()
