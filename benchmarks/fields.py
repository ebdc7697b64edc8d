"""Images as functions of coordinates, and the networks that learn them.

The images are scikit-image's `camera`, `coffee`, `grass` and `text`, which are in its
wheel, so that nothing is downloaded. The networks are a first layer, blocks
F(x) = act(W x + b) with a skip, and a linear layer.

    model = network("GELU: gain", units=32, blocks=2, seed=0)
    colors = model(coordinates(64))
"""

import functools
import math

import keras
import numpy as np
from keras import layers

from benchmarks.coordinates import (
    FourierFeatures,
    Sine,
    finer,
    sine_dense,
    siren,
    uniform,
)
from keras_gradres.layers import GradientResidual

GROUPS = ("tanh", "GELU", "Fourier features", "sine")
SKIPS = {
    "identity": {"residual": "identity"},
    "convex": {"residual": "convex", "alpha": 3.0, "second_order": True},
    "gain": {"residual": "gain", "second_order": True},
}
MORE = {0: "", 1: ", one block more", 2: ", two blocks more"}
# The blocks more of identity that take about as long as the gradient.
SAME_TIME = {"tanh": 2, "GELU": 2, "Fourier features": 1, "sine": 1}
# The frequencies that were best, on seeds that are not shown, for identity (of 5, 10,
# 20, 30 for sine, of 1, 2 for Fourier features), and for FINER (of 5, 10).
OMEGA, FINER_OMEGA, SCALE = 10.0, 5.0, 1.0


def variants():
    """The group, the skip (or the network's own name) and the blocks more of each."""
    found = {}
    for group in GROUPS:
        sizes = [("identity", more) for more in range(1, SAME_TIME[group] + 1)]
        for skip, more in [*((skip, 0) for skip in SKIPS), *sizes]:
            found[f"{group}: {skip}{MORE[more]}"] = (group, skip, more)
    for name in ("SIREN", "FINER"):
        found[name] = ("sine", name, 0)
    return found


VARIANTS = variants()


@functools.cache
def image(name, crop, size):
    """Colors in [0, 1], `(size, size, 3)`; a grey image has three equal ones."""
    from skimage import data, transform

    pixels = getattr(data, name)() / 255
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    side = min(crop, *pixels.shape[:2])
    top, left = ((n - side) // 2 for n in pixels.shape[:2])
    pixels = pixels[top : top + side, left : left + side]
    return transform.resize(pixels, (size, size), anti_aliasing=True).astype("float32")


def coordinates(size):
    line = np.linspace(-1, 1, size, dtype="float32")
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)


def halves(size, seed):
    """The pixels that are learned, and those that are held out."""
    order = np.random.default_rng(seed).permutation(size**2)
    return np.split(order, [size**2 // 2])


def network(variant, units, blocks, seed):
    group, skip, more = VARIANTS[variant]
    blocks = blocks + more
    if skip == "SIREN":
        return siren(2, 3, units, hidden=blocks, omega=OMEGA)
    if skip == "FINER":
        return finer(2, 3, units, hidden=blocks, omega=FINER_OMEGA)

    def dense(outputs, inputs, activation=None):
        limit = uniform(1 / math.sqrt(inputs))
        return layers.Dense(outputs, activation, True, limit, limit)

    x = inputs = keras.Input((2,))
    if group == "sine":
        x = Sine(OMEGA)(sine_dense(units, 2, OMEGA, first=True)(x))
    elif group == "Fourier features":
        x = FourierFeatures(units // 2, SCALE, seed)(x)
    else:
        x = dense(units, 2, group.lower())(x)
    for _ in range(blocks):
        if group == "sine":
            branch = [sine_dense(units, units, OMEGA), Sine(OMEGA)]
        else:
            branch = [dense(units, units, "tanh" if group == "tanh" else "gelu")]
        x = GradientResidual(branch, **SKIPS[skip])(x)
    last = sine_dense(3, units, OMEGA) if group == "sine" else dense(3, units)
    return keras.Model(inputs, last(x))
