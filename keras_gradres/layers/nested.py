"""The pullback rule of a gradient residual that is in the branch of another one.

    y = act(F(x) + S(skip(x, g)))
    c -> J_F^T c' + (d skip / d x) J_S^T c',    c' = c act'

Without second order its own gradient g is a constant there. With second order the layer
is differentiated automatically.
"""

from keras import ops

from keras_gradres.layers.gradient_residual import GradientResidual
from keras_gradres.pullbacks import Call, Pullback, register
from keras_gradres.pullbacks.activations import of_function
from keras_gradres.typing import Mask, Tensor


@register(GradientResidual)
def _nested(call: Call, x: Tensor, mask: Mask = None) -> tuple[Tensor, Pullback]:
    layer = call.layer
    kind = layer.kind
    if (kind.needs_gradient and layer.second_order) or layer.activity_regularizer:
        return call.automatic(x) if mask is None else call.automatic(x, mask=mask)
    mask = call.mask(x) if mask is None else mask
    inputs = layer.cast_inputs(x)
    run = layer.graph.run(inputs, call.training, mask, call.second_order)
    skip = layer.compute_skip(inputs, run, call.training)
    shortcut = None
    if skip is not None and layer.shortcut is not None:
        shortcut = layer.shortcut_graph.run(
            skip, call.training, mask, call.second_order
        )
        skip = shortcut.output
    u = layer.add_skip(run.output, skip)
    y, pullbacks = of_function(call, layer.activation, u)
    weight = getattr(layer, kind.weight) if kind.weight else None
    by_input = kind.by_input(weight if weight is None else call.weight(weight))

    def function(c: Tensor) -> Tensor:
        for pullback in pullbacks:
            c = pullback.function(c)
        by_branch = run.pull(ops.cast(c, run.output.dtype))
        if skip is None:
            return by_branch
        if shortcut is not None:
            c = shortcut.pull(c)
        return ops.cast(by_branch, c.dtype) + by_input * c

    y = call.masks.attach(y, layer.compute_mask(x, mask))
    return y, Pullback(function, lambda axes: frozenset())
