"""Dropout and noise layers: c -> c m, for y = m x with the random factors m.

In training m is seen in what the call gives, or is what a call on ones gives, so that
the layer is called, and its seed advanced, once. The sum of the outputs stays in the
mean what it was, so the cotangent counts as constant where it was: a normalization
before it is one at the end.
"""

import keras
from keras import ops

from keras_gradres.precision import spacing
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Pullback


def everywhere(axes):
    """Constant along the axes along which it was."""
    return axes


@register_named(
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
)
def _dropout(call, x):
    rate = call.layer.rate
    if not call.training or not rate:
        return call(x), Pullback(lambda c: c, everywhere)
    if call.layer.activity_regularizer is not None:
        return call.automatic(x)  # It is to see the output as it is.

    def both(x):
        x = call.cast(x)
        # Where x is 0, the output does not tell what was dropped.
        zero = ops.equal(x, 0)
        y = call(ops.where(zero, ops.ones_like(x), x))
        kept = ops.cast(ops.not_equal(y, 0), y.dtype)
        factors.append(ops.stop_gradient(kept / (1 - rate) if rate < 1 else kept))
        return ops.where(zero, x * factors[-1], y)

    factors: list = []
    y = call.with_mask(both, x)
    return y, Pullback(lambda c: c * factors[-1], everywhere)


@register_named("GaussianDropout")
def _gaussian_dropout(call, x):
    if not call.training or not call.layer.rate:
        return call(x), Pullback(lambda c: c, everywhere)
    if call.layer.activity_regularizer is not None:
        return call.automatic(x)  # It is to see the output, not the factors.

    def both(x):
        x = call.cast(x)
        factors.append(ops.stop_gradient(call(ops.ones_like(x))))
        return x * factors[-1]

    factors: list = []
    y = call.with_mask(both, x)
    return y, Pullback(lambda c: c * factors[-1], everywhere)


@register_named("GaussianNoise", "ActivityRegularization", "Identity")
def _additive(call, x):
    return call(x), Pullback(lambda c: c, everywhere)


@register_named("AlphaDropout")
def _alpha_dropout(call, x):
    y, rate = call(x), call.layer.rate
    if not call.training or not rate:
        return y, Pullback(lambda c: c, everywhere)
    # As in "Self-Normalizing Neural Networks": kept entries are scaled by a and shifted
    # by b, the others are set to the limit of the SELU, scaled and shifted likewise.
    limit = -1.6732632423543772 * 1.0507009873554805
    a = ((1 - rate) * (1 + rate * limit**2)) ** -0.5
    b = -a * limit * rate
    dropped, rounding = (
        a * limit + b,
        4 * spacing(keras.backend.standardize_dtype(y.dtype)),
    )
    kept = ops.abs(y - dropped) > rounding * abs(dropped)
    factor = ops.stop_gradient(a * ops.cast(kept, y.dtype))
    return y, Pullback(lambda c: c * factor, everywhere)
