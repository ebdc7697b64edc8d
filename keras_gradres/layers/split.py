"""Splits a branch into the part to differentiate and the parts that need not be.

    F = N o T o H

    N   the trailing normalization or softmax. The gradient of the sum of its outputs
        is zero whatever comes before it (a batch-normalized channel sums to
        N * beta, a softmax to 1), so p is the gradient of the sum of T o H.
    T   the affine tail: the longest run of trailing layers that are affine in their
        input, sample by sample. J_T^T 1 is then the same for all inputs and all
        samples; it is computed once, at batch size 1.
    H   the head: everything before. p = J_H^T (J_T^T 1).

Usage:

    parts = split(keras.Sequential([Conv2D(8, 3), ReLU(), Conv2D(8, 3), Softmax()]))
    parts.head, parts.tail, parts.last  # a Sequential, (Conv2D,), (Softmax,)
"""

import dataclasses

import keras
from keras import layers


def _types(*names):
    # Not every supported Keras has every layer.
    return {getattr(layers, name) for name in names if hasattr(layers, name)}


_REARRANGING = _types("Flatten", "Identity", "Permute", "Reshape")
_AFFINE = _REARRANGING | _types(
    *(
        f"{name}{rank}D"
        for name in ("ZeroPadding", "Cropping", "AveragePooling", "UpSampling")
        for rank in (1, 2, 3)
    ),
    # Not the one-dimensional one, which depends on the mask.
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "RepeatVector",
    "Rescaling",
)
_AFFINE_IF_LINEAR = _types(
    "Activation",
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Dense",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "EinsumDense",
    "SeparableConv1D",
    "SeparableConv2D",
)
# Layers that keep the sum of what they are given, or keep it in the mean.
_KEEPING_SUM = _REARRANGING | _types(
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
)
_NORMALIZING = _types(
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "Softmax",
    "UnitNormalization",
)
_SUMMING_TO_ONE = {"softmax", "sparsemax"}


@dataclasses.dataclass(frozen=True)
class Split:
    """The three parts of a branch, all made of the branch's own layers.

    Attributes:
        head: The layer to differentiate, or `None` where the branch is all tail.
        tail: The layer that holds the affine tail, or `None`.
        last: A tuple of layers: the trailing normalization or softmax.
    """

    head: keras.Layer | None
    tail: keras.Layer | None
    last: tuple

    def summary(self):
        """Returns the names of the layers of each part."""
        return {
            "head": [layer.name for layer in _chain(self.head)],
            "affine_tail": [layer.name for layer in _chain(self.tail)],
            "trailing": [layer.name for layer in self.last],
        }


def split(branch):
    """Splits `branch` into its `Split`.

    Raises:
        ValueError: if the gradient cannot be taken before a trailing softmax, because
            it is the activation of a layer that does more, or if it would vanish,
            because only affine layers follow a batch normalization.
    """
    chain = _chain(branch)
    end = len(chain)
    while (start := _before_normalization(chain, end)) is not None:
        end = start
    if end and _summing_to_one(chain[end - 1]):
        raise ValueError(
            "The gradient of a `branch` that ends in a softmax is zero, and it cannot "
            "be taken before a softmax that is the activation of another layer. Use a "
            "`keras.layers.Softmax` of its own after the layer. "
            f"Received: branch={branch}, whose last layer is {chain[end - 1]}"
        )
    start = end
    while start and _is_affine(chain[start - 1]):
        start -= 1
    if start and start < end and _is_batch_statistic(chain[start - 1]):
        raise ValueError(
            "The gradient of a `branch` in which only affine layers follow a "
            "`BatchNormalization` is zero in training. Put an activation between them, "
            "or freeze the normalization (`trainable = False`). "
            f"Received: branch={branch}, in which {chain[start - 1].name} is followed "
            f"by {[layer.name for layer in chain[start:end]]}"
        )
    head = branch if start == len(chain) else _join(chain[:start])
    return Split(head, _join(chain[start:end]), tuple(chain[end:]))


def _before_normalization(chain, end):
    """The length of `chain[:end]` without its trailing normalization, or `None`."""
    while end and type(chain[end - 1]) in _KEEPING_SUM:
        end -= 1
    return end - 1 if end and _is_normalizing(chain[end - 1]) else None


def _is_normalizing(layer):
    return type(layer) in _NORMALIZING or (
        type(layer) is layers.Activation and _summing_to_one(layer)
    )


def _summing_to_one(layer):
    return getattr(getattr(layer, "activation", None), "__name__", "") in (
        _SUMMING_TO_ONE
    )


def _is_affine(layer):
    # An activity regularizer would count the extra call at batch size 1.
    return layer.activity_regularizer is None and (
        type(layer) in _AFFINE
        or (
            type(layer) in _AFFINE_IF_LINEAR
            and layer.activation in (None, keras.activations.linear)
        )
    )


def _is_batch_statistic(layer):
    return type(layer) is layers.BatchNormalization and layer.trainable


def _chain(layer):
    """The layers whose composition is `layer`, opened up from the end."""
    if layer is None:
        return []
    if type(layer) is keras.Sequential:
        return [*layer.layers[:-1], *_chain(layer.layers[-1])]
    if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
        return _functional_chain(layer)
    return [layer]


def _functional_chain(model):
    """Opens a functional model: the layers at its end, before them the rest of it."""
    opened: list[keras.Layer] = []
    output = model.outputs[0]
    while True:
        last = _producer(model, output)
        if last is None or not (
            _is_affine(last) or _is_normalizing(last) or type(last) in _KEEPING_SUM
        ):
            break
        opened.insert(0, last)
        output = last.input
    if not opened:
        return [model]
    if output is model.inputs[0]:
        return opened
    rest = keras.Model(model.inputs, output, name=f"{model.name}_head")
    if type(rest) is not type(model):  # A subclass may do more in its `call`.
        return [model]
    return [rest, *opened]


def _producer(model, tensor):
    """The layer of `model` that gives `tensor` and nothing else, from one tensor."""
    for layer in model.layers:
        try:
            if layer.output is tensor and isinstance(layer.input, keras.KerasTensor):
                return layer
        except (AttributeError, ValueError):  # Called several times, or never.
            continue
    return None


def _join(chain):
    if len(chain) < 2:
        return chain[0] if chain else None
    return keras.Sequential(chain)
