"""Checks of the arguments of `GAL`, and the networks that they describe."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_gradres.optimizers.gal.mlp import HIDDEN_UNITS, MLP


def check_inner_optimizer(inner_optimizer: Any, others: dict[str, Any]) -> None:
    """Raises for a class, and for arguments that belong to the inner optimizer."""
    if inspect.isclass(inner_optimizer):
        name = inner_optimizer.__name__
        raise ValueError(
            "`inner_optimizer` must be an optimizer, not its class. Write "
            f"`GAL({name}(...))`. Received: inner_optimizer={inner_optimizer}"
        )
    misplaced = [n for n in others if n in _ARGUMENTS_OF_OPTIMIZERS]
    if misplaced:
        name = "keras.optimizers.SGD"
        if isinstance(inner_optimizer, keras.optimizers.Optimizer):
            name = type(inner_optimizer).__name__
        given = ", ".join(f"{n}={others[n]}" for n in misplaced)
        raise ValueError(
            f"`{misplaced[0]}` is an argument of the inner optimizer. Write "
            f"`GAL({name}({given}))`. Received: {given}"
        )
    if others:
        raise TypeError(f"`GAL` has no argument `{next(iter(others))}`.")


_ARGUMENTS_OF_OPTIMIZERS = (
    "learning_rate",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "momentum",
    "nesterov",
    "beta_1",
    "beta_2",
    "epsilon",
    "amsgrad",
)


def check_networks(gal: Any) -> None:
    """Raises if the arguments for the networks are wrong."""
    network, hidden_units = gal.network, gal.hidden_units
    given = network if isinstance(network, (list, tuple)) else [network]
    if network is not None and not (
        given and all(isinstance(n, keras.Layer) for n in given)
    ):
        raise ValueError(
            "`network` must be a Keras layer or model, or a list of them, one for each "
            f"adjusted loss. Received: network={network}"
        )
    if hidden_units is not None and not (
        isinstance(hidden_units, (list, tuple))
        and all(isinstance(n, int) and n > 0 for n in hidden_units)
    ):
        raise ValueError(
            "`hidden_units` must be a list of positive integers. "
            f"Received: hidden_units={hidden_units}"
        )
    of_mlp = {
        "hidden_units": hidden_units is not None,
        "activation": gal.activation is not keras.activations.linear,
        "skip": not gal.skip,
        "use_bias": not gal.use_bias,
    }
    for name, is_given in of_mlp.items():
        if network is not None and is_given:
            raise ValueError(
                f"Only one of `network` and `{name}` can be given: `network` replaces "
                f"the MLP, which `{name}` is for. Received: network={network}, "
                f"{name}={getattr(gal, name)}"
            )
    shapes = gal.output_shapes
    if shapes is not None and not (
        isinstance(shapes, (list, tuple))
        and shapes
        and all(isinstance(shape, (list, tuple)) and shape for shape in shapes)
    ):
        raise ValueError(
            "`output_shapes` must be a list with the shape of each adjusted output, as "
            f"[(None, 10)]. Received: output_shapes={shapes}"
        )


def networks_maker(gal: Any) -> Callable[[int, int], keras.Layer]:
    """A function from an index and the number of networks to the network.

    It holds no reference to `gal`, which holds it.
    """
    given, name, seed = gal.network, gal.name, gal.seed
    widths = HIDDEN_UNITS if gal.hidden_units is None else gal.hidden_units
    of_mlp = (widths, gal.activation, gal.skip, gal.use_bias)

    def make(index: int, count: int) -> keras.Layer:
        if given is not None:
            networks = given if isinstance(given, (list, tuple)) else [given]
            if len(networks) != count:
                raise ValueError(
                    f"`network` must be a list of {count} networks, one for each "
                    f"adjusted loss. Received: {len(networks)}"
                )
            return networks[index]
        return MLP(
            *of_mlp,
            seed=None if seed is None else seed + 1000 * index,
            name=f"{name}_network_{index}",
            dtype=keras.config.floatx(),
        )

    return make
