"""The derivative of a branch as an ordinary computation, layer by layer.

The gradient of the sum of a branch's outputs is p = J_1^T J_2^T ... J_n^T 1. Each
factor is a *pullback*: the function from the cotangent of a layer's output to the
cotangent of its input. A *rule* for a class of layers writes it with `keras.ops`. So
nothing is differentiated inside the forward pass: each layer is called once, as in any
model, and the branch exports and compiles as any model does. Only layers that have no
rule are differentiated automatically.

A rule of your own:

    @keras_gradres.pullbacks.register(Sine)           # y = sin(frequency * x)
    def sine(call, x):
        y = call(x)
        slope = call.layer.frequency * ops.cos(call.layer.frequency * call.saved(x))
        return y, lambda c: c * slope

`register` says what a rule is given and what it returns.
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

# Importing these modules registers their rules.
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
