"""What several test files need."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_gradres import backend

ROOT = pathlib.Path(__file__).parents[1]
# What `compile` can be told about how a step runs.
MODES = [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]
to_numpy = ops.convert_to_numpy


def slow_on(*backends):
    """The marks of a test that takes seconds on these backends only."""
    return [pytest.mark.slow] if keras.backend.backend() in backends else []


# PyTorch calls a C++ compiler. `test_compile.py` has the quick test that does.
EACH_MODE = [pytest.param(MODES[0], marks=slow_on("torch")), *MODES[1:]]


def keras_before(*version):
    """Whether Keras is older than this release, as in `keras_before(3, 15)`."""
    return tuple(map(int, keras.__version__.split(".")[:2])) < version


def require_extra(extra, *modules):
    """Skips the rest of a test, or of its file, where `modules` are not installed.

    They come with an extra, as in `pip install "keras-gradres[bench]"`.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"needs {', '.join(missing)}: install the extra `{extra}`"
        pytest.skip(reason, allow_module_level=True)


def importable(folder="."):
    """Makes modules of this folder of the repository importable.

    It goes to the end: an installed package comes before the folder of that name.
    """
    sys.path.append(str(ROOT / folder))


def require_studies(*modules):
    """Makes `benchmarks` importable; skips where what it needs is not installed."""
    importable()
    require_extra("bench", *modules)


def run_together(scripts):
    """Runs scripts at the same time, and asserts that each of them succeeds.

    They are pairs: the script and its arguments, and what is set in its environment.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        for arguments, environment in scripts
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output


def at_once(function):
    """`function()`, whose results are tensors; no variable is another one after it.

    JAX otherwise compiles each operation by itself, which takes longer.
    """
    if keras.backend.backend() != "jax":
        return function()
    import jax

    def stateless():
        with keras.StatelessScope():
            return function()

    return jax.jit(stateless)()


def gradients(loss, variables, compiled=True):
    """The gradients of `loss()`, a scalar, with respect to Keras variables.

    `compiled=False` where what the loss leaves behind is used after it.
    """
    if keras.backend.backend() == "jax":
        import jax

        def stateless(values):
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return loss()

        gradient = jax.grad(stateless)
        gradient = jax.jit(gradient) if compiled else gradient
        found = gradient([v.value for v in variables])
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        found = tape.gradient(value, [v.value for v in variables])
    else:
        import torch

        value = loss()
        found = [None] * len(variables)
        if value.requires_grad:
            values = [v.value for v in variables]
            found = torch.autograd.grad(value, values, allow_unused=True)
    return [
        np.zeros(v.shape) if g is None else ops.convert_to_numpy(g)
        for v, g in zip(variables, found, strict=True)
    ]


def vjp(layer, x, cotangent, *, second_order=False, **call_arguments):
    """`backend.vjp` of one layer with one input: y, and J^T c for one cotangent."""
    (y,), _, pullback = backend.vjp(
        lambda x: ([layer(x, **call_arguments)], ()),
        [x],
        layer,
        second_order=second_order,
    )
    (p,) = pullback([cotangent(y) if callable(cotangent) else cotangent])
    return y, p


def piecewise(*rates):
    """A schedule of these rates, step by step; the last one stays."""
    steps = list(range(len(rates) - 1))
    return keras.optimizers.schedules.PiecewiseConstantDecay(steps, list(rates))


def frozen_state(layer, function):
    """`function` with the state of `layer` put back before and after every call."""
    state = [(v, np.array(v.numpy())) for v in layer.variables if not v.trainable]

    def restore():
        for variable, value in state:
            variable.assign(value)

    def call(*args):
        restore()
        result = function(*args)
        restore()
        return result

    return call


def penalty(outputs):
    """The loss that Keras adds for `outputs` of a layer, for L2(0.1).

    Releases differ in whether they divide it by the batch size.
    """
    probe = keras.layers.Identity(activity_regularizer=keras.regularizers.L2(0.1))
    probe(ops.convert_to_tensor(outputs))
    return float(ops.convert_to_numpy(probe.losses[0]))


@keras.saving.register_keras_serializable("tests")
class Assign(keras.optimizers.Optimizer):
    """Puts the gradient in the place of each variable, where a test can read it."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign(variable, gradient)


@keras.saving.register_keras_serializable("tests")
class Table(keras.Model):
    """A model whose output is its own weight, whatever the input."""

    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        self.value = np.array(value)
        self.table = self.add_weight(shape=self.value.shape, name="table")
        self.table.assign(value)

    def call(self, x):
        return self.table + 0 * ops.sum(x)

    def get_config(self):
        return {**super().get_config(), "value": self.value.tolist()}
