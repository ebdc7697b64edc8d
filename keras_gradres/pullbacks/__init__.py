"""The derivative of a branch as an ordinary computation, layer by layer.

The gradient of the sum of a branch's outputs is p = J_1^T J_2^T ... J_n^T 1. Each
factor is a *pullback*: the function from the cotangent of a layer's output to the
cotangent of its input. A *rule* for a kind of layer writes it with `keras.ops`, so that
nothing is differentiated inside the forward pass: the layer is called once, as in any
model, and what comes out exports and compiles as any model does. What has no rule is
differentiated automatically, that layer alone.

A rule of one's own:

    @keras_gradres.pullbacks.register(Sine)           # y = sin(frequency * x)
    def sine(call, x):
        y = call(x)
        slope = call.layer.frequency * ops.cos(call.layer.frequency * call.saved(x))
        return y, lambda c: c * slope

See `register` for what a rule is given and what it returns.
"""

from keras_gradres.pullbacks import (
    activations,
    attention,
    convolution,
    dense,
    dropout,
    merging,
    normalization,
    pooling,
    reshaping,
)
from keras_gradres.pullbacks.graph import Graph
from keras_gradres.pullbacks.registry import has_rule, register
from keras_gradres.pullbacks.rule import Call, Pullback

__all__ = ["Call", "Graph", "Pullback", "has_rule", "register"]

# Imported for the rules that they register.
_FAMILIES = (
    activations,
    attention,
    convolution,
    dense,
    dropout,
    merging,
    normalization,
    pooling,
    reshaping,
)
