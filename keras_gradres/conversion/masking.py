"""The Keras masks of the tensors of a functional model.

An `Add` layer joins the masks of its inputs, a sum written with `+` has none, and a
gradient residual has that of its skip. So a sum whose mask would change is not
converted, since layers behind it may use the mask.

Usage:

    masks = masks_of(calls)
    masks.get(id(tensor))        # a symbolic tensor, or None
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_gradres.conversion.calls import Calls, symbolic


def masks_of(
    calls: Calls, opened: Callable[[Any], Calls | None], given: Sequence = ()
) -> dict[int, Any]:
    """The masks by the `id` of the tensors that have one.

    Args:
        calls: The calls of a model.
        opened: From a layer to the calls inside, or `None` where it has none.
        given: The masks of the inputs of the model.
    """
    masks = {
        id(tensor): mask
        for tensor, mask in zip(calls.inputs, given, strict=False)
        if mask is not None
    }
    for call in calls.calls:
        inside = opened(call.layer)
        if inside is not None:
            passed = [masks.get(id(t)) for t in call.inputs]
            found = masks_of(inside, opened, passed)
            made = [found.get(id(t)) for t in inside.outputs]
        else:
            made = _after(call, masks)
        pairs = zip(call.outputs, made, strict=False)
        masks.update((id(tensor), mask) for tensor, mask in pairs if mask is not None)
    return masks


def _after(call, masks):
    """The masks of the outputs of a layer, as Keras propagates them."""
    layer = call.layer
    if not isinstance(layer, keras.Layer) or not layer.supports_masking:
        return []
    first = call.args[0] if call.args else next(iter(call.kwargs.values()))
    previous = keras.tree.map_structure(lambda t: masks.get(id(t)), first)
    return symbolic(layer.compute_mask(first, previous))
