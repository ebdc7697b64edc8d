"""The adjustment networks of a `GAL`, one for each of its losses, and their training.

Of a step, `values` are read before the backward pass, and are what `call` computes
with. What the backward pass leaves is a `Result` for each network, from which `train`
makes a step (Algorithm 1, lines 12 to 16):

    theta, state = networks.values(i)
    v, new_state, penalty = networks.call(i, z, theta, state)
    networks.train({i: result})
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradres import backend
from keras_gradres.layers import inner
from keras_gradres.optimizers.gal.loss import Call

MEASURES = ("remainder", "accepted", "cosine", "drift", "dropped")

_ONE_MORE_DROPPED = np.array([0, 0, 0, 0, 1], "float32")


@dataclasses.dataclass
class Result:
    """What a step leaves for one network.

    Attributes:
        finite: Whether all that was computed is finite, a scalar.
        measures: The `MEASURES` of the step but the last, of shape (4,).
        dtheta: The derivatives of the mean |r| by the trainable weights.
        state: The new values of the other weights.
    """

    finite: Any
    measures: Any
    dtheta: list
    state: list

    def tensors(self) -> list:
        """All of it, as numbers of which means can be taken."""
        finite = ops.cast(self.finite, self.measures.dtype)
        return [finite, self.measures, *self.dtheta, *self.state]

    def replaced(self, tensors: Iterator[Any]) -> "Result":
        """A result with the next of `tensors` in the place of its own."""
        finite, measures = next(tensors) == 1, next(tensors)
        dtheta = [next(tensors) for _ in self.dtheta]
        return Result(finite, measures, dtheta, [next(tensors) for _ in self.state])


class Networks:
    """The networks, what trains them, and what was measured in the last step.

    Args:
        make: A function of an index and a count that returns a network.
        optimizer: What trains them.
        name: The name of the GAL.

    Attributes:
        layers: The networks, empty until they are built.
        optimizer: As given.
        shapes: Those of the outputs that they are built for.
    """

    def __init__(self, make: Any, optimizer: Any, name: str) -> None:
        self._make = make
        self.optimizer = optimizer
        self._name = name
        self.layers: tuple[keras.Layer, ...] = ()
        self._measures: list[keras.Variable] = []
        self.shapes: list[tuple] = []
        self._losses: list[Any] = []
        self._are_shared = False

    def build(self, shapes: list[tuple]) -> None:
        """Makes a network for each output of these shapes, (None, ...)."""
        found = [self._make(i, len(shapes)) for i in range(len(shapes))]
        for network, shape in zip(found, shapes, strict=True):
            shape = (*shape, 1) if len(shape) == 1 else tuple(shape)
            output = inner.build(network, "network", shape, keras.config.floatx())
            if output[1:] != shape[1:]:
                raise ValueError(
                    "`network` must return a tensor of the shape of its input. "
                    f"Received: network={network}, which maps {shape} to {output}"
                )
        self.layers = tuple(found)
        self.shapes, self._losses = shapes, [None] * len(shapes)
        with keras.name_scope(self._name):
            self._measures = [
                keras.Variable(
                    np.zeros(len(MEASURES), "float32"),
                    trainable=False,
                    name=f"measures_{i}",
                )
                for i in range(len(shapes))
            ]
        self.optimizer.build(self.trainable_variables)

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return [v for network in self.layers for v in network.trainable_variables]

    @property
    def variables(self) -> list[keras.Variable]:
        found = [v for network in self.layers for v in network.variables]
        return [*self._measures, *self.optimizer.variables, *found]

    def set_weights(self, weights: list) -> None:
        """Sets all variables."""

        def assign() -> None:
            for variable, weight in zip(self.variables, weights, strict=True):
                variable.assign(weight)

        backend.eagerly(assign)

    def save_shapes(self, store: Any) -> None:
        """Puts the shapes into a store of variables, whose loading begins with them."""
        for i, shape in enumerate(self.shapes):
            sizes = [-1 if size is None else size for size in shape]
            store[f"output_shape_{i}"] = np.array(sizes, "int32")

    # --- which loss has which network ---

    def assign(self, calls: list[Call]) -> dict[int, Call]:
        """The pending calls by the index of their network.

        A loss keeps its network. A new one takes, in the order of the calls, one that
        was never taken, or else one whose loss is not called in this step, as after
        `compile` with new losses.
        """
        known = {ref: i for i, ref in enumerate(self._losses) if ref is not None}
        called = {known[call.loss] for call in calls if call.loss in known}
        free = [i for i in range(len(self.layers)) if i not in called]
        free.sort(key=lambda i: self._losses[i] is not None)
        new = [call for call in calls if call.loss not in known]
        pending = [call for call in calls if call.is_pending()]
        if len(new) > len(free):  # Those that were called elsewhere can do without.
            new = [call for call in new if call.is_pending()]
        if len(new) > len(free):
            raise ValueError(
                f"GAL was built for {len(self.layers)} adjusted losses, and would "
                f"leave the others as they are. Received: {len(pending)} adjusted "
                "losses in this step. Make a new GAL for these."
            )
        for i, call in zip(free, new, strict=False):
            shape = self.shapes[i]
            if len(shape) != len(call.shape) or shape[1:][-1:] != call.shape[1:][-1:]:
                raise ValueError(
                    f"GAL was built for an output of shape {shape}. Received: an "
                    f"adjusted loss of an output of shape {call.shape}. Make a new GAL "
                    "for it."
                )
            known[call.loss] = i
            self._losses[i] = call.loss
        return {known[call.loss]: call for call in pending}

    # --- the step ---

    def share(self) -> None:
        """In the first step, makes the networks the same on all devices."""
        if not self._are_shared:
            backend.broadcast(self.variables)
            self._are_shared = True

    def values(self, index: int) -> tuple[list, list]:
        """Theta and the state of a network now, as tensors that stay what they are."""
        network = self.layers[index]
        return (
            [ops.copy(v.value) for v in network.trainable_variables],
            [ops.copy(v.value) for v in network.non_trainable_variables],
        )

    def call(self, index: int, z: Any, theta: list, state: list) -> tuple:
        """V = h(z; theta), the new state, and the losses of the network itself."""
        network = self.layers[index]
        trainable, other = network.trainable_variables, network.non_trainable_variables
        mapping = zip([*trainable, *other], [*theta, *state], strict=True)
        with keras.StatelessScope(list(mapping), collect_losses=True) as scope:
            inputs = ops.expand_dims(z, -1) if len(z.shape) == 1 else z
            v = network(inputs, training=True)
            penalty = sum(network.losses)
            state = [scope.get_current_value(v) for v in other]
        return ops.reshape(ops.cast(v, z.dtype), ops.shape(z)), state, penalty

    def train(self, results: dict[int, Result]) -> None:
        """A step of each network with a result, but of those that are not finite."""
        assign = backend.assign
        gradients, variables, restored = [], [], []
        for index, result in results.items():
            network = self.layers[index]
            finite = result.finite
            pairs = zip(network.trainable_variables, result.dtheta, strict=True)
            for v, gradient in pairs:
                gradients.append(ops.where(finite, gradient, 0))
                variables.append(v)
                restored.append((finite, v, ops.copy(v.value)))
            pairs = zip(network.non_trainable_variables, result.state, strict=True)
            for v, new in pairs:
                assign(v, ops.where(finite, new, v.value))
            measures = self._measures[index]
            found = ops.cast(result.measures, measures.dtype)
            found = ops.concatenate([found, measures[-1:]])
            assign(measures, ops.where(finite, found, measures + _ONE_MORE_DROPPED))
        if variables:
            self.optimizer.apply(backend.to_apply(gradients), variables)
        for finite, v, old in restored:  # Momentum moves without a gradient, too.
            assign(v, ops.where(finite, v.value, old))

    @property
    def diagnostics(self) -> dict[str, float]:
        rows = [ops.convert_to_numpy(measures) for measures in self._measures]
        return {
            name if len(rows) == 1 else f"{name}_{i}": float(value)
            for i, row in enumerate(rows)
            for name, value in zip(MEASURES, row, strict=True)
        }


def without_shapes(store: Any) -> tuple[dict, list[tuple]]:
    """The variables of a store, and the shapes that `save_shapes` has put there."""
    values = {key: store[key] for key in store.keys()}  # noqa: SIM118
    shapes: list[tuple] = []
    while (key := f"output_shape_{len(shapes)}") in values:
        sizes = np.array(values.pop(key)).tolist()
        shapes.append(tuple(None if size < 0 else size for size in sizes))
    return values, shapes


def can_make_variables() -> bool:
    """Whether this is not inside a step that is given all state."""
    try:
        keras.Variable(0.0)
    except ValueError:  # Keras forbids it inside a stateless scope.
        return False
    return True
