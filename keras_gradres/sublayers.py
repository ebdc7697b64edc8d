"""Builds the layers that a layer or an optimizer holds, and carries masks through."""

import keras

from keras_gradres.typing import Dtype, Mask, Shape, Structure


def build(layer: keras.Layer, name: str, shape: Shape, dtype: Dtype) -> Shape:
    """Builds a layer for inputs of a shape, and returns the shape of its output.

    Args:
        layer: The layer. One that is built already stays as it is.
        name: The name of the argument that gave it, for the message.
        shape: The shape of the inputs.
        dtype: The dtype of the inputs.
    """
    spec = keras.KerasTensor(shape, dtype=dtype)
    output = layer.compute_output_spec(spec) if layer.built else layer(spec)
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            f"`{name}` must have one output, a single tensor. "
            f"Received: {name}={layer}, with output {output}"
        )
    let_masks_through(layer)
    return tuple(output.shape)


def let_masks_through(layer: keras.Layer) -> bool:
    """Marks a model as supporting masks if all layers in it do, and returns that.

    Keras does not mark models by itself, and would drop the mask at their output.
    """
    if isinstance(layer, keras.Model) and hasattr(layer, "inputs"):
        parts = [x for x in layer.layers if not isinstance(x, keras.layers.InputLayer)]
        # A list, not a generator: `all` would stop at the first layer without masks,
        # and leave the models after it unmarked.
        supported = [let_masks_through(part) for part in parts]
        layer.supports_masking = all(supported)
    return layer.supports_masking


def mask_after(layer: keras.Layer, inputs: Structure, mask: Mask) -> Mask:
    """The mask of the output of a layer, as Keras propagates it."""
    if mask is None or not layer.supports_masking:
        return None
    return layer.compute_mask(inputs, mask)
