"""A training step of `GAL`, from `scale_loss` through the backward pass to `apply`.

In `scale_loss`, in the backward pass of each loss, and in `apply`, before and after the
step of the inner optimizer:

    step = Step(settings, networks, learning_rate, calls)
    call.adjust(...)
    step.close(gradients)
    step.train_networks(trained)
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gradres import backend
from keras_gradres.optimizers.gal.algorithm import Algorithm1, Settings
from keras_gradres.optimizers.gal.loss import Call
from keras_gradres.optimizers.gal.networks import Networks, Result
from keras_gradres.typing import Tensor, TensorFunction


class Step:
    """A training step.

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
        learning_rate: Tensor,
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
        theta: list[Tensor],
        state: list[Tensor],
        unreduced_loss: TensorFunction,
        z: Tensor,
        losses: Tensor,
        weights: Tensor,
        gradient: Tensor,
    ) -> Tensor:
        """The hook at z: Algorithm 1, in float32 at least."""
        dtype = keras.backend.result_type(z.dtype, "float32")
        tensors = (z, losses, weights, gradient)
        z, losses, weights, gradient = (
            # Even a cast to the same dtype takes time in an eager step.
            t
            if keras.backend.standardize_dtype(t.dtype) == dtype
            else ops.cast(t, dtype)
            for t in tensors
        )
        algorithm = Algorithm1(
            self._settings,
            self.learning_rate,
            unreduced_loss,
            z,
            losses,
            weights,
            gradient,
        )

        def objective(theta: list[Tensor]) -> tuple[Tensor, tuple]:
            v, new_state, penalty = self._networks.call(index, z, theta, state)
            remainder, dv, after = algorithm.remainder(v)
            return remainder + penalty, (remainder, dv, after, new_state)

        _, extra, dtheta = backend.value_and_grad(objective, theta)
        remainder, dv, after, new_state = extra
        adjusted, diagnostics = algorithm.outcome(dv, after)
        # A value that is not finite anywhere upstream shows in these, so it is enough
        # to check them.
        finite = backend.all_finite([remainder, *dtheta])
        diagnostics = ops.stack([remainder, *diagnostics])
        self._results[index] = Result(finite, diagnostics, dtheta, new_state)
        return ops.where(finite, adjusted, gradient)

    def close(self, gradients: Sequence[Any]) -> None:
        """Ends the backward pass; `gradients` are those of the model."""
        # One of several outputs may have no gradient, such as that of a frozen teacher.
        if not self._results:
            raise not_adjusted()
        for call in self._calls.values():
            call.adjust = None  # It holds tensors of this step.
        # The outputs do not always show data that is not finite: ReLU makes 0 of NaN in
        # TensorFlow's graphs. So the gradients of the model are checked, too.
        finite = backend.all_finite([g for g in gradients if g is not None])
        for result in self._results.values():
            result.finite = ops.logical_and(result.finite, finite)

    def train_networks(self, trained: Sequence[Any]) -> None:
        """Algorithm 1, lines 12 to 16; `trained` are the variables of the model."""
        tensors = [t for result in self._results.values() for t in result.tensors()]
        means = iter(backend.all_reduce(tensors, trained))
        results = {i: r.replaced(means) for i, r in self._results.items()}
        self._networks.train(results)


def not_adjusted() -> RuntimeError:
    """The error where `apply` comes without a backward pass that was adjusted."""
    return RuntimeError(
        "GAL was given gradients that it did not adjust. Either its `scale_loss` was "
        "not called, or the gradient is not that of the loss that it returned. In a "
        "loop of your own, take the gradient of `gal.scale_loss(loss)`. GAL must be "
        "the outer optimizer: for mixed_float16, `GAL(LossScaleOptimizer(inner))` with "
        "`model.compile(..., auto_scale_loss=False)`."
    )


def no_loss() -> ValueError:
    """The error where no loss of this GAL was called."""
    return ValueError(
        "GAL found no `AdjustedLoss` in this step that it has made, and would train "
        "like its inner optimizer. Write `model.compile(optimizer=gal, "
        "loss=gal.loss(loss))`; for a model from an `.h5` file, or one that was "
        "compiled from a configuration, `model.compile(model.optimizer, "
        "model.optimizer.loss(loss))`. In a loop of your own, call `gal.loss(loss)` "
        "before `gal.scale_loss`, where gradients are recorded."
    )


def check_state(calls: list[Call]) -> None:
    """Raises inside a stateless step, where the networks cannot be made."""
    try:
        keras.Variable(0.0)
    except ValueError as error:  # Keras forbids it inside a stateless scope.
        raise ValueError(
            "GAL has no networks, and cannot make them inside a stateless step. Give "
            f"`output_shapes={[(None, *call.shape[1:]) for call in calls]}`, and in a "
            "loop of your own call `gal.build(model.trainable_variables)` before it."
        ) from error
