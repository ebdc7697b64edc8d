"""Trains on one device and on several, and writes what that gives to a file.

python distribution_worker.py FOLDER ENGINE DEVICES [RANK PORT]

With a rank this process is one of several, which each write a file.
"""

import contextlib
import gc
import os
import pathlib
import sys

if len(sys.argv) == 4:
    devices = f" --xla_force_host_platform_device_count={sys.argv[3]}"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + devices

import keras
import numpy as np
from helpers import keras_before
from keras import layers, ops, optimizers

from keras_gradres.layers import GradientResidualDense
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

FOLDER, ENGINE, DEVICES = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
RANK, PORT = (int(a) for a in (sys.argv[4:] or (-1, 0)))
BATCH = 16
STEPS = 8
X = np.random.default_rng(0).normal(size=(STEPS * BATCH, 6)).astype("float32")
KIND = np.random.default_rng(1).integers(0, 3, STEPS * BATCH)
SIZE = (X[:, :2] ** 2).astype("float32")


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def sgd():
    return optimizers.SGD(0.1, momentum=0.9)


@keras.saving.register_keras_serializable("tests")
class Overflowing(layers.Layer):
    """An adjustment network that is not finite for outputs above 100."""

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], shape[-1]), name="kernel")

    def call(self, z):
        return ops.matmul(z, self.kernel) * ops.where(z > 100, np.inf, 1.0)


def gal(inner=sgd, outputs=1, network=None, seed=0, **arguments):
    def make():
        h = network and network()
        found = GAL(inner(), alpha=0.5, network=h, seed=seed, **arguments)
        loss = found.loss(crossentropy())
        return found, loss if outputs == 1 else [loss, found.loss("mse")]

    return make


def plain(inner):
    return lambda: (inner(), crossentropy())


CASES = {
    "layers": plain(sgd),
    "normalized layers": plain(sgd),
    "lookahead": plain(lambda: Lookahead(sgd(), 3)),
    "adabound": plain(lambda: AdaBound(0.01, gamma=0.1)),
    "sgd": gal(),
    "adam": gal(lambda: optimizers.Adam(0.01, epsilon=1e-3)),
    "two outputs": gal(outputs=2),
    "batch": gal(granularity="batch"),
    "reference": gal(granularity="reference"),
    "overflow": gal(network=Overflowing),
}


def make_model(case):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    x = GradientResidualDense(activation="tanh")(x)
    if case == "normalized layers":
        synchronized = {"synchronized": keras.backend.backend() == "tensorflow"}
        x = layers.BatchNormalization(**synchronized)(x)
        x = GradientResidualDense(activation="tanh")(x)
    outputs = layers.Dense(3, name="kind")(x)
    if case == "overflow":  # Of all outputs of a row, which changes no gradient.
        shift = layers.Dense(3, name="shift", kernel_initializer="ones")
        shift.trainable = False
        outputs = layers.Add()([outputs, shift(inputs)])
    if case == "two outputs":
        outputs = [outputs, layers.Dense(2, name="size")(x)]
    return model_class()(inputs, outputs)


def model_class():
    if keras.backend.backend() != "torch" or not keras_before(3, 16):
        return keras.Model
    import torch

    class Parallel(keras.Model):
        """What Keras 3.16 does where `torch.distributed` is initialized."""

        def train_step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            if torch.distributed.is_initialized() and not hasattr(self, "parallel"):
                # In a function: a module that is in itself has no end.
                ddp = torch.nn.parallel.DistributedDataParallel(self)
                self.parallel = lambda x: ddp(x, training=True)
            self.zero_grad()
            call = getattr(self, "parallel", lambda x: self(x, training=True))
            value = self.compute_loss(x, y, call(x))
            self.optimizer.scale_loss(value).backward()
            variables = self.trainable_variables
            with torch.no_grad():
                self.optimizer.apply([v.value.grad for v in variables], variables)
            return {"loss": value.detach()}

    return Parallel


def shard(values):
    """The rows of this rank: of each batch, its part."""
    if RANK < 0:
        return values
    parts = values.reshape(STEPS, DEVICES, BATCH // DEVICES, *values.shape[1:])
    return parts[:, RANK].reshape(-1, *values.shape[1:])


def data(case):
    x = X
    if case == "overflow":  # The last row of the last batch, so on one device only.
        x = X.copy()
        x[-1] = 1e3
    y = shard(KIND)
    return shard(x), [y, shard(SIZE)] if case == "two outputs" else y


def train(case, scope=contextlib.nullcontext, fit=True):
    with scope():
        model = make_model(case)
        optimizer, loss = CASES[case]()
        model.compile(optimizer, loss)
        x, y = data(case)
        batch = BATCH // DEVICES if RANK >= 0 else BATCH
        if fit:
            model.fit(x, y, batch_size=batch, shuffle=False, verbose=0)
        else:
            loop(model, optimizer, loss, x, y, batch)
    found = {f"weight_{i}": v for i, v in enumerate(model.variables)}
    found |= {f"trainable_{i}": v for i, v in enumerate(model.trainable_variables)}
    if isinstance(optimizer, GAL):
        thetas = [v for network in optimizer.networks for v in network.variables]
        found |= {f"theta_{i}": v for i, v in enumerate(thetas)}
        found |= optimizer.diagnostics
    return {name: ops.convert_to_numpy(value) for name, value in found.items()}


def loop(model, optimizer, loss, x, y, batch):
    """A loop of one's own, with PyTorch."""
    import torch

    ddp = torch.nn.parallel.DistributedDataParallel(model)
    variables = model.trainable_variables
    for i in range(STEPS):
        rows = slice(i * batch, (i + 1) * batch)
        model.zero_grad()
        value = loss(y[rows], ddp(torch.tensor(x[rows]), training=True))
        optimizer.scale_loss(value).backward()
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in variables], variables)


def save(name, cases, **arguments):
    found = {
        f"{case}/{key}": value
        for case in cases
        for key, value in train(case, **arguments).items()
    }
    np.savez(FOLDER / f"{name}.npz", **found)


def jax_devices():
    distribution = keras.distribution
    save("one", CASES)
    distribution.set_distribution(distribution.DataParallel())
    save("data parallel", CASES)
    mesh = distribution.DeviceMesh((2, 2), ["batch", "model"])
    layout = distribution.LayoutMap(mesh)
    layout[".*dense.*kernel"] = (None, "model")
    layout[".*kind.*kernel"] = ("model", None)
    distribution.set_distribution(
        distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    save("model parallel", CASES)


def jax_processes():
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    distribution = keras.distribution
    distribution.initialize(f"127.0.0.1:{PORT}", DEVICES, RANK)
    parallel = distribution.DataParallel(auto_shard_dataset=False)
    distribution.set_distribution(parallel)
    save(f"rank {RANK}", ["normalized layers", "sgd", "two outputs"])


def tensorflow_devices():
    import tensorflow as tf

    (device,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * DEVICES
    tf.config.set_logical_device_configuration(device, logical)
    cases = CASES if DEVICES == 2 else ["adam", "two outputs"]
    save("one", cases)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(DEVICES)])
    save("mirrored", cases, scope=strategy.scope)
    if DEVICES == 2:
        np.savez(FOLDER / "repeated.npz", repeated(strategy, 50))


def repeated(strategy, count):
    """All weights and theta after each of `count` trainings from the same start."""
    with strategy.scope():
        model = make_model("sgd")
        optimizer, loss = CASES["sgd"]()
        model.compile(optimizer, loss)
        x, y = data("sgd")
        model.train_on_batch(x[:BATCH], y[:BATCH])
        variables = [*model.variables, *optimizer.variables]
        start = [v.numpy() for v in variables]
        found = []
        for _ in range(count):
            for v, value in zip(variables, start, strict=True):
                v.assign(value)
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
            found.append(np.concatenate([np.ravel(v.numpy()) for v in variables]))
    return np.stack(found)


def torch_one():
    save("one", CASES)


def torch_ranks():
    import torch

    address = f"tcp://127.0.0.1:{PORT}"
    torch.distributed.init_process_group("gloo", address, rank=RANK, world_size=DEVICES)
    save(f"fit {RANK}", CASES)
    save(f"loop {RANK}", ["sgd", "adam"], fit=False)
    # Other adjustment networks on each rank, as without a seed.
    CASES["sgd"] = gal(seed=RANK)
    save(f"unlike {RANK}", ["sgd"])
    gc.collect()  # What DDP has left must not outlive the group: it may hang.
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    globals()[ENGINE]()
