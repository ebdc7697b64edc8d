"""GAL on several devices with JAX: `fit`, as on one.

KERAS_BACKEND=jax python examples/distributed_jax.py
"""

import os

# Four devices out of the one CPU. With GPUs or TPUs leave this line out.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import keras
import numpy as np
from spirals import make_data, make_model, report

from keras_gradres.optimizers import GAL

if __name__ == "__main__":
    parallel = keras.distribution.DataParallel()
    keras.distribution.set_distribution(parallel)
    model = make_model()
    gal = GAL(keras.optimizers.SGD(0.1, momentum=0.9), alpha=1e-3, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(gal, gal.loss(loss))
    x, y = (np.concatenate(part) for part in zip(*make_data(), strict=True))
    model.fit(x, y, batch_size=64, epochs=2, verbose=2)
    report(model, gal, [])
