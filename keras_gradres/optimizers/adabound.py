"""AdaBound and AMSBound, arXiv 1902.09843 (Algorithms 2 and 3).

    m <- b1 m + (1 - b1) g
    v <- b2 v + (1 - b2) g^2            AMSBound: the largest v so far below
    rate <- clip(eta sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(v) + epsilon), low, high)
    low  = final (1 - 1 / (gamma t + 1))
    high = final (1 + 1 / (gamma t)),   final = final_learning_rate eta / eta_0
    w <- w - rate m

The bias correction and the scaling of the final rate with eta are those of the authors'
code. eta_0 is the full rate, of which a schedule takes a fraction. It is known if the
rate is a number, or a schedule with a `warmup_target`. Else the largest rate so far
stands for it, and not the first one: with a warm-up from 0 the final rate would be
0 / 0.

Usage:

    model.compile(optimizer=AdaBound(1e-3, final_learning_rate=0.1), loss="mse")
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from keras_gradres import backend
from keras_gradres.typing import Config, Dtype, Tensor

LARGEST = "largest"


@keras.saving.register_keras_serializable("keras_gradres")
class AdaBound(keras.optimizers.Optimizer):
    """Adam with bounds on its rates that converge to the rate of SGD.

    Args:
        learning_rate: eta, a float, a schedule, or a callable.
        final_learning_rate: The rate that both bounds converge to.
        beta_1: The decay of the mean of the gradients, in [0, 1).
        beta_2: The decay of the mean of their squares, in [0, 1).
        gamma: How fast the bounds converge, positive.
        epsilon: A small positive number for stability.
        amsbound: Whether the largest mean of squares so far is used.
        base_learning_rate: eta_0, a positive number, or `"largest"`, the largest rate
            so far. By default the initial `learning_rate` if that is a number, and the
            `warmup_target` of a schedule that has one. Otherwise, or if that is 0,
            `"largest"`, which is the first rate of a schedule that falls.
        name: The name of the optimizer.
        **kwargs: The arguments of all Keras optimizers.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> from keras_gradres.optimizers import AdaBound
    >>> optimizer = AdaBound(0.1, final_learning_rate=0.5)
    >>> weight = keras.Variable(np.zeros((1,), "float32"))
    >>> optimizer.apply([keras.ops.ones((1,))], [weight])
    >>> round(float(weight.numpy()[0]), 4)
    -0.1
    """

    def __init__(
        self,
        learning_rate: float
        | keras.optimizers.schedules.LearningRateSchedule
        | Callable[[], Any] = 1e-3,
        final_learning_rate: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        gamma: float = 1e-3,
        epsilon: float = 1e-8,
        amsbound: bool = False,
        base_learning_rate: float | str | None = None,
        name: str = "adabound",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        for argument, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(
                    f"`{argument}` must be in [0, 1). Received: {argument}={value}"
                )
        positive = {
            "final_learning_rate": final_learning_rate,
            "gamma": gamma,
            "epsilon": epsilon,
        }
        for argument, value in positive.items():
            if not value > 0:
                raise ValueError(
                    f"`{argument}` must be positive. Received: {argument}={value}"
                )
        if base_learning_rate is None:
            full = getattr(learning_rate, "warmup_target", None) or learning_rate
            base_learning_rate = full if isinstance(full, float) and full else LARGEST
        if base_learning_rate != LARGEST and not (
            isinstance(base_learning_rate, (int, float)) and base_learning_rate > 0
        ):
            raise ValueError(
                "`base_learning_rate`, by default the initial `learning_rate`, must be "
                f"positive, or '{LARGEST}' for the largest rate so far. "
                f"Received: base_learning_rate={base_learning_rate}"
            )
        self.final_learning_rate = final_learning_rate
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.gamma, self.epsilon = gamma, epsilon
        self.amsbound = amsbound
        self.base_learning_rate = base_learning_rate

    def build(self, variables: Iterable[keras.Variable]) -> None:
        if self.built:
            return
        variables = list(variables)
        super().build(variables)
        self._means = self.add_optimizer_variables(variables, "mean")
        self._squares = self.add_optimizer_variables(variables, "square")
        if self.amsbound:
            self._largest = self.add_optimizer_variables(variables, "largest_square")
        if self.base_learning_rate == LARGEST:
            self._largest_rate = self.add_variable((), name="largest_rate")
        self._index = {
            id(part): index
            for index, variable in enumerate(variables)
            for part in backend.variable_copies(variable)
        }

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        dtype = variable.dtype
        eta = ops.cast(learning_rate, dtype)
        gradient = ops.cast(gradient, dtype)
        t = ops.cast(self.iterations + 1, dtype)
        index = self._index[id(variable)]
        m, v = self._means[index], self._squares[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        square = v
        if self.amsbound:
            square = self._largest[index]
            self.assign(square, ops.maximum(square, v))
        correction = ops.sqrt(1 - ops.power(self.beta_2, t)) / (
            1 - ops.power(self.beta_1, t)
        )
        final = self.final_learning_rate * eta / self._base_rate(learning_rate, dtype)
        rate = ops.clip(
            eta * correction / (ops.sqrt(square) + self.epsilon),
            final * (1 - 1 / (self.gamma * t + 1)),
            final * (1 + 1 / (self.gamma * t)),
        )
        self.assign_sub(variable, rate * m)

    def _base_rate(self, learning_rate: Tensor, dtype: Dtype) -> Tensor:
        """eta_0, or 1 as long as all rates were 0, when no step is taken anyway."""
        if self.base_learning_rate != LARGEST:
            return self.base_learning_rate
        # This runs once for each variable of a step, and does the same each time.
        largest = self._largest_rate
        rate = ops.cast(learning_rate, largest.dtype)
        self.assign(largest, ops.maximum(largest.value, rate))
        return ops.cast(ops.where(largest.value == 0, 1, largest.value), dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "final_learning_rate": self.final_learning_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "gamma": self.gamma,
            "epsilon": self.epsilon,
            "amsbound": self.amsbound,
            "base_learning_rate": self.base_learning_rate,
        }
