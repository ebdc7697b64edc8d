"""Refuses to export what cannot be exported: automatic differentiation.

A layer that has no pullback rule is differentiated automatically, which few formats can
represent. So it raises while a model is exported to another format.

Keras tells no layer that it is being exported. But `keras.Model.export` is then one of
the functions on the call stack, and its argument `format` names the format. The tracers
of PyTorch say themselves that they are running.
"""

import inspect

import keras

from keras_gradres import backend

# Formats that can represent every operation of the framework.
_ANY_OPERATION = ("tf_saved_model",)
# Exporters that belong to a framework, and are used without `keras.Model.export`.
_TRACERS = ("torch.export", "torch.jit.trace")


def check(name: str, kind: type) -> None:
    """Raises if a model is being exported to a format that a layer prevents.

    Args:
        name: The name of a layer that is differentiated automatically.
        kind: Its class.
    """
    tracer = backend.tracer()
    target_format = tracer if tracer in _TRACERS else target()
    if target_format is None or target_format in _ANY_OPERATION:
        return
    raise NotImplementedError(
        f"Layer '{name}' (of type {kind.__name__}) in the branch of a "
        "gradient residual has no pullback rule and is differentiated automatically, "
        "which cannot be exported. Register a rule for it, or use another layer. "
        f"Received: format={target_format}"
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
