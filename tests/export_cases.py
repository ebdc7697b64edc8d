"""The models and the formats of the export tests, and what is expected of each pair.

A format is a function that exports a model into a folder and returns what runs the
artifact in the format's own runtime, on NumPy arrays.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_gradres import models
from keras_gradres.layers import GradientResidual

BACKEND = keras.backend.backend()


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of gradient residuals.

    Attributes:
        make: Called with the arguments of `GradientResidual`, it returns the model.
        traced: The shape of an input that a tracer may look at.
        other: The shape of an input that it has not seen.
    """

    make: Callable
    traced: tuple
    other: tuple


def _mlp(activation, **kwargs):
    return models.MLP(3, blocks=2, units=8, activation=activation, **kwargs)


def _edsr(**kwargs):
    return models.EDSR(2, blocks=2, filters=8, **kwargs)


def _conv(**kwargs):
    return layers.Conv2D(6, 3, padding="same", **kwargs)


def _conv_bn(**kwargs):
    inputs = x = keras.Input((None, None, 3))
    x = _conv()(x)
    for _ in range(2):
        branch = [
            _conv(),
            layers.BatchNormalization(),
            layers.ReLU(),
            _conv(),
            layers.BatchNormalization(),
        ]
        x = GradientResidual(branch, **kwargs)(x)
    return keras.Model(inputs, x)


def _attention(**kwargs):
    inputs = keras.Input((None, 8))
    h = layers.LayerNormalization()(inputs)
    branch = keras.Model(inputs, layers.MultiHeadAttention(2, 4, **({"flash_attention": False} if __import__("os").environ.get("NF") else {}))(h, h))
    x = keras.Input((None, 8))
    y = GradientResidual(branch, **kwargs)(x)
    return keras.Model(x, layers.Dense(3)(y))


MODELS = {
    "MLP, tanh": Case(lambda **kwargs: _mlp("tanh", **kwargs), (2, 3), (5, 3)),
    "MLP, GELU": Case(lambda **kwargs: _mlp("gelu", **kwargs), (2, 3), (5, 3)),
    "EDSR": Case(_edsr, (2, 6, 7, 3), (3, 9, 5, 3)),
    "conv, BN, ReLU": Case(_conv_bn, (2, 6, 7, 3), (3, 9, 5, 3)),
    "attention": Case(_attention, (2, 4, 8), (3, 6, 8)),
}
PLAIN = "plain Keras"
VARIANTS = {
    "first order": {"residual": "convex"},
    "second order": {"residual": "convex", "second_order": True},
}


def make(name, variant):
    """The model `name` with weights and moving statistics of ordinary size."""
    case = MODELS[name]
    if variant == PLAIN:
        model = plain(case.make(residual="identity"))
    else:
        model = case.make(**VARIANTS[variant])
    rng = np.random.default_rng(0)
    for v in model.weights:
        scale = np.sqrt(1 / np.prod(v.shape[:-1])) if len(v.shape) > 1 else 0.3
        value = rng.normal(scale=scale, size=v.shape)
        v.assign(np.abs(value) + 0.5 if "variance" in v.path else value)
    model(inputs(case.traced))  # Keras exports only models that were called.
    return model


def inputs(shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def plain(model):
    """`model` with `x + branch(x)` of Keras's own layers for each identity residual."""

    def clone(layer):
        if not isinstance(layer, GradientResidual):
            return layer.__class__.from_config(layer.get_config())
        # PyTorch knows parameters by their path, so that no two may be the same.
        def renamed(inner):
            config = {**inner.get_config(), "name": f"{layer.name}_{inner.name}"}
            return inner.__class__.from_config(config)

        x = keras.Input(layer.input.shape[1:])
        branch = keras.models.clone_model(layer.branch, clone_function=renamed)
        return keras.Model(x, layers.Add()([x, branch(x)]))

    return keras.models.clone_model(model, clone_function=clone)


# The formats ---------------------------------------------------------------------


def saved_model(model, folder, x):
    import tensorflow as tf

    model.export(folder / "saved", format="tf_saved_model", verbose=False)
    artifact = tf.saved_model.load(folder / "saved")
    return lambda x: artifact.serve(x).numpy()


def onnx(model, folder, x):
    import onnxruntime

    path = str(folder / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def litert(model, folder, x):
    from ai_edge_litert.interpreter import Interpreter

    path = str(folder / "model.tflite")
    model.export(path, format="litert", verbose=False)
    interpreter = Interpreter(path)

    def run(x):
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


def openvino(model, folder, x):
    import openvino

    path = str(folder / "model.xml")
    model.export(path, format="openvino", verbose=False)
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", precision)
    return lambda x: compiled(x)[0]


def keras_torch(model, folder, x):
    path = str(folder / "model.pt2")
    model.export(path, format="torch", verbose=False, dynamic_shapes=_unknown(model))
    return _load_exported(path)


def torch_export(model, folder, x, strict=False):
    import torch

    path = str(folder / "model.pt2")
    exported = torch.export.export(
        model,
        (torch.from_numpy(x),),
        # All that is positional is one argument of Keras's `forward`.
        dynamic_shapes=[(_unknown(model),)],
        strict=strict,
    )
    torch.export.save(exported, path)
    return _load_exported(path)


def torch_export_strict(model, folder, x):
    return torch_export(model, folder, x, strict=True)


def torch_jit_trace(model, folder, x):
    import torch

    path = str(folder / "model.pt")
    traced = torch.jit.trace(model.eval(), torch.from_numpy(x))
    torch.jit.save(traced, path)
    loaded = torch.jit.load(path)
    return lambda x: loaded(torch.from_numpy(x)).detach().numpy()


def _load_exported(path):
    import torch

    module = torch.export.load(path).module()
    return lambda x: module(torch.from_numpy(x)).detach().numpy()


def _unknown(model):
    import torch

    shape = model.inputs[0].shape
    return {i: torch.export.Dim.DYNAMIC for i, size in enumerate(shape) if size is None}


FORMATS = {
    "SavedModel": saved_model,
    "ONNX": onnx,
    "LiteRT": litert,
    "OpenVINO": openvino,
}
if BACKEND == "torch":
    FORMATS |= {
        'format="torch"': keras_torch,
        "torch.export": torch_export,
        "torch.export, strict": torch_export_strict,
        "torch.jit.trace": torch_jit_trace,
    }
