"""What a layer without closed form does where a model is exported: it raises.

Keras tells no layer that it is being exported. But `keras.Model.export` is then one of
the functions that are running, and its argument `format` says to what. PyTorch has its
own tracers, and says so itself.
"""

import inspect

import keras

from keras_gradres import backend

# Formats that take whatever the framework can run.
_ANY_OPERATION = ("tf_saved_model",)
# Exporters of a framework itself.
_TRACERS = ("torch.export", "torch.jit.trace")


def check(name: str, kind: type) -> None:
    """Raises if a model is being exported in which a layer of this name and class is
    differentiated automatically.
    """
    tracer = backend.tracer()
    form = tracer if tracer in _TRACERS else target()
    if form is None or form in _ANY_OPERATION:
        return
    raise NotImplementedError(
        f"Layer '{name}' (of type {kind.__name__}) in the branch of a "
        "gradient residual has no pullback rule and is differentiated automatically, "
        "which cannot be exported. Register a rule for it, or use another layer. "
        f"Received: format={form}"
    )


def target() -> str | None:
    """The format that `keras.Model.export` is exporting to, or `None`."""
    code = inspect.unwrap(keras.Model.export).__code__
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is code:
            return frame.f_locals["format"]
        frame = frame.f_back
    return None
