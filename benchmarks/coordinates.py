"""Networks of coordinates with periodic units: SIREN, FINER and Fourier features.

They are the controls of `sine` and `neural_field`: what one would take first for a
function with rapid variation, at the cost of a plain network.

    SIREN (arXiv 2006.09661):  sin(omega u),             u = W x + b
    FINER (arXiv 2312.02434):  sin(omega (|u| + 1) u)
    Fourier features (arXiv 2006.10739):  x -> cos(2 pi B x), sin(2 pi B x)

    model = siren(input_size=2, outputs=3, units=64, hidden=3)
"""

import math

import keras
from keras import initializers, layers, ops

from keras_gradres import pullbacks


@keras.saving.register_keras_serializable(package="benchmarks")
class Sine(keras.Layer):
    """sin(omega u), or sin(omega (|u| + 1) u), whose frequency grows with |u|.

    Args:
        omega: The factor within.
        finer: Whether the frequency grows.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, omega=30.0, finer=False, **kwargs):
        super().__init__(**kwargs)
        self.omega = omega
        self.finer = finer
        self.supports_masking = True

    def phase(self, u):
        """What the sine is taken of, and its derivative."""
        if not self.finer:
            return self.omega * u, self.omega
        return self.omega * (ops.abs(u) + 1) * u, self.omega * (2 * ops.abs(u) + 1)

    def call(self, u):
        return ops.sin(self.phase(u)[0])

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "omega": self.omega, "finer": self.finer}


@pullbacks.register(Sine)
def _sine(call, u):
    output = call(u)
    phase, slope = call.layer.phase(call.saved(u))
    derivative = slope * ops.cos(phase)
    return output, lambda c: c * derivative


@keras.saving.register_keras_serializable(package="benchmarks")
class FourierFeatures(keras.Layer):
    """Cosines and sines of random projections of the coordinates, 2 `features` in all.

    Args:
        features: The number of projections, the rows of B. They are not trained.
        scale: The standard deviation of B: the frequencies that are offered.
        seed: Of B.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, features, scale=1.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.features = features
        self.scale = scale
        self.seed = seed

    def build(self, input_shape):
        self.projections = self.add_weight(
            shape=(input_shape[-1], self.features),
            initializer=initializers.RandomNormal(stddev=self.scale, seed=self.seed),
            trainable=False,
            name="projections",
        )

    def call(self, x):
        phase = 2 * math.pi * ops.matmul(x, self.projections)
        return ops.concatenate([ops.cos(phase), ops.sin(phase)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2 * self.features)

    def get_config(self):
        return {
            **super().get_config(),
            "features": self.features,
            "scale": self.scale,
            "seed": self.seed,
        }


def uniform(limit):
    return initializers.RandomUniform(-limit, limit)


def sine_dense(units, inputs, omega=30.0, first=False, bias=None):
    """A `Dense` of SIREN, to be followed by `Sine(omega)`.

    Its weights are such that each layer's u has the same spread whatever the depth
    (section 3.2 there). `bias` is the limit of the biases, for which FINER's first
    layer takes a large one; by default that of the authors' code, 1 / sqrt(inputs).
    """
    limit = 1 / inputs if first else math.sqrt(6 / inputs) / omega
    return layers.Dense(
        units,
        kernel_initializer=uniform(limit),
        bias_initializer=uniform(1 / math.sqrt(inputs) if bias is None else bias),
    )


def siren(input_size, outputs, units, hidden, omega=30.0, finer=False, bias=None):
    """A sine network: a first layer, `hidden` more of `units`, and a linear one.

    It has the parameters of a network of `Dense(units)` in the same places.
    """
    x = inputs = keras.Input((input_size,))
    x = Sine(omega, finer)(sine_dense(units, input_size, omega, True, bias)(x))
    for _ in range(hidden):
        x = Sine(omega, finer)(sine_dense(units, units, omega)(x))
    return keras.Model(inputs, sine_dense(outputs, units, omega)(x))


def finer(input_size, outputs, units, hidden, omega=30.0, bias=1.0):
    """FINER: a sine network whose first biases spread over (-`bias`, `bias`)."""
    return siren(input_size, outputs, units, hidden, omega, finer=True, bias=bias)
