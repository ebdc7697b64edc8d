"""The papers' networks: their sizes, their numbers, and what Keras offers."""

import functools

import keras
import numpy as np
import pytest
from helpers import at_once
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_gradres import models
from keras_gradres.layers import GradientResidual
from keras_gradres.models.resnet import PaddedShortcut
from keras_gradres.models.unet import CropTo
from keras_gradres.models.upsampling import RGB_MEAN, PixelShuffle

# Small ones of each, with the shape of an input and of the output.
SMALL = {
    "edsr": (
        lambda **kw: models.EDSR(2, blocks=2, filters=8, res_scale=0.1, **kw),
        (2, 7, 10, 3),
        (2, 14, 20, 3),
    ),
    "sedsr": (lambda **kw: models.SEDSR(3, **kw), (2, 5, 6, 3), (2, 15, 18, 3)),
    "srresnet": (
        lambda **kw: models.SRResNet(4, blocks=2, filters=8, **kw),
        (2, 6, 5, 3),
        (2, 24, 20, 3),
    ),
    "resnet": (
        lambda depth=20, **kw: models.ResNet(depth, classes=4, **kw),
        (4, 9, 8, 3),
        (4, 4),
    ),
    "unet": (lambda **kw: models.UNet(3, filters=4, **kw), (2, 9, 7, 3), (2, 9, 7, 3)),
    "mlp": (lambda **kw: models.MLP(3, units=8, **kw), (5, 3), (5, 1)),
}


def count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


# By hand: a convolution of size k from m to n channels has (k k m + 1) n parameters.
# EDSR: 1,792 at the start, 33 (36,928) in the body, 147,712 for each doubling (332,352
# for tripling), 1,731 at the end. The paper says 1.37, 1.55 and 1.52 million.
@pytest.mark.parametrize(
    ("scale", "parameters"), [(2, 1_369_859), (3, 1_554_499), (4, 1_517_571)]
)
def test_parameters_of_edsr(scale, parameters):
    assert count(models.EDSR(scale, residual="identity")) == parameters
    assert count(models.EDSR(scale)) == parameters + 16  # An alpha for each block.


# SRResNet: 15,616 + 64 at the start; 16 blocks of 2 (36,928 + 128) + 64; 36,928 + 128;
# twice 147,712 + 64; 15,555. ResNet: 3 3 3 16 + 32, and so on; the paper says 0.27,
# 0.46, 0.66, 0.85 and 1.7 million.
@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("SRResNet", 4, 1_550_659),
        ("ResNet", 20, 269_722),
        ("ResNet", 32, 464_154),
        ("ResNet", 44, 658_586),
        ("ResNet", 56, 853_018),
        ("ResNet", 110, 1_727_962),
    ],
)
def test_parameters_of_others(name, size, parameters):
    assert count(getattr(models, name)(size, residual="identity")) == parameters


def plain_edsr():
    """EDSR in Keras's own layers."""
    inputs = keras.Input((7, 10, 3))
    x = start = layers.Conv2D(8, 3, padding="same")(inputs - np.array(RGB_MEAN))
    for _ in range(2):
        y = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
        x = x + 0.1 * layers.Conv2D(8, 3, padding="same")(y)
    x = start + layers.Conv2D(8, 3, padding="same")(x)
    x = layers.Conv2D(32, 3, padding="same")(x)
    # For each pixel two colors for the row above, and two for the one below.
    rows = [ops.reshape(x[..., :16], (-1, 7, 20, 8))]
    rows.append(ops.reshape(x[..., 16:], (-1, 7, 20, 8)))
    x = ops.reshape(ops.stack(rows, axis=2), (-1, 14, 20, 8))
    x = layers.Conv2D(3, 3, padding="same")(x)
    return keras.Model(inputs, x + np.array(RGB_MEAN))


def plain_srresnet():
    def convolution(x, filters, size=3):
        return layers.Conv2D(filters, size, padding="same")(x)

    def prelu(x):
        return layers.PReLU(shared_axes=[1, 2])(x)

    inputs = keras.Input((None, None, 3))
    x = start = prelu(convolution(2 * inputs - 1, 8, 9))
    for _ in range(2):
        y = prelu(layers.BatchNormalization()(convolution(x, 8)))
        x = x + layers.BatchNormalization()(convolution(y, 8))
    x = start + layers.BatchNormalization()(convolution(x, 8))
    for _ in range(2):
        x = prelu(PixelShuffle(2)(convolution(x, 32)))
    return keras.Model(inputs, (convolution(x, 3, 9) + 1) / 2)


def plain_resnet():
    def convolution(x, filters, strides=1):
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((None, None, 3))
    x = ops.relu(convolution(inputs, 16))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            y = ops.relu(convolution(x, filters, strides))
            y = convolution(y, filters)
            if strides == 2:
                x = layers.MaxPooling2D(1, strides=2)(x)
                x = layers.Concatenate()([x, ops.zeros_like(x)])
            x = ops.relu(x + y)
    x = ops.mean(x, axis=(1, 2))
    return keras.Model(inputs, layers.Dense(4)(x))


@pytest.mark.parametrize(
    ("name", "make_plain"),
    [("edsr", plain_edsr), ("srresnet", plain_srresnet), ("resnet", plain_resnet)],
)
def test_identity_is_the_original(name, make_plain):
    make, shape, _ = SMALL[name]
    model, plain = make(residual="identity"), make_plain()
    rng = np.random.default_rng(0)
    weights = [
        rng.uniform(-0.3, 0.5, v.shape)
        if len(v.shape) > 1
        else rng.uniform(0.5, 1, v.shape)
        for v in plain.variables
    ]
    # Both list them layer by layer, but a `GradientResidual` is one layer.
    plain.set_weights(weights)
    assert [v.shape for v in trainable(model)] == [v.shape for v in trainable(plain)]
    for v, w in zip(trainable(model), trainable(plain), strict=True):
        v.assign(w.numpy())
    for v, w in zip(statistics(model), statistics(plain), strict=True):
        v.assign(w.numpy())
    x = rng.uniform(size=shape).astype("float32")
    expected = plain.predict(x, verbose=0)
    scale = np.abs(expected).max()
    found = model.predict(x, verbose=0)
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def trainable(model):
    return model.trainable_variables


def statistics(model):
    return [v for v in model.non_trainable_variables if "moving" in v.path]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("residual", ["none", "gradient", "scaled"])
def test_residual_is_that_of_all_blocks(name, residual):
    make, _, output_shape = SMALL[name]
    model = make(residual=residual)
    blocks = [m for m in model.layers if isinstance(m, GradientResidual)]
    assert blocks
    assert {block.residual for block in blocks} == {residual}
    assert model.output_shape[-1] == output_shape[-1]


@pytest.mark.parametrize("name", SMALL)
def test_trains_saves_and_loads(name, tmp_path):
    make, shape, output_shape = SMALL[name]
    # One block of each size, of which there are three in others.
    model = make(depth=8) if name == "resnet" else make()
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype("float32")
    y = rng.normal(size=output_shape).astype("float32")
    jit = keras.backend.backend() == "jax"
    model.compile("adam", "mse", jit_compile=jit)
    before = [np.array(v.numpy()) for v in model.trainable_variables]
    model.fit(x, y, verbose=0)
    changed = [
        not np.array_equal(old, v.numpy())
        for old, v in zip(before, model.trainable_variables, strict=True)
    ]
    # A convolution that is followed by a BatchNormalization needs no bias, and a
    # gradient of first order does not train what comes at a branch's end.
    assert np.mean(changed) > 0.9
    found = model.predict(x, verbose=0)
    assert found.shape == output_shape
    assert np.isfinite(found).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), found, rtol=1e-5, atol=1e-6
    )


def test_arguments_reach_the_blocks():
    model = models.SEDSR(2, alpha=-3.0, axis=None, second_order=True)
    for block in model.layers:
        if isinstance(block, GradientResidual):
            assert block.mix == pytest.approx(1 / (1 + np.exp(3.0)))
            assert block.axis is None
            assert block.second_order
    names = {"edsr", "sedsr", "srresnet", "resnet20", "unet", "mlp"}
    made = {SMALL[name][0]().name for name in SMALL}
    assert made == names


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(["edsr", "unet"]), st.integers(4, 13), st.integers(4, 13))
def test_any_size(name, height, width):
    model = ANY_SIZE[name]
    x = np.ones((1, height, width, 3), "float32")
    found = at_once(lambda: model(x)).shape
    expected = {
        "edsr": (1, 2 * height, 2 * width, 3),
        "unet": (1, height, width, 3),
    }
    assert tuple(found) == expected[name]


@pytest.fixture(scope="module", autouse=True)
def _models_of_any_size():
    for name in ("edsr", "unet"):
        ANY_SIZE[name] = SMALL[name][0]()


ANY_SIZE: dict = {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: models.EDSR(5),
            r"`scale` must be one of \(2, 3, 4\). Received: scale=5",
        ),
        (lambda: models.SRResNet(1), "`scale` must be one of"),
        (lambda: models.ResNet(18), "`depth` must be one of .* Received: depth=18"),
        (lambda: models.MLP(1, residual="skip"), "`residual` must be one of"),
        (lambda: models.MLP(1, blocks=0), "`blocks` must be a positive integer"),
        (lambda: models.EDSR(2, blocks=1.5), "`blocks` must be a positive integer"),
        (lambda: models.SRResNet(2, blocks=-1), "`blocks` must be a positive integer"),
        (lambda: models.UNet(2, levels=0), "`levels` must be a positive integer"),
        (lambda: models.EDSR(2, rgb_range=0), "`rgb_range` must be positive"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mixed_precision(dtype_policy):
    with dtype_policy("mixed_bfloat16"):
        for name in ("edsr", "unet"):
            make, shape, output_shape = SMALL[name]
            model = make()
            found = at_once(functools.partial(model, np.ones(shape, "float32")))
            assert tuple(found.shape) == output_shape
            assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"


def test_pixel_shuffle_by_hand():
    # One pixel with two colors in each of four places.
    x = np.arange(8).reshape(1, 1, 1, 8)
    expected = [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]
    np.testing.assert_array_equal(PixelShuffle(2)(x), expected)
    first = PixelShuffle(2, data_format="channels_first")
    found = first(x.reshape(1, 8, 1, 1))
    np.testing.assert_array_equal(found, np.moveaxis(np.array(expected), -1, 1))
    assert first.compute_output_shape((None, 8, None, 5)) == (None, 2, None, 10)


def test_resnet_has_one_activation_everywhere():
    # Linear activations and identity skips: an affine network, which one ReLU is not.
    model = models.ResNet(8, residual="identity", activation="linear")
    x, y = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 3)).astype("float32")
    fx, fy, f = (
        keras.ops.convert_to_numpy(model(z, training=False))
        for z in (x, y, 0.3 * x + 0.7 * y)
    )
    np.testing.assert_allclose(f, 0.3 * fx + 0.7 * fy, rtol=1e-4, atol=1e-5)


def test_pixel_shuffle_is_depth_to_space():
    # With "channels_last": in the other format Keras 3.15 has another order of channels
    # on TensorFlow than on JAX and PyTorch.
    if not hasattr(ops, "depth_to_space"):
        pytest.skip("this Keras has no keras.ops.depth_to_space")
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 18)).astype("float32")
    expected = ops.convert_to_numpy(ops.depth_to_space(x, 3))
    np.testing.assert_array_equal(ops.convert_to_numpy(PixelShuffle(3)(x)), expected)


def test_padded_shortcut_by_hand():
    x = np.arange(1, 10).reshape(1, 3, 3, 1).astype("float32")
    found = ops.convert_to_numpy(PaddedShortcut(3)(x))
    assert found.shape == (1, 2, 2, 3)
    np.testing.assert_array_equal(found[0, ..., 0], [[1, 3], [7, 9]])
    assert not found[..., 1:].any()
    moved = PaddedShortcut(3, axis=1)(np.moveaxis(x, -1, 1))
    np.testing.assert_array_equal(
        np.moveaxis(ops.convert_to_numpy(moved), 1, -1), found
    )


def test_crop():
    image = np.arange(32).reshape(1, 4, 4, 2)
    found = CropTo()([image, np.zeros((1, 3, 2, 5))])
    np.testing.assert_array_equal(found, image[:, :3, :2])
    found = CropTo(axis=1)([np.moveaxis(image, -1, 1), np.zeros((1, 5, 3, 2))])
    np.testing.assert_array_equal(found, np.moveaxis(image[:, :3, :2], -1, 1))


def test_rgb_range_of_edsr():
    # ReLU is homogeneous, and the biases are zero at the start: what is multiplied by
    # the range before the network is divided by it after.
    model, wide = (
        models.SEDSR(2, residual="identity", rgb_range=r) for r in (1.0, 255.0)
    )
    wide.set_weights(model.get_weights())
    x = np.random.default_rng(0).uniform(size=(1, 5, 5, 3)).astype("float32")
    within = ops.convert_to_numpy(wide.layers[1](x))
    np.testing.assert_allclose(within, 255 * (x - np.array(RGB_MEAN)), rtol=1e-4)
    found, expected = (m.predict(x, verbose=0) for m in (wide, model))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_channels_first_has_the_same_sizes():
    sizes = {name: count(make()) for name, (make, *_) in SMALL.items()}
    keras.config.set_image_data_format("channels_first")
    try:
        for name, (make, shape, output_shape) in SMALL.items():
            model = make()
            assert count(model) == sizes[name]
            if len(shape) == 4:
                assert model.input_shape == (None, 3, None, None)
                assert model.output_shape[1] == output_shape[-1]
    finally:
        keras.config.set_image_data_format("channels_last")
