"""Conversion: the same numbers, what is converted, what is not, and what it costs."""

import keras
import numpy as np
import pytest
from conversion_models import (
    CONVERTED,
    REFUSED,
    data,
    dense,
    encoder,
    gated,
    nested,
    randomize,
    resnet,
    several,
    shared,
    within,
)
from gal_cases import adjusted_bias_gradient, constant_network
from helpers import gradients, keras_before, slow_on, to_numpy
from keras import layers, ops

from keras_gradres import conversion_report, convert
from keras_gradres.layers import GradientResidual
from keras_gradres.optimizers import GAL


def results(model, x, variables, training):
    """Outputs, and the variables after the call, which are put back."""
    before = [np.array(v.numpy()) for v in variables]
    keras.utils.set_random_seed(5)
    outputs = keras.tree.map_structure(to_numpy, model(x, training=training))
    after = [np.array(v.numpy()) for v in variables]
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    return [*keras.tree.flatten(outputs), *after]


def check_same(model, converted, x=None):
    """Exactly: outputs, statistics and seeds, in training and in inference."""
    x = data(model) if x is None else x
    for training in (False, True, None):
        expected = results(model, x, model.variables, training)
        found = results(converted, x, model.variables, training)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    return expected


@pytest.mark.parametrize("make", CONVERTED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("residual", ["gain", "identity"])
def test_starts_exactly_as_the_model(make, residual):
    model = make()
    randomize(model)
    converted = convert(model, residual)
    check_same(model, converted)


@pytest.mark.parametrize("make", CONVERTED, ids=lambda make: make.__name__)
def test_finds_the_skip_connections(make):
    report = conversion_report(make())
    names = [s.name for s in report.converted]
    for found, name in zip(names, CONVERTED[make], strict=True):
        assert found == name or (name == "+" and "add" in found)


@pytest.mark.parametrize("reason", REFUSED)
def test_says_why_not(reason):
    model = REFUSED[reason]()
    (entry,) = conversion_report(model)
    assert not entry.converted
    assert reason in entry.reason
    with pytest.raises(ValueError, match="No sum of the model can be converted"):
        convert(model)
    with pytest.raises(ValueError, match=r"cannot be converted: .*Leave it out"):
        convert(model, layers=entry.name)


def test_gradient_of_gamma_by_hand():
    # y = x + gamma g + F(x): for the loss sum(y), d/d gamma_j = sum_n g_nj, with
    # g = p / |p|, p = W1 ((1 - tanh^2) * (W2 1)).
    model = dense()
    randomize(model)
    converted = convert(model)
    (layer,) = [x for x in converted.layers if isinstance(x, GradientResidual)]
    x = data(model)
    w1, b1, w2, _ = (w.astype("float64") for w in model.get_weights())
    p = ((1 - np.tanh(x @ w1 + b1) ** 2) * w2.sum(1)) @ w1.T
    g = p / np.linalg.norm(p, axis=1, keepdims=True)
    (found,) = gradients(lambda: ops.sum(converted(x, training=True)), [layer.gamma])
    np.testing.assert_allclose(found, g.sum(0), rtol=1e-4, atol=1e-5)
    assert np.abs(found).min() > 1e-3


def test_convex_by_hand():
    model = dense()
    randomize(model)
    x = data(model)
    w1, b1, w2, b2 = (w.astype("float64") for w in model.get_weights())
    hidden = np.tanh(x @ w1 + b1)
    p = ((1 - hidden**2) * w2.sum(1)) @ w1.T
    g = p / np.linalg.norm(p, axis=1, keepdims=True)
    s = 1 / (1 + np.exp(1.5))
    expected = hidden @ w2 + b2 + (1 - s) * x + s * g
    found = to_numpy(convert(model, "convex", alpha=-1.5)(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_branch_and_shortcut():
    plain, projected = conversion_report(resnet())
    assert plain.fork == "conv2d"
    assert plain.branch == (
        *("conv2d_1", "batch_normalization", "re_lu"),
        *("conv2d_2", "batch_normalization_1"),
    )
    assert plain.shortcut == ()
    assert projected.fork == "re_lu_1"
    assert len(projected.branch) == 5
    assert projected.shortcut == ("conv2d_5", "batch_normalization_4")
    converted = convert(resnet())
    assert isinstance(converted.get_layer("plain"), GradientResidual)
    assert converted.get_layer("projected").shortcut is not None
    # What follows the sum stays.
    assert [type(x) for x in converted.layers[-3:-1]] == [
        layers.ReLU,
        layers.GlobalAveragePooling2D,
    ]


def test_arguments_reach_the_layers():
    layer = convert(resnet(), "convex", False, alpha=-2.0, normalize=False).get_layer(
        "plain"
    )
    assert layer.residual == "convex"
    assert not layer.second_order
    assert not layer.normalize
    assert convert(resnet()).get_layer("plain").second_order
    for name in ("branch", "shortcut", "activation", "name", "dtype", "skip_first"):
        with pytest.raises(ValueError, match=f"come from the model.*{name}"):
            convert(resnet(), **{name: None})
    with pytest.raises(ValueError, match="`residual` must be one of"):
        convert(resnet(), "gian")


def test_weights_are_shared():
    model = resnet()
    converted = convert(model)
    assert {id(v) for v in model.weights} < {id(v) for v in converted.weights}
    new = [v for v in converted.weights if not any(v is w for w in model.weights)]
    assert [v.name for v in new] == ["gamma", "gamma"]
    assert [v.shape for v in new] == [(4,), (4,)]
    assert not converted.compiled


def test_report_leaves_the_model_alone():
    model = gated()
    config, before = model.get_config(), [np.array(v.numpy()) for v in model.variables]
    conversion_report(model)
    convert(model)
    assert model.get_config() == config
    for v, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), value)


def test_names():
    assert conversion_report(nested())["inner/sum"].converted
    for names in ("sum", "inner/sum", ["sum"]):
        converted = convert(nested(), layers=names)
        inner = converted.get_layer("inner")
        assert isinstance(inner.get_layer("sum"), GradientResidual)
        assert isinstance(converted.get_layer("outer"), layers.Add)
    with pytest.raises(ValueError, match="'smu' not among"):
        convert(nested(), layers=["smu"])


def test_predicate():
    model = resnet()
    report = conversion_report(model, layers=lambda s: not s.shortcut)
    assert [s.name for s in report.converted] == ["plain"]
    assert report["projected"].reason == "it is not chosen by `layers`"
    converted = convert(model, layers=lambda s: not s.shortcut)
    assert isinstance(converted.get_layer("projected"), layers.Add)
    with pytest.raises(ValueError, match=r"chosen by `layers`.*conversion_report"):
        convert(model, layers=lambda s: False)


def test_a_sum_is_left_where_it_cannot_be_converted():
    x = keras.Input((4,))
    y = layers.Add(name="parallel")(
        [layers.Dense(4, "relu")(x), layers.Dense(4, "relu")(x)]
    )
    y = layers.Add(name="skip")([y, layers.Dense(4, "relu")(y)])
    model = keras.Model(x, y)
    converted = convert(model)
    assert isinstance(converted.get_layer("parallel"), layers.Add)
    assert isinstance(converted.get_layer("skip"), GradientResidual)
    check_same(model, converted)


class Holder(keras.Model):
    def __init__(self):
        super().__init__()
        self.backbone = resnet()
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.backbone(x) + 0 * self.backbone(x))


def test_code_is_not_rewritten():
    model = Holder()
    with pytest.raises(TypeError, match=r"holds, \['functional.*as in `model\.b"):
        convert(model)
    report = conversion_report(model)
    assert not report.converted
    name = f"{model.backbone.name}/plain"
    assert "whose `call` is code" in report[name].reason
    assert report.closed == (f"{model.name} (of type Holder)",)
    # What the message says to do works.
    model.backbone = convert(model.backbone)
    x = data(model.backbone)
    model(x)
    assert isinstance(model.backbone.get_layer("plain"), GradientResidual)
    with pytest.raises(ValueError, match="must be built"):
        convert(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match="must be a Keras model"):
        convert(layers.Dense(2))


def test_sequential():
    model = keras.Sequential([keras.Input((4,)), dense(), layers.Dense(2)])
    randomize(model)
    converted = convert(model)
    assert isinstance(converted, keras.Sequential)
    check_same(model, converted, np.ones((3, 4), "float32"))


def test_frozen_stays_frozen():
    model = nested()
    model.get_layer("inner").trainable = False
    converted = convert(model)
    assert not converted.get_layer("inner").trainable_variables
    assert converted.get_layer("outer").trainable_variables


def test_cost_of_dense_by_hand():
    # A step of Dense 4 -> 6 and 6 -> 4 takes 3 x 2 (24 + 24) = 288 operations. The
    # second is the affine tail; pulling back through the first takes 2 x 24 = 48.
    report = conversion_report(dense())
    assert report.step_flops == 288
    (entry,) = report
    assert entry.flops == 48
    assert entry.extra_flops(second_order=False) == 48
    assert entry.extra_flops() == report.extra_flops() == 144


def test_cost_of_convolutions_by_hand():
    # 6 x 6 positions. Forward: 3 -> 4 channels, 3 x 3: 2 x 108 x 36 = 7776, twice 4 ->
    # 4: 2 x 2 x 144 x 36 = 20736; at 3 x 3 positions 4 -> 6: 2 x 216 x 9 = 3888, 6 ->
    # 6: 2 x 324 x 9 = 5832, projection: 2 x 24 x 9 = 432; the head: 2 x 18 = 36.
    report = conversion_report(resnet())
    assert report.step_flops == 3 * (7776 + 20736 + 3888 + 5832 + 432 + 36)
    # The second convolution is the affine tail: BatchNormalization trails behind it.
    assert [s.flops for s in report] == [20736 // 2, 3888]
    assert report.extra_flops() == 3 * (10368 + 3888)


def test_cost_of_attention_by_hand():
    # T = 5, 2 heads of 3: projections 3 x 2 x 8 x 6 x 5 = 1440 and 2 x 6 x 8 x 5 = 480,
    # products 2 x (2 x 5 x 5 x 6) = 600.
    x = keras.Input((5, 8))
    y = layers.MultiHeadAttention(2, 3)(x, x)
    report = conversion_report(keras.Model(x, layers.Add()([x, y])))
    assert report.step_flops == 3 * (1440 + 480 + 600)


def test_cost_of_unknown_sizes():
    x = keras.Input((None, None, 3))
    h = layers.Conv2D(3, 3, padding="same", activation="relu")(x)
    report = conversion_report(keras.Model(x, layers.Add()([x, h])))
    assert report.step_flops is None
    assert report["add"].converted
    assert report.extra_flops() is None
    assert "unknown" in str(report)


def test_report_is_a_table():
    text = str(conversion_report(resnet()))
    assert "2 of 2 sums are converted." in text
    assert "plain" in text
    assert "conv2d_5, batch_normalization_4" in text
    assert "10.4 k" in text
    assert "In all 14.3 k in first order, 42.8 k in second" in text
    text = str(conversion_report(within(), layers="out"))
    assert "in: it is not chosen by `layers`" in text


@pytest.mark.parametrize("make", [resnet, nested, shared, several, encoder])
def test_save_and_load(make, tmp_path):
    model = make()
    randomize(model)
    converted = convert(model)
    randomize(converted, 3)
    converted.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = data(model)
    pairs = zip(
        keras.tree.flatten(converted(x, training=False)),
        keras.tree.flatten(loaded(x, training=False)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(to_numpy(b), to_numpy(a), rtol=1e-5, atol=1e-6)
    # Shared layers are shared still.
    assert len(loaded.weights) == len(converted.weights)


# What JAX then compiles is each operation by itself.
@pytest.mark.parametrize(
    "jit_compile",
    [
        pytest.param(False, marks=slow_on("jax")),
        pytest.param(True, marks=slow_on("torch")),
    ],
)
def test_fit(jit_compile):
    if jit_compile and keras.backend.backend() == "torch" and keras_before(3, 15):
        pytest.skip("older releases of Keras compile no convolution of unknown size")
    model = resnet()
    randomize(model)
    converted = convert(model)
    x, y = data(model, 8), np.arange(8) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    converted.compile("sgd", loss, jit_compile=jit_compile)
    history = converted.fit(x, y, batch_size=8, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for name in ("plain", "projected"):
        assert np.abs(converted.get_layer(name).gamma.numpy()).max() > 1e-4


def test_gal_on_top():
    model = resnet()
    randomize(model)
    converted = convert(model)
    gal = GAL(keras.optimizers.SGD(0.1), alpha=0.5, network=constant_network(3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    converted.compile(gal, gal.loss(loss))
    x, y = data(model, 8), np.arange(8) % 3
    logits = to_numpy(model(x, training=True))
    bias = converted.layers[-1].bias
    start = bias.numpy()
    converted.fit(x, y, verbose=0)
    assert gal.diagnostics["accepted"] == 1
    # The gain starts at zero, so that the logits are those of the model.
    expected = start - 0.1 * adjusted_bias_gradient(logits, y, 0.5)
    np.testing.assert_allclose(bias.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(converted.get_layer("plain").gamma.numpy()).max() > 1e-4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy, dtype_policy):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX computes in float32 unless it is told otherwise at its start.")
    with dtype_policy(policy):
        x = keras.Input((4,))
        h = layers.Dense(4)(x)
        models = [resnet()]
        if policy != "float64":  # Keras takes a sum of float64 with + for float32.
            models.append(keras.Model(x, h + layers.Dense(4, activation="relu")(h)))
    # The policy is that of the model, not that of the moment.
    pairs = [(model, convert(model)) for model in models]
    for a, b in pairs:
        randomize(a)
        check_same(a, b)
    layer = pairs[0][1].get_layer("plain")
    assert layer.compute_dtype == keras.DTypePolicy(policy).compute_dtype
    assert layer.gamma.dtype == keras.DTypePolicy(policy).variable_dtype


def test_channels_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no such convolutions on the CPU.")
    image = keras.Input((4, 5, 5))
    h = layers.Conv2D(
        4, 3, padding="same", activation="relu", data_format="channels_first"
    )(image)
    model = keras.Model(image, layers.Add(name="sum")([image, h]))
    layer = convert(model).get_layer("sum")
    assert layer.axis == 1
    assert layer.gamma.shape == (4,)
