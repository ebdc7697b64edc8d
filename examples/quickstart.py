"""Two networks that differ in their skip connections learn a wave.

One adds the input to each block, the other the input and a share of the block's own
gradient. Both start with the same weights, so that they start as the same function; the
second has one more number for each feature of a block, which starts at zero. Prints the
errors, and draws what was learned. Takes about a minute on two CPU cores:

    KERAS_BACKEND=jax python examples/quickstart.py

It is no race that was fixed. Both networks were trained with four learning rates, on
five seeds that are not used here; the mean log10 of the error was

    rate                 0.005   0.01   0.02   0.04
    identity skip        -0.41  -0.50  -0.54  -0.55
    gradient residual    -0.44  -1.41  -2.32  -0.85

so that 0.02 is the best for both, within the noise. But the task suits them: a network
with another block, or one that is trained for longer, learns the wave as well.
docs/choosing.md says when there is nothing to gain, and what else helps.
"""

import argparse
import time

import keras
import matplotlib
import numpy as np
from keras import layers, ops

from keras_gradres.layers import GradientResidual

WIDTH = 16
BLOCKS = 2
FREQUENCY = 5
BATCH = 64
POINTS = 1024
RATE = 0.02
NAMES = {"identity": "identity skip", "gain": "gradient residual"}
COLORS = {"identity": "tab:orange", "gain": "tab:blue"}


def wave(x):
    return np.sin(2 * np.pi * FREQUENCY * x)


def dense(inputs, units):
    """As PyTorch starts it; with Keras's biases, all tanhs would bend at x = 0."""
    bound = inputs**-0.5
    uniform = keras.initializers.RandomUniform(-bound, bound)
    activation = "tanh" if units > 1 else None
    return layers.Dense(units, activation, True, uniform, uniform)


def make_network(residual, seed):
    keras.utils.set_random_seed(seed)  # The same weights for each residual.
    inputs = keras.Input((1,))
    x = dense(1, WIDTH)(inputs)
    for _ in range(BLOCKS):
        block = [dense(WIDTH, WIDTH)]
        x = GradientResidual(block, residual=residual, second_order=True)(x)
    return keras.Model(inputs, dense(WIDTH, 1)(x))


def train_together(networks, steps, every, bar):
    """Trains networks as one model, which is faster; nothing connects them.

    Returns their errors on `POINTS` equidistant points, every so many steps, and the
    seconds of a step.
    """
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.Concatenate()([n(inputs) for n in networks]))
    schedule = keras.optimizers.schedules.CosineDecay(RATE, steps)
    model.compile(keras.optimizers.Adam(schedule), "mse")
    rng = np.random.default_rng(0)
    test = grid()
    errors, seconds = [], []
    for step in range(every, steps + 1, every):
        start = time.perf_counter()
        x = rng.uniform(-1, 1, (every * BATCH, 1)).astype("float32")
        model.fit(x, wave(x), batch_size=BATCH, shuffle=False, verbose=0)
        seconds.append((time.perf_counter() - start) / every)
        predicted = model.predict(test, batch_size=POINTS, verbose=0)
        errors.append(np.mean((predicted - wave(test)) ** 2, axis=0))
        bar(step, np.median(errors[-1]))
    return np.array(errors), np.median(seconds[1:] or seconds)


def grid():
    return np.linspace(-1, 1, POINTS, dtype="float32")[:, None]


def gradient_of_last_block(network):
    """The unit vector g at each point of the grid, of shape (points, features)."""
    block = network.layers[-2]
    before = keras.Model(network.input, block.input)(grid())
    # F(x) + g, and F(x) alone; they share the weights of the block.
    with_gradient = GradientResidual(block.branch, residual="gradient")
    return ops.convert_to_numpy(with_gradient(before) - block.branch(before))


def draw(path, trained):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(12, 7), layout="constrained")
    x = grid()[:, 0]
    learned, curve, gradient = axes[0], axes[1, 0], axes[1, 1]
    for axis, (residual, (networks, steps, errors, _)) in zip(
        learned, trained.items(), strict=True
    ):
        axis.plot(x, wave(x), color="0.7", linewidth=5, label="the wave")
        # Of all seeds the one in the middle.
        middle = networks[np.argsort(errors[-1])[len(networks) // 2]]
        y = middle.predict(grid(), batch_size=POINTS, verbose=0)[:, 0]
        axis.plot(x, y, color=COLORS[residual], label=f"{NAMES[residual]} learned this")
        error = np.median(errors[-1])
        axis.set(title=f"{NAMES[residual]}: mean squared error {error:.2g}", xlabel="x")
        axis.set_ylim(-1.6, 1.9)
        axis.legend(loc="upper center", ncols=2, frameon=False)
        curve.fill_between(
            steps, errors.min(1), errors.max(1), color=COLORS[residual], alpha=0.2
        )
        curve.plot(
            steps, np.median(errors, 1), color=COLORS[residual], label=NAMES[residual]
        )
    curve.set(yscale="log", xlabel="training steps", ylabel="mean squared error")
    curve.set_title(f"the error: median and range of {len(networks)} seeds")
    curve.legend()
    image = gradient.imshow(
        gradient_of_last_block(middle).T,
        cmap="RdBu",
        vmin=-0.7,
        vmax=0.7,
        extent=(-1, 1, WIDTH, 0),
        aspect="auto",
        interpolation="nearest",
    )
    gradient.set(xlabel="x", ylabel="feature")
    gradient.set_title("the gradient g in the last block: it turns as the wave does")
    figure.colorbar(image, ax=gradient)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--out", default="quickstart.png")
    options = parser.parse_args()
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}: y = sin(2 pi "
        f"{FREQUENCY} x), {BLOCKS} blocks of {WIDTH} features, {options.seeds} seeds"
    )
    every, trained = max(1, options.steps // 40), {}
    for residual in NAMES:
        networks = [make_network(residual, seed) for seed in range(options.seeds)]

        def bar(step, error, residual=residual):
            print(
                f"\r{NAMES[residual]:18s} step {step:5d} of {options.steps}, "
                f"median error {error:.2g}   ",
                end="",
                flush=True,
            )

        errors, seconds = train_together(networks, options.steps, every, bar)
        steps = every * np.arange(1, len(errors) + 1)
        trained[residual] = networks, steps, errors, seconds
        print()
    conclude(trained)
    draw(options.out, trained)
    print(f"drawn: {options.out}")


def conclude(trained):
    print(f"\n{'':20s}parameters  error by seed, median first")
    for residual, (networks, _, errors, _) in trained.items():
        last = "  ".join(f"{e:.1e}" for e in [np.median(errors[-1]), *errors[-1]])
        print(f"{NAMES[residual]:20s}{networks[0].count_params():10d}  {last}")
    (_, _, identity, plain), (networks, _, gain, ours) = trained.values()
    factor = np.median(identity[-1]) / np.median(gain[-1])
    print(
        f"\nA step of {len(networks)} networks takes {1000 * plain:.1f} ms with "
        f"identity skips, {1000 * ours:.1f} ms with gradient residuals.\n"
        f"Gradient residuals: error {factor:.3g} times smaller.\n"
        "When to use this: a small network with smooth activations has to learn rapid "
        "variation, and\nmay not have another block (docs/choosing.md has the rest)."
    )


if __name__ == "__main__":
    main()
