"""A detector of KerasHub trains with GAL by `gal.loss`, as it is.

KerasHub's `RetinaNetObjectDetector` makes its targets in `compute_loss`, as the
detector of the examples does, and hands them to the losses that it was compiled with.
Its D-FINE does not call these: it adds up losses of its own, which GAL cannot adjust.
"""

import warnings

import keras
import numpy as np
import pytest

from keras_gradres.optimizers import GAL

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of what it imports.
    keras_hub = pytest.importorskip(
        "keras_hub", exc_type=ImportError, reason="needs the extra `hub`"
    )


def fitted(arguments):
    """The losses of two epochs, and the weights, with GAL or without (None)."""
    keras.utils.set_random_seed(0)
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64] * 4,
        stackwise_num_blocks=[1] * 4,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(64, 64, 3),
    )
    backbone = keras_hub.models.RetinaNetBackbone(
        encoder, min_level=3, max_level=5, use_p5=False, image_shape=(64, 64, 3)
    )
    model = keras_hub.models.RetinaNetObjectDetector(
        backbone, 2, bounding_box_format="xyxy", pre_logits_num_conv_layers=1
    )
    optimizer = keras.optimizers.SGD(1e-2)
    losses = {"box_loss": keras.losses.Huber(reduction="sum")}
    if arguments is not None:
        optimizer = GAL(optimizer, hidden_units=(64, 16), seed=0, **arguments)
        losses["box_loss"] = optimizer.loss(losses["box_loss"])
    model.compile(optimizer, **losses)
    x = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype("float32")
    boxes = np.array([[8, 8, 40, 40], [20, 10, 60, 50]], "float32")
    y = {
        "boxes": np.tile(boxes, (4, 1, 1)),
        "labels": np.tile(np.array([0.0, 1], "float32"), (4, 1)),
    }
    history = model.fit(x, y, batch_size=2, epochs=2, verbose=0, shuffle=False)
    return history.history, model


def test_retinanet():
    plain, _ = fitted(None)
    zero, _ = fitted({"alpha": 0.0})
    assert zero["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    adjusted, model = fitted({"alpha": 0.5, "policy": "always"})
    assert adjusted["loss"][1] != pytest.approx(plain["loss"][1], rel=1e-3)
    assert np.isfinite(adjusted["loss"]).all()
    # The four numbers of each anchor.
    assert model.optimizer.output_shapes[0][-1] == 4
    assert model.optimizer.diagnostics["accepted"] == pytest.approx(1)
