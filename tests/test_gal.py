"""The numbers of GAL: against the authors' code, by hand, and in NumPy."""

import pathlib

import keras
import numpy as np
import pytest
from gal_cases import QUICK
from helpers import MODES, Assign, Table, keras_before, slow_on
from keras import ops

from keras_gradres.optimizers import GAL

REFERENCE = np.load(pathlib.Path(__file__).with_name("gal_reference.npz"))


def _linear(kernels, biases):
    """The network of linear layers with these weights."""
    network = keras.Sequential([keras.layers.Dense(k.shape[1]) for k in kernels])
    network.build((None, kernels[0].shape[0]))
    network.set_weights([w for pair in zip(kernels, biases, strict=True) for w in pair])
    return network


def _cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# --- the authors' code ---


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        pytest.param(case, mode, marks=slow_on("torch") if mode is MODES[0] else [])
        for case in ("reject", "c10", "c100")
        for mode in MODES
    ],
)
def test_reference(case, mode):
    compiled = keras.backend.backend() == "torch" and mode.get("jit_compile")
    if compiled and keras_before(3, 13):
        pytest.skip("Keras cannot compile `Table`, with any optimizer and loss")
    data = {k.split("/")[1]: v for k, v in REFERENCE.items() if k.startswith(case)}
    layers = range(sum(name.startswith("kernel") for name in data))
    network = _linear(
        [data[f"kernel_{i}"] for i in layers], [data[f"bias_{i}"] for i in layers]
    )
    gal = GAL(
        Assign(float(data["lr"])),
        alpha=float(data["ratio"]),
        beta=float(data["beta"]),
        network=network,
        granularity="reference",
        adjustment_optimizer=Assign(1.0),
    )
    model = Table(data["z"])
    model.compile(gal, loss=gal.loss(_cross_entropy()), **mode)
    loss = model.train_on_batch(np.zeros((len(data["y"]), 1)), data["y"])
    np.testing.assert_allclose(loss, data["loss"], rtol=1e-5)
    expected = {"grad_z": model.table}
    for i, layer in enumerate(network.layers):
        expected |= {f"dkernel_{i}": layer.kernel, f"dbias_{i}": layer.bias}
    for name, found in expected.items():
        scale = np.abs(data[name]).max()
        np.testing.assert_allclose(
            found.numpy(), data[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name
        )
    assert gal.diagnostics["accepted"] == data["accepted"]


# --- by hand ---


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_one_step_by_hand(granularity):
    # Half the squared error, summed: l(z) = |z - y|^2 / 2 with y = 0, so dl/dz = z and
    # l(z - d) - l(z) + <z, d> = |d|^2 / 2. One sample, z = (3, 4), so |dl/dz| = 5.
    # h has no kernel and the bias (0, 2), so v / |v| = (0, 1). alpha = 0.2:
    #   v~ = 0.2 * 5 * (0, 1) = (0, 1),  g = (3, 5)
    # beta = 2, rate 0.1: eta~ = 0.2, z - eta~ g = (2.4, 3), l+ = 7.38 <= 12.5.
    #   r = 0.2^2 |g|^2 / 2 = 0.02 * 34 = 0.68
    #   dr/dv~ = 0.04 g = (0.12, 0.2); only across v, and times alpha |dl/dz| / |v|:
    #   dr/dv = 1 / 2 * (0.12, 0) = (0.06, 0)
    # z <- z - 0.1 g = (2.7, 3.5), bias <- (0, 2) - 0.1 (0.06, 0) = (-0.006, 2),
    # kernel_ij <- 0 - 0.1 z_i dr/dv_j: (-0.018, -0.024) in the first column.
    network = _linear([np.zeros((2, 2))], [np.array([0.0, 2.0])])
    gal = GAL(
        keras.optimizers.SGD(0.1),
        alpha=0.2,
        beta=2.0,
        network=network,
        granularity=granularity,
    )

    def half_squared_error(y_true, y_pred):
        return ops.sum(ops.square(y_pred - y_true), axis=-1) / 2

    model = Table([[3.0, 4.0]])
    model.compile(gal, loss=gal.loss(half_squared_error))
    loss = model.train_on_batch(np.zeros((1, 1)), np.zeros((1, 2)))
    np.testing.assert_allclose(loss, 12.5)
    np.testing.assert_allclose(model.table.numpy(), [[2.7, 3.5]], rtol=1e-6)
    kernel, bias = network.get_weights()
    np.testing.assert_allclose(bias, [-0.006, 2.0], rtol=1e-5)
    np.testing.assert_allclose(kernel, [[-0.018, 0], [-0.024, 0]], 1e-5, 1e-8)
    # cos((3, 4), (0, 1)) = 0.8.
    found = gal.diagnostics
    expected = {"remainder": 0.68, "accepted": 1, "cosine": 0.8, "drift": 1}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


# --- the gradient of the remainder ---


def _remainder(theta, z, y, share, loss, granularity, alpha, step):
    """The mean |r| of Eq. 7 in float64 for v = z k + b."""
    kernel, bias = theta
    losses, dl_dz = loss(z, y)
    present = share[:, None] > 0
    u = present * dl_dz if granularity == "sample" else share[:, None] * dl_dz
    v = present * (z @ kernel + bias) if z.shape[1] == 1 else z @ kernel + bias
    # One number is all of the output: norms are over the batch.
    axis = (0, 1) if z.shape[1] == 1 else (1,)
    length = np.sqrt((v**2).sum(axis, keepdims=True))
    g = u + alpha * np.sqrt((u**2).sum(axis, keepdims=True)) * v / length
    change = loss(z - step * g, y)[0] - losses
    decrease = step * (u * g).sum(1)
    if granularity == "sample":
        return (share * np.abs(change + decrease)).sum()
    if granularity == "reference":
        decrease = decrease / len(z)
    return np.abs((share * change).sum() + decrease.sum())


def _quartic(z, y):
    return ((z - y) ** 4).mean(1), 4 * (z - y) ** 3 / z.shape[1]


@pytest.mark.parametrize("granularity", ["sample", "batch", "reference"])
@pytest.mark.parametrize("size", [1, 3])
def test_remainder_gradient_against_finite_differences(size, granularity):
    rng = np.random.default_rng(3)
    z = rng.normal(size=(5, size)).astype("float32")
    theta = [rng.normal(size=s).astype("float32") for s in ((size, size), (size,))]
    if size == 1:
        y = rng.normal(size=(5, 1)).astype("float32")
        # Keras has none that is steeper than a square.
        loss, numpy_loss = lambda y, z: ops.mean((z - y) ** 4, -1), _quartic
    else:
        y = rng.integers(0, size, 5)
        loss, numpy_loss = _cross_entropy(), _softmax_cross_entropy
    weight = np.array([1, 0, 2, 0.5, 1], "float32")
    network = _linear(theta[:1], theta[1:])
    gal = GAL(
        Assign(1.0),
        alpha=0.7,
        beta=3.0,
        network=network,
        granularity=granularity,
        adjustment_optimizer=Assign(1.0),
    )
    model = Table(z)
    model.compile(gal, gal.loss(loss), jit_compile=False)
    model.train_on_batch(np.zeros((5, 1)), y, sample_weight=weight)

    share = weight.astype("float64") / weight.sum()
    theta = [t.astype("float64") for t in theta]

    def remainder(theta):
        arguments = (z.astype("float64"), y, share, numpy_loss, granularity)
        return _remainder(theta, *arguments, alpha=0.7, step=3.0)

    np.testing.assert_allclose(gal.diagnostics["remainder"], remainder(theta), 1e-4)
    for i, found in enumerate(network.get_weights()):
        expected = np.zeros_like(theta[i])
        for index in np.ndindex(*expected.shape):
            values = []
            for sign in (1, -1):
                moved = [t.copy() for t in theta]
                moved[i][index] += sign * 1e-6
                values.append(remainder(moved))
            expected[index] = (values[0] - values[1]) / 2e-6
        scale = np.abs(expected).max()
        assert scale > 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * scale)


# --- Algorithm 1 in NumPy ---


def _softmax_cross_entropy(z, y):
    z = z - z.max(1, keepdims=True)
    logarithm = z - np.log(np.exp(z).sum(1, keepdims=True))
    rows = np.arange(len(y))
    gradient = np.exp(logarithm)
    gradient[rows, y] -= 1
    return -logarithm[rows, y], gradient


def _algorithm_1(weights, theta, batches, *, alpha, beta, rate, momentum, **options):
    """Algorithm 1 in float64 for z = x w + b and v = tanh(z k0 + c0) k1 + c1."""
    parameters = [np.array(p, "float64") for p in (*weights, *theta)]
    velocity = [np.zeros_like(p) for p in parameters]
    step = beta * rate
    per_sample = options["granularity"] == "sample"
    for x, y, weight in batches:
        w, b, k0, c0, k1, c1 = parameters
        z = x @ w + b
        dl_dz = _softmax_cross_entropy(z, y)[1]
        n = len(y)
        share = weight / weight.sum()
        u = dl_dz if per_sample else share[:, None] * dl_dz

        def loss(z, y=y, share=share):
            values = _softmax_cross_entropy(z, y)[0]
            return values if per_sample else (share * values).sum()

        hidden = np.tanh(z @ k0 + c0)
        v = hidden @ k1 + c1
        length = np.linalg.norm(v, axis=1, keepdims=True)
        size = alpha * np.linalg.norm(u, axis=1, keepdims=True)
        dv = size * v / length
        g = u + dv
        before, after = loss(z), loss(z - step * g)
        decrease = (u * g).sum(1) if per_sample else (u * g).sum()
        r = after - before + step * decrease
        accepted = {
            "less_equal": after <= before,
            "less": after < before,
            "improve": after < loss(z - step * u),
            "always": np.full_like(after, True, bool),
            "never": np.full_like(after, False, bool),
        }[options["policy"]] * np.ones(n, bool)

        # d|r|/dtheta, by way of v~: dr/dv~ = eta~ (dl/dz - l'(z - eta~ g)).
        slope = _softmax_cross_entropy(z - step * g, y)[1]
        if per_sample:
            d_dv = (np.sign(r) * share)[:, None] * step * (u - slope)
        else:
            d_dv = np.sign(r) * step * (u - share[:, None] * slope)
        unit = v / length
        d_v = size / length * (d_dv - unit * (unit * d_dv).sum(1, keepdims=True))
        d_hidden = d_v @ k1.T * (1 - hidden**2)

        # Keras divides by the batch size, not by the sum of the weights.
        scale = weight[:, None] / n if per_sample else weight.sum() / n
        dz = weight[:, None] / n * dl_dz + accepted[:, None] * scale * dv
        gradients = [
            x.T @ dz,
            dz.sum(0),
            z.T @ d_hidden,
            d_hidden.sum(0),
            hidden.T @ d_v,
            d_v.sum(0),
        ]
        for i, gradient in enumerate(gradients):
            velocity[i] = momentum * velocity[i] - rate * gradient
            parameters[i] = parameters[i] + velocity[i]
    return parameters, np.abs(r * (share if per_sample else 1)).sum(), accepted


TRANSCRIBED = [
    {"granularity": "sample", "policy": "less_equal"},
    {"granularity": "batch", "policy": "less_equal"},
    {"granularity": "sample", "policy": "improve"},
    {"granularity": "batch", "policy": "improve"},
    {"granularity": "sample", "policy": "less"},
    {"granularity": "sample", "policy": "always"},
    {"granularity": "sample", "policy": "never"},
]


def _problem(steps=20, n=16):
    rng = np.random.default_rng(0)
    shapes = [(5, 4), (4,), (4, 6), (6,), (6, 4), (4,)]
    parameters = [rng.normal(size=s).astype("float32") for s in shapes]
    x = rng.normal(size=(steps * n, 5)).astype("float32")
    y = rng.integers(0, 4, steps * n)
    weight = rng.uniform(0.2, 2, steps * n).astype("float32")
    weight[::7] = 0
    return parameters, x, y, weight, n


@pytest.mark.parametrize(
    "options", TRANSCRIBED, ids=lambda o: "-".join(map(str, o.values()))
)
def test_twenty_steps_in_numpy(options):
    parameters, x, y, weight, n = _problem()
    numbers = {"alpha": 0.4, "beta": 3.0}
    batches = [
        (x[i : i + n], y[i : i + n], weight[i : i + n]) for i in range(0, len(x), n)
    ]
    expected, remainder, accepted = _algorithm_1(
        parameters[:2], parameters[2:], batches, rate=0.4, momentum=0.9,
        **numbers, **options,
    )  # fmt: skip
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.set_weights(parameters[:2])
    network = keras.Sequential(
        [keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(4)]
    )
    network.build((None, 4))
    network.set_weights(parameters[2:])
    gal = GAL(
        keras.optimizers.SGD(0.4, momentum=0.9), network=network, **numbers, **options
    )
    # As Keras compiles by default, once for each granularity.
    mode = {} if options in TRANSCRIBED[:2] else QUICK
    model.compile(gal, loss=gal.loss(_cross_entropy()), **mode)
    model.fit(
        x, y, sample_weight=weight, batch_size=n, epochs=1, shuffle=False, verbose=0
    )
    found = [*model.get_weights(), *network.get_weights()]
    for a, b, old in zip(found, expected, parameters, strict=True):
        assert np.abs(b - old).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
    np.testing.assert_allclose(gal.diagnostics["remainder"], remainder, rtol=1e-3)
    weight = batches[-1][2]
    rate = (weight * accepted).sum() / weight.sum()
    np.testing.assert_allclose(gal.diagnostics["accepted"], rate, rtol=1e-5)
