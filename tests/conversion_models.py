"""Small models with sums: those that can be converted, and those that cannot."""

import keras
import numpy as np
from keras import layers, ops

RNG = np.random.default_rng(0)


def randomize(model, seed=0):
    """Weights that are not tiny, and statistics that are not those of the start."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        if "seed" in v.path:
            continue
        if "variance" in v.path:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        else:
            size = np.prod(v.shape[:-1]) if len(v.shape) > 1 else 4
            v.assign(rng.normal(size=v.shape) / np.sqrt(size) + ("gamma" in v.path))


def data(model, samples=4):
    """Random inputs of a model."""
    rng = np.random.default_rng(1)

    def values(spec):
        shape = (samples, *(n or 5 for n in spec.shape[1:]))
        if not keras.backend.is_float_dtype(spec.dtype):
            return rng.integers(0, 4, shape)
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(values, model.input)


def dense():
    """A sum written with +."""
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, activation="tanh", name="first")(x)
    return keras.Model(x, x + layers.Dense(4, name="second")(h))


def _block(x, filters, strides=1, add=None):
    h = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.Conv2D(filters, 3, padding="same", use_bias=False)(h)
    h = layers.BatchNormalization()(h)
    skip = x
    if strides > 1 or x.shape[-1] != filters:
        skip = layers.Conv2D(filters, 1, strides, use_bias=False)(x)
        skip = layers.BatchNormalization()(skip)
    return layers.ReLU()((add or layers.Add())([skip, h]))


def resnet():
    """One block with an identity skip, one with a projection."""
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    x = _block(x, 4, add=layers.Add(name="plain"))
    x = _block(x, 6, 2, add=layers.Add(name="projected"))
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def preactivation():
    """As ResNet V2: the shortcut is a pooling, or begins behind the activation."""
    image = keras.Input((6, 6, 4))
    x = image
    for pooled in (True, False):
        h = layers.ReLU()(layers.BatchNormalization()(x))
        skip = layers.MaxPooling2D(1, 2)(x) if pooled else layers.Conv2D(5, 1)(h)
        h = layers.Conv2D(4 if pooled else 5, 3, 2 if pooled else 1, "same")(h)
        h = layers.ReLU()(layers.BatchNormalization()(h))
        h = layers.Conv2D(skip.shape[-1], 3, padding="same")(h)
        x = layers.Add()([skip, h])
    return keras.Model(image, x)


def gated():
    """Squeeze-and-excitation, and dropout with and without a seed."""
    image = keras.Input((5, 5, 4))
    h = layers.Conv2D(4, 3, padding="same", activation="swish")(image)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(h)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(gate)
    h = layers.Dropout(0.4, seed=3)(layers.Multiply()([h, gate]))
    h = layers.Dropout(0.3, noise_shape=(None, 1, 1, 1))(h)
    return keras.Model(image, layers.Add(name="sum")([h, image]))


def nested():
    """A model in a model, called twice; one in a Sequential; a sum of the outer one."""
    x = keras.Input((4,))
    h = layers.Dense(4, activation="gelu")(x)
    inner = keras.Model(x, layers.Add(name="sum")([x, h]), name="inner")
    other = keras.Sequential([keras.Input((4,)), layers.Dense(4), dense()], name="seq")
    inputs = keras.Input((4,))
    y = inner(inner(inputs))
    y = layers.Add(name="outer")([y, other(y)])
    return keras.Model(inputs, layers.Dense(2)(y))


def shared():
    """A layer that is called twice in a branch; activations and sums elsewhere, too."""
    x = keras.Input((4,))
    layer, add = layers.Dense(4, name="shared"), layers.Add(name="s")
    act = layers.Activation("tanh", name="act")
    y = add([x, layer(act(layer(x)))])
    return keras.Model(x, add([layers.Dense(4)(act(y)), y]))


def within():
    """A skip connection in the branch of another one."""
    x = keras.Input((4,))
    h = layers.Dense(4, activation="tanh")(x)
    h = layers.Add(name="in")([h, layers.Dense(4, activation="tanh")(h)])
    return keras.Model(x, layers.Add(name="out")([x, layers.Dense(4)(h)]))


def several():
    """Inputs by name, one of which is not of floats, and two outputs."""
    x, ids = keras.Input((3, 4), name="x"), keras.Input((3,), dtype="int32", name="ids")
    y = x + layers.Embedding(5, 4)(ids)
    h = layers.Dense(4, activation="relu")(layers.LayerNormalization()(y))
    y = layers.Add(name="sum")([y, layers.Dense(4)(h)])
    outputs = {"all": y, "last": layers.Dense(2)(y[:, -1])}
    return keras.Model({"x": x, "ids": ids}, outputs)


def encoder():
    """Attention with a mask, as text has it; the sums are `Add` layers."""
    ids = keras.Input((5,), dtype="int32")
    x = layers.Embedding(6, 8, mask_zero=True)(ids)
    h = layers.Dense(8, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.Add(name="sum")([x, h])
    return keras.Model(ids, layers.LSTM(3)(x))


# The names of what is converted, in order.
CONVERTED = {
    dense: ["+"],
    resnet: ["plain", "projected"],
    preactivation: ["+", "+"],
    gated: ["sum"],
    nested: ["inner/sum", "+", "outer"],
    shared: ["s", "s"],
    within: ["in", "out"],
    several: ["sum"],
    encoder: ["sum"],
}


def _sum(make, shape=(4,)):
    x = keras.Input(shape, name="x")
    return keras.Model(x, make(x))


def _leak():
    x = keras.Input((4,))
    h = layers.Dense(4, activation="relu", name="leaky")(x)
    return keras.Model(x, [layers.Add()([x, layers.Dense(4)(h)]), h])


def _used_end():
    x = keras.Input((4,))
    h = layers.Dense(4, activation="relu", name="leaky")(x)
    return keras.Model(x, layers.Add()([x, h]) * h)


def _second_entry():
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="condition")
    h = layers.Dense(4)(layers.Multiply()([layers.Dense(4)(x), y]))
    return keras.Model([x, y], layers.Add()([x, h]))


def _masked_plus():
    ids = keras.Input((5,), dtype="int32")
    x = layers.Embedding(6, 8, mask_zero=True)(ids)
    return keras.Model(ids, layers.LSTM(3)(x + layers.Dense(8, "relu")(x)))


def _mask_lost():
    ids = keras.Input((5,), dtype="int32")
    x = layers.Embedding(6, 8, mask_zero=True)(ids)
    h = layers.Dense(8, "relu")(ops.copy(x))
    return keras.Model(ids, layers.LSTM(3)(layers.Add()([x, h])))


def _shared_weights():
    x = keras.Input((4,))
    layer = layers.Dense(4, activation="tanh", name="common")
    return keras.Model(x, layer(layers.Add()([x, layer(x)])))


def _narrow():
    x = keras.Input((4,))
    h = layers.Dense(4, activation="relu", dtype="float16")(x)
    return keras.Model(x, layers.Add(dtype="float16")([x, h]))


_DENSE = layers.Dense
REFUSED = {
    "3 inputs": lambda: _sum(
        lambda x: layers.Add()([x, _DENSE(4)(x), _DENSE(4)(_DENSE(4)(x))])
    ),
    "one tensor": lambda: _sum(lambda x: layers.Add()([x, x])),
    "neither is a projection of 'x'": lambda: _sum(
        lambda x: layers.Add()([_DENSE(4, "relu")(x), _DENSE(4, "relu")(x)])
    ),
    "nothing in common": lambda: keras.Model(
        xs := [keras.Input((4,)), keras.Input((4,))], layers.Add()(xs)
    ),
    "no parameters": lambda: _sum(lambda x: layers.Add()([x, layers.ReLU()(x)])),
    "vanishes": lambda: _sum(
        lambda x: x + _DENSE(4)(layers.BatchNormalization()(_DENSE(4)(x)))
    ),
    "broadcast": lambda: _sum(
        lambda x: x + layers.Conv1D(4, 5, activation="relu")(x), (5, 4)
    ),
    "more than one entry into its branch: beside 'x' also 'condition'": _second_entry,
    "used outside of it, too: the output of 'leaky'": _leak,
    "outside of it, too: the output of 'leaky'": _used_end,
    "does not have the mask": _masked_plus,
    "not have the mask of the input of its branch": _mask_lost,
    "are also called elsewhere: 'common'": _shared_weights,
    "has dtype float16": _narrow,
    "no feature axis": lambda: _sum(
        lambda x: x + layers.PReLU(shared_axes=(1,))(x), (None,)
    ),
}
