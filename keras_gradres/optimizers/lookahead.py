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
        for variable in variables:
            self.add_variable_from_reference(
                variable,
                name="slow",
                # A copy: its memory must not be that of the variable.
                initializer=lambda shape, dtype, v=variable: ops.copy(v.value),
            )

    def _slow(self):
        # The last of our own variables.
        return super(WrapperOptimizer, self).variables[
            -len(self._trainable_variables) :
        ]

    def apply(self, grads, trainable_variables=None):
        self._build_on_first_use(trainable_variables)
        before = ops.copy(ops.convert_to_tensor(self.iterations))
        self.inner_optimizer.apply(grads, trainable_variables)
        self._synchronize(before)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        trainable_variables, inner = self._inner_stateless_apply(
            optimizer_variables, grads, trainable_variables
        )
        values = dict(zip(map(id, self.variables), optimizer_variables, strict=True))
        mapping = [(v, values[id(v)]) for v in self.variables]
        with keras.StatelessScope(mapping):
            before = ops.convert_to_tensor(self.iterations)
        mapping = [(v, inner.get(id(v), values[id(v)])) for v in self.variables]
        mapping += list(
            zip(self._trainable_variables, trainable_variables, strict=True)
        )
        with keras.StatelessScope(mapping) as scope:
            self._synchronize(before)
        return (
            [scope.get_current_value(v) for v in self._trainable_variables],
            [scope.get_current_value(v) for v in self.variables],
        )

    def _synchronize(self, before):
        after = ops.convert_to_tensor(self.iterations)
        due = ops.logical_and(after != before, after % self.sync_period == 0)
        for fast, slow in zip(self._trainable_variables, self._slow(), strict=True):
            target = slow + self.slow_step_size * (fast - slow)
            slow.assign(ops.where(due, target, slow.value))
            fast.assign(ops.where(due, target, fast.value))

    def get_config(self):
        return {
            **super().get_config(),
            "sync_period": self.sync_period,
            "slow_step_size": self.slow_step_size,
        }
