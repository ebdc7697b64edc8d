"""The numbers of GAL: against the authors' code, by hand, and in NumPy."""

import pathlib

import keras
import numpy as np
import pytest
from helpers import Assign, Table
from keras import ops

from keras_gradres.losses import AdjustedLoss
from keras_gradres.optimizers import GAL

MODES = [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["c10", "c100", "reject"])
def test_reference(case, mode):
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
    model.compile(gal, loss=AdjustedLoss(_cross_entropy()), **mode)
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
