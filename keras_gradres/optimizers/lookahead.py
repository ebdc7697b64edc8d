"""Lookahead, arXiv 1907.08610 (Algorithm 1).

    for t = 1, 2, ...:
        fast <- fast + A(fast)                        the inner optimizer A
        if t is a multiple of k:
            slow <- slow + a (fast - slow)
            fast <- slow

Usage:

    optimizer = Lookahead("sgd", sync_period=5, slow_step_size=0.5)
    model.compile(optimizer=optimizer, loss="mse")
"""

import keras
from keras import ops

from keras_gradres.optimizers.wrapper import WrapperOptimizer


@keras.saving.register_keras_serializable("keras_gradres")
class Lookahead(WrapperOptimizer):
    """Steps back to a slow copy of the weights every few steps of `inner_optimizer`.

    Args:
        inner_optimizer: The optimizer of the fast weights, or its name. With gradient
            accumulation, only the steps that update the weights count.
        sync_period: k, the number of steps between two updates of the slow weights.
        slow_step_size: The step from the slow to the fast weights, in (0, 1].
        name: The name of the optimizer.
    """

    def __init__(
        self, inner_optimizer="sgd", sync_period=5, slow_step_size=0.5, name=None
    ):
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

    def build(self, variables):
        super().build(variables)
        self._slow = self.add_optimizer_variables(variables, "slow")

    def apply(self, grads, trainable_variables=None):
        self._build_on_first_use(trainable_variables)
        iterations, slow = self._read()
        self.inner_optimizer.apply(grads, trainable_variables)
        self._synchronize(iterations, slow)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        new_trainable, inner = self._inner_stateless_apply(
            optimizer_variables, grads, trainable_variables
        )

        def scope(values, trainable):
            mapping = zip(
                [*self.variables, *self._trainable_variables],
                [*values, *trainable],
                strict=True,
            )
            return keras.StatelessScope(list(mapping))

        with scope(optimizer_variables, trainable_variables):
            iterations, slow = self._read()
        pairs = zip(self.variables, optimizer_variables, strict=True)
        values = [inner.get(id(v), value) for v, value in pairs]
        with scope(values, new_trainable) as after:
            self._synchronize(iterations, slow)
        return (
            [after.get_current_value(v) for v in self._trainable_variables],
            [after.get_current_value(v) for v in self.variables],
        )

    def _read(self):
        """The state before a step; the slow weights begin as the fast ones."""
        iterations = ops.copy(ops.convert_to_tensor(self.iterations))
        pairs = zip(self._slow, self._trainable_variables, strict=True)
        return iterations, [
            ops.where(iterations == 0, fast.value, slow.value) for slow, fast in pairs
        ]

    def _synchronize(self, before, slow):
        after = ops.convert_to_tensor(self.iterations)
        due = ops.logical_and(after != before, after % self.sync_period == 0)
        for variable, old, fast in zip(
            self._slow, slow, self._trainable_variables, strict=True
        ):
            target = old + self.slow_step_size * (fast - old)
            variable.assign(ops.where(due, target, old))
            fast.assign(ops.where(due, target, fast.value))

    def get_config(self):
        return {
            **super().get_config(),
            "sync_period": self.sync_period,
            "slow_step_size": self.slow_step_size,
        }
