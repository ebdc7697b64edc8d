"""Exported models, run in the runtime of their format, equal `model.predict`.

Each export is tried in plain Keras first, to tell our failures from Keras's own.
"""

import export_cases
import export_models
import keras
import numpy as np
import pytest
from export_cases import BACKEND, FORMATS, LIMITS
from export_models import MODELS, PLAIN, VARIANTS
from helpers import ROOT, keras_before, require_extra, slow_on
from keras import layers, ops

from keras_gradres.layers import GradientResidual

DOCS = ROOT / "docs"
if keras_before(3, 15):
    pytest.skip("older releases of Keras export to less", allow_module_level=True)
# Converters warn of what they are themselves made of.
pytestmark = pytest.mark.filterwarnings("ignore")


def _separate(form, name):
    if form == "torch.export, strict" and "conv" in name:
        return True
    return BACKEND == "jax" or name == "EDSR" or form in ("LiteRT", "OpenVINO")


def _marks(form, name, variant="second order"):
    if _separate(form, name):
        return [pytest.mark.separate]
    # One model is enough to try each form, and strict traces take longer.
    quick = (name, variant) == ("MLP, tanh", "second order") and "strict" not in form
    return [] if quick else [pytest.mark.slow]


def _params(pairs):
    return [pytest.param(*p, marks=_marks(*p)) for p in pairs]


def _need(form):
    packages = list(export_cases.PACKAGES.get(form, []))
    packages.append(export_cases.CONVERTERS.get((BACKEND, form), "numpy"))
    require_extra("export", *packages)


def _check(model, form, folder, shapes, sizes=None):
    traced, *_ = shapes
    inputs = [export_models.inputs(shape) for shape in shapes]
    expected = [model.predict(x, verbose=0) for x in inputs]
    run = FORMATS[form](model, folder, export_models.inputs(traced), sizes)
    for x, y in zip(inputs, expected, strict=True):
        np.testing.assert_allclose(run(x), y, rtol=0, atol=1e-5)


def _check_as_far_as_keras_can(form, name, variant, folder):
    case, limit = MODELS[name], LIMITS.get((BACKEND, form, name))
    model = export_models.make(name, variant)
    if limit is None:
        _check(model, form, folder, [case.traced, case.other])
    else:
        _check(model, form, folder, [case.traced], sizes=case.traced)


@pytest.mark.parametrize(("form", "name"), _params(export_cases.pairs()))
def test_what_plain_keras_can(form, name, tmp_path):
    limit = LIMITS.get((BACKEND, form, name))
    if limit is not None:
        if "requires" not in limit.error:
            _need(form)
        case = MODELS[name]
        with pytest.raises(Exception, match=limit.error):
            _check(
                export_models.make(name, PLAIN),
                form,
                tmp_path,
                [case.traced, case.other],
            )
        if not limit.known_sizes:
            return
    _need(form)
    _check_as_far_as_keras_can(form, name, PLAIN, tmp_path)


@pytest.mark.parametrize(
    ("form", "name", "variant"),
    _params(
        (form, name, variant)
        for form, name in export_cases.pairs()
        for variant in VARIANTS
        if getattr(LIMITS.get((BACKEND, form, name)), "known_sizes", True)
    ),
)
def test_gradient_residuals_where_plain_keras_can(form, name, variant, tmp_path):
    _need(form)
    _check_as_far_as_keras_can(form, name, variant, tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_the_control_is_the_identity_residual(name):
    """Where the plain model differed, it would say nothing about ours."""
    ours = MODELS[name].make(residual="identity")
    control = export_models.make(name, PLAIN)
    assert not any(isinstance(layer, GradientResidual) for layer in control.layers)
    ours.set_weights(control.get_weights())
    x = export_models.inputs(MODELS[name].other)
    np.testing.assert_allclose(
        ours.predict(x, verbose=0), control.predict(x, verbose=0), rtol=0, atol=1e-6
    )


def _fallback(branch):
    x = keras.Input((5, 4))
    model = keras.Model(x, GradientResidual(branch, residual="convex")(x))
    model(export_models.inputs((2, 5, 4)))
    return model


FALLBACKS = {
    "LSTM": lambda: layers.LSTM(4, return_sequences=True, name="the_cause"),
    "Lambda": lambda: [
        layers.Dense(4, activation="tanh"),
        layers.Lambda(ops.sin, name="the_cause"),
    ],
}


each_fallback = pytest.mark.parametrize(
    "name", [pytest.param("LSTM", marks=slow_on("tensorflow")), "Lambda"]
)


@pytest.mark.parametrize(
    "form", dict.fromkeys(form for form, _ in export_cases.pairs())
)
@each_fallback
def test_an_export_that_cannot_be_names_the_layer(form, name, tmp_path):
    limit = LIMITS.get((BACKEND, form, "MLP, tanh"))
    if limit is not None:
        pytest.skip(f"Keras itself: {limit.why}")
    _need(form)
    model, shape = _fallback(FALLBACKS[name]()), (2, 5, 4)
    if form == "SavedModel":
        _check(model, form, tmp_path, [shape, (3, 5, 4)])
        return
    with pytest.raises(Exception, match=r"'the_cause'.*automatic"):
        _check(model, form, tmp_path, [shape])


@each_fallback
def test_a_fallback_still_predicts_and_trains_after_a_failed_export(name, tmp_path):
    model = _fallback(FALLBACKS[name]())
    x = export_models.inputs((2, 5, 4))
    before = model.predict(x, verbose=0)
    with pytest.raises(Exception):  # noqa: B017, PT011
        model.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    assert np.abs(model.predict(x, verbose=0) - before).max() > 1e-4


def test_the_docs_have_the_table_of_the_tests():
    """Else run `python export_cases.py ../docs/exports.md`, and copy the table."""
    assert (DOCS / "exports.md").read_text() == export_cases.page()
    assert export_cases.rows_and_reasons()[0] in (DOCS.parent / "README.md").read_text()
