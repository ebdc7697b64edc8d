"""A branch as the list of its calls.

    nodes <- the calls of layers, in order; a model is replaced by the calls in it
    run:    for each node: y, pullbacks <- rule(layer, x)

Usage:

    graph = Graph(branch)
    run = graph.run(x, training=True, mask=None, second_order=False)
    run.output, run.gradient()
"""

import dataclasses
from collections.abc import Iterable
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
from keras_gradres.pullbacks.rule import Call, Pullback, is_float_tensor
from keras_gradres.pullbacks.walk import Link, Run, Slot
from keras_gradres.typing import (
    Dtype,
    Mask,
    Shape,
    Structure,
    Tensor,
    TensorFunction,
)


@dataclasses.dataclass(frozen=True)
class Node:
    """One call of a layer or an operation in the branch.

    Attributes:
        layer: The layer or the operation.
        args: Its arguments, with slots in the place of tensors.
        kwargs: Its keyword arguments, likewise.
        outputs: The structure of slots of its outputs.
        training: The argument `training` that the model gives to this call, or `None`.
            As in Keras, it is used only where the model itself is called without one.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Structure
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
        self.output = self._append(branch, (self.input,), {}, None)

    @property
    def layers(self) -> list[Any]:
        """The layers and operations that are called, each once."""
        return list({id(node.layer): node.layer for node in self.nodes}.values())

    @property
    def is_certain(self) -> bool:
        """Whether the structure alone shows if the gradient vanishes.

        It is decided before a call, so `Run.is_certain` may still be false.
        """
        return all(
            registry.has_rule(layer)
            and registry.has_known_activation(layer)
            and type(layer).__name__ not in registry.MAY_CANCEL
            for layer in self.layers
        )

    def parts(self, shape: Shape, dtype: Dtype) -> dict[str, list[str]]:
        """See `Run.parts`; found without a computation."""

        def call(x: Tensor) -> Tensor:
            parts.append(self.run(x, training=True).parts())
            return x

        parts: list[dict[str, list[str]]] = []
        Traced(call).compute_output_spec(keras.KerasTensor(shape, dtype=dtype))
        return parts[0]

    def run(
        self,
        x: Tensor,
        training: bool | None,
        mask: Mask = None,
        second_order: bool = False,
        differentiate: bool = True,
    ) -> Run:
        """Calls the branch.

        Args:
            x: The input of the branch.
            training: The argument `training` of the call.
            mask: The Keras mask of `x`.
            second_order: Whether gradients flow through the gradient of the branch.
            differentiate: Whether the pullbacks are needed, or only the output.
        """
        x = self._masks.attach(x, mask)
        values = {self.input: x}
        links: list[Link] = []
        for node in self.nodes:
            args, kwargs = _tensors(node, values)
            node_training = node.training if training is None else training
            call = Call(node.layer, bool(node_training), second_order, self._masks)
            if differentiate:
                output, pullbacks = registry.pull(call, args, kwargs)
                inputs = _float_inputs(node, args, kwargs)
                links.extend(_linked(node, inputs, pullbacks, output))
            else:
                output = call(*args, **kwargs)
            if isinstance(node.outputs, Slot):
                values[node.outputs] = output
            else:
                values.update(_pairs(node.outputs, output))
        tensors = (values[self.input], values[self.output])
        return Run(links, (self.input, self.output), tensors, self._masks, second_order)

    def mask_of(self, tensor: Tensor) -> Mask:
        """The Keras mask of an output, or `None`."""
        return self._masks.of(tensor)

    def _append(
        self,
        layer: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        training: bool | None,
        like: Structure = None,
    ) -> Structure:
        """Appends a call, or the calls in it if the layer is a model or a `Section`.

        Args:
            layer: The layer.
            args: Its arguments, with slots in the place of tensors.
            kwargs: Its keyword arguments, likewise.
            training: The argument `training` of the surrounding call.
            like: The structure of its outputs.

        Returns:
            The structure of the slots of its outputs.
        """
        training = kwargs.get("training", training)
        kwargs = {k: v for k, v in kwargs.items() if k != "training"}
        if is_sequential(layer) and not kwargs:
            (slot,) = args
            for sublayer in layer.layers:
                slot = self._append(sublayer, (slot,), {}, training)
            return slot
        if is_functional(layer) and not kwargs:
            layer = recorded(layer)
        if isinstance(layer, Section):
            return self._append_section(layer, args, training)
        outputs = keras.tree.map_structure(lambda _: Slot(), like)
        self.nodes.append(Node(layer, args, kwargs, outputs, training))
        return outputs

    def _append_section(
        self, section: Section, args: tuple[Any, ...], training: bool | None
    ) -> Structure:
        inputs = zip(section.inputs, keras.tree.flatten(args), strict=True)
        slots = {id(tensor): slot for tensor, slot in inputs}

        def slot_of(value: Any) -> Any:
            return slots[id(value)] if isinstance(value, keras.KerasTensor) else value

        for layer, args, kwargs, output in section.calls:
            args, kwargs = keras.tree.map_structure(slot_of, (args, kwargs))
            outputs = self._append(layer, args, kwargs, training, like=output)
            slots.update((id(t), slot) for t, slot in _pairs(output, outputs))
        return keras.tree.map_structure(slot_of, _unpacked(section.outputs))


class Traced(keras.Layer):
    """Calls a function on tensors that have only a shape, in `compute_output_spec`."""

    def __init__(self, function: TensorFunction) -> None:
        super().__init__(autocast=False)
        self.function = function

    def call(self, x: Tensor) -> Tensor:
        return self.function(x)


def _is_simple(node: Node) -> bool:
    """Whether the only argument is a tensor.

    Most calls are of this kind. `keras.tree` is not needed for them, and it is slow
    enough to be noticed in an eager step.
    """
    return not node.kwargs and len(node.args) == 1 and isinstance(node.args[0], Slot)


def _tensors(
    node: Node, values: dict[Slot, Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with tensors in the place of slots."""
    if _is_simple(node):
        return (values[node.args[0]],), {}

    def value_of(value: Any) -> Any:
        return values[value] if isinstance(value, Slot) else value

    return keras.tree.map_structure(value_of, (node.args, node.kwargs))


def _float_inputs(
    node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[Slot, int]]:
    """The slots and ranks of the floating-point tensors that the call is given."""
    if _is_simple(node):
        pairs: Iterable[tuple[Any, Any]] = zip(node.args, args, strict=True)
    else:
        pairs = _pairs((node.args, node.kwargs), (args, kwargs))
    return [
        (slot, len(value.shape))
        for slot, value in pairs
        if isinstance(slot, Slot) and is_float_tensor(value)
    ]


def _linked(
    node: Node,
    inputs: list[tuple[Slot, int]],
    pullbacks: list[Pullback],
    output: Structure,
) -> list[Link]:
    """The pullbacks of a call with their slots, in the order of the forward pass."""
    floats = [(s, t) for s, t in _pairs(node.outputs, output) if is_float_tensor(t)]
    outputs = [slot for slot, _ in floats]
    specs = [(len(t.shape), t.dtype) for _, t in floats]
    ranks = [rank for rank, _ in specs]
    links = []
    for pullback in pullbacks[:-1]:
        between = Slot()
        links.append(Link(pullback, node.layer, outputs, specs, [between], ranks))
        outputs = [between]
    slots, ranks = [slot for slot, _ in inputs], [rank for _, rank in inputs]
    links.append(Link(pullbacks[-1], node.layer, outputs, specs, slots, ranks))
    return links[::-1]


def _pairs(a: Structure, b: Structure) -> Iterable[tuple[Any, Any]]:
    """The entries of two structures of the same form, side by side."""
    return zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True)


def _unpacked(values: list[Any]) -> Structure:
    return values[0] if len(values) == 1 else list(values)
