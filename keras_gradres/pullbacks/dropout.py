"""Dropout and noise layers: c -> c m, for y = m x with the random factors m.

The layer must be called only once, so that its seed advances once. So m is read from
the output of that call, or the layer is called on ones, which returns m itself.

On average the sum of the outputs is that of the inputs. So the cotangent of the input
counts as constant where that of the output is: a normalization that only dropout
follows is treated as if it were at the end of the branch.
"""

import keras
from keras import ops

from keras_gradres.precision import spacing
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Call, Pullback, RuleResult, same_axes
from keras_gradres.typing import Tensor


@register_named(
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
)
def _dropout(call: Call, x: Tensor) -> RuleResult:
    rate = call.layer.rate
    if not call.training or not rate:
        return call(x), Pullback(lambda c: c, same_axes)
    if call.layer.activity_regularizer is not None:
        # The regularizer needs the output for x itself.
        return call.automatic(x)

    factors: list[Tensor] = []

    def dropped(x: Tensor) -> Tensor:
        x = call.cast(x)
        # Where x is 0, the output does not show what was dropped. So 1 replaces it.
        zero = ops.equal(x, 0)
        y = call(ops.where(zero, ops.ones_like(x), x))
        kept = ops.cast(ops.not_equal(y, 0), y.dtype)
        factors.append(ops.stop_gradient(kept / (1 - rate) if rate < 1 else kept))
        return ops.where(zero, x * factors[-1], y)

    y = call.with_mask(dropped, x)
    return y, Pullback(lambda c: c * factors[-1], same_axes)


@register_named("GaussianDropout")
def _gaussian_dropout(call: Call, x: Tensor) -> RuleResult:
    if not call.training or not call.layer.rate:
        return call(x), Pullback(lambda c: c, same_axes)
    if call.layer.activity_regularizer is not None:
        # The regularizer needs the output for x, not for ones.
        return call.automatic(x)

    factors: list[Tensor] = []

    def scaled(x: Tensor) -> Tensor:
        x = call.cast(x)
        factors.append(ops.stop_gradient(call(ops.ones_like(x))))
        return x * factors[-1]

    y = call.with_mask(scaled, x)
    return y, Pullback(lambda c: c * factors[-1], same_axes)


@register_named("GaussianNoise", "ActivityRegularization", "Identity")
def _additive(call: Call, x: Tensor) -> RuleResult:
    return call(x), Pullback(lambda c: c, same_axes)


@register_named("AlphaDropout")
def _alpha_dropout(call: Call, x: Tensor) -> RuleResult:
    y, rate = call(x), call.layer.rate
    if not call.training or not rate:
        return y, Pullback(lambda c: c, same_axes)
    # As in "Self-Normalizing Neural Networks": kept entries are scaled by a and shifted
    # by b, the others are set to the limit of the SELU, scaled and shifted likewise.
    limit = -1.6732632423543772 * 1.0507009873554805
    a = ((1 - rate) * (1 + rate * limit**2)) ** -0.5
    b = -a * limit * rate
    dropped = a * limit + b
    rounding = 4 * spacing(keras.backend.standardize_dtype(y.dtype))
    kept = ops.abs(y - dropped) > rounding * abs(dropped)
    factor = ops.stop_gradient(a * ops.cast(kept, y.dtype))
    return y, Pullback(lambda c: c * factor, same_axes)
