"""The Keras masks of the tensors of a functional model.

An `Add` layer joins the masks of its inputs, a sum written with `+` has no mask, and a
gradient residual has the mask of its skip. Layers after a sum may use its mask, so a
sum whose mask would change is not converted.

Usage:

    masks = masks_of(calls, calls_inside)
    masks.get(id(tensor))        # a symbolic tensor, or None
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_gradres.conversion.calls import ModelCall, ModelCalls, symbolic
from keras_gradres.typing import Mask


def masks_of(
    calls: ModelCalls,
    calls_inside: Callable[[Any], ModelCalls | None],
    input_masks: Sequence[Mask] = (),
) -> dict[int, Mask]:
    """The masks by the `id` of the tensors that have one.

    Args:
        calls: The calls of a model.
        calls_inside: From a layer to the calls inside, or `None` where it has none.
        input_masks: The masks of the inputs of the model.
    """
    masks: dict[int, Mask] = {
        id(tensor): mask
        for tensor, mask in zip(calls.inputs, input_masks, strict=False)
        if mask is not None
    }
    for call in calls.calls:
        inside = calls_inside(call.layer)
        if inside is not None:
            masks_inside = masks_of(
                inside, calls_inside, [masks.get(id(t)) for t in call.inputs]
            )
            output_masks = [masks_inside.get(id(t)) for t in inside.outputs]
        else:
            output_masks = _output_masks(call, masks)
        pairs = zip(call.outputs, output_masks, strict=False)
        masks.update((id(tensor), mask) for tensor, mask in pairs if mask is not None)
    return masks


def _output_masks(call: ModelCall, masks: dict[int, Mask]) -> list[Mask]:
    """The masks of the outputs of a layer, as Keras propagates them."""
    layer = call.layer
    if not isinstance(layer, keras.Layer) or not layer.supports_masking:
        return []
    first = call.args[0] if call.args else next(iter(call.kwargs.values()))
    previous = keras.tree.map_structure(lambda t: masks.get(id(t)), first)
    return symbolic(layer.compute_mask(first, previous))
