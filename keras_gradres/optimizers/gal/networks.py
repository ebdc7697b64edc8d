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

from keras_gradres import backend, sublayers
from keras_gradres.optimizers.gal.loss import Call
from keras_gradres.optimizers.gal.mlp import MLP

MEASURES = ("remainder", "accepted", "cosine", "drift")


@dataclasses.dataclass
class Result:
    """What a step leaves for one network.

    Attributes:
        finite: Whether all that was computed is finite, a scalar.
        measures: The `MEASURES` of the step, of shape (4,).
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
        self._dropped: list[keras.Variable] = []
        self.shapes: list[tuple] = []
        self._losses: list[Any] = []
        self._weights: list[tuple] = []
        self._are_shared = False

    def build(self, shapes: list[tuple]) -> None:
        """Makes a network for each output of these shapes, (None, ...)."""
        count = len(shapes)
        found = [self._make(i, count) for i in range(count)]
        for network, shape in zip(found, shapes, strict=True):
            shape = (*shape, 1) if len(shape) == 1 else tuple(shape)
            output = sublayers.build(network, "network", shape, keras.config.floatx())
            if output[1:] != shape[1:]:
                raise ValueError(
                    "`network` must return a tensor of the shape of its input. "
                    f"Received: network={network}, which maps {shape} to {output}"
                )
        self.layers = tuple(found)
        self._weights = [
            (n.trainable_variables, n.non_trainable_variables) for n in found
        ]
        self.shapes, self._losses = shapes, [None] * count
        with keras.name_scope(self._name):
            self._measures = [
                self._variable((len(MEASURES),), f"measures_{i}") for i in range(count)
            ]
            self._dropped = [self._variable((), f"dropped_{i}") for i in range(count)]
        self.optimizer.build(self.trainable_variables)

    def _variable(self, shape: tuple, name: str) -> keras.Variable:
        return keras.Variable(np.zeros(shape, "float32"), trainable=False, name=name)

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return [v for network in self.layers for v in network.trainable_variables]

    @property
    def variables(self) -> list[keras.Variable]:
        found = [v for network in self.layers for v in network.variables]
        return [*self._measures, *self._dropped, *self.optimizer.variables, *found]

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
        theta, state = self._weights[index]
        return [ops.copy(v.value) for v in theta], [ops.copy(v.value) for v in state]

    def call(self, index: int, z: Any, theta: list, state: list) -> tuple:
        """V = h(z; theta), the new state, and the losses of the network itself."""
        network = self.layers[index]
        inputs = ops.expand_dims(z, -1) if len(z.shape) == 1 else z
        if isinstance(network, MLP):  # What a call of a layer takes is felt.
            v, penalty = network.function(inputs, theta), 0.0
        else:
            trainable, other = self._weights[index]
            mapping = zip([*trainable, *other], [*theta, *state], strict=True)
            with keras.StatelessScope(list(mapping), collect_losses=True) as scope:
                v = network(inputs, training=True)
                penalty = sum(network.losses)
                state = [scope.get_current_value(v) for v in other]
        if v.dtype != z.dtype:
            v = ops.cast(v, z.dtype)
        if inputs is not z:
            v = ops.reshape(v, ops.shape(z))
        return v, state, penalty

    def train(self, results: dict[int, Result]) -> None:
        """A step of each network with a result, but of those that are not finite."""
        assign = backend.assign
        gradients, variables, restored = [], [], []
        for index, result in results.items():
            theta, state = self._weights[index]
            measures, dropped = self._measures[index], self._dropped[index]
            found = result.measures
            new, dtheta = result.state, result.dtheta
            finite = backend.known(result.finite)
            if finite is not True:
                more = dropped.value + ops.where(finite, 0.0, 1.0)
                assign(dropped, ops.cast(more, dropped.dtype))
                found = ops.where(
                    finite, ops.cast(found, measures.dtype), measures.value
                )
                new = [
                    ops.where(finite, n, v.value)
                    for n, v in zip(new, state, strict=True)
                ]
                dtheta = [ops.where(finite, gradient, 0) for gradient in dtheta]
                restored += [(finite, v, ops.copy(v.value)) for v in theta]
            assign(measures, ops.cast(found, measures.dtype))
            for v, value in zip(state, new, strict=True):
                assign(v, value)
            gradients += dtheta
            variables += theta
        if variables:
            self.optimizer.apply(backend.to_apply(gradients), variables)
        for finite, v, old in restored:  # Momentum moves without a gradient, too.
            assign(v, ops.where(finite, v.value, old))

    @property
    def diagnostics(self) -> dict[str, float]:
        found = {}
        for i, (measures, dropped) in enumerate(
            zip(self._measures, self._dropped, strict=True)
        ):
            values = [*measures.numpy(), dropped.numpy()]
            for name, value in zip((*MEASURES, "dropped"), values, strict=True):
                name = name if len(self.layers) == 1 else f"{name}_{i}"
                found[name] = float(value)
        return found


def without_shapes(store: Any) -> tuple[dict, list[tuple]]:
    """The variables of a store, and the shapes that `save_shapes` has put there."""
    values = {key: store[key] for key in store.keys()}  # noqa: SIM118
    shapes: list[tuple] = []
    while (key := f"output_shape_{len(shapes)}") in values:
        sizes = np.array(values.pop(key)).tolist()
        shapes.append(tuple(None if size < 0 else size for size in sizes))
    return values, shapes
