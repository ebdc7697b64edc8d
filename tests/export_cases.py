"""The formats of the export tests, and what is expected of each with each model.

A format is a function that exports a model into a folder and returns what runs the
artifact in the format's own runtime, on NumPy arrays. Its results are those of the
model, but where `LIMITS` says why plain Keras cannot.

    python export_cases.py ../docs/exports.md      # writes the table
"""

import dataclasses
import pathlib
import sys

import keras
from export_models import MODELS

BACKEND = keras.backend.backend()


# The formats: (model, folder, x, sizes) -> run. `sizes` are those of the inputs where
# an export needs them known, else `None`.


def saved_model(model, folder, x, sizes):
    import tensorflow as tf

    path = str(folder / "saved")
    model.export(path, format="tf_saved_model", verbose=False, **_signature(sizes))
    artifact = tf.saved_model.load(path)
    return lambda x: artifact.serve(x).numpy()


def onnx(model, folder, x, sizes):
    import onnxruntime

    path = str(folder / "model.onnx")
    model.export(path, format="onnx", verbose=False, **_signature(sizes))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def litert(model, folder, x, sizes):
    from ai_edge_litert.interpreter import Interpreter

    path = str(folder / "model.tflite")
    model.export(path, format="litert", verbose=False, **_signature(sizes))
    interpreter = Interpreter(path)

    def run(x):
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


def openvino(model, folder, x, sizes):
    import openvino

    path = str(folder / "model.xml")
    model.export(path, format="openvino", verbose=False, **_signature(sizes))
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", precision)
    return lambda x: compiled(x)[0]


def keras_torch(model, folder, x, sizes):
    path = str(folder / "model.pt2")
    unknown = None if sizes else _unknown(model)
    model.export(
        path,
        format="torch",
        verbose=False,
        dynamic_shapes=unknown,
        **_signature(sizes),
    )
    return _load_exported(path)


def torch_export(model, folder, x, sizes, strict=False):
    import torch

    path = str(folder / "model.pt2")
    exported = torch.export.export(
        model,
        (torch.from_numpy(x),),
        # All that is positional is one argument of Keras's `forward`.
        dynamic_shapes=None if sizes else [(_unknown(model),)],
        strict=strict,
    )
    torch.export.save(exported, path)
    return _load_exported(path)


def torch_export_strict(model, folder, x, sizes):
    return torch_export(model, folder, x, sizes, strict=True)


def torch_jit_trace(model, folder, x, sizes):
    import torch

    path = str(folder / "model.pt")
    traced = torch.jit.trace(model.eval(), torch.from_numpy(x))
    torch.jit.save(traced, path)
    loaded = torch.jit.load(path)
    return lambda x: loaded(torch.from_numpy(x)).detach().numpy()


def _signature(sizes):
    if sizes is None:
        return {}
    spec = keras.InputSpec(shape=sizes, dtype="float32", name="x")
    return {"input_signature": [spec]}


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
    'format="torch"': keras_torch,
    "torch.export": torch_export,
    "torch.export, strict": torch_export_strict,
    "torch.jit.trace": torch_jit_trace,
}
OF_TORCH = list(FORMATS)[4:]
# What each needs, beside the backend, to export and to run.
PACKAGES = {
    "SavedModel": ["tensorflow"],
    "ONNX": ["onnxruntime"],
    "LiteRT": ["ai_edge_litert"],
    "OpenVINO": ["openvino"],
}
CONVERTERS = {
    ("tensorflow", "ONNX"): "tf2onnx",
    ("jax", "ONNX"): "jax2onnx",
    ("jax", "OpenVINO"): "tensorflow",
    ("torch", "ONNX"): "onnxscript",
    ("torch", "LiteRT"): "litert_torch",
}

# What to expect of each pair ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Limit:
    """Why plain Keras cannot.

    Attributes:
        why: For the readers of the table.
        error: A regular expression of what is raised.
        known_sizes: Whether it can if the sizes of the inputs are known.
    """

    why: str
    error: str
    known_sizes: bool = False


BACKENDS = ("tensorflow", "jax", "torch")
_TRACED_AT_1 = Limit(
    "Keras traces PyTorch for LiteRT with 1 for each unknown size, which stays in it",
    "failed to (reshape|prepare)",
    known_sizes=True,
)
_NEVER = {
    ("jax", "LiteRT"): Limit(
        "Keras exports to LiteRT from TensorFlow and PyTorch only",
        "LiteRT export requires TensorFlow or PyTorch",
    ),
    ("jax", "OpenVINO"): Limit(
        "OpenVINO has no rule for `XlaCallModule`, which this JAX makes of a model",
        "XlaCallModule",
    ),
    ("torch", "SavedModel"): Limit(
        "Keras gives PyTorch a structure of unknown sizes that it refuses, and needs "
        "torch_xla, which has no release for this PyTorch",
        "mismatch between the structure of `inputs` and `dynamic_shapes`",
    ),
}
# (backend, format, model): for all others, the artifact equals `predict`.
LIMITS = {
    (backend, form, name): limit
    for (backend, form), limit in _NEVER.items()
    for name in MODELS
} | {
    ("tensorflow", "ONNX", "MLP, GELU"): Limit(
        "tf2onnx leaves `Erfc`, of which TensorFlow makes GELU, as it is",
        "No Op registered for Erfc",
    ),
    ("jax", "ONNX", "EDSR"): Limit(
        "jax2onnx cannot multiply unknown sizes, as the pixel shuffle does "
        "(`keras.ops.depth_to_space` neither)",
        "reshape with symbolic dimensions",
        known_sizes=True,
    ),
    ("torch", "ONNX", "attention"): Limit(
        "the exporter for unknown sizes cannot normalize a layer of unknown length",
        "because it is not constant",
        known_sizes=True,
    ),
    ("torch", "LiteRT", "EDSR"): _TRACED_AT_1,
    ("torch", "LiteRT", "attention"): _TRACED_AT_1,
    ("torch", "torch.export, strict", "EDSR"): Limit(
        "Keras's Rescaling asks whether TensorFlow is running, which is not traced",
        "function marked as skipped",
    ),
    ("torch", "torch.export, strict", "attention"): Limit(
        "Keras asks PyTorch which attention kernel to take, which is not traced",
        "function marked as skipped",
    ),
}


def pairs(backend=BACKEND):
    """The pairs (format, model) of a backend."""
    formats = [f for f in FORMATS if backend == "torch" or f not in OF_TORCH]
    return [(form, name) for form in formats for name in MODELS]


def rows_and_reasons():
    """The table, in Markdown, and the reasons that its numbers stand for."""
    reasons: list = []

    def cell(backend, form, name):
        limit = LIMITS.get((backend, form, name))
        if limit is None:
            return "E"
        if limit.why not in reasons:
            reasons.append(limit.why)
        number = reasons.index(limit.why) + 1
        return f"S ({number})" if limit.known_sizes else f"x ({number})"

    lines = [
        f"| backend | format | {' | '.join(MODELS)} |",
        f"|---|---|{'---|' * len(MODELS)}",
    ]
    for backend in BACKENDS:
        for form in dict.fromkeys(form for form, _ in pairs(backend)):
            cells = [cell(backend, form, name) for name in MODELS]
            lines.append(f"| {backend} | {form} | {' | '.join(cells)} |")
    return "\n".join(lines), [f"{i}. {why}." for i, why in enumerate(reasons, 1)]


def page():
    """The page of the docs, in Markdown."""
    rows, reasons = rows_and_reasons()
    return PAGE.format(table=rows, reasons="\n".join(reasons))


PAGE = """# Exports

Which artifact equals `model.predict`, to 1e-5, when it is run in the runtime of its
format. Written by `tests/export_cases.py`; `tests/test_export.py` exports and runs each
pair, first in plain Keras, which says what Keras can, then with gradient residuals of
first and of second order, which must do the same. It holds for Keras 3.15; older
releases export to less.

- E: equal, also for sizes of the batch, the image and the sequence that no tracer saw.
- S: equal if the export is given known sizes (`input_signature`).
- x: plain Keras cannot. The numbers say why.

{table}

{reasons}

These are models whose branches have a closed form. A branch that is differentiated
automatically exports to SavedModel only, from TensorFlow and JAX; anything else raises
before the converter does, and names the layer. `GradientResidual.parts` shows which
layers those are.
"""


if __name__ == "__main__":
    pathlib.Path(sys.argv[1]).write_text(page())
