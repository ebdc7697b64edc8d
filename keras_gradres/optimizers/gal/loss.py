"""The loss that a `GAL` adjusts the gradient of.

An `AdjustedLoss` is another loss, with a gradient hook at the output z and another at
the unreduced losses. In the forward pass it tells its GAL of the call; in the backward
pass, if GAL has taken the call for a step, the hooks hand it the gradient at z, and
propagate what it returns.

    forward:   z -> [hook] -> loss -> [hook] -> weights, masks, mean -> ... -> number
    backward:  z <- [GAL ] <-      <- [keep] <-                      <- ... <- 1

The loss and its GAL hold each other weakly: Keras saves what it finds by walking over
attributes, and the state of the optimizer is to be found in one place.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gradres import backend

CROSSENTROPY = ("crossentropy", "ce")  # What `compile` takes beside the names.


class Call:
    """One call of an `AdjustedLoss`.

    Attributes:
        loss: A weak reference to the loss.
        shape: The static shape of z, with None for what is not known.
        is_pending: Whether its backward pass may still come.
        adjust: What GAL sets to take the call: a function from (loss function, z,
            losses, their weights, gradient at z) to the gradient to propagate.
        later: A weak reference to a later call of the loss while this was pending.
    """

    def __init__(self, loss: "AdjustedLoss", shape: Any) -> None:
        self.loss = weakref.ref(loss)
        self.shape = tuple(n if isinstance(n, int) else None for n in shape)
        self.is_pending: Callable[[], bool] = lambda: False
        self.adjust: Callable | None = None
        self.later: weakref.ref | None = None
        self.losses = self.weights = None

    def keep(self, weights: Any, losses: Any) -> Any:
        """The hook at the losses."""
        self.weights, self.losses = weights, losses
        return weights

    def backward(self, function: Callable, gradient: Any, z: Any, y_true: Any) -> Any:
        """The hook at the output; `function` is that of the unreduced losses."""
        losses, weights = self.losses, self.weights
        self.losses = self.weights = None  # Not to be held longer than the step.
        if self.adjust is None:
            later = self.later and self.later()
            if later and later.adjust is not None:
                raise RuntimeError(
                    "An `AdjustedLoss` was called twice in one step of GAL, which "
                    "adjusts the last call only. Make a loss with `gal.loss(...)` for "
                    "each term."
                )
            return gradient
        return self.adjust(lambda z: function(y_true, z), z, losses, weights, gradient)


class Calls:
    """What a GAL knows of its losses: the last call of each since its last step."""

    def __init__(self) -> None:
        self._last: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def add(self, call: Call) -> None:
        before = self._last.pop(call.loss(), None)
        if before is not None and before.is_pending():
            before.later = weakref.ref(call)
        self._last[call.loss()] = call

    def all(self) -> list[Call]:
        """The calls, oldest first."""
        return list(self._last.values())

    def clear(self) -> None:
        self._last.clear()


class _Hook(keras.Layer):
    """The hook at the losses: a layer, since Keras then takes their mask along."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, losses: Any, call: Call) -> Any:
        return backend.gradient_hook(losses, call.keep, losses)[0]


@keras.saving.register_keras_serializable("keras_gradres")
class AdjustedLoss(keras.losses.Loss):
    """A loss whose gradient at the output a `GAL` adjusts, made by `gal.loss(...)`.

    In value, reduction, masks and sample weights it is `loss`. Under another optimizer
    than its GAL, and in `evaluate`, it is `loss` in every way.

    A `.keras` file keeps the pair of the loss and its GAL. What loads an optimizer and
    a loss each by itself, as from `.h5` files, loses it, and GAL raises in its first
    step: compile the model again, with a loss of its optimizer.

    Args:
        loss: See `GAL.loss`.
        optimizer: The `GAL`, or the configuration of one that is gone.
        name: The name; by default that of `loss`.
    """

    def __init__(self, loss: Any, optimizer: Any = None, name: str | None = None):
        if optimizer is None:
            raise ValueError(
                "An `AdjustedLoss` belongs to a GAL, which makes it. Write "
                "`gal.loss(loss)`, as in `model.compile(optimizer=gal, "
                "loss=gal.loss('mse'))`. Received: optimizer=None"
            )
        by_shape = isinstance(loss, str) and loss.lower() in CROSSENTROPY
        inner = loss if by_shape else keras.losses.get(loss)
        if isinstance(inner, AdjustedLoss) or not (by_shape or callable(inner)):
            raise ValueError(
                "`loss` must be the name of a loss, a `keras.losses.Loss` other than "
                f"an `AdjustedLoss`, or a function. Received: loss={loss}"
            )
        arguments: dict[str, Any] = {}
        if isinstance(inner, keras.losses.Loss):
            if type(inner).__call__ is not keras.losses.Loss.__call__:
                raise ValueError(
                    "`loss` overrides `__call__`, which `AdjustedLoss` would not call. "
                    f"Override `call` instead. Received: loss={loss}"
                )
            arguments = {"reduction": inner.reduction, "dtype": inner.dtype}
            default_name = inner.name
        elif by_shape:
            default_name = inner.lower()
        else:
            # A lambda's is no name for TensorFlow.
            default_name = getattr(inner, "__name__", "").strip("<>") or None
        super().__init__(name=name or default_name, **arguments)
        self.loss = inner
        self._hook = _Hook(autocast=False)
        self._config_of_gone: dict = {}
        if isinstance(optimizer, dict):
            self._config_of_gone = optimizer
            self._optimizer: Callable[[], Any] = lambda: None
        else:
            self._optimizer = weakref.ref(optimizer)

    @property
    def optimizer(self) -> Any:
        """The `GAL` that adjusts this loss, or None if it is gone."""
        return self._optimizer()

    def inner_function(self, y_true: Any, y_pred: Any) -> Any:
        """The unreduced losses, with no hook."""
        if isinstance(self.loss, keras.losses.Loss):
            return self.loss.call(y_true, y_pred)
        function = self.loss
        if isinstance(function, str):
            function = _crossentropy(y_true, y_pred)
        return function(*_aligned(y_true, y_pred))

    @backend.uncompiled
    def call(self, y_true: Any, y_pred: Any) -> Any:
        if not ops.is_tensor(y_pred):
            raise ValueError(
                "`y_pred` must be one tensor: an `AdjustedLoss` is the loss of one "
                f"output. Received: y_pred={y_pred}"
            )
        gal = self.optimizer
        if gal is None:
            return self.inner_function(y_true, y_pred)
        call = Call(self, y_pred.shape)
        z, call.is_pending = backend.gradient_hook(
            y_pred,
            functools.partial(call.backward, self.inner_function),
            y_pred,
            y_true,
        )
        gal.calls.add(call)
        return self._hook(self.inner_function(y_true, z), call=call)

    def get_config(self) -> dict[str, Any]:
        gal = self.optimizer
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "loss": serialize(self.loss),
            "optimizer": self._config_of_gone if gal is None else serialize(gal),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AdjustedLoss":
        deserialize = keras.saving.deserialize_keras_object
        optimizer = config["optimizer"]
        # From a file of a model, that which the model has been compiled with.
        gal = deserialize(optimizer) if optimizer else optimizer
        loss = cls(deserialize(config["loss"]), gal, config["name"])
        loss._config_of_gone = _without_ids(optimizer)
        return loss


def adjusted(loss: Any, gal: Any, name: str | None = None) -> Any:
    """An `AdjustedLoss` of this GAL, or a list or dict of them, as `loss` is."""
    if isinstance(loss, dict) and not {"class_name", "config"} <= set(loss):
        return {key: value and adjusted(value, gal) for key, value in loss.items()}
    if isinstance(loss, (list, tuple)):
        return type(loss)(value and adjusted(value, gal) for value in loss)
    return AdjustedLoss(loss, gal, name)


def _aligned(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Targets and outputs for a function, as Keras aligns them.

    Where one has a last axis of one entry more than the other, that of the other is
    added if it has but the axis of the samples, and the one's is taken away otherwise:
    (N,) and (N, 1) become (N, 1) and (N, 1), (N, T) and (N, T, 1) become (N, T) twice.
    """
    if len(y_true.shape) == len(y_pred.shape) + 1 and y_true.shape[-1] == 1:
        if len(y_pred.shape) == 1:
            return y_true, ops.expand_dims(y_pred, -1)
        return ops.squeeze(y_true, -1), y_pred
    if len(y_pred.shape) == len(y_true.shape) + 1 and y_pred.shape[-1] == 1:
        if len(y_true.shape) == 1:
            return ops.expand_dims(y_true, -1), y_pred
        return y_true, ops.squeeze(y_pred, -1)
    return y_true, y_pred


def _crossentropy(y_true: Any, y_pred: Any) -> Callable:
    """Which one `loss="crossentropy"` is, by the shapes, as in `compile`."""
    if y_pred.shape[-1] == 1:
        return keras.losses.binary_crossentropy
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.losses.sparse_categorical_crossentropy
    return keras.losses.categorical_crossentropy


def _without_ids(config: Any) -> Any:
    """A configuration without the marks of one file for what is shared in it."""
    if isinstance(config, (list, tuple)):
        return [_without_ids(entry) for entry in config]
    if isinstance(config, dict):
        return {
            name: _without_ids(entry)
            for name, entry in config.items()
            if name != "shared_object_id"
        }
    return config
