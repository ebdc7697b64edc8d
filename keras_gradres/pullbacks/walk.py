"""The walk back along the calls of a branch, from a cotangent of its output to x.

    c[output] <- 1
    for each pullback, last first:
        c[inputs] += pullback(c[output])

Where paths join, their cotangents add up. With each cotangent the walk carries the axes
along which it is constant by structure. A normalization removes a cotangent that is
constant along its axes: all that remains is rounding noise. So

- where the branch ends in a normalization, the sum of its outputs is replaced by the
  sum of what goes into the normalization;
- elsewhere the gradient of the branch vanishes, and the walk raises.

The layers behind the sum that is differentiated are called trailing. The layers before
it whose pullback is computed for one sample, because the cotangent is the same for all,
are the affine tail.

Usage:

    p = Run(links, slots, tensors, masks, second_order).gradient()
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from keras import ops

from keras_gradres.pullbacks.masks import Masks
from keras_gradres.pullbacks.rule import NO_AXES, Pullback
from keras_gradres.typing import Axes, Tensor, TensorFunction


class VanishingGradientError(ValueError):
    """Raised where the gradient of a branch is zero whatever its input is."""


class Slot:
    """Stands for a tensor between two calls, or inside a call."""


@dataclasses.dataclass(frozen=True)
class Link:
    """A pullback, and the slots of a branch that it links.

    Attributes:
        pullback: The `Pullback`.
        layer: The layer that it belongs to.
        outputs: The slots of the cotangents that it takes.
        specs: The ranks and dtypes of these.
        inputs: The slots of the cotangents that it returns.
        input_ranks: The ranks of these.
    """

    pullback: Pullback
    layer: Any
    outputs: list[Slot]
    specs: list[tuple[int, Any]]
    inputs: list[Slot]
    input_ranks: list[int]


@dataclasses.dataclass
class _Cotangent:
    """A cotangent, and what the structure says of it.

    Attributes:
        value: The tensor. Its batch size is 1 where it is the same for all samples.
        constant: The axes along which it is constant by structure, apart from masks.
        removed_by: The layers that removed all of it, so that `value` is rounding
            noise. Empty where something of it remains.
    """

    value: Tensor
    constant: Axes = NO_AXES
    removed_by: tuple[Any, ...] = ()

    def __add__(self, other: "_Cotangent") -> "_Cotangent":
        removed_by: tuple[Any, ...] = ()
        if self.removed_by and other.removed_by:
            removed_by = self.removed_by + other.removed_by
        value = self.value + other.value
        return _Cotangent(value, self.constant & other.constant, removed_by)


class Run:
    """One call of a branch: its output, and the way back.

    Args:
        links: The pullbacks of the call, in the order of the forward pass.
        slots: The slots of the branch's input and output.
        tensors: The input and the output.
        masks: Reads the masks of tensors.
        second_order: Whether gradients flow through the gradient of the branch.
    """

    def __init__(
        self,
        links: list[Link],
        slots: tuple[Slot, Slot],
        tensors: tuple[Tensor, Tensor],
        masks: Masks,
        second_order: bool,
    ):
        self._links = links
        self._input_slot, self._output_slot = slots
        self._input, self.output = tensors
        self._masks = masks
        self._second_order = second_order

    @property
    def is_certain(self) -> bool:
        """Whether the structure alone shows if the gradient vanishes."""
        return all(link.pullback.constant is not None for link in self._links)

    def gradient(self, seed: TensorFunction | None = None) -> Tensor:
        """P = J^T 1, the gradient of the sum of the outputs, of the shape of x.

        Masked outputs are left out of the sum. Where the branch ends in a
        normalization, the sum is that of what goes into it.

        Args:
            seed: From a tensor that is summed to its cotangent, if that is not to be 1.

        Raises:
            ValueError: if p vanishes whatever x is.
        """
        cotangent, _ = self._walk(self._seeds(seed or self._ones))
        return self._finished(cotangent)

    def pull(self, c: Tensor) -> Tensor | None:
        """J^T c, for a cotangent of the output; `None` for zero."""
        cotangent, _ = self._walk({self._output_slot: _Cotangent(c)})
        return None if cotangent is None else cotangent.value

    def parts(self) -> dict[str, list[str]]:
        """The names of the layers, by kind; see `GradientResidual.parts`."""
        _, kinds_of = self._walk(self._seeds(self._ones))
        parts: dict[str, list[str]] = {
            "closed_form": [],
            "affine_tail": [],
            "trailing": [],
            "automatic_differentiation": [],
        }
        for layer in {id(link.layer): link.layer for link in self._links}.values():
            kinds = kinds_of.get(id(layer), {"trailing"})
            kind = next(k for k in reversed(_RANKING) if k in kinds)
            parts[kind].append(layer.name)
        return parts

    def _seeds(self, seed: TensorFunction) -> dict[Slot, _Cotangent]:
        """The cotangents where the walk begins."""
        seeds: dict[Slot, _Cotangent] = {}
        for slot, tensor in self._summands():
            axes = _all_axes(len(tensor.shape))
            self._add(seeds, slot, _Cotangent(seed(tensor), axes))
        return seeds

    def _summands(self) -> list[tuple[Slot, Tensor]]:
        """The tensors whose sum is differentiated, and their slots."""
        producers = {slot: link for link in self._links for slot in link.outputs}

        def before_normalization(slot: Slot) -> list[tuple[Slot, Tensor]]:
            """What goes into the normalizations that `slot` sums, if it only sums."""
            link = producers.get(slot)
            if link is None or len(link.outputs) > 1:
                return []
            pullback = link.pullback
            if pullback.normalizes is not None:
                (slot,) = link.inputs
                return before_normalization(slot) or [(slot, pullback.before)]
            if not _keeps_sum(link):
                return []
            by_input = [before_normalization(slot) for slot in link.inputs]
            if not all(by_input):
                return []
            return [summand for summands in by_input for summand in summands]

        summands = before_normalization(self._output_slot)
        return summands or [(self._output_slot, self.output)]

    def _ones(self, tensor: Tensor) -> Tensor:
        """1 for each entry of a sample that its mask does not leave out, else 0."""
        ones = ops.ones((1, *ops.shape(tensor)[1:]), dtype=tensor.dtype)
        mask = self._masks.of(tensor)
        if mask is None:
            return ones
        for _ in range(len(tensor.shape) - len(mask.shape)):
            mask = ops.expand_dims(mask, -1)
        return ones * ops.cast(mask, tensor.dtype)

    def _walk(
        self, cotangents: dict[Slot, _Cotangent]
    ) -> tuple[_Cotangent | None, dict[int, set[str]]]:
        """The cotangent of the input, `None` for zero; by layer, the kinds it has."""
        kinds: dict[int, set[str]] = {}
        for link in reversed(self._links):
            taken = [cotangents.pop(slot, None) for slot in link.outputs]
            present = [c for c in taken if c is not None]
            if not present:
                continue
            values = [
                None if c is None else ops.cast(c.value, dtype)
                for c, (_, dtype) in zip(taken, link.specs, strict=True)
            ]
            pullback = link.pullback
            products = pullback.function(values[0] if len(values) == 1 else values)
            products = products if isinstance(products, (list, tuple)) else [products]
            before = present[0].constant if len(taken) == 1 else NO_AXES
            after = pullback.constant(before) if pullback.constant else NO_AXES
            removed_by = _removed_by(link, present, before)
            for slot, value in zip(link.inputs, products, strict=True):
                if value is not None:
                    self._add(cotangents, slot, _Cotangent(value, after, removed_by))
            kind = "closed_form"
            if all(v is None or v.shape[0] == 1 for v in [*values, *products]):
                kind = "affine_tail"
            if pullback.automatic:
                kind = "automatic_differentiation"
            kinds.setdefault(id(link.layer), set()).add(kind)
        return cotangents.get(self._input_slot), kinds

    @staticmethod
    def _add(cotangents: dict[Slot, _Cotangent], slot: Slot, c: _Cotangent) -> None:
        cotangents[slot] = cotangents[slot] + c if slot in cotangents else c

    def _finished(self, c: _Cotangent | None) -> Tensor:
        """The cotangent of the input as p: checked, and in the shape of the input."""
        x = self._input
        if c is None:
            return ops.zeros_like(x)
        if c.removed_by:
            raise VanishingGradientError(
                "The gradient of `branch` is zero whatever its input is. The cause is "
                f"{_described(c.removed_by)}: the sum of the branch's outputs gives "
                "equal weight to all entries that are normalized together, and such a "
                "sum does not depend on the input. Put an activation after it, or take "
                "it out. A BatchNormalization can also be frozen (`trainable = False`)."
                " Or use a `residual` without gradient."
            )
        p = ops.broadcast_to(ops.cast(c.value, x.dtype), ops.shape(x))
        return p if self._second_order else ops.stop_gradient(p)


# The kind of a layer that has several pullbacks is the last of these that one has.
_RANKING = ("trailing", "affine_tail", "closed_form", "automatic_differentiation")


def _keeps_sum(link: Link) -> bool:
    """Whether a sum of the outputs is a sum of the inputs with equal weights."""
    if link.pullback.constant is None:
        return False
    after = link.pullback.constant(_all_axes(link.specs[0][0]))
    return all(_all_axes(rank) <= after for rank in link.input_ranks)


def _removed_by(
    link: Link, cotangents: list[_Cotangent], constant: Axes
) -> tuple[Any, ...]:
    """The layers that removed all of the cotangents that the link returns."""
    pullback = link.pullback
    normalizes = pullback.normalizes if pullback.active else None
    if normalizes is not None and normalizes <= constant:
        return (link.layer,)
    if not all(c.removed_by for c in cotangents):
        return ()
    return tuple(layer for c in cotangents for layer in c.removed_by)


def _all_axes(rank: int) -> Axes:
    return frozenset(range(rank))


def _described(layers: Iterable[Any]) -> str:
    names = dict.fromkeys(f"'{x.name}' (of type {type(x).__name__})" for x in layers)
    return "layer " + " and layer ".join(names)
