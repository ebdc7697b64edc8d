"""Conversion of the networks that people have: those of Keras, and of KerasHub.

One of them on each backend in tox, the others by hand. Of Keras's layers alone there is
a transformer at the end, which is quick.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import BACKENDS
from conversion_models import data, randomize, resnet
from keras import layers
from test_conversion import check_same, results

from keras_gradres import conversion_report, convert
from keras_gradres.layers import GradientResidual

WORKER = pathlib.Path(__file__).with_name("conversion_worker.py")
SEPARATE = pytest.mark.separate
# By backend, the network that is not left out for its time.
FIRST = {"torch": "ResNet50V2", "tensorflow": "EfficientNetB0", "jax": "MobileNetV2"}
# How many skip connections there are, and how many of them with a projection.
COUNTS = {
    "ResNet50": (16, 4),
    "ResNet50V2": (16, 7),
    "MobileNetV2": (10, 0),
    "EfficientNetB0": (9, 0),
    "ConvNeXtTiny": (18, 0),
    "NASNetMobile": (12, 0),
}


def application(name):
    if name == "NASNetMobile" and keras.backend.backend() == "torch":
        pytest.skip("Keras does not offer it on PyTorch.")
    return getattr(keras.applications, name)(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )


def cases():
    first = FIRST[keras.backend.backend()]
    return [
        pytest.param(n, marks=pytest.mark.slow if n == first else SEPARATE)
        for n in COUNTS
    ]


@pytest.mark.parametrize("name", cases())
def test_applications(name):
    model = application(name)
    randomize(model)
    report = conversion_report(model)
    shortcuts = sum(bool(s.shortcut) for s in report.converted)
    assert (len(report.converted), shortcuts) == COUNTS[name]
    assert report.step_flops > report.extra_flops(second_order=False) > 0
    converted = convert(model)
    found = [x for x in converted.layers if isinstance(x, GradientResidual)]
    assert len(found) == COUNTS[name][0]
    check_same(model, converted, 50 * data(model, 2))


@SEPARATE
def test_densenet_has_no_sums():
    model = application("DenseNet121")
    assert len(conversion_report(model)) == 0
    with pytest.raises(ValueError, match="No sum of the model can be converted, of 0"):
        convert(model)


@pytest.mark.slow
def test_loads_in_a_new_process_on_each_backend(tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("tensorflow")
    pytest.importorskip("torch")
    model = resnet()
    randomize(model)
    converted = convert(model)
    randomize(converted, 2)
    x, y = data(model), np.ones((4, 3), "float32")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    converted.save(tmp_path / "model.keras")
    expected = converted.predict(x, verbose=0)
    numbers = []
    for name in BACKENDS:
        run = subprocess.run(
            [sys.executable, str(WORKER), str(tmp_path)],
            env={**os.environ, "KERAS_BACKEND": name},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        numbers.append(dict(np.load(tmp_path / f"{name}.npz")))
    np.testing.assert_allclose(numbers[0]["predicted"], expected, rtol=0, atol=1e-4)
    for found in numbers[1:]:
        assert found.keys() == numbers[0].keys()
        for key, value in numbers[0].items():
            scale = max(1, np.abs(value).max())
            np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-4 * scale)


class TestKerasHub:
    """With random weights; nothing is downloaded."""

    def test_resnet(self):
        hub = pytest.importorskip("keras_hub", reason="needs the extra `hub`")
        model = hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[3],
            stackwise_num_filters=[64, 128],
            stackwise_num_blocks=[2, 2],
            stackwise_num_strides=[1, 2],
            block_type="basic_block",
            image_shape=(16, 16, 3),
        )
        randomize(model)
        report = conversion_report(model)
        assert len(report.converted) == len(report) == 4
        check_same(model, convert(model))

    def test_encoders_are_code(self):
        # What is summed in their layers is not seen, and the report says so.
        hub = pytest.importorskip("keras_hub", reason="needs the extra `hub`")
        vit = hub.models.ViTBackbone((16, 16, 3), (8, 8), 2, 2, 8, 16)
        bert = hub.models.BertBackbone(20, 2, 2, 8, 16, max_sequence_length=6)
        for model, kind in ((vit, "ViTEncoder"), (bert, "TransformerEncoder")):
            report = conversion_report(model)
            assert not report.converted
            assert any(kind in name for name in report.closed)
            with pytest.raises(ValueError, match=r"is code, and is not seen"):
                convert(model)


def test_transformer_of_keras_layers():
    x = keras.Input((6, 8))
    y = x
    for _ in range(2):
        h = layers.LayerNormalization()(y)
        y = layers.Add()([y, layers.MultiHeadAttention(2, 4)(h, h)])
        h = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(y))
        y = y + layers.Dropout(0.2, seed=1)(layers.Dense(8)(h))
    model = keras.Model(x, y)
    randomize(model)
    converted = convert(model)
    assert sum(isinstance(x, GradientResidual) for x in converted.layers) == 4
    check_same(model, convert(model, "identity"))
    # Keras computes attention in one piece, and in two where its scores are asked for,
    # as the gradient does: the same but for rounding.
    for training in (False, True):
        expected = results(model, data(model), model.variables, training)
        found = results(converted, data(model), model.variables, training)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
