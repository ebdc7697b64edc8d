"""What does a gradient residual cost?

Times a training step and an inference step of networks that differ in their skip
connections only:

    identity            conv - activation - conv, plus the input: plain Keras
    first               gradient residual, the gradient in closed form
    first, automatic    the same, the whole branch differentiated automatically
    second              second order, in closed form
    second, automatic   second order, differentiated automatically

for the block stack of EDSR (16 patches of 48 x 48, 64 channels, 4 blocks, ReLU) and
for a stack of dense blocks (1,024 rows of 256, 4 blocks, GELU). They run in turn, in
rounds, each in a process of its own, and the ratios are medians of the ratios within a
round, so that a machine whose speed drifts does not matter.

The floor is a count of convolutions. A block of two takes two for its outputs, two for
the gradients of its kernels and two for those of its inputs. The gradient term takes
one more, 7/6 for a training step and 3/2 for inference; through it second order takes
two more, 9/6.

    python -m benchmarks.step_cost --backend jax
    python -m benchmarks.step_cost --backend torch --check
    python -m benchmarks.step_cost --backend torch --jit-compile
"""

import functools
import statistics
import sys

from benchmarks import rounds as interleaved

ACTIONS = ("train", "infer")
FLOORS = {"first": (7 / 6, 3 / 2), "second": (9 / 6, 3 / 2)}
# Of the EDSR stack: (variant, step).
CEILINGS = {
    ("first", "train"): 1.25,
    ("second", "train"): 1.70,
    ("first", "infer"): 1.65,
}
VARIANTS = ("identity", "first", "first, automatic", "second", "second, automatic")


def build(stack, variant, jit_compile):
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

    def block(x, layer, activation):
        branch = [layer(activation=activation), layer()]
        if variant != "identity":
            order = {"second_order": variant.startswith("second")}
            if variant.endswith("automatic"):
                return GradientResidual(Whole(keras.Sequential(branch)), **order)(x)
            return GradientResidual(branch, **order)(x)
        y = x
        for inner in branch:
            y = inner(y)
        return layers.Add()([x, y])

    keras.utils.set_random_seed(0)
    if stack == "edsr":
        inputs = keras.Input((48, 48, 3))
        x = layers.Conv2D(64, 3, padding="same")(inputs)
        for _ in range(4):
            conv = functools.partial(layers.Conv2D, 64, 3, padding="same")
            x = block(x, conv, "relu")
        outputs = layers.Conv2D(3, 3, padding="same")(x)
        shape = (16, 48, 48, 3)
    else:
        inputs = keras.Input((256,))
        x = layers.Dense(256)(inputs)
        for _ in range(4):
            x = block(x, functools.partial(layers.Dense, 256), "gelu")
        outputs = x
        shape = (1024, 256)
    model = keras.Model(inputs, outputs)
    jit = {"jit_compile": True} if jit_compile else {}
    model.compile(keras.optimizers.Adam(1e-4), "mse", **jit)
    batch = np.random.default_rng(0).normal(size=shape).astype("float32")
    return model, batch


def serve(stack, variant):
    """Trains and infers when it is told to."""
    stack, _, jit_compile = stack.partition("+")
    model, batch = build(stack, variant, bool(jit_compile))
    actions = {
        "train": lambda: model.train_on_batch(batch, batch),
        "infer": lambda: model.predict_on_batch(batch),
    }
    interleaved.serve(actions)


def report(stack, rounds):
    """Prints the table of a stack, and returns its ratios by (variant, step)."""
    servers = {
        variant: interleaved.Server("benchmarks.step_cost", stack, variant)
        for variant in VARIANTS
    }
    first, times = interleaved.measure(servers, ACTIONS, rounds)
    ratios = {
        (variant, step): interleaved.ratio(values, times[step, "identity"])
        for (step, variant), values in times.items()
    }
    print(
        f"\n{stack}, {rounds} rounds\n\n"
        "| skip | train, ms | ratio | infer, ms | ratio | first step, s | peak, MiB |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for variant in VARIANTS:
        row = [variant]
        for step in ACTIONS:
            row.append(f"{1000 * statistics.median(times[step, variant]):.1f}")
            row.append(f"{ratios[variant, step]:.3f}")
        row.append(f"{first['train', variant]:.1f}")
        row.append(f"{servers[variant].finish()[0]:.0f}")
        print(f"| {' | '.join(row)} |")
    for order, (train, infer) in FLOORS.items():
        print(f"| floor, {order} | | {train:.3f} | | {infer:.3f} | | |", flush=True)
    return ratios


def main():
    checked = "a step of the EDSR stack costs more than " + ", ".join(
        f"{ceiling} times ({variant} order, {step})"
        for (variant, step), ceiling in CEILINGS.items()
    )
    options = interleaved.parse(
        __doc__, 21, checked, flags={"--jit-compile": "compile with `jit_compile`"}
    )
    if options.serve:
        return serve(*options.serve)

    suffix = "+jit_compile" if options.jit_compile else ""
    ratios = report("edsr" + suffix, options.rounds)
    report("mlp" + suffix, options.rounds)
    exceeded = [
        f"{variant} order, {step}: {ratios[variant, step]:.3f}, over {ceiling}"
        for (variant, step), ceiling in CEILINGS.items()
        if ratios[variant, step] > ceiling
    ]
    if options.check and exceeded:
        sys.exit("\n".join(exceeded))


if __name__ == "__main__":
    main()
