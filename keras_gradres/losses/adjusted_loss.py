"""A loss whose gradient at the model's output `GAL` adjusts.

`AdjustedLoss(loss)` is that loss, with a gradient hook at the output z and another at
the unreduced losses. In the forward pass it leaves a `Record` of the call where `GAL`
finds it; in the backward pass, if `GAL` has claimed the record, the hooks hand it the
gradient at z, and propagate what it returns.

    forward:   z -> [hook] -> loss -> [hook] -> weights, masks, mean -> ... -> number
    backward:  z <- [GAL ] <-      <- [keep] <-                      <- ... <- 1
"""

import functools
import itertools
import threading
import weakref

import keras
from keras import ops

from keras_gradres import backend


class Record:
    """One call of an `AdjustedLoss`.

    Attributes:
        loss: The `AdjustedLoss`.
        shape: The static shape of z.
        scope: In a call to find shapes and to build what is not built, the number of
            that occasion; else None.
        generation: How many steps had been claimed in this thread before the call.
        is_pending: Whether its backward pass may still come.
        adjust: What `GAL` sets to claim the record: a function from (loss function, z,
            losses, their weights, gradient at z) to the gradient to propagate.
        later: A weak reference to a later call while this one was pending.
    """

    def __init__(self, loss, shape):
        self.loss = weakref.ref(loss)
        self.shape = shape
        self.number = next(_numbers)
        self.generation = _calls.generation
        self.is_pending = lambda: False
        with keras.StatelessScope() as scope:
            outer = scope.original_scope
        self.scope = None
        if outer is not None and (outer in _scopes or not outer.state_mapping):
            self.scope = _scopes.setdefault(outer, next(_numbers))
        self.adjust = None
        self.later = None
        self.losses = self.weights = None

    def keep(self, weights, losses):
        """The hook at the losses."""
        self.weights, self.losses = weights, losses
        return weights

    def backward(self, function, gradient, z, y_true):
        """The hook at the output; `function` is that of the unreduced losses."""
        losses, weights = self.losses, self.weights
        self.losses = self.weights = None  # Not to be held longer than the step.
        if self.adjust is None:
            later = self.later and self.later()
            if later and later.adjust is not None:
                raise RuntimeError(
                    "An `AdjustedLoss` was called twice in one step of GAL, which "
                    "adjusts the last call only. Use one `AdjustedLoss` for each term "
                    "of the loss."
                )
            return gradient
        return self.adjust(lambda z: function(y_true, z), z, losses, weights, gradient)


class _Hook(keras.Layer):
    """The hook at the losses: a layer, since Keras then takes their mask along."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, losses, record):
        return backend.gradient_hook(losses, record.keep, losses)[0]


_numbers = itertools.count()
# Scopes that began without values for variables, as those for finding shapes do.
_scopes: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class _Calls(threading.local):
    """The calls in this thread: the last of each living loss."""

    def __init__(self):
        self.records: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self.generation = 0


_calls = _Calls()


def latest_records():
    """The record of the last call of each living loss in this thread, oldest first."""
    return sorted(_calls.records.values(), key=lambda record: record.number)


def end_generation():
    """Ends the time in which a loss without an owner can be claimed; returns which.

    An error can leave records that stay pending, as long as its traceback is kept.
    """
    _calls.generation += 1
    return _calls.generation - 1


@keras.saving.register_keras_serializable("keras_gradres")
class AdjustedLoss(keras.losses.Loss):
    """A loss whose gradient at the output `GAL` adjusts.

    In value, reduction, masks and sample weights it is `loss`; under another optimizer
    than `keras_gradres.optimizers.GAL`, and in `evaluate`, it is `loss` in every way.

    With several outputs, give each an `AdjustedLoss` of its own.

    Have a classifier return logits, and the loss `from_logits=True`: where Keras finds
    the logits behind a softmax by itself, it does not for an `AdjustedLoss`, which is
    about the gradient at the probabilities; below 1e-7 their losses differ.

    Args:
        loss: The name of a loss, a `keras.losses.Loss`, or a function of
            `(y_true, y_pred)`, of one tensor each, to the unreduced losses.
        name: The name; by default that of `loss`.

    Example:
    ```python
    loss = AdjustedLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.compile(optimizer=GAL("sgd"), loss=loss)
    ```
    """

    def __init__(self, loss, name=None):
        inner = keras.losses.get(loss)
        if isinstance(inner, AdjustedLoss) or not callable(inner):
            raise ValueError(
                "`loss` must be the name of a loss, a `keras.losses.Loss` other than "
                f"an `AdjustedLoss`, or a function. Received: loss={loss}"
            )
        arguments = {}
        if isinstance(inner, keras.losses.Loss):
            if type(inner).__call__ is not keras.losses.Loss.__call__:
                raise ValueError(
                    "`loss` overrides `__call__`, which `AdjustedLoss` would not call. "
                    f"Override `call` instead. Received: loss={loss}"
                )
            arguments = {"reduction": inner.reduction, "dtype": inner.dtype}
            default_name = inner.name
        else:
            # A lambda's is no name for TensorFlow.
            default_name = getattr(inner, "__name__", "").strip("<>") or None
        super().__init__(name=name or default_name, **arguments)
        self.loss = inner
        self._hook = _Hook(autocast=False)

    def inner_function(self, y_true, y_pred):
        """The unreduced losses, with no hook."""
        if isinstance(self.loss, keras.losses.Loss):
            return self.loss.call(y_true, y_pred)
        # As Keras does for functions.
        if len(y_true.shape) == len(y_pred.shape) + 1 and y_true.shape[-1] == 1:
            y_true = ops.squeeze(y_true, -1)
        elif len(y_pred.shape) == len(y_true.shape) + 1 and y_pred.shape[-1] == 1:
            y_pred = ops.squeeze(y_pred, -1)
        return self.loss(y_true, y_pred)

    @backend.uncompiled
    def call(self, y_true, y_pred):
        if not keras.ops.is_tensor(y_pred):
            raise ValueError(
                "`y_pred` must be one tensor: an `AdjustedLoss` is the loss of one "
                f"output. Received: y_pred={y_pred}"
            )
        record = Record(self, tuple(y_pred.shape))
        before = _calls.records.get(self)
        if before is not None and before.is_pending():
            before.later = weakref.ref(record)
        _calls.records[self] = record
        z, record.is_pending = backend.gradient_hook(
            y_pred,
            functools.partial(record.backward, self.inner_function),
            y_pred,
            y_true,
        )
        losses = self.inner_function(y_true, z)
        return self._hook(losses, record=record)

    def get_config(self):
        return {
            "name": self.name,
            "loss": keras.saving.serialize_keras_object(self.loss),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["loss"] = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**config)
