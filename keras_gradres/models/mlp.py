"""A multilayer perceptron of residual blocks, for regression.

    x = dense(inputs)
    outputs = dense(block(... block(x)))      block: dense, activation, dense

Usage:

    model = MLP(input_size=1, residual="convex")
    model.compile("adam", "mse")
"""

from typing import Any

import keras
from keras import layers

from keras_gradres import checks
from keras_gradres.layers import GradientResidualDense


def MLP(  # noqa: N802
    input_size: int,
    outputs: int = 1,
    blocks: int = 2,
    units: int = 64,
    activation: str = "relu",
    residual: str = "convex",
    name: str = "mlp",
    **kwargs: Any,
) -> keras.Model:
    """A perceptron of residual blocks, as for the synthetic task of arXiv 2602.09190.

    The paper gives no sizes; `benchmarks/sine_relu.py` has the sweep behind these.

    Args:
        input_size: The number of features.
        outputs: The number of outputs.
        blocks: The number of residual blocks.
        units: The width of all layers.
        activation: The activation within the blocks.
        residual: The skip of the blocks, see `GradientResidual`.
        name: The name of the model.
        **kwargs: Other arguments of `GradientResidual` for the blocks.

    Returns:
        A `keras.Model` from `(batch, input_size)` to `(batch, outputs)`.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.models import MLP
    >>> model = MLP(input_size=3, outputs=2)
    >>> tuple(model(np.zeros((5, 3), "float32")).shape)
    (5, 2)
    """
    blocks = checks.positive_integer("blocks", blocks)
    inputs = keras.Input((input_size,))
    x = layers.Dense(units)(inputs)
    for _ in range(blocks):
        x = GradientResidualDense(activation=activation, residual=residual, **kwargs)(x)
    return keras.Model(inputs, layers.Dense(outputs)(x), name=name)
