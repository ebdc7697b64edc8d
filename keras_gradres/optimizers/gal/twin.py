"""A second optimizer like a given one, for the adjustment networks."""

import copy
from typing import Any

import keras

# The arguments of all Keras optimizers that the copy has, too. The others are left out:
# GAL sets the rate, and averages and loss scaling are for the model.
_ARGUMENTS = (
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "gradient_accumulation_steps",
)


def twin(
    optimizer: keras.optimizers.Optimizer, name: str
) -> keras.optimizers.Optimizer:
    """A second optimizer, not built, with the attributes of `optimizer` and rate 0.

    Keras copies an optimizer by its `get_config`. But an optimizer of the user's, or
    its schedule, needs none before it is saved. So the attributes of all Keras
    optimizers are made anew, and those that the class adds are copied.

    Args:
        optimizer: The optimizer, of any class, not built. Of a `LossScaleOptimizer` the
            wrapped optimizer is taken, because the remainder is not scaled.
        name: The name of the second optimizer.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    kind: Any = type(optimizer)
    second = kind.__new__(kind)
    keras.optimizers.Optimizer.__init__(
        second,
        learning_rate=0.0,
        name=name,
        **{argument: getattr(optimizer, argument) for argument in _ARGUMENTS},
    )
    for attribute, value in vars(optimizer).items():
        if attribute in vars(second):
            continue
        if isinstance(value, keras.optimizers.Optimizer):
            value = twin(value, f"{name}_{value.name}")
        else:
            value = _copied(value, attribute, optimizer)
        setattr(second, attribute, value)
    return second


def _copied(value: Any, attribute: str, optimizer: Any) -> Any:
    # Keras replaces containers by its own, which refer to the optimizer that has them.
    for kind in (list, dict, set):
        if isinstance(value, kind):
            value = kind(value)
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise ValueError(
            "GAL trains its networks with a copy of `inner_optimizer`, and cannot copy "
            f"`{attribute}` of it. Give `adjustment_optimizer`. "
            f"Received: inner_optimizer={optimizer.name}"
        ) from error
