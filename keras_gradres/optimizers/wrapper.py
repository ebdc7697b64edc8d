"""What optimizers around another optimizer have in common."""

import copy

import keras


class WrapperOptimizer(keras.optimizers.Optimizer):
    """An optimizer around `inner_optimizer`, which has the rate, the rhythm, and the
    options: weight decay, clipping, averaging, accumulation, loss scaling.

    Args:
        inner_optimizer: A name, a config, or a `keras.optimizers.Optimizer` that is
            not in use elsewhere.
        name: The name of the optimizer.
    """

    def __init__(self, inner_optimizer, name=None):
        inner = keras.optimizers.get(inner_optimizer)
        if not isinstance(inner, keras.optimizers.Optimizer):
            raise ValueError(
                "`inner_optimizer` must be a Keras optimizer or the name of one. "
                f"Received: inner_optimizer={inner_optimizer}"
            )
        super().__init__(learning_rate=0.0, name=name)  # The inner one's counts.
        self.inner_optimizer = inner
        self._check_inner_is_unused()

    def _check_inner_is_unused(self):
        if self.inner_optimizer.built:
            raise ValueError(
                "`inner_optimizer` must not be built: it already belongs to a model or "
                "to another optimizer. Make a new one, with `type(optimizer)."
                "from_config(optimizer.get_config())`. "
                f"Received: inner_optimizer={self.inner_optimizer.name}"
            )

    def build(self, variables):
        if self.built:
            raise ValueError(
                f"{type(self).__name__} '{self.name}' is already built, for "
                f"{len(self._trainable_variables)} variables. Make a new one for "
                "another model."
            )
        self._check_inner_is_unused()
        super().build(variables)
        self.inner_optimizer.build(variables)

    def _build_on_first_use(self, trainable_variables):
        if self.built:
            return
        if trainable_variables is None:
            raise ValueError(
                "When gradients come without variables, the optimizer must be built. "
                "Call `optimizer.build(model.trainable_variables)` first."
            )
        with keras.name_scope(self.name):
            self.build(list(trainable_variables))

    @property
    def variables(self):
        return [*super().variables, *self.inner_optimizer.variables]

    def set_weights(self, weights):
        variables = self.variables
        if not self.built or len(weights) != len(variables):
            raise ValueError(
                f"`weights` must have {len(variables)} entries, for an optimizer that "
                f"is built. Received: {len(weights)} entries, built={self.built}"
            )
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)

    def _inner_stateless_apply(self, values, grads, trainable_variables):
        """`stateless_apply` of the inner optimizer, given all values.

        Returns:
            The new trainable values, and those of the inner optimizer, by variable id.
        """
        if not self.built:
            raise ValueError(
                f"To call `stateless_apply`, {type(self).__name__} must be built. "
                "Call `optimizer.build(model.trainable_variables)` first."
            )
        by_id = {id(v): x for v, x in zip(self.variables, values, strict=True)}
        inner = self.inner_optimizer.variables
        trainable_variables, new = self.inner_optimizer.stateless_apply(
            [by_id[id(v)] for v in inner], grads, trainable_variables
        )
        return trainable_variables, {id(v): x for v, x in zip(inner, new, strict=True)}

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = copy.deepcopy(config)  # Deserialization changes what it is given.
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**config)
