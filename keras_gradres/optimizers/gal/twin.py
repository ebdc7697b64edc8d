"""A second optimizer like a given one, for the adjustment networks."""

import copy
from typing import Any

import keras

# Of the arguments that all optimizers have. The rate is given, and averages and the
# scale of the loss concern the model alone.
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
    """An optimizer that is not built, with all attributes of `optimizer`, of rate 0.

    Keras makes copies of an optimizer from its `get_config`, which one of the user's,
    or its schedule, need not have until it is saved. So what all Keras optimizers have
    is made anew, and the attributes that a class adds are copied.

    Args:
        optimizer: The optimizer, of any class, not built. What a `LossScaleOptimizer`
            wraps stands for it: the remainder is not scaled.
        name: The name of the new one.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    kind: Any = type(optimizer)
    found = kind.__new__(kind)
    keras.optimizers.Optimizer.__init__(
        found,
        learning_rate=0.0,
        name=name,
        **{argument: getattr(optimizer, argument) for argument in _ARGUMENTS},
    )
    for attribute, value in vars(optimizer).items():
        if attribute in vars(found):
            continue
        if isinstance(value, keras.optimizers.Optimizer):
            value = twin(value, f"{name}_{value.name}")
        else:
            value = _copied(value, attribute, optimizer)
        setattr(found, attribute, value)
    return found


def _copied(value: Any, attribute: str, optimizer: Any) -> Any:
    # Keras puts containers of its own, which know whose they are, in these places.
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
