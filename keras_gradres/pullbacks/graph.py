"""A branch as the list of its calls.

    nodes <- the calls of layers, in order; containers and models are opened
    run:    for each node: y, pullbacks <- rule(layer, x)

Usage:

    graph = Graph(branch)
    run = graph.run(x, training=True, mask=None, second_order=False)
    run.output, run.gradient()
"""

import dataclasses
from typing import Any

import keras

from keras_gradres.pullbacks import registry
from keras_gradres.pullbacks.masks import Masks
from keras_gradres.pullbacks.recording import (
    Section,
    is_functional,
    is_sequential,
    recorded,
)
from keras_gradres.pullbacks.rule import Call, is_float_tensor
from keras_gradres.pullbacks.walk import Run, Slot, Step


@dataclasses.dataclass(frozen=True)
class Node:
    """One call of a layer or an operation in the branch.

    Attributes:
        layer: The layer or the operation.
        args: Its arguments, with slots in the place of tensors.
        kwargs: Its keyword arguments, likewise.
        outputs: The structure of slots of its outputs.
        training: What the branch says of training in this call, or `None`. Keras heeds
            it only where the model itself is not told.
    """

    layer: Any
    args: tuple
    kwargs: dict
    outputs: Any
    training: bool | None


class Graph:
    """The calls of a branch, in order.

    Args:
        branch: A layer, or a `Section` of a model.

    Attributes:
        nodes: The list of `Node`.
    """

    def __init__(self, branch: keras.Layer | Section):
        self.nodes: list[Node] = []
        self._masks = Masks()
        self.input = Slot()
        self.output = self._open(branch, (self.input,), {}, None)

    @property
    def layers(self) -> list[Any]:
        """The layers and operations that are called, each once."""
        return list({id(node.layer): node.layer for node in self.nodes}.values())

    @property
    def is_certain(self) -> bool:
        """Whether, so far as can be said before a call, the structure tells all of
        whether the gradient vanishes.
        """
        return all(
            registry.has_rule(layer)
            and registry.has_known_activation(layer)
            and type(layer).__name__ not in registry.MAY_CANCEL
            for layer in self.layers
        )

    def parts(self, shape: tuple, dtype: str) -> dict[str, list[str]]:
        """See `Run.parts`; found without a computation."""

        def call(x):
            found.append(self.run(x, training=True).parts())
            return x

        found: list[dict[str, list[str]]] = []
        Traced(call).compute_output_spec(keras.KerasTensor(shape, dtype=dtype))
        return found[0]

    def run(
        self,
        x: Any,
        training: bool | None,
        mask: Any = None,
        second_order: bool = False,
        differentiate: bool = True,
    ) -> "Run":
        """Calls the branch on `x`, a tensor, or only that, without its pullbacks."""
        x = self._masks.attach(x, mask)
        values = {self.input: x}
        steps: list[Step] = []
        for node in self.nodes:
            args, kwargs = _tensors(node, values)
            inside = node.training if training is None else training
            call = Call(node.layer, bool(inside), second_order, self._masks)
            if differentiate:
                output, pullbacks = registry.pull(call, args, kwargs)
                slots = _float_slots(node, args, kwargs)
                steps.extend(_chained(node, slots, pullbacks, output))
            else:
                output = call(*args, **kwargs)
            if isinstance(node.outputs, Slot):
                values[node.outputs] = output
            else:
                found = zip(
                    keras.tree.flatten(node.outputs),
                    keras.tree.flatten(output),
                    strict=True,
                )
                values.update(found)
        tensors = (values[self.input], values[self.output])
        return Run(steps, (self.input, self.output), tensors, self._masks, second_order)

    def mask_of(self, tensor: Any) -> Any:
        """The Keras mask of an output, or `None`."""
        return self._masks.of(tensor)

    def _open(self, layer, args, kwargs, training, like=None):
        """Appends the calls in `layer`; returns the structure of its outputs."""
        training = kwargs.get("training", training)
        kwargs = {k: v for k, v in kwargs.items() if k != "training"}
        if is_sequential(layer) and not kwargs:
            (slot,) = args
            for inner in layer.layers:
                slot = self._open(inner, (slot,), {}, training)
            return slot
        if is_functional(layer) and not kwargs:
            layer = recorded(layer)
        if isinstance(layer, Section):
            return self._open_section(layer, args, training)
        outputs = keras.tree.map_structure(lambda _: Slot(), like)
        self.nodes.append(Node(layer, args, kwargs, outputs, training))
        return outputs

    def _open_section(self, section, args, training):
        inputs = zip(section.inputs, keras.tree.flatten(args), strict=True)
        slots = {id(tensor): slot for tensor, slot in inputs}

        def slot_of(value):
            return slots[id(value)] if isinstance(value, keras.KerasTensor) else value

        for layer, args, kwargs, output in section.calls:
            args, kwargs = keras.tree.map_structure(slot_of, (args, kwargs))
            found = self._open(layer, args, kwargs, training, like=output)
            pairs = zip(
                keras.tree.flatten(output), keras.tree.flatten(found), strict=True
            )
            slots.update((id(tensor), slot) for tensor, slot in pairs)
        return keras.tree.map_structure(slot_of, _unpacked(section.outputs))


class Traced(keras.Layer):
    """Calls a function on tensors that have a shape only."""

    def __init__(self, function):
        super().__init__(autocast=False)
        self.function = function

    def call(self, x):
        return self.function(x)


def _is_simple(node):
    """Whether it is given one tensor: most are, and it is felt in an eager step."""
    return not node.kwargs and len(node.args) == 1 and isinstance(node.args[0], Slot)


def _tensors(node, values):
    """The arguments of a call, with tensors in the place of slots."""
    if _is_simple(node):
        return (values[node.args[0]],), {}

    def value_of(value):
        return values[value] if isinstance(value, Slot) else value

    return keras.tree.map_structure(value_of, (node.args, node.kwargs))


def _float_slots(node, args, kwargs):
    """The slots and ranks of the floating-point tensors that the call is given."""
    if _is_simple(node):
        given, values = node.args, args
    else:
        given = keras.tree.flatten((node.args, node.kwargs))
        values = keras.tree.flatten((args, kwargs))
    return [
        (slot, len(value.shape))
        for slot, value in zip(given, values, strict=True)
        if isinstance(slot, Slot) and is_float_tensor(value)
    ]


def _chained(node, inputs, pullbacks, output):
    """The pullbacks of a call as steps, with slots between them."""
    tensors = zip(
        keras.tree.flatten(node.outputs), keras.tree.flatten(output), strict=True
    )
    floats = [(s, t) for s, t in tensors if is_float_tensor(t)]
    outputs = [slot for slot, _ in floats]
    specs = [(len(t.shape), t.dtype) for _, t in floats]
    ranks = [rank for rank, _ in specs]
    steps = []
    for pullback in pullbacks[:-1]:
        between = Slot()
        steps.append(Step(pullback, node.layer, outputs, specs, [between], ranks))
        outputs = [between]
    slots, ranks = [slot for slot, _ in inputs], [rank for _, rank in inputs]
    steps.append(Step(pullbacks[-1], node.layer, outputs, specs, slots, ranks))
    return reversed(steps)


def _unpacked(values):
    return values[0] if len(values) == 1 else list(values)
