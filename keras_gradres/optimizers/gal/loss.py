"""The loss that a `GAL` adjusts the gradient of.

An `AdjustedLoss` wraps a loss. It adds two gradient hooks: one at the output z, and one
at the unreduced losses. In the forward pass it tells its GAL of the call. If GAL takes
the call for a step, then in the backward pass the hook at z gives GAL the gradient, and
propagates the one that GAL returns. The other hook keeps the derivative of the total
loss by the unreduced losses, which GAL needs, too.

    forward:   z -> [hook] -> loss -> [hook] -> weights, masks, mean -> ... -> number
    backward:  z <- [GAL ] <-      <- [keep] <-                      <- ... <- 1

Keras saves what it finds by walking over attributes, and must find the state of the
optimizer only once. So the loss and its GAL hold weak references to each other.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_gradres import backend
from keras_gradres.optimizers.gal.unreduced import CROSSENTROPY, unreduced_losses
from keras_gradres.typing import Config, Shape, Tensor


class Call:
    """One call of an `AdjustedLoss`.

    Attributes:
        loss_ref: A weak reference to the loss.
        shape: The static shape of z, with None for what is not known.
        is_pending: Whether its backward pass may still come.
        adjust: Set by GAL when it takes the call: a function from (function of z to the
            unreduced losses, z, losses, their weights, gradient at z) to the gradient
            to propagate.
        later: A weak reference to a later call of the loss while this was pending.
        losses: The unreduced losses, between the two hooks of the backward pass.
        weights: The derivative of the total loss by these, likewise.
    """

    def __init__(self, loss: "AdjustedLoss", shape: Sequence[Any]) -> None:
        self.loss_ref = weakref.ref(loss)
        self.shape: Shape = tuple(n if isinstance(n, int) else None for n in shape)
        self.is_pending: Callable[[], bool] = lambda: False
        self.adjust: Callable | None = None
        self.later: weakref.ref | None = None
        self.losses: Tensor = None
        self.weights: Tensor = None

    def keep(self, weights: Tensor, losses: Tensor) -> Tensor:
        """The hook at the unreduced losses: keeps them and their derivative."""
        self.weights, self.losses = weights, losses
        return weights

    def backward(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        gradient: Tensor,
        z: Tensor,
        y_true: Tensor,
    ) -> Tensor:
        """The hook at the output: the gradient to propagate.

        Args:
            function: From `(y_true, z)` to the unreduced losses.
            gradient: The gradient that arrives.
            z: The output.
            y_true: The targets.
        """
        losses, weights = self.losses, self.weights
        self.losses = self.weights = None  # So that memory is free after the step.
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
    """The calls of a GAL's losses since its last step: the last call of each loss."""

    def __init__(self) -> None:
        self._last: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def add(self, call: Call) -> None:
        before = self._last.pop(call.loss_ref(), None)
        if before is not None and before.is_pending():
            before.later = weakref.ref(call)
        self._last[call.loss_ref()] = call

    def all(self) -> list[Call]:
        """The calls, oldest first."""
        return list(self._last.values())

    def clear(self) -> None:
        self._last.clear()


class _Hook(keras.Layer):
    """The hook at the unreduced losses.

    It is a layer, because Keras carries the mask of the losses through layers.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, losses: Tensor, call: Call) -> Tensor:
        return backend.gradient_hook(losses, call.keep, losses)[0]


@keras.saving.register_keras_serializable("keras_gradres")
class AdjustedLoss(keras.losses.Loss):
    """A loss whose gradient at the output is adjusted by a `GAL`.

    `gal.loss(...)` makes it. Value, reduction, masks and sample weights are those of
    `loss`. With another optimizer than its GAL, and in `evaluate`, so is the gradient.

    A `.keras` file keeps the loss together with its GAL. From an `.h5` file optimizer
    and loss are loaded apart, and GAL raises in its first step. Then compile the model
    again, with a loss that its optimizer makes.

    Args:
        loss: See `GAL.loss`.
        optimizer: The `GAL`, or the configuration of one that no longer exists.
        name: The name; by default that of `loss`.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.losses import AdjustedLoss
    >>> from keras_gradres.optimizers import GAL
    >>> gal = GAL("sgd")
    >>> loss = gal.loss("mse")
    >>> isinstance(loss, AdjustedLoss) and loss.optimizer is gal
    True
    >>> float(loss(np.zeros((2, 1), "float32"), np.ones((2, 1), "float32")))
    1.0
    """

    def __init__(
        self, loss: Any, optimizer: Any = None, name: str | None = None
    ) -> None:
        if optimizer is None:
            raise ValueError(
                "An `AdjustedLoss` belongs to a GAL, which makes it. Write "
                "`gal.loss(loss)`, as in `model.compile(optimizer=gal, "
                "loss=gal.loss('mse'))`. Received: optimizer=None"
            )
        by_shape = isinstance(loss, str) and loss.lower() in CROSSENTROPY
        wrapped = loss if by_shape else keras.losses.get(loss)
        if isinstance(wrapped, AdjustedLoss) or not (by_shape or callable(wrapped)):
            raise ValueError(
                "`loss` must be the name of a loss, a `keras.losses.Loss` other than "
                f"an `AdjustedLoss`, or a function. Received: loss={loss}"
            )
        arguments: dict[str, Any] = {}
        if isinstance(wrapped, keras.losses.Loss):
            if type(wrapped).__call__ is not keras.losses.Loss.__call__:
                raise ValueError(
                    "`loss` overrides `__call__`, which `AdjustedLoss` would not call. "
                    f"Override `call` instead. Received: loss={loss}"
                )
            arguments = {"reduction": wrapped.reduction, "dtype": wrapped.dtype}
            default_name = wrapped.name
        elif by_shape:
            default_name = wrapped.lower()
        else:
            # "<lambda>" is not a name that TensorFlow takes.
            default_name = getattr(wrapped, "__name__", "").strip("<>") or None
        super().__init__(name=name or default_name, **arguments)
        self.loss = wrapped
        self._hook = _Hook(autocast=False)
        self._config_without_gal: Config = {}
        if isinstance(optimizer, dict):
            self._config_without_gal = optimizer
            self._optimizer: Callable[[], Any] = lambda: None
        else:
            self._optimizer = weakref.ref(optimizer)

    @property
    def optimizer(self) -> Any:
        """The `GAL` that adjusts this loss, or None if it is gone."""
        return self._optimizer()

    def _unreduced(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The unreduced losses, without the hooks."""
        # A method: a loss that nothing else holds lives as long as the hooks have it.
        return unreduced_losses(self.loss, y_true, y_pred)

    @backend.uncompiled
    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if not ops.is_tensor(y_pred):
            raise ValueError(
                "`y_pred` must be one tensor: an `AdjustedLoss` is the loss of one "
                f"output. Received: y_pred={y_pred}"
            )
        gal = self.optimizer
        if gal is None:
            return self._unreduced(y_true, y_pred)
        call = Call(self, y_pred.shape)
        z, call.is_pending = backend.gradient_hook(
            y_pred,
            functools.partial(call.backward, self._unreduced),
            y_pred,
            y_true,
        )
        gal.calls.add(call)
        return self._hook(self._unreduced(y_true, z), call=call)

    def get_config(self) -> Config:
        gal = self.optimizer
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "loss": serialize(self.loss),
            "optimizer": self._config_without_gal if gal is None else serialize(gal),
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        deserialize = keras.saving.deserialize_keras_object
        optimizer = config["optimizer"]
        # In the file of a model this is the very optimizer of the model.
        gal = deserialize(optimizer) if optimizer else optimizer
        loss = cls(deserialize(config["loss"]), gal, config["name"])
        loss._config_without_gal = _without_ids(optimizer)
        return loss


def adjusted(loss: Any, gal: Any, name: str | None = None) -> Any:
    """An `AdjustedLoss` of this GAL, or a list or dict of them, as `loss` is."""
    if isinstance(loss, dict) and not {"class_name", "config"} <= set(loss):
        return {key: value and adjusted(value, gal) for key, value in loss.items()}
    if isinstance(loss, (list, tuple)):
        return type(loss)(value and adjusted(value, gal) for value in loss)
    return AdjustedLoss(loss, gal, name)


def _without_ids(config: Any) -> Any:
    """A configuration without the ids of shared objects, valid in one file only."""
    if isinstance(config, (list, tuple)):
        return [_without_ids(entry) for entry in config]
    if isinstance(config, dict):
        return {
            name: _without_ids(entry)
            for name, entry in config.items()
            if name != "shared_object_id"
        }
    return config
