"""A layer for every pullback rule, with the shape of its input.

Of the layers of `keras.layers` that take a floating-point tensor, `WITHOUT_RULE` has
those that are differentiated automatically, so that a new Keras layer shows up.
"""

import keras
import numpy as np
from keras import layers

DENSE, SEQUENCE, IMAGE, VOLUME = (3, 5), (2, 6, 4), (2, 6, 5, 4), (2, 4, 3, 5, 2)


def _convolutions():
    options = {
        "same": {"padding": "same"},
        "valid": {"padding": "valid"},
        "strided": {"padding": "same", "strides": 2},
        "strided valid": {"padding": "valid", "strides": 2},
        "dilated": {"padding": "same", "dilation_rate": 2},
    }
    for name, kwargs in options.items():
        for size in (2, 3):
            yield (
                f"conv {name} {size}",
                lambda s=size, k=kwargs: layers.Conv2D(3, s, **k),
                IMAGE,
            )
            yield (
                f"conv 1d {name} {size}",
                lambda s=size, k=kwargs: layers.Conv1D(3, s, **k),
                SEQUENCE,
            )
            yield (
                f"depthwise {name} {size}",
                lambda s=size, k=kwargs: layers.DepthwiseConv2D(
                    s, depth_multiplier=2, **k
                ),
                IMAGE,
            )
            yield (
                f"separable {name} {size}",
                lambda s=size, k=kwargs: layers.SeparableConv2D(3, s, **k),
                IMAGE,
            )
        if name != "dilated":
            yield (
                f"transposed {name}",
                lambda k=kwargs: layers.Conv2DTranspose(3, 3, **k),
                IMAGE,
            )
    yield (
        "conv causal",
        lambda: layers.Conv1D(3, 3, padding="causal", dilation_rate=2),
        SEQUENCE,
    )
    yield (
        "conv oblong",
        lambda: layers.Conv2D(3, (1, 4), strides=(2, 1), padding="same"),
        IMAGE,
    )
    yield "conv wide stride", lambda: layers.Conv2D(3, 2, strides=3), (2, 8, 7, 4)
    yield "conv 3d", lambda: layers.Conv3D(3, 3, padding="same"), VOLUME
    yield "conv 3d strided", lambda: layers.Conv3D(3, 2, strides=2), VOLUME
    yield "depthwise 1d", lambda: layers.DepthwiseConv1D(3, padding="same"), SEQUENCE
    yield "separable 1d", lambda: layers.SeparableConv1D(3, 3, strides=2), SEQUENCE
    yield "transposed 1d", lambda: layers.Conv1DTranspose(3, 2, strides=2), SEQUENCE
    yield "transposed 3d", lambda: layers.Conv3DTranspose(2, 2, strides=2), VOLUME


def _activations():
    names = [
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid"),
        *("hard_silu", "hard_tanh", "leaky_relu", "linear", "log_sigmoid"),
        *("log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu"),
        *("soft_shrink", "softmax", "softplus", "softsign", "sparse_plus"),
        *("sparse_sigmoid", "sparsemax", "squareplus", "tanh", "tanh_shrink"),
    ]
    for name in names:
        if hasattr(keras.activations, name):
            yield name, lambda n=name: layers.Activation(n), DENSE
    yield "dense gelu", lambda: layers.Dense(4, activation="gelu"), DENSE
    yield "dense softmax", lambda: layers.Dense(4, activation="softmax"), DENSE
    yield (
        "dense layer",
        lambda: layers.Dense(4, activation=layers.LeakyReLU(0.3)),
        DENSE,
    )
    yield "conv silu", lambda: layers.Conv2D(3, 3, activation="silu"), IMAGE
    yield "relu layer", lambda: layers.ReLU(), DENSE
    yield "relu threshold", lambda: layers.ReLU(1.0, 0.2, 0.3), DENSE
    yield "leaky relu layer", lambda: layers.LeakyReLU(0.1), DENSE
    yield "prelu", lambda: layers.PReLU(shared_axes=(1, 2)), IMAGE
    yield "elu layer", lambda: layers.ELU(0.7), DENSE
    yield "softmax layer", lambda: layers.Softmax(axis=1), SEQUENCE
    yield "softmax axes", lambda: layers.Softmax(axis=(1, 2)), SEQUENCE


def _normalizations():
    yield "batch norm", lambda: layers.BatchNormalization(), IMAGE
    yield (
        "batch norm plain",
        lambda: layers.BatchNormalization(scale=False, center=False),
        DENSE,
    )
    yield "batch norm axis", lambda: layers.BatchNormalization(axis=1), SEQUENCE
    yield "layer norm", lambda: layers.LayerNormalization(), SEQUENCE
    yield "layer norm plain", lambda: layers.LayerNormalization(scale=False), DENSE
    yield "layer norm axes", lambda: layers.LayerNormalization(axis=(1, 2)), SEQUENCE
    yield "group norm", lambda: layers.GroupNormalization(2), IMAGE
    yield "group norm axis", lambda: layers.GroupNormalization(3, axis=1), SEQUENCE
    yield "instance norm", lambda: layers.GroupNormalization(4, scale=False), IMAGE
    yield "rms norm", lambda: layers.RMSNormalization(), SEQUENCE
    yield "unit norm", lambda: layers.UnitNormalization(), SEQUENCE
    yield (
        "normalization",
        lambda: layers.Normalization(
            mean=[0.1, 0.2, 0.3, 0.4, 0.5], variance=[1.0, 2.0, 3.0, 4.0, 5.0]
        ),
        DENSE,
    )
    yield "rescaling", lambda: layers.Rescaling(0.3, 1.0), DENSE


def _others():
    yield "dense", lambda: layers.Dense(4), DENSE
    yield "dense sequence", lambda: layers.Dense(3, activation="tanh"), SEQUENCE
    yield (
        "einsum",
        lambda: layers.EinsumDense(
            "abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de"
        ),
        SEQUENCE,
    )
    yield (
        "einsum ellipsis",
        lambda: layers.EinsumDense("...x,xy->...y", output_shape=3, activation="silu"),
        SEQUENCE,
    )
    yield (
        "einsum mixing",
        lambda: layers.EinsumDense("btf,ts->bsf", output_shape=(3, None)),
        SEQUENCE,
    )
    yield "dropout", lambda: layers.Dropout(0.4, seed=3), DENSE
    yield "gaussian dropout", lambda: layers.GaussianDropout(0.4, seed=3), DENSE
    yield "gaussian noise", lambda: layers.GaussianNoise(0.4, seed=3), DENSE
    yield "alpha dropout", lambda: layers.AlphaDropout(0.4, seed=3), DENSE
    yield "spatial dropout", lambda: layers.SpatialDropout2D(0.4, seed=3), IMAGE
    yield "average pooling", lambda: layers.AveragePooling2D(2), IMAGE
    yield (
        "average pooling same",
        lambda: layers.AveragePooling2D(3, strides=2, padding="same"),
        IMAGE,
    )
    yield "average pooling 1d", lambda: layers.AveragePooling1D(3, strides=1), SEQUENCE
    yield "average pooling 3d", lambda: layers.AveragePooling3D(2), VOLUME
    yield "max pooling", lambda: layers.MaxPooling2D(2), (2, 4, 6, 3)
    yield "max pooling 1d", lambda: layers.MaxPooling1D(3), SEQUENCE
    for kind in ("Average", "Max"):
        yield f"global {kind} 1d", getattr(layers, f"Global{kind}Pooling1D"), SEQUENCE
        yield (
            f"global {kind} 2d",
            lambda k=kind: getattr(layers, f"Global{k}Pooling2D")(keepdims=True),
            IMAGE,
        )
    yield "flatten", lambda: layers.Flatten(), IMAGE
    yield "reshape", lambda: layers.Reshape((5, -1)), IMAGE
    yield "permute", lambda: layers.Permute((3, 1, 2)), IMAGE
    yield "repeat", lambda: layers.RepeatVector(3), DENSE
    yield "masking", lambda: layers.Masking(), SEQUENCE
    yield "up-sampling", lambda: layers.UpSampling2D((2, 3)), IMAGE
    yield "up-sampling 1d", lambda: layers.UpSampling1D(2), SEQUENCE
    yield "zero padding", lambda: layers.ZeroPadding2D(((1, 0), (2, 1))), IMAGE
    yield "zero padding 1d", lambda: layers.ZeroPadding1D(2), SEQUENCE
    yield "cropping", lambda: layers.Cropping2D(((1, 0), (2, 1))), IMAGE
    yield "identity", lambda: layers.Identity(), DENSE
    yield "activity", lambda: layers.ActivityRegularization(), DENSE
    yield "attention", lambda: _of_two(layers.MultiHeadAttention(2, 3)), SEQUENCE
    yield "attention of key", _attention_of_key, SEQUENCE
    yield (
        "causal attention",
        lambda: _of_two(layers.MultiHeadAttention(2, 3), use_causal_mask=True),
        SEQUENCE,
    )
    for name in ("Add", "Subtract", "Multiply", "Average"):
        yield name, lambda n=name: _of_list(getattr(layers, n)()), DENSE
    yield "concatenate", lambda: _of_list(layers.Concatenate()), DENSE
    yield "operations", _operations, SEQUENCE


def _of_two(layer, **kwargs):
    x = keras.Input((None, 4))
    return keras.Model(x, layer(x, layers.Dense(4, activation="tanh")(x), **kwargs))


def _attention_of_key():
    x = keras.Input((None, 4))
    value, key = (layers.Dense(4, activation="tanh")(x) for _ in range(2))
    return keras.Model(x, layers.MultiHeadAttention(2, 3)(x, value, key=key))


def _of_list(layer):
    x = keras.Input((5,))
    return keras.Model(x, layer([layers.Dense(5, activation="tanh")(x), x]))


def _operations():
    x = keras.Input((6, 4))
    h = keras.ops.tanh(layers.Dense(4)(x)) * x + 1.0
    h = h - keras.ops.mean(x, axis=1, keepdims=True)
    return keras.Model(x, keras.ops.concatenate([h, keras.ops.relu(2 * x)], axis=1))


CASES = {
    name: (make, shape)
    for family in (_convolutions, _activations, _normalizations, _others)
    for name, make, shape in family()
}


ONE_OF_EACH_FAMILY = (
    *("dense", "dense gelu", "einsum", "conv same 3", "conv strided 2"),
    *("depthwise same 3", "separable valid 3", "transposed same", "silu", "softmax"),
    *("batch norm", "layer norm", "group norm", "rms norm", "average pooling"),
    *("attention", "Multiply", "concatenate", "operations"),
)
WITHOUT_RULE = {
    # Recurrent, and other layers of layers.
    *("Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "GRU", "GRUCell"),
    *("LSTM", "LSTMCell", "RNN", "SimpleRNN", "SimpleRNNCell", "StackedRNNCells"),
    *("SpectralNormalization", "TimeDistributed", "Wrapper", "Pipeline"),
    # Attention without public parts, and products of two inputs.
    *("AdditiveAttention", "Attention", "GroupedQueryAttention", "Dot"),
    *("Maximum", "Minimum"),
    *(f"Adaptive{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)),
    # Code of other frameworks and of users.
    *("FlaxLayer", "JaxLayer", "Lambda", "Layer", "TFSMLayer", "TorchModuleWrapper"),
    # Of integers and strings, or with nothing to differentiate.
    *("CategoryEncoding", "Discretization", "Embedding", "HashedCrossing", "Hashing"),
    *("InputLayer", "IntegerLookup", "StringLookup", "TextVectorization"),
    *("ReversibleEmbedding", "MaxNumBoundingBoxes"),
    # Preprocessing.
    *("AugMix", "AutoContrast", "CenterCrop", "CutMix", "Equalization", "MixUp"),
    *("ContrastLimitedAdaptiveHistogramEqualization", "MelSpectrogram"),
    *("RandAugment", "RandomBrightness", "RandomColorDegeneration"),
    *("RandomColorJitter", "RandomContrast", "RandomCrop", "RandomElasticTransform"),
    *("RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale"),
    *("RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization"),
    *("RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear"),
    *("RandomTranslation", "RandomZoom", "Resizing", "STFTSpectrogram"),
    "Solarization",
}


def built(name):
    """The layer, with weights of ordinary size, and its input."""
    make, shape = CASES[name]
    layer = make()
    if not layer.built:
        layer.build(shape)
    rng = np.random.default_rng(0)
    for v in layer.weights:
        if keras.backend.is_float_dtype(v.dtype):
            value = rng.normal(scale=0.5, size=v.shape).astype("float32")
            v.assign(np.abs(value) + 0.5 if "variance" in v.path else value)
    return layer, np.random.default_rng(1).normal(size=shape).astype("float32")
