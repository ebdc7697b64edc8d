"""How a layer builds and calls the layers inside it."""

import inspect

import keras


def build(layer, name, shape, dtype):
    """Builds `layer` on inputs of `shape`, and returns the shape of its output."""
    spec = keras.KerasTensor(shape, dtype=dtype)
    output = layer.compute_output_spec(spec) if layer.built else layer(spec)
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            f"`{name}` must have one output, a single tensor. "
            f"Received: {name}={layer}, with output {output}"
        )
    let_masks_through(layer)
    return tuple(output.shape)


def let_masks_through(layer):
    """Tells Keras that a container takes masks if all that is in it does."""
    if isinstance(layer, keras.Model) and hasattr(layer, "inputs"):
        inner = [i for i in layer.layers if not isinstance(i, keras.layers.InputLayer)]
        takes = [let_masks_through(i) for i in inner]  # All of them are to be told.
        layer.supports_masking = all(takes)
    return layer.supports_masking


def call_arguments(layer, training, mask):
    """The arguments of a call of `layer`, with the mask if there is one to take."""
    arguments = {"training": training}
    if mask is not None and "mask" in inspect.signature(layer.call).parameters:
        arguments["mask"] = mask
    return arguments


def mask_after(layer, inputs, mask):
    """The mask of the output of `layer`, as Keras propagates it."""
    if mask is None or not layer.supports_masking:
        return None
    return layer.compute_mask(inputs, mask)
