"""The base class of optimizers that wrap another optimizer.

A step is that of the inner optimizer, with a hook before it and one after it:

    before = self._before_step(grads)
    self.inner_optimizer.apply(gradients)
    self._after_step(before)

`apply` and `stateless_apply` are both written in terms of these hooks.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_gradres import backend
from keras_gradres.typing import Config, Tensor


class WrapperOptimizer(keras.optimizers.Optimizer):
    """An optimizer around `inner_optimizer`.

    The learning rate, the count of steps and all options are those of the inner
    optimizer: weight decay, clipping, averaging, accumulation, loss scaling.

    Subclasses override `_before_step` and `_after_step`.

    Args:
        inner_optimizer: A name, a config, or a `keras.optimizers.Optimizer` that is
            not in use elsewhere.
        name: The name of the optimizer.
    """

    _NESTED: tuple[str, ...] = ("inner_optimizer",)  # Objects in the configuration.

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str | dict,
        name: str | None = None,
    ) -> None:
        optimizer = keras.optimizers.get(inner_optimizer)
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "`inner_optimizer` must be a Keras optimizer or the name of one. "
                f"Received: inner_optimizer={inner_optimizer}"
            )
        super().__init__(learning_rate=0.0, name=name)  # This rate is not used.
        self.inner_optimizer = optimizer
        self._check_inner_is_unused()
        # The variables that it is built for. They are behind a function, because Keras
        # takes variables in an attribute for those of the optimizer.
        self._get_model_variables: Callable[[], list[keras.Variable]] = list
        # The variables that exist before `build` stay first in `variables`. So their
        # places are the same before and after it.
        first = [*super().variables, *optimizer.variables]
        self._first = {id(v): i for i, v in enumerate(first)}
        # Weights that are set when the variables for them have been made.
        self._waiting: list[np.ndarray] | None = None

    def _check_inner_is_unused(self) -> None:
        if self.inner_optimizer.built:
            raise ValueError(
                "`inner_optimizer` must not be built: it already belongs to a model or "
                "to another optimizer. Make a new one, with `type(optimizer)."
                "from_config(optimizer.get_config())`. "
                f"Received: inner_optimizer={self.inner_optimizer.name}"
            )

    @property
    def _model_variables(self) -> list[keras.Variable]:
        return self._get_model_variables()

    def build(self, variables: Iterable[keras.Variable]) -> None:
        """Makes the state for `variables`; does nothing if it is made already."""
        variables = list(variables)
        if not variables:  # Keras does this when it loads a model from an `.h5` file.
            return
        if self._model_variables:
            if [id(v) for v in variables] != [id(v) for v in self._model_variables]:
                raise ValueError(
                    f"{type(self).__name__} '{self.name}' is already built, for "
                    f"{len(self._model_variables)} variables. Make a new one for "
                    f"another model. Received: {len(variables)} variables, which are "
                    "not the same"
                )
            return
        self._check_inner_is_unused()
        super().build(variables)
        self.inner_optimizer.build(variables)
        self._get_model_variables = lambda: variables
        self._build_state()
        self._set_waiting_weights()

    def _build_state(self) -> None:
        """Hook for subclasses: makes the state that the subclass adds."""

    # --- the step ---

    def _before_step(self, grads: Sequence[Any]) -> Any:
        """Hook for subclasses, called before the step of the inner optimizer.

        Args:
            grads: The gradients, as the inner optimizer gets them.

        Returns:
            Anything, which `_after_step` is called with.
        """

    def _after_step(self, before: Any) -> None:
        """Hook for subclasses, called after the step of the inner optimizer."""

    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Iterable[keras.Variable] | None = None,
    ) -> None:
        if not len(grads):
            return  # As in every Keras optimizer.
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        if not self.built:
            self._build_for(trainable_variables)
        before = self._before_step(grads)
        self.inner_optimizer.apply(grads, trainable_variables)
        self._after_step(before)

    def _build_for(self, trainable_variables: list[keras.Variable] | None) -> None:
        if trainable_variables is None:
            raise ValueError(
                "When gradients come without variables, the optimizer must be built. "
                "Call `optimizer.build(model.trainable_variables)` first."
            )
        with keras.name_scope(self.name):
            self.build(trainable_variables)

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Any],
        grads: Sequence[Any],
        trainable_variables: Sequence[Any],
    ) -> tuple[list[Any], list[Any]]:
        if not len(grads):
            return list(trainable_variables), list(optimizer_variables)
        if not self.built:
            raise ValueError(
                f"To call `stateless_apply`, {type(self).__name__} must be built. "
                "Call `optimizer.build(model.trainable_variables)` first."
            )
        variables = self.variables
        with self._with_values(variables, optimizer_variables, trainable_variables):
            before = self._before_step(grads)
        # Not `apply` in the scope: a `LossScaleOptimizer`, for one, works in this way
        # only.
        inner_variables = self.inner_optimizer.variables
        values = {id(v): x for v, x in zip(variables, optimizer_variables, strict=True)}
        trainable_variables, inner_values = self.inner_optimizer.stateless_apply(
            [values[id(v)] for v in inner_variables], grads, trainable_variables
        )
        values.update(zip(map(id, inner_variables), inner_values, strict=True))
        with self._with_values(
            variables, [values[id(v)] for v in variables], trainable_variables
        ) as scope:
            self._after_step(before)
        return (
            [scope.get_current_value(v) for v in self._model_variables],
            [scope.get_current_value(v) for v in variables],
        )

    def _with_values(
        self,
        variables: Sequence[keras.Variable],
        optimizer_values: Sequence[Any],
        model_values: Sequence[Any],
    ) -> keras.StatelessScope:
        """A scope in which the variables have these values."""
        own = zip(variables, optimizer_values, strict=True)
        model = zip(self._model_variables, model_values, strict=True)
        return keras.StatelessScope([*own, *model])

    # --- variables, and what is passed on to the inner optimizer ---

    @property
    def variables(self) -> list[keras.Variable]:
        variables = [*super().variables, *self.inner_optimizer.variables]
        return sorted(variables, key=lambda v: self._first.get(id(v), len(self._first)))

    def _is_complete(self) -> bool:
        """Whether all variables are made."""
        return self.built

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets all variables; those that are not made yet, when they are made."""
        weights, variables = list(weights), self.variables
        if not self._is_complete():
            # Copies: Keras closes the file that they come from.
            self._waiting = [ops.convert_to_numpy(w) for w in weights]
            variables = variables[: len(self._first)]
            weights = weights[: len(self._first)]
        if len(weights) != len(variables):
            raise ValueError(
                f"`weights` must have {len(variables)} entries, one for each variable "
                f"of the optimizer. Received: {len(weights)} entries"
            )

        def assign() -> None:
            for variable, weight in zip(variables, weights, strict=True):
                variable.assign(weight)

        backend.eagerly(assign)  # TensorFlow builds optimizers where it traces steps.

    def _set_waiting_weights(self) -> None:
        """Sets the weights that wait; to be called when all variables are made."""
        if self._waiting is not None and self._is_complete():
            weights, self._waiting = self._waiting, None
            self.set_weights(weights)

    def save_own_variables(self, store: Any) -> None:
        if self._waiting is not None:
            for i, weight in enumerate(self._waiting):
                store[str(i)] = weight
        elif self.built:
            super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        if store.keys():  # Empty if it was saved before its first step.
            super().load_own_variables(store)

    def scale_loss(self, loss: Tensor) -> Tensor:
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(
        self,
        var_list: list[keras.Variable] | None = None,
        var_names: list[str] | None = None,
    ) -> None:
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    def get_config(self) -> Config:
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        config = copy.deepcopy(config)  # Deserialization changes what it is given.
        for name in cls._NESTED:
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
        return cls(**config)
