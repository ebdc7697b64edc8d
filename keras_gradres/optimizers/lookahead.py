"""Lookahead, arXiv 1907.08610 (Algorithm 1).

    for t = 1, 2, ...:
        fast <- fast + A(fast)                        the inner optimizer A
        if t is a multiple of k:
            slow <- slow + a (fast - slow), projected where weights are constrained
            fast <- slow

Usage:

    optimizer = Lookahead("sgd", sync_period=5, slow_step_size=0.5)
    model.compile(optimizer=optimizer, loss="mse")
"""

from collections.abc import Sequence

import keras
from keras import ops

from keras_gradres import backend
from keras_gradres.optimizers.wrapper import WrapperOptimizer
from keras_gradres.typing import Config, Tensor


@keras.saving.register_keras_serializable("keras_gradres")
class Lookahead(WrapperOptimizer):
    """Steps back to a slow copy of the weights every few steps of `inner_optimizer`.

    Args:
        inner_optimizer: The optimizer of the fast weights, or its name. With gradient
            accumulation, only the steps that update the weights count.
        sync_period: k, the number of steps between two updates of the slow weights.
        slow_step_size: a, the fraction of the way from the slow to the fast weights
            that an update goes, in (0, 1].
        name: The name of the optimizer.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> from keras_gradres.optimizers import Lookahead
    >>> optimizer = Lookahead(keras.optimizers.SGD(1.0), sync_period=2)
    >>> weight = keras.Variable(np.zeros((1,), "float32"))
    >>> for _ in range(2):  # The fast weight goes to -1 and -2, and back halfway.
    ...     optimizer.apply([keras.ops.ones((1,))], [weight])
    >>> float(weight.numpy()[0])
    -1.0
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str | dict = "sgd",
        sync_period: int = 5,
        slow_step_size: float = 0.5,
        name: str | None = None,
    ) -> None:
        super().__init__(inner_optimizer, name=name)
        if not isinstance(sync_period, int) or sync_period < 1:
            raise ValueError(
                "`sync_period` must be a positive integer. "
                f"Received: sync_period={sync_period}"
            )
        if not 0 < slow_step_size <= 1:
            raise ValueError(
                "`slow_step_size` must be in (0, 1]. "
                f"Received: slow_step_size={slow_step_size}"
            )
        self.sync_period = sync_period
        self.slow_step_size = slow_step_size

    def _build_state(self) -> None:
        self._slow = self.add_optimizer_variables(self._model_variables, "slow")

    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Pairs of a slow and a fast weight."""
        pairs = zip(self._slow, self._model_variables, strict=True)
        # There is no slow weight where Keras overwrites the weight: scales of float8.
        return [(slow, fast) for slow, fast in pairs if slow is not None]

    def _before_step(self, grads: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The number of steps, and the slow weights, which begin as the fast ones."""
        iterations = ops.copy(ops.convert_to_tensor(self.iterations))
        return iterations, [
            ops.where(iterations == 0, fast.value, slow.value)
            for slow, fast in self._pairs()
        ]

    def _after_step(self, before: tuple[Tensor, list[Tensor]]) -> None:
        iterations, slow = before
        now = ops.convert_to_tensor(self.iterations)
        due = ops.logical_and(now != iterations, now % self.sync_period == 0)
        for (variable, fast), old in zip(self._pairs(), slow, strict=True):
            target = old + self.slow_step_size * (fast.value - old)
            if fast.constraint is not None:  # `target` need not meet it.
                target = fast.constraint(target)
            backend.assign(variable, ops.where(due, target, old))
            backend.assign(fast, ops.where(due, target, fast.value))

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "sync_period": self.sync_period,
            "slow_step_size": self.slow_step_size,
        }
