"""The adjustment networks of a `GAL`, one for each of its losses, and their training.

Before the backward pass of a step, `values` reads the weights, with which `call`
computes. The backward pass leaves a `Result` for each network. With these `train` makes
a step of the networks (Algorithm 1, lines 12 to 16):

    theta, state = networks.values(i)
    v, new_state, penalty = networks.call(i, z, theta, state)
    networks.train({i: result})
"""

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradres import backend, sublayers
from keras_gradres.optimizers.gal.loss import Call
from keras_gradres.optimizers.gal.mlp import MLP
from keras_gradres.typing import Shape, Tensor

# The values that a step records for each network, beside the count "dropped".
DIAGNOSTICS = ("remainder", "accepted", "cosine", "drift")


@dataclasses.dataclass
class Result:
    """What a step leaves for one network.

    Attributes:
        finite: Whether all values of the step are finite, a scalar.
        diagnostics: The `DIAGNOSTICS` of the step, of shape (4,).
        dtheta: The derivatives of the mean |r| by the trainable weights.
        state: The new values of the other weights.
    """

    finite: Tensor
    diagnostics: Tensor
    dtheta: list[Tensor]
    state: list[Tensor]

    def tensors(self) -> list[Tensor]:
        """All of it in a list; booleans as numbers, so that means can be taken."""
        finite = ops.cast(self.finite, self.diagnostics.dtype)
        return [finite, self.diagnostics, *self.dtheta, *self.state]

    def replaced(self, tensors: Iterator[Tensor]) -> "Result":
        """A result like this one with other tensors, the next of `tensors`."""
        finite, diagnostics = next(tensors) == 1, next(tensors)
        dtheta = [next(tensors) for _ in self.dtheta]
        return Result(finite, diagnostics, dtheta, [next(tensors) for _ in self.state])


class Networks:
    """The networks, their optimizer, and the diagnostics of the last step.

    Args:
        make: A function from the index of a network and their number to the network.
        optimizer: The optimizer that trains them.
        name: The name of the GAL.

    Attributes:
        layers: The networks, empty until they are built.
        optimizer: Their optimizer.
        shapes: The shapes of the outputs that they are built for.
    """

    def __init__(
        self,
        make: Callable[[int, int], keras.Layer],
        optimizer: keras.optimizers.Optimizer,
        name: str,
    ) -> None:
        self._make = make
        self.optimizer = optimizer
        self._name = name
        self.layers: tuple[keras.Layer, ...] = ()
        self._diagnostics: list[keras.Variable] = []
        self._dropped: list[keras.Variable] = []
        self.shapes: list[Shape] = []
        self._loss_refs: list[weakref.ref | None] = []
        self._weights: list[tuple] = []
        self._are_shared = False

    def build(self, shapes: list[Shape]) -> None:
        """Makes a network for each output; their shapes are (None, ...)."""
        count = len(shapes)
        networks = tuple(self._make(i, count) for i in range(count))
        for network, shape in zip(networks, shapes, strict=True):
            shape = (*shape, 1) if len(shape) == 1 else tuple(shape)
            output = sublayers.build(network, "network", shape, keras.config.floatx())
            if output[1:] != shape[1:]:
                raise ValueError(
                    "`network` must return a tensor of the shape of its input. "
                    f"Received: network={network}, which maps {shape} to {output}"
                )
        self.layers = networks
        self._weights = [
            (n.trainable_variables, n.non_trainable_variables) for n in networks
        ]
        self.shapes, self._loss_refs = shapes, [None] * count
        with keras.name_scope(self._name):
            # The name of the variables is older, and stays for states that are saved.
            self._diagnostics = [
                self._variable((len(DIAGNOSTICS),), f"measures_{i}")
                for i in range(count)
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
        weights = [v for network in self.layers for v in network.variables]
        own = [*self._diagnostics, *self._dropped]
        return [*own, *self.optimizer.variables, *weights]

    def set_weights(self, weights: list) -> None:
        """Sets all variables."""

        def assign() -> None:
            for variable, weight in zip(self.variables, weights, strict=True):
                variable.assign(weight)

        backend.eagerly(assign)

    def save_shapes(self, store: Any) -> None:
        """Puts the shapes into a store of variables: loading has to `build` first."""
        for i, shape in enumerate(self.shapes):
            sizes = [-1 if size is None else size for size in shape]
            store[f"output_shape_{i}"] = np.array(sizes, "int32")

    # --- which loss has which network ---

    def assign(self, calls: list[Call]) -> dict[int, Call]:
        """The pending calls by the index of their network.

        A loss keeps its network. New losses, in the order of their calls, take the
        networks that no loss has. If there are none, they take those of losses that are
        not called in this step, which `compile` with new losses leaves behind.
        """
        known = {ref: i for i, ref in enumerate(self._loss_refs) if ref is not None}
        called = {known[call.loss_ref] for call in calls if call.loss_ref in known}
        free = [i for i in range(len(self.layers)) if i not in called]
        free.sort(key=lambda i: self._loss_refs[i] is not None)
        new = [call for call in calls if call.loss_ref not in known]
        pending = [call for call in calls if call.is_pending()]
        if len(new) > len(free):  # Calls without a backward pass need no network.
            new = [call for call in new if call.is_pending()]
        if len(new) > len(free):
            raise ValueError(
                f"GAL was built for {len(self.layers)} adjusted losses, and would not "
                f"adjust the others. Received: {len(pending)} adjusted losses in this "
                "step. Make a new GAL for these."
            )
        for i, call in zip(free, new, strict=False):
            shape = self.shapes[i]
            if len(shape) != len(call.shape) or shape[1:][-1:] != call.shape[1:][-1:]:
                raise ValueError(
                    f"GAL was built for an output of shape {shape}. Received: an "
                    f"adjusted loss of an output of shape {call.shape}. Make a new GAL "
                    "for it."
                )
            known[call.loss_ref] = i
            self._loss_refs[i] = call.loss_ref
        return {known[call.loss_ref]: call for call in pending}

    # --- the step ---

    def share(self) -> None:
        """In the first step, makes the networks the same on all devices."""
        if not self._are_shared:
            backend.broadcast(self.variables)
            self._are_shared = True

    def values(self, index: int) -> tuple[list[Tensor], list[Tensor]]:
        """Copies of theta and of the state of a network, as they are now."""
        theta, state = self._weights[index]
        return [ops.copy(v.value) for v in theta], [ops.copy(v.value) for v in state]

    def call(
        self, index: int, z: Tensor, theta: list[Tensor], state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """The output v = h(z; theta), the new state, and the network's own losses."""
        network = self.layers[index]
        inputs = ops.expand_dims(z, -1) if len(z.shape) == 1 else z
        if isinstance(network, MLP):  # Faster in an eager step than a layer call.
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
        """A step of each network whose result is finite."""
        assign = backend.assign
        gradients, variables, restored = [], [], []
        for index, result in results.items():
            theta, state = self._weights[index]
            diagnostics, dropped = self._diagnostics[index], self._dropped[index]
            new_diagnostics = ops.cast(result.diagnostics, diagnostics.dtype)
            new, dtheta = result.state, result.dtheta
            finite = backend.bool_if_eager(result.finite)
            if finite is not True:
                count = dropped.value + ops.where(finite, 0.0, 1.0)
                assign(dropped, ops.cast(count, dropped.dtype))
                new_diagnostics = ops.where(finite, new_diagnostics, diagnostics.value)
                new = [
                    ops.where(finite, n, v.value)
                    for n, v in zip(new, state, strict=True)
                ]
                dtheta = [ops.where(finite, gradient, 0) for gradient in dtheta]
                restored += [(finite, v, ops.copy(v.value)) for v in theta]
            assign(diagnostics, new_diagnostics)
            for v, value in zip(state, new, strict=True):
                assign(v, value)
            gradients += dtheta
            variables += theta
        if variables:
            self.optimizer.apply(backend.to_apply(gradients), variables)
        # Momentum moves weights even where the gradient is zero.
        for finite, v, old in restored:
            assign(v, ops.where(finite, v.value, old))

    @property
    def diagnostics(self) -> dict[str, float]:
        """The diagnostics of the last step by their names; see `GAL`."""
        by_name = {}
        for i, (diagnostics, dropped) in enumerate(
            zip(self._diagnostics, self._dropped, strict=True)
        ):
            values = [*diagnostics.numpy(), dropped.numpy()]
            for name, value in zip((*DIAGNOSTICS, "dropped"), values, strict=True):
                name = name if len(self.layers) == 1 else f"{name}_{i}"
                by_name[name] = float(value)
        return by_name


def without_shapes(store: Any) -> tuple[dict[str, Any], list[Shape]]:
    """The variables of a store, and the shapes that `save_shapes` has put there."""
    values = {key: store[key] for key in store.keys()}  # noqa: SIM118
    shapes: list[Shape] = []
    while (key := f"output_shape_{len(shapes)}") in values:
        sizes = np.array(values.pop(key)).tolist()
        shapes.append(tuple(None if size < 0 else size for size in sizes))
    return values, shapes
