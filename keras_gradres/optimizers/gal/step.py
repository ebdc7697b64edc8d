"""A step of `GAL`: what `scale_loss` hands by way of the hooks to `apply`.

step = Step(settings, networks, learning_rate, calls)   in `scale_loss`
step.adjust(...)                                        in the backward pass
step.close(gradients)                                   in `apply`, before
step.train_networks()                                   and after the inner step
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_gradres import backend
from keras_gradres.optimizers.gal.algorithm import Algorithm1, Settings
from keras_gradres.optimizers.gal.loss import Call
from keras_gradres.optimizers.gal.networks import Networks, Result


class Step:
    """One step.

    Args:
        settings: The `Settings` of Algorithm 1.
        networks: The `Networks`.
        learning_rate: Eta, a tensor.
        calls: The pending calls of the losses; each gets the network of its loss.
    """

    def __init__(
        self,
        settings: Settings,
        networks: Networks,
        learning_rate: Any,
        calls: list[Call],
    ) -> None:
        self.learning_rate = learning_rate
        self._settings = settings
        self._networks = networks
        self._calls = networks.assign(calls)
        self._results: dict[int, Result] = {}
        networks.share()
        for index, call in self._calls.items():
            theta, state = networks.values(index)
            call.adjust = functools.partial(self._adjust, index, theta, state)

    def _adjust(
        self,
        index: int,
        theta: list,
        state: list,
        loss: Callable[[Any], Any],
        z: Any,
        losses: Any,
        weights: Any,
        gradient: Any,
    ) -> Any:
        """The hook at z: Algorithm 1, in float32 at least."""
        dtype = keras.backend.result_type(z.dtype, "float32")
        tensors = (z, losses, weights, gradient)
        z, losses, weights, gradient = (
            # A cast of what is of this type takes time in an eager step.
            t
            if keras.backend.standardize_dtype(t.dtype) == dtype
            else ops.cast(t, dtype)
            for t in tensors
        )
        algorithm = Algorithm1(
            self._settings, self.learning_rate, loss, z, losses, weights, gradient
        )

        def objective(theta: list) -> tuple:
            v, new_state, penalty = self._networks.call(index, z, theta, state)
            remainder, dv, after = algorithm.remainder(v)
            return remainder + penalty, (remainder, dv, after, new_state)

        _, extra, dtheta = backend.value_and_grad(objective, theta)
        remainder, dv, after, new_state = extra
        adjusted, measures = algorithm.outcome(dv, after)
        # All that was computed went into the remainder.
        finite = backend.all_finite([remainder, *dtheta])
        measures = ops.stack([remainder, *measures])
        self._results[index] = Result(finite, measures, dtheta, new_state)
        return ops.where(finite, adjusted, gradient)

    def close(self, gradients: Sequence[Any]) -> None:
        """Ends the backward pass; `gradients` are those of the model."""
        # One output of several may have no gradient, as that of a frozen teacher.
        if not self._results:
            raise not_adjusted()
        for call in self._calls.values():
            call.adjust = None  # What it holds is of this step.
        # Data that are not finite are not always seen at the outputs: TensorFlow's
        # graphs have rectifiers that make 0 of what is not a number.
        finite = backend.all_finite([g for g in gradients if g is not None])
        for result in self._results.values():
            result.finite = ops.logical_and(result.finite, finite)

    def train_networks(self, trained: Sequence[Any]) -> None:
        """Algorithm 1, lines 12 to 16; `trained` are the variables of the model."""
        flat = [t for result in self._results.values() for t in result.tensors()]
        reduced = iter(backend.all_reduce(flat, trained))
        results = {i: r.replaced(reduced) for i, r in self._results.items()}
        self._networks.train(results)


def not_adjusted() -> RuntimeError:
    return RuntimeError(
        "GAL was given gradients that it did not adjust: its `scale_loss` was not "
        "called, or the gradient not taken of what it returned. In a loop of your own, "
        "take the gradient of `gal.scale_loss(loss)`. GAL must be the outer optimizer: "
        "for mixed_float16, `GAL(LossScaleOptimizer(inner))` with "
        "`model.compile(..., auto_scale_loss=False)`."
    )


def no_loss() -> ValueError:
    return ValueError(
        "GAL found no `AdjustedLoss` in this step that it has made, and would train as "
        "its inner optimizer alone. Write `model.compile(optimizer=gal, "
        "loss=gal.loss(loss))`; for a model from an `.h5` file, or one that was "
        "compiled from a configuration, `model.compile(model.optimizer, "
        "model.optimizer.loss(loss))`. In a loop of your own, call `gal.loss(loss)` "
        "before `gal.scale_loss`, where gradients are recorded."
    )


def check_state(calls: list[Call]) -> None:
    """Raises where networks cannot be made: inside a step that is given all state."""
    try:
        keras.Variable(0.0)
    except ValueError as error:  # Keras forbids it inside a stateless scope.
        raise ValueError(
            "GAL has no networks, and cannot make them inside a stateless step. Give "
            f"`output_shapes={[(None, *call.shape[1:]) for call in calls]}`, and in a "
            "loop of your own call `gal.build(model.trainable_variables)` before it."
        ) from error
