"""Many seeds that train together do as each would by `fit`."""

import types

import keras
import numpy as np
import pytest
from helpers import require_studies

require_studies("PIL", "matplotlib", "scipy", "skimage", "sklearn", "tqdm")

from benchmarks import together  # noqa: E402
from keras_gradres.optimizers import GAL  # noqa: E402


def make(seed):
    """A perceptron with a GAL, all of it from one seed."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,))
    x = keras.layers.Dense(8, activation="tanh")(inputs)
    x = keras.layers.Dropout(0.1)(keras.layers.BatchNormalization()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    inner = keras.optimizers.Adam(1e-2)
    gal = GAL(inner, alpha=0.3, seed=seed, output_shapes=[(None, 2)])
    model.compile(gal, gal.loss("mse"))
    return model


def make_data(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 3)).astype("float32")
    return (x, np.sin(x[:, :2])), rng.normal(size=(4, 3)).astype("float32")


def test_together_is_fit():
    if keras.backend.backend() != "jax":
        pytest.skip("elsewhere the seeds are trained by fit")
    arguments = {"steps": 12, "batch_size": 16, "evaluations": 3}
    bar = types.SimpleNamespace(update=lambda n: moved.append(n))
    moved: list = []
    together_models, found = together.train(
        make, range(3), make_data, bar=bar, **arguments
    )
    assert sum(moved) == 3 * 12
    for seed in range(3):
        batches = together._batches(50, 12, 16, seed)
        model = make(seed)
        parts = [make_data(seed)]
        model.optimizer.build(model.trainable_variables)
        (expected,) = together._by_fit(
            [model], parts, [batches], [0, 4, 8, 12], None, None
        )
        assert expected.keys() == found[seed].keys()
        for name, values in expected.items():
            np.testing.assert_allclose(
                found[seed][name], values, rtol=2e-3, atol=1e-5, err_msg=name
            )
        pairs = zip(
            [*model.variables, *model.optimizer.variables],
            [
                *together_models[seed].variables,
                *together_models[seed].optimizer.variables,
            ],
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-3, atol=1e-4)


def test_rates_and_schedule_are_each_models_own():
    """One step of SGD on y = w x moves w by the rate; here, by hand."""

    def make(seed):
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((1,)), dense])
        # d/dw of (w - 1/2)^2 at 0 is -1, and shrinks as w grows.
        model.compile(keras.optimizers.SGD(9.0), "mse")
        return model

    data = lambda seed: ((np.ones((2, 1)), np.full((2, 1), 0.5)), np.ones((1, 1)))  # noqa: E731
    models, found = together.train(
        make,
        [0, 0],
        data,
        steps=2,
        batch_size=1,
        evaluations=2,
        rates=[0.1, 0.2],
        schedule=lambda share: 1 - share,
    )
    for rate, model, result in zip((0.1, 0.2), models, found, strict=True):
        first = rate
        second = first + rate / 2 * (1 - 2 * first)
        np.testing.assert_allclose(
            result["predictions"].ravel(), [first, second], rtol=1e-5
        )
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)


def test_batches_are_epochs():
    batches = together._batches(10, 7, 3, seed=0)
    assert batches.shape == (7, 3)
    for epoch in (batches[:3], batches[3:6]):
        assert len(set(epoch.ravel())) == 9
