"""The formulas of the studies of GAL: losses, remainders, adjusted features."""

import keras
import numpy as np
import pytest
from helpers import require_studies
from keras import ops

require_studies("PIL", "matplotlib", "scipy", "skimage", "sklearn", "tqdm")

from benchmarks import (  # noqa: E402
    feature_adjustment,
    feature_network,
    gal_optimum,
    theorems,
)


@pytest.mark.parametrize("name", theorems.LOSSES)
def test_derivatives_and_smoothness_of_losses(name):
    loss, keras_loss, smoothness, _ = theorems.LOSSES[name]
    rng = np.random.default_rng(0)
    z, y = 3 * rng.normal(size=(50, 10)), np.eye(10)[rng.integers(0, 10, 50)]
    logits = {"from_logits": True} if name == "cross-entropy" else {}
    values, gradient, hessian = loss(z, y)
    expected = keras_loss(reduction=None, **logits)(
        y.astype("float32"), z.astype("float32")
    )
    np.testing.assert_allclose(values, ops.convert_to_numpy(expected), rtol=1e-4)
    v, step = rng.normal(size=z.shape), 1e-5
    above, below = loss(z + step * v, y), loss(z - step * v, y)
    np.testing.assert_allclose(
        (above[0] - below[0]) / (2 * step), np.sum(gradient * v, -1), atol=1e-8
    )
    bent = (above[1] - below[1]) / (2 * step)
    np.testing.assert_allclose(bent, hessian(v), atol=1e-8)
    # No two points have gradients that differ by more than L times their distance, and
    # at two classes of the same probability that much is reached.
    ends = 5 * rng.normal(size=z.shape)
    difference = np.linalg.norm(loss(ends, y)[1] - gradient, axis=-1)
    bound = smoothness * np.linalg.norm(ends - z, axis=-1)
    assert (difference <= bound * (1 + 1e-12)).all()
    two = np.array([[30.0, 30, *[0] * 8]])
    apart = np.array([[1e-4, -1e-4, *[0] * 8]])
    difference = loss(two + apart, y[:1])[1] - loss(two, y[:1])[1]
    reached = np.linalg.norm(difference) / np.linalg.norm(apart)
    assert reached == pytest.approx(smoothness, rel=1e-6)


def test_remainders_by_hand():
    # Two logits of 0, the first right: dl/dz = (-1/2, 1/2), and a step of length 1
    # along it gives (1/2, -1/2), with the loss log(1 + 1/e): r = 0.31326 - 0.69315 +
    # 1/2 = 0.12011, and |g|^2 = 1/2. H g is along g.
    z, y = np.zeros((1, 2)), np.array([[1.0, 0]])
    _, gradient, _ = theorems.cross_entropy(z, y)
    ratio, cosine = theorems.remainders(theorems.cross_entropy, z, y, gradient)
    assert ratio[0] == pytest.approx(0.24023, abs=1e-5)
    assert cosine[0] == pytest.approx(1)


def test_bound_of_finite_sets_by_hand():
    # log(200 / 0.05) = 8.294, and the square root of 8.294 / 100 is 0.288.
    assert theorems.bound(200, 50) == pytest.approx(0.288, abs=1e-4)


def test_directions_of_a_sine():
    # Half a period of frequency 4 is 1/8; at half of that every other pair is opposite.
    found = theorems.cosine_of_sine(np.array([0, 1 / 16, 1 / 8, 1 / 4]), 4)
    np.testing.assert_allclose(found, [1, 0, -1, 1], atol=1e-12)


def test_feature_adjustment_by_its_formula():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(5, 3)).astype("float32")
    features = rng.normal(size=(5, 7)).astype("float32")
    k = features.astype("float64") @ features.T
    mu = 0.05 * np.trace(k)
    expected = np.linalg.inv(np.eye(5) + k / mu) @ d
    arguments = map(ops.convert_to_tensor, (d, features))
    found = feature_network.adjusted(*arguments, damping=0.05)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5)


def test_kfac_by_its_formula():
    """As a vector, the gradient is multiplied by the inverse of a Kronecker product."""
    rng = np.random.default_rng(0)
    a, g = (x.T @ x for x in (rng.normal(size=(9, n)) for n in (4, 3)))
    gradient = rng.normal(size=(4, 3))
    mus = [0.1 * np.trace(factor) for factor in (a, g)]
    damped = [np.eye(len(f)) + f / mu for f, mu in zip((a, g), mus, strict=True)]
    expected = np.linalg.solve(np.kron(*damped), gradient.ravel()).reshape(4, 3)
    arguments = [ops.convert_to_tensor(x, "float32") for x in (gradient, a, g)]
    found = feature_network.preconditioned(*arguments, damping=0.1)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-3)


@pytest.mark.parametrize("method", ["plain", "adjusted", "adjusted, below only"])
def test_network_moves_by_the_methods_gradients(method):
    """One step of SGD at rate 1, against NumPy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4)).astype("float32")
    y = rng.integers(0, 10, 6)
    inputs = keras.Input((4,))
    body = keras.Model(inputs, keras.layers.Dense(5)(inputs))
    network = feature_network.Network(body, 10, **feature_adjustment.METHODS[method])
    network.compile(keras.optimizers.SGD(1.0))
    below, bias, kernel, _ = before = [v.numpy() for v in network.trainable_variables]
    network.train_on_batch(x, y)
    features = np.hstack([x @ below + bias, np.ones((6, 1))])
    z = features[:, :-1] @ kernel
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    d = (p - np.eye(10)[y]) / 6
    k = features @ features.T
    g = np.linalg.solve(np.eye(6) + k / (0.01 * np.trace(k)), d)
    at_last = g if method == "adjusted" else d
    at_body = (d if method == "plain" else g) @ kernel.T
    expected = [x.T @ at_body, at_body.sum(0), *np.split(features.T @ at_last, [5])]
    for v, old, change in zip(
        network.trainable_variables, before, expected, strict=True
    ):
        change = change.reshape(old.shape)
        np.testing.assert_allclose(v.numpy(), old - change, atol=1e-5, err_msg=v.path)


@pytest.mark.parametrize("method", feature_adjustment.MAIN)
def test_pixels_that_do_not_count_change_nothing(method):
    """Images with such pixels are as their other pixels, each a sample of its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    y = rng.integers(0, 10, (2, 3, 4))
    y[0, :2] = y[1, 2, 1] = 255

    def trained(x, y, ignored=None):
        inputs = keras.Input(x.shape[1:])
        kernel = keras.initializers.RandomNormal(seed=1)
        layer = keras.layers.Dense(3, kernel_initializer=kernel)
        body = keras.Model(inputs, layer(inputs))
        arguments = feature_adjustment.METHODS[method]
        network = feature_network.Network(body, 10, ignored=ignored, **arguments)
        network.last.kernel.assign(np.linspace(-1, 1, 30).reshape(3, 10))
        network.compile(keras.optimizers.SGD(1.0))
        loss = network.train_on_batch(x, y)
        return loss, [v.numpy() for v in network.trainable_variables]

    (loss, found), (other, expected) = (
        trained(x, y, ignored=255),
        trained(x[y != 255], y[y != 255]),
    )
    assert loss == pytest.approx(other, rel=1e-5)
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_error_of_pixels_is_what_the_mean_iou_lacks(tmp_path):
    arguments = ["--budget", "camvid", "--out", str(tmp_path)]
    study = feature_adjustment.FeatureAdjustment(arguments)
    # Of the three that count, two of class 0 are found and one of class 1 is not: the
    # intersections over unions are 2 / 3 and 0. Then all are found.
    truth, found = np.array([[0, 0, 1, 11]]), np.array([[[0, 0, 0, 1]], [[0, 0, 1, 0]]])
    study.parts = {"camvid": (None, (None, truth))}
    run = {"task": "camvid", "seed": 0}
    measured = study.measure(run, {"predictions": np.eye(11)[found]}, None)
    np.testing.assert_allclose(measured["errors"], [100 * (1 - 1 / 3), 0], atol=1e-9)


def test_optimum_of_the_remainder():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(8, 5)), rng.integers(0, 5, 8)
    d, h = gal_optimum.derivatives(z, y)

    def loss(z):
        return np.log(np.exp(z).sum(-1)) - z[np.arange(8), y]

    for i in range(5):
        step = 1e-4 * np.eye(5)[i]
        slope = (loss(z + step) - loss(z - step)) / 2e-4
        np.testing.assert_allclose(d[:, i], slope, atol=1e-7)
        slopes = [gal_optimum.derivatives(z + s, y)[0] for s in (step, -step)]
        np.testing.assert_allclose(h[:, i], (slopes[0] - slopes[1]) / 2e-4, atol=1e-7)
    v = gal_optimum.optimum(d, h, 0.3)
    lengths = 0.3 * np.linalg.norm(d, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), lengths)
    least = np.einsum("ni,nij,nj->n", d + v, h, d + v)
    for _ in range(200):
        other = rng.normal(size=v.shape)
        other *= (lengths / np.linalg.norm(other, axis=-1))[:, None]
        assert (np.einsum("ni,nij,nj->n", d + other, h, d + other) >= least).all()
    # Of the squared error: back along d.
    identity = np.broadcast_to(np.eye(5), h.shape)
    np.testing.assert_allclose(gal_optimum.optimum(d, identity, 0.3), -0.3 * d)
